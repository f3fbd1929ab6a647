"""Clips and pictures as one data set."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from vidiff.data.buckets import Grouped
from vidiff.data.clips import ClipDataset, Sample
from vidiff.data.latents.dataset import Captioned, LatentDataset
from vidiff.data.order import Key

Batched = LatentDataset | Captioned


class Joint(Dataset[Sample]):
    """The samples of clips first, then those of pictures, which are clips of one frame.

    Attributes:
        kinds: the groups of the clips, and those of the pictures, by their indices here.

    Args:
        files: of the clips; the numbers of the pictures' files ("key") go on from there.
        share: of the batches that are of pictures, for `vidiff.data.order.JointOrder`.
    """

    def __init__(self, clips: Grouped, pictures: Grouped, files: int, share: float) -> None:
        self.clips, self.pictures, self.files, self.share = clips, pictures, files, share

    @property
    def kinds(self) -> tuple[list[list[int]], list[list[int]]]:
        return self.clips.groups, [[index + len(self.clips) for index in each] for each in self.pictures.groups]

    def __len__(self) -> int:
        return len(self.clips) + len(self.pictures)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        if index < len(self.clips):
            return self.clips[epoch, index]
        sample = self.pictures[epoch, index - len(self.clips)]
        return {**sample, "key": sample["key"] + self.files}


class JointLatents(Joint):
    """The same of latents, which come in batches: each of one kind, as `JointOrder` gives them."""

    def __init__(self, clips: Batched, pictures: Batched, files: int, share: float) -> None:
        super().__init__(clips, pictures, files, share)
        self.batched = clips, pictures

    def __getitems__(self, keys: Sequence[Key]) -> Sample:
        """A batch."""
        clips, pictures = self.batched
        if keys[0][1] < len(clips):
            return clips.__getitems__(keys)
        batch = pictures.__getitems__([(epoch, index - len(clips)) for epoch, index in keys])
        return {**batch, "key": batch["key"] + self.files}


class JointClips(Joint):
    """The same of pixels, whose decoders are watched together."""

    def __init__(self, clips: ClipDataset, pictures: ClipDataset, share: float) -> None:
        super().__init__(clips, pictures, len(clips.index.files), share)
        self.watch = clips.watch
        self.watched = clips, pictures
        pictures.watch, pictures.first = self.watch, self.files

    def lose(self, number: int, reason: str) -> None:
        """As of `ClipDataset`, by the file's number among those of both."""
        clips, pictures = self.watched
        (clips if number < self.files else pictures).lose(number, reason)
