"""What a video file says of itself: its container, by PyAV, and the outermost structure of its bytes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import BinaryIO

import av

from vidiff.store.place import Place
from vidiff.video.stream import HDR, aspect_of, best_stream

HEAD = 4096  # bytes that tell what kind of file it is
ATOMS = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"moof", b"styp", b"sidx"})
SEGMENT = bytes.fromhex("18538067")  # Matroska's element that holds all but the header

av.logging.set_level(None)


class NoVideo(ValueError):
    """A container without a video stream, or, where not `known`, no container at all."""

    def __init__(self, message: str, known: bool) -> None:
        super().__init__(message)
        self.known = known


@dataclass(frozen=True)
class Container:
    """What the container tells of the video stream that is read.

    Args:
        codec, pixel_format: by FFmpeg's names.
        bits: of a colour channel.
        aspect: width to height of a pixel, as "16:11".
        transfer: of high dynamic range, in words; empty for all others.
        rotation: degrees by which players turn the frames.
        declared: number of frames that the header promises; 0 where it promises none.
        packets: that are there; one holds one frame, as a rule.
        key_frames: of them.
        key_spacing: the most frames from one key frame to the next.
        duration: in seconds, as the packets' times tell.
        steady: whether all frames last equally long.
    """

    codec: str
    pixel_format: str
    bits: int
    aspect: str
    transfer: str
    rotation: int
    declared: int
    packets: int
    key_frames: int
    key_spacing: int
    duration: float
    steady: bool


def read_container(place: Place) -> Container:
    """Look through the packets of a file, without decoding more than the first frame. Raises NoVideo."""
    try:
        with av.open(place.url) as file:
            stream = best_stream(file)
            if stream is None:
                raise NoVideo("audio only" if file.streams.audio else "neither picture nor sound", known=True)
            packets = [(p.pts, p.is_keyframe) for p in file.demux(stream) if p.size]
            context = stream.codec_context
            times = sorted(float(pts * stream.time_base) for pts, _ in packets if pts is not None and stream.time_base)
            keys = [number for number, (_, key) in enumerate(packets) if key]
            rotation = 0
            try:
                file.seek(0)
                rotation = round(next(file.decode(stream)).rotation)
            except (av.FFmpegError, StopIteration):
                pass  # what does not decode is found by decoding all of it
            return Container(
                codec=context.name,
                pixel_format=context.pix_fmt or "",
                bits=context.format.components[0].bits if context.format else 0,
                aspect="{}:{}".format(*aspect_of(stream).as_integer_ratio()),
                transfer=HDR.get(int(context.color_trc), ""),
                rotation=rotation,
                declared=stream.frames,
                packets=len(packets),
                key_frames=len(keys),
                key_spacing=max((b - a for a, b in pairwise([*keys, len(packets)])), default=0),
                duration=_duration(times),
                steady=_steady(times, float(stream.time_base or 0)),
            )
    except (av.FFmpegError, OSError) as error:
        raise NoVideo(error.strerror or str(error), known=False) from None


def _duration(times: list[float]) -> float:
    """From the first frame to the end of the last, which is taken to last as long as the one before."""
    return times[-1] - times[0] + (times[-1] - times[-2]) if len(times) > 1 else 0.0


def _steady(times: list[float], tick: float) -> bool:
    """Whether frames come evenly, but for the rounding of their times to ticks."""
    gaps = [b - a for a, b in pairwise(times)]
    usual = median(gaps) if gaps else 0.0
    return all(abs(gap - usual) <= max(0.1 * usual, 1.5 * tick) for gap in gaps)


def count_frames(place: Place) -> int | None:
    """Number of frames that decode one after the other, to the end; None where one does not."""
    try:
        with av.open(place.url) as file:
            return sum(1 for _ in file.decode(best_stream(file)))
    except (av.FFmpegError, OSError):
        return None


def read_head(place: Place) -> bytes:
    """The first bytes of a file."""
    with place.open() as file:
        return file.read(HEAD)


def is_text(head: bytes) -> bool:
    """Whether these bytes are UTF-8 without control characters; a letter may be cut at their end."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if len(head) - error.start > 3:
            return False
        text = head[: error.start].decode()
    return all(letter.isprintable() or letter in "\t\r\n\f\ufeff" for letter in text)


def missing_bytes(place: Place, head: bytes) -> int | None:
    """How many bytes a file is short of what its own structure says; None for an mp4 that has no moov atom.

    mp4 and mov: the lengths of the outermost atoms. avi: that of the RIFF chunk. mkv and webm: that of the segment,
    where it is known.
    """
    with place.open() as file:
        size = file.seek(0, os.SEEK_END)
        if head[4:8] in ATOMS:
            return _missing_of_atoms(file, size)
    if head[:4] == b"RIFF":
        return max(0, int.from_bytes(head[4:8], "little") + 8 - size)
    if SEGMENT in head:
        start = head.index(SEGMENT) + len(SEGMENT)
        width = (
            9 - head[start].bit_length() if start < len(head) else 0
        )  # of a number whose leading bit tells its width
        known = int.from_bytes(head[start : start + width], "big") - (1 << 7 * width)
        unknown = known == (1 << 7 * width) - 1
        return 0 if unknown else max(0, start + width + known - size)
    return 0


def _missing_of_atoms(file: BinaryIO, size: int) -> int | None:
    begin, has_table = 0, False
    while begin + 8 <= size:
        file.seek(begin)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        has_table |= kind == b"moov"
        if length == 0:  # to the end
            begin = size
        elif length < 8:
            break
        else:
            begin += length
    return max(0, begin - size) if has_table else None
