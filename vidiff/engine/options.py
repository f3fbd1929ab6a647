"""What a training is told, besides what to train and on what."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from vidiff.engine.ema import gamma_of
from vidiff.engine.optim import Optim

LOGS = ("tensorboard", "wandb", "trackio")


@dataclass
class TrainOptions:
    """How long, how precisely, and how often to look. 0 for any `..._every` means never.

    Args:
        accumulate: parts that the batch of one step is taken in; more need less memory.
        ema_widths: relative widths, such as [0.05, 0.1], of further averages, of which `vidiff ema` makes any other
            afterwards.
        ema_every: steps between snapshots of those averages, each half the size of the weights for each width.
        keep: checkpoints to keep: so many of the newest.
        keep_every: keep those of every so many steps, besides.
        keep_best: save and keep that of the lowest such score of the validation, such as val/loss, besides.
        max_skips: steps in a row with a loss or gradients that are not finite, until training gives up.
        spike: a loss so many deviations above the median of the steps before it is told, with its clips. 0: none is.
        hang: seconds without a step until a process tells its stacks and ends; ten times that for the first step,
            validation, sampling and saving. 0: never.
        log: where metrics and samples go besides the run's own folder: tensorboard, wandb, trackio.
        compile: compile each kind of block once, if it then computes the same.
        parallel: of several processes, whether each holds all weights (ddp), a shard of them (fsdp), or a shard within
            its group, of which there are several (hsdp).
        deterministic: on a GPU, take only kernels that give the same bits every time, which are slower; so a run goes
            on bit for bit there as well. On CPUs it does without being asked.
        shards: processes of a group of hsdp; 0 for those of one machine.
        check_memory: refuse, before anything is made, a training that needs far more memory than there is.

    Raises:
        ValueError: for values that cannot work.
    """

    steps: int = 1000
    optim: Optim = field(default_factory=Optim)
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    ema: float = 0.999
    ema_warmup: int = 10
    ema_widths: list[float] = field(default_factory=list)
    ema_every: int = 500
    checkpoint_every: int = 500
    keep: int = 3
    keep_every: int = 0
    keep_best: str = ""
    log_every: int = 20
    validate_every: int = 0
    sample_every: int = 0
    max_skips: int = 20
    spike: float = 20.0
    hang: float = 600.0
    log: list[str] = field(default_factory=list)
    seed: int = 0
    compile: bool = False
    parallel: Literal["ddp", "fsdp", "hsdp"] = "ddp"
    shards: int = 0
    deterministic: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "keep", "log_every", "max_skips"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("checkpoint_every", "keep_every", "ema_every", "validate_every", "sample_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} is {getattr(self, name)}; give 0 (never) or more")
        for name, unit in (("spike", "deviations"), ("hang", "seconds")):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"train.{name} is {getattr(self, name)}; give 0 (never) or more {unit}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"train.ema is {self.ema}; the decay must be in [0, 1), such as 0.999; 0 averages nothing")
        if self.ema_warmup < 1:
            raise ValueError(f"train.ema_warmup is {self.ema_warmup}; give 1 (none) or more")
        for sink in self.log:
            if sink not in LOGS:
                raise ValueError(f"train.log has {sink!r}; choose {', '.join(LOGS)}, as in train.log=[tensorboard]")
        if len(set(self.log)) < len(self.log):
            raise ValueError(f"train.log is {self.log}; give each once")
        for width in self.ema_widths:
            try:
                gamma_of(width)
            except ValueError as error:
                raise ValueError(f"train.ema_widths: {error}") from None
        if sorted({round(width, 3) for width in self.ema_widths}) != sorted(self.ema_widths):
            raise ValueError(f"train.ema_widths is {list(self.ema_widths)}; give each once, of three decimals at most")
        if self.keep_every and (not self.checkpoint_every or self.keep_every % self.checkpoint_every):
            raise ValueError(
                f"train.keep_every is {self.keep_every}; give a multiple of checkpoint_every, {self.checkpoint_every}"
            )
        if self.keep_best and not self.validate_every:
            raise ValueError(f"train.keep_best is {self.keep_best}, but validate_every is 0: give that a number")
        if self.precision not in ("auto", "fp32", "bf16", "fp16"):
            raise ValueError(f"train.precision is {self.precision!r}; choose auto, fp32, bf16 or fp16")
        if self.parallel not in ("ddp", "fsdp", "hsdp"):
            raise ValueError(f"train.parallel is {self.parallel!r}; choose ddp, fsdp or hsdp")
        if self.shards < 0 or (self.shards and self.parallel != "hsdp"):
            raise ValueError(
                f"train.shards is {self.shards} and train.parallel {self.parallel}; give hsdp 0 (the processes of a "
                "machine) or more, and the others 0"
            )
