from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from vidiff.engine import moments
from vidiff.engine.optim import Optim, Together, build_optimizer, clip_gradients, learning_rate, orthogonalise
from vidiff.engine.options import TrainOptions
from vidiff.plan.trace import count_flops


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
    optimizer = build_optimizer(Optim(lr=0.1, weight_decay=0.5), module)
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
    optimizer = build_optimizer(Optim(lr=0.01, weight_decay=0.0), module)
    module.weight.grad = torch.tensor([[1.0, -1e-3], [100.0, -5.0]])
    optimizer.step()
    torch.testing.assert_close(module.weight - before, torch.tensor([[-0.01, 0.01], [-0.01, 0.01]]), rtol=1e-4, atol=0)
    assert torch.equal(frozen, torch.ones(2))


def test_parts_of_a_module_may_go_slower() -> None:
    """Each of both optimizers in each pace; what is set to `lr * pace` moves a part by that share."""
    module = nn.ModuleDict({name: nn.Conv2d(32, 32, 1) for name in ("fast", "slow")})
    module.paces = {"slow": 0.25}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = build_optimizer(Optim(name="muon", lr=0.1, weight_decay=0.0), module)
    assert [group.get("pace", 1) for group in optimizer.param_groups] == [1, 1, 0.25, 0.25]
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group.get("pace", 1)
    gradient = torch.randn(32, 32, 1, 1)
    for part in module.values():
        part.weight.grad, part.bias.grad = gradient.clone(), torch.ones(32)
    optimizer.step()
    for name in ("weight", "bias"):
        fast, slow = (module[part].get_parameter(name) - before[f"{part}.{name}"] for part in ("fast", "slow"))
        torch.testing.assert_close(slow, 0.25 * fast, rtol=1e-4, atol=1e-7)


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
        ({"lr": math.inf}, "optim.lr is inf"),
        ({"eps": -1.0}, "optim.eps is -1.0; give a number above 0, such as 1e-8"),
        ({"eps": 0.0}, "optim.eps is 0.0"),
        ({"weight_decay": math.nan}, "optim.weight_decay is nan"),
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
        build_optimizer(Optim(), nn.Linear(2, 2).requires_grad_(False))


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


def test_orthogonalise_keeps_directions_and_evens_out_sizes() -> None:
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, 6, 10), full_matrices=False)
    sizes = torch.tensor([1.0, 0.7, 0.4, 0.2, 0.1, 0.05])
    for x in (u @ torch.diag(sizes) @ vt, (u @ torch.diag(sizes) @ vt).mT):
        found = orthogonalise(x)
        assert found.shape == x.shape
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.6 and values.max() < 1.3, values
        inner = u.mT @ (found if found.shape[1] == 6 else found.mT) @ vt.mT  # diagonal: no direction is mixed
        torch.testing.assert_close(inner, torch.diag_embed(inner.diagonal(dim1=1, dim2=2)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("rank", [2, 16])
@pytest.mark.parametrize("bf16", [False, True])
def test_wide_matrices_are_orthogonalised_by_less_work_to_the_same_end(rank: int, bf16: bool) -> None:
    """Singular values from 1 to 1e-6, and where the rank is 2 many of 0, as of a gradient at the start."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(2, side, 16))[0] for side in (16, 144))
    sizes = torch.logspace(0, -6, 16) * (torch.arange(16) < rank)
    wide = u @ torch.diag(sizes) @ v.mT
    expected = wide.double() / wide.norm(dim=(1, 2), keepdim=True)
    for _ in range(5):
        gram = expected @ expected.mT
        expected = 3.4445 * expected + (-4.7750 * gram + 2.0315 * (gram @ gram)) @ expected
    for x, wanted in ((wide, expected), (wide.mT, expected.mT)):
        with count_flops() as counter, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = orthogonalise(x)
        torch.testing.assert_close(found.double(), wanted, atol=2e-3, rtol=0)
        assert counter.get_total_flops() < 0.5 * 2 * 2 * 5 * (2 * 16**2 * 144 + 16**3)


def kernels() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 3, 3))


def test_muon_moves_hidden_kernels_and_adamw_the_rest() -> None:
    """Both by a root mean square near the learning rate, whatever the size of the gradient."""
    module = kernels()
    optimizer = build_optimizer(Optim(name="muon", lr=0.01, weight_decay=0.0), module)
    muon = {id(p) for p in optimizer.parts[1].param_groups[0]["params"]}
    assert muon == {id(module[1].weight), id(module[2].weight)}
    before = [p.detach().clone() for p in module.parameters()]
    for parameter in module.parameters():
        parameter.grad = 1e3 * torch.randn_like(parameter)
    optimizer.step()
    for parameter, old in zip(module.parameters(), before, strict=True):
        size = (parameter.detach() - old).square().mean().sqrt().item()
        if id(parameter) in muon:  # 0.2 lr times singular values that are not all 1
            assert 0.0014 < size < 0.0024, size
        else:
            assert size == pytest.approx(0.01, rel=1e-3)


def test_muon_fits_and_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    def train(steps: int, saved: Path | None = None, module: nn.Module | None = None) -> tuple[nn.Module, Together]:
        module = module or kernels()
        optimizer = build_optimizer(Optim(name="muon", lr=3e-3), module)
        if saved:
            moments.into_optimizers(saved, module, optimizer.parts)
        for _ in range(steps):
            x = torch.linspace(-1, 1, 3 * 64).view(1, 3, 8, 8)
            loss = (module(x) - 0.5).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        return module, optimizer

    losses: list[float] = []
    whole, _ = train(8)
    half, optimizer = train(4)
    kept = moments.of_optimizers(half, optimizer.parts)
    moments.write(tmp_path, kept, kept, None)
    resumed, _ = train(4, tmp_path, half)
    assert losses[0] == losses[2] < losses[1]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
