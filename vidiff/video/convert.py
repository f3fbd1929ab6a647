"""Decoded frames to RGB, upright and of the size that is wanted: by FFmpeg's filters, as decord uses them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from threading import local
from typing import Any, NamedTuple

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import Type

from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.pictures import colour_of, composed
from vidiff.video.stream import HDR, has_alpha

KEPT = 4  # converters
# degrees by which a frame is to be turned, counter-clockwise -> what the filter "transpose" is told, as decord does it
TURNS = {90: "2", -90: "1", 180: "11", -180: "11"}
SQUARE = Fraction(1)
# FFmpeg's filters: what `scale` is told to bring high dynamic range to what screens show, and `bwdif`, to leave alone
# what is not of two fields
TONEMAP = ":out_transfer=bt709:out_primaries=bt709:intent=perceptual"
BWDIF = "mode=send_frame:parity=auto:deint=interlaced"
LIGHT = Type.MASTERING_DISPLAY_METADATA, Type.CONTENT_LIGHT_LEVEL


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 `(f, h, w, 3)` resized to `size` (h, w), as those of files are."""
    frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels]
    convert = converter(frames[0], size)
    return np.stack([convert(frame).copy() for frame in frames])


class Converter:
    """Frames of one kind to RGB, turned upright and resized, as decord does it.

    Args:
        frame: one of them.
        size: height and width; None for what they have, upright and in square pixels.
        aspect: width of a pixel / its height.
    """

    def __init__(
        self,
        frame: av.VideoFrame,
        size: tuple[int, int] | None,
        aspect: Fraction = SQUARE,
        treatment: Treatment = PLAIN,
    ) -> None:
        self.kind, self.colour = _kind(frame), colour_of(treatment.background)
        self.shape = size or upright(frame, aspect)
        self.transparent = has_alpha(frame.format.name)
        # an alpha channel is done with in the pixels that there are, and what comes out of it is resized
        height, width = upright(frame) if self.transparent else self.shape
        mapped = TONEMAP if treatment.tonemap and int(frame.color_trc) in HDR else ""
        graph = av.filter.Graph()
        graph.threads = 1
        self.into = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        self.out: Any = graph.add("buffersink")
        turns = [graph.add("transpose", way) for way in TURNS.get(frame.rotation, ())]
        resize = graph.add("scale", f"{width}:{height}{mapped}")
        pixels = graph.add("format", "rgba" if self.transparent else "rgb24")
        graph.link_nodes(self.into, *turns, resize, pixels, self.out)
        graph.configure(auto_buffer=False)
        self.graph = graph

    def takes(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is of the kind that this was made for."""
        return self.kind == _kind(frame)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 `(h, w, 3)`, until the next call."""
        self.into.push(frame)
        found, values = self.out.pull(), 4 if self.transparent else 3
        plane, height, width = found.planes[0], found.height, found.width
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
        pixels = rows[:, : values * width].reshape(height, width, values)
        if not self.transparent:
            return pixels
        pixels = composed(pixels, self.colour)
        return pixels if (height, width) == self.shape else resized(pixels[None], self.shape)[0]


def upright(frame: av.VideoFrame, aspect: Fraction = SQUARE) -> tuple[int, int]:
    """Height and width of a frame once it is turned, and its pixels, so much wider than high, are made square."""
    height, width = frame.height, max(1, round(frame.width * aspect))
    return (width, height) if frame.rotation % 180 else (height, width)


class Kind(NamedTuple):
    """What a converter depends on. An untagged frame would be taken for one of the colours that came before it."""

    width: int
    height: int
    format: str
    rotation: int
    colours: tuple[int, int, int, int]  # matrix, range, primaries and transfer, as FFmpeg numbers them
    light: tuple[bytes, ...]  # what a frame of high dynamic range says of the screen that it was made on


def _kind(frame: av.VideoFrame) -> Kind:
    colours = int(frame.colorspace), int(frame.color_range), int(frame.color_primaries), int(frame.color_trc)
    told: Any = frame.side_data if colours[3] in HDR else {}
    light = tuple(bytes(told[data]) for data in LIGHT if data in told)
    return Kind(frame.width, frame.height, frame.format.name, frame.rotation, colours, light)


class _Kept(local):
    """Of each thread its own, for a graph of filters takes frames from one alone."""

    def __init__(self) -> None:
        self.of = lru_cache(maxsize=KEPT)(lambda kind, *how: list[Converter]())


_KEPT = _Kept()


def converter(
    frame: av.VideoFrame,
    size: tuple[int, int] | None,
    aspect: Fraction = SQUARE,
    treatment: Treatment = PLAIN,
) -> Converter:
    """One made for a frame of this kind, kept for the files that this thread reads next, most of which are alike."""
    kept = _KEPT.of(_kind(frame), size, aspect, treatment)
    if not kept:
        kept.append(Converter(frame, size, aspect, treatment))
    return kept[0]


def with_neighbours(numbers: Iterable[int], frames: int) -> list[int]:
    """Numbers of frames, and of those before and after: what `deinterlaced` needs of a clip of so many frames."""
    return sorted({near for number in numbers for near in (number - 1, number, number + 1) if 0 <= near < frames})


def deinterlaced(
    frames: Iterable[tuple[int, av.VideoFrame]], wanted: Container[int]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The wanted ones of numbered frames, those of two fields made whole by FFmpeg's filter bwdif.

    Args:
        frames: the wanted ones with their neighbours, on which it depends what becomes of them.
    """
    run: list[int] = []  # numbers of the frames that a filter has been given, and has not given back
    into: Any = None
    out: Any = None
    for number, frame in frames:
        if run and number != run[-1] + 1:
            yield from _given_back(into, out, run, wanted)
        if not run:
            graph = av.filter.Graph()
            graph.threads = 1
            into = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
            )
            out = graph.add("buffersink")
            graph.link_nodes(into, graph.add("bwdif", BWDIF), out)
            graph.configure(auto_buffer=False)
        run.append(number)
        frame.pts = number  # that it sees them apart
        into.push(frame)
    yield from _given_back(into, out, run, wanted)


def _given_back(into: Any, out: Any, run: list[int], wanted: Container[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    """What a filter has made of a run of frames, which is emptied."""
    if run:
        into.push(None)
    for number in run:
        frame = out.pull()
        if number in wanted:
            yield number, frame
    run.clear()
