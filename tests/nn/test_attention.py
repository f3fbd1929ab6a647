"""Every backend is the same function, and one that is not is refused aloud."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.nn import attention as module
from vidiff.nn.attention import BACKENDS, SHORT, attention, choose_backend, most_sequences, plain, probe
from vidiff.nn.unet import UNet, UNetConfig

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """What was found out about one set of backends does not hold for the next."""
    probe.cache_clear()
    choose_backend.cache_clear()
    yield
    probe.cache_clear()
    choose_backend.cache_clear()


def draw(*shape: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(count)]


def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return 2 * plain(q, k, v)


def wrong_gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k.detach(), v) + 0 * k


def no_gradient(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k.detach(), v)


def other_layout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k, v).transpose(1, 2)


def missing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise ModuleNotFoundError("No module named 'xformers'\nmore")


def old(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    raise TypeError("unexpected keyword argument 'p'")


def not_finite(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k, v) * float("nan")


def test_plain_is_softmax_written_as_a_loop() -> None:
    q, k, v = draw(2, 5, 3, 4)
    found = plain(q, k, v)
    for b in range(2):
        for head in range(3):
            for i in range(5):
                weight = torch.softmax(torch.stack([q[b, i, head] @ k[b, j, head] / 4**0.5 for j in range(5)]), 0)
                expected = sum(weight[j] * v[b, j, head] for j in range(5))
                torch.testing.assert_close(found[b, i, head], expected)


@pytest.mark.parametrize("name", ["sdpa", "plain"])  # xformers has no operators for a CPU
@pytest.mark.parametrize("shape", [(3, 7, 2, 8), (2, 70, 4, 16), (1, 1, 1, 2)])
def test_a_backend_that_passes_equals_the_plain_formula(name: str, shape: tuple[int, ...]) -> None:
    assert probe(name, CPU, torch.float32, shape[-1]) is None
    inputs, others = draw(*shape), draw(*shape)
    found, expected = attention(*inputs, backend=name), plain(*others)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    for result in (found, expected):
        result.square().sum().backward()
    for x, y in zip(inputs, others, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-3, rtol=0)


def test_auto_takes_sdpa_on_a_cpu_and_plain_for_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    for name, backend in list(BACKENDS.items()):
        monkeypatch.setitem(BACKENDS, name, lambda *x, n=name, f=backend: (called.append(n), f(*x))[1])
    assert choose_backend(CPU, torch.float32, 8) == "sdpa"
    called.clear()
    attention(*draw(1, SHORT, 1, 8))
    attention(*draw(1, SHORT + 1, 1, 8))
    assert called == ["plain", "sdpa"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (twice, "differs from the plain formula by 1.0e+00"),
        (wrong_gradient, "differs from the plain formula by 1.0e+00"),
        (no_gradient, "no gradient"),
        (other_layout, "another shape"),
        (not_finite, "differs from the plain formula by nan"),
        (missing, "ModuleNotFoundError: No module named 'xformers'"),
        (old, "TypeError: unexpected keyword argument 'p'"),
    ],
)
def test_a_broken_backend_is_refused_with_the_reason_and_the_next_is_used(
    broken, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(BACKENDS, "sdpa", broken)
    with caplog.at_level(logging.WARNING, module.__name__):
        found = attention(*(inputs := draw(2, SHORT + 1, 2, 8)))
        attention(*inputs)
    torch.testing.assert_close(found, plain(*inputs))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1, "said once, not at every call"
    assert "sdpa cannot be used on cpu in torch.float32" in said[0] and reason in said[0]
    assert "more" not in said[0]


def test_a_backend_is_tried_within_a_level_that_is_recomputed() -> None:
    """Where nothing has asked for attention before the first step: the probe is no part of what is recomputed."""
    sizes = {"width": 8, "head_dim": 8, "multipliers": [1], "blocks": [1], "joint_attention": [0]}
    clip, clock = torch.randn(1, 3, 5, 8, 8), torch.zeros(1, 1, 5, 8, 8)  # 320 tokens: more than go without a kernel

    def gradients(*levels: int) -> list[Tensor]:
        torch.manual_seed(0)
        network = UNet(UNetConfig(channels=3, temporal_attention=[], checkpoint=list(levels), **sizes))
        with torch.no_grad():
            for weight in network.parameters():
                weight += 0.05 * torch.randn_like(weight)
        network(clip, clock, Condition()).square().sum().backward()
        return [weight.grad for weight in network.parameters() if weight.grad is not None]

    recomputed = gradients(0)
    assert choose_backend.cache_info().currsize == 1
    for one, other in zip(recomputed, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_device_without_any_backend_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BACKENDS:
        monkeypatch.setitem(BACKENDS, name, missing)
    with pytest.raises(RuntimeError, match="no attention backend works on cpu"):
        choose_backend(CPU, torch.float32, 8)


def test_an_unknown_backend_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'flash'.*auto, sdpa, xformers, plain"):
        attention(*draw(1, 2, 1, 2), backend="flash")


@pytest.mark.parametrize("batch", [5, 6, 10, 11])
def test_xformers_gets_batches_that_its_kernels_can_index(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert len(q) == len(k) == len(v) <= 5
        sizes.append(len(q))
        return plain(q, k, v)

    ops = ModuleType("xformers.ops")
    ops.memory_efficient_attention = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "xformers", ModuleType("xformers"))
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr(module, "MOST_SEQUENCES", 5)
    inputs = draw(batch, 3, 2, 4)
    torch.testing.assert_close(attention(*inputs, backend="xformers"), plain(*inputs))
    assert sizes == {5: [5], 6: [5, 1], 10: [5, 5], 11: [5, 5, 1]}[batch]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("batch", [5, 6, 11])
def test_sdpa_gets_batches_that_its_kernels_can_index(
    batch: int, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def kernel(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> Tensor:
        sizes.append(len(q))
        return fused(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", kernel)
    monkeypatch.setattr(module, "MOST_SEQUENCES", 5)
    inputs = draw(batch, 3, 2, 4)
    mask = torch.arange(3) < 1 + torch.arange(batch)[:, None] % 3 if masked else None
    torch.testing.assert_close(attention(*inputs, backend="sdpa", mask=mask), plain(*inputs, mask))
    assert sizes == {5: [5], 6: [5, 1], 11: [5, 5, 1]}[batch]


@pytest.mark.parametrize(
    ("tokens", "others", "heads", "channels", "most"),
    [
        (16, 16, 4, 64, 65535),  # 2,147,450,880 numbers, just below the bound of 32 bits
        (16, 16, 5, 64, 52428),
        (16, 16, 9, 16, 58254),  # channels count as 32 or more
        (129, 16, 4, 64, 32767),
        (16, 129, 4, 64, 32767),
        (2**20, 2**20, 64, 64, 1),
    ],
)
def test_sequences_of_a_call_stay_within_both_bounds(
    tokens: int, others: int, heads: int, channels: int, most: int
) -> None:
    q, k = (torch.empty(1, n, heads, channels, device="meta") for n in (tokens, others))
    assert most_sequences(q, k) == most


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_backends_on_a_gpu(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    for head_dim in (32, 64):
        usable = [name for name in BACKENDS if probe(name, device, dtype, head_dim) is None]
        assert "sdpa" in usable and choose_backend(device, dtype, head_dim) == usable[0]
        for name in usable:
            many = [x.detach().to(device, dtype) for x in draw(66_000, 4, 1, head_dim)]
            torch.testing.assert_close(attention(*many, backend=name), plain(*many), atol=2e-2, rtol=2e-2)
