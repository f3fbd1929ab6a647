from __future__ import annotations

import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from indexes import build_index
from PIL import Image
from videos import number_of, numbered, write_avi, write_numbered

from vidiff.data.buckets import Bucket, View
from vidiff.data.clips import ClipDataset
from vidiff.data.latents.chunks import ChunkReader
from vidiff.store.error import DataError
from vidiff.video.reader import Manner, VideoReader, read_video
from vidiff.video.retime import shown_at
from vidiff.video.writer import write_video


def write_timed(path: Path, begins: list[int], milliseconds: int = 1000) -> Path:
    """A file of `numbered` frames, each shown from its own time on, in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(milliseconds), options={"crf": "10", "bf": "2"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        pixels = numbered(len(begins)).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy()
        for begin, picture in zip(begins, pixels, strict=True):
            frame = av.VideoFrame.from_ndarray(picture.copy(), format="rgb24")
            frame.pts, frame.time_base = begin, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


SHOWN = {
    (30, 8): [0, 3, 7, 11, 15, 18, 22],
    (24, 8): [0, 3, 6, 9, 12, 15, 18, 21],
    (25, 10): [0, 2, 5, 7, 10, 12, 15, 17, 20, 22],
    (8, 16): [n // 2 for n in range(48)],
    (30, 30): list(range(24)),
    (12, 12): list(range(24)),
}


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "frames.avi"])
@pytest.mark.parametrize(("own", "wanted"), list(SHOWN))
def test_the_frame_of_each_time_is_shown(tmp_path: Path, name: str, own: int, wanted: int) -> None:
    """24 frames at `own` frames a second; webm rounds their times to 1 ms."""
    if name.endswith("avi"):
        write_avi(tmp_path / name, 24, fps=own)
    else:
        write_numbered(tmp_path / name, 24, fps=own)
    with VideoReader(tmp_path / name, wanted) as reader:
        assert (reader.frames, reader.fps) == (len(SHOWN[own, wanted]), wanted)
        assert number_of(reader.read()) == SHOWN[own, wanted]
        assert number_of(reader.read([3, 1], size=(16, 16))) == [SHOWN[own, wanted][n] for n in (3, 1)]


def test_a_variable_frame_rate_is_followed(tmp_path: Path) -> None:
    begins = [0, 40, 80, 500, 540, 1000, 1700, 1740, 1780]  # still for long, then quick
    path = write_timed(tmp_path / "vfr.mp4", begins)
    with VideoReader(path) as reader:
        assert reader.frames == 9
        assert [round(1000 * second) for second in reader.times] == begins
    for fps in (5, 10, 25):
        expected = [max(i for i, begin in enumerate(begins) if begin <= 1000 * n / fps) for n in range(fps * 9 // 5)]
        assert number_of(read_video(path, fps=fps))[: len(expected)] == expected
    # the last frame is shown for 40 ms, as most are: until 1.82 s
    assert [VideoReader(path, fps).frames for fps in (5, 10, 25)] == [10, 19, 46]


def test_pictures_have_their_times(tmp_path: Path) -> None:
    shades = [Image.new("L", (8, 8), 20 * n) for n in range(4)]
    shades[0].save(
        tmp_path / "a.webp", save_all=True, append_images=shades[1:], duration=[100, 300, 50, 50], lossless=True
    )
    write_video(tmp_path / "folder/", numbered(8))  # 8 a second
    with VideoReader(tmp_path / "a.webp") as animation, VideoReader(tmp_path / "folder") as folder:
        assert animation.times.tolist() == [0, 0.1, 0.4, 0.45]
        assert folder.times.tolist() == [n / 8 for n in range(8)]
    levels = (read_video(tmp_path / "a.webp", fps=10).mean((0, 2, 3)) + 1) * 127.5
    assert (levels / 20).round().tolist() == [0, 1, 1, 1, 2, 3]
    assert number_of(read_video(tmp_path / "folder", fps=4)) == [0, 2, 4, 6]
    shades[2].save(tmp_path / "one.png")
    assert VideoReader(tmp_path / "one.png", 24).frames == 1, "a picture stays one frame"


def test_rounded_and_useless_time_stamps() -> None:
    exact = np.arange(90) / 30
    for digits in (3, 6):
        assert shown_at(exact.round(digits), 15, 30.0).tolist() == list(range(0, 90, 2))
    late = shown_at(exact + 1.4, 15, 30.0)  # a file that begins at 1.4 s
    assert late.tolist() == list(range(0, 90, 2))
    for broken in (np.zeros(90), exact[::-1], np.full(90, np.nan)):
        assert shown_at(broken, 15, 30.0).tolist() == late.tolist()
    assert shown_at(np.array([0.7]), 15, 30.0).tolist() == [0]
    assert shown_at(np.array([0.0, 1.0]), 0.1, 1.0).tolist() == [0], "at least one frame"


def test_an_index_counts_the_frames_that_are_seen(tmp_path: Path) -> None:
    for number, fps in enumerate((30, 24, 8)):
        write_numbered(tmp_path / "data" / "train" / f"{number}.mp4", 24, fps=fps)
    cache = tmp_path / "index.jsonl"
    own = build_index(tmp_path / "data", split="train", cache=cache, progress=False)
    seen = {fps: build_index(tmp_path / "data", split="train", cache=cache, progress=False, fps=fps) for fps in (8, 16)}
    assert build_index(tmp_path / "data", split="train", cache=cache, progress=False) == own, "both are remembered"
    names = [file.name for file in own.files]
    lengths = {"train/0.mp4": 7, "train/1.mp4": 8, "train/2.mp4": 24}
    assert [file.frames for file in seen[8].files] == [lengths[name] for name in names]
    assert [file.fps for file in seen[8].files] == [8.0] * len(names)
    assert len({own.digest, seen[8].digest, seen[16].digest}) == 3
    dataset = ClipDataset(seen[8], View(Bucket(7, 32, 32)))
    place = names.index("train/0.mp4")
    clip = dataset[0, place]
    assert number_of(clip["video"]) == SHOWN[30, 8] and int(clip["stride"]) == 1
    with ChunkReader(60) as reader:
        found = torch.cat(list(reader.read(seen[8].files[place].place, 7, 3, None, Manner(8))), 1)
        assert number_of(found) == SHOWN[30, 8]
        assert number_of(torch.cat(list(reader.read(seen[8].files[place].place, 4, 3, None)), 1)) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"data\.fps is -1"):
        build_index(tmp_path / "data", fps=-1)


def test_a_clip_within_a_tar_is_seen_at_a_rate(tmp_path: Path) -> None:
    write_numbered(tmp_path / "own" / "0.mp4", 24, fps=30)
    with tarfile.open(tmp_path / "clips-0.tar", "w") as tar:
        tar.add(tmp_path / "own" / "0.mp4", "0.mp4")
    index = build_index(tmp_path / "clips-0.tar", split="train", progress=False, fps=8)
    assert [file.frames for file in index.files] == [7]
    assert number_of(read_video(index.files[0].place, fps=index.fps)) == SHOWN[30, 8]


def test_the_digest_tells_the_rate_where_lengths_do_not(tmp_path: Path) -> None:
    write_timed(tmp_path / "a.mp4", [0, 100, 200, 300])
    one, other = (build_index(tmp_path, split="train", progress=False, fps=fps) for fps in (10, 9.9))
    assert [file.frames for file in one.files] == [file.frames for file in other.files]
    assert one.digest != other.digest
