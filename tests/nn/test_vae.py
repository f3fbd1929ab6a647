"""The autoencoder of frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective
from vidiff.recipe.kinds import VAERun
from vidiff.recipe.load import load

CONFIGS = Path(__file__).parents[2] / "configs"

SMALL = VAEConfig(channels=3, width=4, multipliers=[1, 2], patch=2)


@pytest.mark.parametrize(("patch", "levels", "factor"), [(1, 1, 1), (2, 1, 2), (1, 3, 4), (2, 3, 8), (4, 2, 8)])
def test_the_factor_is_what_sizes_shrink_by(patch: int, levels: int, factor: int) -> None:
    config = VAEConfig(channels=2, width=4, multipliers=[1] * levels, patch=patch)
    assert config.factor == factor
    network = VAE(config)
    mean, std = network.encode(torch.randn(2, 3, 2 * factor, 3 * factor))
    assert mean.shape == std.shape == (2, 2, 2, 3)
    assert network.decode(mean).shape == (2, 3, 2 * factor, 3 * factor)


@pytest.mark.parametrize(
    ("recipe", "changes", "numbers"),
    [
        ("ucf_vae.yaml", [], 32 * 32 * 8),  # 256 px: 8x, 24 times fewer numbers
        ("ucf_vae.yaml", ["vae.multipliers=[1, 2]"], 64 * 64 * 8),  # 4x
        ("ucf_vae.yaml", ["vae.multipliers=[1, 2]", "vae.patch=4"], 32 * 32 * 8),  # 8x, with a level less
        ("shapes_vae.yaml", [], 8 * 8 * 4),  # 64 px: 8x
        ("shapes_vae.yaml", ["vae.patch=1", "vae.channels=8"], 16 * 16 * 8),  # 4x
    ],
)
def test_recipes_of_4x_and_8x_have_as_many_latents_as_they_say(recipe: str, changes: list[str], numbers: int) -> None:
    config = load(CONFIGS / recipe, changes)
    assert isinstance(config, VAERun)
    size = config.data.size
    config.vae.width = 8  # which changes nothing of the sort
    mean, std = VAE(config.vae).encode(torch.zeros(1, 3, size, size))
    assert mean[0].numel() == std[0].numel() == numbers


@pytest.mark.parametrize(
    ("patch", "multipliers", "factor"),
    [(1, [1, 1, 2], 4), (2, [1, 2], 4), (4, [2], 4), (1, [1, 1, 1, 2], 8), (2, [1, 1, 2], 8), (4, [1, 2], 8)],
)
def test_every_way_to_4x_and_8x_learns(patch: int, multipliers: list[int], factor: int) -> None:
    """Pictures of one ramp each, that few numbers describe."""
    config = VAEConfig(channels=4, width=8, multipliers=multipliers, patch=patch)
    assert config.factor == factor
    place = torch.linspace(-1, 1, 16)
    slopes = torch.rand(12, 2, 3, 1, 1) - 0.5  # n (down, right) 3 1 1
    frames = slopes[:, 0] * place[:, None] + slopes[:, 1] * place
    objective = VAEObjective(VAE(config), VAELoss(kl=1e-6))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=5e-3)
    found = [0.0, 0.0]
    for step in range(50):
        terms = objective({"video": frames[:, :, None]})
        found[step > 0] = float(terms["psnr"])
        terms["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert found[1] > found[0] + 4, found


def test_frames_do_not_mix_and_the_same_weights_serve_every_size() -> None:
    network = VAE(SMALL)
    frames = torch.randn(3, 3, 8, 12)
    mean, std = network.encode(frames)
    torch.testing.assert_close(network.encode(frames[1:2])[0], mean[1:2])
    torch.testing.assert_close(network.decode(mean)[1:2], network.decode(mean[1:2]))
    assert (std > 0).all()


def test_what_is_far_away_in_a_frame_does_not_matter() -> None:
    """A convolutional latent sees its surroundings: 4 px of patch and level, and a few voxels around."""
    network = VAE(SMALL)
    frames = torch.randn(1, 3, 128, 128)
    changed = frames.clone()
    changed[..., :4] += 1
    difference = (network.encode(changed)[0] - network.encode(frames)[0]).abs().amax((0, 1, 2))  # w / 4
    assert difference[0] > 1e-4 and difference[-8:].max() == 0


def test_std_is_of_the_log_variance_head_and_stays_finite() -> None:
    network = VAE(SMALL)
    last = network.encoder[-1]
    assert isinstance(last, torch.nn.Conv2d)
    with torch.no_grad():
        last.weight.zero_()
        for value, expected in ((0.0, 1.0), (2.0, torch.e), (1e4, torch.e**10), (-1e4, torch.e**-15)):
            last.bias[3:] = value
            _, std = network.encode(torch.randn(1, 3, 4, 4))
            torch.testing.assert_close(std, torch.full_like(std, expected))


def test_half_a_frame_more_is_refused() -> None:
    with pytest.raises(ValueError, match="frames are 10x8, but the codec shrinks them by 4"):
        VAE(SMALL).encode(torch.zeros(1, 3, 10, 8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"multipliers": []}, "vae.multipliers"),
        ({"multipliers": [1, 0]}, "vae.multipliers"),
        ({"channels": 0}, "vae.channels is 0"),
        ({"width": -1}, "vae.width is -1"),
        ({"patch": 0}, "vae.patch is 0"),
        ({"blocks": -1}, "vae.blocks is -1"),
    ],
)
def test_a_shape_that_builds_nothing_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        VAEConfig(**change).validate()
    assert message in str(caught.value)
