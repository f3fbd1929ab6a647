"""The video stream of a file that is read, and what it says of its pixels."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Generator, Sequence
from contextlib import closing
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple, cast

import av
import av.container

from vidiff.store.error import VideoError, reason_of
from vidiff.store.place import Place
from vidiff.video.timetable import State, is_idr, state_of

REMEMBERED = 4096  # files
LOOKED_AT = 1 << 34  # pixels of all frames, of a file that is looked through: forty minutes of 640x480
OFTEN = 64  # packets after which those who wait are told that something is done
STRICT = frozenset({"mjpeg"})  # codecs whose decoders say nothing of damage unless they are told to fail
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
            return described(stream, _first_frame(container, stream))
    except av.FFmpegError as error:
        raise VideoError(f"{place}: not a video, or cut off: {reason_of(error)}") from None


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream) -> av.VideoFrame | None:
    """The first one that decodes."""
    packets = container.demux(stream)
    with closing(cast(Generator[av.Packet, None, None], packets)):
        for packet in packets:
            try:
                frames = stream.codec_context.decode(packet if packet.size else None)
            except av.InvalidDataError:
                continue
            if frames:
                return frames[0]
    return None


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


class Look(NamedTuple):
    """What a decoder says of a file's frames, one after the other.

    Args:
        frames: number of them.
        damage: first frame, and the one past the last, of each stretch that does not show what was filmed.
        interlaced: whether any frame says that it is of two fields.
    """

    frames: int
    damage: tuple[tuple[int, int], ...]
    interlaced: bool


def look_through(place: Place, alive: Callable[[], None] | None = None) -> Look | None:
    """Decode all frames of a file on this machine; None where that is too much, or they have no times of their own.

    A frame that is damaged damages those that refer to it: all from there to the next key frame. What FFmpeg tells of
    is what breaks a codec's rules; damage after which bits still mean something is not told, as of HEVC and VP9.

    Args:
        alive: is called now and then.

    Raises VideoError where it is no video.
    """
    key = place, state_of(place)
    if key not in _LOOKS:
        while len(_LOOKS) >= REMEMBERED:
            _LOOKS.pop(next(iter(_LOOKS)))
        _LOOKS[key] = _look(place, alive or _nobody)
    return _LOOKS[key]


def _nobody() -> None:
    """Nobody waits."""


_LOOKS: dict[tuple[Place, State], Look | None] = {}  # of the last files


def with_look(traits: tuple[str, ...], look: Look | None) -> tuple[str, ...]:
    """Traits of a file, together with what looking through it has shown."""
    has = {*traits, *(["interlaced"] if look and look.interlaced else [])}
    return tuple(trait for trait in TRAITS if trait in has)


class _Packet(NamedTuple):
    pts: int
    shown: bool  # not left out by an edit list
    begins: bool  # a key frame
    alone: bool  # after which none refers to what came before


def _look(place: Place, alive: Callable[[], None]) -> Look | None:
    packets: list[_Packet] = []
    bad, out, interlaced = set[int](), set[int](), False  # pts
    try:
        with av.open(place.url) as container:
            stream = best_stream(container)
            if stream is None:
                raise VideoError(f"{place}: not a video, or cut off: cannot find video stream")
            context = codec_context(stream)
            context.thread_count, context.thread_type = 1, "NONE"
            if context.name in STRICT:
                context.options = {"err_detect": "explode"}
            most = max(1, LOOKED_AT // max(1, stream.codec_context.width * stream.codec_context.height))
            demuxed = container.demux(stream)
            with closing(cast(Generator[av.Packet, None, None], demuxed)):
                for packet in demuxed:
                    if packet.size:
                        if packet.pts is None or len(packets) == most:
                            return None
                        key = packet.is_keyframe
                        alone = key and (context.name != "h264" or is_idr(bytes(packet), context.extradata))
                        packets.append(_Packet(packet.pts, not packet.is_discard, key, alone))
                        if packet.is_corrupt:
                            bad.add(packet.pts)
                    if len(packets) % OFTEN == 0:
                        alive()
                    try:
                        frames = context.decode(packet if packet.size else None)
                    except av.FFmpegError:
                        if packet.pts is not None:
                            bad.add(packet.pts)
                        continue
                    for frame in frames:
                        interlaced |= frame.interlaced_frame
                        if frame.pts is not None:
                            out.add(frame.pts)
                            if frame.is_corrupt:
                                bad.add(frame.pts)
    except av.FFmpegError as error:
        raise VideoError(f"{place}: damaged or truncated, {reason_of(error)}") from None
    shown = sorted(packet.pts for packet in packets if packet.shown)
    if len({*shown}) < len(shown):
        return None
    if bad:  # a decoder that has lost its way gives no frames for a while
        bad |= {*shown} - out
    return Look(len(shown), stretches(packets, shown, bad), interlaced)


def stretches(packets: Sequence[_Packet], shown: Sequence[int], bad: Container[int]) -> tuple[tuple[int, int], ...]:
    """The stretches of frames that damage reaches.

    Args:
        packets: in the order in which they are decoded.
        shown: pts of all frames, sorted.
        bad: pts of packets that are damaged, or do not decode.
    """
    found: list[tuple[int, int]] = []
    first, keys = -1, 0  # pts of the first frame of a stretch, and key frames since
    begun = False
    for packet in [*packets, None]:
        if begun and (packet is None or packet.begins):
            # a key frame on which others do not rest alone may be whole only once the next one comes
            keys += 2 if packet is None or packet.alone else 1
            if keys >= 2:
                stop = len(shown) if packet is None else bisect_left(shown, packet.pts)
                start = bisect_left(shown, first)
                if start < stop:
                    found.append((start, stop))
                begun = False
        if packet is None:
            break
        if packet.pts in bad:
            first, begun, keys = (min(first, packet.pts) if begun else packet.pts), True, 0
        elif begun:
            first = min(first, packet.pts)
    return _joined(found)


def _joined(found: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Stretches that touch, as one."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(stop, joined[-1][1])
        else:
            joined.append((start, stop))
    return tuple(joined)


def sound_parts(damage: Sequence[tuple[int, int]], frames: int) -> list[tuple[int, int]]:
    """What is left of so many frames beside the stretches that are damaged: the first, and the one past the last."""
    edges = [0, *(edge for stretch in damage for edge in stretch), frames]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
