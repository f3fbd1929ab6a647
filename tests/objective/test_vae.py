"""What the autoencoder is trained for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vidiff.engine.parallel import Group
from vidiff.engine.record import collect
from vidiff.metrics.codec import frame_losses
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective, change_of, fine_contrast, shift

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
        z, wanted, weights = objective._move(F.avg_pool2d(frames, factor)[1:], frames[1:], frames[1:, :1] / 2)
        assert len(z) == len(wanted) == 3
        torch.testing.assert_close(z, F.avg_pool2d(wanted, factor))
        torch.testing.assert_close(weights, wanted[:, :1] / 2)  # they move as their frames do


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


def test_small_batches_have_the_same_terms() -> None:
    """Parts of one step may be of clips and of pictures, too few of these for one to be moved."""
    torch.manual_seed(0)
    objective = VAEObjective(VAE(VAEConfig(width=8, multipliers=[1, 1])), VAELoss(shifted=0.3))
    many, few = (objective({"video": torch.rand(2, 3, frames, 16, 16) * 2 - 1}) for frames in (4, 1))
    assert many.keys() == few.keys()
    assert many["psnr_shifted"].isfinite() and few["psnr_shifted"].isnan() and few["loss"].isfinite()
    parts = [{name: value.detach().float() for name, value in part.items()} for part in (many, few)]
    means, sound = collect(parts, torch.tensor(1.0), Group(torch.device("cpu")))
    assert sound and means["psnr_shifted"] == pytest.approx(float(many["psnr_shifted"]))


def test_what_moves_has_its_share_of_the_error() -> None:
    """A dot of 4 pixels of 256 moves: of errors that are the same everywhere it has half, and without it 1/64."""
    video = torch.zeros(1, 3, 4, 16, 16)
    for n in range(4):
        video[:, :, n, 4:6, 4 * n : 4 * n + 2] = 1.0
    dot = video[:, :1].transpose(1, 2).flatten(0, 1)  # 4 1 16 16
    for share in (0.5, 0.8):
        weights = VAEObjective(VAE(SMALL), VAELoss(moving=share))._weights(video)
        assert weights.shape == (4, 1, 16, 16) and float(weights.mean()) == pytest.approx(1)
        assert float((weights * dot).mean()) == pytest.approx(share + (1 - share) / 64)
    rare = VAEObjective(VAE(SMALL), VAELoss(moving=0.5))._weights(F.pad(video, (0, 48, 0, 48)))  # 1 pixel of 1024
    assert float(rare.max() / rare.min()) == pytest.approx(1 + 1 / 0.005)  # what is rarer still counts no more
    for weights, of in ((0.0, video), (0.5, video[:, :, :1])):
        assert (VAEObjective(VAE(SMALL), VAELoss(moving=weights))._weights(of) == 1).all()


def test_terms_are_weighed_and_the_psnr_is_not() -> None:
    torch.manual_seed(0)
    network, video = VAE(SMALL), torch.rand(2, 3, 4, 8, 8).round() * torch.rand(2, 3, 4, 8, 8) - 0.5
    torch.manual_seed(3)
    found = VAEObjective(network, VAELoss(moving=0.7))({"video": video})
    torch.manual_seed(3)
    plain = VAEObjective(network, VAELoss())({"video": video})
    torch.manual_seed(3)
    frames = video.transpose(1, 2).flatten(0, 1)
    mean, std = network.encode(frames)
    error = (network.decode(mean + std * torch.randn_like(mean)) - frames).detach()
    moves = ((video - video.median(dim=2, keepdim=True).values).abs() > 4 / 255).any(1).flatten(0, 1)[:, None]
    weights = 0.3 + 0.7 * moves / moves.float().mean()
    assert float(found["mse"]) == pytest.approx(float((weights * error.square()).mean()), rel=1e-5)
    assert float(found["l1"]) == pytest.approx(float((weights * error.abs()).mean()), rel=1e-5)
    assert float(found["psnr"]) == pytest.approx(float(plain["psnr"]), rel=1e-6)
    assert float(found["mse"]) != pytest.approx(float(plain["mse"]), rel=1e-3)


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


@pytest.mark.parametrize("share", [1.0, -0.1, float("nan")])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=f"loss.moving is {share}"):
        VAELoss(moving=share)


@pytest.mark.parametrize("shifted", [1.0, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_named(shifted: float) -> None:
    with pytest.raises(ValueError, match=r"loss\.shifted"):
        VAELoss(shifted=shifted)


@pytest.mark.parametrize("shifted", [0.0, 0.3, 0.5])
def test_flicker_is_how_the_errors_of_a_clip_change(shifted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the codec's measure has it, and never from a clip's last frame to the next one's first; shifted frames too."""
    torch.manual_seed(0)
    network, video = VAE(SMALL), torch.rand(3, 3, 4, 16, 16) * 2 - 1
    frames, shown = video.transpose(1, 2).flatten(0, 1), []
    objective = VAEObjective(network, VAELoss(shifted=shifted, flicker=0.7, kl=0.0))
    decode = network.decode
    monkeypatch.setattr(network, "decode", lambda *given: shown.append(decode(*given)) or shown[-1])
    found = objective({"video": video})
    errors = shown[0] - frames[: len(shown[0])]
    clips = [number // 4 for number in range(12)]
    pairs = [(i, i + 1) for i in range(len(errors) - 1) if clips[i] == clips[i + 1]]
    wanted = [(errors[j] - errors[i]).abs().flatten() for i, j in pairs]
    if not shifted:
        assert float(found["flicker"]) == pytest.approx(float(torch.cat(wanted).mean()), rel=1e-5)
        scores = frame_losses(video, shown[0].detach().unflatten(0, (3, 4)).transpose(1, 2))
        assert float(found["flicker"]) == pytest.approx(2 * float(scores["flicker"].mean()), rel=1e-4)
    parts = change_of(errors, 0, 4)
    torch.testing.assert_close(torch.cat(parts).sum(), torch.cat(wanted).sum())
    later = change_of(torch.arange(12.0).square()[7:, None, None, None], 7, 4)  # one frame of a clip, then another clip
    assert torch.cat(later).tolist() == [17.0, 19.0, 21.0]
    total = found["l1"] + found["mse"] + 0.7 * found["flicker"]
    torch.testing.assert_close(found["loss"].detach(), total)
    assert float(objective({"video": video[:, :, :1]})["flicker"]) == 0.0


def test_fine_contrast_is_the_deviation_of_what_a_blur_takes_away() -> None:
    noise = torch.randn(1, 2, 256, 256, generator=torch.Generator().manual_seed(0))
    left = (1 - 2 * 0.25 + (6 / 16) ** 2) ** 0.5  # of white noise, by the binomial's weights
    assert float(fine_contrast(0.4 * noise).square().mean().sqrt()) == pytest.approx(0.4 * left, rel=0.01)
    even = ramp(32, 32)
    torch.testing.assert_close(fine_contrast(even), fine_contrast(0 * even), atol=2e-4, rtol=0)  # but for its edges
    assert fine_contrast(noise[..., :5, :12]).shape == (1, 2, 1, 2)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fine_contrast(0.02 * noise + 0.7), fine_contrast(0.02 * noise), atol=1e-5, rtol=1e-4)


