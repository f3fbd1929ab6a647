from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor
from videos import number_of, write_numbered

from vidiff.data.clips import ClipDataset, Strides, draw_window, fit_size, long_enough, make_loader
from vidiff.data.index import DataError, Index, VideoFile
from vidiff.data.order import Order, seeded
from vidiff.data.video import VideoReader, write_video


def index_of(root: Path, lengths: list[int], height: int = 32, width: int = 48) -> Index:
    """Files of numbered frames, without looking into them; file i has label i."""
    files = []
    for number, length in enumerate(lengths):
        path = root / f"{number}.mp4"
        if length:
            write_numbered(path, length, height, width)
        files.append(VideoFile(path.name, number, length, 8, height, width, bytes=1, fingerprint=""))
    return Index(root, files, [str(n) for n in range(len(lengths))])


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return index_of(tmp_path_factory.mktemp("four"), [10, 12, 14, 16])


def test_a_window_fits_and_every_one_comes() -> None:
    generator = seeded(0)
    drawn = {draw_window(10, 4, Strides(1, 9), generator) for _ in range(600)}
    assert drawn == {(start, stride) for stride in (1, 2, 3) for start in range(10 - 3 * stride)}
    assert {draw_window(3, 1, Strides(2, 2), generator) for _ in range(60)} == {(0, 2), (1, 2), (2, 2)}
    assert draw_window(7, 4, Strides(2, 5), generator) == (0, 2)
    steps = [draw_window(64, 16, Strides(1, 4, share=0.6), generator)[1] for _ in range(2000)]
    assert [steps.count(step) / 2000 for step in (1, 2, 3, 4)] == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.03)


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (240, 320, (240, 240), (240, 320)),
        (240, 320, (128, 128), (128, 171)),
        (50, 20, (10, 10), (25, 10)),
        (3, 2, (64, 64), (96, 64)),
        (240, 320, (120, 240), (180, 240)),
        (240, 320, (240, 120), (240, 320)),
        (100, 100, (36, 64), (64, 64)),
    ],
)
def test_a_frame_covers_the_size_asked_for(
    height: int, width: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_size(height, width, size) == expected


def test_files_too_short_are_told() -> None:
    with pytest.warns(UserWarning, match="1 of 3 files in clips are left out: a clip needs 7 frames"):
        assert long_enough([7, 6, 9], 4, 2, "clips") == [0, 2]
    with pytest.raises(DataError, match="4 frames at stride 3 needs 10 frames, but the longest file in clips has 9"):
        long_enough([7, 6, 9], 4, 3, "clips")


def test_a_clip_is_a_window_of_its_file(four: Index) -> None:
    dataset = ClipDataset(four, frames=4, size=32, stride=Strides(1, 3))
    strides = set()
    for epoch in range(12):
        for place in range(4):
            clip = dataset[epoch, place]
            assert clip["video"].shape == (3, 4, 32, 32)
            assert (int(clip["label"]), int(clip["key"])) == (place, place)
            numbers, stride = number_of(clip["video"]), int(clip["stride"])
            assert numbers == [numbers[0] + i * stride for i in range(4)]
            assert numbers[-1] < four.files[place].frames
            strides.add(stride)
    assert strides == {1, 2, 3}
    assert torch.equal(dataset[3, 2]["video"], dataset[3, 2]["video"])
    windows = [tuple(number_of(dataset[epoch, 2]["video"])) for epoch in range(12)]
    assert len(set(windows)) > 3  # every epoch has its own
    other = ClipDataset(four, frames=4, size=32, stride=Strides(1, 3), seed=1)
    assert [tuple(number_of(other[epoch, 2]["video"])) for epoch in range(12)] != windows


def test_crop_and_flip_are_of_the_resized_frame(tmp_path: Path) -> None:
    index = index_of(tmp_path, [3], height=64, width=96)
    ramp = torch.linspace(-1, 1, 96).expand(3, 3, 64, 96)
    write_video(tmp_path / "0.mp4", ramp)
    with VideoReader(tmp_path / "0.mp4") as reader:
        resized = reader.read(size=(32, 48))
    dataset = ClipDataset(index, frames=3, size=32, flip=True)
    found = set()
    for epoch in range(40):
        video = dataset[epoch, 0]["video"]
        cuts = {left: resized[..., left : left + 32] for left in range(17)}
        matches = [(left, False) for left, cut in cuts.items() if torch.equal(video, cut)]
        matches += [(left, True) for left, cut in cuts.items() if torch.equal(video, cut.flip(-1))]
        assert len(matches) == 1
        found.update(matches)
    assert {mirrored for _, mirrored in found} == {False, True}
    assert len({left for left, _ in found}) > 8


def batches(index: Index, workers: int, count: int, start: int = 0) -> list[dict[str, Tensor]]:
    dataset = ClipDataset(index, frames=4, size=32, stride=Strides(1, 2), flip=True, seed=9)
    return list(islice(make_loader(dataset, Order(len(dataset), 3, seed=9, start=start), workers), count))


def test_the_number_of_workers_changes_nothing(four: Index) -> None:
    state = torch.get_rng_state()
    alone, shared = batches(four, 0, 8), batches(four, 2, 8)
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys() == {"video", "label", "stride", "key"}
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert alone[0]["video"].shape == (3, 3, 4, 32, 32)
    assert alone[0]["label"].dtype == torch.int64
    for one, other in zip(alone[5:], batches(four, 0, 3, start=15), strict=True):  # resumed
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.faults
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_vanishes_is_named_once_and_replaced(tmp_path: Path, workers: int) -> None:
    index = index_of(tmp_path, [8, 8, 8, 8])
    dataset = ClipDataset(index, frames=4, size=32, max_broken=0.25)
    loader = iter(make_loader(dataset, Order(4, 2), workers))
    assert sorted(torch.cat([next(loader)["key"] for _ in range(2)]).tolist()) == [0, 1, 2, 3]
    (tmp_path / "2.mp4").unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keys = torch.cat([next(loader)["key"] for _ in range(24)]).tolist()
    assert set(keys[20:]) <= {0, 1, 3}  # what was loaded ahead has passed
    assert dataset.failed.tolist() == [False, False, True, False]  # by whichever worker
    if not workers:
        assert [str(w.message) for w in caught] == [
            f"another clip is drawn wherever this file's turn comes: {tmp_path}/2.mp4: no such file"
        ]
    (tmp_path / "0.mp4").unlink()
    with pytest.raises(DataError, match=r"2 of 4 files failed to decode, more than data\.max_broken=0\.25"):
        list(islice(loader, 24))


@pytest.mark.faults
def test_training_stops_where_no_file_is_left(tmp_path: Path) -> None:
    dataset = ClipDataset(index_of(tmp_path, [4]), frames=4, size=32, max_broken=1.0)
    (tmp_path / "0.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 files failed.*is empty"), pytest.warns(UserWarning, match="is empty"):
        dataset[0, 0]
