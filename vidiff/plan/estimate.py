"""What a training will take of a machine, part by part, before anything of it is made."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from vidiff.engine.compile import find_blocks
from vidiff.engine.optim import Muon, Optim, build_optimizer
from vidiff.engine.parallel import choose_device
from vidiff.nn.classifier import ClassifierConfig
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.objective.distill import StudentObjective
from vidiff.plan.sketch import Sketch, sketch
from vidiff.recipe.kinds import LatentRun, RunConfig, StudentRun, VAERun
from vidiff.recipe.load import load_codec_config

if TYPE_CHECKING:
    from vidiff.plan.trace import Trace

SLACK = 1.1  # bytes that an allocator takes for each that tensors ask of it
MARGIN = 1.25  # by which an estimate may be off: only what exceeds the memory by more is refused
LIBRARIES = {False: 560 << 20, True: 1 << 30}  # Python, PyTorch, its kernels' buffers; on a GPU, CUDA's context
GB = 1 << 30


@dataclass(frozen=True)
class Footprint:
    """What one process takes, which has one GPU.

    Attributes:
        parameters: of the objective, trained or not.
        memory: bytes by part.
        flops: of one step: both passes over its part of the batch, and Muon's products.
        work: its operations one by one, with the bytes that they move.
    """

    parameters: int
    memory: dict[str, int]
    flops: int
    work: Counter[tuple[int, int]]

    @property
    def total(self) -> int:
        return sum(self.memory.values())

    def __str__(self) -> str:
        largest = sorted(self.memory, key=lambda part: -self.memory[part])[:3]
        return f"{self.total / GB:,.1f} GB ({', '.join(f'{p} {self.memory[p] / GB:,.1f}' for p in largest)})"


def part_size(config: RunConfig, world: int) -> int:
    """Samples that a process takes at once. Raises ValueError where the batch does not divide."""
    parts = world * config.train.accumulate
    if config.batch % parts:
        raise ValueError(
            f"batch is {config.batch}; it must be a multiple of {parts}, for {world} processes with "
            f"train.accumulate={config.train.accumulate}"
        )
    return config.batch // parts


def follow(of: Sketch, count: int, precision: str) -> Trace:
    """A step of `count` samples, by shape alone."""
    from vidiff.plan.trace import trace

    def update(objective: nn.Module) -> None:
        for part in build_optimizer(of.config.train.optim, objective).parts:
            if isinstance(part, Muon):  # AdamW multiplies nothing of note
                part.step()

    return trace(of.build, lambda: of.batch(count), precision, update, of.config.train.compile, of.gpu)


def estimate(
    of: Sketch, precision: str, world: int = 1, local: int = 1, gpu: bool = False, step: Trace | None = None
) -> Footprint:
    """What one of `world` processes takes, of which `local` are on a machine.

    Args:
        step: of this process's part, if it has been followed already.

    Raises:
        ValueError: where the batch or hsdp's groups do not divide among the processes.
    """
    train = of.config.train
    step = step or follow(of, part_size(of.config, world), precision)
    parameters = list(step.objective.parameters())
    whole = 4 * sum(p.numel() for p in parameters)
    trained = 4 * sum(p.numel() for p in parameters if p.requires_grad)
    shards = {"ddp": 1, "fsdp": world, "hsdp": train.shards or local}[train.parallel] if world > 1 else 1
    if world % shards:
        whose = "train.shards is" if train.shards else "train.parallel=hsdp has a group for each machine, of"
        raise ValueError(
            f"{whose} {shards}, but {world} processes do not divide into groups of that size; give train.shards a "
            "divisor, or train.parallel=fsdp"
        )
    gathered = _gathered(step.objective, precision) if shards > 1 else 0
    memory = {
        "weights": whole // shards + sum(b.numel() * b.element_size() for b in step.objective.buffers()),
        "gradients": trained // shards,
        "moments": _moments(train.optim, step.objective) // shards,
        "averages": (1 + len(train.ema_widths)) * trained // shards,
        "gathered blocks": gathered,
        "activations": int(SLACK * step.peak),
        "batch": step.batch,
        "codec": 4 * of.codec,
        "teacher": _teacher(step.objective),
        "libraries": LIBRARIES[gpu],
    }
    if not gpu:  # on a GPU's machine they lie beside it
        memory["copies to save"] = memory["weights"] + memory["moments"] + memory["averages"]
    if shards > 1:  # validation and samples need all weights at once, when there are no activations
        cast = whole // 2 if gpu and precision != "fp32" else 0  # samples are drawn in the precision of the run
        memory["whole weights, to sample"] = max(0, whole + cast - memory["activations"] - gathered)
    work = Counter({each: train.accumulate * count for each, count in step.work.items()}) + step.update_work
    work[0, _moved_by_optimizer(memory, 1 + len(train.ema_widths))] += 1
    return Footprint(whole // 4, memory, step.flops * train.accumulate + step.update, work)


def _teacher(objective: nn.Module) -> int:
    """Bytes of the weights that a student learns from, which every process has whole."""
    teacher = objective.teacher if isinstance(objective, StudentObjective) else None
    return 4 * _numbers([teacher.denoiser]) if teacher else 0


def _moved_by_optimizer(memory: dict[str, int], averages: int) -> int:
    """Bytes of a step: clipping reads gradients, and scales them; AdamW reads all, and writes weights and moments; each
    average reads weights and itself, and writes itself."""
    changed = memory["weights"] + memory["moments"] + memory["averages"]
    return 2 * changed + 4 * memory["gradients"] + averages * memory["weights"]


def _moments(options: Optim, objective: nn.Module) -> int:
    """Bytes: two moments of each number for AdamW, one for Muon."""
    parts = build_optimizer(options, objective).parts
    sizes = [(4 if isinstance(part, Muon) else 8, part.param_groups) for part in parts]
    return sum(size * p.numel() for size, groups in sizes for group in groups for p in group["params"])


def _gathered(objective: nn.Module, precision: str) -> int:
    """Bytes that shards need besides: two blocks whole, one of them with gradients, and what is in no block."""
    blocks = [_numbers([block]) for block in find_blocks(objective)]
    low = 4 if precision == "fp32" else 2
    return 2 * 4 * (_numbers([objective]) - sum(blocks)) + 3 * low * max(blocks, default=0)


def _numbers(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def machine_memory() -> int:
    """Bytes of this machine, or of the container."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


