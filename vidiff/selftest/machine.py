"""What a report says of the machine."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from vidiff.plan.estimate import machine_memory
from vidiff.report.log import device_name, git_revision, versions

PACKAGES = (
    *("vidiff", "torch", "triton", "numpy", "xformers", "safetensors", "omegaconf", "av", "decord2", "imageio"),
    *("torchcodec", "diffusers", "transformers", "nvidia-nccl-cu12", "nvidia-nccl-cu13"),
)


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, and facts of the processor, its memory and the GPUs; no names of hosts, users or folders."""
    known: dict[str, Any] = {
        "device": device_name(device),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": device_name(torch.device("cpu")),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": machine_memory(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions(*PACKAGES),
        "git": git_revision(),
        "cuda": torch.version.cuda,
        "gpus": [],
    }
    if device.type == "cuda":
        known["cudnn"] = torch.backends.cudnn.version()
        known["gpus"] = [gpu(number) for number in range(torch.cuda.device_count())]
    return known


def gpu(number: int) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(number)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "memory": found.total_memory,
        "multiprocessors": found.multi_processor_count,
    }
