"""A training as its config alone tells it, before any data is read: what is trained, and the shapes of a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vidiff.data.buckets import Bucket
from vidiff.data.captions import read_captions
from vidiff.data.find import find_clips
from vidiff.data.options import DataConfig
from vidiff.data.root import copies_of, root_of
from vidiff.metrics.objects import LABELS
from vidiff.nn.attention import choose
from vidiff.nn.blocks import fit_heads
from vidiff.nn.vae import VAE
from vidiff.objective.vae import VAEObjective
from vidiff.recipe.build import build_classifier, build_codec, build_objective
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, LatentRun, RunConfig, VAERun
from vidiff.recipe.load import load_codec_config
from vidiff.recipe.slots import build_text
from vidiff.store.error import DataError

UCF_LABELS = 101
TEXT_DIM, TOKENS, VOCABULARY = 768, 64, 1000  # of a text encoder and captions that are not looked at


@dataclass(frozen=True)
class Sketch:
    """What is known of a training.

    Attributes:
        config: with what follows from codec and data filled in, as far as that is known.
        build: makes the objective.
        batch: number of samples -> a batch, of any content.
        codec: parameters of the codec, which lie beside the model.
        unknown: what was assumed, a sentence each.
    """

    config: RunConfig
    build: Callable[[], nn.Module]
    batch: Callable[[int], dict[str, Tensor]]
    codec: int
    unknown: list[str]


def sketch(config: RunConfig, folder: Path, look: bool = True, fused: bool = False) -> Sketch:
    """Sketches the training of `config`.

    Args:
        folder: where the config file stands.
        look: list the data for labels and captions, where it is there, and ask a text encoder for its width; else both
            are assumed, which changes next to nothing in memory and time.
        fused: count with fused attention, as a GPU has it; else as a CPU does.

    Raises:
        ValueError: as `vidiff.recipe.load.load_codec_config`.
    """
    config, unknown = copy.deepcopy(config), list[str]()
    clip = max(config.data.plan(), key=lambda bucket: bucket.frames * bucket.height * bucket.width)
    if isinstance(config, VAERun):
        return _sketch_vae(config, clip, unknown)
    assert isinstance(config, LatentRun)
    channels, factor, temporal, codec = _look_at_codec(config, folder, look, unknown)
    labels, captions = _look(config.data, isinstance(config, DiffusionRun) and bool(config.text), look, unknown)
    strided = config.data.stride[0] != config.data.stride[1]
    text: Callable[[int], dict[str, Tensor]] = lambda count: {}  # noqa: E731
    if isinstance(config, ClassifierRun):
        of = config.classifier
        of.channels, of.labels, of.strided = channels, max(2, labels), strided
    elif isinstance(config, DiffusionRun):
        config.unet.channels, config.unet.strided = channels, strided
        config.unet.labels = labels if config.conditional else 0
        config.unet.lowres_channels = channels if config.lowres.factor else 0
        if config.text:
            text = _sketch_text(config, captions, look, unknown)
        _choose_attention(config, fused)
    build, lowres = _builder(config), isinstance(config, DiffusionRun) and config.lowres.factor > 0
    shape5 = (channels, 1 + (clip.frames - 1) // temporal, clip.height // factor, clip.width // factor)

    def batch(count: int) -> dict[str, Tensor]:
        whole = torch.ones(count, dtype=torch.long)
        clips = {name: torch.zeros(count, *shape5) for name in ("mean", "std", *(["lowres"] if lowres else []))}
        return clips | {"label": whole, "stride": whole.clone()} | text(count)

    return Sketch(config, build, batch, codec, unknown)


def _sketch_vae(config: VAERun, clip: Bucket, unknown: list[str]) -> Sketch:
    """From the first step on with its discriminator, if it is to have one; without the network of two pictures."""
    loss = replace(config.loss, perceptual=0.0, adversarial_start=0)
    if config.loss.perceptual:
        unknown.append("the perceptual network, which is not trained, is left out")
        loss.l1 = loss.l1 or 1.0  # something that the discriminator is weighed against
    return Sketch(
        config,
        lambda: VAEObjective(VAE(config.vae), loss, parts=config.train.accumulate),
        lambda count: {"video": torch.zeros(count, 3, *clip)},
        0,
        unknown,
    )


def _look_at_codec(config: LatentRun, folder: Path, look: bool, unknown: list[str]) -> tuple[int, int, int, int]:
    """Channels of the codec's latents, its factors in space and time, and how many parameters it has."""
    if config.codec.name == "vae":
        shape = load_codec_config(config, folder).vae
        with torch.device("meta"):
            return shape.channels, shape.factor, shape.temporal, sum(p.numel() for p in VAE(shape).parameters())
    if config.codec.name == "diffusers" and not look:
        unknown.append(f"{config.codec.path} was not read: an autoencoder as Stable Diffusion has it is assumed")
        return 4, 8, 1, 83_653_863
    codec = build_codec(config)
    return codec.channels, codec.factor, 1, sum(p.numel() for p in codec.parameters())


def _builder(config: LatentRun) -> Callable[[], nn.Module]:
    if isinstance(config, ClassifierRun):
        return lambda: build_classifier(config)
    assert isinstance(config, DiffusionRun)
    return lambda: build_objective(config)


def _look(data: DataConfig, captioned: bool, look: bool, unknown: list[str]) -> tuple[int, list[str]]:
    """The number of labels, and the training captions where they are wanted."""
    if data.layout == "shapes" and not captioned:
        return len(LABELS), []
    if look:
        try:
            root = root_of(Path(data.root), copies_of(Path("runs")))
            clips, labels = find_clips(root, data.layout, data.split, data.fold, {})
            return len(labels), read_captions(root, clips, data.captions) if captioned else []
        except DataError:
            unknown.append(f"{data.root} is not there, so its labels or captions are assumed")
    return (UCF_LABELS if data.layout == "ucf101" else len(LABELS) if data.layout == "shapes" else 0), []


def _sketch_text(
    config: DiffusionRun, captions: list[str], look: bool, unknown: list[str]
) -> Callable[[int], dict[str, Tensor]]:
    """Fills in what follows from the text encoder. Returns what a batch of so many samples has of text."""
    encoder = build_text(config.text)
    length = getattr(encoder, "length", 0) or TOKENS
    if config.text.get("name") == "words":
        if captions:
            encoder.learn(captions)
            length = encoder.length  # type: ignore[attr-defined]
        else:
            unknown.append(f"captions were not read: {VOCABULARY} words are assumed")
        config.unet.text_dim, config.unet.words = encoder.dim, encoder.words or VOCABULARY
    else:
        config.unet.text_dim, config.unet.words = (encoder.dim if look else TEXT_DIM), 0
    numbers, dim = config.unet.words > 0, config.unet.text_dim

    def text(count: int) -> dict[str, Tensor]:
        found = torch.zeros(count, length, dtype=torch.long) if numbers else torch.zeros(count, length, dim)
        return {"text": found, "text_mask": torch.ones(count, length, dtype=torch.bool)}

    return text


def _choose_attention(config: DiffusionRun, fused: bool) -> None:
    """Fused attention for a GPU, whichever kernel that then is. On a CPU the choice is made here, with real tensors."""
    unet = config.unet
    if unet.attention_backend == "xformers" or (fused and unet.attention_backend == "auto"):
        unet.attention_backend = "sdpa"
    if unet.attention_backend == "auto":
        for multiplier in unet.multipliers:
            for dtype in (torch.float32, torch.bfloat16):
                choose(torch.device("cpu"), dtype, fit_heads(unet.width * multiplier, unet.head_dim))
