"""Where the frames of a video file are: their number, the key frames to begin at, and the times they are shown."""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from stat import S_ISREG
from threading import Lock
from typing import Any

import av
import numpy as np

from vidiff.store.place import Place
from vidiff.video.decode import FPS, check_file

HELD = 1 << 20  # numbers that a process keeps of the files it has read: 8 MB
TRUE = frozenset({"mov", "matroska"})  # containers that keep the time at which each frame is shown
RATED = frozenset({"avi"})  # containers that tell the rate of frames that have no times
PROVED = 64  # frames of the others that are decoded, to see whether they come out as their times say


State = tuple[int, int]  # bytes of a file, and when it changed last, in ns


def state_of(place: Place) -> State:
    """The state of a file, or of a part of one. Raises `VideoError` unless there is one that is not empty."""
    if place.is_own_file:  # one question to the system, as a rule
        with suppress(OSError):
            facts = os.stat(place.url)
            if S_ISREG(facts.st_mode) and facts.st_size:
                return facts.st_size, facts.st_mtime_ns
    check_file(place)
    return place.stamp()


LIES = "its times are not those at which its frames are shown"


class Unsuited(ValueError):
    """A file whose frames cannot be found by its packets."""


class Timeless(Unsuited):
    """A file whose frames cannot be told apart by their times, but by their order."""


@dataclass(frozen=True)
class Timetable:
    """What of a file's packets is needed to find frame n. A packet is a frame as encoded; they come in decoding order.

    Args:
        frames: number of them.
        keys: place of each key frame in decoding order, packets that are not shown left out.
        stamps: of each key frame, in ticks: its pts, or its dts where the container's own index tells no more.
        by_dts: which of these `stamps` are.
        pts: of all frames, in ticks, sorted; None where the container's own index told enough.
        closed: whether a decoder can begin at every key frame, and none that follows is shown before it; False where
            the container's own index told enough for all else.
        by_order: why frames are known by the order alone in which they come out, from the first on; empty where their
            times tell them. `keys` is then the first.
    """

    frames: int
    keys: np.ndarray
    stamps: np.ndarray
    by_dts: bool
    pts: np.ndarray | None
    closed: bool = False
    by_order: str = ""

    def key_before(self, number: int) -> int:
        """The last key frame that comes no later than frame `number` in decoding order: a number of `keys`."""
        return max(0, bisect_right(self.keys, number) - 1)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return 2 * len(self.keys) + (0 if self.pts is None else len(self.pts))


def listed(stream: av.VideoStream) -> Timetable | None:
    """The timetable by the index of an mp4 or mov, without reading a packet; None where that does not suffice.

    That index has a dts for each packet and no pts, which is enough: the pts of the frames around those that are wanted
    are read with them. An index of another length than the header promises, or with packets that are not shown (as an
    edit list leaves them), is not relied on.
    """
    entries = stream.index_entries
    if "mp4" not in stream.container.format.name or not 0 < len(entries) == stream.frames:
        return None
    keys, stamps = [], []
    for place, entry in enumerate(entries):
        if entry.is_discard or not entry.size:
            return None
        if entry.is_keyframe:
            keys.append(place)
            stamps.append(entry.timestamp)
    if not keys or keys[0] != 0 or any(a >= b for a, b in pairwise(stamps)):
        return None
    return Timetable(len(entries), np.array(keys), np.array(stamps), by_dts=True, pts=None)


def read_through(container: av.container.InputContainer, stream: av.VideoStream) -> Timetable:
    """The timetable by all packets of a file just opened. Raises Timeless where they share times, or lack
    them and the container tells the rate, and Unsuited where it does not, or none can be begun with."""
    pts: list[int] = []
    keys, stamps = [], []
    context, closed = stream.codec_context, True
    packets: Any = container.demux(stream)
    with closing(packets):
        for packet in packets:
            if not packet.size:
                continue
            if packet.pts is None:
                if container.format.name in RATED:
                    raise Timeless("not all of its frames say when they are shown")
                raise Unsuited(
                    "not all of its frames say when they are shown; encode it anew at its rate, as by "
                    "`ffmpeg -r 25 -i IN OUT.mp4`"
                )
            if packet.is_keyframe:
                keys.append(len(pts))
                stamps.append(packet.pts)
                closed = closed and (context.name != "h264" or is_idr(bytes(packet), context.extradata))
            if not packet.is_discard:  # as one is that an edit list does not show, though others may need it
                pts.append(packet.pts)
    if not pts:
        raise Unsuited("it has no frames")
    if not keys or keys[0] != 0:
        raise Unsuited("it does not begin with a key frame")
    shown = np.sort(np.array(pts))
    if len(np.unique(pts)) < len(pts) or np.any(np.diff(stamps) <= 0):
        raise Timeless("several of its frames say that they are shown at the same time")
    closed = closed and np.array_equal(np.searchsorted(shown, stamps), keys)
    return Timetable(len(pts), np.array(keys), np.array(stamps), by_dts=False, pts=shown, closed=closed)


