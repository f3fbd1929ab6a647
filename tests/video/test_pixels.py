"""What is done to the pixels of a file as they are read: square, whole, of a screen's range, and opaque."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from videos import ffmpeg, filmed

from vidiff.store.place import place_of
from vidiff.video.convert import converter
from vidiff.video.decode import Treatment
from vidiff.video.decoders import BY_NAME, suited
from vidiff.video.exact import fault_of_decord
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import VideoReader
from vidiff.video.sources import traits_of
from vidiff.video.torchcodec import why_not

DECODERS = [name for name in ("auto", *BY_NAME) if name != "torchcodec" or not why_not()]
WHOLE = Treatment(deinterlace=True)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("name", "aspect", "options", "size"),
    [
        ("wide.mp4", "16/11", ("-c:v", "libx264", "-g", "12"), (64, 140)),
        ("wide.avi", "16/11", ("-c:v", "mpeg4", "-bf", "0", "-q:v", "2"), (64, 140)),
        ("narrow.mkv", "8/9", ("-c:v", "libx264"), (64, 85)),
        ("mistaken.mp4", "1/5000", ("-c:v", "libx264"), (64, 96)),
    ],
)
def test_pixels_are_made_square(
    tmp_path: Path, decoder: str, name: str, aspect: str, options: tuple[str, ...], size: tuple[int, int]
) -> None:
    path = filmed(tmp_path / name, f"setsar={aspect}", *options, "-pix_fmt", "yuv420p")
    with VideoReader(path, decoder=decoder) as reader:
        assert reader.size == size
        pixels = reader.pixels([0, 7])
    with av.open(str(path)) as file:
        raw = [frame for frame, _ in zip(file.decode(video=0), range(8), strict=False)]
    expected = np.stack([converter(raw[n], size)(raw[n]).copy() for n in (0, 7)])
    assert np.abs(pixels.astype(int) - expected).max() <= (8 if decoder == "torchcodec" else 0)
    assert traits_of(place_of(path)) == (() if size == (64, 96) else ("squeezed",))


def test_a_turned_film_is_made_square_the_way_it_was_filmed(tmp_path: Path) -> None:
    path = filmed(tmp_path / "x.mp4", "setsar=3/2", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", path, "-c", "copy", turned)
    for decoder in DECODERS:
        with VideoReader(turned, decoder=decoder) as reader:
            assert reader.size == (144, 64)


def fields(path: Path, *options: str) -> Path:
    """A film of 50 half pictures a second, two of which make a frame: what moves has combs."""
    filters = "tinterlace=interleave_top,fieldorder=tff"
    source = "testsrc2=s=96x64:r=50:d=2"
    return filmed(path, filters, *options, "-pix_fmt", "yuv420p", "-flags", "+ildct+ilme", source=source)


@pytest.mark.parametrize(
    ("name", "options"),
    [("x.mp4", ("-c:v", "libx264", "-qp", "0", "-g", "12")), ("x.mpg", ("-c:v", "mpeg2video", "-q:v", "2"))],
)
def test_fields_are_made_whole_frames_by_bwdif(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """To the bit what FFmpeg's filter makes of the film from its first frame on, wherever a window lies."""
    path = fields(tmp_path / name, *options)
    assert traits_of(place_of(path)) == ("interlaced",)
    with closing(PyAVFile(path)) as file:
        frames, combed = file.frames, file.decode(None, None)
    graph = av.filter.Graph()
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        into = graph.add_buffer(width=96, height=64, format=stream.format, time_base=stream.time_base)
        out = graph.add("buffersink")
        graph.link_nodes(into, graph.add("bwdif", "mode=send_frame"), out).configure(auto_buffer=False)
        for frame in file.decode(stream):
            into.push(frame)
        into.push(None)
        whole = [out.pull() for _ in range(frames)]
    expected = np.stack([converter(frame, None)(frame).copy() for frame in whole])
    assert np.abs(expected.astype(int) - combed).mean() > 1
    for decoder in ("auto", "pyav"):
        with VideoReader(path, decoder=decoder, treatment=WHOLE) as reader:
            assert reader.decoder == "pyav" and np.array_equal(reader.pixels(), expected)
    for numbers in ([0], [frames - 1], [17], [20, 21, 22, 40, 5, 20], list(range(8, 30, 3))):
        with VideoReader(path, treatment=WHOLE) as reader:
            assert np.array_equal(reader.pixels(numbers), expected[numbers]), numbers


