"""Decoding by PyAV: only the frames that are needed, from the key frame before them, each known by its time.

What makes it quicker than reading frames in a loop: the file's own index tells where to begin, so no packet is read for
that; frames that no other refers to are not decoded unless they are wanted; only wanted frames are converted, on one
thread, by a converter that is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Generator, Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np

from vidiff.store.error import DamageError, VideoError, reason_of
from vidiff.store.place import Place, place_of
from vidiff.video.convert import SQUARE, Converter, converter, deinterlaced, with_neighbours
from vidiff.video.decode import PLAIN, Treatment, average_rate, check_indices
from vidiff.video.stream import aspect_of, best_stream, codec_context
from vidiff.video.timetable import (
    LIES,
    SHELF,
    State,
    Timeless,
    Timetable,
    Unsuited,
    counted,
    keeps_times,
    listed,
    read_through,
    state_of,
)

REORDERED = 16  # frames that a decoder may hold back at most, by the standards of H.264 and HEVC
AHEAD = 2 * REORDERED  # packets read before they are decoded, so that most are known by number by then
NEAR = 8  # frames that are decoded for nothing rather than beginning anew at a key frame
UNREFERRED = frozenset({"h264"})  # codecs that say of each frame, exactly, whether others refer to it


class PyAVFile:
    """A video file, by PyAV. Frames are those that decoding all in order gives, whatever the container and the GOPs.

    A file whose packets lack times, share one, or have others than those at which frames are shown, is read from its
    beginning on, and its frames are known by their order.

    Args:
        path: where it is, on this machine.
        treatment: what is done to its frames.
    """

    name = "pyav"

    def __init__(self, path: Path | Place, treatment: Treatment = PLAIN) -> None:
        self.path, self.treatment = place_of(path), treatment
        self._context: av.VideoCodecContext | None = None
        self._container: av.container.InputContainer | None = None
        self._told = False  # whether the decoder has been given what only the beginning tells
        self._pass: _Pass | None = None
        self._state: State | None = None
        self._goes_on = False  # whether one call's frames have followed on the last one's

    @property
    def frames(self) -> int:
        return self._table().frames

    @property
    def fps(self) -> float:
        header = float(self._stream().average_rate or 0)
        known = header and self._table().pts is None  # by the container's own index, from which the header follows
        return header if known else average_rate(header, self.times)

    @property
    def times(self) -> np.ndarray:
        table = self._table(whole=True)
        assert table.pts is not None
        return table.pts * float(self._stream().time_base or 0)

    @property
    def structure(self) -> Structure:
        """What else its packets tell, which are read through."""
        table, stream = self._table(whole=True), self._stream()
        context, container = stream.codec_context, self._open().format.name.split(",")[0]
        kind = Kind(container, context.name, str(context.profile), str(context.pix_fmt), context.has_b_frames)
        return Structure(kind, table.frames, self.times, table.keys, table.closed, table.by_order)

    def decode(self, indices: Sequence[int] | None, size: tuple[int, int] | None) -> np.ndarray:
        table = self._table()
        indices = range(table.frames) if indices is None else indices
        check_indices(self.path, indices, table.frames)
        places: dict[int, list[int]] = {}
        for place, number in enumerate(indices):
            places.setdefault(int(number), []).append(place)
        pixels: np.ndarray | None = None
        convert: Converter | None = None
        try:
            if self.treatment.deinterlace:
                frames = deinterlaced(self._decoded(with_neighbours(places, table.frames), table), places)
            else:
                frames = self._decoded(sorted(places), table)
            aspect = aspect_of(self._stream())
            for number, frame in frames:
                if convert is None or not convert.takes(frame):
                    convert = converter(frame, size, aspect, self.treatment)
                found = convert(frame)
                if pixels is None:
                    pixels = np.empty((len(indices), *found.shape), np.uint8)
                if found.shape != pixels.shape[1:]:
                    raise VideoError(f"{self.path}: its frames are of different sizes")
                for place in places[number]:
                    pixels[place] = found
        except _Damaged as error:
            self.close()
            raise DamageError(f"{self.path}: damaged or truncated, {error}") from None
        except (av.FFmpegError, _Missing) as error:
            self.close()
            raise VideoError(f"{self.path}: damaged or truncated, {reason_of(error)}") from None
        except VideoError:
            self.close()
            raise
        assert pixels is not None
        return pixels

    def close(self) -> None:
        self._end_pass()
        if self._container is not None:
            self._container.close()
        self._container = None

    def _open(self) -> av.container.InputContainer:
        if self._container is None:
            try:
                self._container = av.open(self.path.url, "r")
            except av.FFmpegError as error:
                raise VideoError(f"{self.path}: not a video, or cut off: {reason_of(error)}") from None
            stream = best_stream(self._container)
            if stream is None:
                self.close()
                raise VideoError(f"{self.path}: not a video, or cut off: cannot find video stream")
            self._context = codec_context(stream)
            self._context.thread_count, self._context.thread_type = 1, "NONE"
            self._told = not depends_on_beginning(self._context)
        return self._container

    def _stream(self) -> av.VideoStream:
        stream = best_stream(self._open())
        assert stream is not None
        return stream

    def _table(self, whole: bool = False) -> Timetable:
        """The timetable; `whole`, with the times of all frames. A file that has changed is opened anew."""
        state = state_of(self.path)
        if self._state != state:
            self.close()
            self._state = state
        return SHELF.get(self.path, state, whole, lambda: self._made(whole))

    def _made(self, whole: bool) -> Timetable:
        table = None if whole else listed(self._stream())
        if table is None:
            self.close()  # it is to be read from its beginning
            try:
                table = self._read()
            except (av.FFmpegError, Unsuited) as error:
                raise VideoError(f"{self.path}: PyAV cannot find its frames: {reason_of(error)}") from None
            finally:
                self.close()
        return table

    def _read(self) -> Timetable:
        """The timetable by all packets, or, where their times do not tell frames apart, by all frames."""
        try:
            table = read_through(self._open(), self._stream())
            self.close()
            if keeps_times(self._open(), self._stream()):
                return table
            why = LIES
        except Timeless as error:
            why = str(error)
        self.close()
        return counted(self._open(), self._stream(), why)

    def _decoded(self, numbers: Sequence[int], table: Timetable) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of these numbers, sorted, by as few passes as are worth it."""
        start = 0
        while start < len(numbers):
            end = start + 1
            while end < len(numbers) and table.keys[table.key_before(numbers[end])] <= numbers[end - 1] + NEAR:
                end += 1
            yield from self._run(numbers[start:end], table)
            start = end

    def _run(self, numbers: Sequence[int], table: Timetable) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames of one pass, which goes on from the last one where that is nearer than a key frame."""
        key = table.key_before(numbers[0])
        back = 1
        last = self._pass
        if last is not None:
            follows = last.at <= numbers[0] and table.keys[key] <= last.at + NEAR
            self._goes_on |= follows
            if not follows or last.flushed:
                self._end_pass()
        while True:
            done = 0
            try:
                if self._pass is None:
                    if key == 0 and not table.by_dts:
                        self.close()  # many containers cannot be sought at their beginning
                    container, stream = self._open(), self._stream()
                    assert self._context is not None
                    if key and not self._told:
                        self._tell_beginning(self._context)
                    self._pass = _Pass(container, stream, self._context, table, key)
                for number, frame in self._pass.frames(numbers, drain=not self._goes_on):
                    yield number, frame
                    done += 1
                return
            except _Missing:
                self._end_pass()
                numbers = numbers[done:]
                key = min(key, table.key_before(numbers[0]))
                if key == 0:
                    raise
                key, back = max(0, key - back), 2 * back  # what it showed depends on more than that key frame

    def _tell_beginning(self, context: av.VideoCodecContext) -> None:
        """Give a decoder the first packet of the file, whatever it has decoded before."""
        with av.open(self.path.url) as beginning:
            stream = best_stream(beginning)
            assert stream is not None
            context.flush_buffers()  # of a pass before that has come to its end
            context.decode(next(packet for packet in beginning.demux(stream) if packet.size))
        self._told = True

    def _end_pass(self) -> None:
        if self._pass is not None:
            self._pass.close()
        self._pass = None


def whole_colours(pixels: str) -> bool:
    """Whether each pixel of a format, by FFmpeg's name, has a colour of its own: 4:4:4."""
    return "444" in pixels or pixels.startswith("gbr")


