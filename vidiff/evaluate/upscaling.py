"""Scores of super-resolution: held-out clips are shrunk, enlarged again, and compared with what they were.

What a clip lost when it was shrunk cannot be known. The mean of all that it may have been has the best PSNR, and is
blurred; a draw looks as real clips do, which the Fréchet distance and the detail tell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from vidiff.data.index import index_of, other_data
from vidiff.evaluate.comparison import Columns, figure_of, finite, rows_in
from vidiff.evaluate.shapes import label_numbers
from vidiff.metrics.codec import detail
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.objects import LABELS
from vidiff.metrics.oracle import label_score, read_shapes
from vidiff.metrics.prediction import lpips, overall_psnr
from vidiff.pipeline.cascade import Cascade
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config, runs_of
from vidiff.store.files import write_whole
from vidiff.training.windows import evenly
from vidiff.video.fit import Fit
from vidiff.video.writer import write_image


@dataclass(frozen=True)
class UpscalingProtocol:
    """Which held-out clips are enlarged. The scores of two models compare only under one protocol."""

    clips: int = 48  # evenly chosen, or all where there are fewer
    frames: int = 12  # of each, from the first on: more than a window, so that windows join
    batch: int = 8  # clips enlarged at once
    tile: int = 128  # side in pixels of the squares that a network looks at, where frames are larger
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clips", "frames", "batch", "tile"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")


COLUMNS: Columns = {
    "Fréchet": (
        lambda row: figure_of(row, "frechet"),
        "distance of the network's features to those of the true clips, over squares of frames",
    ),
    "perceptual": (lambda row: figure_of(row, "perceptual"), "the network's distance to the true frame"),
    "detail": (
        lambda row: figure_of(row, "detail"),
        "power of the upper half of the spatial frequencies, in that of the true clips",
    ),
    "change": (
        lambda row: figure_of(row, "change"),
        "mean difference of a frame to the one before, in that of the true clips",
    ),
    "PSNR, dB": (lambda row: figure_of(row, "psnr"), "best for the mean of all that the clip may have been"),
    "right": (lambda row: figure_of(row, "right"), "frames in which the oracle finds the object of the label"),
    "s a frame": (
        lambda row: figure_of(row, "seconds"),
        "seconds for a frame of one clip, all stages: of CPU time, or on a GPU by the clock",
    ),
}


def score_upscaling(
    upscale: Callable[[Tensor, int], Tensor],
    decoded: Tensor,
    truth: Tensor,
    small: Tensor,
    bicubic: Tensor,
    label: Tensor | None,
    protocol: UpscalingProtocol,
) -> tuple[dict[str, dict[str, Any]], Tensor]:
    """Score a super-resolution model against bicubic enlargement.

    Args:
        upscale: (small clips, seed) -> `(b, 3, f, h, w)` in [-1, 1].
        decoded: the true clips after the model's codec, which it cannot beat.
        truth: `(n, 3, f, h, w)`; small: the same shrunk; bicubic: that enlarged again.
        label: `(n,)`, index into the shapes set's LABELS, for the oracle; None where it cannot read the clips.

    Returns:
        scores of "upscaled", "bicubic" and "codec": how many `clips` there were, `psnr` in dB, and what the oracle
        reads; for "upscaled" also its `gain` over bicubic in dB; and the clips.
    """
    parts = small.split(protocol.batch)
    upscaled = torch.cat([upscale(part, seed) for seed, part in enumerate(parts)])
    scores: dict[str, dict[str, Any]] = {}
    for name, video in (("upscaled", upscaled), ("bicubic", bicubic), ("codec", decoded)):
        scores[name] = {"clips": len(video), "psnr": overall_psnr(video, truth)}
        if label is not None:
            scores[name] |= label_score(read_shapes(video), label)
    scores["upscaled"]["gain"] = scores["upscaled"]["psnr"] - scores["bicubic"]["psnr"]
    return scores, upscaled


def side_by_side(small: Tensor, *videos: Tensor, columns: int = 6) -> Tensor:
    """A picture `(3, (1 + videos) h, columns * w)` of the middle frames of clips.

    In the first row they are as given, pixel by pixel, and below of each of the videos `(n, 3, f, h, w)`, such as
    bicubic, upscaled and true.
    """
    last = videos[-1]
    chosen = evenly(columns, len(last), middle=True)
    frame = last.shape[2] // 2
    given = F.interpolate(small[chosen, :, frame], last.shape[3:], mode="nearest")  # n 3 h w
    rows = [given, *(video[chosen, :, frame] for video in videos)]
    return torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)


@dataclass(frozen=True)
class Held:
    """Held-out clips, `(n, 3, f, h, w)`, and their labels as numbers, where the oracle can read them."""

    truth: Tensor
    label: Tensor | None


def read_held_out(run: Path, size: int, data: str | Path | None, protocol: UpscalingProtocol) -> Held:
    """Held-out clips of the data that a run was trained on, evenly chosen, in squares of `size` pixels.

    Args:
        data: folder of videos, laid out as those; by default those.

    Raises:
        ValueError: no held-out clips of `protocol.frames` frames.
    """
    config = read_config(run)
    if data is not None:
        config.data = other_data(config.data, data)
    index = index_of(config.data, runs_of(run, config), config.data.test_split)
    stride = config.data.stride[0]
    seen = range(0, protocol.frames * stride, stride)
    files = [number for number, file in enumerate(index.files) if file.frames > seen[-1]]
    files = [files[i] for i in evenly(protocol.clips, len(files))]
    if not files:
        raise ValueError(f"no held-out clip in {config.data.root} has the {protocol.frames} frames that are scored")
    clips = []
    for file in (index.files[number] for number in files):
        with file.place.held() as here, index.manner(file).open(here) as reader:
            clips.append(Fit(reader.size, (size, size)).read(reader, seen)[None])
    names = [index.class_of(index.files[number]) for number in files] if index.labels else []
    shapes = bool(names) and set(names) <= set(LABELS)
    return Held(torch.cat(clips), label_numbers([name for name in names if name is not None]) if shapes else None)


def score_upscaler(
    run: Path, pipeline: Pipeline, data: str | Path | None, protocol: UpscalingProtocol
) -> dict[str, Any]:
    """Scores a super-resolution run, and leaves a picture in its samples: `evaluated-upscaled.png`.

    Args:
        data: folder of videos, laid out as those that the run was trained on; by default those.

    Returns:
        as `score_upscaling`, with the protocol. The oracle reads clips of the shapes set alone.

    Raises:
        ValueError: a run that enlarges nothing; as `read_held_out`.
    """
    small, bicubic = Cascade([pipeline]).bicubic((held := read_held_out(run, pipeline.size, data, protocol)).truth)
    scores, upscaled = score_upscaling(
        lambda clips, seed: pipeline.upscale(clips, seed=protocol.seed + seed, progress=True).cpu(),
        torch.cat([pipeline.reconstruct(part) for part in held.truth.split(protocol.batch)]),
        held.truth,
        small,
        bicubic,
        held.label,
        protocol,
    )
    write_image(run / "samples" / "evaluated-upscaled.png", side_by_side(small, bicubic, upscaled, held.truth))
    return {"protocol": asdict(protocol), **scores}


def score_look(made: Tensor, held: Held, network: Features | None, protocol: UpscalingProtocol) -> dict[str, float]:
    """How clips `(n, 3, f, h, w)` look that were made of held-out ones.

    Returns:
        `psnr` in dB; `detail` and `change` in shares of the true clips'; with labels `right`; with a network `frechet`,
        and where it tells distances of pictures `perceptual`.
    """
    truth = held.truth
    own, real = detail(truth, made).sum(0).tolist()
    scores = {"psnr": overall_psnr(made, truth), "detail": own / real if real else float("nan")}
    if truth.shape[2] > 1:
        scores["change"] = float(made.diff(dim=2).abs().mean() / truth.diff(dim=2).abs().mean())
    if held.label is not None:
        scores["right"] = float(label_score(read_shapes(made), held.label)["frames_right"])
    if network is not None:
        both = (_features(video, network, protocol.tile) for video in (made, truth))
        scores["frechet"] = frechet_distance(*map(Statistics.of, both))
        if network.distance is not None:
            parts = zip(made.split(1), truth.split(1), strict=True)
            scores["perceptual"] = float(torch.cat([lpips(one, other, network) for one, other in parts]).mean())
    return scores


def _features(video: Tensor, network: Features, tile: int) -> Tensor:
    """A network's features of squares of clips, `(n, d)`: where it sees frames one by one, of each frame alone (Chai et
    al. 2022, any-resolution training, section 4.1)."""
    rows, columns = (max(side // tile, 1) for side in video.shape[3:])
    height, width = video.shape[3] // rows, video.shape[4] // columns
    video = video[..., : rows * height, : columns * width]
    parts = rearrange(video, "b c f (i h) (j w) -> (b i j) c f h w", i=rows, j=columns)
    if network.declaration.layout == "bchw":
        parts = rearrange(parts, "b c f h w -> (b f) c 1 h w")
    return torch.cat([network(part) for part in parts.split(32)])


def compare_steps(
    cascade: Cascade,
    run: Path,
    steps: Sequence[int],
    data: str | Path | None,
    protocol: UpscalingProtocol,
    network: Features | None = None,
    picture: Path | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Scores a cascade in several numbers of steps on the same held-out clips and noise, beside bicubic enlargement.

    Args:
        run: of its last stage, whose data the clips are of.
        steps: of each stage.
        data: as for `read_held_out`.
        network: tells Fréchet and perceptual distances; None leaves them out.
        picture: file for frames as given, bicubic, of each number of steps, and true, from the top.
        options: of `Cascade.upscale`, such as sampler.

    Yields:
        "bicubic", then of each number of steps its `name`, how many `clips` there were, `sampling` of each stage, and
        the scores of `score_look`.

    Raises:
        ValueError: a number of steps below 1; as `read_held_out`.
    """
    for number in steps:
        if number < 1:
            raise ValueError(f"steps is {number}; give 1 or more, such as 1 4 16")
    held = read_held_out(run, cascade.size[0], data, protocol)
    small, bicubic = cascade.bicubic(held.truth)
    clock = time.process_time if cascade.stages[0].device.type == "cpu" else time.perf_counter
    rows, shared = [bicubic], {"protocol": asdict(protocol), "clips": len(held.truth)}
    yield {"name": "bicubic", **shared, **score_look(bicubic, held, network, protocol)}
    for number in tqdm(steps, desc="steps", disable=None):
        asked, begun = {**options, "steps": number}, clock()
        parts = enumerate(small.split(protocol.batch))
        rows.append(torch.cat([cascade.upscale(part, seed=protocol.seed + i, **asked).cpu() for i, part in parts]))
        spent = (clock() - begun) / (len(small) * small.shape[2])
        yield {
            "name": f"{number} step{'s' * (number > 1)}",
            **shared,
            "sampling": [stage.settings(**asked) for stage in cascade.stages],
            **score_look(rows[-1], held, network, protocol),
            "seconds": spent,
        }
    if picture is not None:
        write_image(picture, side_by_side(small, *rows, held.truth, columns=4))


def kept(rows: Iterator[dict[str, Any]], file: Path) -> Iterator[dict[str, Any]]:
    """The rows, each of which is written to `file` as soon as it is there, with those before it. Raises ValueError for
    a file that holds something else."""
    rows_in(file)
    done = []
    for row in rows:
        done.append(finite(row))
        write_whole(file, json.dumps({"rows": done}, indent=2, allow_nan=False) + "\n")
        yield done[-1]
