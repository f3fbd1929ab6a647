"""Draws of models that are known wholly: frames on straight lines, or a mixture that tells labels and frames apart."""

from __future__ import annotations

import torch
from torch import Tensor

from vidiff.codec.codec import Codec, VAECodec
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.window import Draw
from vidiff.nn.vae import VAEConfig
from vidiff.sample import build_sampler

STEP = 0.01  # of `Line`, from frame to frame


class Linear(torch.nn.Module):
    """A network with a memory of its label and its neighbours, to tell seeds, labels and frames apart."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        label = 0.0 if condition.label is None else condition.label.view(-1, 1, 1, 1, 1).to(x)
        return 0.3 * x + 0.1 * x.mean(2, keepdim=True) + 0.1 * label + 0.01 * log_snr


def drawing(window: int, denoiser=None, seed: int = 0, sampler: str = "ddim", guidance: float = 1.0) -> Draw:
    denoiser = denoiser or Denoiser(Linear(), Cosine(), "v")
    generator = torch.Generator().manual_seed(seed)
    return Draw(denoiser, build_sampler(sampler), 4, guidance, window, generator, grid=Grid(kind="log_snr"))


class Line:
    """Estimates whole frames on straight lines between known ones, and beyond those in steps of `STEP`.

    `seen` holds, for each call, which frames the clock says are known.
    """

    schedule = Cosine()

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])[0, 0, :, 0, 0]
        known = (clock == 0).nonzero().flatten().tolist()
        self.seen.append(known)
        frames = []
        for i in range(x.shape[2]):
            before, after = [k for k in known if k <= i], [k for k in known if k >= i]
            if before and after:
                left, right = before[-1], after[0]
                frames.append(torch.lerp(x[:, :, left], x[:, :, right], (i - left) / max(right - left, 1)))
            else:
                near = before[-1] if before else after[0] if after else 0
                frames.append((x[:, :, near] if known else torch.zeros_like(x[:, :, 0])) + STEP * (i - near))
        return Estimate(torch.stack(frames, dim=2))


def tiny_codec() -> Codec:
    """An autoencoder of random weights, which shrinks by 4."""
    return VAECodec(VAEConfig(channels=3, width=4, multipliers=[1, 2], patch=2)).eval()


def video(frames: int, size: int = 16) -> Tensor:
    return torch.rand(2, 3, frames, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


def whole(*parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=2)
