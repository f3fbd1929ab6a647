"""Scores of a codec alone: what it loses of held-out clips, and what its latents are like."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec
from vidiff.engine.checkpoint import load_part
from vidiff.engine.parallel import Group
from vidiff.evaluate.measure import Scores, measure, read_features
from vidiff.metrics.codec import frame_losses, frame_scores, latent_scores, latent_sums
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.prediction import lpips, psnr
from vidiff.metrics.sets import kernel_distance
from vidiff.pipeline.run import read_run
from vidiff.recipe.build import build_trained_codec
from vidiff.recipe.kinds import VAERun
from vidiff.training.windows import Windows, gathered

SHOWN = 6
"""Clips that are kept to be shown."""


def open_codec(folder: Path) -> Codec:
    """The codec of a run, ready to use: of a training on latents as it is kept there, of an autoencoder's its EMA.

    Args:
        folder: of the run, or of a codec in it.

    Raises:
        ValueError: a folder that is neither, or holds nothing trained yet.
    """
    for part in (folder, folder / "codec"):
        if (part / "codec.json").is_file():
            return load_codec(part)
    config = replace(read_run(folder, VAERun), runs=str(folder.parent), name=folder.name)  # wherever it is now
    return build_trained_codec(config, load_part(folder, "network"))


def score_codec(
    codec: Codec, clips: Windows, group: Group, seed: int = 0, network: Features | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Send clips through a codec.

    Args:
        seed: of the samples of latents.
        network: for features of the clips as they are and as they come back, and their distance where it tells one.

    Returns:
        scores: those of `frame_scores` for the mean of each latent, "psnr of samples", which is what a model on latents
        is taught by, and "latent", as `latent_scores`; and what else was found, clip by clip: "real" and "decoded", the
        first SHOWN clips, and with a network what `views_around` returns. Both are empty elsewhere than on the main
        process.
    """
    codec = codec.to(group.device)

    def through(which: range) -> dict[str, Tensor]:
        video = clips.read(which)
        z = codec.encode(video.to(group.device))
        decoded = codec.decode(z.mean).float().cpu()
        generator = torch.Generator(group.device).manual_seed((seed * 1_000_003 + which.start) % 2**63)
        drawn = codec.decode(z.sample(generator)).float().cpu()
        views = frame_losses(video, decoded) | {"drawn": psnr(drawn, video)}
        views |= {f"latent {k}": v for k, v in latent_sums(video, z.mean, z.std, codec.shift, codec.scale).items()}
        kept = max(0, SHOWN - which.start)
        views |= {"shown real": video[:kept], "shown decoded": decoded[:kept]}
        if network is not None:
            views |= _features(network, video, decoded)
            if network.distance is not None:
                views["perceptual"] = lpips(decoded, video, network)
        return views

    views = gathered(len(clips), group, through, "codec")
    if not group.main:
        return {}, {}
    latent = named(views, "latent ")
    scores = frame_scores(views) | {"psnr of samples": float(views["drawn"].mean()), "latent": latent_scores(latent)}
    return scores, {key: value for key, value in views.items() if key.split(" ")[0] in ("real", "decoded", "shown")}


def views_around(codec: Codec, clips: Windows, group: Group, network: Features) -> dict[str, Tensor]:
    """What `measure` needs of clips as they are, as "real features" and the like, and after the codec, as "decoded"."""

    def through(which: range) -> dict[str, Tensor]:
        video = clips.read(which)
        decoded = codec.decode(codec.encode(video.to(group.device)).mean).float().cpu()
        return _features(network, video, decoded)

    return gathered(len(clips), group, through, "training")


def _features(network: Features, video: Tensor, decoded: Tensor) -> dict[str, Tensor]:
    views = {"real": read_features(network, video), "decoded": read_features(network, decoded)}
    return {f"{name} {key}": value for name, view in views.items() for key, value in view.items()}


def ceiling(
    network: Features, views: dict[str, Tensor], training: dict[str, Tensor] | None = None, seed: int = 0
) -> Scores:
    """What a feature network tells of clips after a codec: the best that any model on its latents can score.

    Args:
        views: of held-out clips, as `score_codec` returns it.
        training: of as many training clips, by `views_around`.
        seed: of resampling.

    Returns:
        scores of `measure`, of the clips after the codec against themselves before it, and of the floor, training clips
        against held-out ones. Beside the floor stands the like of it, "floor after the codec": training clips after the
        codec against held-out ones before it, which is what a model that makes real latents would score. By how much it
        is larger is what the codec costs.
    """
    known = training and named(training, "real ")
    scores = measure(network, named(views, "real "), named(views, "decoded "), known or None, None, seed)
    scores.left_out.pop("ceiling")  # all of this is the ceiling
    if training:
        real, made = views["real features"], training["decoded features"]
        scores.add(
            f"floor after the codec {network.called('frechet')}",
            lambda: frechet_distance(Statistics.of(real, "real"), Statistics.of(made, "made")),
        )
        scores.add(
            f"floor after the codec {network.called('kernel')} and standard error",
            lambda: list(kernel_distance(real, made)),
        )
    return scores


def named(tensors: dict[str, Tensor], of: str) -> dict[str, Tensor]:
    """What is called `of` and something more, by the rest of its name."""
    return {key.removeprefix(of): value for key, value in tensors.items() if key.startswith(of)}
