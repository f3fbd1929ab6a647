"""What the command that tests a machine would ask of a GPU; what it finds there, nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from absent import GPU, AbsentGpu

from vidiff.selftest import machine, parts
from vidiff.selftest.check import Fails, Place


def test_parts_are_timed_without_mixing_devices(
    gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, waited = Place(tmp_path, "cuda", quick=True), list[torch.device]()
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(parts, "pinned", lambda size: torch.empty(size, dtype=torch.uint8))
    assert parts.precisions(GPU) == ["fp32", "bf16", "fp16"]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert parts.times_of("plain", GPU, dtype, quick=True).keys() == {"time 256x16", "joint 1x1024"}
    assert not gpu.waits, gpu.waits
    with pytest.raises(Fails, match="fp32 are off"):  # which are zeros
        parts.products(place)
    seen = parts.memory(place)
    assert seen.numbers.keys() == {"copy_gb_s", "total_gb", "free_gb", "to_device_gb_s", "from_device_gb_s"}
    assert seen.numbers["total_gb"] == 80
    gpu.truth = True  # they differ, for all that is known
    with pytest.raises(Fails, match="bf16 all at once"):
        parts.casts(place)
    gpu.truth = False
    assert parts.casts(place).numbers.keys() == {"bf16", "fp16"}
    assert not gpu.mixed, gpu.mixed
    assert {device.type for device in waited} == {"cuda"}, "what is timed is waited for"


def test_a_report_names_the_gpus(gpu: AbsentGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        name, major, minor, total_memory, multi_processor_count = "absent", 9, 0, 80 << 30, 132

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    told = machine.describe(GPU)
    assert told["device"] == "absent" and len(told["gpus"]) == 1
    assert told["gpus"][0] == {"name": "absent", "capability": "9.0", "memory": 80 << 30, "multiprocessors": 132}
