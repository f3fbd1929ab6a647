from __future__ import annotations

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from vidiff.engine.optim import Optim, adamw, clip_gradients, learning_rate
from vidiff.engine.options import TrainOptions


def test_learning_rate_at_exact_points() -> None:
    options = Optim(lr=2.0, warmup=4, decay="cosine", floor=0.1)
    assert [learning_rate(options, step, 104) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(options, 54, 104) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert learning_rate(options, 29, 104) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert learning_rate(options, 104, 104) == pytest.approx(0.2)
    assert learning_rate(options, 500, 104) == pytest.approx(0.2)  # not up again, past the end
    linear = Optim(lr=1.0, warmup=0, decay="linear")
    assert [learning_rate(linear, step, 4) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    constant = Optim(lr=1.0, warmup=0)
    assert {learning_rate(constant, step, 4) for step in range(9)} == {1.0}


def test_only_matrices_decay() -> None:
    """With gradients of 0, AdamW moves a parameter by its weight decay alone."""
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Conv2d(3, 3, 3))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = adamw(Optim(lr=0.1, weight_decay=0.5), module)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in module.named_parameters():
        factor = 0.95 if name in ("0.weight", "2.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor, rtol=1e-6, atol=0)


def test_the_first_step_is_lr_in_each_direction() -> None:
    """Adam's first step is lr * sign(gradient), whatever its size; frozen parameters do not move."""
    module = nn.Linear(2, 2, bias=False)
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    module.frozen = frozen
    before = module.weight.detach().clone()
    optimizer = adamw(Optim(lr=0.01, weight_decay=0.0), module)
    module.weight.grad = torch.tensor([[1.0, -1e-3], [100.0, -5.0]])
    optimizer.step()
    torch.testing.assert_close(module.weight - before, torch.tensor([[-0.01, 0.01], [-0.01, 0.01]]), rtol=1e-4, atol=0)
    assert torch.equal(frozen, torch.ones(2))


def test_clip() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    assert clip_gradients(parameters, 0.0) == 5.0
    assert torch.equal(parameters[0].grad, torch.tensor([3.0, 0.0]))
    assert clip_gradients(parameters, 10.0) == 5.0
    torch.testing.assert_close(parameters[1].grad, torch.tensor([4.0]))
    assert clip_gradients(parameters, 1.0) == 5.0
    torch.testing.assert_close(torch.cat([parameters[0].grad, parameters[1].grad]), torch.tensor([0.6, 0.0, 0.8]))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"lr": 0.0}, "optim.lr is 0.0"),
        ({"betas": (0.9, 1.0)}, r"optim.betas is \(0.9, 1.0\)"),
        ({"decay": "cosin"}, "choose constant, cosine or linear"),
        ({"warmup": -1}, "optim.warmup is -1"),
        ({"floor": 2.0}, "optim.floor is 2.0"),
    ],
)
def test_wrong_options_are_named(wrong: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        Optim(**wrong)


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        adamw(Optim(), nn.Linear(2, 2).requires_grad_(False))


def test_options_come_from_a_config() -> None:
    """OmegaConf builds them as they are, and refuses a misspelt choice."""
    schema = OmegaConf.structured(TrainOptions)
    merged = OmegaConf.merge(schema, OmegaConf.from_dotlist(["optim.decay=cosine", "steps=7", "optim.betas=[0.8,0.9]"]))
    options = OmegaConf.to_object(merged)
    assert isinstance(options, TrainOptions)
    assert (options.steps, options.optim.decay, tuple(options.optim.betas)) == (7, "cosine", (0.8, 0.9))
    with pytest.raises(Exception, match="expected one of"):
        OmegaConf.merge(schema, {"precision": "bf32"})
    with pytest.raises(ValueError, match=r"train.steps is 0"):
        TrainOptions(steps=0)
