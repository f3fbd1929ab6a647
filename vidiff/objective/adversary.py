"""A discriminator that learns beside an autoencoder, and makes its frames sharp."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from vidiff.nn.discriminator import PatchDiscriminator

Pair = tuple[float, Tensor, Tensor]
"""A share of the batch: its weight in means, frames that were made, and those that should have come, `(n, 3, h, w)`."""

LARGEST = 1e4
"""The adaptive weight, at most."""
HEADROOM = 4096.0
"""By which gradients of single numbers stay below 1, since at a kernel those of all of them are summed."""


def last_kernel(decoder: nn.Module) -> Tensor:
    """The weight of a decoder's last convolution, at which two losses are balanced."""
    return [part.weight for part in decoder.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)][-1]


def adaptive_weight(near: Tensor, fooled: Tensor, kernel: Tensor, numbers: int = 1) -> Tensor:
    """By how much `fooled` counts so that it pulls at `kernel` as hard as `near` does; ().

    The ratio of the norms of their gradients (Esser et al. 2021, eq. 7), at most `LARGEST`, and a constant to both.

    Args:
        numbers: over which the losses are means. Both are scaled by a power of two of about that, for fp16, in which
            the gradients of so many would be rounded to nothing.
    """
    scale = max(1.0, 2.0 ** round(math.log2(numbers)) / HEADROOM)
    with torch.autocast(kernel.device.type, enabled=False):  # the step's own backward runs outside it too
        pulls = [torch.autograd.grad(scale * loss, kernel, retain_graph=True)[0] for loss in (near, fooled)]
    of_near, of_fooled = (pull.float().norm() / scale for pull in pulls)
    return (of_near / (of_fooled + 1e-6)).clamp(max=LARGEST).detach()


class Adversary(nn.Module):
    """A discriminator of patches and its game with a decoder, as one loss for both.

    The discriminator learns by the hinge loss (Lim and Ye 2017; Esser et al. 2021, eq. 5 has the other form), the
    decoder by the mean score of its frames, times `weight` and the adaptive weight. The decoder's part sees the
    discriminator's weights as constants, and the discriminator's part sees frames as constants: so one backward pass
    gives each network the gradient of its own part alone, and one optimizer moves both.

    Args:
        weight: of the decoder's part.
        start: calls in training before which it stands still: an autoencoder that makes nothing yet teaches nothing.
        width, levels: of the discriminator.
    """

    calls: Tensor  # so far in training; part of a checkpoint

    def __init__(self, weight: float, start: int, width: int, levels: int) -> None:
        super().__init__()
        self.weight, self.start = weight, start
        self.discriminator = PatchDiscriminator(width, levels)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.counted: tuple[Tensor, int, int] | None = None  # that, its version and its value

    def count(self) -> int:
        """The calls so far, for which the device is waited for only where something else has written them: a
        checkpoint, or who takes back what a trial or a step that was skipped did to buffers."""
        if self.counted is None or self.counted[0] is not self.calls or self.counted[1] != self.calls._version:
            self.counted = self.calls, self.calls._version, int(self.calls)
        return self.counted[2]

    def forward(self, pairs: list[Pair], near: Tensor, kernel: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Score the frames of each pair.

        Args:
            near: the loss that the decoder has besides, by which its part here is weighed.
            kernel: the decoder's last.

        Returns:
            what to add to the loss, and scalars to log: "fooled", the decoder's part; "discriminator", the
            discriminator's; "adaptive", the weight. The decoder's part is left out of the loss where no gradients are
            taken, for its weight is made of them.
        """
        zero = torch.zeros((), device=near.device)
        count = self.count()
        waiting = count < self.start
        if self.training:
            self.calls += 1
            self.counted = self.calls, self.calls._version, count + 1
        if waiting:
            # gradients of zero, and not none at all: DistributedDataParallel waits for each
            idle = 0 * torch.stack([p.sum() for p in self.discriminator.parameters()]).sum()
            return idle, {"fooled": zero, "discriminator": zero, "adaptive": zero}
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        fooled, own = zero, zero
        for share, decoded, real in pairs:
            fooled = fooled - share * functional_call(self.discriminator, fixed, (decoded,)).mean()
            scores = self.discriminator(torch.cat([real, decoded.detach()]))  # 2n 1 h' w'
            true, false = scores.chunk(2)
            own = own + share * 0.5 * (F.relu(1 - true).mean() + F.relu(1 + false).mean())
        taught = torch.is_grad_enabled()
        numbers = sum(decoded.numel() for _, decoded, _ in pairs)
        adaptive = adaptive_weight(near, fooled, kernel, numbers) if taught else zero
        loss = own + self.weight * adaptive * fooled if taught else own
        return loss, {"fooled": fooled.detach(), "discriminator": own.detach(), "adaptive": adaptive}
