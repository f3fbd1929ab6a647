"""Which video lies beside each clip of a data set, and whether the two go together frame by frame.

`data.control` names a folder, or tars, laid out as `data.root` is: beside `clips/train/a/0001.mp4` stands
`depth/train/a/0001.mp4`, or any other clip of that name, such as a folder `depth/train/a/0001` of numbered pictures. Of
a data set of LeRobot it may name another of its cameras.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vidiff.data.actions.lerobot import is_lerobot
from vidiff.data.actions.read import frames_behind
from vidiff.data.clip import NAMED, Clip, stem_of
from vidiff.data.find import Stock, take_stock
from vidiff.data.index import Index, look_into
from vidiff.data.options import DataConfig
from vidiff.data.probe import Outcome
from vidiff.data.root import Root, copies_of, local, root_of
from vidiff.store.copies import Copies
from vidiff.store.error import DataError, called
from vidiff.store.remote import is_url
from vidiff.video.reader import Manner

ALIKE = ("auto", "images", "webdataset", "lerobot")  # layouts whose names tell where a clip's bytes are

FAULTS = {  # of the video beside a clip, and what to do about it
    "none": ("nothing beside it", "make it, or take the clip out: with data.control all clips need one"),
    "lost": ("a video beside it that cannot be read", "make it anew"),
    "length": ("another number of frames beside it", "give one for each frame of the clip"),
    "shape": ("frames of another shape beside it", "give frames of the clip's own aspect, at any resolution"),
}


class Unpaired(ValueError):
    """A clip whose video beside it cannot be used. `fault` is one of `FAULTS`."""

    def __init__(self, fault: str, says: str) -> None:
        super().__init__(says)
        self.fault = fault


class Beside:
    """The clips of a folder that lies beside a data set, by the names of that one's.

    Args:
        root: the folder.
        layout: of the data set, as of `vidiff.data.find.take_stock`.

    Raises:
        DataError: no folder, or no clips in it.
    """

    def __init__(self, root: Root, layout: str = "auto", splits: Iterable[str] = (), camera: str = "") -> None:
        self.root = root
        if not (root.name or any(root.tree.inside())):
            raise DataError(f"data.control is {root}, where nothing is: name the folder of the videos beside the clips")
        try:
            stock = take_stock(root, layout if layout in ALIKE else "flat", splits={*splits}, camera=camera)
        except DataError as error:
            raise DataError(f"data.control is {root}: {error}") from None
        self._exact = {clip.name: clip for clip in _all_of(stock)}
        self._near: dict[str, list[Clip]] = {}
        for clip in self._exact.values():
            self._near.setdefault(stem_of(clip.name), []).append(clip)

    def of(self, clip: Clip) -> Clip:
        """What lies beside a clip, not looked into yet. Raises Unpaired for nothing, or more than one."""
        if found := self._exact.get(clip.name):
            return replace(found, label=clip.label)
        near = self._near.get(stem_of(clip.name), [])
        if not near:
            raise Unpaired("none", f"{clip.name}: no {self.root}/{stem_of(clip.name)}.* (or a folder of pictures)")
        if len(near) > 1:
            raise Unpaired("none", f"{clip.name}: {near[0].place} and {near[1].place} are both beside it: keep one")
        return replace(near[0], label=clip.label)


def matched(clip: Clip, found: Clip, outcome: Outcome, manner: Manner) -> Clip:
    """The record of the video beside a clip, of as many frames.

    Args:
        found: as `Beside` has it.
        outcome: what looking into it has told.
        manner: how the clip is read.

    Raises:
        Unpaired: it cannot be read, is damaged, or has another number of frames or another aspect.
    """
    if isinstance(outcome, str):
        raise Unpaired("lost", f"{found.place}: {outcome}")
    if outcome.damage:
        raise Unpaired("lost", f"{found.place}: some of its frames are damaged")
    if clip.height * outcome.width != clip.width * outcome.height:
        raise Unpaired(
            "shape",
            f"{found.place} has frames of {outcome.height}x{outcome.width}, and {clip.name} of "
            f"{clip.height}x{clip.width}",
        )
    if clip.part is not None and outcome.part is None:  # what is left of a clip that is damaged
        outcome = replace(outcome, frames=min(outcome.frames, clip.part[1]) - clip.part[0], part=clip.part)
        if manner.fps:
            outcome = replace(outcome, frames=clip.frames)
            frames_behind(outcome, replace(manner, decoder=outcome.decoder, part=outcome.part))
    if outcome.frames != clip.frames:
        raise Unpaired("length", f"{found.place} has {outcome.frames} frames, and {clip.name} {clip.frames}")
    return outcome


def beside_of(data: DataConfig, copies: Copies) -> Beside:
    """What lies beside a data set, as `data.control` says. Raises DataError as `Beside`."""
    named = data.control
    if not is_url(named) and not local(named).exists():
        root = root_of(data.root, copies)
        if is_lerobot(root.tree):  # of another camera
            return Beside(root, "lerobot", camera=named)
    return Beside(root_of(named, copies), data.layout, (data.split, data.test_split))


def control_index(index: Index, data: DataConfig, runs: Path, workers: int = 2, progress: bool = True) -> Index:
    """The videos beside the clips of an index, in the order of these, each as long as its clip.

    Args:
        runs, workers, progress: as of `vidiff.data.index.index_of`.

    Raises:
        DataError: no such folder; or what is wrong, clip by clip.
    """
    with called("data.control"):
        beside = beside_of(data, copies_of(runs, data.remote_cache_gb))
    pairs, wrong = list[tuple[Clip, Clip]](), list[str]()
    for clip in index.files:
        try:
            pairs.append((clip, beside.of(clip)))
        except Unpaired as error:
            wrong.append(str(error))
    files = list[Clip]()
    outcomes = look_into([found for _, found in pairs], data, data.control, runs, workers, progress)
    for (clip, found), outcome in zip(pairs, outcomes, strict=True):
        try:
            files.append(matched(clip, found, outcome, index.manner(clip)))
        except (Unpaired, DataError) as error:
            wrong.append(str(error))
    if wrong:
        more = f"\nand {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise DataError(
            f"data.control is {data.control}, but {len(wrong)} of {len(index.files)} clips have nothing there that "
            "goes with them frame by frame:\n" + "\n".join(wrong[:NAMED]) + more
        )
    return replace(index, root=str(beside.root), files=files, broken=[])


def _all_of(stock: Stock) -> list[Clip]:
    """Every clip, wherever it lies."""
    return [*stock.clips, *(Clip(one.name, one.place) for one in stock.left_out if one.place is not None)]
