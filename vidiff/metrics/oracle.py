"""The oracle of the shapes set: reads what a video shows, frame by frame, and scores what it read.

It takes nothing on trust. A frame counts as read only when it shows exactly one object, in one of the four
colours, whose silhouette agrees with a disc, a square or a triangle drawn at its measured centre and area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from scipy import ndimage
from torch import Tensor

from vidiff.metrics.objects import BACKGROUND, COLOURS, SHAPES, coverage, rgb
from vidiff.pixels import check_video

FAINTEST = 0.4  # of the way from the background to the nearest colour: what is further is not background
SPECKS = 0.1  # pixels in further blobs, as a fraction of the object's, that still pass as noise
SMALLEST, LARGEST = 0.01, 0.25  # area of an object, as a fraction of the frame
PALEST, BRIGHTEST = 0.5, 1.5  # strength of the object's colour, as a multiple of the true one
PURITY = 0.8  # of the object's inner pixels that must agree on its colour
HUE = 0.93  # least cosine between the object's colour and the true one, both seen from the background
FIT = 0.8  # least overlap with the ideal shape, as soft intersection over union
KEPT = 0.875  # frames of a clip that must show the label: 14 of 16


@dataclass(frozen=True)
class Reading:
    """The objects in the frames of b clips. Where `found` is false, the other fields hold a guess, for debugging.

    Attributes:
        found: (b, f) bool, whether the frame shows exactly one object of the set.
        colour: (b, f) int64, index into COLOURS.
        shape: (b, f) int64, index into SHAPES.
        size: (b, f) float, radius in pixels of the disc with the object's area.
        centre: (b, f, 2) float, centre of mass (x, y) in pixels from the top left corner of the frame.
        fit: (b, f) float, overlap of the object with the ideal shape, in [0, 1].
        frame: height and width of the frames in pixels.
    """

    found: Tensor
    colour: Tensor
    shape: Tensor
    size: Tensor
    centre: Tensor
    fit: Tensor
    frame: tuple[int, int]

    @property
    def label(self) -> Tensor:
        """(b, f) int64, index into LABELS; -1 where no object was found."""
        return torch.where(self.found, self.colour * len(SHAPES) + self.shape, -1)

    def __getitem__(self, rows: Tensor) -> Reading:
        """Some of the clips: `rows` is a mask or numbers."""
        return Reading(**{name: getattr(self, name)[rows] for name in PER_FRAME}, frame=self.frame)

    @property
    def diagonal(self) -> float:
        """Diagonal of the frame in pixels: what a missing object counts as an error of place."""
        return math.hypot(*self.frame)


PER_FRAME = ("found", "colour", "shape", "size", "centre", "fit")
"""Fields of a `Reading` that are tensors over clips and frames."""


def read_shapes(video: Tensor) -> Reading:
    """Read a video (b, 3, f, h, w), or one clip (3, f, h, w) as a batch of one, in [-1, 1].

    On held-out files as the set writes them, the centre is within 0.1 px and the size within 3 %.

    Raises:
        ValueError: another number of dimensions or channels, or no frames.
    """
    check_video(video, "video", finite=False, farthest=math.inf)
    if not video.numel():
        raise ValueError(f"video is {tuple(video.shape)}: there is nothing to read")
    batch = video.detach().float().cpu().reshape(-1, *video.shape[-4:])
    frames = rearrange(batch, "b c f h w -> (b f) c h w")
    parts = zip(*(_read_frames(chunk) for chunk in frames.split(256)), strict=True)  # memory stays flat
    found, colour, shape, size, centre, fit = (torch.cat(part).unflatten(0, (len(batch), -1)) for part in parts)
    return Reading(found, colour, shape, size, centre, fit, frame=(video.shape[-2], video.shape[-1]))


def _read_frames(frames: Tensor) -> tuple[Tensor, ...]:
    """Frames (n, 3, h, w) -> found, colour, shape, size, centre, fit: as in Reading, with (n,) for (b, f)."""
    count, _, height, width = frames.shape
    finite = frames.isfinite().flatten(1).all(1)  # n
    away = frames.nan_to_num(0, 0, 0) - rgb(BACKGROUND).view(3, 1, 1)
    axes = torch.stack([rgb(colour) for colour in COLOURS.values()]) - rgb(BACKGROUND)  # k 3
    lengths = axes.norm(dim=1)

    # Which pixels hold an object is asked of a 3 x 3 mean, or noise would pass for a swarm of small ones.
    smooth = F.avg_pool2d(away, 3, 1, 1, count_include_pad=False)
    nearest = torch.einsum("nchw, kc -> nkhw", smooth, axes / lengths[:, None]).argmax(1)  # n h w
    blob, one = _largest_blob(smooth.norm(dim=1) > FAINTEST * lengths[nearest])  # n h w, n
    mask = blob.float().unsqueeze(1)
    inner = 1 - F.max_pool2d(1 - mask, 3, 1, 1)  # n 1 h w: one pixel in, where no background shines through
    around = F.max_pool2d(mask, 5, 1, 2)  # n 1 h w: two pixels out, for the soft rim; noise further off is not

    # Colour: the nearest in direction to the mean; `pure` is the share of inner pixels that agree.
    along = torch.einsum("nchw, kc -> nkhw", away, axes / lengths[:, None])
    mean = _mean(away, inner)  # n 3
    colour = _mean(along, inner).argmax(1)  # n
    strength = _mean(along, inner)[torch.arange(count), colour]
    hue = strength / mean.norm(dim=1).clamp_min(1e-6)  # a cosine
    pure = _mean((along.argmax(1) == colour.view(-1, 1, 1)).float().unsqueeze(1), inner).squeeze(1)

    # Opacity of the object: how far each pixel is on the way from the background to the object's own colour.
    alpha = along[torch.arange(count), colour] / strength.clamp_min(1e-6).view(-1, 1, 1)
    alpha = alpha.clamp(0, 1) * around.squeeze(1)  # n h w

    area = alpha.sum((1, 2))
    x = torch.einsum("nhw, w -> n", alpha, torch.arange(width) + 0.5)
    y = torch.einsum("nhw, h -> n", alpha, torch.arange(height) + 0.5)
    centre = torch.stack([x, y], 1) / area.clamp_min(1e-6).unsqueeze(1)
    size = (area / math.pi).sqrt()
    ideals = torch.stack([coverage(shape, centre, size, height, width) for shape in SHAPES], 1)  # n s h w
    ideals, alpha = _sharpen(ideals), _sharpen(alpha).unsqueeze(1)  # n s h w, n 1 h w
    intersection, union = torch.minimum(alpha, ideals), torch.maximum(alpha, ideals)
    fit, shape = (intersection.sum((2, 3)) / union.sum((2, 3)).clamp_min(1e-6)).max(1)

    share, strength = area / (height * width), strength / lengths[colour]
    found = finite & one & (hue >= HUE) & (pure >= PURITY) & (fit >= FIT)
    found &= (share >= SMALLEST) & (share <= LARGEST) & (strength >= PALEST) & (strength <= BRIGHTEST)
    return found, colour, shape, size, centre, fit


def _largest_blob(foreground: Tensor) -> tuple[Tensor, Tensor]:
    """The largest connected region of each mask (n, h, w), and whether hardly anything is outside it (n,)."""
    within_frame = np.zeros((3, 3, 3), bool)
    within_frame[1] = True
    labels = torch.from_numpy(ndimage.label(foreground.numpy(), within_frame)[0]).long()  # n h w
    areas = torch.bincount(labels.flatten())
    areas[0] = 0  # the background
    area, pixel = areas[labels].flatten(1).max(1)  # n
    blob = labels == labels.flatten(1).gather(1, pixel[:, None]).unsqueeze(2)
    rest = foreground.sum((1, 2)) - area
    return blob & foreground, (area > 0) & (rest <= SPECKS * area)


def _sharpen(alpha: Tensor) -> Tensor:
    """Make edges twice as steep: silhouettes are compared near half height, which blur leaves in place."""
    return (2 * alpha - 0.5).clamp(0, 1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the masked pixels: (n, c, h, w), (n, 1, h, w) -> (n, c); 0 where the mask is empty."""
    return (values * mask).sum((2, 3)) / mask.sum((2, 3)).clamp_min(1)