def depends_on_beginning(context: av.VideoCodecContext) -> bool:
    """Whether a decoder that begins at a later key frame may show other pixels than one that has seen the first packet.

    Old builds of x264, such as 142, wrote 4:4:4 in a way of their own, which FFmpeg reads as it was
    meant where it knows the build; that stands in the first packet alone.
    """
    return context.name == "h264" and whole_colours(context.pix_fmt or "")


class Kind(NamedTuple):
    """A kind of file, by FFmpeg's names, such as ("mov", "h264", "High", "yuv420p", True) for most of .mp4.

    Args:
        reorders: whether frames may be decoded in another order than they are shown.
    """

    container: str
    codec: str
    profile: str
    pixels: str
    reorders: bool


class Structure(NamedTuple):
    """What kind of file it is, and how its frames depend on each other. Times in seconds, else as in `Timetable`."""

    kind: Kind
    frames: int
    times: np.ndarray
    keys: np.ndarray
    closed: bool
    by_order: str = ""


def frames_in_order(place: Place, wanted: Container[int]) -> Iterator[np.ndarray | None]:
    """Every frame as it comes out from the first on, as uint8 `(h, w, 3)` until the next: None for those not wanted.

    Raises VideoError where it does not decode to its end.
    """
    try:
        with av.open(place.url, "r") as container:
            stream = best_stream(container)
            aspect = aspect_of(stream) if stream else SQUARE
            for number, frame in enumerate(container.decode(stream)):
                yield converter(frame, None, aspect)(frame) if number in wanted else None
    except av.FFmpegError as error:
        raise VideoError(f"{place}: damaged or truncated, {reason_of(error)}") from None


