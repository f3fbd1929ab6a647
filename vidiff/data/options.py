"""Options of the data: which clips there are, and what a model sees of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from omegaconf import MISSING

from vidiff.data.captions import SOURCES
from vidiff.data.decoders import check_decoder
from vidiff.data.find import LAYOUTS
from vidiff.data.shapes import ShapesSpec
from vidiff.data.sources import DataError


@dataclass
class DataConfig:
    """Which clips, and what a model sees of them."""

    root: str = MISSING  # folder of videos, or a list of them: a .csv or .jsonl file
    layout: str = "auto"  # or folders, ucf101, flat, images, list; shapes makes the shapes set in `root` if need be
    shapes: dict[str, int] = field(default_factory=dict)  # for layout shapes: options of the set, such as {size: 128}
    captions: str = "auto"  # for a model with text: jsonl, txt or csv, as they lie in `root`
    split: str = "train"
    test_split: str = "test"
    fold: int = 1  # of UCF-101's three train/test lists
    size: int = 64  # height and width in pixels, after resizing the shorter side and cropping
    frames: int = 16  # of a clip
    fps: float = 0.0  # see every file at this many frames a second, by its time stamps; 0 for its own frames
    seconds: float = 0.0  # length of a clip, in place of `frames`; needs `fps`
    stride: list[int] = field(default_factory=lambda: [1, 1])  # least and most source frames per clip frame
    least_stride: float = 0.0  # part of the clips at the least stride, the others at any from least to most
    flip: bool = False  # mirror half of the clips; off where left and right mean something
    limit: int = 0  # use this many files of each split, evenly chosen; 0 for all
    max_broken: float = 0.05  # fraction of files that may be unreadable, beside those that the doctor left out
    decoder: str = "auto"  # or pyav, decord, torchcodec; auto is pyav, with decord for what pyav refuses
    patience: float = 60.0  # seconds that reading a clip may take before its decoder is killed and the file left out
    workers: int = 2  # processes that load clips

    def check(self) -> None:
        """Raises DataError for values out of range, and sets `frames` where `seconds` tells it."""
        if self.layout not in LAYOUTS:
            raise DataError(f"data.layout is {self.layout!r}; choose {', '.join(LAYOUTS)}")
        check_decoder(self.decoder)
        if self.captions not in SOURCES:
            raise DataError(f"data.captions is {self.captions!r}; choose {', '.join(SOURCES)}")
        for key in ("fps", "seconds"):
            if not 0 <= getattr(self, key) < float("inf"):
                raise DataError(f"data.{key} is {getattr(self, key)}; give a positive number, or 0 to leave it open")
        if self.seconds:
            if not self.fps:
                raise DataError(
                    f"data.seconds is {self.seconds}, but files have frame rates of their own: set data.fps as well"
                )
            self.frames = round(self.seconds * self.fps)
            if not self.frames:
                raise DataError(f"data.seconds is {self.seconds}, which at data.fps={self.fps} is less than a frame")
        for key in ("frames", "size"):
            if getattr(self, key) < 1:
                raise DataError(f"data.{key} is {getattr(self, key)}; give 1 or more")
        if len(self.stride) != 2 or not 1 <= self.stride[0] <= self.stride[1]:
            raise DataError(f"data.stride is {self.stride}; give the least and the most, such as [1, 4]")
        for key in ("workers", "limit"):
            if getattr(self, key) < 0:
                raise DataError(f"data.{key} is {getattr(self, key)}; give 0 or more")
        try:
            ShapesSpec(**self.shapes)
        except TypeError:
            raise DataError(f"data.shapes is {self.shapes}; its keys are {', '.join(asdict(ShapesSpec()))}") from None
        if not self.patience > 0:
            raise DataError(f"data.patience is {self.patience}; give seconds above 0, such as 60")
        for key in ("max_broken", "least_stride"):
            if not 0 <= getattr(self, key) <= 1:
                raise DataError(f"data.{key} is {getattr(self, key)}; give a fraction from 0 to 1")
