"""A look into clips, in processes of their own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import PurePosixPath

from vidiff.data.clip import Clip, within
from vidiff.data.workers import Begin, Lost, ask_all, at_once
from vidiff.store.error import Unreachable, VideoError
from vidiff.store.place import Place
from vidiff.video.decode import PLAIN, Treatment
from vidiff.video.decoders import suited
from vidiff.video.pictures import numbered
from vidiff.video.reader import Manner, VideoReader
from vidiff.video.sources import is_video, traits_of
from vidiff.video.stream import look_through, sound_parts, with_look

ENDS = 1 << 16  # bytes of each end of a file that its fingerprint reads


class Unfetched(str):
    """The reason of an `Unreachable`, as processes tell it: not to be kept as a fault of the file's own."""


Outcome = Clip | str  # the clip with its facts, or why it cannot be read


def probe(
    clip: Clip, begin: Begin = at_once, rate: float = 0.0, decoder: str = "auto", treatment: Treatment = PLAIN
) -> Outcome:
    """Look through one clip, and decode its first and its last frame: what a truncated download lacks is the end.

    Args:
        begin: is called once the clip is here, and as long as looking through it goes on.
        rate: frames per second at which it is seen; 0 for its own frames.
        decoder: as of `VideoReader`.
        treatment: what is done to its frames.
    """
    try:
        with clip.place.held() as here:
            begin()
            traits, look, damage = traits_of(here), None, list[tuple[int, int]]()
            if is_video(here):
                look = look_through(here, begin)
                traits, decoder = with_look(traits, look), suited(here, decoder, treatment)
                if look and look.damage:
                    with VideoReader(here) as own:
                        damage = within(look.damage, clip.part) if look.frames == own.frames else []
            with VideoReader(here, rate, decoder, treatment, clip.part) as reader:
                frames, fps, parts = reader.frames, reader.fps, list[tuple[int, int, int]]()
                if look and damage:
                    sound = within(sound_parts(damage, look.frames), clip.part)
                    parts, (height, width) = _parts(Manner(rate, reader.decoder, treatment), here, sound)
                else:
                    height, width = reader.size
                    reader.pixels([frames - 1])
                found = [frames, fps, height, width, fingerprint(here), reader.decoder, traits, damage, parts]
                return clip.with_facts(found)
    except Unreachable as error:
        return Unfetched(error)
    except (VideoError, OSError) as error:
        return str(error).removeprefix(f"{clip.place}: ")


def _parts(
    manner: Manner, here: Place, sound: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int, int]], tuple[int, int]]:
    """The sound parts of a damaged video as `Clip` has them, and the height and width of its frames."""
    parts, size = [], (0, 0)
    for start, stop in sound:
        with replace(manner, part=(start, stop)).open(here) as part:
            size = part.size
            part.pixels([part.frames - 1])
            parts.append((start, stop, part.frames))
    if not parts:
        raise VideoError(f"{here}: all of its frames are damaged")
    return parts, size


def fingerprint(place: Place) -> str:
    """A hash of a file's size and both its ends, where containers keep their tables: a new encoding changes it.

    Of a folder of pictures it is a hash of all names and sizes, and of the first and the last picture.
    """
    if place.is_folder:
        files = {file.name: file for file in place.inside()}
        names = numbered(files)
        parts = [f"{PurePosixPath(name).name}:{files[name].stamp().size}" for name in names]
        parts += [fingerprint(files[name]) for name in (*names[:1], *names[-1:])]
        return hashlib.blake2b("\n".join(parts).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    with place.open() as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return hashlib.blake2b(head + file.read(ENDS) + str(size).encode(), digest_size=16).hexdigest()


def probe_all(
    clips: Sequence[Clip],
    processes: int = 2,
    patience: float = 300.0,
    look: Callable[[Clip, Begin], Outcome] = probe,
) -> Generator[tuple[Clip, Outcome], None, None]:
    """Look into each clip, a few at a time; yields each with its outcome, in the order in which they come.

    A clip on which its process crashes, or stays silent for `patience` seconds, counts as one that cannot be read. The
    time that it takes to fetch it does not count. Closing the generator ends the processes, and so does the end of this
    one, however it comes.
    """
    with closing(ask_all(clips, look, processes, patience)) as answers:
        for clip, outcome in answers:
            yield clip, outcome.reason if isinstance(outcome, Lost) else outcome
