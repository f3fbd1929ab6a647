"""The video stream of a file that is read, and what it says of its pixels."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import av
import av.container

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place
from vidiff.video.timetable import State, state_of

REMEMBERED = 4096  # files
ODDEST = 8  # a pixel that is so much wider than high, or higher than wide, is a mistake of the header
HDR = {16: "PQ (SMPTE ST 2084)", 18: "HLG (ARIB STD-B67)"}  # transfers of high dynamic range, as FFmpeg numbers them
ALPHA = ("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya8", "ya16", "pal8", "ayuv", "vuya")  # begin its formats
BESIDE = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # codecs, and what decodes an alpha channel beside them
TRAITS = ("squeezed", "interlaced", "hdr", "transparent")  # of pixels that are not read as they are stored
INTERLACED = frozenset({2, 3, 4, 5})  # orders of fields, as FFmpeg numbers them


class Stream(NamedTuple):
    """What a video stream says of its pixels.

    Args:
        aspect: width of a pixel / its height.
        square: height and width of frames in square pixels, upright; None where they are as they decode.
        interlaced: whether it says that frames are of two fields each.
        transfer: of high dynamic range, in words; empty for all others.
        transparent: whether pixels have an alpha channel.
    """

    aspect: Fraction
    square: tuple[int, int] | None
    interlaced: bool
    transfer: str
    transparent: bool

    @property
    def traits(self) -> tuple[str, ...]:
        """Which of TRAITS it has."""
        has = self.square is not None, self.interlaced, bool(self.transfer), self.transparent
        return tuple(trait for trait, true in zip(TRAITS, has, strict=True) if true)


def best_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that is read of a file: by FFmpeg's choice, which decord shares; None where there is none."""
    stream = container.streams.best("video")
    return stream if isinstance(stream, av.VideoStream) else None


def stream_of(place: Place) -> Stream:
    """What the stream of a file on this machine says. The answers for the last files are remembered.

    Raises VideoError where it is no video.
    """
    return _stream(place, state_of(place))


@lru_cache(maxsize=REMEMBERED)
def _stream(place: Place, state: State) -> Stream:
    try:
        with av.open(place.url) as container:
            stream = best_stream(container)
            if stream is None:
                raise VideoError(f"{place}: not a video, or cut off: cannot find video stream")
            return described(stream, next(container.decode(stream), None))
    except av.FFmpegError as error:
        raise VideoError(f"{place}: not a video, or cut off: {reason_of(error)}") from None


def described(stream: av.VideoStream, first: av.VideoFrame | None) -> Stream:
    """What a stream says of its pixels, together with its first frame."""
    context, aspect = stream.codec_context, aspect_of(stream)
    square = None
    if first is not None:
        turned = first.rotation % 180 != 0
        width = round(first.width * aspect)
        if width != first.width:
            square = (width, first.height) if turned else (first.height, width)
    shown = int(context.color_trc if first is None else first.color_trc)
    return Stream(
        aspect,
        square,
        context.field_order in INTERLACED or (first is not None and first.interlaced_frame),
        HDR.get(shown, ""),
        has_alpha(context.pix_fmt or "") or _alpha_beside(stream),
    )


def codec_context(stream: av.VideoStream) -> av.VideoCodecContext:
    """What decodes the packets of a stream: FFmpeg's decoder, or libvpx where that alone reads the alpha channel."""
    if not _alpha_beside(stream):
        return stream.codec_context
    context = av.CodecContext.create(BESIDE[stream.codec_context.name], "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = stream.codec_context.extradata
    return context


def _alpha_beside(stream: av.VideoStream) -> bool:
    """Whether the alpha channel is a second picture in each packet, as WebM has it."""
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in BESIDE


def aspect_of(stream: av.VideoStream) -> Fraction:
    """Width of a pixel / its height; 1 where nothing tells it, or what tells it cannot be meant."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    return aspect if Fraction(1, ODDEST) <= aspect <= ODDEST else Fraction(1)


def has_alpha(pixels: str) -> bool:
    """Whether a pixel format, by FFmpeg's name, has an alpha channel."""
    return pixels.startswith(ALPHA)
