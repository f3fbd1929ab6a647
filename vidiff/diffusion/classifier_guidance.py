"""Guidance by a gradient: of a classifier's log-probability, or of how well known content is reconstructed.

Both add `grad log p(y given x_t)` to the score. By Tweedie's formula, `x0 = (x_t + sigma^2 score) / alpha`, that adds
`sigma^2 / alpha * grad` to `x0`, elementwise, so that every voxel may have a clock of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import NO_LABEL, Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.interval import Timed, within
from vidiff.diffusion.known import check_frames, check_mask
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Schedule

Classifier = Callable[[Tensor, Tensor, Condition], Tensor]


class ClassifierGuidance(Timed):
    """Classifier guidance: `x0 + scale * sigma^2 / alpha * grad log p(label given x_t)`.

    It is `eps - scale * sigma * grad` (Dhariwal & Nichol 2021, eq. 14), since `x_t = alpha * x0 + sigma * eps`. With
    the true classifier and scale 1, an unconditional denoiser becomes the conditional one. The classifier must have
    been trained on noised clips.

    The gradient is taken under `torch.no_grad` too. Where gradients are enabled outside, the estimate can itself be
    differentiated. The classifier runs without autocast: in half precision small gradients would vanish.

    Args:
        denoiser: the inner denoiser, guided or not.
        classifier: `(x, log_snr, condition) -> (b, k)`, logits or log-probabilities; or `(b, f, k)`, a verdict on each
            frame by itself, whose log-probabilities add up, so each must show the label. As for a network, `x` is `x_t`
            scaled to unit variance (for data of unit variance), `(b, c, f, h, w)`, and `log_snr` is the clock of every
            voxel, `(b, 1, f, h, w)`.
        label: what to guide towards: a number for all samples, or `(b,)`, in which -1 leaves a sample as it is.
        scale: 0 is the plain denoiser.
        interval: times `(low, high)` in which to guide; voxels with another clock stay as they are.

    Raises:
        ValueError: a label that is not a whole number of at least -1, or an interval that is not within [0, 1]; in a
            call, a label that the classifier does not know, a number of labels that is not that of the samples, or a
            classifier without a gradient.
    """

    label: Tensor

    def __init__(
        self,
        denoiser: Denoises,
        classifier: Classifier,
        label: int | Tensor,
        scale: float = 1.0,
        *,
        interval: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(interval)
        wanted = torch.as_tensor(label).reshape(-1)  # 1 or b
        if wanted.is_floating_point() or wanted.dtype == torch.bool or not (wanted >= NO_LABEL).all():
            raise ValueError(f"label = {label} must be whole numbers of at least {NO_LABEL}, which is no label")
        self.denoiser = denoiser
        self.classifier = classifier
        self.scale = scale
        self.largest = int(wanted.max())
        self.register_buffer("label", wanted.long(), persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        t = expand_time(t, x_t)
        estimate = self.denoiser(x_t, t, condition)
        inside = None if self.interval is None else within(t, self.interval)
        if not self.scale or self.rests(inside):
            return estimate
        if len(self.label) not in (1, len(x_t)):
            raise ValueError(
                f"{len(self.label)} labels do not match {len(x_t)} samples; "
                "classifier-free guidance goes inside: ClassifierGuidance(ClassifierFree(denoiser, ...), ...)"
            )
        alpha, sigma = self.schedule(t)
        log_snr = self.schedule.log_snr(t).to(x_t.dtype).expand(x_t.shape[0], 1, *x_t.shape[2:])  # b 1 f h w
        label = self.label.to(x_t.device).expand(len(x_t))  # b
        outer = torch.is_grad_enabled()
        with torch.enable_grad(), torch.autocast(x_t.device.type, enabled=False):
            x = _leaf(x_t)
            logits = self.classifier((x / (alpha**2 + sigma**2).sqrt()).to(x.dtype), log_snr, condition)
            if self.largest >= logits.shape[-1]:
                raise ValueError(f"label {self.largest} is outside the classifier's 0..{logits.shape[-1] - 1}")
            index = label.clamp(min=0).view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
            own = logits.log_softmax(-1).gather(-1, index).flatten(1).sum(1)  # b
            gradient = _gradient(torch.where(label == NO_LABEL, 0.0, own).sum(), x, outer)
        change = self.scale * sigma**2 / alpha * gradient
        return Estimate(
            estimate.x0 + (change if inside is None else torch.where(inside, change, 0.0)), estimate.variance
        )


class Reconstruction(nn.Module):
    """Reconstruction guidance, for a model never trained on known content: `x_t` is pushed to where the model's own
    estimate of the known voxels is right (Ho et al. 2022, video diffusion models, eq. 7).

    `x0 + scale * sigma^2 / alpha * grad log N(frames given x0, sigma^2 / alpha^2)`, the density over known voxels and
    the gradient with respect to `x_t`. With one clock for all voxels it is the paper's
    `x0 - scale * alpha / 2 * grad ||frames - x0||^2`. Where the true variance of known content given `x_t` is some
    other number, `sigma^2 / alpha^2` over that number is the right scale: on Gaussian data the estimate is then
    exactly the mean given `x_t` and the known voxels.

    The gradient is taken under `torch.no_grad` too. Where gradients are enabled outside, the estimate can itself be
    differentiated. To show the known voxels to the model as well and have them back bit for bit, as the paper does,
    put it inside: `Known(Reconstruction(denoiser, frames, mask, scale), frames, mask, replace=True)`.

    Args:
        denoiser: the inner denoiser, guided or not.
        frames: `(b, c, f, h, w)`; what it holds outside the mask is not used.
        mask: bool, broadcastable to `(b, 1, f, h, w)`, true where known.
        scale: the paper's `w_r`; 0 is the plain denoiser.

    Raises:
        ValueError: a mask of the wrong kind or shape; in a call, frames of another shape than `x_t`, or a denoiser
            without a gradient.
    """

    frames: Tensor
    mask: Tensor

    def __init__(self, denoiser: Denoises, frames: Tensor, mask: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        check_mask(mask, frames)
        self.denoiser = denoiser
        self.scale = scale
        self.register_buffer("frames", frames, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def forward(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        advice = "classifier-free guidance goes inside: Reconstruction(ClassifierFree(denoiser, ...), frames, mask)"
        check_frames(x_t, self.frames, advice)
        t = expand_time(t, x_t)
        if not self.scale:
            return self.denoiser(x_t, t, condition)
        alpha, sigma = self.schedule(t)
        outer = torch.is_grad_enabled()
        with torch.enable_grad():
            x = _leaf(x_t)
            estimate = self.denoiser(x, t, condition)
            error = torch.where(self.mask, alpha / sigma * (self.frames - estimate.x0), 0.0)
            gradient = _gradient(-0.5 * (error**2).sum(), x, outer)
        x0, variance = estimate.x0, estimate.variance
        if not outer:
            x0, variance = x0.detach(), None if variance is None else variance.detach()
        return Estimate(x0 + self.scale * sigma**2 / alpha * gradient, variance)


def _leaf(x_t: Tensor) -> Tensor:
    return x_t if x_t.requires_grad else x_t.detach().requires_grad_()


def _gradient(value: Tensor, x: Tensor, outer: bool) -> Tensor:
    """Of a number with respect to `x`; a graph of its own only where gradients are enabled outside."""
    if not value.requires_grad:
        raise ValueError(
            "guidance needs the gradient of what it calls, which has none; is there a torch.no_grad or a detach within?"
        )
    return torch.autograd.grad(value, x, create_graph=outer)[0]
