"""Whether decord reads a video file exactly: the frames that are asked for, at their times and in their colours.

decord finds a frame by the order of packets and counts on from the key frame before. So it is exact where a key frame
comes in the same place of both orders, where a decoder can begin at it, and where the container can be sought by time.
That is looked up in the packets of each file. The first frame of each, which tells its colours, is compared with what
PyAV reads; so are, of each kind of file, some that have to be sought.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

import numpy as np

from vidiff.store.error import VideoError
from vidiff.store.place import Place, place_of
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.decord import DecordFile
from vidiff.video.pyav import Kind, PyAVFile, Structure, frames_in_order, whole_colours
from vidiff.video.stream import Stream, look_through, stream_of
from vidiff.video.timetable import LIES, State, state_of

LEVELS = 2  # of 255, by which colours may differ: rounding, for other frames and other matrices differ by more
LATE = 1e-3  # s, by which times may differ: decord keeps them in 32 bits
LARGEST = 1 << 26  # bytes: to open a file, decord reads all of it
SOUGHT = {"mov", "matroska", "avi"}  # containers in which decord finds a key frame by its time
FIELDS = "its frames are of two fields"
BUNDLED = {"hevc", "vvc"}  # codecs of which several frames may come out at once, on which decord fails now and then
REMEMBERED = 4096  # files
_SOUGHT_ALIKE: set[Kind] = set()  # kinds of file of which both decoders have found the same frames


def fault_of_decord(path: Path | Place, treatment: Treatment = PLAIN) -> str:
    """Why decord does not read a file exactly; empty where it does. The answers for the last files are remembered.

    Args:
        treatment: what is to be done to its frames.

    Raises:
        VideoError: where it is no video, or neither decoder finds its frames.
    """
    place = place_of(path)
    fault = untreated(stream_of(place), treatment)
    if not fault and treatment.deinterlace and (look := look_through(place)) and look.interlaced:
        fault = FIELDS
    return fault or _fault(place, state_of(place))


def untreated(stream: Stream, treatment: Treatment) -> str:
    """What is to be done to the frames of a file, and only PyAV's FFmpeg does; empty where there is nothing."""
    if stream.transparent:
        return "it has an alpha channel"
    if stream.interlaced and treatment.deinterlace:
        return FIELDS
    return f"its range is {stream.transfer}" if stream.transfer and treatment.tonemap else ""


@lru_cache(maxsize=REMEMBERED)
def _fault(place: Place, state: State) -> str:
    with closing(PyAVFile(place)) as pyav, closing(DecordFile(place)) as decord:
        try:
            if state[0] > LARGEST:
                return f"it has {pyav.frames} frames in {state[0] >> 20} MiB, all of which decord reads to open it"
            structure = pyav.structure
        except VideoError as refusal:
            try:
                _ = decord.frames
            except VideoError:
                raise refusal from None
            if fault := _differs_from_order(place, decord):
                raise VideoError(f"{refusal}; nor can decord: {fault}") from None
            return ""
        try:
            if structure.by_order and structure.by_order != LIES:
                return _differs_from_order(place, decord)
            return _fault_of_structure(structure) or _damage(place) or _differs(pyav, decord, structure)
        except VideoError as error:
            return str(error).removeprefix(f"{place}: ")


def _fault_of_structure(structure: Structure) -> str:
    kind = structure.kind
    if structure.by_order:
        return structure.by_order
    if kind.container not in SOUGHT:
        return f"its container, {kind.container}, cannot be sought exactly"
    if kind.codec == "h264" and whole_colours(kind.pixels):
        return "what decodes its 4:4:4 frames may have to know which build of x264 wrote them"
    if kind.codec in BUNDLED and kind.reorders:
        return f"several frames of {kind.codec} may come out at once"
    return "" if structure.closed else "a decoder cannot begin at each of its key frames, or frames come before them"


def _damage(place: Place) -> str:
    """What of a file is damaged, of which decord says nothing, where PyAV's FFmpeg does."""
    look = look_through(place)
    if look is None:
        return "it is too long to be looked through for damage"
    return f"its frames from {look.damage[0][0]} on are damaged" if look.damage else ""


def _differs(pyav: PyAVFile, decord: DecordFile, structure: Structure) -> str:
    """How frames, times or pixels of the two differ."""
    frames, times, kind = structure.frames, decord.times, structure.kind
    if len(times) != frames:
        return f"it has {frames} frames, and by decord {len(times)}"
    late = np.abs((times - times[0]) - (structure.times - structure.times[0])).max()
    if not late < LATE:
        return f"its times are off by {late:.3g} s"
    sought = [] if kind in _SOUGHT_ALIKE else samples(frames, int(structure.keys[len(structure.keys) // 2]))
    for numbers in [*sought, [0]]:
        if fault := _unlike(decord.decode(numbers, None), pyav.decode(numbers, None), numbers):
            return fault
    _SOUGHT_ALIKE.add(kind)
    return ""


def samples(frames: int, middle: int) -> list[list[int]]:
    """Numbers of frames that have to be sought: the last, and three from the middle on."""
    return [[frames - 1], [number for number in range(middle, middle + 3) if number < frames]]


def _differs_from_order(place: Place, decord: DecordFile) -> str:
    """How decord's frames differ from those that come out of FFmpeg from the beginning to the end."""
    try:
        frames, count = decord.frames, 0
        parts = [*samples(frames, frames // 2), [0]]
        pixels = {
            number: frame for part in parts for number, frame in zip(part, decord.decode(part, None), strict=True)
        }
        for expected in frames_in_order(place, pixels):
            if expected is not None and (fault := _unlike(pixels[count], expected, [count])):
                return fault
            count += 1
    except VideoError as error:
        return str(error).removeprefix(f"{place}: ")
    return "" if count == frames else f"it has {frames} frames, and {count} decode"


def _unlike(pixels: np.ndarray, expected: np.ndarray, numbers: Sequence[int]) -> str:
    if pixels.shape != expected.shape:
        return f"its frames are {pixels.shape[-2]}x{pixels.shape[-3]}, not {expected.shape[-2]}x{expected.shape[-3]}"
    difference = np.maximum(pixels, expected) - np.minimum(pixels, expected)
    return f"frame {numbers[0]}, or one of the next two, is another" if difference.max() > LEVELS else ""
