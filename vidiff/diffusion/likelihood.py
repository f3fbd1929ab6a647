"""How likely a model finds a clip: a variational bound, and exactly, by the probability-flow ODE. In nats and bits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoises, Estimate
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.process import VARIANCES, add_noise, draw_noise, expand_time, gaussian_kl, posterior, transition

TRACES = ("exact", "hutchinson")


@dataclass(frozen=True)
class Bound:
    """The terms of the variational bound on `-log p(x0)`, in nats (Ho et al. 2020, equation 5).

    Args:
        reconstruction: L_0, of `x0` given the least noisy `x_t`, each frame's part: `(b, f)`.
        steps: L_t, of each step of the grid, the noisiest first: `(n, b, f)`.
        prior: L_T, of the noisiest `x_t` against pure noise: `(b, f)`.
        size: numbers in a frame, `c h w`.
    """

    reconstruction: Tensor
    steps: Tensor
    prior: Tensor
    size: int

    @property
    def total(self) -> Tensor:
        """All terms together, `(b, f)`."""
        return self.reconstruction + self.steps.sum(0) + self.prior

    @property
    def bits(self) -> Tensor:
        """Bits per dimension of each clip, `(b,)`."""
        return bits_per_dimension(-self.total, self.size)


def bits_per_dimension(log_likelihood: Tensor, size: int) -> Tensor:
    """From nats of each frame `(b, f)` to bits per number of the clip `(b,)`; `size` is `c h w`."""
    return -log_likelihood.mean(1) / (size * math.log(2.0))


def reconstruction_term(denoiser: Denoises, x0: Tensor, estimate: Estimate, t: Tensor, bins: int | None) -> Tensor:
    """L_0, like `x0`: minus the log density of `N(x0 estimate, (sigma / alpha)^2)`, or of the bin that `x0` lies in."""
    alpha, sigma = denoiser.schedule(t)
    std, off = sigma / alpha, x0 - estimate.x0
    if bins is None:
        return 0.5 * (off / std) ** 2 + (std * math.sqrt(2.0 * math.pi)).log()
    half = 1.0 / (bins - 1)  # Ho et al. 2020, equation 13
    upper = torch.where(x0 > 1.0 - half, torch.inf, off + half)
    lower = torch.where(x0 < half - 1.0, -torch.inf, off - half)
    mass = torch.special.ndtr(upper / std) - torch.special.ndtr(lower / std)
    return -mass.clamp(min=torch.finfo(mass.dtype).tiny).log()


def step_term(
    denoiser: Denoises, x0: Tensor, x_t: Tensor, estimate: Estimate, t: Tensor, s: Tensor, variance: str
) -> Tensor:
    """L_t of the step from `t` to `s`, like `x0`: KL from the posterior to the model (Ho et al. 2020, equation 5)."""
    true_mean, small = posterior(denoiser.schedule, x_t, x0, t, s)
    mean, _ = posterior(denoiser.schedule, x_t, estimate.x0, t, s)
    _, large = transition(denoiser.schedule, t, s)
    chosen = choose("variance", variance, VARIANCES)(small, large, estimate.variance)
    return gaussian_kl(true_mean, small, mean, chosen)


def prior_term(denoiser: Denoises, x0: Tensor, t: Tensor) -> Tensor:
    """L_T, like `x0`: KL from `q(x_T given x0)` to the noise that `vidiff.sample.start` draws."""
    alpha, sigma = denoiser.schedule(t)
    return gaussian_kl(alpha * x0, sigma**2, torch.zeros_like(x0), sigma**2)


@torch.no_grad()
def bound(
    denoiser: Denoises,
    x0: Tensor,
    condition: Condition,
    times: Tensor,
    *,
    variance: str = "small",
    bins: int | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    """The variational bound of ancestral sampling along `times`, each term estimated with one draw of noise.

    Args:
        x0: clean data, `(b, c, f, h, w)`.
        times: falling, `(n + 1,)`.
        variance: of the reverse steps, as for `DDPM`.
        bins: number of values that a number of `x0` may have, evenly over [-1, 1] (256 for 8 bits): the bound is then
            on a probability rather than on a density.
        generator: of the noise.

    Raises:
        ValueError: times that do not fall within [0, 1], or an unknown variance.
    """
    grid = _grid(times, x0)
    steps = []
    for t, s in pairwise(grid):
        x_t = add_noise(denoiser.schedule, x0, draw_noise(x0, generator), t)
        steps.append(_frames(step_term(denoiser, x0, x_t, denoiser(x_t, t, condition), t, s, variance)))
    last = add_noise(denoiser.schedule, x0, draw_noise(x0, generator), grid[-1])
    first = reconstruction_term(denoiser, x0, denoiser(last, grid[-1], condition), grid[-1], bins)
    return Bound(_frames(first), torch.stack(steps), _frames(prior_term(denoiser, x0, grid[0])), x0[0, :, 0].numel())


@torch.no_grad()
def log_likelihood(
    denoiser: Denoises,
    x0: Tensor,
    condition: Condition,
    times: Tensor,
    *,
    trace: str = "hutchinson",
    probes: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`log p(x0)` by the probability-flow ODE, in nats, each frame's part: `(b, f)`.

    The parts sum to that of the clip (Song et al. 2021, equation 39). It is solved by the fourth-order Runge-Kutta
    method in log-SNR, for `z`, which is `x` scaled to unit variance, so that its end is standard normal. With a
    denoiser that is `Known`, the parts of the unknown frames sum to their log density given the known ones; the rest
    mean nothing.

    Args:
        x0: clean data, `(b, c, f, h, w)`; noise below the level of `times[-1]` is not seen.
        times: falling, `(n + 1,)`; `4 n` evaluations.
        trace: "exact", which takes a gradient for each of the `c f h w` numbers, or "hutchinson", which estimates it
            with `probes` random vectors of signs (Grathwohl et al. 2019).
        generator: of the probes.

    Raises:
        ValueError: an unknown trace, no probes, or times that do not fall within [0, 1].
    """
    choose("trace", trace, dict.fromkeys(TRACES))
    if probes < 1:
        raise ValueError(f"probes = {probes} must be at least 1")
    schedule, grid = denoiser.schedule, _grid(times, x0)[::-1]
    vectors = list(_basis(x0)) if trace == "exact" else [_signs(x0, generator) for _ in range(probes)]
    share = 1.0 if trace == "exact" else 1.0 / probes
    alpha, sigma = schedule(grid[0])
    norm = (alpha**2 + sigma**2).sqrt()
    z = (alpha / norm * x0).to(x0.dtype)
    gained = (alpha / norm).log().expand_as(x0).sum(dim=(1, 3, 4))  # b f: from x0 to z

    def rate(z: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """`dz / dlog_snr`, and the part of each frame in its divergence."""
        alpha, sigma = schedule.scales(log_snr)
        norm = (alpha**2 + sigma**2).sqrt()
        gain = alpha / norm
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            estimate = denoiser((norm * z).to(x0.dtype), schedule.time_of(log_snr), condition).x0
            change = 0.5 * gain * (estimate - gain * z)
            divergence = z.new_zeros(z.shape[0], z.shape[2])
            for number, vector in enumerate(vectors, 1):
                more = number < len(vectors)
                (row,) = torch.autograd.grad((change * vector).sum(), z, retain_graph=more)
                divergence += share * (row * vector).sum(dim=(1, 3, 4))  # b f
        return change.detach(), divergence

    for t, s in pairwise(grid):  # towards noise
        here, there = schedule.log_snr(t), schedule.log_snr(s)
        h = there - here
        a, p = rate(z, here)
        b, q = rate(z + 0.5 * h * a, here + 0.5 * h)
        c, r = rate(z + 0.5 * h * b, here + 0.5 * h)
        d, e = rate(z + h * c, there)
        z = (z + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)).to(x0.dtype)
        gained = gained + float(h) / 6.0 * (p + 2.0 * q + 2.0 * r + e)
    normal = -0.5 * (z**2 + math.log(2.0 * math.pi))
    return normal.sum(dim=(1, 3, 4)) + gained