class _Missing(ValueError):
    """A frame did not come out of the decoder."""


class _Damaged(ValueError):
    """A frame came out of the decoder that does not show what was filmed."""


class _Pass:
    """Decoding from a key frame on.

    Args:
        key: which of the timetable's to begin at.

    Raises:
        _Missing: where the container does not find it.
    """

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        context: av.VideoCodecContext,
        table: Timetable,
        key: int,
    ) -> None:
        self.context, self.by_order = context, bool(table.by_order)
        self.skips, self.skipping = self.context.name in UNREFERRED, False
        self.context.skip_frame = "DEFAULT"
        if key or table.by_dts:
            # mp4 is sought by pts, which follows a key frame's dts by as much as in the first
            delay = (stream.start_time or 0) - int(table.stamps[0]) if table.by_dts else 0
            container.seek(int(table.stamps[key]) + delay, stream=stream)
            context.flush_buffers()  # PyAV does so by itself for a stream's own
        self.packets = container.demux(stream)
        places = dict(zip(table.stamps[: key + 1].tolist(), table.keys[: key + 1].tolist(), strict=True))
        for first in self.packets:  # to the first that can be begun with
            stamp = first.dts if table.by_dts else first.pts
            if self.by_order and first.size:
                stamp = table.stamps[0].item()
                break
            if first.is_keyframe and stamp is not None and first.pts is not None:
                break
        else:
            raise _Missing(f"key frame {key} is not there")  # and there are no more packets
        if stamp not in places:
            self.close()
            raise _Missing(f"key frame {key} is not found")
        self.begins: int = first.pts or 0  # frames before, though read later, refer to some that are not decoded
        self.at = places[stamp]  # number of the next frame that comes out, once those before are counted
        self.whole = key == 0  # nothing came before, so whatever comes out is what decoding in order shows
        self.ahead: deque[av.Packet] = deque()  # read, not decoded
        self.unnumbered: list[int] = []  # pts of packets read, a heap
        self.numbers: dict[int, int] = {}  # by pts
        self.upcoming = self.at
        self.begun = self.ended = self.flushed = False
        self.ready: deque[tuple[int, av.VideoFrame]] = deque()
        self.damaged: set[int] = set()  # pts of frames that are, or that come after such a one without a key frame
        self.lost = self.sound = self.tainted = False  # a packet did not decode; a frame came out whole; one did not
        self._take(first)

    def close(self) -> None:
        """PyAV's demuxing, when it is merely forgotten, leaks 150 bytes."""
        cast(Generator[av.Packet, None, None], self.packets).close()

    def frames(self, numbers: Sequence[int], drain: bool) -> Iterator[tuple[int, av.VideoFrame]]:
        """The frames of these numbers, sorted, none of which has come out before. Raises _Missing.

        Args:
            drain: have what the decoder holds back come out once it has been given all these frames, rather than give
                it those that follow. The pass ends there.
        """
        wanted = set(numbers)
        self.missing = len(wanted) if drain else -1
        for number in numbers:
            while not self.ready or self.ready[0][0] < number:
                if self.ready:
                    self.ready.popleft()
                elif not self._advance(wanted, numbers[-1]):
                    raise self._gone(number)
            if self.ready[0][0] != number:
                raise self._gone(number)
            _, frame = self.ready.popleft()
            if frame.pts in self.damaged:
                raise _Damaged(f"frame {number} is damaged, or refers to one that is")
            if frame.is_corrupt and not self.whole:
                raise _Missing(f"frame {number} is incomplete")
            self.at = number + 1
            yield number, frame

    def _advance(self, wanted: set[int], last: int) -> bool:
        """Decode one more packet; False at the end."""
        if not self.missing and not self.flushed:
            self.ahead.clear()
            self.ended = True
        self._read(AHEAD)
        if self.ahead:
            packet = self.ahead.popleft()
            number = None if packet.pts is None else self.numbers.get(packet.pts)
            if number in wanted:
                self.missing -= 1
            if self.skips:
                unwanted = number is not None and number < last and number not in wanted
                if unwanted != self.skipping:
                    self.context.skip_frame = "NONREF" if unwanted else "DEFAULT"
                    self.skipping = unwanted
            self.lost &= not packet.is_keyframe
            try:
                found = self.context.decode(packet)
            except av.InvalidDataError:
                found, self.lost = [], True
            if self.lost and packet.pts is not None:
                self.damaged.add(packet.pts)
        elif not self.flushed:
            self.flushed = True
            found = self.context.decode(None)
        else:
            return False
        for frame in found:
            if self.by_order:
                self._see_damage(frame)
                self.ready.append((self.upcoming, frame))
                self.upcoming += 1
                continue
            if frame.pts is None or frame.pts < self.begins:
                continue
            if not (self.whole or self.begun or frame.pts == self.begins):
                raise _Missing("a key frame does not decode by itself")  # as of intra refresh
            self.begun = True
            while frame.pts not in self.numbers and not self.ended:
                self._read(len(self.ahead) + 1)
            if frame.pts not in self.numbers:
                raise _Missing(f"a frame at {frame.time} s came out that is not listed")
            self._see_damage(frame)
            self.ready.append((self.numbers.pop(frame.pts), frame))
        return True

    def _gone(self, number: int) -> ValueError:
        kind = _Damaged if self.damaged else _Missing  # for which it is of no use to begin earlier
        return kind(f"frame {number} does not decode")

    def _see_damage(self, frame: av.VideoFrame) -> None:
        """What comes after a damaged frame is damaged, up to a key frame."""
        if self.tainted and frame.key_frame and not frame.is_corrupt:
            self.tainted = False
        if frame.is_corrupt and self.sound:
            self.tainted = True
        if frame.pts is not None and (self.tainted or (frame.is_corrupt and self.whole)):
            self.damaged.add(frame.pts)
        self.sound |= not frame.is_corrupt

    def _read(self, packets: int) -> None:
        """Read on until so many wait to be decoded, and number all those whose turn is sure."""
        while not self.ended and len(self.ahead) < packets:
            packet = next(self.packets, None)
            if packet is None:
                self.ended = True
            elif packet.size:  # the last, of no size, is PyAV's sign of the end
                self._take(packet)
        while self.unnumbered and not self.by_order and (self.ended or len(self.unnumbered) > REORDERED):
            self.numbers[heappop(self.unnumbered)] = self.upcoming
            self.upcoming += 1

    def _take(self, packet: av.Packet) -> None:
        self.ahead.append(packet)
        if packet.is_discard or self.by_order:
            return
        if packet.pts is None:
            raise _Missing("a packet has no time")
        if packet.pts >= self.begins:
            heappush(self.unnumbered, packet.pts)
        else:  # it is shown before the key frame
            self.upcoming += 1
            self.at += 1