def label_score(reading: Reading, label: Tensor) -> dict[str, float]:
    """How often b clips show the object that they should.

    Args:
        reading: of (b, f) frames.
        label: (b,) int64, index into LABELS.

    Returns:
        `clips_right`: fraction of clips with the right colour and shape in at least 7/8 of their frames (14
        of 16); `frames_right`: fraction of frames with both right; `frames_found`: with any one object.
    """
    right = reading.label == label[:, None]
    return {
        "clips_right": label_right(reading, label).double().mean().item(),
        "frames_right": right.double().mean().item(),
        "frames_found": reading.found.double().mean().item(),
    }


def label_right(reading: Reading, label: Tensor) -> Tensor:
    """(b, f) frames and (b,) int64, index into LABELS -> (b,) bool: which clips show it in 7/8 of their frames."""
    return _kept(reading.label == label[:, None])


def acceleration(reading: Reading) -> dict[str, float]:
    """How unsteadily objects move: |c[i + 1] - 2 c[i] + c[i - 1]| of the centres c, pixels per frame squared.

    Returns:
        `acceleration`: median over clips and frames. Where one of the three objects is missing, twice the
        frame's diagonal stands in, which no motion exceeds. `missing`: the fraction of such places.

    Raises:
        ValueError: fewer than three frames.
    """
    if reading.found.shape[1] < 3:
        raise ValueError(f"clips of {reading.found.shape[1]} frames have no acceleration; give at least 3")
    before, now, after = (reading.centre[:, i : i - 2 or None] for i in range(3))
    complete = reading.found.unfold(1, 3, 1).all(-1)  # b f-2
    size = torch.where(complete, (after - 2 * now + before).norm(dim=-1), 2 * reading.diagonal)
    return {
        "acceleration": float(np.median(size.numpy())),
        "missing": 1 - complete.double().mean().item(),
    }


