from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import PREDICTIONS, Denoiser
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.process import add_noise
from vidiff.diffusion.schedule import Cosine, Flow, Learned
from vidiff.objective.bound import BoundObjective
from vidiff.objective.diffusion import DiffusionLoss, DiffusionObjective
from vidiff.objective.task import Tasks
from vidiff.objective.weighting import TIMES, WEIGHTINGS, level_weight

ALONE = Tasks(generate=1.0, first=0.0, random=0.0)
CENTRE = torch.tensor([-1.0, 1.0])


class Small(nn.Module):
    """A network of a few numbers, for clips of one pixel."""

    def __init__(self, heads: int = 1, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, heads)
        )

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.layers(torch.cat([x, 0.2 * log_snr], 1).movedim(1, -1)).movedim(-1, 1)


def clips(count: int, frames: int = 1) -> Tensor:
    """Two narrow kinds of clip, at -1 and at 1."""
    side = CENTRE[torch.randint(2, (count,))].view(-1, 1, 1, 1, 1)
    return side + 0.15 * torch.randn(count, 1, frames, 1, 1)


def perfect(prediction: str) -> Denoiser:
    data = Mixture(torch.full((1, 1, 1, 1, 1), 0.4), torch.tensor([0.6]))
    return Denoiser(ExactNetwork(data, Flow(), prediction), Flow(), prediction)


class Shifted(nn.Module):
    """An exact network, and an affine error to be found to be 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.error = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        return self.network(x, log_snr, condition) + self.error[0] + self.error[1] * x


@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "uncertainty"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_true_denoiser_is_the_optimum_of_every_loss(prediction: str, weighting: str) -> None:
    """The gradient at the posterior mean is 0, within its standard error; the score's is denoising score matching."""
    denoiser = perfect(prediction)
    denoiser.network = Shifted(denoiser.network)
    x0 = 0.4 + 0.6 * torch.randn(40, 500, 1, 1, 1, 1)
    objective = DiffusionObjective(denoiser, DiffusionLoss(weighting=weighting, times="logit_normal", tasks=ALONE))
    rows = [torch.autograd.grad(objective({"video": part})["loss"], denoiser.network.error)[0] for part in x0]
    gradient = torch.stack(rows)
    assert (gradient.mean(0).abs() < 4 * gradient.std(0) / math.sqrt(40)).all()


def test_denoising_score_matching_ends_at_the_score_of_a_gaussian() -> None:
    """Least squares of -eps / sigma on x: slope and offset of grad log p (Vincent 2011)."""
    x0, eps = 0.4 + 0.6 * torch.randn(200_000, 1, 1, 1, 1), torch.randn(200_000, 1, 1, 1, 1)
    x = add_noise(Cosine(), x0, eps, 0.5).flatten()
    alpha, sigma = (float(part) for part in Cosine()(torch.tensor(0.5)))
    design = torch.stack([x, torch.ones_like(x)], 1)
    slope, offset = torch.linalg.lstsq(design, (-eps.flatten() / sigma)[:, None]).solution.flatten().tolist()
    spread = (0.6 * alpha) ** 2 + sigma**2
    assert slope == pytest.approx(-1 / spread, rel=0.02)
    assert offset == pytest.approx(0.4 * alpha / spread, rel=0.02)


@pytest.mark.parametrize("distance", ["l2", "l1", "huber"])
def test_a_distance_is_its_formula(distance: str) -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            return torch.zeros_like(x)

    objective = DiffusionObjective(Denoiser(Zero(), Cosine(), "eps"), DiffusionLoss(distance=distance, tasks=ALONE))
    found = float(objective({"video": torch.zeros(200_000, 1, 1, 1, 1)})["loss"])
    eps = torch.randn(2_000_000)
    inside = eps.abs() < 1  # of a standard normal
    huber = torch.where(inside, 0.5 * eps**2, eps.abs() - 0.5).mean()
    wanted = {"l2": 1.0, "l1": math.sqrt(2 / math.pi), "huber": float(huber)}[distance]
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_weighting_trains_with_every_time_distribution(weighting: str, times: str) -> None:
    denoiser = Denoiser(Small(), Cosine(), "v")
    objective = DiffusionObjective(denoiser, DiffusionLoss(weighting=weighting, times=times))
    loss = objective({"video": clips(64, frames=4)})["loss"]
    loss.backward()
    assert loss.isfinite() and all(weight.grad.isfinite().all() for weight in objective.parameters())


