"""A training step on a GPU: nothing mixes devices, and the program waits once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from absent import GPU, AbsentGpu
from small import ROOT, small

from vidiff.diffusion.condition import Condition
from vidiff.engine import checkpoint, loop
from vidiff.engine.guard import Signals
from vidiff.engine.parallel import Group
from vidiff.recipe.build import build_objective
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load

MOST_KERNELS = {  # changes -> with attention written out; fused it is a kernel where that has eight
    "as it is": ([], 2_077),
    "less by a convolution a block, and by attention at 32x32": (
        ["unet.spatial_convs=1", "unet.spatial_attention=[1]"],
        1_666,
    ),
}


def training(config: DiffusionRun, run: Path, monkeypatch: pytest.MonkeyPatch) -> loop._Training:
    parts, side = config.train.accumulate, config.data.size // 8

    def batches(start: int):
        number = config.batch // parts
        while True:
            yield {
                "latent": torch.zeros(number, config.data.frames, 2, 4, side, side, dtype=torch.float16),
                "shift": torch.zeros(number, 4),
                "scale": torch.ones(number, 4),
                "label": torch.ones(number, dtype=torch.long),
                "stride": torch.ones(number, dtype=torch.long),
            }

    collect = loop.collect
    monkeypatch.setattr(loop, "collect", lambda *given: (collect(*given)[0], True))  # the numbers are none
    made = loop._Training(
        build_objective(config), batches, config.batch, config.train, run, Group(GPU), Signals(), "t", str
    )
    made.resume()
    made.recorder.begin(0)
    made.step()
    return made


@pytest.mark.parametrize(
    "changes",
    [
        ["train.precision=bf16"],
        ["train.precision=bf16", "train.accumulate=2", "train.optim.name=muon"],
        ["train.precision=fp32", "loss.weighting=min_snr"],
        ["train.precision=bf16", "loss.bound=0.001", "unet.variance=true"],
        ["train.precision=fp16"],
    ],
    ids=" ".join,
)
def test_a_step_waits_once(gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: list[str]) -> None:
    made = training(small("shapes_long", *changes), tmp_path, monkeypatch)
    gpu.reset()
    made.step()
    assert not gpu.mixed, gpu.mixed
    assert not gpu.complex, gpu.complex
    most = 2 if "train.precision=fp16" in changes else 1  # the scaler looks whether gradients are finite
    assert gpu.waits.total() <= most, gpu.waits


def test_a_checkpoint_is_fetched_without_mixing_devices(
    gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a few pinned pieces, of which each tensor has its own part, laid out as it is itself."""
    made = training(small("shapes_long", "train.precision=bf16"), tmp_path, monkeypatch)
    pieces = list[int]()
    monkeypatch.setattr(checkpoint, "pinned", lambda size: pieces.append(size) or torch.empty(size, dtype=torch.uint8))
    monkeypatch.setattr(checkpoint.Saver, "_start", lambda *_: None)
    for _ in range(2):  # the second into the same memory
        gpu.reset()
        made.save()
        assert not gpu.mixed, gpu.mixed
        assert gpu.waits.total() == 0, gpu.waits
    copies = made.saver._copies
    total = sum(copy.numel() * copy.element_size() for copy in copies.values())
    assert len(copies) > 400 and len(pieces) <= 1 + total // checkpoint.Room.PIECE
    spans = sorted((copy.data_ptr(), copy.data_ptr() + copy.numel() * copy.element_size()) for copy in copies.values())
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    for name, parameter in made.model.module.named_parameters():
        assert copies[f"model.{name}"].stride() == parameter.stride()


@pytest.mark.parametrize(("changes", "most"), MOST_KERNELS.values(), ids=MOST_KERNELS)
def test_a_forward_of_the_recipe_for_ucf_stays_within_its_kernels(
    gpu: AbsentGpu, changes: list[str], most: int
) -> None:
    """Their number does not depend on width or batch. Each costs its launch, which small batches wait for."""
    config = load(ROOT / "configs" / "ucf.yaml", ["unet.width=32", "unet.head_dim=16", *changes])
    assert isinstance(config, DiffusionRun)
    config.unet.channels, config.unet.labels, config.unet.strided = 4, 101, True
    denoiser = build_objective(config).denoiser.to(GPU).eval()  # as it draws, without dropout
    x = torch.zeros(1, 4, 16, 16, 16, device=GPU)
    condition = Condition(torch.zeros(1, dtype=torch.long, device=GPU), stride=torch.ones(1, device=GPU))
    gpu.reset()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        denoiser(x, torch.full((1,), 0.5, device=GPU), condition)
    assert not gpu.waits and not gpu.mixed
    assert 0 < gpu.kernels <= most
