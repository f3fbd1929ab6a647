from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path

import pytest
import torch
from indexes import clip_at
from torch import Tensor
from videos import number_of, write_numbered

from vidiff.data.buckets import Bucket, Strides, View
from vidiff.data.clips import (
    ClipDataset,
    change_colours,
    draw_window,
    long_enough,
    make_loader,
    uniform,
)
from vidiff.data.index import Index
from vidiff.data.order import Order, seeded
from vidiff.store.error import DataError
from vidiff.video.reader import VideoReader
from vidiff.video.writer import write_video

SQUARE, WIDE = Bucket(4, 32, 32), Bucket(4, 16, 24)


def index_of(root: Path, lengths: list[int], height: int = 32, width: int = 48) -> Index:
    """Files of numbered frames, without looking into them; file i has label i."""
    files = []
    for number, length in enumerate(lengths):
        path = root / f"{number}.mp4"
        if length:
            write_numbered(path, length, height, width)
        facts = {"frames": length, "fps": 8, "height": height, "width": width}
        files.append(clip_at(path, path.name, number, **facts))
    return Index(str(root), files, [str(n) for n in range(len(lengths))])


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


def test_files_too_short_are_told() -> None:
    with pytest.warns(UserWarning, match="1 of 3 files in clips are left out: a clip needs 7 frames"):
        assert long_enough([7, 6, 9], 4, 2, "clips") == [0, 2]
    with pytest.warns(UserWarning, match="1 of 3 files in clips are left out: a clip needs 3 frames"):
        assert long_enough([5, 5, 4], [3, 5, 5], 1, "clips") == [0, 1]
    with pytest.raises(DataError, match="4 frames at stride 3 needs 10 frames, but the longest file in clips has 9"):
        long_enough([7, 6, 9], 4, 3, "clips")
    with pytest.raises(DataError, match="has 9: lower --frames"):
        long_enough([7, 6, 9], 4, 3, "clips", "--frames")


def test_a_clip_is_a_window_of_its_file(four: Index) -> None:
    view = View(SQUARE, Strides(1, 3))
    dataset = ClipDataset(four, view)
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
    other = ClipDataset(four, view, seed=1)
    assert [tuple(number_of(other[epoch, 2]["video"])) for epoch in range(12)] != windows


def test_crop_and_flip_are_of_the_resized_frame(tmp_path: Path) -> None:
    index = index_of(tmp_path, [3], height=64, width=96)
    ramp = torch.linspace(-1, 1, 96).expand(3, 3, 64, 96)
    write_video(tmp_path / "0.mp4", ramp)
    with VideoReader(tmp_path / "0.mp4") as reader:
        resized = reader.read(size=(32, 48))
    dataset = ClipDataset(index, View(Bucket(3, 32, 32), flip=True))
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


def test_each_file_has_clips_of_its_own_shape(four: Index) -> None:
    shapes = [SQUARE, WIDE, SQUARE, WIDE._replace(frames=3)]
    dataset = ClipDataset(four, View(shapes, Strides(1, 2), flip=True))
    assert dataset.groups == [[0, 2], [1], [3]]
    plain = ClipDataset(four, View(SQUARE, Strides(1, 2), flip=True))
    for epoch in range(3):
        for place, shape in enumerate(shapes):
            clip = dataset[epoch, place]
            assert clip["video"].shape == (3, *shape)
            assert number_of(clip["video"])[0] + (shape[0] - 1) * int(clip["stride"]) < four.files[place].frames
        assert torch.equal(dataset[epoch, 2]["video"], plain[epoch, 2]["video"])


@pytest.mark.faults
def test_a_broken_file_is_replaced_by_one_of_its_group(tmp_path: Path) -> None:
    index = index_of(tmp_path, [8, 8, 8, 8, 8])
    dataset = ClipDataset(index, View([SQUARE, WIDE, SQUARE, WIDE, SQUARE]), max_broken=0.5)
    (tmp_path / "2.mp4").unlink()
    (tmp_path / "1.mp4").unlink()
    with pytest.warns(UserWarning, match="no such file"):
        assert {int(dataset[epoch, 2]["key"]) for epoch in range(12)} == {0, 4}
        assert {int(dataset[epoch, 1]["key"]) for epoch in range(3)} == {3}
    (tmp_path / "3.mp4").unlink()
    dataset = ClipDataset(index, View([SQUARE, WIDE, SQUARE, WIDE, SQUARE]), max_broken=0.5)
    with (
        pytest.warns(UserWarning, match="no such file"),
        pytest.raises(DataError, match=r"2 of 5 files failed to decode, all with clips of one shape; the last was"),
    ):
        dataset[0, 1]