def extension_score(
    reading: Reading, true_path: Tensor, given: int, horizon: int = 8
) -> dict[str, float | list[float]]:
    """How well clips go on after their first frames, against what really came next.

    Args:
        reading: of (b, f) frames, the first `given` of them real.
        true_path: (b, n, 2), true centres from the first frame on; n from `given + horizon` on. Frames past
            the shorter of the two count towards `label_kept` alone.
        given: number of given frames.
        horizon: number of new frames that `error` averages over.

    Returns:
        `error`: mean distance in pixels to the true centre over the first `horizon` new frames, where a
        missing object counts as the frame's diagonal; `error_by_frame`: mean for each new frame;
        `standing_still` and `standing_still_by_frame`: the same for an object that stays where it was last
        given; `label_kept`: fraction of clips with the colour and shape of their given frames in at least 7/8
        of the new ones.

    Raises:
        ValueError: the reading or the path ends before `given + horizon` frames, or `given` is below 1.
    """
    length = min(reading.found.shape[1], true_path.shape[1])
    if given < 1 or horizon < 1 or given + horizon > length:
        raise ValueError(
            f"given={given} and horizon={horizon} need at least one frame each and {given + horizon} in all; "
            f"the clips have {reading.found.shape[1]} and the true path {true_path.shape[1]}"
        )
    truth = true_path[:, given:length]
    distance = (reading.centre[:, given:length] - truth).norm(dim=-1)
    error = torch.where(reading.found[:, given:length], distance.double(), reading.diagonal).mean(0)  # n
    still = (true_path[:, given - 1 : given] - truth).norm(dim=-1).double().mean(0)  # n
    label = reading.label[:, :given].mode(1, keepdim=True).values  # b 1
    kept = _kept((reading.label[:, given:] == label) & (label >= 0))
    return {
        "error": error[:horizon].mean().item(),
        "error_by_frame": error.tolist(),
        "standing_still": still[:horizon].mean().item(),
        "standing_still_by_frame": still.tolist(),
        "label_kept": kept.double().mean().item(),
    }


def kept_along(
    reading: Reading, label: Tensor, chunk: int, given: int = 0, last: int = 8
) -> dict[str, float | list[float]]:
    """How long clips go on to show the one object that they should.

    Args:
        reading: of (b, f) frames.
        label: (b,) int64, index into LABELS.
        chunk: frames of a stretch; the last may have fewer.
        given: frames at the beginning that are not counted.
        last: frames at the end that are looked at by themselves.

    Returns:
        `kept`, for each stretch, the fraction of clips with exactly one object, of the right colour and shape, in at
        least 7/8 of its frames; `right`, for each stretch, the fraction of such frames; `kept_last`, the former over
        the last frames; `right_last`, the fraction of clips with such a last frame.

    Raises:
        ValueError: a chunk or a number of last frames below 1.
    """
    if chunk < 1 or last < 1:
        raise ValueError(f"chunk is {chunk} and last is {last}; give 1 or more frames for both")
    right = (reading.label == label[:, None])[:, given:]  # b f
    parts = right.split(chunk, dim=1)
    return {
        "kept": [_kept(part).double().mean().item() for part in parts],
        "right": [part.double().mean().item() for part in parts],
        "kept_last": _kept(right[:, -last:]).double().mean().item(),
        "right_last": right[:, -1].double().mean().item(),
    }


def join_readings(readings: Sequence[Reading], dim: int = 1) -> Reading:
    """Readings as one: of pieces that follow each other, or with `dim=0`, of other clips.

    Raises:
        ValueError: no readings.
    """
    if not readings:
        raise ValueError("there are no readings to join; read one piece at least")
    parts = {name: torch.cat([getattr(reading, name) for reading in readings], dim) for name in PER_FRAME}
    return Reading(**parts, frame=readings[0].frame)


def _kept(right: Tensor) -> Tensor:
    """(b, f) bool -> (b,) bool: clips with at least ceil(7/8 f) frames right."""
    return right.sum(1) >= math.ceil(KEPT * right.shape[1])
