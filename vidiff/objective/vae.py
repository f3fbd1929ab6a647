"""What the autoencoder is trained for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.causal import Stream
from vidiff.nn.vae import VAE


@dataclass
class VAELoss:
    """Weights of the terms of the autoencoder's loss."""

    l1: float = 1.0
    mse: float = 1.0
    kl: float = 1e-4  # per latent number
    shifted: float = 0.0  # fraction of frames that are decoded after moving their latents by part of a voxel

    def __post_init__(self) -> None:
        if not 0 <= self.shifted < 1:
            raise ValueError(f"loss.shifted is {self.shifted}; give a fraction from 0 to less than 1, such as 0.3")


def shift(z: Tensor, down: float, right: float) -> Tensor:
    """Latents `(n, c, h, w)` read `down` and `right` of where they are, parts of a voxel in [0, 1), by interpolation.

    Returns:
        `(n, c, h - 1, w - 1)`.
    """
    z = torch.lerp(z[:, :, :-1], z[:, :, 1:], down)
    return torch.lerp(z[:, :, :, :-1], z[:, :, :, 1:], right)


class VAEObjective(nn.Module):
    """Reconstruction (L1 and MSE, means over pixels) plus KL to the unit Gaussian (mean over latent numbers).

    The negative evidence bound of Kingma and Welling 2014, eq. 7, with weights. For the fraction `shifted` of the
    frames, latents are moved by part of a voxel, and the moved frame must come out (Kouzelis et al. 2025, eq. 6, for
    translations): then what moves smoothly in pixels moves smoothly in the latent, which a diffusion model learns
    sooner. Of an autoencoder with a temporal factor it is a fraction of the clips, and a clip moves as a whole.
    """

    def __init__(self, network: VAE, loss: VAELoss) -> None:
        super().__init__()
        self.network, self.weights = network, loss

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: "video" `(b, 3, f, h, w)` in [-1, 1]. Returns loss, its terms, and PSNR in dB."""
        frames = rearrange(batch["video"], "b c f h w -> (b f) c h w")
        mean, std = self.network.encode(frames, Stream(len(batch["video"])))
        z = mean + std * torch.randn_like(mean)
        each = len(z) // len(batch["video"]) if self.network.config.temporal > 1 else 1  # latents that stay together
        moved = int(len(z) // each * self.weights.shifted) * each if min(z.shape[2:]) > 1 else 0
        still = len(z) - moved
        first = still * len(frames) // len(z)  # of the frames that are to be moved
        psnr, errors = {}, []
        pairs = (("psnr", z[:still], frames[:first]), ("psnr_shifted", *self._move(z[still:], frames[first:])))
        for name, code, wanted in pairs:
            if len(code):
                found = self.network.decode(code, Stream(len(code) // each))
                l1, mse = (found - wanted).abs().mean(), (found - wanted).square().mean()
                errors.append((len(code) / len(z), l1, mse))
                psnr[name] = 10 * torch.log10(4 / mse.detach())  # the range of [-1, 1] is 2
        l1, mse = (torch.stack([part * error[i] for part, *error in errors]).sum() for i in (0, 1))
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        loss = self.weights.l1 * l1 + self.weights.mse * mse + self.weights.kl * kl
        return {"loss": loss, "l1": l1.detach(), "mse": mse.detach(), "kl": kl.detach(), **psnr}

    def _move(self, z: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, moved by one random offset, and their frames as they should come out."""
        factor = self.network.config.factor
        down, right = torch.randint(factor, (2,)).tolist()  # whole pixels, so the frames are only cut
        z = shift(z, down / factor, right / factor)
        height, width = z.shape[2] * factor, z.shape[3] * factor
        return z, frames[:, :, down : down + height, right : right + width]