def test_detail_asks_for_fine_contrast_wherever_its_grains_lie() -> None:
    torch.manual_seed(0)
    network, video = VAE(SMALL), torch.rand(2, 3, 2, 16, 16) * 2 - 1
    objective = VAEObjective(network, VAELoss(detail=0.7, kl=0.0))
    torch.manual_seed(3)
    found = objective({"video": video})
    torch.manual_seed(3)
    frames = video.transpose(1, 2).flatten(0, 1)
    mean, std = network.encode(frames)
    made = network.decode(mean + std * torch.randn_like(mean))
    wanted = (fine_contrast(made) - fine_contrast(frames)).abs().mean()
    torch.testing.assert_close(found["detail"], wanted.detach())
    torch.testing.assert_close(found["loss"], found["l1"] + found["mse"] + 0.7 * wanted)
    mirrored, faded = frames.flip(3), 0.5 * frames
    assert (fine_contrast(mirrored) - fine_contrast(frames).flip(3)).abs().max() < 1e-5  # the grains lie elsewhere
    assert (fine_contrast(faded) - fine_contrast(frames)).abs().mean() > 0.1


@pytest.mark.parametrize("weight", [-0.1, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["detail", "flicker"])
def test_a_weight_out_of_range_is_named(name: str, weight: float) -> None:
    with pytest.raises(ValueError, match=f"loss.{name} is {weight}"):
        VAELoss(**{name: weight})
