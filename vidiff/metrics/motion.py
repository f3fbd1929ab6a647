"""How clips move, without a network: flicker, acceleration, frozen frames, and what the optical flow leaves over."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from vidiff.pixels import check_video

STILL = 1 / 1024
"""Mean absolute change from frame to frame, in shares of the range, below which nothing has moved."""

GROUND = 2 / 255
"""A voxel belongs to the still background that differs from it by no more, in shares of the range: two grey levels."""

GREY = (0.299, 0.587, 0.114)

NO_FLOW = "the optical flow needs scikit-image: pip install 'vidiff[score]'"


def has_flow() -> bool:
    """Whether scikit-image is installed, for `warping_error`."""
    return find_spec("skimage") is not None


def moving(video: Tensor) -> tuple[Tensor, Tensor]:
    """What moves in clips `(b, c, f, h, w)` in [-1, 1]: the voxels that differ from the clip's still background.

    The background is each pixel's median over the clip (the plainest estimate of it; Piccardi 2004, section 2). Under a
    camera that moves, nearly all voxels do.

    Returns:
        `(b, 1, f, h, w)`, whether a voxel differs from it by more than GROUND in some channel; and by how much,
        `(b, c, f, h, w)`.
    """
    middle = (video.shape[2] - 1) // 2
    apart = video - video.sort(dim=2).values[:, :, middle, None]  # Tensor.median has no deterministic kernel on a GPU
    return (apart.abs() > 2 * GROUND).any(1, keepdim=True), apart


def moving_energy(video: Tensor, decoded: Tensor) -> tuple[Tensor, Tensor]:
    """Energy over the voxels that move, of clips `(b, 3, f, h, w)` that come back as `decoded`.

    Returns:
        `(b, 2)` in float64, of what differs from the still background, `lost` and `moved`: by how much it differs
        between the clips, each against its own background, and how much it is in the real one; and the share of the
        voxels that move, `(b,)`. Of a single frame, or where nothing moves, all are 0.
    """
    moves, apart = moving(video.double().cpu())
    _, returned = moving(decoded.double().cpu())
    whole = (1, 2, 3, 4)
    energy = torch.stack([(x.square() * moves).sum(whole) for x in (returned - apart, apart)], -1)
    return energy, moves.double().mean(whole)


def share_kept(energy: Tensor) -> float | None:
    """1 - lost / moved of the energies `(n, 2)` of `moving_energy`, summed over clips; None where nothing moves.

    1 where all that moves came back, 0 where nothing moves in what came back, and less where something else does.
    """
    lost, moved = energy.sum(0).tolist()
    return 1 - lost / moved if moved else None


def motion_measures(video: Tensor) -> dict[str, Tensor]:
    """Measures of clips `(b, 3, f, h, w)` in [-1, 1], each `(b,)` float64, in shares of the range from black to white.

    Returns:
        `change`: mean absolute difference from frame to frame; `acceleration`: of its differences, |x[i + 1] - 2 x[i] +
        x[i - 1]|; `flicker`: the same of the frames' mean brightness; `frozen`: share of frames that hardly differ from
        the one before.

    Raises:
        ValueError: fewer than three frames.
    """
    check_video(video, "video", one=False)
    if video.shape[2] < 3:
        raise ValueError(f"clips have shape {tuple(video.shape)}; expected (b, 3, f, h, w) with 3 frames or more")
    x = video.double().cpu() / 2
    change = x.diff(dim=2).abs().mean((1, 3, 4))  # b f-1
    bright = torch.einsum("bcfhw, c -> bf", x, torch.tensor(GREY, dtype=x.dtype)) / (x.shape[3] * x.shape[4])
    return {
        "change": change.mean(1),
        "acceleration": x.diff(n=2, dim=2).abs().mean((1, 2, 3, 4)),
        "flicker": bright.diff(n=2, dim=1).abs().mean(1),
        "frozen": (change < STILL).double().mean(1),
    }


def warping_error(video: Tensor) -> dict[str, Tensor]:
    """What is left of the difference between frames once the optical flow has moved one onto the other.

    Lai et al. 2018, section 4.2, without their mask of occlusions. The flow is Lucas and Kanade's, iterated (by
    scikit-image), so it follows motions of a few pixels.

    Args:
        video: `(b, 3, f, h, w)` in [-1, 1].

    Returns:
        `warping_error`: mean absolute difference that is left, in shares of the range, `(b,)`; `speed`: mean length of
        the flow where it is above half a pixel, in pixels per frame, 0 where it never is.

    Raises:
        ValueError: fewer than two frames, or scikit-image is not installed.
    """
    check_video(video, "video", one=False)
    if video.shape[2] < 2:
        raise ValueError(f"clips have shape {tuple(video.shape)}; expected (b, 3, f, h, w) with 2 frames or more")
    left, speeds = [], []
    for clip in torch.einsum("bcfhw, c -> bfhw", video.double().cpu() / 2, torch.tensor(GREY, dtype=torch.float64)):
        pairs = list(_flows(clip.numpy()))
        left.append(float(np.mean([error for error, _ in pairs])))
        lengths = np.concatenate([np.hypot(*flow).ravel() for _, flow in pairs])
        speeds.append(float(lengths[lengths > 0.5].mean()) if (lengths > 0.5).any() else 0.0)
    return {"warping_error": torch.tensor(left).double(), "speed": torch.tensor(speeds).double()}


def _flows(frames: np.ndarray) -> Iterator[tuple[float, np.ndarray]]:
    """For each pair of frames `(f, h, w)`: the mean error once the second is warped onto the first, and the flow."""
    try:
        from skimage.registration import optical_flow_ilk
        from skimage.transform import warp
    except ImportError:
        raise ValueError(NO_FLOW) from None
    grid = np.meshgrid(*map(np.arange, frames.shape[1:]), indexing="ij")
    for before, after in itertools.pairwise(frames):
        flow = optical_flow_ilk(before, after, radius=5)
        moved = warp(after, np.stack([grid[0] + flow[0], grid[1] + flow[1]]), mode="edge")
        yield float(np.abs(moved - before).mean()), flow