def surprise(
    denoiser: Denoises,
    x0: Tensor,
    condition: Condition,
    times: Tensor,
    *,
    window: int,
    context: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How unexpected each frame of a clip is to a model: bits a number, `(b, f)`; more is more unexpected.

    The first `window` frames are judged together; those of each further window given the last `context` before them.

    Args:
        x0: `(b, c, f, h, w)`, of any length.
        times: as for `log_likelihood`.
        window: frames that the model sees at once.
        generator: of Hutchinson's probes.

    Raises:
        ValueError: a context outside 1..window - 1 for a clip longer than the window.
    """
    frames = x0.shape[2]
    window = min(window, frames)
    if frames > window and not 1 <= context < window:
        raise ValueError(f"context is {context}; give 1 to {window - 1}: the model sees {window} frames at once")
    parts, done = [], 0
    while done < frames:
        first = max(0, min(done - context, frames - window))
        clip, known = x0[:, :, first : first + window], max(done - first, 0)
        model = Known(denoiser, clip, first_frames(window, known).to(x0.device)) if known else denoiser
        shown = condition.at(range(first, first + window))
        nats = log_likelihood(model, clip, shown, times, generator=generator)
        parts.append(nats[:, known:])
        done = first + window
    return -torch.cat(parts, 1) / (x0[0, :, 0].numel() * math.log(2.0))


def _grid(times: Tensor, x: Tensor) -> list[Tensor]:
    """Check a grid, and give each of its times the rank of `x`."""
    fits = times.ndim == 1 and len(times) > 1
    if not fits or not (times.diff() < 0).all() or not 0.0 <= float(times[-1]) <= float(times[0]) <= 1.0:
        raise ValueError(f"times must be (n + 1,) and fall within [0, 1]; these are {times.tolist()}")
    return [expand_time(t, x) for t in times.to(x.device)]


def _frames(value: Tensor) -> Tensor:
    return value.sum(dim=(1, 3, 4))  # b f


def _basis(x: Tensor) -> Iterator[Tensor]:
    for number in range(x[0].numel()):
        vector = torch.zeros_like(x[:1]).flatten()
        vector[number] = 1.0
        yield vector.view_as(x[:1])


def _signs(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.where(draw_noise(x, generator) < 0.0, -1.0, 1.0).to(x.dtype)
