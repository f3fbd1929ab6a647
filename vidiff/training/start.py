"""What a training begins with of another run: the weights that fit, and of classes and words those of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec, VAECodec
from vidiff.codec.diffusers import DiffusersCodec
from vidiff.codec.files import load_codec, same_codec
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import processes
from vidiff.nn.previous import Previous
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.run import read_config
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.training.indexes import listed, set_apart

Weights = dict[str, Tensor]
CLASSES, WORDS = "network.embed.label.weight", "network.text.embed.weight"  # a row for each, after one for none
ENTER = "network.enter.weight"  # `(outputs, inputs, 3, 3)`
LEAVE, HARDLY = "network.leave", -3.0  # a correlation of 0.07 with the frame begun from, of which 0.11 stays
TEMPORAL = ".block.time.weight"  # the end of the names of temporal convolutions, `(outputs, inputs, 3, 1)`
READERS = ("network.text.", ".read.")  # parts of the names of weights that read text


def find_start(config: DiffusionRun) -> tuple[DiffusionRun, Path] | None:
    """The config of the run `config.start`, and its checkpoint; None where there is no such start.

    Raises:
        ValueError: no such run, or none with a checkpoint; a causal one, for a model that looks ahead.
    """
    if not config.start:
        return None
    source = Path(config.start)
    before = read_config(source)
    checkpoint = newest(source / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"start={source} has no checkpoint yet: train it first")
    if before.unet.causal and not config.unet.causal:
        raise ValueError(f"start={source} looks back alone, and this model is to look ahead: set unet.causal=true")
    return before, checkpoint


def refuse_other_start(config: DiffusionRun, codec: VAERun | Codec) -> None:
    """Raises ValueError if the run `config.start` has another codec. Of one that is to be trained yet, the shape tells.

    Args:
        codec: or the config of one that may not be trained yet.
    """
    if not config.start:
        return
    source = Path(config.start)
    its = load_codec(source / "codec")
    if isinstance(codec, Codec):
        same = same_codec(its, codec)
    elif codec.others:
        same = isinstance(its, DiffusersCodec)
    else:
        same = isinstance(its, VAECodec) and its.network.config == codec.vae
    if not same:
        raise ValueError(
            f"start={source} was trained on the latents of another codec, so its weights mean other things"
        )


def start_denoiser(config: DiffusionRun, codec: VAERun | Codec, facts: Facts, denoiser: Denoiser) -> None:
    """Give a denoiser the weights of the run `config.start`, as far as it has them.

    What is known of a class or a word goes to that of the same name. A causal model may begin with one that looks
    ahead. Unless the training goes on from a checkpoint of its own, what begins anew, and what is left out, is told.

    Args:
        codec: or the config of one that may not be trained yet.
        facts: of the model that is trained.
        denoiser: of an empty one the weights stay so, and nothing is told.

    Raises:
        ValueError: as `find_start` and `refuse_other_start`; weights that do not fit.
    """
    begun = find_start(config)
    if begun is None:
        return
    (before, checkpoint), source = begun, Path(config.start)
    refuse_other_start(config, codec)
    learned = Facts.load(source, before)
    if learned.actions and facts.actions and learned.actions != facts.actions:
        raise ValueError(
            f"start={source} knows the actions {learned.actions}, not {facts.actions}: give it data of the same"
        )
    own = denoiser.state_dict()
    given = {
        key: value.to(own[key].device) if key in own else value
        for key, value in load_part(checkpoint, "denoiser").items()
    }
    notes = carry(given, own, CLASSES, learned.labels, facts.labels, "class")
    words, words_now = ((one.text or {}).get("vocabulary", ()) for one in (learned, facts))
    notes += carry(given, own, WORDS, words, words_now, "word")
    if config.unet.causal and not before.unet.causal:
        notes += [look_back(given)]
    notes += look_beside(given, own, before.unet, config.unet)
    if before.text and config.text and any(before.text.get(key) != config.text.get(key) for key in ("name", "model")):
        for key in [key for key in given if any(part in key for part in READERS)]:
            del given[key]  # what it reads of another encoder would mean other things
    try:
        differences = denoiser.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ValueError(f"start={source} has another network: {str(error).splitlines()[-1].strip()}") from None
    if differences.unexpected_keys:
        raise ValueError(f"start={source} has weights that this model lacks, such as {differences.unexpected_keys[0]}")
    parts = [key.removeprefix("network.").rpartition(".")[0] for key in differences.missing_keys]
    notes += [f"{listed([*dict.fromkeys(parts)])} of the network begin anew"] if parts else []
    empty = any(value.is_meta for value in own.values())
    with processes(config.device) as group:
        if notes and not empty and group.main and newest(config.folder / "checkpoints") is None:
            tqdm.write(f"start={source}: {'; '.join(notes)}")


def look_beside(given: Weights, own: Weights, before: UNetConfig, now: UNetConfig) -> list[str]:
    """Widen the first layer of weights that are shown less, so that at first nothing is seen of the rest; and the last,
    where frames begin from known ones now, so that at first they hardly do.

    Returns:
        phrases that tell of it.
    """
    new = [name for name in now.inputs if name not in before.inputs]
    gone, area = before.inputs.keys() - now.inputs.keys(), now.patch**2
    fits = ENTER in given and given[ENTER].shape[1] == sum(before.inputs.values()) * area
    if not new or gone or not fits or given[ENTER].shape[0] != own[ENTER].shape[0]:
        return []  # the network is another, which its other weights tell
    wider = torch.zeros_like(own[ENTER])
    parts = dict(zip(before.inputs, given[ENTER].split([n * area for n in before.inputs.values()], dim=1), strict=True))
    for name, place in zip(now.inputs, wider.split([n * area for n in now.inputs.values()], dim=1), strict=True):
        if name in parts:
            place.copy_(parts[name])
    given[ENTER] = wider
    if "previous" in new:
        for name, start in (("weight", 0.0), ("bias", HARDLY)):
            key, count = f"{LEAVE}.{name}", now.channels * area
            said = torch.full_like(own[key][: (Previous.OUTPUTS - 1) * count], start)
            given[key] = torch.cat([given[key][:count], said, given[key][count:]])
    seen = [name for name in new if name != "previous"]
    phrases = [f"of {listed(seen)} nothing is seen at first"] if seen else []
    return phrases + (["frames hardly begin from known ones at first"] if "previous" in new else [])


def look_back(given: Weights) -> str:
    """Make of weights that look ahead those of a causal network, which puts out nearly the same where little moves.

    The kernels of temporal convolutions, over the frame before, the frame and the frame after, become kernels over the
    two before and the frame: the frame stands in for the one after it. Attention is only masked.

    Returns:
        a phrase that tells of it.
    """
    for key in [key for key in given if key.endswith(TEMPORAL)]:
        before, own, after = given[key].unbind(2)  # outputs inputs 1
        given[key] = torch.stack([torch.zeros_like(before), before, own + after], dim=2)
    return "attention and temporal convolutions no longer look ahead, where a frame now stands in for the one after it"


def carry(given: Weights, own: Weights, key: str, before: Sequence[str], now: Sequence[str], what: str) -> list[str]:
    """Put a weight's rows, one for each name, in the order of the names now; a new name keeps the row that is there.

    Returns:
        phrases that tell which begin anew, and which are left out.
    """
    if key not in given:
        return []
    if key not in own:
        del given[key]
        return [f"this model knows no {what}, so what was learned of {listed(before)} is left out"]
    if given[key].shape[1:] != own[key].shape[1:]:
        return []  # the network is another, which its other weights tell
    rows, first = own[key].clone(), len(own[key]) - len(now)
    rows[:first] = given[key][:first]
    for number, name in enumerate(now):
        if name in before:
            rows[first + number] = given[key][first + before.index(name)]
    given[key] = rows
    new, gone = set_apart(now, before), set_apart(before, now)
    plural = {"class": "classes", "word": "words"}[what]
    phrases = [f"of the {plural}, {listed(new)} begin anew"] if new else []
    return phrases + ([f"what was learned of the {plural} {listed(gone)} is left out"] if gone else [])
