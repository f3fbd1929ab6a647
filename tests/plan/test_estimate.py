"""What is predicted of a training, against the training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from vidiff.engine.optim import Muon, build_optimizer
from vidiff.nn.heads import formulas
from vidiff.plan import estimate as module
from vidiff.plan.estimate import GB, MARGIN, at_most, estimate, follow, refuse_too_large
from vidiff.plan.sketch import Sketch, sketch
from vidiff.plan.trace import _Follower, count_flops
from vidiff.recipe.kinds import RunConfig
from vidiff.recipe.load import load

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.yaml"))
SMALL = ["unet.width=32", "unet.blocks=[1,1]", "unet.head_dim=16", "batch=2", "data.frames=4", "sampling.context=1"]


def configured(name: str, *changes: str) -> RunConfig:
    return load(ROOT / "configs" / name, changes)


def sketched(name: str, *changes: str) -> Sketch:
    return sketch(configured(name, *changes), ROOT / "configs", look=False)


def content(of: Sketch, count: int) -> dict[str, torch.Tensor]:
    """A batch with something in it."""
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in of.batch(count).items()}


CASES: dict[str, tuple[str, list[str]]] = {
    "shapes": ("shapes.yaml", SMALL),
    "recomputed": ("shapes.yaml", [*SMALL, "unet.checkpoint=[0]", "train.accumulate=2"]),
    "fused attention": ("shapes.yaml", [*SMALL, "unet.attention_backend=sdpa"]),
    "adamw": ("shapes.yaml", [*SMALL, "train.optim.name=adamw"]),
    "boxes and strides": ("shapes_long.yaml", SMALL),
    "two convolutions": ("shapes.yaml", [*SMALL, "unet.spatial_convs=2", "unet.spatial_attention=[0]"]),
    "from known frames": ("shapes.yaml", [*SMALL, "unet.previous=true"]),
    "words": ("shapes_text.yaml", SMALL),
    "super-resolution": ("shapes_sr.yaml", ["unet.width=32", "batch=2"]),
    "bound": ("shapes.yaml", [*SMALL, "objective=bound", "schedule={name: learned}", "prediction=eps"]),
    "variance": ("shapes.yaml", [*SMALL, "unet.variance=true", "loss.bound=0.001"]),
    "uncertainty": ("shapes.yaml", [*SMALL, "loss.weighting=uncertainty"]),
    "autoencoder": ("shapes_vae.yaml", ["vae.width=32", "batch=2"]),
    "discriminator": ("shapes_vae.yaml", ["vae.width=32", "batch=2", "loss.adversarial=0.5"]),
    "several frames a latent": ("shapes_vae.yaml", ["vae.width=32", "batch=2", "vae.temporal=2", "data.frames=5"]),
    "classifier": ("shapes_classifier.yaml", ["classifier.width=32", "classifier.head_dim=16", "batch=2"]),
}


class Flops(TorchDispatchMode):
    """PyTorch's formulas without its counter, which follows modules and cannot where a loss takes gradients itself."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.formulas = 0, count_flops().flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        if func.overloadpacket in self.formulas:
            self.total += self.formulas[func.overloadpacket](*args, **kwargs or {}, out_val=found)
        return found

    def get_total_flops(self) -> int:
        return self.total


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_flops_are_those_of_the_step(name: str) -> None:
    """Exactly, of every kind of training: both passes, parts of a batch, and Muon's products."""
    file, changes = CASES[name]
    of = sketched(file, *changes)
    found = estimate(of, "fp32")
    objective = of.build()
    assert found.parameters == sum(p.numel() for p in objective.parameters())
    parts = of.config.train.accumulate
    with Flops() if name == "discriminator" else count_flops() as counter:
        for _ in range(parts):
            objective(content(of, of.config.batch // parts))["loss"].backward()
        for part in build_optimizer(of.config.train.optim, objective).parts:
            part.step()
    assert found.flops == counter.get_total_flops() > 0


def test_memory_by_part_is_what_is_stored() -> None:
    of = sketched("shapes.yaml", *SMALL)
    objective = of.build()
    optimizer = build_optimizer(of.config.train.optim, objective)
    objective(content(of, 2))["loss"].backward()
    optimizer.step()
    moments = [v for part in optimizer.parts for state in part.state.values() for v in state.values() if v.ndim]
    size = 4 * sum(p.numel() for p in objective.parameters())
    found = estimate(of, "fp32").memory
    assert found["weights"] == found["gradients"] == found["averages"] == size
    assert found["moments"] == sum(v.numel() * v.element_size() for v in moments)
    assert found["batch"] == sum(v.numel() * v.element_size() for v in of.batch(2).values())
    assert any(isinstance(part, Muon) for part in optimizer.parts)


def test_shards_divide_what_is_kept_and_not_what_is_computed() -> None:
    of = sketched("shapes.yaml", *SMALL, "batch=4")
    whole = estimate(of, "bf16", world=2)
    of.config.train.parallel = "fsdp"
    halves = estimate(of, "bf16", world=2)
    for part in ("weights", "gradients", "moments", "averages"):
        assert halves.memory[part] == pytest.approx(whole.memory[part] / 2, abs=64), part
    assert halves.memory["activations"] == whole.memory["activations"]
    assert halves.flops == whole.flops
    to_sample = {
        kind: estimate(of, kind, world=2, gpu=True, step=replace(follow(of, 2, kind), peak=0)).memory
        for kind in ("bf16", "fp32")
    }
    low, full = (each["whole weights, to sample"] + each["gathered blocks"] for each in to_sample.values())
    assert low == full * 3 // 2, "weights, and on a GPU their copies in bf16"
    of.config.train.parallel, of.config.train.shards = "hsdp", 2
    assert estimate(of, "bf16", world=4).memory["weights"] == halves.memory["weights"]
    of.config.train.shards = 3
    with pytest.raises(ValueError, match=r"train.shards is 3, but 4 processes .* train.parallel=fsdp"):
        estimate(of, "bf16", world=4)
    of.config.train.shards = 0
    with pytest.raises(ValueError, match=r"has a group for each machine, of 8, but 12 processes do not divide"):
        estimate(of, "bf16", world=12, local=8, step=follow(of, 1, "bf16"))


def test_recomputing_takes_less_memory_and_more_operations() -> None:
    deep = [*SMALL, "unet.blocks=[4,4]", "train.optim.name=adamw"]
    plain, spared = (
        estimate(sketched("shapes.yaml", *deep, f"unet.checkpoint={levels}"), "fp32") for levels in ([], [0, 1])
    )
    assert spared.memory["activations"] < 0.5 * plain.memory["activations"]
    assert 1.2 * plain.flops < spared.flops < 4 / 3 * plain.flops


def test_memory_goes_with_the_batch_by_a_line() -> None:
    """On which proposals rely: what is guessed for a part of 5 is what follows for it."""
    of = sketched("shapes.yaml", *SMALL)
    one, two, five = (follow(of, count, "bf16") for count in (1, 2, 5))
    assert five.peak == pytest.approx(one.peak + 4 * (two.peak - one.peak), rel=0.01)
    assert five.flops == one.flops + 4 * (two.flops - one.flops)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_quick_bound_is_above(recipe: Path) -> None:
    config = load(recipe)
    bound = at_most(config, config.batch, recipe.parent)
    config.batch = part = min(config.batch, 4)
    found = estimate(sketch(config, recipe.parent, look=False, gpu=True), "fp32", gpu=True)
    assert found.total < at_most(config, part, recipe.parent) <= bound


MEASURE = """
import json, sys
from pathlib import Path
import torch
from vidiff.recipe.load import load
from vidiff.engine.ema import EMA
from vidiff.engine.optim import build_optimizer
from vidiff.plan.sketch import sketch

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

def content(batch):
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in batch.items()}

def train(of, steps):
    objective = of.build()
    optimizer, ema = build_optimizer(of.config.train.optim, objective), EMA(objective)
    for _ in range(steps):
        batch = content(of.batch(of.config.batch))
        objective(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

recipe, changes = json.loads(sys.argv[1])
of = sketch(load(recipe, changes), Path(recipe).parent, look=False)
train(of, 2)
print(status("VmHWM"))
"""


def measured(name: str, changes: list[str]) -> int:
    """Bytes that a process holds at most while it takes two steps."""
    given = json.dumps([str(ROOT / "configs" / name), changes])
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, given]
    return int(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


LARGER = ["unet.width=128", "unet.multipliers=[1,2,2]", "unet.blocks=[2,2,1]", "unet.head_dim=64", "data.size=128"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("changes", [[], ["unet.checkpoint=[0,1]"], [*LARGER, "batch=4"]])
def test_memory_is_as_measured(changes: list[str]) -> None:
    """Of a whole process, to the margin that the refusal allows for: 25 %."""
    found = estimate(sketched("shapes.yaml", *changes), "fp32")
    predicted = found.total - found.memory["codec"] - found.memory["copies to save"]  # of which this process has none
    held = measured("shapes.yaml", changes)
    print(f"predicted {predicted / GB:.2f} GB, measured {held / GB:.2f} GB")
    assert predicted / MARGIN < held < predicted * MARGIN


def test_a_terabyte_is_refused_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a large batch, and by a large network; not where one asks to try."""
    for change in ("batch=10000000", "unet.width=38400"):
        config = configured("shapes.yaml", *SMALL, change)
        with pytest.raises(ValueError, match=r"needs about [\d,.]+ GB .*vidiff plan CONFIG.*check_memory=false"):
            refuse_too_large(config, ROOT / "configs")
        config.train.check_memory = False
        refuse_too_large(config, ROOT / "configs")


def test_what_may_fit_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the bound and the memory the step is followed; far below the bound it is not even that."""
    config = configured("shapes.yaml", *SMALL)
    total = estimate(sketched("shapes.yaml", *SMALL), "fp32").total
    followed: list[Any] = []
    monkeypatch.setattr(module, "follow", lambda *given: followed.append(given) or follow(*given))
    for memory, times in ((100 * total, 0), (1.01 * total, 1), (total / MARGIN + 1, 2)):
        monkeypatch.setattr(module, "machine_memory", lambda memory=memory: int(memory))
        refuse_too_large(config, ROOT / "configs")
        assert len(followed) == times
    monkeypatch.setattr(module, "machine_memory", lambda: int(total / MARGIN) - 1000)
    with pytest.raises(ValueError, match="needs about"):
        refuse_too_large(config, ROOT / "configs")


def test_a_student_s_teacher_is_counted() -> None:
    """Its weights lie in memory beside those that are trained, whole on every process."""
    changes = [*SMALL, "batch=4"]
    student, base = sketched("shapes_student.yaml", *changes), sketched("shapes.yaml", *SMALL, "batch=4")
    found = estimate(student, "fp32", world=2)
    teacher = student.build().teacher.denoiser  # type: ignore[union-attr, operator]
    assert found.memory["teacher"] == 4 * sum(p.numel() for p in teacher.parameters()) > 0  # type: ignore[union-attr]
    assert estimate(base, "fp32", world=2).memory["teacher"] == 0
    student.config.objective = "consistency_training"  # type: ignore[attr-defined]
    assert estimate(student, "fp32", world=2).memory["teacher"] == 0


class Chain(torch.nn.Module):
    """A product, three things done number by number, and another product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = (torch.nn.Linear(64, 64, bias=False) for _ in range(2))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.first(batch["x"])
        return {"loss": self.last((x * 2 + 1).sigmoid()).sum()}


def test_traffic_is_what_operations_read_and_write() -> None:
    """Forward alone, by hand: 32 samples of 64 numbers, and two matrices of 64 by 64."""
    row, matrix = 4 * 32 * 64, 4 * 64 * 64
    moved = {}
    for compiled in (False, True):
        with torch.no_grad():
            work = forward_work(compiled)
        assert sum(flops * count for (flops, _), count in work.items()) == 2 * 2 * 32 * 64 * 64
        moved[compiled] = sum(size * count for (_, size), count in work.items())
    products = 2 * (2 * row + matrix)
    assert moved[False] == products + 3 * 2 * row + row + 4  # each of three reads and writes; the sum reads
    assert moved[True] == products + 2 * row  # one kernel; the sum is not yet needed


def forward_work(compiled: bool) -> Counter[tuple[int, int]]:
    with FakeTensorMode(), _Follower() as follower:
        follower.compiled = compiled
        objective, batch = Chain(), {"x": torch.zeros(32, 64)}
        follower.clear()
        objective(batch)
        return follower.work


def test_a_compiler_moves_less_and_multiplies_as_much() -> None:
    plain = sketched("shapes.yaml", *SMALL, "train.optim.name=adamw")
    plain.config.train.compile = False
    fused = sketched("shapes.yaml", *SMALL, "train.optim.name=adamw", "train.compile=true")
    with formulas():  # which is what a compiler reads
        found, less = (estimate(of, "bf16") for of in (plain, fused))
    assert found.flops == less.flops and found.memory == less.memory
    moved, fewer = (sum(size * count for (_, size), count in one.work.items()) for one in (found, less))
    assert 0.3 * moved < fewer < 0.7 * moved


def counted(*changes: str) -> tuple[int, int, int]:
    """On a GPU: operations of a step, the bytes that they move, and those of activations."""
    given = configured("shapes.yaml", *SMALL, "train.optim.name=adamw", *changes)
    found = estimate(sketch(given, ROOT / "configs", look=False, gpu=True), "bf16", gpu=True)
    moved = sum(size * count for (_, size), count in found.work.items())
    return sum(found.work.values()), moved, found.memory["activations"]


def test_on_a_gpu_kernels_move_less_but_in_blocks_that_are_compiled() -> None:
    kernels, formulas = counted("train.compile=false"), counted("train.compile=false", "unet.fused=plain")
    assert all(one < 0.8 * other for one, other in zip(kernels[:2], formulas[:2], strict=True)), (kernels, formulas)
    assert kernels[2] < formulas[2]
    compiled = counted("train.compile=true")
    # what a compiler joins hangs a little on when tensors are freed, and so on the garbage collector
    assert counted("train.compile=true", "unet.fused=plain") == pytest.approx(compiled, rel=0.03)
    asked_for = counted("train.compile=true", "unet.fused=triton")
    assert all(one < 0.9 * other for one, other in zip(asked_for, compiled, strict=True)), (asked_for, compiled)
