"""Loading for long: memory, descriptors and threads of all processes stay what they were."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from indexes import build_index
from messy import write_clip, write_twice
from videos import run

from vidiff.data.buckets import Bucket, View
from vidiff.data.clips import ClipDataset, make_loader
from vidiff.data.order import Order

FILES, BATCH = 24, 8


class Use(NamedTuple):
    """What processes hold: resident memory in MiB, file descriptors, threads."""

    memory: float
    descriptors: int
    threads: int


def use(processes: Iterable[int]) -> Use:
    memory = descriptors = threads = 0
    for process in processes:
        folder = Path("/proc") / str(process)
        lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
        status = {name: value for name, _, value in lines}
        memory += int(status["VmRSS"].split()[0])
        threads += int(status["Threads"])
        descriptors += len(list((folder / "fd").iterdir()))
    return Use(memory / 1024, descriptors, threads)


def settled(processes: list[int]) -> Use:
    """Use once workers have read ahead as far as they may: until then, batches under way come and go."""
    found = [use(processes)]
    while len(found) < 4 or len({(each.descriptors, each.threads) for each in found[-4:]}) > 1:
        time.sleep(0.1)
        found.append(use(processes))
    return found[-1]


def write_files(folder: Path, twice: bool) -> None:
    """Of several kinds: read by their own index, read through, resized; `twice`, with times that decord alone bears."""
    (folder / "train").mkdir(parents=True)
    for number in range(FILES):
        suffix, codec = ((".mp4", "libx264"), (".mkv", "libx264"), (".avi", "mpeg4"), (".mp4", "libx264"))[number % 4]
        side = 96 if number % 4 == 3 else 64
        path = folder / "train" / f"{number:02d}{suffix}"
        write_clip(path, number, frames=40, height=side, width=side, codec=codec, keys=12)
    for number in range(2 * twice):
        write_twice(folder / "train" / "01.mkv", folder / "train" / f"twice{number}.mkv")


def read(folder: Path, decoder: str, clips: int, warm: int) -> list[Use]:
    """Use at ten points of time after `warm` clips have been read, all by one decoder."""
    write_files(folder, twice=decoder == "decord")
    index = build_index(folder, layout="flat", decoder="auto" if decoder == "decord" else decoder, progress=False)
    assert [file.decoder for file in index.files] == [decoder] * (FILES + 2 * (decoder == "decord"))
    dataset = ClipDataset(index, View(Bucket(16, 64, 64)))
    batches: Any = iter(make_loader(dataset, Order([range(len(index.files))], BATCH), workers=2))
    workers = [worker.pid for worker in batches.iterator._workers]
    found: list[Use] = []
    for _ in range(warm // BATCH):
        next(batches)
    for _ in range(10):
        for _ in range((clips - warm) // BATCH // 10):
            assert next(batches)["video"].shape == (BATCH, 3, 16, 64, 64)
        found.append(settled([os.getpid(), *workers]))
    assert [worker.pid for worker in batches.iterator._workers] == workers  # none died on the way
    return found


def check(found: list[Use], decoder: str) -> None:
    """No growth, but for one file that each of the three processes may have open at one time and not at another, and
    the threads that read it."""
    first, last = found[0], found[-1]
    kept = 3 if decoder == "decord" else 0
    assert last.memory < 1.02 * first.memory, found
    assert max(each.descriptors for each in found) <= first.descriptors + kept, found
    assert max(each.threads for each in found) <= first.threads + kept, found
    assert min(each.threads for each in found[-5:]) <= first.threads, found


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_five_hundred_clips_leave_nothing_behind(tmp_path: Path, decoder: str) -> None:
    """In a process of its own, where nothing that other tests have left ends or begins meanwhile."""
    code = f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_steady import check, read

        if __name__ == "__main__":
            check(read(Path(sys.argv[1]), sys.argv[2], clips=560, warm=160), sys.argv[2])
    """
    process = run(code, tmp_path, decoder)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_twenty_thousand_clips_leave_nothing_behind(tmp_path: Path, decoder: str) -> None:
    found = read(tmp_path, decoder, clips=20_000, warm=1_000)
    print(*found, sep="\n")
    check(found, decoder)
