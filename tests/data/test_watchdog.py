from __future__ import annotations

import signal
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from indexes import clip_at
from messy import Hanging, write_clip
from torch import Tensor

from vidiff.data.buckets import Bucket, View
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.index import Index
from vidiff.data.latents import chunks
from vidiff.data.latents.chunks import ChunkReader
from vidiff.data.order import Order
from vidiff.data.quarantine import Quarantine
from vidiff.data.workers import Begin
from vidiff.store.error import DataError, VideoError
from vidiff.store.place import place_of
from vidiff.video.reader import read_video

NAMES = ["0", "1", "2", "3", "4", "5"]
PATIENCE = 3.0
VIEW = View(Bucket(4, 32, 32))


def index_of(root: Path, names: list[str]) -> Index:
    for number, name in enumerate(names):
        write_clip(root / f"{name}.mp4", number, frames=6)
    facts = {"frames": 6, "fps": 8, "height": 32, "width": 32}
    return Index(str(root), [clip_at(root / f"{n}.mp4", f"{n}.mp4", **facts) for n in names], [])


def batches(dataset: Hanging, workers: int, count: int) -> list[dict[str, Tensor]]:
    return list(islice(make_loader(dataset, Order([range(len(dataset))], 2, seed=3), workers), count))


def watch_deaths(root: Path, deaths: dict[str, float], done: threading.Event) -> None:
    """Notes how long after its marker, which a hanging decoder leaves, each worker was gone."""
    while not done.is_set():
        for marker in root.glob("hang.[0-9]*"):
            pid = marker.suffix[1:]
            if not Path(f"/proc/{pid}").exists() and pid not in deaths:
                deaths[pid] = time.time() - marker.stat().st_mtime
        time.sleep(0.02)


@pytest.mark.faults
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hang_costs_one_file(tmp_path: Path, workers: int) -> None:
    """Even one that holds Python's lock, so that neither a signal handler nor a thread can run."""
    names = ["0", "hang", "2", "3", "4", "5"]
    dataset = Hanging(
        index_of(tmp_path, names),
        VIEW,
        max_broken=0.2,
        patience=PATIENCE,
        quarantine=Quarantine(tmp_path / "runs" / "list.txt"),
    )
    deaths: dict[str, float] = {}
    done = threading.Event()
    thread = threading.Thread(target=watch_deaths, args=(tmp_path, deaths, done))
    thread.start()
    with pytest.warns(UserWarning, match=r"hang\.mp4: its decoder gave no answer within 3 s"):
        found = batches(dataset, workers, 12)
    done.wait(0.1)  # the last of them
    done.set()
    thread.join()
    assert len(deaths) >= 1 and all(seconds > PATIENCE - 0.5 for seconds in deaths.values())
    hung = tmp_path / "hang.mp4"
    assert dataset.failed.tolist() == dataset.lost.tolist() == [name == "hang" for name in names]
    reason = "its decoder gave no answer within 3 s"
    assert Quarantine(tmp_path / "runs" / "list.txt").held([clip_at(hung)]) == {str(hung): reason}
    keys = torch.cat([batch["key"] for batch in found]).tolist()
    assert 1 not in keys and set(keys) == {0, 2, 3, 4, 5}
    # Each batch comes once, with the samples that a run gets which knew of the file from the beginning.
    for one, other in zip(found, batches(dataset, 0, 12), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.faults
def test_a_crash_costs_one_file_and_too_many_end_the_training(tmp_path: Path) -> None:
    dataset = Hanging(index_of(tmp_path, ["0", "crash", "2", "crash2"]), VIEW, max_broken=0.25, patience=60)
    with (
        pytest.warns(UserWarning, match=r"crash2?\.mp4: its decoder crashed \(exit code -11\)"),
        pytest.raises(DataError, match=r"2 of 4 files failed to decode, more than data\.max_broken=0\.25 allows"),
    ):
        batches(dataset, 1, 12)
    assert dataset.lost.tolist() == [False, True, False, True]


@pytest.mark.faults
def test_a_worker_that_the_system_kills_is_not_blamed_on_its_file(tmp_path: Path) -> None:
    dataset = Hanging(index_of(tmp_path, ["starved", "1"]), VIEW, max_broken=1, patience=60)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        batches(dataset, 1, 4)
    assert not dataset.lost.any()


def test_a_quick_reader_is_left_alone(tmp_path: Path) -> None:
    """While it reads, its alarm is set; between reads none is."""
    dataset = Alarmed(index_of(tmp_path, NAMES), VIEW, patience=60)
    for batch in islice(make_loader(dataset, Order([range(6)], 2), 1), 6):
        assert batch["between"].tolist() == [0, 0] and bool((batch["within"] > 0).all())
    assert not dataset.failed.any()


class Alarmed(ClipDataset):
    """Clips with the seconds that the alarm clock of their process stood at, before they were read and meanwhile."""

    def decode(self, *arguments: Any) -> Tensor:
        self.within, _ = signal.getitimer(signal.ITIMER_REAL)
        return super().decode(*arguments)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        between, _ = signal.getitimer(signal.ITIMER_REAL)
        clip = super().__getitem__(key)
        return {**clip, "between": torch.tensor(between), "within": torch.tensor(self.within)}


def stuck(chunk: chunks.Chunk, begin: Begin) -> str:
    time.sleep(600)
    return ""


@pytest.mark.faults
def test_encoding_goes_on_after_a_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "x.mp4", frames=7)
    with ChunkReader(patience=60) as reader:
        assert torch.equal(torch.cat(list(reader.read(place_of(path), 7, 3, None)), 1), read_video(path))
        reader.patience = 1.0
        with monkeypatch.context() as patch:
            patch.setattr(chunks, "_Decoding", lambda: stuck)
            assert reader._helper is not None
            reader._helper.end()
            with pytest.raises(VideoError, match=r"x\.mp4: its decoder gave no answer within 1 s"):
                next(reader.read(place_of(path), 7, 3, None))
        reader.patience, place = 60, place_of(path)
        next(reader.read(place, 7, 2, (8, 8)))  # and no further
        assert torch.equal(torch.cat(list(reader.read(place, 7, 4, (16, 16))), 1), read_video(path, size=(16, 16)))
        (tmp_path / "x.mp4").write_bytes(b"")
        with pytest.raises(VideoError, match=r"x\.mp4: is empty"):
            list(reader.read(place_of(path), 9, 9, (8, 8)))
