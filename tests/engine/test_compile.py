"""Compiled blocks: the same numbers, each kind compiled once, and never on trust."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidiff.engine import checkpoint, compile
from vidiff.engine.loop import fit
from vidiff.engine.options import TrainOptions
from vidiff.nn.blocks import Attention
from vidiff.nn.cast import swapped


class Block(nn.Module):
    """A residual with dropout, whose numbers must be those of the block that is not compiled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return x + nn.functional.dropout(torch.tanh(self.inner(x * scale)), 0.3, self.training)


class Stack(nn.Module):
    def __init__(self, width: int = 8, depth: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        self.calls += 1
        x = batch["x"]
        for block in self.blocks:
            x = block(x, scale=batch["scale"])
        return {"loss": x.square().mean()}


def batch(count: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {"x": torch.randn(count, 8, generator=generator), "scale": torch.rand(count, 1, generator=generator)}


class Counted:
    """A backend that runs what it is given, and counts how often it was asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    torch._dynamo.reset()
    counted = Counted()
    monkeypatch.setattr(compile, "BACKEND", counted)
    yield counted
    torch._dynamo.reset()


def gradients(objective: nn.Module) -> list[Tensor]:
    torch.manual_seed(0)
    objective.zero_grad()
    objective(batch())["loss"].backward()
    return [p.grad.clone() for p in objective.parameters() if p.grad is not None]


def test_blocks_of_a_kind_are_compiled_once(backend: Counted) -> None:
    """For the comparison, for training after it, and for copies of the model."""
    objective = Stack()
    expected = gradients(objective)
    calls, state = objective.calls.clone(), torch.get_rng_state()
    assert compile.objection(objective, batch(), "fp32") is None
    assert objective.calls == calls and torch.equal(torch.get_rng_state(), state)
    assert all("forward" not in vars(block) for block in objective.blocks)
    compile.compile_blocks(objective)
    for found, wanted in zip(gradients(objective), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert backend.graphs <= 2  # the first block's input needs no gradient, and the others' do


def test_calls_without_gradients_are_not_compared(backend: Counted) -> None:
    """As students and rollouts make them, before the one of which they learn."""

    class Twice(Stack):
        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            with torch.no_grad():
                made = super().forward(batch)["loss"]
            return super().forward(batch | {"x": batch["x"] + made})

    assert compile.objection(Twice(), batch(), "fp32") is None
    assert backend.graphs


def test_the_choice_of_attention_does_not_break_a_block(backend: Counted) -> None:
    """Its probes, which a compiler would follow, are no part of the block."""
    layer = Attention(16, "joint", 8)
    x = torch.randn(8, 16, 8, 8, requires_grad=True).to(memory_format=torch.channels_last)
    compiled = torch.compile(layer.forward, backend=backend, fullgraph=True)
    clock = torch.randn(8, 1, 8, 8)
    torch.testing.assert_close(compiled(x, clock, 8), layer(x, clock, 8))  # 512 tokens: not the plain formula
    assert backend.graphs == 1


def test_other_sizes_are_not_compiled_where_one_only_looks(backend: Counted) -> None:
    objective = Stack()
    compile.compile_blocks(objective)
    gradients(objective)
    before = backend.graphs
    with compile.uncompiled(), torch.no_grad():
        objective(batch(7))
    assert backend.graphs == before > 0


def wrong(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    return lambda *given: tuple(1.001 * x for x in graph.forward(*given))


def broken(graph: torch.fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no compiler here\nat all")


@pytest.mark.parametrize(("backend", "reason"), [(wrong, "Block: its output differs by 1"), (broken, "Block: Back")])
def test_what_differs_or_fails_is_told(backend: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compile, "BACKEND", backend)
    found = compile.objection(Stack(), batch(), "fp32")
    assert found is not None and found.startswith(reason) and "\n" not in found
    torch._dynamo.reset()


def test_wrong_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the output is right."""
    torch._dynamo.reset()
    monkeypatch.setattr(compile, "BACKEND", "eager")
    plain = compile._run

    def off(way: Any, block: nn.Module, *given: Any) -> list[Tensor | None]:
        found = plain(way, block, *given)
        if way != block.forward and found[-1] is not None:
            found[-1] = found[-1] * factor
        return found

    monkeypatch.setattr(compile, "_run", off)
    factor = 1.009
    with torch.autocast("cpu", torch.bfloat16):
        assert compile.objection(Stack(), batch(), "bf16") is None
    found = compile.objection(Stack(), batch(), "fp32")
    assert found is not None and "a gradient differs by 9.0e-03 of its size: at most 1.0e-04 is rounding" in found
    factor = 1.1
    with torch.autocast("cpu", torch.bfloat16):
        found = compile.objection(Stack(), batch(), "bf16")
    assert found is not None and "from float32's in bf16, and uncompiled by" in found


class Cancelling(Block):
    """A difference of large numbers, of which bf16 leaves but a part."""

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return self.inner(x * scale + 30.0) - self.inner(torch.full_like(x, 30.0))


def test_a_block_that_bf16_rounds_much_may_be_rounded_less(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that keeps float32 between the parts of a block differs from the block, and is nearer the truth."""
    torch._dynamo.reset()
    objective, plain = Stack(), compile._run
    objective.blocks = nn.ModuleList(Cancelling(8) for _ in range(2))

    def kept(way: Any, block: nn.Module, *given: Any) -> list[Tensor | None]:
        return plain(way, block, *given) if way == block.forward else compile._in_float32(block, *given)

    monkeypatch.setattr(compile, "_run", kept)
    first = objective.blocks[0]
    with torch.autocast("cpu", torch.bfloat16):
        given = batch()
        rounded = first(given["x"], given["scale"]).float()
        with torch.autocast("cpu", enabled=False):
            exact = first(given["x"], given["scale"])
        assert (rounded - exact).norm() / exact.norm() > 0.03
        assert compile.objection(objective, batch(), "bf16") is None


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_weights_that_were_cast_before_are_compared_too(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where layers have bf16 weights."""
    torch._dynamo.reset()
    monkeypatch.setattr(compile, "BACKEND", "eager")
    plain, objective = compile._run, Stack()
    before = {name: weight.clone() for name, weight in objective.named_parameters()}

    def off(way: Any, block: nn.Module, *given: Any) -> list[Tensor | None]:
        found = plain(way, block, *given)
        return found if way == block.forward else [x if x is None else factor * x for x in found]

    monkeypatch.setattr(compile, "_run", off)
    with swapped(objective, torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        found = compile.objection(objective, batch(), "bf16")
        assert objective.blocks[0].inner.weight.dtype == torch.bfloat16
    assert (found is None) == (factor == 1.0), found
    assert all(torch.equal(weight, before[name]) for name, weight in objective.named_parameters())


def test_nothing_to_compile() -> None:
    assert compile.objection(nn.Sequential(nn.Linear(1, 1)), {}, "fp32") == "the model has no blocks that repeat"


def train(run: Path, compiled: bool, batches: Callable[[int], Any], objective: nn.Module) -> dict[str, Tensor]:
    looked: list[int] = []
    options = TrainOptions(steps=3, precision="fp32", log_every=1, compile=compiled, validate_every=2)
    fit(objective, batches, 4, options, run, device="cpu", validate=lambda step: looked.append(step) or {"val/x": 1.0})
    assert looked == [2, 3]
    return checkpoint.load_weights(run, "model")


def endless(start: int) -> Iterator[dict[str, Tensor]]:
    while True:
        yield batch()


def test_a_run_with_compiled_blocks_is_the_run_without(backend: Counted, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", False, endless, Stack())
    assert backend.graphs == 0
    compiled = train(tmp_path / "compiled", True, endless, Stack())
    assert backend.graphs > 0
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, compiled[name], rtol=1e-6, atol=1e-7)


def test_a_run_says_why_it_does_not_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is, to the bit, the run that was never to be compiled."""
    torch._dynamo.reset()
    monkeypatch.setattr(compile, "BACKEND", broken)
    plain = train(tmp_path / "plain", False, endless, Stack())
    tried = train(tmp_path / "tried", True, endless, Stack())
    assert "blocks are not compiled: Block: BackendCompilerFailed" in capsys.readouterr().out
    assert all(torch.equal(tensor, tried[name]) for name, tensor in plain.items())


@pytest.mark.slow
def test_inductor_compiles_the_u_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user gets: the real compiler on real blocks, which are recomputed, against the run without."""
    torch._dynamo.reset()
    blocky = importlib.import_module("blocky")
    one = {"multipliers": [1], "blocks": [1], "temporal_attention": [0], "joint_attention": []}
    monkeypatch.setattr(blocky, "SHAPE", blocky.SHAPE | one)
    make = lambda start: blocky.batches(start, 4, 0, 1)  # noqa: E731
    plain = train(tmp_path / "plain", False, make, blocky.Blocky([0]))
    compiled = train(tmp_path / "compiled", True, make, blocky.Blocky([0]))
    for name, tensor in plain.items():
        torch.testing.assert_close(tensor, compiled[name], rtol=1e-3, atol=1e-4, msg=name)
    torch._dynamo.reset()
