"""What every training is described by, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from omegaconf import MISSING

from vidiff.data.options import DataConfig
from vidiff.engine.loop import TrainOptions
from vidiff.recipe.slots import ConfigError

SHARED = ("index", "latents", "remote")  # folders beside the runs
KEPT = ("checkpoints", "codec", "ema", "samples")  # folders within a run
LONGEST_NAME = 200  # bytes of a part of a run's name; file systems take 255, and drafts need some


@dataclass
class RunConfig:
    """What every training has."""

    kind: str = MISSING  # vae, diffusion, classifier or student
    name: str = MISSING  # the run's folder is runs/<name>, as it is typed: name=0515 is runs/0515; it may have slashes
    runs: str = "runs"
    device: str = "auto"  # or cpu, cuda, cuda:1
    batch: int = 16  # clips a step, over all processes
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainOptions = field(default_factory=TrainOptions)

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name

    def check_name(self) -> None:
        """Raises ConfigError for a name that makes no folder within `runs`.

        Whoever is about to write calls this: a run of an earlier version may be read under whatever name it has.
        """
        shown, parts = self.name if len(self.name) <= 80 else f"{self.name[:80]}...", self.name.split("/")
        reasons = {
            "it leads out of the folder of runs": self.name.startswith("/") or ".." in parts,
            "it names no folder": any(part.strip() in ("", ".") for part in parts),
            "it holds characters that cannot be seen": not self.name.isprintable(),
            f"a part of it has more than {LONGEST_NAME} bytes": any(
                len(part.encode(errors="replace")) > LONGEST_NAME for part in parts
            ),
            f"{parts[0]} is where runs keep what they share": parts[0] in SHARED,
            "it leads into what another run keeps": any(part in KEPT for part in parts[1:]),
        }
        for reason, applies in reasons.items():
            if applies:
                raise ConfigError(
                    f"name is {shown!r}, but {reason}: give one such as name=cats, or name=cats/first; a run elsewhere "
                    "has runs=FOLDER besides"
                )

    @property
    def recomputed(self) -> list[int]:
        """Levels of the network whose activations are recomputed in the backward pass."""
        return []

    @property
    def recomputable(self) -> range:
        """Levels of which they can be."""
        return range(0)

    @property
    def learns(self) -> tuple[str, ...]:
        """What of the data it can be told beside the clips, by key."""
        return ()

    @property
    def scores(self) -> tuple[str, ...]:
        """Of its validation's, those of which the least is best."""
        return ("val/loss",)

    def check(self) -> None:
        """Raises ConfigError for values that do not go together."""
        if wrong := [key for key in ("actions", "control") if getattr(self.data, key) and key not in self.learns]:
            raise ConfigError(f"data.{wrong[0]} is set, but only models that make clips learn {wrong[0]}: leave it out")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}; give 1 or more")
        if self.batch % self.train.accumulate:
            raise ConfigError(
                f"batch is {self.batch}; it must divide into train.accumulate={self.train.accumulate} parts"
            )
        self.data.check()


class OfClips(Protocol):
    """What makes latents of several frames each: an autoencoder's config, or a codec."""

    @property
    def temporal(self) -> int: ...

    def check_frames(self, frames: int, what: str) -> None: ...


def check_lengths(data: DataConfig, codec: OfClips) -> None:
    """Raises ValueError, with the lengths that would do, where the clips of a bucket make no whole latents."""
    for bucket in data.plan():
        what = f"data.buckets has {bucket}, where frames" if data.buckets else "data.frames"
        codec.check_frames(bucket.frames, what)
