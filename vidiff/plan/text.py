"""Recipes as text: each key with its value and, where there is something to tell, why it was chosen."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote

from vidiff.plan.estimate import GB
from vidiff.plan.footage import FEW, Footage
from vidiff.plan.plan import Deployment
from vidiff.plan.shape import Machine, Shape
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.report.log import duration

WORLD = "{generate: 0.05, first: 0.35, random: 0.45, clocks: 0.15, noise: 0.06, forget: 0}"  # as configs/breakout.yaml
LONG = 20_000  # steps from which on a training is gentle


@dataclass(frozen=True)
class Key:
    """A line of a recipe; without a value it is left out."""

    name: str
    value: object = None
    why: str = ""

    def line(self, before: str = "") -> str:
        return f"{before}{self.name}: {written(self.value)}{f'  # {self.why}' * bool(self.why)}"


class Raw(str):
    """A value that is YAML already."""


def section(name: str, keys: Sequence[Key]) -> list[str]:
    """Keys below one of their own, and an empty line before it."""
    return ["", f"{name}:", *(key.line("  ") for key in keys if key.value is not None)]


def written(value: object) -> str:
    """A value as YAML. Text is as it is where nothing reads it as something else, else in quotes."""
    match value:
        case Raw():
            return value
        case bool():
            return str(value).lower()
        case float():
            return f"{value:.1e}".replace("e-0", "e-") if 0 < value < 0.01 else f"{value:g}"
        case str():
            plain = re.fullmatch(r"[A-Za-z./][\w./-]*", value)
            return value if plain and value.lower() not in RESERVED else json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


RESERVED = frozenset(["true", "false", "null", "yes", "no", "on", "off", "y", "n", ".", "..", ".inf", ".nan"])


def model_text(
    name: str, footage: Footage, machine: Machine, shape: Shape, plans: Sequence[Deployment], width: int = 0
) -> str:
    """The model's recipe; while it is still being chosen, of a `width` and without plans."""
    config, steps, batch, accumulate, recomputed = None, 1000, start_batch(machine, shape), 1, list[int]()
    if plans:
        config, steps = plans[0].config, plans[0].steps
        assert isinstance(config, DiffusionRun)
        width, batch, accumulate = config.unet.width, config.batch, config.train.accumulate
        recomputed = [*config.unet.checkpoint]
    labelled, codec, world = tells_labels(footage), shape.codec, footage.actions is not None
    buckets = Raw("[" + ", ".join(f"{{size: [{h}, {w}]}}" for h, w in shape.shapes) + "]") if shape.shapes else None
    fits = "so that a step fits into memory"
    best = "vidiff generate --weights best has the weights of before the clips were known by heart"
    words = "learns the words of the captions; docs/data.md has encoders that know more"
    lines = [
        *header(name, footage, machine, shape, plans),
        "kind: diffusion",
        Key("name", name).line(),
        Key("batch", batch, "clips a step").line(),
        *section(
            "data",
            [
                *data_keys(footage, shape),
                Key("actions", True if world else None, "what is done between frames, from the files beside the clips"),
                Key("buckets", buckets, "wide clips and tall ones, as they are"),
                flip_key(footage),
                Key("workers", 2 if machine.gpu else 0, "latents come from a cache, and need no decoding"),
            ],
        ),
        "",
        f"# {codec.why}",
        *(f"#   {line}" for line in codec.tried),
        "codec: {name: identity}"
        if codec.factor == 1
        else f"codec: {{name: vae, config: {written(f'{name}_vae.yaml')}}}",
        "",
        Key("conditional", labelled, label_reason(footage, labelled)).line(),
        *([Key("text", Raw("{name: words}"), words).line()] if footage.captions else []),
        *section(
            "unet",
            [
                *network_keys(machine, shape, width, footage.few),
                Key(
                    "causal",
                    True if world else None,
                    "looks back alone, so that in play each frame costs one",
                ),
                Key("checkpoint", recomputed or None, f"levels that are recomputed, {fits}"),
            ],
        ),
        "",
        f"schedule: {{name: cosine, shift: {2 if shape.size > 64 else 4}}}  # towards noise, where motion is decided",
        "prediction: v",
        *section(
            "loss",
            [
                Key(
                    "tasks",
                    Raw(WORLD if world else "{generate: 0.3, first: 0.55, random: 0.15}"),
                    "first: to go on with a clip, which is the harder part",
                )
            ],
        ),
        *section(
            "sampling",
            [
                Key("guidance", 1.0 if world else 2.0 if labelled or footage.captions else 1.5),
                Key("strategy", Raw("{name: stream}") if world else None, "frame by frame"),
                Key("steps", 8 if world else None, "evaluations a frame; fewer are faster"),
                Key("context", max(1, shape.frames // 2), "frames that an extension looks back on"),
            ],
        ),
        *section(
            "train",
            [
                Key("steps", steps, f"{steps * batch / shape.windows:,.0f} times over the {shape.windows:,} windows"),
                Key("accumulate", accumulate if accumulate > 1 else None, f"parts of a batch, {fits}"),
                Key(
                    "precision",
                    "auto",
                    "bf16 where the GPU has it, else fp16"
                    if machine.gpu
                    else "fp32, or bf16 where a trial shows that it is faster here",
                ),
                *train_keys(steps, 3.0e-3),
                Key("keep_best", "val/loss" if footage.few and not footage.shared else None, best),
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def codec_text(name: str, footage: Footage, machine: Machine, shape: Shape, plan: Deployment | None) -> str:
    """The autoencoder's recipe; before it is planned, without steps of its own."""
    steps, batch, accumulate = 1000, 16 if machine.gpu else 8 if shape.windows >= 64 else 4, 1
    if plan:
        assert isinstance(plan.config, VAERun)
        steps, batch, accumulate = plan.steps, plan.config.batch, plan.config.train.accumulate
    codec, frames = shape.codec, min(4, shape.frames)
    side, furthest = shape.size // codec.factor, max(1, (shape.frames - 1) // max(1, frames - 1))
    lines = [
        f"# The autoencoder of {name}.yaml: {shape.size} px to {side}x{side} latents of {codec.channels} channels.",
        *([f"# To expect: {takes(f'{name}_vae.yaml', machine, plan)}."] if plan else []),
        f"# What it keeps of held-out clips: vidiff codec {quote(f'runs/{name}_vae')} --data {quote(footage.root)}",
        "kind: vae",
        Key("name", f"{name}_vae").line(),
        Key("batch", batch, "clips a step").line(),
        *section(
            "data",
            [
                *data_keys(footage, replace(shape, frames=frames)),
                Key("stride", [1, furthest], "frames further apart are less alike"),
                flip_key(footage),
                Key("workers", 2, "processes that read clips"),
            ],
        ),
        *section(
            "vae",
            [
                Key("channels", codec.channels),
                Key("width", 128 if machine.gpu and shape.size > 64 else 64),
                Key(
                    "multipliers",
                    [1, 2, 4][: int(math.log2(codec.factor))],
                    f"shrinks by {codec.factor}, with the patch",
                ),
                Key("blocks", 2 if machine.gpu else 1),
                Key("patch", 2),
            ],
        ),
        *section(
            "loss",
            [
                Key("kl", codec.kl),
                Key("moving", codec.moving or None, "so much of it is over what moves, however few pixels that is"),
            ],
        ),
        *section(
            "train",
            [
                Key("steps", steps, f"{steps * batch / shape.windows:,.0f} times over the windows"),
                Key("accumulate", accumulate if accumulate > 1 else None, "parts of a batch, so that a step fits"),
                Key("precision", "auto"),
                *train_keys(steps, 4.0e-3),
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def header(name: str, footage: Footage, machine: Machine, shape: Shape, plans: Sequence[Deployment]) -> list[str]:
    """What was found, what to expect, and what to change first."""
    lines = [
        f"{name}: for {footage.root}, on {machine}. What is left out here has its default; any key may be changed."
    ]
    lines += [f"Found: {line}." for line in footage.lines()]
    if shape.short:
        lines.append(f"{shape.short} of these clips are shorter than {shape.frames} frames, and are left out.")
    if len(footage.sizes) > 1 and not shape.shapes:
        lines.append("Their sizes differ: each is resized until it covers the frame, and the middle is taken.")
    if plans:
        lines.append(f"To expect: {takes(f'{name}.yaml', machine, plans[0])}.")
    if len(plans) > 1:
        lines.append(f"The autoencoder, before it: {takes(f'{name}_vae.yaml', machine, plans[1])}.")
    if machine.told:
        lines.append(f"{machine.told}.")
    if footage.few:
        lines.append(
            f"This is less than {FEW / 60:.0f} minutes: the model will know it by heart before it makes new things."
        )
        lines.append("More clips help more than any key.")
    if footage.shared:
        lines.append("The only clip is trained on and held out as well, so val/loss does not tell of new ones.")
    lines.append("Change first: train.steps, as long as val/loss falls; then unet.width; then data.size.")
    return [f"# {line}" for line in lines]


def takes(file: str, machine: Machine, plan: Deployment) -> str:
    """Memory and time, as `vidiff plan` says them."""
    return (
        f"{plan.estimate.total / GB:,.2f} GB of memory (vidiff plan {quote(file)} {machine.flags}), and about "
        f"{duration(plan.seconds * plan.steps)} for {plan.steps:,} steps"
    )


def data_keys(footage: Footage, shape: Shape) -> list[Key]:
    """Which clips, and what is seen of them."""
    seen = "every clip is seen at this rate, by the time stamps of its frames"
    return [
        Key("root", footage.root),
        *(Key(key, value) for key, value in footage.splits.items()),
        Key("size", shape.size, f"pixels a side; nine clips in ten have {footage.side} or more"),
        Key("frames", shape.frames, f"{shape.frames / shape.rate:.2g} seconds"),
        Key("fps", shape.fps, seen if shape.fps else f"frames as they are, {footage.rate:.4g} a second"),
    ]


def flip_key(footage: Footage) -> Key:
    """Whether clips are mirrored."""
    if footage.actions:
        return Key("flip", False, "a mirrored clip would have other actions")
    if footage.tells_sides:
        return Key("flip", False, "words tell left from right")
    return Key("flip", True, "half of the clips are mirrored; set false where left and right mean something")


def network_keys(machine: Machine, shape: Shape, width: int, few: bool) -> list[Key]:
    """The network: joint attention at its lowest levels, and of time or of space above."""
    levels = range(shape.levels)
    sides = [shape.size // shape.codec.shrinks // 2**level for level in levels]
    joint = [n for n in levels if n == levels[-1] or (machine.gpu and shape.levels > 2 and sides[n] <= 8)]
    apart = [n for n in levels if n not in joint]
    light = not machine.gpu and shape.levels > 2
    widths = [1, 2, 3, 4] if machine.gpu else [1, 2, 2, 2]
    return [
        Key("width", width, "more learns more, and is slower"),
        Key("multipliers", widths[: shape.levels], f"levels of {', '.join(f'{side}x{side}' for side in sides)}"),
        Key("blocks", [1 if light and n == 0 else 2 for n in levels]),
        Key("spatial_attention", [n for n in apart if sides[n] <= 16]),
        Key("temporal_attention", [n for n in apart if sides[n] <= 32]),
        Key("joint_attention", joint, "over space and time at once, without which motion is learned late"),
        Key("head_dim", 64 if machine.gpu else 32),
        Key("patch", shape.codec.patch if shape.codec.patch > 1 else None),
        Key("dropout", 0.1 if few else None, "there is little footage, which is soon known by heart"),
    ]


def train_keys(steps: int, rate: float) -> list[Key]:
    """AdamW for long trainings, as the recipe ucf has it; Muon at `rate` for short ones, as shapes has it."""
    kind = (
        "lr: 2.0e-4, warmup: 2000"
        if steps >= LONG
        else f"name: muon, lr: {written(rate)}, warmup: {max(10, steps // 30)}"
    )
    part = max(1, steps // 5)
    return [
        Key("optim", Raw(f"{{{kind}, decay: linear, floor: 0.02}}")),
        Key("ema", Raw(f"{min(0.9999, max(0.99, 1 - 10 / steps)):.4f}")),
        Key("log_every", min(50, part)),
        Key("validate_every", part),
        Key("sample_every", part),
        Key("checkpoint_every", min(2500, part)),
    ]


def tells_labels(footage: Footage) -> bool:
    """Whether classes are worth learning: two or more, with two clips or more each, and no captions that say more."""
    return len(footage.labels) > 1 and min(footage.clips_of_labels) > 1 and not footage.captions


def label_reason(footage: Footage, labelled: bool) -> str:
    """Why classes are learned, or not."""
    if labelled:
        return f"{len(footage.labels)} classes, of {min(footage.clips_of_labels)} clips or more: --label asks for one"
    if footage.captions:
        return "captions say more than classes"
    if len(footage.labels) > 1:
        return "a class of a single clip teaches nothing that others share"
    return "there are no classes to tell apart"


def start_batch(machine: Machine, shape: Shape) -> int:
    """Clips a step, before memory is looked at."""
    return (64 if shape.windows >= 1000 else 16) if machine.gpu else (16 if shape.windows >= 64 else 8)
