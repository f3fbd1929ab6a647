"""The derivatives written by hand around attention are those of the formulas, which autograd takes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.nn import heads
from vidiff.nn.blocks import Attention

FRAMES = 5


def run(layer: Attention, dtype: torch.dtype, by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The output, and the gradients of the clip, of its clock, and of all parameters."""
    monkeypatch.setattr(heads, "by_hand", lambda *_: by_hand)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * FRAMES, 24, 4, 6, generator=generator).contiguous(memory_format=torch.channels_last)
    log_snr = torch.randn(2 * FRAMES, 1, 4, 6, generator=generator).requires_grad_()
    x.requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        y = layer(x, log_snr, FRAMES)
    along = torch.randn(y.shape, generator=generator).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, log_snr, *layer.parameters()], along)]


@pytest.mark.parametrize("axis", ["space", "time", "joint"])
@pytest.mark.parametrize(("dtype", "gap"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("causal", [False, True])
def test_both_ways_agree(
    axis: str, dtype: torch.dtype, gap: float, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Attention(24, axis, 8, causal=causal)
    ours, theirs = (run(layer, dtype, by_hand, monkeypatch) for by_hand in (True, False))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype and one.stride() == other.stride()
        assert float((one - other).float().norm()) <= gap * float(other.float().norm())


def test_a_derivative_forwards_takes_the_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, log_snr = Attention(24, "joint", 8), torch.zeros(FRAMES, 1, 4, 6)
    x, along = torch.randn(2, FRAMES, 24, 4, 6, generator=torch.Generator().manual_seed(0))
    said, slope = torch.func.jvp(lambda x: layer(x, log_snr, FRAMES), (x,), (along,))
    with torch.no_grad():
        step = 1e-2
        far, near = (layer(x + sign * step * along, log_snr, FRAMES) for sign in (1, -1))
    torch.testing.assert_close(slope, (far - near) / (2 * step), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(said, layer(x, log_snr, FRAMES), rtol=1e-5, atol=1e-6)


def test_there_is_no_second_derivative_to_be_wrong() -> None:
    layer, log_snr = Attention(24, "time", 8), torch.zeros(FRAMES, 1, 4, 6)
    x = torch.randn(FRAMES, 24, 4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (grad,) = torch.autograd.grad(layer(x, log_snr, FRAMES).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
