"""How good a codec is: what its frames lose, whether they flicker, and how well a diffusion model can learn latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from scipy.fft import dct
from torch import Tensor

from vidiff.metrics.motion import moving_energy, share_kept
from vidiff.metrics.prediction import psnr, ssim

STILL = 2 / 255
"""A pixel stands still that changes by no more from frame to frame, in shares of the range: two grey levels."""


def detail(video: Tensor, decoded: Tensor) -> Tensor:
    """Power of the upper half of the spatial frequencies of `decoded` and of clips `(b, 3, f, h, w)`, `(b, 2)`."""
    return torch.stack([_fine(x.double().cpu())[..., 0].sum(1) for x in (decoded, video)], -1)


def frame_losses(video: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    """The losses of clips `(b, 3, f, h, w)` in [-1, 1] that come back as `decoded`, a row for each.

    Returns:
        `psnr`, `ssim`: `(b, f)` of each frame; `detail`: `(b, 2)`, power of the upper half of the spatial frequencies
        of what came back and of the real clip; the others `(b, 1)` in shares of the range from black to white:
        `error`, mean |e| of the errors e = decoded - real; `flicker`, mean |e[i + 1] - e[i]| over frames i, that is by
        how much the two videos change differently; `change`, mean |x[i + 1] - x[i]| of the real clips; `flicker still`,
        flicker where the real pixel changes by no more than STILL, NaN where nothing does. Video coding measures
        flicker by the same two changes, in places that stand still (Fan et al. 2002, JVT-E070). `moving`: `(b, 2)`,
        the energies of `moving_energy`.

    Raises:
        ValueError: sizes that differ, or frames below 11 pixels a side.
    """
    losses = {"psnr": psnr(decoded, video), "ssim": ssim(decoded, video)}
    real, error = video.double().cpu() / 2, (decoded.double() - video.double()).cpu() / 2
    whole = (1, 2, 3, 4)
    losses["error"] = error.abs().mean(whole)[:, None]
    losses["detail"] = detail(video, decoded)
    if video.shape[2] > 1:
        change, flicker = real.diff(dim=2).abs(), error.diff(dim=2).abs()  # b 3 f-1 h w
        still = (change <= STILL).all(1, keepdim=True).expand_as(flicker)
        losses["flicker"], losses["change"] = (x.mean(whole)[:, None] for x in (flicker, change))
        losses["flicker still"] = ((flicker * still).sum(whole) / still.sum(whole))[:, None]
        losses["moving"], _ = moving_energy(video, decoded)
    return losses


def latent_sums(video: Tensor, mean: Tensor, std: Tensor, shift: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Sums over latents from which `latent_scores` tells their statistics, in float64, a row for each clip.

    Args:
        video: the clips, `(b, 3, f, h, w)`.
        mean, std: of their latents, `(b, c, f', h', w')`, as they leave the codec.
        shift, scale: `(c,)`, by which the codec normalises them; the KL is of what they were before.
    """
    mean, std = mean.double().cpu(), std.double().cpu()
    wide = (-1, 1, 1, 1)
    raw, noise = (x * scale.double().cpu().view(wide) for x in (mean, std))
    raw = raw + shift.double().cpu().view(wide)
    axes, small = (2, 3, 4), (mean.shape[2], mean.shape[3], mean.shape[4])
    sums = {
        "mean": mean.mean(axes),  # b c
        "second": torch.einsum("bcfhw, bdfhw -> bcd", mean, mean) / mean[0, 0].numel(),
        "noise": std.square().mean(axes),  # b c
        "kl": 0.5 * (raw.square() + noise.square() - 1 - 2 * noise.log()).mean(axes),  # infinite without noise
        "fine": _fine(mean),  # b c 2
        "fine pixels": _fine(F.adaptive_avg_pool3d(video.double().cpu(), small)),  # b 3 2
        "numbers": torch.tensor([[video[0].numel(), mean[0].numel()]] * len(video), dtype=torch.float64),
    }
    for name, axis in (("time", 2), ("down", 3), ("right", 4)):
        if (count := mean.shape[axis] - 1) > 0:
            one, next_ = mean.narrow(axis, 0, count), mean.narrow(axis, 1, count)
            sums[f"pairs {name}"] = torch.stack([(one * next_).mean(axes), (one + next_).mean(axes)], -1)  # b c 2
    return sums


