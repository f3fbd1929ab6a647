"""Previous-frame conditioning: what a network says of a voxel begins from the nearest frame in which it is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vidiff.nn.cache import Cache

MOVES = 0.02  # of variance, by which a frame differs from the next where no more is known
KNOWN = 0.007  # variance of the noise, from which down a frame is begun from however little noise it has itself
NONE = -20.0  # the log-SNR of a frame that is not there
LEAST = 0.05  # of the residual, in standard deviations


class Previous(nn.Module):
    """Per voxel, the frame to begin from, and the prediction of v that begins there.

    Where `p` is another frame, let a voxel be `x0 = m p + r n` with `n` normal: `m` of it stays, and `r` is the
    standard deviation of what is new. Given `p` and `x_t = alpha x0 + sigma eps`, `x0` is then normal too. Its mean,
    read as a prediction `v = (alpha x_t - x0) / sigma` (Salimans & Ho 2022, appendix D), is
    `sigma (alpha g^2 x_t - m p) / D`, and v's standard deviation about it is `r / sqrt(D)`, where `g^2 = 1 - r^2` and
    `D = r^2 + sigma^2 g^2`. The network gives `g` and `m` of each voxel and channel, and what is left in units of that
    deviation: the preconditioning of Karras et al. 2022 (EDM, appendix B.6) with a known frame in its prior. What
    stands still is so copied by saying that it does. Where no frame is known, `g` and `m` are 0 and this is v.

    Latents have unit variance, so that of two frames in the simplest model `m` would be `g`, their correlation; but
    film changes little by little without growing greyer, for which `m` is 1. So it lies between the two.

    It is for `v` where `alpha^2 + sigma^2 = 1`.

    Args:
        causal: whether only frames before a frame are looked at.
    """

    OUTPUTS = 3  # of the network for each of its channels: what is left, and what tells g and m

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def find(self, x: Tensor, log_snr: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Of each voxel, the frame that tells most of it: of those at its place with less noise, or hardly any, the one
        with the least, where a frame that is `d` away counts as noisier by 0.02 d. Of two alike it is the one before.

        Args:
            x: `(b, c, f, h, w)`, of unit variance.
            log_snr: `(b, 1, f, h, w)`.
            cache: of a causal network; keeps frames as they were shown.

        Returns:
            `p`, the mean of x0 given that frame's `x`, `(b, c, f, h, w)`, 0 where there is none; and its log-SNR,
            `(b, 1, f, h, w)`, -20 where there is none.
        """
        frames, shown = x.shape[2], torch.cat([x, log_snr.to(x.dtype)], dim=1)
        if cache is not None:
            shown = cache.extend(self, shown, 2, cache.window, cache.sinks)
        there, count = shown[:, -1:].float(), shown.shape[2]  # b 1 n h w, with n - f frames of before
        place = torch.arange(count, device=x.device)
        ahead = place[count - frames :, None] - place  # f n, how far before
        noise = torch.sigmoid(-there)
        theirs, own = noise.unsqueeze(2), noise[:, :, count - frames :].unsqueeze(3)  # b 1 1 n h w, b 1 f 1 h w
        seen = ahead > 0 if self.causal else ahead != 0
        if cache is not None:
            seen = seen & ((ahead <= cache.window) | (place < cache.sinks))
        open_ = ((theirs < own) | (theirs <= KNOWN)) & seen[:, :, None, None]
        far = MOVES * (ahead.abs() + 0.1 * (ahead < 0))  # f n
        least, index = torch.where(open_, theirs + far[:, :, None, None], math.inf).min(dim=3)  # b 1 f h w
        none = least == math.inf
        mean = shown[:, :-1] * torch.sigmoid(there).sqrt().to(x.dtype)  # alpha x
        found = mean.gather(2, index.expand(-1, x.shape[1], -1, -1, -1)).masked_fill(none, 0.0)
        return found, there.gather(2, index).masked_fill(none, NONE).to(x.dtype)

    def forward(self, said: Tensor, x: Tensor, log_snr: Tensor, found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The prediction of v, `(b, c, f, h, w)`, like `x`; and the logarithm of its variance about it, as large.

        Args:
            said: `(b, 3c, f, h, w)`: what is left, in standard deviations; and what tells `g` and `m`, of any size: 0
                and 0 are 0.69 and 0.84.
            x: `(b, c, f, h, w)`, of unit variance.
            log_snr: `(b, 1, f, h, w)`.
            found: as `find` returned it.
        """
        rest, gate, stays = said.float().chunk(self.OUTPUTS, dim=1)
        clock, (frame, level) = log_snr.float(), found
        alpha, sigma = torch.sigmoid(clock).sqrt(), torch.sigmoid(-clock).sqrt()
        angle = (math.pi / 2 - LEAST) * torch.sigmoid(gate)
        angle = torch.where(level > NONE, angle, 0.0)
        g, r = angle.sin(), angle.cos()
        m = torch.where(level > NONE, torch.lerp(g, torch.ones_like(g), torch.sigmoid(stays)), 0.0)
        variance = r.square() + sigma.square() * g.square()
        begun = sigma * (alpha * g.square() * x.float() - m * frame.float()) / variance
        return (begun + r * variance.rsqrt() * rest).to(x.dtype), (r.square() / variance).log()