def keeps_times(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether the frames of a file just opened come out in the order of their times.

    FFmpeg makes up the times that a container does not keep, and errs where frames are decoded in another order than
    they are shown: those of AVI with H.264, or in which DivX has packed two frames together, and of bare MPEG
    streams. Where that can be, the first frames are decoded, none of which anybody converts.
    """
    if not stream.codec_context.has_b_frames or TRUE.intersection(container.format.name.split(",")):
        return True
    last = -math.inf
    with suppress(av.FFmpegError):  # what is damaged is told where it is read
        for frame in islice(container.decode(stream), PROVED):
            if frame.pts is None or frame.pts <= last:
                return False
            last = frame.pts
    return True


def counted(container: av.container.InputContainer, stream: av.VideoStream, why: str) -> Timetable:
    """The timetable of a file just opened, by what comes out of its decoder from the first frame to the last.

    Frames are at the times at which packets are decoded, where those rise and are as many, and else follow the rate.

    Args:
        why: as its `by_order`.
    """
    frames, decoded = 0, list[int]()
    packets: Any = container.demux(stream)
    with closing(packets):
        for packet in packets:
            if packet.size and packet.dts is not None:
                decoded.append(packet.dts)
            frames += len(packet.decode())
    if not frames:
        raise Unsuited("it has no frames")
    times = np.array(decoded)
    if len(times) != frames or np.any(np.diff(times) <= 0):
        tick = 1 / float((stream.average_rate or Fraction(round(FPS))) * (stream.time_base or 1))
        times = np.round(tick * np.arange(frames)).astype(np.int64)
    return Timetable(frames, np.array([0]), times[:1], by_dts=False, pts=times, by_order=why)


def is_idr(packet: bytes, header: bytes | None) -> bool:
    """Whether a packet of H.264 is an IDR picture (ITU-T H.264, 7.4.1.2.4): none after it refers to any before it.

    Args:
        header: of the stream. Where it is that of ISO/IEC 14496-15, each unit of the packet follows on its length;
            else on a start code.
    """
    starts = []
    if header and header[0] == 1:
        width, place = (header[4] & 3) + 1, 0
        while place + width < len(packet):
            starts.append(place + width)
            place += width + int.from_bytes(packet[place : place + width], "big")
    else:
        starts = [match.end() for match in re.finditer(b"\0\0\1(?=.)", packet, re.DOTALL)]
    return any(packet[start] & 31 == 5 for start in starts)


class Shelf:
    """The timetables of the files that this process read last; the oldest go where they would take too much memory."""

    def __init__(self, most: int = HELD) -> None:
        self.most, self.held = most, 0
        self.tables: OrderedDict[tuple[str, State, bool], Timetable] = OrderedDict()
        self._lock = Lock()

    def get(self, place: Place, state: State, whole: bool, make: Callable[[], Timetable]) -> Timetable:
        """The timetable of a file in this state, made where there is none.

        Args:
            whole: with the times of all frames.
        """
        key = (place.name, state, whole)
        with self._lock:
            if key in self.tables:
                self.tables.move_to_end(key)
                return self.tables[key]
        made = make()
        with self._lock:
            table = self.tables.setdefault(key, made)  # another thread may have made it meanwhile
            if table is made:
                self.held += table.size
            while self.held > self.most and len(self.tables) > 1:
                _, old = self.tables.popitem(last=False)
                self.held -= old.size
        return table


SHELF = Shelf()
