"""The arithmetic of a training step: fp32, bf16 or fp16 under autocast; weights and averages stay as they are."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidiff.engine import seeds

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

GAIN = 1.2  # how many times as fast bf16 must be on a CPU to be worth its rounding


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def gpu_precision() -> Precision:
    """bf16 where the GPU's hardware has it, else fp16."""
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def automatic(objective: nn.Module, batch: Mapping[str, Tensor], device: torch.device) -> Precision:
    """What "auto" stands for: on a GPU, bf16 where its hardware has it, else fp16; on a CPU, whichever is faster.

    On a CPU the objective itself is timed, forward and backward on one batch, twice in each precision in
    turn, in processor time, which other programs hardly lengthen. Weights, buffers and random states are as before
    afterwards; gradients are None.
    """
    if device.type == "cuda":
        return gpu_precision()
    seconds: dict[Precision, float] = {"fp32": float("inf"), "bf16": float("inf")}
    with on_trial(objective):
        for precision in (*seconds, *seconds):
            began = time.process_time()
            with autocast(device, precision):
                result: dict[str, Any] = objective(batch)
            result["loss"].backward()
            seconds[precision] = min(seconds[precision], time.process_time() - began)
            objective.zero_grad(set_to_none=True)
    return "bf16" if seconds["fp32"] >= GAIN * seconds["bf16"] else "fp32"


@contextmanager
def on_trial(module: nn.Module) -> Iterator[None]:
    """Whatever runs inside, the module's buffers and the random generators are afterwards as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with seeds.preserved():
        yield
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
