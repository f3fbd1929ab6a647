"""From a batch, as a data set gives it, to what a model sees: the clips, and the condition that comes with them."""

from __future__ import annotations

from dataclasses import fields

import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition

Batch = dict[str, Tensor]
"""Latents as "mean" and "std" `(b, c, f, h, w)`, or as a cache keeps them, or pixels as "video" `(b, 3, f, h, w)`; and
fields of `Condition` under their own names, where there are any."""


def normalised(batch: Batch) -> Batch:
    """A batch of `vidiff.data.latents.dataset.LatentDataset` as objectives take it; any other batch as it is.

    In place of "latent", "shift" and "scale" it has "mean" and "std", of zero mean and unit variance per channel; and
    whatever came with a shift and a scale of its own, such as "lowres_scale", is normalised under its name: each
    float32 `(b, c, f, h, w)`. This is done where the model is, since a GPU does it in no time, and is sent half of the
    bytes.
    """
    rest = dict(batch)
    if "latent" not in batch:
        return rest
    latent, shift, scale = (rest.pop(name) for name in ("latent", "shift", "scale"))
    mean = _normal(latent, 0, shift, scale)
    std = _normal(latent, 1, torch.zeros_like(shift), scale) if latent.shape[2] == 2 else torch.zeros_like(mean)
    for name in [name.removesuffix("_scale") for name in rest if name.endswith("_scale")]:
        rest[name] = _normal(rest[name], 0, rest.pop(f"{name}_shift"), rest.pop(f"{name}_scale"))
    return {"mean": mean, "std": std, **rest}


def draw_clips(batch: Batch) -> Tensor:
    """The clips of a normalised batch, `(b, c, f, h, w)`: its pixels, or latents drawn by their mean and std."""
    return batch["video"] if "video" in batch else batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])


def condition_of(batch: Batch) -> Condition:
    """The condition that came with the clips of a normalised batch."""
    return Condition(**{field.name: batch[field.name] for field in fields(Condition) if field.name in batch})


def _normal(latent: Tensor, part: int, shift: Tensor, scale: Tensor) -> Tensor:
    """One part of `(b, f, p, c, h, w)`, normalised, in float32: `(b, c, f, h, w)`."""
    own = latent[:, :, part].transpose(1, 2).contiguous().float()  # b c f h w
    return (own - shift[:, :, None, None, None]) / scale[:, :, None, None, None]
