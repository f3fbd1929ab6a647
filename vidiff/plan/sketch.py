"""A training as its config alone tells it, before any data is read: what is trained, and the shapes of a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.data.actions.read import space_of
from vidiff.data.buckets import Bucket
from vidiff.data.captions import read_captions
from vidiff.data.find import take_stock
from vidiff.data.lists import LIST_SUFFIXES, read_rows
from vidiff.data.options import DataConfig
from vidiff.data.root import Root, copies_of, root_of
from vidiff.metrics.objects import LABELS
from vidiff.nn.attention import choose_backend
from vidiff.nn.blocks import fit_heads
from vidiff.nn.unet import UNetConfig
from vidiff.objective.vae import VAELoss
from vidiff.recipe.build import (
    build_classifier,
    build_codec,
    build_objective,
    build_student,
    build_vae,
    build_vae_objective,
)
from vidiff.recipe.kinds import DiffusionRun, LatentRun, RunConfig, VAERun
from vidiff.recipe.load import load_codec_config
from vidiff.recipe.slots import build_text
from vidiff.store.error import DataError
from vidiff.store.place import Place
from vidiff.store.tree import Folder

UCF_LABELS = 101
ACTIONS = 4  # numbers by which a network is told an action, where no data is there to tell
TEXT_DIM, TOKENS, VOCABULARY = 768, 64, 1000  # of a text encoder and captions that are not looked at


# what builds the objective of a kind of training
BUILDERS: dict[str, Callable[[Any], nn.Module]] = {
    "vae": build_vae_objective,
    "diffusion": build_objective,
    "classifier": build_classifier,
    "student": build_student,
}


@dataclass(frozen=True)
class Sketch:
    """What is known of a training.

    Attributes:
        config: with what follows from codec and data filled in, as far as that is known.
        batch: number of samples -> a batch, of any content.
        codec: parameters of the codec, which lie beside the model.
        unknown: what was assumed, a sentence each.
        gpu: whether it is for a GPU, which has kernels of its own; else for a CPU.
    """

    config: RunConfig
    batch: Callable[[int], dict[str, Tensor]]
    codec: int
    unknown: list[str]
    gpu: bool = False

    def build(self) -> nn.Module:
        """The objective, untrained."""
        return BUILDERS[self.config.kind](self.config)


def sketch(config: RunConfig, folder: Path, look: bool = True, gpu: bool = False) -> Sketch:
    """Sketches the training of `config`.

    Args:
        folder: where the config file stands.
        look: list the data for labels and captions, where it is there, and ask a text encoder for its width; else both
            are assumed, which changes next to nothing in memory and time.
        gpu: count as a GPU does it, with fused attention; else as a CPU.

    Raises:
        ValueError: as `vidiff.recipe.load.load_codec_config`.
    """
    config, unknown = copy.deepcopy(config), list[str]()
    if isinstance(config, VAERun):
        clip = largest(config.data, 1)
        _spare_losses(config.loss, unknown)
        return Sketch(config, lambda count: {"video": torch.zeros(count, 3, *clip)}, 0, unknown, gpu)
    assert isinstance(config, LatentRun)
    channels, factor, temporal, codec = _look_at_codec(config, folder, look, unknown)
    clip = largest(config.data, temporal)
    slot = config.text if isinstance(config, DiffusionRun) else {}
    labels, captions = _look(config.data, bool(slot), look, unknown)
    dim, words, length = _look_at_text(slot, captions, look, unknown) if slot else (0, 0, 0)
    actions = _look_at_actions(config.data, look, unknown) if config.data.actions else 0
    slots = config.slots(temporal) if isinstance(config, DiffusionRun) else 1
    config.forget()  # what was assumed may differ from what a run has learned of its data
    config.resolve(channels, labels, (dim, words), slots * actions)
    if isinstance(config.network, UNetConfig):
        _choose_attention(config.network, gpu)
    names = ("mean", "std", *(config.network.videos if isinstance(config.network, UNetConfig) else ()))
    height, width = (config.crop,) * 2 if config.crop else clip.size
    shape = (channels, 1 + (clip.frames - 1) // temporal, height // factor, width // factor)

    def batch(count: int) -> dict[str, Tensor]:
        whole = torch.ones(count, dtype=torch.long)
        given = {name: torch.zeros(count, *shape) for name in names} | {"label": whole, "stride": whole.clone()}
        if actions:
            given["action"] = torch.zeros(count, shape[1], slots, actions)
        if length:
            given["text"] = torch.zeros(count, length, dtype=torch.long) if words else torch.zeros(count, length, dim)
            given["text_mask"] = torch.ones(count, length, dtype=torch.bool)
        return given

    return Sketch(config, batch, codec, unknown, gpu)


def largest(data: DataConfig, temporal: int) -> Bucket:
    """The shape of the clips of which a model sees most, with a codec that makes a latent of `temporal` frames."""
    return max(data.plan(), key=lambda bucket: (1 + (bucket.frames - 1) // temporal) * bucket.height * bucket.width)


def _spare_losses(loss: VAELoss, unknown: list[str]) -> None:
    """Leaves out the network of two pictures; a discriminator that there is to be is there from the first step on."""
    loss.adversarial_start = 0
    if loss.perceptual:
        unknown.append("the perceptual network, which is not trained, is left out")
        loss.perceptual, loss.l1 = 0.0, loss.l1 or 1.0  # something that the discriminator is weighed against


def _look_at_codec(config: LatentRun, folder: Path, look: bool, unknown: list[str]) -> tuple[int, int, int, int]:
    """Channels of the codec's latents, its factors in space and time, and how many parameters it has."""
    if config.codec.name == "vae":
        made = load_codec_config(config, folder)
        shape = made.shape
        with torch.device("meta"):
            network = build_vae(made)
        return shape.channels, shape.factor, shape.temporal, sum(p.numel() for p in network.parameters())
    if config.codec.name == "diffusers" and not look:
        unknown.append(f"{config.codec.path} was not read: an autoencoder as Stable Diffusion has it is assumed")
        return 4, 8, 1, 83_653_863
    codec = build_codec(config)
    return codec.channels, codec.factor, codec.temporal, sum(p.numel() for p in codec.parameters())


