"""Files whose times are not those at which their frames are shown."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from encoded import encode, in_order, packed, x264
from indexes import build_index
from videos import ffmpeg, filmed

from vidiff.store.place import place_of
from vidiff.video.exact import fault_of_decord
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import VideoReader
from vidiff.video.stream import Look, look_through


@pytest.fixture(params=["packed.avi", "h264.avi", "wrong.ts"])
def disordered(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Files of three kinds, whose frames do not come out of FFmpeg as their times say."""
    path = tmp_path / request.param
    if path.name == "h264.avi":  # AVI has no place for times
        ffmpeg("-i", encode(tmp_path / "plain.mp4", **x264(20)), "-c", "copy", path)
    elif path.suffix == ".avi":
        packed(encode(tmp_path / "plain.avi", codec="mpeg4", g="200", bf="1"), path)
    else:  # by a program that wrote the times of decoding as those of showing
        plain = encode(tmp_path / "plain.ts", **x264(20))
        ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "setts=pts=DTS", path)
    with av.open(str(path)) as file:
        times = [frame.pts for frame in file.decode(video=0)]
    assert len(times) == 90 and times != sorted(times)
    return path


def test_frames_are_those_that_come_out_in_order(disordered: Path) -> None:
    """Whichever are asked for, in whatever order, of one reader; times rise by what the rate says."""
    expected, random = in_order(disordered), np.random.default_rng(0)
    with VideoReader(disordered) as reader:
        assert (reader.decoder, reader.frames) == ("pyav", 90)
        for _ in range(12):
            numbers = random.integers(0, 90, random.integers(1, 6)).tolist()
            assert np.array_equal(reader.pixels(numbers), expected[numbers]), numbers
        assert np.array_equal(reader.pixels(range(90)), expected)
        assert reader.pixels([3, 4, 89], (8, 8)).shape == (3, 8, 8, 3)
    file = PyAVFile(disordered)
    assert file.fps == pytest.approx(25) and np.all(np.diff(file.times) > 0)
    file.close()


def test_decord_does_not_read_them(disordered: Path) -> None:
    assert fault_of_decord(place_of(disordered)) == "its times are not those at which its frames are shown"


def test_a_data_set_of_them_is_whole(disordered: Path) -> None:
    data = disordered.parent / "data"
    data.mkdir()
    disordered.rename(data / disordered.name)
    index = build_index(data, layout="flat", progress=False)
    assert [(file.frames, file.decoder) for file in index.files] == [(90, "pyav")]


@pytest.mark.parametrize("name", ["reordered.avi", "mpeg2.mpg", "stream.ts"])
def test_files_whose_times_are_right_can_still_be_sought(name: str, tmp_path: Path) -> None:
    options = {"reordered.avi": {"codec": "mpeg4", "bf": "2"}, "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2"}}
    path = encode(tmp_path / name, g="12", **options.get(name, {}))
    structure = PyAVFile(path).structure
    assert not structure.by_order and len(structure.keys) > 5


def test_a_key_frame_is_read_as_the_build_of_x264_asks_that_only_the_beginning_tells(tmp_path: Path) -> None:
    """4:4:4 of old builds of x264 is another code; here frames are said to be of one, and so read as it."""
    for quality in range(45, 52):
        new, old = tmp_path / "new.mp4", tmp_path / f"old{quality}.mp4"
        options = ("-pix_fmt", "yuv444p", "-crf", str(quality), "-x264-params", "keyint=12:min-keyint=12:scenecut=0")
        filmed(new, "null", "-c:v", "libx264", "-frames:v", "36", *options, source="mandelbrot=s=48x32:r=25")
        build = new.read_bytes()
        place = build.index(b"x264 - core ") + len(b"x264 - core ")
        old.write_bytes(build[:place] + b"148" + build[place + 3 :])
        if not np.array_equal(in_order(new), in_order(old)) and look_through(place_of(old)) == Look(36, (), False):
            break  # as pixels they mean something either way
    else:
        pytest.fail("no file is read in two ways")
    expected = in_order(old)
    for number in (30, 14, 35, 2, 25, 13):
        assert np.array_equal(PyAVFile(old).decode([number], None)[0], expected[number]), number
    file = PyAVFile(old)
    assert np.array_equal(file.decode([26, 3, 35], None), expected[[26, 3, 35]])
    assert "which build of x264" in fault_of_decord(place_of(old))
    assert not fault_of_decord(place_of(filmed(tmp_path / "420.mp4", "format=yuv420p", "-c:v", "libx264")))