def test_the_hybrid_loss_stops_the_mean() -> None:
    """The bound's gradient reaches the variance head alone: the mean's is that of the simple loss, bit for bit."""
    gradients = []
    for weight in (0.001, 10.0):
        torch.manual_seed(0)
        network = Small(2)
        options = DiffusionLoss(bound=weight, tasks=ALONE)
        objective = DiffusionObjective(Denoiser(network, Cosine(), "v", variance=True), options)
        objective({"video": clips(256)})["loss"].backward()
        gradients.append(network.layers[-1].weight.grad)
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1] * 10_000, gradients[1][1], rtol=1e-4, atol=1e-6)
    assert (gradients[1][1] != 0).any()


def test_the_bound_of_the_loss_is_the_sum_of_its_terms() -> None:
    """At the best estimate of Gaussian data, whose squared error is v / (1 + v snr)."""
    objective = DiffusionObjective(perfect("v"), DiffusionLoss(bound=1.0, tasks=ALONE))
    found = float(objective({"video": 0.4 + 0.6 * torch.randn(4_000_000, 1, 1, 1, 1)})["bound"])
    snr = Flow().log_snr(torch.arange(1, 1001, dtype=torch.float64) / 1000).exp()
    error = 0.36 / (1 + 0.36 * snr)
    steps = 0.5 * (snr[:-1] - snr[1:]) * error[1:]
    first = 0.5 * snr[0] * error[0] + 0.5 * torch.log(2 * math.pi / snr[0])
    assert found == pytest.approx(float(steps.sum() + first), abs=0.1)


def train(objective: nn.Module, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        objective({"video": clips(128)})["loss"].backward()
        optimizer.step()


@torch.no_grad()
def measured(objective: BoundObjective) -> float:
    """The bound on many clips, the same each time."""
    torch.manual_seed(1)
    return float(objective({"video": clips(100_000)})["loss"])


def test_a_learned_schedule_lowers_the_bound_and_learned_variance_lowers_it_further() -> None:
    """Eight steps, a small network: trained with its starting schedule, with a learned one, and with a head as well."""
    found = []
    for learned, variance in ((False, False), (True, False), (True, True)):
        torch.manual_seed(0)
        schedule = Learned(ends=(8.0, -8.0)).requires_grad_(learned)
        objective = BoundObjective(Denoiser(Small(1 + variance), schedule, "v", variance), steps=8)
        train(objective, 300)
        found.append(measured(objective))
    assert found[1] < found[0] - 0.05 and found[2] < found[1] - 0.05, found


def test_the_terms_of_the_bound_are_reported_apart() -> None:
    terms = BoundObjective(Denoiser(Small(), Cosine(), "v"), steps=20)({"video": clips(64)})
    assert float(terms["loss"]) == pytest.approx(float(terms["L_0"] + terms["L_t"] + terms["L_T"]), rel=1e-5)
    assert float(terms["L_T"]) == pytest.approx(0, abs=1e-3) and float(terms["L_t"]) > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionObjective(perfect("v"), DiffusionLoss(bound=-1.0)), r"loss\.bound is -1\.0"),
        (lambda: DiffusionObjective(perfect("v"), DiffusionLoss(weighting="snr")), "unknown loss weighting 'snr'"),
        (lambda: DiffusionObjective(perfect("v"), DiffusionLoss(times="beta")), "unknown time distribution 'beta'"),
        (lambda: DiffusionObjective(perfect("v"), DiffusionLoss(distance="l3")), "unknown loss distance 'l3'"),
        (
            lambda: DiffusionObjective(Denoiser(Small(), Learned(), "v"), DiffusionLoss()),
            "train it with BoundObjective, or choose linear, cosine, ve or flow",
        ),
        (lambda: BoundObjective(perfect("v"), steps=1), "steps = 1 must be at least 2"),
    ],
)
def test_bad_options_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


