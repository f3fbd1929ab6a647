"""What a training would take on so many GPUs: memory, time and cost, and the settings with which it fits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from vidiff.engine.precision import Precision
from vidiff.plan.estimate import GB, Footprint, estimate, follow, machine_memory, part_size
from vidiff.plan.sketch import sketch
from vidiff.plan.trace import Trace
from vidiff.recipe.kinds import RunConfig
from vidiff.recipe.load import changed
from vidiff.report.log import duration


@dataclass(frozen=True)
class Device:
    """What trains.

    Attributes:
        memory: bytes.
        rate: FLOP/s of dense matrix products with sums in fp32, at most, by precision.
        used: the part of it that products reach, by precision; of whole steps, where there is no bandwidth.
        bandwidth: bytes/s of its memory, at most; None where `used` tells of whole steps.
    """

    name: str
    memory: int
    rate: dict[Precision, float]
    used: dict[Precision, float]
    bandwidth: float | None = None

    def seconds(self, step: Footprint, precision: Precision) -> float:
        """Of a step: one operation after another, each as long as its products take, or as the bytes that it moves."""
        rate = self.rate[precision] * self.used[precision]
        if self.bandwidth is None:
            return step.flops / rate
        pace = self.bandwidth * BANDWIDTH_USED
        return sum(count * max(flops / rate, moved / pace) for (flops, moved), count in step.work.items())


def _gpu(name: str, memory: int, low: float, fp32: float, bandwidth: float) -> Device:
    rate: dict[Precision, float] = {"bf16": low * 1e12, "fp16": low * 1e12, "fp32": fp32 * 1e12}
    return Device(name, memory * GB, rate, dict.fromkeys(rate, GPU_USED), bandwidth * 1e12)


FILLED = 0.9  # of a device's memory, at most: an estimate may be off
# Assumptions, never measured here: what convolutions and products of these widths reach, and what kernels that only
# move numbers do.
GPU_USED = 0.5
BANDWIDTH_USED = 0.8
CPU_USED: dict[Precision, float] = {"fp32": 0.44, "bf16": 0.32}  # measured, to a factor of 1.5: docs/training.md
GPUS = {  # from the makers' data sheets, without sparsity
    "h200": _gpu("h200", 141, 989, 67, 4.8),
    "h100": _gpu("h100", 80, 989, 67, 3.35),
    "a100": _gpu("a100", 80, 312, 19.5, 2.04),
    "l40s": _gpu("l40s", 48, 362, 91.6, 0.864),
    "4090": _gpu("4090", 24, 165, 82.6, 1.01),
}


def this_cpu() -> Device:
    """This machine, timed for half a second."""
    cpu = torch.device("cpu")
    rate: dict[Precision, float] = {
        "fp32": convolution_rate(cpu, torch.float32),
        "bf16": convolution_rate(cpu, torch.bfloat16),
    }
    return Device("cpu", machine_memory(), rate, CPU_USED)


def convolution_rate(
    device: torch.device, dtype: torch.dtype, count: int = 16, width: int = 128, side: int = 32
) -> float:
    """FLOP/s of a convolution as the networks have it, of so many frames of a width and a size."""
    layer = torch.nn.Conv2d(width, width, 3, padding=1, bias=False, dtype=dtype)
    layer = layer.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(count, width, side, side).to(device, dtype, memory_format=torch.channels_last)
    best = float("inf")
    with torch.no_grad():
        for _ in range(8):  # of which the first prepares the kernel
            began = time.perf_counter()
            layer(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - began)
    return 2 * count * side**2 * width**2 * 9 / best


@dataclass(frozen=True)
class Deployment:
    """A way to run a training.

    Attributes:
        changes: to the config, as on a command line.
        seconds: of a step.
        steps: of the whole training.
        cost: of the whole training, in the currency of the price.
    """

    config: RunConfig
    changes: list[str]
    estimate: Footprint
    gpus: int
    device: Device
    precision: Precision
    seconds: float
    steps: int
    cost: float | None

    @property
    def fits(self) -> bool:
        return self.estimate.total <= FILLED * self.device.memory

    @property
    def moved(self) -> int:
        """Bytes that a step reads and writes, on each device."""
        return sum(count * moved for (_, moved), count in self.estimate.work.items())

    @property
    def operations(self) -> int:
        """Of a step, on each device; compiled blocks have one for what is joined."""
        return sum(self.estimate.work.values())

    def facts(self) -> dict[str, Any]:
        """All of it, as plain numbers and words."""
        train = self.config.train
        return {
            "device": self.device.name,
            "devices": self.gpus,
            "memory_of_each": self.device.memory,
            "precision": self.precision,
            "parameters": self.estimate.parameters,
            "memory": self.estimate.memory,
            "memory_total": self.estimate.total,
            "fits": self.fits,
            "batch": self.config.batch,
            "accumulate": train.accumulate,
            "parallel": train.parallel if self.gpus > 1 else None,
            "checkpoint": self.config.recomputed,
            "flops_per_step_and_device": self.estimate.flops,
            "bytes_per_step_and_device": self.moved,
            "operations_per_step_and_device": self.operations,
            "compiled": train.compile,
            "seconds_per_step": self.seconds,
            "steps": self.steps,
            "hours": self.seconds * self.steps / 3600,
            "cost": self.cost,
            "changes": self.changes,
        }

    def lines(self) -> list[str]:
        """The same, to be read."""
        facts, memory = self.facts(), self.estimate.memory
        settings = [f"batch {facts['batch']}", f"in {facts['accumulate']} part{'s' * (facts['accumulate'] > 1)}"]
        settings += [f"{facts['parallel']}"] if facts["parallel"] else []
        settings += [f"levels {facts['checkpoint']} recomputed"] if facts["checkpoint"] else []
        rate, used = self.device.rate[self.precision] / 1e12, self.device.used[self.precision]
        reached, traffic = f"{used:.0%} of {rate:,.3g} TFLOP/s is reached", list[tuple[str, str]]()
        if self.device.bandwidth is not None:
            reached = f"products reach {used:.0%} of {rate:,.3g} TFLOP/s, and all else {BANDWIDTH_USED:.0%} of the "
            reached += f"memory's {self.device.bandwidth / 1e12:.3g} TB/s"
            how = "in compiled blocks" if self.config.train.compile else "in blocks that are not compiled"
            traffic = [("traffic of a step", f"{self.moved / 1e9:,.3g} GB on each, {how}")]
            traffic.append(("operations of a step", f"{self.operations:,} on each, of which a GPU starts kernels"))
        rows = [
            ("devices", f"{self.gpus} x {self.device.name}, {self.device.memory / GB:,.4g} GB each"),
            ("settings", f"{', '.join(settings)}, {self.precision}"),
            ("parameters", f"{self.estimate.parameters:,}"),
            ("memory of each", f"{self.estimate.total / GB:,.2f} GB: {'fits' if self.fits else 'does not fit'}"),
            *((f"  {part}", f"{size / GB:,.2f} GB") for part, size in memory.items() if size >= 0.005 * GB),
            ("FLOPs of a step", f"{self.estimate.flops * self.gpus:.3g}, over all"),
            *traffic,
            ("a step", f"{self.seconds:.3g} s, if {reached}"),
            (f"{self.steps:,} steps", duration(self.seconds * self.steps)),
        ]
        if self.cost is not None:
            rows.append(("cost", f"{self.cost:,.2f}"))
        return [f"{name:28}{value}" for name, value in rows]


class Planner:
    """Ways to run the training of one config. Raises ValueError as `vidiff.plan.sketch.sketch`.

    Args:
        folder: where the config file stands.
        device: what trains; `local` of them are in a machine.
        price: of an hour of one device.
    """

    def __init__(
        self, config: RunConfig, folder: Path, device: Device, gpus: int, local: int = 8, price: float | None = None
    ) -> None:
        self.config, self.device, self.gpus, self.price = config, device, gpus, price
        self.gpu, self.local = device.name != "cpu", min(local, gpus)
        asked = config.train.precision
        self.precision: Precision = ("bf16" if self.gpu else "fp32") if asked == "auto" else asked
        if self.precision not in device.rate:
            raise ValueError(f"train.precision is {asked}, which no rate is known of on {device.name}")
        self.sketch = sketch(config, folder, gpu=self.gpu)
        self._steps: dict[tuple[tuple[int, ...], int], Trace] = {}

    def deployment(self, changes: list[str], config: RunConfig, step: Trace | None = None) -> Deployment:
        """The training as `config` says; `step` as for `estimate`."""
        of = replace(self.sketch, config=config)
        footprint = estimate(of, self.precision, self.gpus, self.local, self.gpu, step)
        seconds = self.device.seconds(footprint, self.precision)
        steps = config.train.steps
        cost = None if self.price is None else self.price * self.gpus * seconds * steps / 3600
        return Deployment(config, changes, footprint, self.gpus, self.device, self.precision, seconds, steps, cost)

    def given(self) -> Deployment | None:
        """As the config is; None where its batch does not divide among the devices."""
        try:
            count = part_size(self.sketch.config, self.gpus)
        except ValueError:
            return None
        return self.deployment([], self.sketch.config, self.follow(self.sketch.config, count))

    def proposal(self) -> Deployment:
        """The first that fits, from what costs nothing to what costs most: more parts of a batch, recomputed levels,
        sharded weights; a larger batch only where it would not divide.

        Raises:
            ValueError: nothing fits; with the least that was found.
        """
        least: Deployment | None = None
        for changes, config in tqdm(self.ways(), "settings", unit="", leave=False):
            count = part_size(config, self.gpus)
            way = self.deployment(changes, config, self.guess(config, count))
            if way.estimate.total <= self.device.memory:  # a guess, for which the step itself is followed
                way = self.deployment(changes, config, self.follow(config, count))
                if way.fits:
                    return way
            if least is None or way.estimate.total < least.estimate.total:
                least = way
        assert least is not None
        raise ValueError(
            f"nothing fits into {FILLED:.0%} of {self.device.memory / GB:,.3g} GB: with {' '.join(least.changes)} a "
            f"step still needs {least.estimate}. Take more devices, or ones with more memory, or make data.frames, "
            "data.size or the network smaller"
        )

    def ways(self) -> Iterator[tuple[list[str], RunConfig]]:
        """Settings in the order in which they are tried, as changes to the config."""
        given = self.sketch.config
        batch, train = -(-given.batch // self.gpus) * self.gpus, given.train
        part = batch // self.gpus
        for kind in self.kinds():
            for levels in further(given):
                for parts in (n for n in range(train.accumulate, part + 1) if part % n == 0):
                    changes = [f"batch={batch}"] * (batch != given.batch)
                    changes += [f"train.accumulate={parts}"] * (parts != train.accumulate)
                    if levels != given.recomputed:
                        changes.append(f"unet.checkpoint={levels}".replace(" ", ""))
                    if kind != train.parallel:
                        changes += [f"train.parallel={kind}", *["train.shards=0"] * bool(train.shards)]
                    yield changes, changed(given, changes)

    def kinds(self) -> list[str]:
        """Of `train.parallel`, those that may be: first what was asked for, and not without shards where any were."""
        train = self.sketch.config.train
        if self.gpus == 1:
            return ["ddp"]
        kinds: list[str] = list(dict.fromkeys([train.parallel, "ddp", "hsdp", "fsdp"]))
        if self.gpus % (train.shards or self.local):
            kinds.remove("hsdp")  # its groups do not divide
        elif self.gpus == self.local and train.parallel != "hsdp":
            kinds.remove("hsdp")  # one machine: the same as fsdp
        if train.parallel != "ddp":
            kinds.remove("ddp")
        return kinds

    def follow(self, config: RunConfig, count: int) -> Trace:
        """A step of `count` samples; each is followed once."""
        key = (tuple(config.recomputed), count)
        if key not in self._steps:
            self._steps[key] = follow(replace(self.sketch, config=config), count, self.precision)
        return self._steps[key]

    def guess(self, config: RunConfig, count: int) -> Trace:
        """Its memory, from steps of one and of two samples, since all but weights goes with their number."""
        one, two = self.follow(config, 1), self.follow(config, 2)
        numbers = {k: (n := getattr(one, k)) + (getattr(two, k) - n) * (count - 1) for k in ("batch", "flops", "peak")}
        return replace(one, **numbers)


def further(config: RunConfig) -> list[list[int]]:
    """Choices of levels to recompute: those of the config, then more of them, from the largest frames down."""
    choices = [config.recomputed]
    for level in config.recomputable:
        if level not in choices[-1]:
            choices.append(sorted([*choices[-1], level]))
    return choices
