"""The model card of a run: what it is, data, recipe, scores with how they were taken, samples, use, licence, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath
from typing import Any

import yaml

from vidiff.evaluate.card import MADE, PROTOCOL, Card, numbers
from vidiff.pipeline.facts import Facts
from vidiff.recipe.kinds import DiffusionRun, StudentRun
from vidiff.report.log import duration

MOST_LABELS = 60  # that are listed
VIDEOS = (".mp4", ".webm")


@dataclass(frozen=True)
class Shared:
    """What a card is made from.

    Attributes:
        name: "owner/name" on the hub.
        licence: of the weights, as the hub names it.
        step: of the checkpoint.
        weights: which of its weights.
        seconds: that the training took.
        environment: of the training: hardware, precision, versions.
        scores: of the oracle's protocols, by file.
        cards: of scores in a network's features, by file.
        samples: names of media files.
    """

    name: str
    licence: str
    config: DiffusionRun
    facts: Facts
    step: int
    weights: str
    parameters: int
    seconds: float
    environment: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Any]]
    cards: Mapping[str, Card]
    samples: list[str]


def card_page(shared: Shared) -> str:
    """README.md of a repository on the hub: YAML front matter, then Markdown."""
    parts = {
        "": _what(shared),
        "Samples": _samples(shared),
        "Use": _use(shared),
        "Data": _data(shared),
        "Recipe": _recipe(shared),
        "Scores": _scores(shared),
        "Licence": _licence(shared),
        "Limits": _limits(shared),
    }
    title = shared.name.rpartition("/")[2]
    front = yaml.safe_dump(_front(shared), sort_keys=False, allow_unicode=True)
    body = "\n\n".join((f"## {heading}\n\n" if heading else "") + text for heading, text in parts.items() if text)
    return f"---\n{front}---\n\n# {title}\n\n{body}\n"


def _front(shared: Shared) -> dict[str, Any]:
    asked = ["text-to-video"] if shared.config.text else []
    return {
        "license": shared.licence,
        "library_name": "vidiff",
        **({"pipeline_tag": "text-to-video"} if asked else {}),
        "tags": ["vidiff", "video", "video-generation", "diffusion", *asked],
    }


def _what(shared: Shared) -> str:
    facts, enlarges = shared.facts, shared.facts.enlarges
    shapes = ", ".join(f"{b.frames} x {b.size[0]} x {b.size[1]}" for b in facts.buckets)
    does = (
        f"enlarges clips {enlarges} times, to {facts.size} px"
        if enlarges
        else "generates clips, and goes on with given ones"
    )
    told = [
        *([f"one of {len(facts.labels)} labels"] if facts.labels else []),
        *(["a text"] if shared.config.text else []),
    ]
    count = shared.parameters
    size = f"{count / 1e6:,.1f} million" if count >= 1e6 else f"{count:,}"
    return (
        f"A video diffusion model of {size} parameters that {does}, {_origin(shared.config)}. Clips (frames x "
        f"height x width): {shapes}, at {facts.fps:g} frames a second. What to show is told by "
        f"{' and '.join(told) or 'nothing: it chooses by itself'}."
    )


def _origin(config: DiffusionRun) -> str:
    if not isinstance(config, StudentRun):
        return "trained from scratch with vidiff"
    teacher = PurePosixPath(config.start).name
    steps = f"{config.draws} step{'s' * (config.draws > 1)}"
    return f"a student of the model {teacher}, trained with vidiff to draw in {steps} ({config.objective})"


def _samples(shared: Shared) -> str:
    base = f"https://huggingface.co/{shared.name}/resolve/main"
    return "\n\n".join(
        f'<video src="{base}/{file}" controls loop muted></video>\n\n[{PurePosixPath(file).name}]({file})'
        if PurePosixPath(file).suffix in VIDEOS
        else f"![{PurePosixPath(file).name}]({file})"
        for file in shared.samples
    )


def _use(shared: Shared) -> str:
    facts = shared.facts
    label = f"label={json.dumps(facts.labels[0], ensure_ascii=False)}, " if facts.labels else ""
    lines = ["import vidiff", "", f'pipe = vidiff.Pipeline.from_pretrained("{shared.name}")']
    if facts.enlarges:
        lines.append('clip = pipe.upscale(pipe.read_clip("clip.mp4", (pipe.facts.small, pipe.facts.small)))')
    else:
        text = 'text="...", ' if shared.config.text else ""
        lines.append(f"clip = pipe.generate({label}{text}seed=0)")
    lines.append('vidiff.write_video("made.mp4", clip, fps=pipe.fps)')
    code = "\n".join(lines)
    return (
        f"```sh\npip install 'vidiff[hub]'\n```\n\n```python\n{code}\n```\n\n"
        "Nothing in this repository is run when it is loaded: weights are safetensors, all else JSON, YAML and media, "
        "and each file is checked against the SHA-256 in `vidiff.json`. `revision=` takes a commit, which stays the "
        "same."
    )


def _data(shared: Shared) -> str:
    data, facts = shared.config.data, shared.facts
    rows = {
        "data set": data.root or "(not named)",
        "split": data.split,
        "seen at": f"{facts.rate:g} frames a second" if facts.rate else "each file's own rate",
        "source frames a clip frame": " to ".join(dict.fromkeys(map(str, facts.strides))),
        "most clips": f"{data.limit:,}" if data.limit else "all",
        "mirrored at random": "yes" if data.flip else "no",
    }
    labels = ", ".join(f"`{_plain(name)}`" for name in facts.labels[:MOST_LABELS])
    more = len(facts.labels) - MOST_LABELS
    listed = f"\n\nLabels: {labels}{f', and {more} more' if more > 0 else ''}." if labels else ""
    return _table(("", ""), rows.items()) + listed


def _recipe(shared: Shared) -> str:
    config, environment = shared.config, shared.environment
    versions = environment.get("versions")
    rows = {
        "network": f"U-Net of width {config.unet.width}, multipliers {config.unet.multipliers}",
        "codec": config.codec.name,
        "prediction, schedule": f"{config.prediction}, {_slot(config.schedule)}",
        "objective, weighting": f"{config.objective}, {config.loss.weighting}",
        "steps, batch": f"{shared.step:,} of {config.train.steps:,}, {config.batch} clips",
        "optimizer": f"{config.train.optim.name}, learning rate {config.train.optim.lr:g}",
        "weights": shared.weights,
        "training time": duration(shared.seconds) if shared.seconds else "not noted",
        "hardware": f"{environment.get('processes', '?')} x {environment.get('device', 'not noted')}",
        "precision": environment.get("precision", "not noted"),
        "drawn by": f"{_slot(config.sampling.sampler)}, {config.sampling.steps} steps, guidance "
        f"{config.sampling.guidance:g}",
        "versions": ", ".join(f"{k} {v}" for k, v in versions.items()) if isinstance(versions, dict) else "not noted",
    }
    return _table(("", ""), rows.items()) + "\n\n`resolved.yaml` has every setting."


def _scores(shared: Shared) -> str:
    parts = []
    for file, card in shared.cards.items():
        scores = [(k, ", ".join(f"{x:.6g}" for x in numbers(v))) for k, v in card.scores.items() if v is not None]
        protocol = [(k, _short(card.protocol.get(k))) for k in PROTOCOL] + [(k, _short(card.made.get(k))) for k in MADE]
        notes = [f"- mind: {_plain(caution)}" for caution in card.cautions]
        notes += [f"- {_plain(k)} left out: {_plain(reason)}" for k, reason in card.left_out.items()]
        parts += [
            f"In the features of `{_plain(card.protocol.get('network'))}`; two such scores compare only where the "
            f"protocols are the same ([{file}]({file})):",
            _table(("score", "value"), scores),
            "\n".join(notes),
            _folded("protocol", _table(("", ""), protocol)),
        ]
    for file, content in shared.scores.items():
        rows = [row for row in _flat(content) if not row[0].startswith(("protocol", "sampling"))]
        how = [row for row in _flat(content) if row[0].startswith(("protocol", "sampling"))]
        parts += [f"By the protocol below ([{file}]({file})):", _table(("score", "value"), rows)]
        parts.append(_folded("protocol", _table(("", ""), how)))
    return "\n\n".join(part for part in parts if part) or "This run was not scored."


def _licence(shared: Shared) -> str:
    if shared.licence == "other":
        return (
            "No licence was chosen for these weights: ask their owner before you use them. vidiff itself is under "
            "Apache-2.0."
        )
    return f"The weights are under `{shared.licence}`. vidiff itself is under Apache-2.0."


def _limits(shared: Shared) -> str:
    facts = shared.facts
    lines = [
        "It shows what its training clips show, with whatever they lack or lean to; of the world it knows no more.",
        f"It was trained on clips of {facts.frames} frames. Longer ones are made window by window, and may drift.",
        "What it makes can look like its training clips; who holds rights in those holds them still.",
    ]
    if facts.labels:
        lines.append("Other things than its labels cannot be asked for.")
    if not shared.scores and not shared.cards:
        lines.append("No score says how good it is: look at the samples.")
    return "\n".join(f"- {line}" for line in lines)


def _table(head: tuple[str, str], rows: Any) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {_plain(key)} | {_plain(value)} |" for key, value in rows)])


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested records as rows; lists of more than a few numbers are left to the file."""
    for key, value in content.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        elif not isinstance(value, list) or len(value) <= 4:
            yield name, f"{value:.4g}" if isinstance(value, float) else str(value)


def _slot(slot: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} {value}" for key, value in slot.items() if key != "name")
    return f"{slot.get('name')}{f' ({options})' if options else ''}"


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(value: Any) -> str:
    """As it is, in a line of a table: no tag, no column and no code of its own."""
    return escape(" ".join(str(value).split()), quote=False).replace("|", "\\|").replace("`", "'")