def test_colours_change_by_their_closed_form() -> None:
    video = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4
    generator, state = seeded(7), seeded(7).get_state()
    assert change_colours(video, 0.0, generator) is video
    assert torch.equal(generator.get_state(), state), "nothing is drawn"
    found = change_colours(video, 0.2, generator)
    again = seeded(7)
    factors = [0.8 + 0.4 * float(torch.rand((), generator=again)) for _ in range(3)]
    light = (video.double() + 1) / 2 * factors[0]
    grey = 0.299 * light[0] + 0.587 * light[1] + 0.114 * light[2]
    light = grey.mean() + factors[1] * (light - grey.mean())  # within [0, 1] for these values
    grey = 0.299 * light[0] + 0.587 * light[1] + 0.114 * light[2]
    expected = (grey + factors[2] * (light - grey)) * 2 - 1
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    assert expected.abs().max() < 1
    bright = change_colours(torch.ones(3, 2, 4, 4), 1.0, seeded(1))
    assert bright.max() <= 1 and bright.min() >= -1
    grey = torch.linspace(-1, 1, 32).expand(3, 2, 4, 32)
    assert torch.allclose(*change_colours(grey, 0.5, seeded(3))[:2], atol=1e-6), "grey stays grey"


def test_a_clip_changes_as_a_whole_and_after_all_else_is_drawn(four: Index) -> None:
    plain, changed = (ClipDataset(four, View(SQUARE, flip=True, jitter=jitter)) for jitter in (0.0, 0.4))
    ratios = set()
    for epoch in range(6):
        one, other = plain[epoch, 1], changed[epoch, 1]
        assert {int(one[name]) == int(other[name]) for name in ("key", "stride", "label")} == {True}
        light, new = ((clip["video"].mean((0, 2, 3)) + 1) / 2 for clip in (one, other))  # of each frame
        middle = light.mean()
        # grey frames: brightness and contrast alone, the same for all frames
        slope = (new[3] - new[0]) / (light[3] - light[0])
        torch.testing.assert_close(new - new.mean(), slope * (light - middle), atol=2e-3, rtol=0)
        ratios.add(round(float(new.mean() / middle), 3))
    assert len(ratios) > 4 and all(0.6 <= ratio <= 1.4 for ratio in ratios)


def test_zoomed_frames_are_cropped_to_the_size(tmp_path: Path) -> None:
    index = index_of(tmp_path, [3], height=64, width=96)
    write_video(tmp_path / "0.mp4", torch.linspace(-1, 1, 96).expand(3, 3, 64, 96))
    dataset = ClipDataset(index, View(Bucket(3, 32, 32), zoom=(1.0, 2.0)))
    slopes = []
    for epoch in range(40):
        video = dataset[epoch, 0]["video"]
        assert video.shape == (3, 3, 32, 32)
        slopes.append(float(video[..., 4:-4].diff(dim=-1).mean()))
    # over the whole width, 48 to 96 columns, brightness rises by 2
    assert 2 / 96 - 0.002 < min(slopes) < 0.024 and 0.036 < max(slopes) < 2 / 48 + 0.002
    assert uniform(1.0, 1.0, seeded(0)) == 1.0
    generator = seeded(0)
    uniform(1.0, 1.0, generator)
    assert torch.equal(generator.get_state(), seeded(0).get_state()), "nothing is drawn"


def batches(index: Index, workers: int, count: int, start: int = 0) -> list[dict[str, Tensor]]:
    dataset = ClipDataset(index, View(SQUARE, Strides(1, 2), flip=True), seed=9)
    return list(islice(make_loader(dataset, Order([range(len(dataset))], 3, seed=9, start=start), workers), count))


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
    dataset = ClipDataset(index, View(SQUARE), max_broken=0.25)
    loader = iter(make_loader(dataset, Order([range(4)], 2), workers))
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
    dataset = ClipDataset(index_of(tmp_path, [4]), View(SQUARE), max_broken=1.0)
    (tmp_path / "0.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 of 1 files failed.*is empty"), pytest.warns(UserWarning, match="is empty"):
        dataset[0, 0]
