"""What counts as a clip, and what decodes it: nothing else of the library needs to know of what kind a clip is."""

from __future__ import annotations

from pathlib import PurePosixPath

from vidiff.store.place import Place, Stamp
from vidiff.video.decode import PLAIN, VIDEO_SUFFIXES, Decoder, Treatment
from vidiff.video.decoders import video_file
from vidiff.video.pictures import ANIMATION_SUFFIXES, PICTURE_SUFFIXES, Animation, FrameFolder, is_transparent, numbered
from vidiff.video.stream import stream_of

CLIP_SUFFIXES = VIDEO_SUFFIXES | ANIMATION_SUFFIXES


def make_decoder(place: Place, decoder: str = "auto", treatment: Treatment = PLAIN) -> Decoder:
    """The decoder of a video file, an animated GIF or WebP, a picture, or a folder of numbered pictures.

    Args:
        place: on this machine.
        decoder: of a video file, one of `vidiff.video.decoders.DECODERS`.
        treatment: what is done to its frames; decord and torchcodec themselves know nothing of it.
    """
    if place.is_folder:
        return FrameFolder(place, treatment)
    if not is_video(place):
        return Animation(place, treatment)
    return video_file(place, decoder, treatment)


def traits_of(place: Place) -> tuple[str, ...]:
    """Which of `vidiff.video.stream.TRAITS` a clip on this machine has. Raises `VideoError` where it is none."""
    if is_video(place):
        return stream_of(place).traits
    return ("transparent",) if is_transparent(place) else ()


def is_video(place: Place) -> bool:
    """Whether a clip is a file with a container and a codec, which pictures have not."""
    return not place.is_folder and place.suffix not in ANIMATION_SUFFIXES | PICTURE_SUFFIXES


def clips_in(folder: str, files: list[str], folders: list[str], pictures: bool = False) -> list[str]:
    """The names of the clips that a folder holds directly, sorted; its own where it is one clip, as a whole.

    It is where it holds at least two numbered pictures, and neither videos nor folders.

    Args:
        folder: its name; "" for the folder that is searched, which is no clip.
        files, folders: what lies directly in it, of names that begin with its own.
        pictures: take each single picture as a clip of one frame, and folders of numbered ones as no clips.
    """
    suffixes = CLIP_SUFFIXES | PICTURE_SUFFIXES if pictures else CLIP_SUFFIXES
    clips = sorted(file for file in files if PurePosixPath(file).suffix.lower() in suffixes)
    if not (clips or pictures or folders) and folder and len(numbered(files)) > 1:
        return [folder]
    return clips


def stamp_of(place: Place) -> Stamp:
    """Of a folder that is a clip, the size of its pictures together, and the last change of any."""
    if not place.is_folder:
        return place.stamp()
    try:
        files = {file.name: file for file in place.inside()}
    except OSError:
        return Stamp()
    stamps = [files[name].stamp() for name in numbered(files)] or [Stamp(0, place.stamp().changed)]
    return Stamp(sum(size for size, _ in stamps), max(changed for _, changed in stamps))
