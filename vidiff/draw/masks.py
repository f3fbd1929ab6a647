"""Masks in pixels, true where new content is wanted: what they leave known of the latents, and how both are joined."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.codec.codec import Codec

TRUE = 0.015  # standard deviations; no latent of three autoencoders that was thought to be nearer was off by 0.02
SEAM = 0.25  # the largest difference that is taken for a codec's, and not for other content
SHIFT = 0.5  # by which hidden pixels are changed, to see which latents follow


def check_pixels(mask: Tensor, clip: Tensor) -> None:
    """Refuse a mask that does not fit a clip `(b, 3, f, h, w)`.

    Raises:
        ValueError: unless `mask` is bool and `(1 or b, 1, 1 or f, h, w)`; 1 for h and w means whole frames.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"the mask is of {mask.dtype}; expected bool, true where content is to be new: try mask > 0")
    batch, _, frames, height, width = clip.shape
    sizes = (batch, 1, frames, height, width)
    if mask.ndim != 5 or any(n not in (1, m) for n, m in zip(mask.shape, sizes, strict=True)):
        raise ValueError(
            f"the mask is {tuple(mask.shape)}; expected (1 or {batch}, 1, 1 or {frames}, {height}, {width}), "
            "as the clip: resize it"
        )


def touched(mask: Tensor, size: tuple[int, int], factor: int, temporal: int = 1) -> Tensor:
    """Which latents of a codec stand for pixels that `mask` wants new.

    Args:
        mask: bool `(b, 1, f, h, w)`, where h and w may be 1; with a temporal factor f is 1 + temporal * n.
        size: height and width in pixels.
        factor: by which the codec shrinks these.
        temporal: frames to one latent, the first apart.

    Returns:
        bool `(b, 1, k, h / factor, w / factor)`; `(b, 1, k, 1, 1)` where all frames are so as a whole, or not at all.
    """
    new = mask
    if mask.shape[3:] != (1, 1):
        new = F.max_pool2d(mask.expand(*mask.shape[:3], *size).flatten(0, 2).float()[:, None], factor)
        new = (new > 0).view(*mask.shape[:3], *new.shape[2:])
        whole = new[..., :1, :1]
        new = whole if bool((new == whole).all()) else new  # b 1 f h/factor w/factor
    if temporal == 1:
        return new
    groups = new[:, :, 1:].unflatten(2, (-1, temporal)) if new.shape[2] > 1 else new[:, :, :0, None]
    return torch.cat([new[:, :, :1], groups.any(3)], dim=2)  # b 1 k ...