class Watching(Small):
    """Keeps what it is told."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.told = condition
        return super().forward(x, log_snr, condition)


def test_the_low_resolution_is_noised_and_the_network_told_how_far() -> None:
    torch.manual_seed(0)
    network = Watching()
    objective = DiffusionObjective(Denoiser(network, Cosine()), DiffusionLoss(tasks=ALONE), lowres_noise=0.3)
    low = torch.randn(400, 1, 3, 4, 4)
    objective({"video": clips(400, 3), "lowres": low})
    found, log_snr = network.told.lowres, network.told.lowres_log_snr
    assert found is not None and log_snr is not None and log_snr.shape == (400,)
    clean = log_snr == 20
    assert 150 < int(clean.sum()) < 250 and torch.equal(found[clean], low[clean])
    assert float(log_snr.min()) > float(Cosine().log_snr(torch.tensor(0.3)))
    alpha, sigma = Cosine().scales(log_snr[~clean].view(-1, 1, 1, 1, 1))
    eps = (found[~clean] - alpha * low[~clean]) / sigma
    assert abs(float(eps.mean())) < 0.05 and abs(float(eps.std()) - 1) < 0.05


def test_without_a_low_resolution_nothing_more_is_drawn() -> None:
    losses = []
    for noise in (0.0, 0.5):
        torch.manual_seed(1)
        objective = DiffusionObjective(perfect("v"), DiffusionLoss(), noise)
        losses.append(objective({"video": clips(16)})["loss"])
    assert torch.equal(*losses)


class Telling(nn.Module):
    """A denoiser's network that keeps what it is shown, with its clock, and whether it is to be learned from."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.seen: list[tuple[Tensor, Tensor, bool]] = []

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.seen.append((x.detach(), log_snr, torch.is_grad_enabled()))
        return self.gain * x


@pytest.mark.parametrize("rollout", [0.0, 0.25, 1.0])
def test_known_frames_are_shown_as_the_model_makes_them(rollout: float) -> None:
    """By one estimate without a gradient, from a time of each sample's own; what is to be made is as ever."""
    torch.manual_seed(0)
    network, schedule = Telling(), Cosine()
    tasks = Tasks(generate=0.0, first=1.0, random=0.0, noise=0.0, forget=0.0, rising=0.0)
    loss = DiffusionLoss(tasks=tasks, rollout=rollout, rollout_time=0.4)
    batch = {"mean": torch.randn(400, 2, 4, 1, 1), "std": torch.zeros(400, 2, 4, 1, 1)}
    DiffusionObjective(Denoiser(network, schedule, "x0"), loss)(batch)["loss"].backward()
    assert network.gain.grad is not None and network.gain.grad.isfinite()
    *before, (x, clock, learned) = network.seen
    known = clock == clock.max()  # shown as it is, but for the cosine schedule's least noise
    real = (x - batch["mean"]).abs().lt(0.05).all(1, keepdim=True)
    assert learned and len(before) == (rollout > 0)
    share = real[known].float().mean().item()
    assert share == pytest.approx(1 - rollout, abs=0.08)
    if not before:
        return
    (noised, time, told) = before[0]
    assert not told and time.flatten(1).std(1).max() == 0 and time.flatten(1)[:, 0].unique().numel() > 300
    assert schedule.time_of(time.double()).max() <= 0.401
    made = (0.3 * noised - x).abs().lt(0.05).all(1, keepdim=True)
    assert (made | real)[known].all() and not (made | real)[~known].all()


def test_a_share_that_is_none_is_named() -> None:
    for name in ("rollout", "rollout_time"):
        with pytest.raises(ValueError, match=f"loss.{name} is 1.5; give a number from 0 to 1"):
            DiffusionLoss(**{name: 1.5})


def test_a_loss_by_uncertainty_is_each_frames_own() -> None:
    """Once it has learned, a frame beside a known one counts as much as one of which nothing is known."""
    torch.manual_seed(0)
    options = DiffusionLoss(weighting="uncertainty")
    objective = DiffusionObjective(perfect("v"), options)
    schedule = objective.denoiser.schedule
    clock = torch.full((2, 1, 3, 1, 1), 0.5)
    clock[0, :, 0] = 0.0
    learned = clock > 0
    output = torch.zeros(2, 3, 3, 4, 4)
    output[0, :, 1] = 0.1
    output[0, :, 2] = output[1] = 1.0
    u = objective.uncertainty(schedule.log_snr(clock))
    assert u.shape == clock.shape
    errors, counted = objective._errors(output, torch.zeros_like(output), clock, learned)
    assert counted.tolist() == [2, 3]
    weight = level_weight("uncertainty", "v", schedule, clock)
    wanted = ((output.square().mean((1, 3, 4), keepdim=True) * weight / u.exp() + u) * learned).sum((1, 2, 3, 4))
    torch.testing.assert_close(errors, wanted)
