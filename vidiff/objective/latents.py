"""From latents as a cache keeps them to latents as a model sees them."""

from __future__ import annotations

import torch
from torch import Tensor


def normalised(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch of `vidiff.data.latents.dataset.LatentDataset` as objectives take it; any other batch as it is.

    In place of "latent", "low" and their shifts and scales it has "mean" and "std", of zero mean and unit variance per
    channel, and "lowres", where there was one: each float32 `(b, c, f, h, w)`. This is done where the model is, since a
    GPU does it in no time, and is sent half of the bytes.
    """
    if "latent" not in batch:
        return batch
    raw = ("latent", "shift", "scale", "low", "low_shift", "low_scale")
    more = {name: value for name, value in batch.items() if name not in raw}
    scale = batch["scale"][:, :, None, None, None]
    mean = (_part(batch["latent"], 0) - batch["shift"][:, :, None, None, None]) / scale
    noisy = batch["latent"].shape[2] == 2
    std = _part(batch["latent"], 1) / scale if noisy else torch.zeros_like(mean)
    if "low" in batch:
        low_shift, low_scale = (batch[name][:, :, None, None, None] for name in ("low_shift", "low_scale"))
        more["lowres"] = (_part(batch["low"], 0) - low_shift) / low_scale
    return {"mean": mean, "std": std, **more}


def _part(latent: Tensor, part: int) -> Tensor:
    """One part of `(b, f, p, c, h, w)`, in float32."""
    return latent[:, :, part].transpose(1, 2).contiguous().float()  # b c f h w
