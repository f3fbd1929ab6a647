"""Options of the data: which clips there are, and what a model sees of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any

from omegaconf import MISSING

from vidiff.data.buckets import Bucket
from vidiff.data.captions import SOURCES
from vidiff.data.find import LAYOUTS
from vidiff.data.latents.shard import DTYPES
from vidiff.data.root import GIGABYTES
from vidiff.data.shapes import ShapesSpec
from vidiff.store.error import DataError
from vidiff.video.decode import Treatment
from vidiff.video.decoders import check_decoder
from vidiff.video.pictures import colour_of

MOST_WORKERS = 1024  # processes, each with memory of its own


@dataclass
class BucketConfig:
    """Clips of one shape; a batch holds those of one bucket."""

    frames: int = 0  # 0 for data.frames
    size: list[int] = field(default_factory=list)  # height and width in pixels; by default data.size for both


def _rises(pair: list[float]) -> bool:
    return len(pair) == 2 and 1 <= pair[0] <= pair[1] < inf


# keys, what is allowed of their values, and what to give instead
RULES: list[tuple[str, Callable[[Any], bool], str]] = [
    ("layout", lambda name: name in LAYOUTS, f"choose {', '.join(LAYOUTS)}"),
    ("captions", lambda name: name in SOURCES, f"choose {', '.join(SOURCES)}"),
    ("latent_dtype", lambda name: name in DTYPES, f"choose {', '.join(DTYPES)}"),
    ("remote_cache_gb", lambda size: 0 < size < inf, "give gigabytes above 0, such as 50"),
    ("shard_mb", lambda size: 0 < size < inf, "give megabytes above 0, such as 64"),
    ("patience", lambda seconds: seconds > 0, "give seconds above 0, such as 60"),
    ("fps seconds", lambda number: 0 <= number < inf, "give a positive number, or 0 to leave it open"),
    ("size crops", lambda number: number >= 1, "give 1 or more"),
    ("limit", lambda number: number >= 0, "give 0 or more"),
    ("workers", lambda number: 0 <= number <= MOST_WORKERS, f"give 0 to {MOST_WORKERS} processes"),
    ("fold", lambda number: number in (1, 2, 3), "choose 1, 2 or 3, the folds of UCF-101"),
    ("max_broken least_stride jitter images_share", lambda part: 0 <= part <= 1, "give a fraction from 0 to 1"),
    ("zoom", _rises, "give the least and the most, 1 or more, such as [1, 1.5]"),
    ("stride", _rises, "give the least and the most, such as [1, 4]"),
]


@dataclass
class Source:
    """Which clips there are, and how files are read: an autoencoder shares them with the models of its latents."""

    # folder of videos, a list of them (.csv, .jsonl), or tars, as in clips-{000..009}.tar; or the URL of any of these
    root: str = MISSING
    remote_cache_gb: float = GIGABYTES  # copies of remote files in runs/remote; those used longest ago are removed
    # or folders, ucf101, flat, images, list, webdataset, lerobot; shapes makes the shapes set in `root` if need be
    layout: str = "auto"
    shapes: dict[str, int] = field(default_factory=dict)  # for layout shapes: options of the set, such as {size: 128}
    captions: str = "auto"  # for a model with text: jsonl, txt (or within the tars) or csv, as they lie in `root`
    split: str = "train"
    test_split: str = "test"
    fold: int = 1  # of UCF-101's three train/test lists
    camera: str = ""  # of a data set of LeRobot, such as observation.images.top; by default its first
    fps: float = 0.0  # see every file at this many frames a second, by its time stamps; 0 for its own frames
    limit: int = 0  # use this many files of each split, evenly chosen; 0 for all
    max_broken: float = 0.05  # fraction of files that may be unreadable, beside those that the doctor left out
    # or pyav, decord, torchcodec; auto is decord, with pyav for what decord does not read exactly
    decoder: str = "auto"
    background: str = "white"  # colour over which transparent pixels are put, as CSS names it: black, "#00ff00"
    deinterlace: bool = False  # make whole frames of those that are of two fields, by FFmpeg's filter bwdif
    tonemap: bool = False  # bring high dynamic range (PQ, HLG) to the colours of BT.709, by FFmpeg's filter scale
    patience: float = 60.0  # seconds that reading a clip may take before its decoder is killed and the file left out


@dataclass
class DataConfig(Source):
    """Which clips, and what a model sees of them."""

    size: int = 64  # height and width in pixels, after resizing the shorter side and cropping
    frames: int = 16  # of a clip
    seconds: float = 0.0  # length of a clip, in place of `frames`; needs `fps`
    stride: list[int] = field(default_factory=lambda: [1, 1])  # least and most source frames per clip frame
    least_stride: float = 0.0  # part of the clips at the least stride, the others at any from least to most
    buckets: list[BucketConfig] = field(default_factory=list)  # shapes of clips, in place of one; see `assign`
    images: str = ""  # pictures to train on besides, as clips of one frame: a folder, or a list as of `root`
    images_share: float = 0.2  # part of the batches that are of pictures
    jitter: float = 0.0  # change brightness, contrast and saturation of each clip by up to this share; pixels only
    zoom: list[float] = field(default_factory=lambda: [1.0, 1.0])  # frames so much larger than `size` are cropped to it
    actions: bool = False  # learn what was done between frames, from the files of actions beside the clips
    # show the model another video of each clip: a folder of them, laid out as `root` is, such as data/depth; of a data
    # set of LeRobot, another of its cameras; empty for none
    control: str = ""
    flip: bool = False  # mirror half of the clips; off where left and right mean something
    crops: int = 1  # of each frame that latents are cached of, along its longer side; 1 takes the middle
    latent_dtype: str = "float16"  # of the latent cache; bfloat16 where a codec's latents go beyond 65504
    shard_mb: float = 64.0  # size of the latent cache's files, which processes that encode together share out
    latents: str = ""  # folder of latent caches, or a URL to read finished ones from; empty for runs/latents
    workers: int = 2  # processes that load clips

    @property
    def treatment(self) -> Treatment:
        """What is done to the frames of every file."""
        return Treatment(self.background, self.deinterlace, self.tonemap)

    @property
    def source(self) -> dict[str, Any]:
        """The options that say which clips there are, by key."""
        return {key.name: getattr(self, key.name) for key in fields(Source)}

    def plan(self) -> list[Bucket]:
        """The shapes of clips, in the order in which they are given; the first is what is drawn by default."""
        square = [self.size, self.size]
        return [Bucket(b.frames or self.frames, *(b.size or square)) for b in self.buckets or [BucketConfig()]]

    def drawn(self) -> list[Bucket]:
        """All shapes that a model sees, the default first: of clips, and of pictures."""
        plan = self.plan()
        return list(dict.fromkeys([*plan, *(bucket.picture for bucket in plan if self.images)]))

    def sides(self) -> list[tuple[str, int]]:
        """Heights and widths of clips in pixels, and how messages call each."""
        if not self.buckets:
            return [("data.size", self.size)]
        return [(f"data.buckets has {b.height}x{b.width}, where a side", side) for b in self.plan() for side in b.size]

    def check(self) -> None:
        """Sets `frames` where `seconds` tells it, and the home where ~ does. Raises DataError for wrong values."""
        check_decoder(self.decoder)
        try:
            colour_of(self.background)
        except ValueError:
            raise DataError(
                f"data.background is {self.background!r}; give a colour as CSS names it: white, black, '#00ff00'"
            ) from None
        for path in ("root", "images", "latents", "control"):
            setattr(self, path, os.path.expanduser(getattr(self, path)))
        for keys, allowed, advice in RULES:
            for key in keys.split():
                if not allowed(value := getattr(self, key)):
                    raise DataError(f"data.{key} is {value!r}; {advice}")
        if self.seconds:
            if not self.fps:
                raise DataError(
                    f"data.seconds is {self.seconds}, but files have frame rates of their own: set data.fps as well"
                )
            self.frames = round(self.seconds * self.fps)
            if not self.frames:
                raise DataError(f"data.seconds is {self.seconds}, which at data.fps={self.fps} is less than a frame")
        if self.frames < 1:
            raise DataError(f"data.frames is {self.frames}; give 1 or more")
        for bucket in self.buckets:
            if bucket.frames < 0 or len(bucket.size) not in (0, 2) or min(bucket.size, default=1) < 1:
                raise DataError(
                    f"data.buckets has {asdict(bucket)}; give frames and [height, width], such as "
                    "{frames: 8, size: [48, 80]}"
                )
        if twice := [bucket for bucket, count in Counter(self.plan()).items() if count > 1]:
            raise DataError(f"data.buckets has clips of {twice[0]} more than once: leave one")
        if self.actions and (self.flip or self.images):
            what = "data.flip is true, but a mirrored clip" if self.flip else "data.images is given, but a picture"
            raise DataError(f"{what} has no actions that are known: leave it out, or set data.actions=false")
        if self.images and not 0 < self.images_share < 1:
            raise DataError(f"data.images_share is {self.images_share}; give more than 0 and less than 1, such as 0.2")
        try:
            ShapesSpec(**self.shapes)
        except TypeError:
            raise DataError(f"data.shapes is {self.shapes}; its keys are {', '.join(asdict(ShapesSpec()))}") from None
        except ValueError as error:
            raise DataError(f"data.shapes.{error}") from None
