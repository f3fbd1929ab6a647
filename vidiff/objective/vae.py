"""What the autoencoder is trained for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.nn.vae import VAE


@dataclass
class VAELoss:
    """Weights of the terms of the autoencoder's loss."""

    l1: float = 1.0
    mse: float = 1.0
    kl: float = 1e-4  # per latent number


class VAEObjective(nn.Module):
    """Reconstruction (L1 and MSE, means over pixels) plus KL to the unit Gaussian (mean over latent numbers).

    The negative evidence bound of Kingma and Welling 2014, eq. 7, with weights.
    """

    def __init__(self, network: VAE, loss: VAELoss) -> None:
        super().__init__()
        self.network, self.weights = network, loss

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """batch: "video" `(b, 3, f, h, w)` in [-1, 1]. Returns loss, its terms, and PSNR in dB."""
        frames = rearrange(batch["video"], "b c f h w -> (b f) c h w")
        mean, std = self.network.encode(frames)
        found = self.network.decode(mean + std * torch.randn_like(mean))
        l1 = (found - frames).abs().mean()
        mse = (found - frames).square().mean()
        kl = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        loss = self.weights.l1 * l1 + self.weights.mse * mse + self.weights.kl * kl
        psnr = 10 * torch.log10(4 / mse.detach())  # the range of [-1, 1] is 2
        return {"loss": loss, "l1": l1.detach(), "mse": mse.detach(), "kl": kl.detach(), "psnr": psnr}
