"""Which stream of a file is read, at what rate, and what decoders say meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from videos import ffmpeg, filmed, run

from vidiff.data.clip import Clip
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.probe import probe
from vidiff.store.error import VideoError
from vidiff.store.place import place_of
from vidiff.video.decoders import BY_NAME
from vidiff.video.decord import DecordFile
from vidiff.video.reader import VideoReader
from vidiff.video.torchcodec import why_not

DECODERS = [name for name in ("auto", *BY_NAME) if name != "torchcodec" or not why_not()]
H264 = ("-c:v", "libx264", "-bf", "0", "-pix_fmt", "yuv420p")
DEFAULT_DURATION = bytes.fromhex("23e383")  # Matroska's element of that name
VOID = 0xEC


def without_rate(path: Path) -> Path:
    """A Matroska file, of whose header the length of a frame is struck out."""
    content = bytearray(path.read_bytes())
    begin = content.index(DEFAULT_DURATION)
    length = content[begin + 3] & 0x7F
    content[begin : begin + 2] = bytes([VOID, 0x80 | (length + 2)])
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("filters", "frames", "fps"),
    [
        ("null", 1, 8.0),  # as a picture
        ("null", 2, 25.0),
        ("null", 3, 25.0),
        ("null", 25, 25.0),
        ("setpts='N*N/25/TB'", 20, 19 / (19 * 19 / 25)),
    ],
)
def test_a_rate_that_no_header_tells_is_that_of_the_times(
    tmp_path: Path, filters: str, frames: int, fps: float
) -> None:
    path = without_rate(filmed(tmp_path / "x.mkv", filters, "-fps_mode", "vfr", "-frames:v", str(frames), *H264))
    with VideoReader(path) as reader:
        assert reader.frames == frames and reader.fps == pytest.approx(fps)
    found = probe(Clip("x.mkv", place_of(path)))
    assert isinstance(found, Clip) and found.fps == pytest.approx(fps)


def test_raw_packets_without_any_time_are_refused_by_the_index(tmp_path: Path) -> None:
    path = filmed(tmp_path / "x.h264", "null", *H264[:2], "-pix_fmt", "yuv420p").rename(tmp_path / "x.mp4")
    found = probe(Clip("x.mp4", place_of(path)))
    assert isinstance(found, str) and "encode it anew at its rate, as by `ffmpeg -r 25 -i IN OUT.mp4`" in found
    mended = tmp_path / "mended.mp4"
    ffmpeg("-r", "25", "-i", path, mended)
    with VideoReader(mended) as reader:
        assert (reader.frames, reader.fps) == (25, 25.0)


def test_times_that_decord_makes_up_are_refused(tmp_path: Path) -> None:
    path = filmed(tmp_path / "x.avi", "null", *H264)
    with VideoReader(path) as reader:
        assert reader.decoder == "pyav" and np.allclose(np.diff(reader.times), 0.04)
    with pytest.raises(VideoError, match="decord knows no times of its frames"):
        _ = DecordFile(path).times


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A film, with a smaller one before it."""
    small = filmed(tmp_path / "small.mkv", "null", "-c:v", "mpeg4", source="testsrc2=s=32x24:r=10:d=1")
    large = filmed(tmp_path / "large.mkv", "null", *H264)
    ffmpeg("-i", small, "-i", large, "-map", "0", "-map", "1", "-c", "copy",
           "-disposition:v:0", "0", "-disposition:v:1", "default", tmp_path / "two.mkv")  # fmt: skip
    return tmp_path / "two.mkv"


def test_the_doctor_describes_the_stream_that_is_read(two: Path) -> None:
    record = examine(Case(Clip("two.mkv", place_of(two))))
    assert not record.problem
    assert (record.codec, record.width, record.height, record.fps, record.frames) == ("h264", 96, 64, 25.0, 25)
    assert record.duration == pytest.approx(1.0, abs=0.01)
    for decoder in DECODERS:
        with VideoReader(two, decoder=decoder) as reader:
            assert (reader.size, reader.frames, reader.fps) == ((64, 96), 25, 25.0)


def test_a_cover_is_not_the_film(tmp_path: Path) -> None:
    large = filmed(tmp_path / "large.mp4", "null", *H264)
    ffmpeg("-f", "lavfi", "-i", "color=red:s=400x400", "-frames:v", "1", tmp_path / "cover.png")
    ffmpeg("-i", tmp_path / "cover.png", "-i", large, "-map", "0", "-map", "1", "-c", "copy",
           "-disposition:v:0", "attached_pic", tmp_path / "covered.mp4")  # fmt: skip
    record = examine(Case(Clip("covered.mp4", place_of(tmp_path / "covered.mp4"))))
    assert (record.problem, record.codec, record.width, record.frames) == ("", "h264", 96, 25)


def test_decoders_write_nothing_of_their_own(tmp_path: Path) -> None:
    """What cannot be read is an error with the file's name, and not a line on the standard error."""
    good = filmed(tmp_path / "good.mp4", "null", *H264)
    (tmp_path / "text.mp4").write_text("not found")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:3000])
    content = bytearray(good.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    (tmp_path / "damaged.mp4").write_bytes(content)
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    code = """
        import sys
        from pathlib import Path
        from vidiff.store.error import VideoError
        from vidiff.video.reader import VideoReader
        for path in sorted(Path(sys.argv[1]).glob("*.mp4")):
            for decoder in ("auto", "pyav", "decord"):
                try:
                    with VideoReader(path, decoder=decoder) as reader:
                        reader.frames, reader.fps, reader.size
                        reader.pixels()
                except VideoError as error:
                    print(path.name)
    """
    process = run(code, tmp_path)
    out, err = process.communicate(timeout=60)
    assert err == "" and {*out.split()} >= {"text.mp4", "cut.mp4", "sound.mp4"} and "good.mp4" not in out
    assert process.returncode == 0
