"""Checks of clips: drawn by a model, and decoded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.engine.parallel import choose_device
from vidiff.pipeline.pipeline import Pipeline
from vidiff.selftest.check import Fails, Place, Seen, Skipped
from vidiff.selftest.runs import train
from vidiff.store.place import place_of
from vidiff.video.decoders import BY_NAME, video_file
from vidiff.video.torchcodec import TorchcodecFile, why_not

SAMPLERS = ("dpmpp_2m", "ddim", "unipc", "euler_maruyama")


def sampling(place: Place) -> Seen:
    """Whether clips are drawn, extended and drawn again alike; of a model that is hardly trained."""
    pipeline = Pipeline.from_pretrained(train(place, "resumed"), device=choose_device(place.device))
    numbers: dict[str, Any] = {}
    for sampler in SAMPLERS[: 1 if place.quick else None]:
        began = time.perf_counter()
        clip = pipeline.generate(label="red_disc", guidance=2.0, steps=4, sampler=sampler, seed=0)
        numbers[sampler] = time.perf_counter() - began
        check(clip, sampler, numbers)
        if not torch.equal(clip, pipeline.generate(label="red_disc", guidance=2.0, steps=4, sampler=sampler, seed=0)):
            numbers["apart"] = sampler
    longer = pipeline.extend(clip, frames=24, label="red_disc", steps=4, seed=0)
    check(longer, "extend", numbers)
    if not torch.equal(longer[:, :, : clip.shape[2]], clip):
        raise Fails(Seen("an extended clip does not begin with the one that it extends", numbers))
    same = "the same bytes from the same seed" if "apart" not in numbers else "other bytes from the same seed"
    if "apart" in numbers and pipeline.device.type == "cpu":
        raise Fails(Seen(f"{same}, by {numbers['apart']}", numbers))
    return Seen(f"{', '.join(name for name in numbers if name in SAMPLERS)} and an extension; {same}", numbers)


def check(clip: torch.Tensor, what: str, numbers: dict[str, Any]) -> None:
    """Raises Fails for what is no clip."""
    if not bool(torch.isfinite(clip).all()) or float(clip.abs().max()) > 1:
        raise Fails(Seen(f"{what}: numbers of a clip are not finite, or out of range", numbers))


def decoding(place: Place) -> Seen:
    """Frames a second of each decoder that is installed, on a drawn clip; all must give the same frames."""
    make_shapes(place.folder / "drawn", ShapesSpec(frames=64, train=1, test=1), progress=False)
    file = place_of(next(Path(place.folder / "drawn" / "train").rglob("*.mp4")))
    numbers: dict[str, Any] = {}
    reference: np.ndarray | None = None
    for name in BY_NAME:  # PyAV first
        if name == TorchcodecFile.name and (reason := why_not()):
            numbers[name] = {"refused": reason}
            continue
        times = []
        for _ in range(2 if place.quick else 5):
            began = time.perf_counter()
            decoder = video_file(file, name)
            frames = decoder.decode(None, None)
            decoder.close()
            times.append(time.perf_counter() - began)
        reference = frames if reference is None else reference
        gap = int(np.abs(frames.astype(int) - reference.astype(int)).max()) if frames.shape == reference.shape else 255
        numbers[name] = {"frames_per_second": round(len(frames) / min(times)), "gap": gap}
    told = {name: found for name, found in numbers.items() if "gap" in found}
    if not told:
        raise Skipped("no decoder is installed")
    line = ", ".join(f"{name} {found['frames_per_second']:,} frames/s" for name, found in told.items())
    if wrong := [name for name, found in told.items() if found["gap"] > 2]:  # levels of 255, as colours are rounded
        raise Fails(Seen(f"{wrong[0]} gives other frames than {next(iter(told))}; {line}", numbers))
    absent = [name for name in numbers if name not in told]
    return Seen(line + "".join(f"; {name} is not installed" for name in absent), numbers)
