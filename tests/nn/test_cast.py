"""Weights that are cast all at once give the bits that autocast's own casts give."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.schedule import Adaptive
from vidiff.engine import compile as compiling
from vidiff.nn.cast import TOGETHER, cast_all, low_weights, swapped
from vidiff.nn.unet import UNet, UNetConfig

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


def network(**options: object) -> UNet:
    torch.manual_seed(0)
    given = {"width": 8, "head_dim": 4, "channels": 2, "blocks": [1, 1], "labels": 2} | options
    made = UNet(UNetConfig(**given))  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():  # some begin at zero
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def learn(made: UNet, cast: AbstractContextManager[None], dtype: torch.dtype) -> tuple[Tensor, list[Tensor | None]]:
    """What two calls add up to, the second on what the first gives, and gradients of all weights."""
    generator = torch.Generator().manual_seed(1)
    x, clock = torch.randn(2, 2, 3, 4, 4, generator=generator), torch.randn(2, 1, 3, 4, 4, generator=generator)
    with cast:
        with torch.autocast("cpu", dtype):
            once = made(x, clock, Condition(torch.tensor([0, 1])))
            twice = made(once.float(), clock, Condition(torch.tensor([1, 1])))
            loss = (once.float() + twice.float()).square().mean()
        loss.backward()
    grads = [p.grad for p in made.parameters()]
    made.zero_grad()
    return loss.detach(), grads


@HALVES
@pytest.mark.parametrize("options", [{}, {"checkpoint": [0, 1]}], ids=["kept", "recomputed"])
def test_loss_and_gradients_have_the_same_bits(dtype: torch.dtype, options: dict[str, object]) -> None:
    made = network(**options)
    loss, grads = learn(made, nullcontext(), dtype)
    other, others = learn(made, swapped(made, dtype), dtype)
    assert torch.equal(loss, other) and loss.isfinite() and len(grads) > TOGETHER
    for (name, _), one, two in zip(made.named_parameters(), grads, others, strict=True):
        assert one is not None and two is not None and one.dtype == two.dtype == torch.float32
        assert torch.equal(one, two) and one.any(), name


def test_weights_are_themselves_again_afterwards_also_when_it_fails() -> None:
    made = network()
    before, content = dict(made.named_parameters()), [p.detach().clone() for p in made.parameters()]
    with pytest.raises(RuntimeError, match="stop"), swapped(made, torch.bfloat16):
        kinds = {name: parameter.dtype for name, parameter in made.named_parameters()}
        raise RuntimeError("stop")
    assert kinds["enter.weight"] == kinds["enter.bias"] == torch.bfloat16
    assert kinds["embed.label.weight"] == torch.float32, "autocast leaves embeddings as they are"
    assert kinds["down.0.attention.0.sharpness"] == torch.float32
    after = dict(made.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    assert all(torch.equal(one, two) for one, two in zip(made.parameters(), content, strict=True))


def test_inside_another_such_block_nothing_is_cast_anew() -> None:
    made = network()
    with swapped(made, torch.bfloat16):
        outer = made.enter.weight
        with swapped(made, torch.bfloat16):
            assert made.enter.weight is outer
        assert made.enter.weight is outer
    assert made.enter.weight.dtype == torch.float32


def test_frozen_weights_have_no_gradient_and_a_shared_one_is_cast_once() -> None:
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    one.bias.requires_grad_(False)
    with swapped(nn.ModuleList([one, two]), torch.bfloat16):
        assert one.weight is two.weight and one.weight.requires_grad and not one.bias.requires_grad
        with torch.no_grad(), swapped(layer := nn.Linear(4, 4), torch.bfloat16):
            assert not layer.weight.requires_grad
        with torch.autocast("cpu", torch.bfloat16):
            (one(torch.ones(1, 4)) + two(torch.ones(1, 4))).sum().backward()
    assert torch.equal(one.weight.grad, torch.full((4, 4), 2.0)) and one.bias.grad is None
    assert torch.equal(two.bias.grad, torch.ones(4))


def test_a_part_that_goes_by_the_type_of_its_weights_keeps_them() -> None:
    network = nn.Sequential(nn.Linear(2, 2), Adaptive(width=4, steps=2))
    with swapped(network, torch.bfloat16):
        kinds = {name: weight.dtype for name, weight in network.named_parameters()}
    assert kinds["0.weight"] == torch.bfloat16
    assert kinds["1.layers.0.weight"] == kinds["1.layers.2.bias"] == torch.float32


def test_copies_lie_in_memory_as_weights_do() -> None:
    kernel = torch.randn(6, 5, 3, 3).to(memory_format=torch.channels_last)
    (low,) = cast_all([kernel], torch.bfloat16)
    assert low.stride() == kernel.stride() and torch.equal(low, kernel.bfloat16())
    assert cast_all([], torch.bfloat16) == []


@pytest.mark.parametrize(("device", "dtype"), [("cpu", torch.bfloat16), ("cuda", torch.float32)])
def test_a_cpu_and_float32_are_left_alone(device: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(2, 2)
    with low_weights(layer, torch.device(device), dtype):
        assert layer.weight.dtype == torch.float32


def test_compiled_blocks_take_them_and_are_compiled_once_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    built = list[object]()

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        built.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    made = network()
    loss, grads = learn(made, nullcontext(), torch.bfloat16)
    with fresh():
        compiling.compile_blocks(made)
        outcomes = [learn(made, swapped(made, torch.bfloat16), torch.bfloat16) for _ in range(2)]
        count = len(built)
        outcomes.append(learn(made, swapped(made, torch.bfloat16), torch.bfloat16))
    assert 0 < len(built) == count
    for other, others in outcomes:
        assert torch.allclose(loss, other, rtol=1e-3)
        for one, two in zip(grads, others, strict=True):
            assert one is not None and two is not None
            assert float((one - two).norm()) <= 0.03 * float(one.norm())


@contextmanager
def fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()
