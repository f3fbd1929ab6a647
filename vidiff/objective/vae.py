"""The loss of an autoencoder."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vidiff.codec.diffusers import Tuned
from vidiff.metrics.features import Features
from vidiff.metrics.motion import moving
from vidiff.metrics.prediction import check_pairs, distances
from vidiff.nn.causal import Stream
from vidiff.nn.vae import VAE
from vidiff.objective.adversary import Adversary, Pair, last_kernel

RAREST = 0.005
"""The share of the pixels that moves at least where what moves is weighed: less is not weighed up further."""


@dataclass
class VAELoss:
    """Weights of the terms of the autoencoder's loss, and what some of them need."""

    l1: float = 1.0
    mse: float = 1.0
    flicker: float = 0.0  # of the mean |e[i + 1] - e[i]| of the errors e of frames i, which L1 and MSE do not see
    detail: float = 0.0  # of the mean |s' - s| of the fine contrasts s of 8x8 pixels, against blur; such as 1
    moving: float = 0.0  # share of L1 and MSE that is taken over what moves alone, however little that is
    kl: float = 1e-4  # per latent number
    shifted: float = 0.0  # fraction of frames that are decoded after moving their latents by part of a voxel
    perceptual: float = 0.0  # of the distance that a network of two pictures tells, such as LPIPS
    perceptual_network: str = ""  # efficientnet, or a folder with TorchScript, as for vidiff evaluate --lpips
    adversarial: float = 0.0  # of a discriminator's verdict, beside the adaptive weight; such as 0.5
    adversarial_start: int = 0  # steps before which the discriminator stands still
    discriminator_width: int = 64  # channels of its first level
    discriminator_levels: int = 3  # times that it halves the frame; with 3 a verdict is on 70x70 pixels

    def __post_init__(self) -> None:
        if not 0 <= self.shifted < 1:
            raise ValueError(f"loss.shifted is {self.shifted}; give a fraction from 0 to less than 1, such as 0.3")
        for name in ("l1", "mse", "flicker", "detail", "kl", "perceptual", "adversarial"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"loss.{name} is {getattr(self, name)}; give 0 (off) or more")
        if not 0 <= self.moving < 1:
            raise ValueError(f"loss.moving is {self.moving}; give a share from 0 (off) to less than 1, such as 0.5")
        if self.adversarial_start < 0:
            raise ValueError(f"loss.adversarial_start is {self.adversarial_start}; give 0 or more steps")
        for name in ("discriminator_width", "discriminator_levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"loss.{name} is {getattr(self, name)}; give 1 or more")
        if self.adversarial and not self.l1 + self.mse + self.perceptual:
            raise ValueError("loss.adversarial is weighed against l1, mse and perceptual: one of them must be above 0")


def shift(z: Tensor, down: float, right: float) -> Tensor:
    """Latents `(n, c, h, w)` read `down` and `right` of where they are, parts of a voxel in [0, 1), by interpolation.

    Returns:
        `(n, c, h - 1, w - 1)`.
    """
    z = torch.lerp(z[:, :, :-1], z[:, :, 1:], down)
    return torch.lerp(z[:, :, :, :-1], z[:, :, :, 1:], right)


def change_of(error: Tensor, first: int, frames: int) -> list[Tensor]:
    """By how much the errors `(n, c, h, w)` of frames in a row differ, |e[i + 1] - e[i]|, within a clip alone.

    Args:
        first: the number of the first one, of the frames of clips that follow one another.
        frames: of a clip.

    Returns:
        parts, each of a clip's, flat.
    """
    ends = [*range(frames - first % frames, len(error), frames), len(error)]
    parts = zip([0, *ends], ends, strict=False)
    return [error[begin:end].diff(dim=0).abs().flatten() for begin, end in parts if end - begin > 1]


def fine_contrast(frames: Tensor) -> Tensor:
    """How much fine detail there is in each place of frames `(n, c, h, w)`, as `(n, c, h', w')`.

    The root mean square, over windows of up to 8x8 pixels that overlap by half, of what a binomial blur of 3x3
    takes away, at least a grey level: the upper half of the spatial frequencies, mostly. Matching variances of
    windows rather than pixels asks for detail without asking where each grain of it lies (Abrahamyan et al. 2022,
    gradient variance loss, there of gradients and without the root).
    """
    frames, (height, width) = frames.float(), frames.shape[2:]
    blurred = F.pad(frames, (1, 1, 1, 1), "replicate")
    for _ in range(2):  # twice the mean of 2x2 is the binomial; unlike a convolution, in fp32 whatever autocast says
        blurred = F.avg_pool2d(blurred, 2, stride=1)
    window = (min(8, height), min(8, width))
    power = F.avg_pool2d((frames - blurred).square(), window, stride=tuple(max(1, side // 2) for side in window))
    return (power + (2 / 255) ** 2).sqrt()  # a grey level: without it what is even would pull without bound


class VAEObjective(nn.Module):
    """Reconstruction (L1 and MSE, means over pixels) plus KL to the unit Gaussian (mean over latent numbers).

    The negative evidence bound of Kingma and Welling 2014, eq. 7, with weights. For the fraction `shifted` of the
    frames, latents are moved by part of a voxel, and the moved frame must come out (Kouzelis et al. 2025, eq. 6, for
    translations): then what moves smoothly in pixels moves smoothly in the latent, which a diffusion model learns
    sooner. Of an autoencoder with a temporal factor it is a fraction of the clips, and a clip moves as a whole.

    On top of that, each where its weight is above 0, how much errors change from frame to frame, which is the flicker
    that `vidiff codec` tells; how much less, or more, fine detail a place has, by `fine_contrast`; a perceptual
    distance between frames (Zhang et al. 2018); and a discriminator of patches, as in Esser et al. 2021, eqs. 5 to 7,
    and Rombach et al. 2022, section 3.1. The discriminator is part of this module, and so of checkpoints; the codec is
    `network` alone.

    Args:
        similar: the network of the perceptual distance. It is no part of the module, and not trained.
        parts: calls for one step of the optimizer, as `train.accumulate` has it.

    Raises:
        ValueError: a perceptual weight without a network, or with one that is not for two pictures, or rounds them; a
            weight of the KL for an autoencoder of diffusers that makes no distribution of latents.
    """

    def __init__(self, network: VAE | Tuned, loss: VAELoss, similar: Features | None = None, parts: int = 1) -> None:
        super().__init__()
        self.network, self.weights, self.similar = network, loss, similar
        if loss.kl and not network.noisy:
            raise ValueError(f"loss.kl is {loss.kl}, but this autoencoder's latents have no noise: set loss.kl=0")
        if loss.perceptual:
            if similar is None:
                raise ValueError("loss.perceptual is above 0: a network of two pictures is needed")
            check_pairs(similar)
            if similar.declaration.dtype != "float32":
                raise ValueError(f"network {similar.name} rounds pictures to uint8, through which nothing is learned")
            for weight in similar.module.parameters():  # TorchScript has no requires_grad_ of its own
                weight.requires_grad_(False)
        self.adversary: Adversary | None = None
        if loss.adversarial:
            start, size = loss.adversarial_start * parts, (loss.discriminator_width, loss.discriminator_levels)
            self.adversary = Adversary(loss.adversarial, start, *size)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            batch: "video" `(b, 3, f, h, w)` in [-1, 1].

        Returns:
            "loss", its terms, and "psnr" in dB.
        """
        video = batch["video"]
        frames = rearrange(video, "b c f h w -> (b f) c h w")
        mean, std = self.network.encode(frames, Stream(len(video)))
        z = mean + std * torch.randn_like(mean)
        unit = len(z) // len(video) if self.network.together else 1  # latents that stay together
        moved = int(len(z) // unit * self.weights.shifted) * unit if min(z.shape[2:]) > 1 else 0
        still = len(z) - moved
        first = still * len(frames) // len(z)  # of the frames that are to be moved
        weights = self._weights(video)
        # the same names of every batch, small ones too
        psnr = {"psnr_shifted": mean.new_full((), math.nan)} if self.weights.shifted else dict[str, Tensor]()
        errors, shown, changes, begun = [], list[Pair](), list[Tensor](), 0
        pairs = (
            ("psnr", z[:still], frames[:first], weights[:first]),
            ("psnr_shifted", *self._move(z[still:], frames[first:], weights[first:])),
        )
        for name, code, wanted, weight in pairs:
            if len(code):
                decoded = self.network.decode(code, Stream(len(code) // unit))
                error = decoded - wanted
                errors.append((len(code) / len(z), (error.abs() * weight).mean(), (error.square() * weight).mean()))
                shown.append((len(code) / len(z), decoded, wanted))
                changes += change_of(error, begun, video.shape[2]) if self.weights.flicker else ()
                begun += len(wanted)
                psnr[name] = 10 * torch.log10(4 / error.detach().square().mean())  # the range of [-1, 1] is 2
        l1, mse = (torch.stack([part * error[i] for part, *error in errors]).sum() for i in (0, 1))
        near, terms = self.weights.l1 * l1 + self.weights.mse * mse, dict[str, Tensor]()
        if self.weights.flicker:  # of pictures there is none
            terms["flicker"] = torch.cat(changes).mean() if changes else l1.new_zeros(())
            near = near + self.weights.flicker * terms["flicker"]
        if self.weights.detail:
            differs = [share * (fine_contrast(made) - fine_contrast(real)).abs().mean() for share, made, real in shown]
            terms["detail"] = torch.stack(differs).sum()
            near = near + self.weights.detail * terms["detail"]
        if self.weights.perceptual:
            terms["perceptual"] = self._distance(shown)
            near = near + self.weights.perceptual * terms["perceptual"]
        loss, noise = near, dict[str, Tensor]()
        if self.network.noisy:
            noise["kl"] = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
            loss = near + self.weights.kl * noise["kl"]
        if self.adversary is not None:
            part, scores = self.adversary(shown, near, last_kernel(self.network.decoder))
            loss, terms = loss + part, terms | scores
        terms = {"l1": l1, "mse": mse, **noise, **terms}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, **psnr}

    def _distance(self, pairs: list[Pair]) -> Tensor:
        """The mean perceptual distance of what was made to what was wanted."""
        assert self.similar is not None
        self.similar.to(pairs[0][1].device)
        parts = [
            share * distances(frames[:, :, None], real[:, :, None], self.similar).mean()
            for share, frames, real in pairs
        ]
        return torch.stack(parts).sum()

    def _weights(self, video: Tensor) -> Tensor:
        """How much each pixel of the frames of clips counts in L1 and MSE, `((b f), 1, h, w)`, with a mean of 1.

        The share `moving` of it is shared out among what moves. Without it 2 % of the pixels, such as a ball and two
        paddles, are learned last, if at all.
        """
        if not self.weights.moving:
            return torch.ones_like(rearrange(video[:, :1], "b c f h w -> (b f) c h w"))
        moves = rearrange(moving(video)[0].float(), "b c f h w -> (b f) c h w")
        weights = 1 - self.weights.moving + self.weights.moving * moves / moves.mean().clamp(min=RAREST)
        return weights / weights.mean()

    def _move(self, z: Tensor, frames: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, moved by one random offset, their frames as they should come out, and the weights of these."""
        factor = self.network.config.factor
        down, right = torch.randint(factor, (2,)).tolist()  # whole pixels, so the frames are only cut
        z = shift(z, down / factor, right / factor)
        height, width = z.shape[2] * factor, z.shape[3] * factor
        frames, weights = (x[:, :, down : down + height, right : right + width] for x in (frames, weights))
        return z, frames, weights