def _look(data: DataConfig, captioned: bool, look: bool, unknown: list[str]) -> tuple[int, list[str]]:
    """The number of labels, and the training captions where they are wanted."""
    if data.layout == "shapes" and not captioned:
        return len(LABELS), []
    if look:
        try:
            root = _root_here(Path(data.root))
            stock = take_stock(root, data.layout, data.fold, {data.split, data.test_split}, camera=data.camera)
            captions = read_captions(root, stock.of(data.split), data.captions) if captioned else []
            return len(stock.labels), captions
        except DataError:
            unknown.append(f"{data.root} is not there, so its labels or captions are assumed")
    return (UCF_LABELS if data.layout == "ucf101" else len(LABELS) if data.layout == "shapes" else 0), []


def _look_at_actions(data: DataConfig, look: bool, unknown: list[str]) -> int:
    """Numbers by which a network is told an action."""
    if data.fps:
        unknown.append(f"how many actions lie between frames at data.fps={data.fps:g} is not looked up: one is assumed")
    if look:
        try:
            root = _root_here(Path(data.root))
            stock = take_stock(root, data.layout, data.fold, {data.split}, camera=data.camera)
            return space_of(root, stock.of(data.split)).width
        except DataError:
            unknown.append(f"{data.root} is not there, or has no actions, so {ACTIONS} of them are assumed")
    return ACTIONS


def _root_here(root: Path) -> Root:
    """The data as far as they are on this machine. A store is asked nothing, whatever a list names."""
    if root.suffix.lower() in LIST_SUFFIXES and root.is_file():
        return Root(Folder(root.parent), root.name, read_rows(Place(str(root), root)))
    return root_of(root, copies_of(Path("runs")))


def _look_at_text(slot: dict[str, Any], captions: list[str], look: bool, unknown: list[str]) -> tuple[int, int, int]:
    """Width of a token, size of the vocabulary where the network embeds words itself, and tokens of a caption."""
    encoder = build_text(slot)
    length = getattr(encoder, "length", 0) or TOKENS
    if slot.get("name") != "words":
        return (encoder.dim if look else TEXT_DIM), 0, length
    if not captions:
        unknown.append(f"captions were not read: {VOCABULARY} words are assumed")
        return encoder.dim, encoder.words or VOCABULARY, length
    encoder.learn(captions)
    return encoder.dim, encoder.words, encoder.length  # type: ignore[attr-defined]


def _choose_attention(unet: UNetConfig, gpu: bool) -> None:
    """Fused attention for a GPU, whichever kernel that then is. On a CPU the choice is made here, with real tensors."""
    if unet.attention_backend == "xformers" or (gpu and unet.attention_backend == "auto"):
        unet.attention_backend = "sdpa"
    if unet.attention_backend == "auto":
        for multiplier in unet.multipliers:
            for dtype in (torch.float32, torch.bfloat16):
                choose_backend(torch.device("cpu"), dtype, fit_heads(unet.width * multiplier, unet.head_dim))
