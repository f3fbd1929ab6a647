"""What the autoencoder is trained for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective, shift

SMALL = VAEConfig(channels=3, width=8, multipliers=[1, 2], patch=2)


def ramp(height: int, width: int) -> torch.Tensor:
    """A picture that is a linear function of its place."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return (0.3 * y - 0.5 * x).expand(4, 3, height, width)


def test_shift_interpolates() -> None:
    z = torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(shift(z, 0.0, 0.0), z[:, :, :-1, :-1])
    torch.testing.assert_close(shift(z, 0.25, 0.0), (0.75 * z[:, :, :-1] + 0.25 * z[:, :, 1:])[..., :-1])
    flat = ramp(5, 6)
    torch.testing.assert_close(shift(flat, 0.5, 0.25), flat[:, :, :-1, :-1] + 0.3 * 0.5 / 5 - 0.5 * 0.25 / 6)


def test_the_moved_frame_is_what_the_moved_latent_stands_for() -> None:
    """Averages over blocks of a ramp interpolate exactly, so they must be those of the moved ramp."""
    objective, frames = VAEObjective(VAE(SMALL), VAELoss(shifted=0.5)), ramp(24, 32)
    factor = SMALL.factor
    for seed in range(8):
        torch.manual_seed(seed)
        z, wanted = objective._move(F.avg_pool2d(frames, factor)[1:], frames[1:])
        assert len(z) == len(wanted) == 3
        torch.testing.assert_close(z, F.avg_pool2d(wanted, factor))


def test_terms_are_their_formulas() -> None:
    torch.manual_seed(0)
    network, video = VAE(SMALL), torch.rand(2, 3, 2, 8, 8) * 2 - 1
    weights = VAELoss(l1=0.5, mse=2.0, kl=0.1)
    torch.manual_seed(3)
    found = VAEObjective(network, weights)({"video": video})
    torch.manual_seed(3)
    frames = video.transpose(1, 2).flatten(0, 1)
    mean, std = network.encode(frames)
    made = network.decode(mean + std * torch.randn_like(mean)).detach()
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, std), torch.distributions.Normal(0, 1))
    assert float(found["l1"]) == pytest.approx(float((made - frames).abs().mean()), rel=1e-5)
    assert float(found["kl"]) == pytest.approx(float(kl.detach().mean()), rel=1e-4)
    assert float(found["psnr"]) == pytest.approx(10 * math.log10(4 / float(F.mse_loss(made, frames))), rel=1e-5)
    total = 0.5 * found["l1"] + 2 * found["mse"] + 0.1 * found["kl"]
    torch.testing.assert_close(found["loss"].detach(), total)
    assert "psnr_shifted" not in found


def test_training_on_moved_latents_makes_them_decode_as_they_move() -> None:
    def train(shifted: float) -> float:
        torch.manual_seed(0)
        objective = VAEObjective(VAE(SMALL), VAELoss(kl=1e-6, shifted=shifted))
        optimizer = torch.optim.AdamW(objective.parameters(), lr=4e-3)
        for _ in range(150):
            objective({"video": discs()})["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.manual_seed(1)
        test = VAEObjective(objective.network, VAELoss(shifted=0.5))
        with torch.no_grad():
            return sum(float(test({"video": discs()})["psnr_shifted"]) for _ in range(8)) / 8

    def discs() -> torch.Tensor:
        place = torch.arange(16.0)
        centre = torch.rand(16, 2, 1) * 10 + 3
        away = (place - centre[:, 0])[:, :, None] ** 2 + (place - centre[:, 1])[:, None] ** 2  # 16 16 16
        return (2 * torch.sigmoid(3 * (9 - away) / 4) - 1)[:, None, None].expand(16, 3, 1, 16, 16)

    assert train(0.5) > train(0.0) + 2.0


@pytest.mark.parametrize("shifted", [1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_named(shifted: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.shifted"):
        VAELoss(shifted=shifted)
