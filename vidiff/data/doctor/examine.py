"""The examination of one file: its bytes, its container, its frames, and what is wrong with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vidiff.data.clip import Clip, in_words, within
from vidiff.data.doctor.container import (
    Container,
    NoVideo,
    count_frames,
    is_text,
    missing_bytes,
    read_container,
    read_head,
)
from vidiff.data.doctor.motion import share_that_moves
from vidiff.data.doctor.record import FOUND, Record
from vidiff.data.probe import fingerprint
from vidiff.data.workers import Begin, at_once
from vidiff.store.error import Unreachable, VideoError
from vidiff.store.place import Place
from vidiff.video.reader import VideoReader
from vidiff.video.sources import is_video, stamp_of, traits_of
from vidiff.video.stream import look_through, sound_parts, with_look

PROBLEMS = {  # why a file is left out, and what to do about it
    "missing": ("is not there", "put back what the link or the list names, or remove it"),
    "special": ("not a regular file", "remove it: a pipe or a device holds no clip"),
    "refused": ("cannot be opened", "look at its permissions and at the disk"),
    "empty": ("zero bytes", "download it again"),
    "blank": ("nothing but zero bytes", "download it again: the space was set aside, and never filled"),
    "text": ("text, not a video", "read it: often it is an error page under a video's name; download again"),
    "no moov": ("no moov atom", "download it again: an mp4 that lost its table cannot be played"),
    "truncated": ("truncated", "download it again"),
    "unknown": ("no format that is known here", "remove it, or convert it to mp4 with what made it"),
    "no video": ("no video stream", "remove it: there is nothing to see"),
    "frame count": ("lying frame count", "encode it anew: ffmpeg -i IN -c:v libx264 -crf 14 OUT.mp4"),
    "damaged": ("frames that do not decode", "download it again, or encode what is left of it anew"),
    "hang": ("its decoder hangs", "encode it anew, or remove it; on a slow disk, scan with more --patience"),
    "unreachable": ("cannot be fetched", "scan again when its server answers; until then training tries it"),
    "crash": ("its decoder crashes", "encode it anew, or remove it"),
}
NOTES = {  # what is uncommon about a file that is kept, and what it means
    "variable frame rate": "clips are cut by frame number, so motion is uneven, unless data.fps is set",
    "damaged stretch": "its frames are left out of all clips; download it again to have them",
    "squeezed": "its pixels are not square: it is stretched to what players show",
    "interlaced": "its frames are of two fields, with combs where things move: set data.deinterlace=true",
    "high dynamic range": "colours come out pale: set data.tonemap=true",
    "transparent": "is put over a colour, data.background",
    "deep colour": "is brought down to 8 bits as it is read",
    "odd size": "is resized and cropped as all others are",
    "rotated": "is turned upright as it is read",
    "header": "the header promises another number of frames than are there; those that are there are used",
    "seek": "a frame that is sought is not the one that reading up to it shows: encode it anew",
    "few key frames": "each random clip decodes many frames for nothing; mend: ffmpeg -i IN -g 30 OUT",
}
LONG = 256  # of a file with more frames, windows are read
WINDOW = 64
SPARSE = 250  # frames from key frame to key frame that make random clips slow
PACE, WATCHED = 4, 16  # frames apart, and how many, in which it is looked for what moves
AT_ONCE = 8 << 20  # bytes of decoded frames


@dataclass(frozen=True)
class Case:
    """A clip to be looked at.

    Args:
        known: what an earlier scan found.
        whole: read every frame, however many there are.
    """

    clip: Clip
    known: Record | None = None
    whole: bool = False

    @property
    def place(self) -> Place:
        return self.clip.place


class _Broken(Exception):
    """A file that is to be left out: a key of PROBLEMS, and the figures that tell."""

    def __init__(self, problem: str, detail: str = "") -> None:
        self.problem = problem
        self.reason = PROBLEMS[problem][0] + (f": {detail}" if detail else "")


def examine(case: Case, begin: Begin = at_once) -> Record:
    """Look at one clip: its bytes, its container, and its frames as training decodes them.

    Args:
        begin: is called once the clip is here.
    """
    place = case.place
    record = Record(case.clip.name, place, stamp=stamp_of(place), decoder="", part=case.clip.part)
    try:
        if not place.is_elsewhere:
            _look_at_kind(place)
        with place.held() as here:
            begin()
            return _look_at(here, record, case, begin)
    except _Broken as broken:
        return replace(record, problem=broken.problem, reason=broken.reason)
    except Unreachable as error:
        return replace(record, problem="unreachable", reason=str(error))
    except VideoError as error:  # what is elsewhere is not there
        return replace(record, problem="missing", reason=str(error))
    except OSError as error:
        return replace(record, problem="refused", reason=f"cannot be opened: {error.strerror or error}")


def _look_at(here: Place, record: Record, case: Case, begin: Begin) -> Record:
    if not (record.stamp.size if here.is_folder else here.length):  # a store may not have told of the size
        raise _Broken("empty")
    record = replace(record, fingerprint=fingerprint(here))
    if case.known and case.known.fingerprint == record.fingerprint:
        return replace(case.known, place=record.place, stamp=record.stamp, part=record.part)
    try:
        if not is_video(here):
            return _look_at_pictures(record, here, case.whole)
        short = _look_at_bytes(here)
        container = _look_at_container(here, short)
        record = replace(record, **{key: value for key, value in vars(container).items() if key in FOUND})
        record = _look_at_frames(record, here, case.whole, container, short, begin)
        return replace(record, notes=[*record.notes, *_notes(record, container)])
    except _Broken as broken:
        return replace(record, problem=broken.problem, reason=broken.reason)


def _look_at_kind(place: Place) -> None:
    """Anything but a file and a folder can only be left out."""
    assert place.file is not None
    try:
        mode = place.file.stat().st_mode
    except FileNotFoundError:
        raise _Broken("missing") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise _Broken("special")


def _look_at_pictures(record: Record, here: Place, whole: bool) -> Record:
    """A clip without a container: an animation, a folder of pictures, a picture."""
    if not here.is_folder:
        _look_at_bytes(here)
    try:
        with VideoReader(here) as reader:
            frames, fps, (height, width) = reader.frames, reader.fps, reader.size
            record = replace(record, frames=frames, fps=round(fps, 4), height=height, width=width)
            record = replace(record, decoder=reader.decoder)
            read, same, moves = _read_frames(reader, [(0, frames)], (height, width), whole)
            record = replace(record, traits=traits_of(here), moves=moves)
    except VideoError as error:
        reason = str(error).removeprefix(f"{here}: ").removeprefix("damaged or truncated, ")
        raise _Broken("damaged" if record.frames else "unknown", reason) from None
    kind = "folder of pictures" if here.is_folder else here.suffix[1:]
    notes = [] if same else [f"seek: {NOTES['seek']}"]
    if height % 2 or width % 2:
        notes.append(f"odd size: {width}x{height}")
    notes += ["transparent: an alpha channel"] if record.traits else []
    return replace(record, codec=kind, duration=frames / fps if frames > 1 else 0.0, read=read, notes=notes)


def _look_at_bytes(place: Place) -> int:
    """How many bytes the file is short of."""
    head = read_head(place)
    if not any(head):
        raise _Broken("blank")
    if is_text(head):
        begin = " ".join(head[:200].decode(errors="ignore").split())
        raise _Broken("text", f"it begins {begin[:40]!r}")
    short = missing_bytes(place, head)
    if short is None:
        raise _Broken("no moov")
    return short


def _look_at_container(place: Place, short: int) -> Container:
    try:
        return read_container(place)
    except NoVideo as error:
        if short:
            raise _Broken("truncated", f"at least {short:,} bytes are missing") from None
        raise _Broken("no video" if error.known else "unknown", str(error)) from None


def _look_at_frames(record: Record, here: Place, whole: bool, container: Container, short: int, begin: Begin) -> Record:
    claimed = container.packets
    try:
        look = None if short else look_through(here, begin)
        record = replace(record, traits=with_look(traits_of(here), look))
        with VideoReader(here) as reader:
            claimed, fps = reader.frames, reader.fps
            part = record.part or (0, claimed)
            if part[1] > claimed:
                raise _Broken("frame count", f"frames {part[0]} to {part[1] - 1} are told of, {claimed} are there")
            damage = within(look.damage if look and look.frames == claimed else (), part)
            sound = within(sound_parts(damage, claimed), part)
            if not sound:
                raise _Broken("damaged", f"all {part[1] - part[0]} of them")
            height, width = reader.pixels([sound[0][0]]).shape[1:3]
            frames, duration = part[1] - part[0], record.duration * (part[1] - part[0]) / claimed
            record = replace(record, frames=frames, fps=round(fps, 4), height=height, width=width)
            record = replace(record, decoder=reader.decoder, duration=duration if record.part else record.duration)
            if damage:
                record = replace(
                    record, damage=tuple(damage), parts=tuple((start, stop, stop - start) for start, stop in sound)
                )
            if not short:
                read, same, moves = _read_frames(reader, sound, (height, width), whole)
                notes = [] if same else [f"seek: {NOTES['seek']}"]
                record = replace(record, read=read, moves=moves, notes=notes)
    except VideoError as error:
        if not short:
            raise _explained(here, claimed, error) from None
    if short:
        raise _Broken("truncated", f"{short:,} of {short + record.stamp.size:,} bytes are missing")
    return record


def _explained(place: Place, claimed: int, error: VideoError) -> _Broken:
    """Why a file whose structure is whole does not decode."""
    with place.open() as file:
        file.seek(-min(512, file.seek(0, os.SEEK_END)), os.SEEK_END)
        if not any(file.read()):
            return _Broken("truncated", "its end is nothing but zero bytes, as of a download that was never finished")
    there = count_frames(place)
    if there is not None and there < claimed:
        return _Broken("frame count", f"{claimed} frames are promised, {there} are there")
    return _Broken("damaged", str(error).removeprefix(f"{place}: damaged or truncated, "))


def _read_frames(
    reader: VideoReader, sound: Sequence[tuple[int, int]], size: tuple[int, int], whole: bool
) -> tuple[int, bool, float | None]:
    """Decodes all sound frames, or those of three windows of each long part.

    Returns their number, whether a frame that is sought is the one that reading up to it shows, and the share of the
    pixels that moves in frames `PACE` apart, from the first on.
    """
    parts = []
    for first, stop in sound:
        if whole or stop - first <= LONG:
            parts.append(range(first, stop))
        else:
            parts += [range(n, n + WINDOW) for n in (first, (first + stop - WINDOW) // 2, stop - WINDOW)]
    chunk = max(1, AT_ONCE // (3 * size[0] * size[1]))
    chosen = parts[0].start + min(sum(map(len, parts)), WINDOW, len(parts[0])) * 2 // 3
    shown, watched = None, list[np.ndarray]()
    pace = range(parts[0].start, min(parts[0].start + PACE * WATCHED, parts[0].stop), PACE)
    for part in parts:
        for start in range(part.start, part.stop, chunk):
            pixels = reader.pixels(range(start, min(start + chunk, part.stop)))
            if part is parts[0]:
                watched += [pixels[n - start].copy() for n in range(start, start + len(pixels)) if n in pace]
            if start <= chosen < start + chunk and shown is None:
                shown = pixels[chosen - start].copy()
    with VideoReader(reader.path) as afresh:
        sought = afresh.pixels([chosen])[0]
    same = shown is not None and np.array_equal(shown, sought)
    return sum(map(len, parts)), same, share_that_moves(watched)


def _notes(record: Record, container: Container) -> Iterator[str]:
    if record.damage:
        yield f"damaged stretch: {in_words(record.damage)}"
    if "squeezed" in record.traits:
        yield f"squeezed: {container.aspect}, and {record.width}x{record.height} in square pixels"
    if "interlaced" in record.traits:
        yield "interlaced: frames of two fields"
    if "hdr" in record.traits:
        yield f"high dynamic range: {container.transfer}"
    if "transparent" in record.traits:
        yield "transparent: an alpha channel"
    if not container.steady:
        yield f"variable frame rate: {record.fps:g} frames a second on average"
    if container.bits > 8:
        yield f"deep colour: {container.bits} bits ({container.pixel_format})"
    if record.height % 2 or record.width % 2:
        yield f"odd size: {record.width}x{record.height}"
    if container.rotation:
        yield f"rotated: by {abs(container.rotation)} degrees"
    if container.declared not in (0, record.frames) and not record.part:
        yield f"header: promises {container.declared} frames, {record.frames} are there"
    if container.key_spacing >= SPARSE:
        yield f"few key frames: {container.key_spacing} frames from one to the next"
