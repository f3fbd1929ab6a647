from __future__ import annotations

import pytest
import torch
from torch import nn

from vidiff.engine.ema import EMA


def test_fixed_decay_is_the_closed_form() -> None:
    """For weights w_n = n, with w_0 = 0: sum over k of (1 - d) d^(n - k) k."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, decay=0.9, warmup=1)
    for n in range(1, 51):
        nn.init.constant_(module.weight, float(n))
        ema.update()
    expected = sum(0.1 * 0.9 ** (50 - k) * k for k in range(1, 51))
    assert ema.state_dict()["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert ema.updates == 50


def test_warmup_forgets_the_first_weights() -> None:
    """While the warm-up rules, n updates leave of the first weights the product of (1 + k) / (10 + k)."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.ones_(module.weight)
    ema = EMA(module, decay=0.9999, warmup=10)
    nn.init.zeros_(module.weight)
    left = 1.0
    for n in range(1, 201):
        ema.update()
        left *= (1 + n) / (10 + n)
    assert ema.state_dict()["weight"].item() == pytest.approx(left, rel=1e-4)
    assert left < 1e-7


def test_swapped_gives_back_every_bit() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    module[0].bias.requires_grad_(False)
    module.register_buffer("constant", torch.ones(2), persistent=False)
    ema = EMA(module, decay=0.5, warmup=1)
    assert sorted(ema.state_dict()) == ["0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight"]
    module(torch.randn(8, 3)).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    ema.update()
    live = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    mean = {name: tensor.clone() for name, tensor in ema.state_dict().items()}
    with pytest.raises(KeyError), ema.swapped():
        assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in mean.items())
        assert torch.equal(module[0].bias, live["0.bias"])
        raise KeyError
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in live.items())
    assert all(torch.equal(ema.state_dict()[name], tensor) for name, tensor in mean.items())
    assert not torch.equal(live["0.weight"], mean["0.weight"])


def test_state_goes_into_another_of_the_same_kind() -> None:
    module, other = nn.Linear(2, 2), nn.Linear(2, 2)
    ema, copy = EMA(module), EMA(other)
    ema.update()
    copy.load_state_dict(ema.state_dict(), ema.updates)
    assert copy.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(ema.state_dict().values(), copy.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match="another model: bias"):
        copy.load_state_dict({"weight": torch.zeros(2, 2)}, 1)
    with pytest.raises(ValueError, match=r"weight is \(3, 2\), expected \(2, 2\)"):
        copy.load_state_dict({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, 1)


@pytest.mark.parametrize("wrong", [{"decay": 1.0}, {"decay": -0.1}, {"warmup": 0}])
def test_wrong_options(wrong: dict) -> None:
    with pytest.raises(ValueError, match="ema"):
        EMA(nn.Linear(1, 1), **wrong)
