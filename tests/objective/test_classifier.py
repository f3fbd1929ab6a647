"""What a classifier of noised clips is trained for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.exact import Mixture
from vidiff.diffusion.schedule import Cosine, Schedule
from vidiff.objective.classifier import ClassifierLoss, ClassifierObjective
from vidiff.objective.task import Tasks

B, F = 64, 6
KNOWN = Tasks(generate=0.0, first=1.0, random=0.0, noise=0.0, forget=0.0, rising=0.0)
PLAIN = Tasks(generate=1.0, first=0.0, random=0.0, rising=0.0)


class Says(nn.Module):
    """Gives the logits that it was told to, and keeps what it is shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.x, self.log_snr, self.condition = x, log_snr, condition
        return self.logits


def batch(std: float = 0.0) -> dict[str, Tensor]:
    mean = torch.randn(B, 2, F, 8, 8, generator=torch.Generator().manual_seed(0))
    return {"mean": mean, "std": torch.full_like(mean, std), "label": torch.arange(B) % 4}


def scores(logits: Tensor, tasks: Tasks, **options) -> tuple[dict[str, Tensor], Says]:
    network = Says(logits[:, None].expand(-1, F, -1))
    return ClassifierObjective(network, Cosine(), ClassifierLoss(tasks=tasks, **options))(batch()), network


def test_loss_and_accuracy_of_answers_that_are_known() -> None:
    label = torch.arange(B) % 4
    even, _ = scores(torch.zeros(B, 4), PLAIN)
    assert float(even["loss"]) == pytest.approx(math.log(4))
    right, _ = scores(30.0 * nn.functional.one_hot(label, 4).float(), PLAIN)
    assert float(right["accuracy"]) == 1 and float(right["loss"]) < 1e-9
    wrong, _ = scores(30.0 * nn.functional.one_hot((label + 1) % 4, 4).float(), PLAIN)
    assert float(wrong["accuracy"]) == 0 and float(wrong["loss"]) == pytest.approx(30, rel=1e-6)
    smooth, _ = scores(30.0 * nn.functional.one_hot(label, 4).float(), PLAIN, smoothing=0.2)
    assert float(smooth["loss"]) == pytest.approx(0.2 * 0.75 * 30, rel=1e-6)  # Szegedy et al. 2016, section 7


def test_each_frame_counts_alike_and_all_together_say_what_the_clip_shows() -> None:
    label = torch.arange(B) % 4
    logits = torch.zeros(B, F, 4)
    logits[:, 0] = 30.0 * nn.functional.one_hot(label, 4)
    found = ClassifierObjective(Says(logits), Cosine(), ClassifierLoss(tasks=PLAIN))(batch())
    assert float(found["loss"]) == pytest.approx((F - 1) / F * math.log(4)) and float(found["accuracy"]) == 1
    logits[:, 1] = 40.0 * nn.functional.one_hot((label + 1) % 4, 4)
    assert float(ClassifierObjective(Says(logits), Cosine(), ClassifierLoss(tasks=PLAIN))(batch())["accuracy"]) == 0


def test_accuracy_is_told_by_the_quarter_of_the_time() -> None:
    """Stratified times rise with the sample: here the first half is right, and the second wrong."""
    answer = torch.where(torch.arange(B) < B // 2, torch.arange(B) % 4, (torch.arange(B) + 1) % 4)
    found, _ = scores(nn.functional.one_hot(answer, 4).float(), PLAIN)
    assert [float(found[f"accuracy/t{quarter}"]) for quarter in range(4)] == [1, 1, 0, 0]
    assert float(found["accuracy"]) == 0.5
    found, _ = scores(nn.functional.one_hot(answer, 4).float(), KNOWN)
    assert all(math.isnan(found[f"accuracy/t{quarter}"]) for quarter in range(4)), "known frames tell the label"
    assert float(found["accuracy"]) == 0.5


def test_the_network_is_shown_what_guidance_will_show_it() -> None:
    """Unit variance, the clock of every voxel, and known frames as they are at clock 0."""
    _, network = scores(torch.zeros(B, 4), KNOWN)
    clean = float(Cosine().log_snr(torch.tensor(0.0)))
    known = network.log_snr[:, 0, :, 0, 0] == clean
    assert network.log_snr.shape == (B, 1, F, 8, 8) and known[:, 0].all() and not known[:, -1].any()
    shown = network.x.movedim(1, 2)[known]
    torch.testing.assert_close(shown, batch()["mean"].movedim(1, 2)[known], atol=1e-3, rtol=0)
    assert float(network.x.movedim(1, 2)[~known].std()) == pytest.approx(1, abs=0.02)
    assert network.condition.label is None


def test_one_latent_is_drawn_of_its_mean_and_std() -> None:
    network = Says(torch.zeros(B, F, 4))
    objective = ClassifierObjective(network, Cosine(), ClassifierLoss(tasks=KNOWN))
    objective({**batch(std=0.5), "stride": torch.full((B,), 3)})
    first = (network.x - batch()["mean"])[:, :, 0]
    assert float(first.std()) == pytest.approx(0.5, rel=0.02) and network.condition.stride.eq(3).all()


class Bayes(nn.Module):
    """The true posterior of a mixture, with its logits multiplied."""

    def __init__(self, data: Mixture, schedule: Schedule, factor: float) -> None:
        super().__init__()
        self.data, self.schedule, self.factor = data, schedule, factor

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        alpha, sigma = self.schedule.scales(log_snr)
        labels = [torch.full((len(x),), label) for label in range(2)]
        x_t = x * (alpha**2 + sigma**2).sqrt()
        logits = torch.stack([self.data.log_prob(x_t, alpha, sigma, label) for label in labels], 1)
        return self.factor * logits[:, None]  # b 1 2: one verdict on all frames


def test_the_true_posterior_has_the_least_loss() -> None:
    """With clocks of each frame's own and known frames; so the optimum is what guidance needs."""
    means = torch.tensor([[-0.5, 0.3, 0.1], [0.5, 0.0, -0.4]]).view(2, 1, 3, 1, 1)
    data, label = Mixture(means, torch.tensor([0.5, 0.8])), torch.arange(4000) % 2
    x0 = means[label] + torch.tensor([0.5, 0.8])[label].view(-1, 1, 1, 1, 1) * torch.randn(4000, 1, 3, 1, 1)
    given = {"mean": x0, "std": torch.zeros_like(x0), "label": label}
    loss = {}
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        torch.manual_seed(1)
        objective = ClassifierObjective(Bayes(data, Cosine(), factor), Cosine(), ClassifierLoss())
        loss[factor] = float(objective(given)["loss"])
    assert min(loss, key=loss.__getitem__) == 1.0 and loss[1.0] < math.log(2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"smoothing": 1.0}, "loss.smoothing is 1.0"), ({"times": "all"}, "unknown time distribution 'all'")],
)
def test_bad_options_are_named(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClassifierObjective(Says(torch.zeros(1, 2)), Cosine(), ClassifierLoss(**wrong))