def refuse_too_large(config: RunConfig, folder: Path) -> None:
    """Before anything is made: is there memory for this training?

    Raises:
        ValueError: it needs more than the device has, by more than an estimate may be off, unless `train.check_memory`
            is off; the batch does not divide among the processes.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    part = part_size(config, world)
    if not config.train.check_memory:
        return
    device = choose_device(config.device)
    gpu = device.type == "cuda"
    memory = torch.cuda.get_device_properties(device).total_memory if gpu else machine_memory() // local
    if at_most(config, part, folder) < memory / 2:
        return
    of = sketch(config, folder, look=False, gpu=gpu)
    precision = config.train.precision if config.train.precision != "auto" else ("bf16" if gpu else "fp32")
    footprint = estimate(of, precision, world, local, gpu)
    if footprint.total > MARGIN * memory:
        raise ValueError(
            f"a step of this training needs about {footprint} on each {'GPU' if gpu else 'process'}, which has "
            f"{memory / GB:,.1f} GB. `vidiff plan CONFIG` proposes what fits; train.check_memory=false tries "
            "it all the same"
        )


def at_most(config: RunConfig, part: int, folder: Path) -> float:
    """Bytes that a step of `part` samples stays below, by sizes alone: following it takes seconds, this nothing.

    Blocks have less than 45 weights for each pair of channels, and hold less than 100 numbers of a channel and place;
    a second spatial convolution adds less than 20 of both.
    """
    weights, kept, more = 0.0, 0.0, 0
    match config:
        case VAERun() if config.others:  # of a shape that only following tells
            return math.inf
        case VAERun():
            of: VAEConfig | UNetConfig | ClassifierConfig = config.vae
            count = (2 if config.vae.temporal == 1 else 4) * (config.vae.blocks + 1)
            shrunk, blocks = config.vae.patch, [count] * len(config.vae.multipliers)
            if config.loss.adversarial:  # as two blocks of its first level, and its last as wide as eight
                width = config.loss.discriminator_width
                weights, kept = 45.0 * (8 * width) ** 2, 200.0 * width
        case LatentRun():
            of, shrunk, blocks = config.network, config.patch, [2 * count + 1 for count in config.network.blocks]
            if config.codec.name != "identity":
                shrunk *= load_codec_config(config, folder).shape.factor if config.codec.name == "vae" else 8
            if isinstance(of, UNetConfig) and of.spatial_convs > 1:
                more = 20
    weights += 200.0 * of.width**2
    for level, (count, multiplier) in enumerate(zip(blocks, of.multipliers, strict=True)):
        width = of.width * multiplier
        weights += (45 + more) * count * width**2
        kept += (100 + more) * count * width / shrunk**2 / 4**level
    voxels = max(clip.frames * clip.height * clip.width for clip in config.data.plan())
    sets = 8 + 2 * len(config.train.ema_widths)
    if isinstance(config, StudentRun):  # whose teacher is as large as it, as is what learns of its draws
        sets = sets * (2 if config.objective == "distribution_matching" else 1) + 1
    return LIBRARIES[True] + 4 * (sets * weights + part * voxels * kept)