def encode_around(codec: Codec, clip: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Latents of a clip of which some pixels are hidden, and how far they may be from those of the whole.

    A codec looks further than the pixels of a latent, so what is hidden reaches latents around it. How far is
    measured, with this codec and in this clip: what is hidden is made lighter, darker and noisy, and the latents that
    follow are in doubt by as much. (Where the hidden pixels are what one expects from those around, it is less: an
    error is about a third of the doubt, and once in a thousand as large.)

    Args:
        clip: `(b, 3, f, h, w)` in [-1, 1]; what it holds under the mask is not looked at.
        mask: bool `(1 or b, 1, f, h, w)`, where h and w may be 1.

    Returns:
        latents `(b, c, k, h', w')`, and the doubt in standard deviations: 0 where they are known for sure, infinite
        where their own pixels are hidden or nothing is left to know; `(1 or b, 1, k, h', w')`, or `(1 or b, 1, k, 1,
        1)` where frames are hidden as a whole.
    """
    plain = hide(clip, mask)
    z = codec.encode(plain).mean
    new = touched(mask, (clip.shape[3], clip.shape[4]), codec.factor, codec.temporal)
    apart = codec.temporal == 1 and new.shape[3:] == (1, 1)  # frames that are encoded each alone
    if apart or codec.factor == codec.temporal == 1 or new.all():
        return z, torch.where(new, torch.inf, 0.0)
    noise = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0)).to(clip)
    off = torch.zeros_like(z[:, :1])
    for change in (SHIFT, -SHIFT, SHIFT * noise):
        other = torch.where(mask, (plain + change).clamp(-1, 1), plain)
        off += (codec.encode(other).mean - z).square().mean(1, keepdim=True)
    off = off.sqrt()
    if new.shape[3:] == (1, 1):
        off = off.amax((3, 4), keepdim=True)
    return z, torch.where(new | (off >= 1), torch.inf, torch.where(off < TRUE, 0.0, off))


def hide(clip: Tensor, mask: Tensor) -> Tensor:
    """A clip with what lies around, smoothly led on, wherever `mask` is true: nothing there leaks through a codec.

    Args:
        clip: `(b, 3, f, h, w)`; a frame without any known pixel is led over to from the nearest that have some; where
            there is none at all, it becomes 0.
        mask: bool, broadcastable to `(b, 1, f, h, w)`.
    """
    hidden = lead_on(clip, mask)
    empty = mask.expand(-1, -1, clip.shape[2], *clip.shape[3:]).flatten(3).all(3).expand(len(clip), -1, -1)[:, 0]  # b f
    frames = clip.shape[2]
    number = torch.arange(frames, device=empty.device)
    before = torch.where(empty, -1, number).cummax(1).values  # b f, -1 where there is none
    after = torch.where(empty, frames, number).flip(1).cummin(1).values.flip(1)  # b f, f where there is none
    first = torch.where(before < 0, after, before).clamp(max=frames - 1)
    last = torch.where(after == frames, before, after).clamp(min=0)
    share = (number - first) / (last - first).clamp(min=1)  # 0 of a frame that is not empty
    one, other = (hidden.gather(2, n[:, None, :, None, None].expand_as(hidden)) for n in (first, last))
    return torch.lerp(one, other, share[:, None, :, None, None].to(hidden))


def lead_on(clip: Tensor, mask: Tensor) -> Tensor:
    """Each frame of `(b, c, f, h, w)` with a smooth continuation of the rest wherever `mask` is true; 0 without any.

    It is put together from means over 2, 4, 8 ... pixels of those that are known, the smallest that there are (Gortler
    et al. 1996, the lumigraph, section 3.4.3: pull and push).
    """
    known = (~mask).expand(len(clip), 1, *clip.shape[2:]).to(clip)
    frames = torch.where(mask, 0.0, clip)
    led = _pull_and_push(*(x.transpose(1, 2).flatten(0, 1) for x in (frames, known)))  # (b f) c h w
    return torch.where(mask, led.unflatten(0, (len(clip), -1)).transpose(1, 2), clip)


def _pull_and_push(total: Tensor, weight: Tensor) -> Tensor:
    """Of frames `(n, c, h, w)` times their weights `(n, 1, h, w)` of 0 to 1, the frames, led on where these are 0."""
    height, width = total.shape[2:]
    if not weight.numel() or bool((weight == 1).all()) or (height, width) == (1, 1):
        return total / torch.where(weight > 0, weight, 1.0)
    odd = (0, width % 2, 0, height % 2)
    less, mass = (F.avg_pool2d(F.pad(x, odd), 2) for x in (total, weight))
    full = (4 * mass).clamp(max=1) / torch.where(mass > 0, mass, 1.0)
    coarse = _pull_and_push(less * full, mass * full)
    return total + (1 - weight) * F.interpolate(coarse, scale_factor=2, mode="bilinear")[..., :height, :width]


def join(made: Tensor, clip: Tensor, mask: Tensor) -> Tensor:
    """A clip with what was made wherever `mask` is true, and no seam between: its own pixels are kept bit for bit.

    What was made is off from the clip's own pixels around the mask, if by what a codec loses; that difference, up to
    `SEAM`, is led on into it (Perez et al. 2003, Poisson image editing, section 3, by a smooth continuation in place of
    the membrane).

    Args:
        made, clip: `(b, 3, f, h, w)` in [-1, 1]; what was made may be on another device.
        mask: bool, broadcastable to `(b, 1, f, h, w)`, where the clip is.
    """
    off = lead_on((clip.to(made) - made).clamp(-SEAM, SEAM), mask.to(made.device))
    return torch.where(mask, (made + off).clamp(-1, 1).to(clip), clip)