def test_whole_frames_are_left_alone_by_bwdif(tmp_path: Path) -> None:
    path = filmed(tmp_path / "x.mp4", "null", "-c:v", "libx264", "-pix_fmt", "yuv420p")
    with VideoReader(path, decoder="pyav") as plain, VideoReader(path, decoder="pyav", treatment=WHOLE) as treated:
        assert np.array_equal(plain.pixels(), treated.pixels())
    with VideoReader(path, treatment=WHOLE) as reader:
        assert reader.decoder == "decord"  # nothing is to be done


def pq(light: float) -> float:
    """The signal of so many cd/m2 (SMPTE ST 2084)."""
    y = (light / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def write_light(path: Path, light: list[float], transfer: str = "smpte2084") -> Path:
    """Grey frames of so much light each, PQ in 10 bits, without loss."""
    with av.open(str(path), "w") as file:
        tags = f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"
        stream = file.add_stream("libx264", rate=25, options={"x264-params": f"qp=0:{tags}"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p10le"
        for level in light:
            frame = av.VideoFrame(64, 64, "yuv420p10le")
            for plane, value in zip(frame.planes, (round(64 + 876 * pq(level)), 512, 512), strict=True):
                plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_high_dynamic_range_is_brought_to_what_screens_show(tmp_path: Path) -> None:
    """Light is kept apart all the way, where plain reading takes PQ for the gamma that it is not."""
    light = [0.0, 1.0, 10.0, 50.0, 100.0, 203.0, 400.0, 1000.0, 4000.0]
    path = write_light(tmp_path / "x.mp4", light)
    assert traits_of(place_of(path)) == ("hdr",)
    plain = read_levels(path, Treatment())
    assert np.abs(plain - 255 * np.array([pq(level) for level in light])).max() < 3
    mapped = read_levels(path, Treatment(tonemap=True))
    assert np.abs(mapped - [0, 21, 53, 102, 128, 155, 179, 207, 239]).max() <= 2
    with VideoReader(path, treatment=Treatment(tonemap=True)) as reader:
        assert reader.decoder == "pyav"


def read_levels(path: Path, treatment: Treatment) -> np.ndarray:
    with VideoReader(path, treatment=treatment) as reader:
        return reader.pixels()[:, 32, 32, 1].astype(float)


@pytest.mark.parametrize(
    ("name", "pixels", "options"),
    [
        ("x.mov", "argb", ("-c:v", "qtrle")),
        ("png.mov", "rgba", ("-c:v", "png")),
        ("x.webm", "yuva420p", ("-c:v", "libvpx-vp9", "-lossless", "1")),
        ("8.webm", "yuva420p", ("-c:v", "libvpx", "-auto-alt-ref", "0", "-crf", "4", "-b:v", "9M")),
    ],
)
@pytest.mark.parametrize(
    ("background", "expected"), [("white", (255, 128, 128)), ("#000", (128, 0, 0)), ("lime", (128, 127, 0))]
)
def test_a_film_is_put_over_a_colour(
    tmp_path: Path, name: str, pixels: str, options: tuple[str, ...], background: str, expected: tuple[int, int, int]
) -> None:
    path = filmed(tmp_path / name, f"format={pixels}", *options, "-pix_fmt", pixels,
                  source="color=red@0.5:s=64x48:r=25:d=0.4,format=rgba")  # fmt: skip
    assert traits_of(place_of(path)) == ("transparent",) and fault_of_decord(path)
    for size in (None, (24, 32)):
        with VideoReader(path, treatment=Treatment(background)) as reader:
            assert reader.decoder == "pyav" and reader.frames == 10
            shown = reader.pixels([0, 7], size).astype(int)
        assert shown.shape[1:3] == (size or (48, 64)) and np.abs(shown - expected).max() <= 3
    assert suited(place_of(path), "decord", Treatment()) == "pyav"
    assert suited(place_of(path), "auto", Treatment()) == "auto"
