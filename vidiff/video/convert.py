"""Decoded frames to RGB, upright and of the size that is wanted: by FFmpeg's filters, as decord uses them."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import av
import av.filter
import numpy as np

KEPT = 4  # converters
# degrees by which a frame is to be turned, counter-clockwise -> what the filter "transpose" is told, as decord does it
TURNS = {90: "2", -90: "1", 180: "11", -180: "11"}


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames uint8 `(f, h, w, 3)` resized to `size` (h, w), as those of files are."""
    frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels]
    convert = converter(frames[0], size)
    return np.stack([convert(frame).copy() for frame in frames])


class Converter:
    """Frames of one size and kind to RGB, turned upright and resized, as decord does it."""

    def __init__(self, frame: av.VideoFrame, size: tuple[int, int] | None) -> None:
        self.kind = _kind(frame)
        turned = frame.rotation % 180 != 0
        height, width = size or ((frame.width, frame.height) if turned else (frame.height, frame.width))
        graph = av.filter.Graph()
        graph.threads = 1
        self.into = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)
        )
        self.out: Any = graph.add("buffersink")
        turns = [graph.add("transpose", way) for way in TURNS.get(frame.rotation, ())]
        resize = graph.add("scale", f"{width}:{height}")
        graph.link_nodes(self.into, *turns, resize, graph.add("format", "rgb24"), self.out)
        graph.configure(auto_buffer=False)
        self.graph, self.shape = graph, (height, width, 3)

    def takes(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is of the kind that this was made for."""
        return self.kind == _kind(frame)

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 `(h, w, 3)`, until the next call."""
        self.into.push(frame)
        plane = self.out.pull().planes[0]
        height, width, _ = self.shape
        rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
        return rows[:, : 3 * width].reshape(self.shape)


class Kind(NamedTuple):
    """What a converter depends on. An untagged frame would be taken for one of the colours that came before it."""

    width: int
    height: int
    format: str
    rotation: int
    colours: tuple[int, int, int, int]  # matrix, range, primaries and transfer, as FFmpeg numbers them


def _kind(frame: av.VideoFrame) -> Kind:
    colours = int(frame.colorspace), int(frame.color_range), int(frame.color_primaries), int(frame.color_trc)
    return Kind(frame.width, frame.height, frame.format.name, frame.rotation, colours)


@lru_cache(maxsize=KEPT)
def _kept(kind: Kind, size: tuple[int, int] | None) -> list[Converter]:
    return []


def converter(frame: av.VideoFrame, size: tuple[int, int] | None) -> Converter:
    """One made for a frame of this kind, kept for the files to come, most of which are alike."""
    kept = _kept(_kind(frame), size)
    if not kept:
        kept.append(Converter(frame, size))
    return kept[0]
