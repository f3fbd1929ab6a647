"""What trains, and what a model is to see of clips: size, frames, rate, codec, and levels of the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from vidiff.plan.codecs import CodecChoice, choose_codec
from vidiff.plan.estimate import GB
from vidiff.plan.footage import Footage, lower, rate_of
from vidiff.plan.plan import GPUS, Device, this_cpu

SLOW = 12.0  # frames per second up to which footage is taken as it is
WANTED = 8.0  # and at which faster footage is seen, where its clips are long enough
WINDOW = 16  # frames, at most
TALL, MANY = 1.2, 0.1  # an aspect that is no square, and the part of the clips from which on it counts


@dataclass(frozen=True)
class Machine:
    """What trains, and how `vidiff plan` is told of it.

    Args:
        flags: of `vidiff plan`.
        told: what was assumed; empty where nothing was.
    """

    device: Device
    flags: str
    told: str = ""

    @property
    def gpu(self) -> bool:
        return self.device.name != "cpu"

    @property
    def large(self) -> bool:
        return self.device.memory >= 40 * GB

    def __str__(self) -> str:
        return f"{self.device.name} with {self.device.memory / GB:.4g} GB"


def this_machine(device: torch.device | None = None) -> Machine:
    """A device of this machine: a GPU, or the CPU, timed for half a second; by default the first GPU that torch finds,
    if any."""
    if device is None:
        device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        return Machine(this_cpu(), "--gpu cpu")
    found = torch.cuda.get_device_properties(device)
    known = next((name for name in GPUS if name in found.name.lower().replace(" ", "")), None)
    told = "" if known else f"{found.name} is not among those whose speed is known: that of a 4090 is assumed"
    gpu = replace(GPUS[known or "4090"], memory=found.total_memory)
    return Machine(gpu, f"--gpu {gpu.name} --memory {found.total_memory / GB:.1f}", told)


def machine_of(name: str) -> Machine:
    """A GPU of `vidiff.plan.plan.GPUS`, or "cpu", this one."""
    return Machine(this_cpu() if name == "cpu" else GPUS[name], f"--gpu {name}")


@dataclass(frozen=True)
class Shape:
    """What a model is to see of the clips, and of what shape it is.

    Args:
        rate: frames per second at which clips are seen, `fps` as the config has it: 0 for their own.
        windows: of all clips, one beginning at each frame.
        short: clips that are shorter than a window.
        shapes: heights and widths of buckets; empty for squares of `size`.
        levels: of the network.
    """

    size: int
    frames: int
    rate: float
    fps: float
    windows: int
    short: int
    shapes: list[tuple[int, int]]
    codec: CodecChoice
    levels: int


def choose_shape(
    footage: Footage, machine: Machine, size: int | None = None, codec: CodecChoice | None = None
) -> Shape:
    """What of the clips the model sees.

    Args:
        size: of the frames, in place of that which suits.
        codec: in place of that which the table has for the size.

    Raises:
        ValueError: clips that are too short for any window, or a size that does not divide.
    """
    frames, rate, fps = choose_window(footage)
    lengths = [clip.frames / rate_of(clip) * rate if fps else clip.frames for clip in footage.train]
    most = (256 if machine.large and not footage.few else 128) if machine.gpu else 64
    size = size or max(side for side in (32, 64, 128, 256) if side <= max(32, min(most, footage.side)))
    codec, levels, step = network_for(size, codec)
    return Shape(
        size,
        frames,
        rate,
        fps,
        sum(max(0, int(length) - frames + 1) for length in lengths) or 1,
        sum(length < frames for length in lengths),
        choose_buckets(footage, size, step),
        codec,
        levels,
    )


def network_for(size: int, codec: CodecChoice | None = None) -> tuple[CodecChoice, int, int]:
    """The codec for frames of a size, the levels of the network, and what divides the sides of all frames.

    Args:
        codec: by default that of the table.

    Raises:
        ValueError: a size that it does not divide.
    """
    codec = codec or choose_codec(size)
    levels = min(4, max(1, int(math.log2(max(2, size / codec.shrinks))) - 1))
    step = codec.shrinks * 2 ** (levels - 1)
    if size % step:
        raise ValueError(f"--size is {size}; for frames of about this size give a multiple of {step}")
    return codec, levels, step


def choose_window(footage: Footage) -> tuple[int, float, float]:
    """Frames of a window, the rate at which clips are seen, and `data.fps`.

    Raises:
        ValueError: there are less than two frames in most clips.
    """
    seconds, least = lower(clip.frames / rate_of(clip) for clip in footage.train), footage.rates[0]
    rate = least if footage.rate_is_one and least <= SLOW else max(WANTED, min(least, WINDOW / seconds))
    if footage.rate_is_one and rate >= 0.9 * least:
        frames, rate, fps = int(lower(clip.frames for clip in footage.train)), footage.rate, 0.0
    else:
        rate = fps = float(round(min(rate, least)))
        frames = int(seconds * rate)
    frames = min(WINDOW, frames)
    if frames < 2:
        raise ValueError(
            f"one clip in ten or more in {footage.root} has a single frame: a model of video needs at least 2 of each; "
            "leave pictures out, and name them as data.images"
        )
    return frames - frames % 2, rate, fps


def choose_buckets(footage: Footage, size: int, step: int) -> list[tuple[int, int]]:
    """Heights and widths of clips, the most frequent first, where some are wide and some are tall; else none."""
    kinds: dict[str, list[float]] = {"square": [], "wide": [], "tall": []}
    for clip in footage.train:
        aspect = clip.width / clip.height
        kinds["wide" if aspect >= TALL else "tall" if aspect <= 1 / TALL else "square"].append(aspect)
    often = {kind: aspects for kind, aspects in kinds.items() if len(aspects) >= max(2, MANY * len(footage.train))}
    if not {"wide", "tall"} <= often.keys():
        return []
    shapes = []
    for aspects in sorted(often.values(), key=len, reverse=True):
        wanted = sorted(aspects)[len(aspects) // 2]
        sides = range(step, 2 * size + 1, step)
        fitting = [(h, w) for h in sides for w in sides if size * size / 2 <= h * w <= 1.1 * size * size]
        shapes.append(min(fitting, key=lambda hw: (abs(math.log(hw[1] / hw[0] / wanted)), -hw[0] * hw[1])))
    return list(dict.fromkeys(shapes))