def _fine(x: Tensor) -> Tensor:
    """Power of the detail of frames `(b, c, f, h, w)`, and of all but their mean: `(b, c, 2)`.

    By an orthonormal cosine transform (DCT-II) of each frame, as Skorokhodov et al. 2025, section 3, look at latents;
    detail is the upper half of the frequencies in either direction. White noise has 3/4 of its power there.
    """
    rows, columns = (
        torch.from_numpy(dct(torch.eye(size).double().numpy(), axis=0, norm="ortho")) for size in x.shape[3:]
    )
    power = (rows @ x @ columns.T).square()  # b c f h w
    power[..., 0, 0] = 0
    low = power[..., : (x.shape[3] + 1) // 2, : (x.shape[4] + 1) // 2].sum((2, 3, 4))
    every = power.sum((2, 3, 4))
    return torch.stack([every - low, every], -1)


def frame_scores(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over all clips of what `frame_losses` returns: PSNR in dB, SSIM, and the others in shares of the range.

    "detail kept" is the power of the detail that came back in that of the real clips: below 1 it is blurred. "moving
    kept" is `share_kept` of what moves.
    """
    scores = {"psnr": float(losses["psnr"].mean()), "psnr of the worst clip": float(losses["psnr"].mean(1).min())}
    for name in ("ssim", "error", "change", "flicker", "flicker still", "perceptual"):
        if name in losses and not losses[name].isnan().all():
            scores[name] = float(losses[name].nanmean())
    decoded, real = losses["detail"].sum(0).tolist()
    if real:
        scores["detail kept"] = decoded / real
    if "moving" in losses and (kept := share_kept(losses["moving"])) is not None:
        scores["moving kept"] = kept
    return scores


def latent_scores(sums: Mapping[str, Tensor]) -> dict[str, Any]:
    """Statistics of all latents of which `latent_sums` returns the sums, a sample of each being drawn.

    Returns:
        `compression`, numbers of a clip to those of its latent; `mean`, `std` of each channel; `noise`, the share of
        a channel's variance that the encoder's own noise is; `kl`, nats per latent number to the unit Gaussian, None
        for a codec without noise; `correlation`, between channels, `(c, c)`; `neighbours`, correlation of
        latents one frame apart, one below another, and side by side, as means over channels; `detail`, the share of
        the variance within frames that is in the upper half of the spatial frequencies, the noise apart, and `detail
        of pixels`, of clips shrunk to the latents' size.
    """
    mean, noise = sums["mean"].mean(0), sums["noise"].mean(0)  # c
    covariance = sums["second"].mean(0) + torch.diag(noise) - torch.outer(mean, mean)
    variance = covariance.diagonal()
    std = variance.clamp(min=0).sqrt()
    pixels, numbers = sums["numbers"].sum(0).tolist()
    neighbours = {}
    for name in ("time", "down", "right"):
        if (key := f"pairs {name}") in sums:
            product, total = sums[key].mean(0).unbind(-1)  # c
            neighbours[name] = float(((product - mean * total + mean.square()) / variance).nanmean())
    shares = {key: (sums[key].sum(0)[:, 0] / sums[key].sum(0)[:, 1]).nanmean() for key in ("fine", "fine pixels")}
    return {
        "compression": pixels / numbers,
        "mean": mean.tolist(),
        "std": std.tolist(),
        "noise": (noise / variance).tolist(),
        "kl": float(sums["kl"].mean()) if bool(sums["kl"].isfinite().all()) else None,
        "correlation": (covariance / torch.outer(std, std)).tolist(),
        "neighbours": neighbours,
        "detail": float(shares["fine"]),
        "detail of pixels": float(shares["fine pixels"]),
    }


def codec_lines(scores: Mapping[str, Any]) -> list[str]:
    """Scores of frames and of latents to read, a line each."""

    def row(name: str, value: str, note: str = "") -> str:
        return f"{name:<26}{value:>10}   {note}".rstrip()

    def grey(value: float) -> str:
        return f"{255 * value:.2f}"

    latent = scores["latent"]
    lines = [
        row("PSNR", f"{scores['psnr']:.2f} dB", f"the worst clip {scores['psnr of the worst clip']:.2f} dB"),
        row("PSNR of samples", f"{scores['psnr of samples']:.2f} dB", "from a sample of the latent, not its mean"),
        row("SSIM", f"{scores['ssim']:.4f}"),
        row("error", grey(scores["error"]), "grey levels of 255, mean absolute"),
    ]
    if "perceptual" in scores:
        lines.append(row("perceptual distance", f"{scores['perceptual']:.4f}", "of frames, by the network"))
    if "detail kept" in scores:
        lines.append(row("detail kept", f"{scores['detail kept']:.3f}", "of its power; below 1 it is blurred"))
    if "moving kept" in scores:
        lines.append(row("what moves, kept", f"{scores['moving kept']:.3f}", "of its energy against the background"))
    if "flicker" in scores:
        times = scores["flicker"] / scores["change"] if scores["change"] else float("nan")
        lines.append(
            row("flicker", grey(scores["flicker"]), f"grey levels from frame to frame, {times:.2f} of the clips' own")
        )
    if "flicker still" in scores:
        lines.append(row("flicker where it is still", grey(scores["flicker still"])))
    lines.append(row("compression", f"{latent['compression']:.1f}", "numbers of a clip for one of its latent"))
    off = [abs(x) for i, r in enumerate(latent["correlation"]) for j, x in enumerate(r) if i != j]
    for name in ("mean", "std", "noise"):
        lines.append(row(f"latent {name}", "", " ".join(f"{x:.3f}" for x in latent[name])))
    if latent["kl"] is not None:
        lines.append(row("latent KL", f"{latent['kl']:.3f}", "nats a number"))
    if off:
        lines.append(
            row("channels' correlation", f"{max(off):.3f}", f"the largest; {sum(off) / len(off):.3f} on average")
        )
    near = ", ".join(f"{name} {value:.3f}" for name, value in latent["neighbours"].items())
    lines.append(row("neighbours' correlation", "", near))
    lines.append(
        row("detail", f"{latent['detail']:.3f}", f"of the variance; {latent['detail of pixels']:.3f} of shrunk pixels")
    )
    return lines


def strip(video: Tensor, decoded: Tensor, gain: float = 4.0) -> Tensor:
    """A picture `(3, 3 h, n w)` of the middle frames of `(n, 3, f, h, w)`: real, decoded, and `gain` times the error.

    No error is grey.
    """
    middle = video.shape[2] // 2
    real, returned = video[:, :, middle], decoded[:, :, middle]
    rows = (real, returned, (gain * (returned - real)).clamp(-1, 1))
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
