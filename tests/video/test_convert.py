"""Colours, against the definitions of the matrices that files name, and whatever was read before."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import permutations
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest

from vidiff.video.decoders import BY_NAME
from vidiff.video.decord import DecordFile
from vidiff.video.pyav import PyAVFile
from vidiff.video.torchcodec import why_not

PLANES = (150, 90, 170)  # luma and both chromas of every pixel
WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020nc": (0.2627, 0.0593)}  # of red and blue

DECODERS = [name for name in BY_NAME if name != "torchcodec" or not why_not()]


def write_flat(path: Path, matrix: str = "", full: bool = False) -> Path:
    """Six frames of one colour without loss, tagged with a matrix and a range, or not at all."""
    tags = [f"colormatrix={matrix}"] * bool(matrix) + ["fullrange=on"] * full
    with av.open(str(path), "w") as file:
        options = {"x264-params": ":".join(["keyint=3:bframes=0:qp=0", *tags])}
        stream = file.add_stream("libx264", rate=25, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(6):
            frame = av.VideoFrame(64, 48, "yuv420p")
            for plane, level in zip(frame.planes, PLANES, strict=True):
                plane.update(bytes([level]) * plane.buffer_size)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def colour(matrix: str, full: bool) -> np.ndarray:
    """What `PLANES` show (ITU-R BT.601, BT.709, BT.2020): red, green and blue of 255."""
    red, blue = WEIGHTS[matrix]
    y, u, v = PLANES
    light, pb, pr = (y / 255, (u - 128) / 255, (v - 128) / 255) if full else (
        (y - 16) / 219, (u - 128) / 224, (v - 128) / 224)  # fmt: skip
    r, b = light + 2 * (1 - red) * pr, light + 2 * (1 - blue) * pb
    return 255 * np.array([r, (light - red * r - blue * b) / (1 - red - blue), b])


def shown(path: Path, decoder: str, size: tuple[int, int] | None = None) -> list[int]:
    """The one colour that all pixels of a frame have."""
    file = BY_NAME[decoder](path)
    pixels = file.decode([4], size)[0].reshape(-1, 3)
    file.close()
    assert (pixels == pixels[0]).all()
    return pixels[0].tolist()


@pytest.mark.parametrize("matrix", ["", "smpte170m", "bt709", "bt2020nc"])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_that_the_file_names(tmp_path: Path, matrix: str, full: bool) -> None:
    """To 2 of 255 levels, and 3 where frames are resized; BT.601 is meant where nothing is named."""
    path = write_flat(tmp_path / "x.mp4", matrix, full)
    expected = colour(matrix if matrix in WEIGHTS else "bt601", full)
    for decoder in DECODERS:
        assert np.abs(shown(path, decoder) - expected).max() < 2
        assert np.abs(shown(path, decoder, (20, 36)) - expected).max() < 3
    for size in (None, (20, 36)):
        assert shown(path, PyAVFile.name, size) == shown(path, DecordFile.name, size)


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_file_has_the_colours_of_the_one_before(tmp_path: Path, decoder: str) -> None:
    names = {"untagged": ("", False), "hd": ("bt709", False), "full": ("", True)}
    paths = {name: write_flat(tmp_path / f"{name}.mp4", *tags) for name, tags in names.items()}
    for order in permutations(paths):
        found = {name: shown(paths[name], decoder) for name in order}
        if decoder in (PyAVFile.name, DecordFile.name):
            assert found == {"untagged": [223, 135, 79], "hd": [231, 141, 75], "full": [208, 133, 82]}, order
        assert all(np.abs(found[name] - colour(names[name][0] or "bt601", names[name][1])).max() < 2 for name in names)


def read_in_threads(folder: Path) -> list[list[int]]:
    """The least and the largest level of all frames of four files, each read fifteen times by two threads."""

    def levels(number: int) -> list[int]:
        file = BY_NAME["pyav"](folder / f"{number % 4}.mpg")
        pixels = file.decode(None, (64, 64))
        file.close()
        return [int(pixels.min()), int(pixels.max())]

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(levels, range(60)))


def test_threads_that_read_files_alike_get_their_own_frames(tmp_path: Path) -> None:
    """In a process of its own, since a graph of filters that two threads share ends it."""
    for number in range(4):
        with av.open(str(tmp_path / f"{number}.mpg"), "w") as file:
            stream = file.add_stream("mpeg2video", rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.height, stream.width, stream.pix_fmt = 96, 96, "yuv420p"
            for _ in range(40):
                file.mux(
                    stream.encode(av.VideoFrame.from_ndarray(np.full((96, 96, 3), 40 + 50 * number, np.uint8), "rgb24"))
                )
            file.mux(stream.encode(None))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = pool.submit(read_in_threads, tmp_path).result()
    for number, levels in enumerate(found):
        assert levels == pytest.approx([40 + 50 * (number % 4)] * 2, abs=4), number
