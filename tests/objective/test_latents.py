"""From a batch to what a model sees."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.objective.latents import condition_of, draw_clips, normalised


def raw(parts: int) -> dict[str, Tensor]:
    """A batch as a latent cache keeps it: two clips of three frames, with a low resolution."""
    generator = torch.Generator().manual_seed(parts)
    return {
        "latent": torch.randn(2, 3, parts, 4, 5, 6, generator=generator).half(),
        "shift": torch.full((2, 4), 0.5),
        "scale": torch.full((2, 4), 2.0),
        "lowres": torch.randn(2, 3, 1, 4, 5, 6, generator=generator).half(),
        "lowres_shift": torch.full((2, 4), -0.25),
        "lowres_scale": torch.full((2, 4), 0.5),
        "stride": torch.tensor([1, 2]),
        "key": torch.tensor([7, 8]),
    }


def test_whatever_has_a_shift_and_a_scale_is_normalised_by_them() -> None:
    given = raw(2)
    names = set(given)
    batch = normalised(given)
    assert set(given) == names, "the batch itself stays as it is"
    assert batch.keys() == {"mean", "std", "lowres", "stride", "key"}
    latent, low = (given[name].float().movedim(1, 3) for name in ("latent", "lowres"))  # b p c f h w
    assert torch.equal(batch["mean"], (latent[:, 0] - 0.5) / 2)
    assert torch.equal(batch["std"], latent[:, 1] / 2)
    assert torch.equal(batch["lowres"], (low[:, 0] + 0.25) / 0.5)
    assert not normalised(raw(1))["std"].any(), "a cache without noise"


def test_a_latent_is_drawn_by_its_mean_and_std() -> None:
    batch = normalised(raw(2))
    torch.manual_seed(3)
    clips = draw_clips(batch)
    torch.manual_seed(3)
    assert torch.equal(clips, batch["mean"] + batch["std"] * torch.randn_like(batch["mean"]))
    video = torch.zeros(1, 3, 2, 4, 4)
    assert draw_clips(normalised({"video": video})) is video, "pixels are what they are"


def test_a_condition_has_every_field_that_came_with_the_clips() -> None:
    values = {field.name: torch.full((2,), number) for number, field in enumerate(fields(Condition))}
    condition = condition_of({**values, "key": torch.zeros(2), "mean": torch.zeros(2)})
    assert all(getattr(condition, name) is value for name, value in values.items())
    assert condition_of({"stride": values["stride"]}) == Condition(stride=values["stride"])
