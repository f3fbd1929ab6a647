"""A clip of the user's is seen as a training saw its own: at the model's rate, and in its size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from videos import number_of, numbered, write_numbered

from vidiff.data.buckets import Bucket
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.given import GivenClip
from vidiff.store.error import VideoError
from vidiff.video.decode import Treatment
from vidiff.video.reader import VideoReader, read_image, read_video
from vidiff.video.writer import write_image, write_video

BUCKETS = (Bucket(4, 32, 32), Bucket(4, 16, 32))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 frames at 12 a second."""
    return write_numbered(tmp_path_factory.mktemp("film") / "film.mp4", 12, fps=12)


@pytest.mark.parametrize(
    ("rate", "stride", "numbers", "fps"),
    [
        (0, 1, range(12), 12),  # its own frames
        (12, 1, range(12), 12),  # the same
        (4, 1, range(0, 12, 3), 4),
        (5, 1, [0, 2, 4, 7, 9], 5),  # shown at 0, 0.2, 0.4, ... s
        (24, 1, [n // 2 for n in range(24)], 24),
        (0, 3, range(0, 12, 3), 4),
        (12, 5, [0, 5, 10], 2.4),
        (24, 4, range(0, 12, 2), 6),
    ],
)
def test_the_frames_are_those_that_training_would_see(
    film: Path, rate: float, stride: int, numbers: list[int], fps: float
) -> None:
    with GivenClip(film, Facts(BUCKETS, rate=rate, strides=(stride, stride + 2))) as clip:
        assert clip.fps == pytest.approx(fps) and clip.frames == len(numbers)
        assert number_of(clip.read()) == [*numbers]
        assert torch.equal(clip.read(range(1, 3)), clip.read()[:, 1:3])
        assert torch.equal(torch.cat([*clip.pieces()], 2)[0], clip.read())
        assert (clip.note is None) == ([*numbers] == [*range(12)])
    with VideoReader(film, rate) as reader:  # as the index counts its frames, and windows take them
        assert torch.equal(clip.read(), reader.read(range(0, reader.frames, stride)))


def test_frames_that_need_no_resampling_are_those_of_the_file(film: Path) -> None:
    with GivenClip(film, Facts(BUCKETS, rate=12.0)) as clip:
        assert torch.equal(clip.read(), read_video(film)) and clip.note is None


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 204, 204)), ("#0000ff", (51, 0, 204))])
def test_what_is_transparent_is_over_the_colour_of_the_training(
    tmp_path: Path, background: str, colour: tuple[int, int, int]
) -> None:
    """A fifth of red, as a picture and as frames of a clip."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(3):
        Image.new("RGBA", (32, 32), (255, 0, 0, 51)).save(folder / f"{number}.png")
    for path in (folder, folder / "0.png"):
        with GivenClip(path, Facts(BUCKETS, treatment=Treatment(background))) as clip:
            pixels = clip.read().add(1).mul(127.5)
        torch.testing.assert_close(pixels.mean((1, 2, 3)), torch.tensor(colour).float(), atol=1.0, rtol=0)


def test_one_line_tells_what_is_seen(film: Path) -> None:
    notes = []
    for facts in (Facts(BUCKETS, rate=4.0), Facts(BUCKETS, strides=(3, 3))):
        with GivenClip(film, facts) as clip:
            notes.append(clip.note)
    assert notes == [
        f"{film} is seen at 4 frames a second, which is the model's rate, not at its own 12: its 12 frames become 4",
        f"{film} is seen at 4 frames a second, the model sees every 3 frames of a clip, not at its own 12: its 12 "
        "frames become 4",
    ]


def test_a_picture_has_no_rate(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", numbered(3)[:, 2])
    with GivenClip(tmp_path / "a.png", Facts(BUCKETS, rate=5.0, strides=(2, 2))) as clip:
        assert (clip.frames, clip.fps, clip.note) == (1, None, None)
        assert torch.equal(clip.read()[:, 0], read_image(tmp_path / "a.png"))
        assert next(iter(clip.pieces())).shape == (1, 3, 1, 32, 32)


def test_sizes_are_the_nearest_or_as_asked(tmp_path: Path) -> None:
    write_video(tmp_path / "wide.mp4", numbered(3, 48, 96))
    for size, factor, wanted in ((None, 1, (16, 32)), ((8, 8), 1, (8, 8)), (None, 2, (8, 16))):
        with GivenClip(tmp_path / "wide.mp4", Facts(BUCKETS), size, factor) as clip:
            assert clip.size == wanted and clip.read().shape == (3, 3, *wanted)


def test_what_is_no_clip_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("no film")
    for name in ("notes.mp4", "none.png", "none.mp4"):
        with pytest.raises(VideoError, match=name):
            GivenClip(tmp_path / name, Facts(BUCKETS))
