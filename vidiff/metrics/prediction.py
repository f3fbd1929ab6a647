"""How near predicted frames come to those that followed: PSNR, SSIM, LPIPS from a local network, best of several."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from vidiff.metrics.efficientnet import NAME
from vidiff.metrics.features import Features
from vidiff.metrics.motion import moving
from vidiff.pixels import check_values, check_video

MOVING = "squared error over what moves"
MOVING_OF_LAST = f"{MOVING}, of the last frame repeated"


def psnr(made: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, `(b, f)`, of videos `(b, 3, f, h, w)` in [-1, 1].

    Equal frames give 126 dB, and not infinity. Raises ValueError for sizes that differ.
    """
    _same(made, real)
    error = (made.double() - real.double()).square().mean((1, 3, 4))  # b f
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


def overall_psnr(made: Tensor, real: Tensor) -> float:
    """Peak signal-to-noise ratio in dB over all of two videos in [-1, 1]; 126 where they are equal, not infinity."""
    for video, name in ((made, "made"), (real, "real")):
        check_values(video, name)
    error = (made - real).square().mean().clamp(min=1e-12)
    return float(10 * torch.log10(4 / error))


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity of each frame, `(b, f)`, of videos `(b, 3, f, h, w)` in [-1, 1].

    With the weights of Wang et al. 2004: Gaussian, of 1.5 pixels; the mean over colours, by scikit-image.

    Raises:
        ValueError: sizes that differ, frames below 11 pixels a side, or scikit-image is not installed.
    """
    _same(made, real)
    if min(made.shape[-2:]) < 11:
        raise ValueError(f"frames are {made.shape[-2]}x{made.shape[-1]}; SSIM needs 11 pixels a side")
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise ValueError("SSIM needs scikit-image: pip install 'vidiff[score]'") from None
    options = {"data_range": 2.0, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
    frames = (rearrange(x.double().cpu(), "b c f h w -> b f c h w").numpy() for x in (made, real))
    return torch.tensor(
        [
            [structural_similarity(a, b, sigma=1.5, **options) for a, b in zip(one, other, strict=True)]
            for one, other in zip(*frames, strict=True)
        ],
        dtype=torch.float64,
    )


def lpips(made: Tensor, real: Tensor, network: Features) -> Tensor:
    """Perceptual distance of each frame, `(b, f)`, by a network of two pictures.

    Args:
        network: "efficientnet", on frames of the size that they have (`EfficientNetLite0.distance`); or TorchScript,
            declared with layout "bchw" and called as network(made, real), each as it is declared. LPIPS (Zhang et al.
            2018) is one such, once traced; its weights do not come with vidiff.

    Raises:
        ValueError: sizes that differ; a network that is not for two pictures.
    """
    with torch.no_grad():
        return distances(made, real, network).double().cpu()


def distances(made: Tensor, real: Tensor, network: Features) -> Tensor:
    """As `lpips`, but on the network's device and with gradients to both videos, for training."""
    _same(made, real)
    check_pairs(network)
    own = network.distance
    first, second = (network.prepare(x, resized=own is None).to(network.device) for x in (made, real))
    values = own(first, second) if own else network.module(first, second, **network.declaration.arguments)
    return values.reshape(len(made), -1)


def check_pairs(network: Features) -> None:
    """Raises ValueError unless the network may be one of two pictures."""
    declared = network.declaration
    if network.distance is None and (declared.layout != "bchw" or declared.architecture is not None):
        raise ValueError(
            f'network {network.name} is no TorchScript of two pictures, which needs layout "bchw"; "{NAME}" needs '
            "nothing but its package"
        )


def name_of_distance(network: Features) -> str:
    """What its distances are called: "lpips", as those of any TorchScript, or "perceptual distance[efficientnet]"."""
    return f"perceptual distance[{network.name}]" if network.distance else "lpips"


def best_of(values: Tensor, highest: bool) -> Tensor:
    """The best of n tries, clip by clip: `(n, b, f)` -> `(b, f)`, by the mean over frames.

    Where the future is open, one try may differ from what followed and yet be good (Denton and Fergus 2018 take the
    best of 100). It compares only at one n.
    """
    means = values.mean(2)  # n b
    best = means.argmax(0) if highest else means.argmin(0)
    return values[best, torch.arange(values.shape[1])]


def _same(made: Tensor, real: Tensor) -> None:
    for video, name in ((made, "made"), (real, "real")):
        check_video(video, name, one=False)
    if made.shape != real.shape:
        raise ValueError(f"made is {tuple(made.shape)} and real {tuple(real.shape)}; expected (b, 3, f, h, w) twice")


def predicted(
    extend: Callable[[Tensor, int], Tensor], real: Tensor, given: int, tries: int, network: Features | None = None
) -> dict[str, Tensor]:
    """Scores of the frames that follow the given ones, each clip's best try by each measure.

    Args:
        extend: (the given frames `(b, 3, given, h, w)`, number of the try) -> `(b, 3, f, h, w)`, the given ones first.
        real: what followed, `(b, 3, f, h, w)`.
        network: of two pictures.

    Returns:
        `psnr`, `ssim` and, with a network, what `name_of_distance` says, each `(b, f - given)`; beside them, for the
        last given frame repeated, which a prediction has to beat, `psnr of the last frame repeated`; and the squared
        error summed over what moves (`vidiff.metrics.motion.moving`), `MOVING` and `MOVING_OF_LAST`.

    Raises:
        ValueError: no frame is given, or none follows; no tries.
    """
    if not 1 <= given < real.shape[2] or tries < 1:
        raise ValueError(
            f"{given} of {real.shape[2]} frames given, {tries} tries: give 1 or more, and leave some to make"
        )
    after, last = real[:, :, given:], real[:, :, given - 1 : given].expand_as(real[:, :, given:])
    moves = moving(real)[0][:, :, given:].double()

    def over_motion(x: Tensor) -> Tensor:
        return ((x.double() - after.double()).square() * moves).sum((1, 3, 4))

    made = [extend(real[:, :, :given], number)[:, :, given:] for number in range(tries)]
    scores = {
        "psnr": best_of(torch.stack([psnr(x, after) for x in made]), highest=True),
        "ssim": best_of(torch.stack([ssim(x, after) for x in made]), highest=True),
        "psnr of the last frame repeated": psnr(last, after),
        MOVING: best_of(torch.stack([over_motion(x) for x in made]), highest=False),
        MOVING_OF_LAST: over_motion(last),
    }
    if network is not None:
        scores[name_of_distance(network)] = best_of(
            torch.stack([lpips(x, after, network) for x in made]), highest=False
        )
    return scores
