"""A training step on a GPU: nothing mixes devices, and the program waits once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from absent import GPU, AbsentGpu
from small import ROOT, pipeline, small

from vidiff.diffusion.condition import Condition
from vidiff.engine import checkpoint, loop
from vidiff.engine.guard import Signals
from vidiff.engine.parallel import Group
from vidiff.nn import attention
from vidiff.nn.cast import layers_of, low_weights
from vidiff.nn.fused import choice
from vidiff.plan.estimate import follow
from vidiff.plan.sketch import sketch
from vidiff.recipe.build import build_objective
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load

NARROWER = ["unet.spatial_convs=1", "unet.spatial_attention=[1]"]
MOST_KERNELS = {  # changes -> with attention written out; fused it is a kernel where that has eight
    "as it is": ([], 1_900),
    "less by a convolution a block, and by attention at 32x32": (NARROWER, 1_500),
}

# kernels and GiB of a forward and of a backward pass of 8 clips with fused attention: changes, by kernels or formulas
MOVED = {
    "formulas": ([], False, (1_454, 128.9), (2_200, 217.8)),
    "kernels": ([], True, (498, 32.5), (659, 45.7)),
    "kernels, less by a convolution a block, and by attention at 32x32": (NARROWER, True, (411, 22.7), (509, 31.8)),
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


def test_a_step_with_kernels_around_attention_waits_once(
    gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "_chosen", lambda *_: True)
    made = training(small("shapes_long", "train.precision=bf16"), tmp_path, monkeypatch)
    gpu.reset()
    made.step()
    assert not gpu.mixed and gpu.waits.total() <= 1, (gpu.mixed, gpu.waits)
    assert {f"vidiff.{name}{back}" for name in ("norm", "enter", "leave") for back in ("", "_back")} <= gpu.names.keys()


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
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16), low_weights(denoiser, GPU, torch.bfloat16):
        denoiser(x, torch.full((1,), 0.5, device=GPU), condition)
    assert not gpu.waits and not gpu.mixed
    assert 0 < gpu.kernels <= most


def flash(patch: pytest.MonkeyPatch) -> None:
    """Attention is one kernel, as on a GPU."""

    def fused(*given: Any) -> torch.Tensor:
        heads = (x.transpose(1, 2) for x in given)  # b n tokens d
        return torch.ops.aten._scaled_dot_product_flash_attention(*heads)[0].transpose(1, 2)

    patch.setitem(attention.BACKENDS, "flash", fused)
    patch.setattr(attention, "_chosen", lambda *_: "flash")


def test_a_step_of_the_recipe_for_ucf_stays_within_its_kernels(
    gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: noise and loss, both passes, clipping, AdamW and three averages; weights are cast by a few kernels."""
    flash(monkeypatch)
    monkeypatch.setattr(choice, "_chosen", lambda *_: True)
    changes = ["unet.width=32", "unet.head_dim=16", "batch=2", "train.compile=false", "train.hang=0"]
    config = load(ROOT / "configs" / "ucf.yaml", [*changes, "train.precision=bf16"])
    assert isinstance(config, DiffusionRun)
    config.unet.channels, config.unet.labels, config.unet.strided = 4, 101, True
    made = training(config, tmp_path, monkeypatch)
    gpu.reset()
    made.step()
    assert not gpu.mixed
    assert 0 < gpu.kernels <= 1_500, (gpu.kernels, gpu.names)
    assert gpu.names["aten._to_copy"] <= 100, gpu.names


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "formulas"])
def test_the_planner_counts_what_a_gpu_would_be_given(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kernels: bool
) -> None:
    """Both passes of a training of the recipe for UCF-101, operations and bytes."""
    fused = "auto" if kernels else "plain"
    changes = ["unet.width=64", "unet.head_dim=16", "batch=2", "train.compile=false", f"unet.fused={fused}"]
    of = sketch(load(ROOT / "configs" / "ucf.yaml", changes), ROOT / "configs", look=False, gpu=True)
    step = follow(of, 2, "bf16")
    gpu: AbsentGpu = request.getfixturevalue("gpu")
    flash(monkeypatch)
    monkeypatch.setattr(choice, "_chosen", lambda *_: kernels)
    of.config.network.attention_backend = "flash"  # type: ignore[attr-defined]
    objective, batch = of.build().to(GPU), {name: part.to(GPU) for name, part in of.batch(2).items()}
    gpu.reset()
    with low_weights(objective, GPU, torch.bfloat16):
        with torch.autocast("cuda", torch.bfloat16):
            loss = objective(batch)["loss"]
        loss.backward()
    moved = sum(size * count for (_, size), count in step.work.items())
    assert 0.88 < sum(step.work.values()) / gpu.kernels < 1.05
    assert 0.9 < moved / gpu.moved < 1.05


def test_weights_are_cast_once_a_draw(gpu: AbsentGpu) -> None:
    """Of the casts that are left at each step, none is a weight's."""
    pipe, kernels, casts, others = pipeline(small("shapes_long")), [], [], []
    for steps in (2, 3, 4):
        gpu.reset()
        gpu.truth = True
        pipe.generate(label="a", steps=steps)
        kernels.append(gpu.kernels)
        casts.append(gpu.names["aten._foreach_copy_"])
        others.append(gpu.names["aten._to_copy"])
    assert casts[0] == casts[1] == casts[2] > 0
    weights = sum(len(layer._parameters) for layer in layers_of(pipe.denoiser))
    assert others[2] - others[1] == others[1] - others[0] <= 50 < weights
    assert all(0 < more - before < 600 for before, more in pairwise(kernels)), kernels


@pytest.mark.parametrize(("changes", "fused", "forward", "backward"), MOVED.values(), ids=MOVED)
def test_a_pass_of_eight_clips_moves_no_more_bytes(
    gpu: AbsentGpu,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    fused: bool,
    forward: tuple[int, float],
    backward: tuple[int, float],
) -> None:
    """Of the recipe for UCF-101 as it is, which needs no time here."""
    flash(monkeypatch)
    monkeypatch.setattr(choice, "_chosen", lambda *_: fused)
    config = load(ROOT / "configs" / "ucf.yaml", ["unet.dropout=0", *changes])
    assert isinstance(config, DiffusionRun)
    config.unet.channels, config.unet.labels, config.unet.strided = 4, 101, True
    denoiser = build_objective(config).denoiser.to(GPU)
    x, clock = torch.zeros(8, 4, 16, 32, 32, device=GPU), torch.full((8,), 0.5, device=GPU)
    condition = Condition(torch.zeros(8, dtype=torch.long, device=GPU), stride=torch.ones(8, device=GPU))
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        denoiser(x, clock, condition)  # where tokens lie is told once
    gpu.reset()
    with low_weights(denoiser, GPU, torch.bfloat16):
        with torch.autocast("cuda", torch.bfloat16):
            x0 = denoiser(x, clock, condition).x0
        assert (gpu.names["vidiff.enter"] > 0) == fused and not gpu.mixed
        assert 0 < gpu.kernels <= forward[0] and 0 < gpu.moved / 2**30 <= forward[1], (gpu.kernels, gpu.moved / 2**30)
        gpu.reset()
        x0.sum().backward()
    assert 0 < gpu.kernels <= backward[0] and 0 < gpu.moved / 2**30 <= backward[1], (gpu.kernels, gpu.moved / 2**30)
