"""A run's folder as others get it: what drawing takes, and nothing that could run or that tells of this machine.

    README.md                                    the model card, see `vidiff.share.page`
    vidiff.json                                  size and SHA-256 of each file below
    resolved.yaml  data.json  environment.json   as in any run's folder, without paths, host and commands
    codec/                                       the codec and its statistics
    checkpoints/step-0001000/ema.safetensors     one set of weights; model.safetensors beside it is empty
    samples/  scores.json  scores-.../card.json  where the run has them

It is a run's folder like any other: `Pipeline.from_pretrained` takes it. The moments of the optimizer stay behind: they
are large, and in a format that is in part a pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vidiff.codec.files import load_codec, save_codec
from vidiff.engine.checkpoint import describe_weights, load_weights, newest
from vidiff.engine.publish import begin, publish, step_of, write_tensors
from vidiff.evaluate.card import Card, read_card, write_card
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.hub import is_hub_name
from vidiff.pipeline.run import read_config
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import dump
from vidiff.report.log import read_metrics
from vidiff.share.page import Shared, card_page
from vidiff.store.files import draft_of
from vidiff.store.package import MEDIA, seal
from vidiff.store.plain import read_json

MOST_SAMPLES, LARGEST_SAMPLE = 4, 16 << 20  # files, and bytes of one
SCORES = ("scores.json", "editing.json")


def export(run: Path, folder: Path, name: str, weights: str = "ema", licence: str = "other") -> None:
    """Write a run into a new folder, as it is to be passed on.

    Args:
        folder: what is there is replaced.
        name: "owner/name", under which the card shows how the model is used.
        weights: which of the run's, as `vidiff.engine.checkpoint.load_weights` takes it.
        licence: of the weights, as the hub names it: "apache-2.0", "cc-by-4.0", ...; "other" where none was chosen.

    Raises:
        ValueError: for a run that is not trained, or damaged; one whose text is read by a language model that lies on
            this machine alone; and for a sample or a score that is a link out of the run.
    """
    config = read_config(run)
    facts = Facts.load(run, config)
    checkpoint = newest(run / "checkpoints")
    if checkpoint is None:
        raise ValueError(f"{run} has no checkpoint yet: let its training reach the first")
    if config.text.get("name") == "huggingface" and not is_hub_name(str(config.text.get("model"))):
        raise ValueError(
            f"{run} reads text by the language model in {config.text['model']}, which is on this machine alone: train "
            "with text.model=OWNER/NAME of the hub, and others can read it, too"
        )
    source = checkpoint if weights in ("ema", "model") else run
    step = describe_weights(source, weights)["checkpoint"] or step_of(checkpoint)
    tensors = load_weights(source, weights)
    tensors = {key: tensor for key, tensor in tensors.items() if key.startswith("denoiser.")}  # not what it learned by
    codec, config = load_codec(run / "codec", config.codec.tile), _portable(config)
    with draft_of(folder) as draft:
        draft.mkdir()
        (draft / "resolved.yaml").write_text(dump(config), encoding="utf-8")
        facts.save(draft)
        environment = _environment(run)
        (draft / "environment.json").write_text(json.dumps(environment, indent=1) + "\n", encoding="utf-8")
        save_codec(draft / "codec", codec)
        writing = begin(draft / "checkpoints", step)
        write_tensors(tensors, writing / "ema.safetensors")
        write_tensors({}, writing / "model.safetensors")
        publish(writing, step)
        shared = Shared(
            name=name,
            licence=licence,
            config=config,
            facts=facts,
            step=step,
            weights=weights if weights in ("ema", "model", "best") else "ema, of another width",
            parameters=sum(tensor.numel() for tensor in tensors.values()),
            seconds=max((float(line.get("seconds") or 0) for line in read_metrics(run / "metrics.jsonl")), default=0.0),
            environment=environment,
            scores=_copy_scores(run, draft),
            cards=_copy_cards(run, draft),
            samples=_copy_samples(run, draft),
        )
        (draft / "README.md").write_text(card_page(shared), encoding="utf-8")
        seal(draft)


def _portable(config: DiffusionRun) -> DiffusionRun:
    """The config with the last names of what lies on this machine, and not the ways there."""
    data = config.data
    root, images, control = (_last(place) for place in (data.root, data.images, data.control))
    data = replace(data, root=root, images=images, control=control, latents="")
    ceiling = replace(config.codec.ceiling, network=_last(config.codec.ceiling.network))
    codec = replace(
        config.codec, config=_last(config.codec.config), run=_last(config.codec.run), override={}, ceiling=ceiling
    )
    codec.path = _last(codec.path) if Path(codec.path).is_absolute() else codec.path
    return replace(config, data=data, codec=codec, start=_last(config.start), runs="runs", device="auto")


def _last(place: str) -> str:
    """The last name of a path or a URL, which has neither folders nor a server, a user or a key."""
    path = urlsplit(place).path if "://" in place else place
    return path.rstrip("/").rpartition("/")[2]


def _placeless(value: Any) -> Any:
    """What a file of scores says, with the last name of each path in it, such as that of a classifier's run."""
    if isinstance(value, dict):
        return {key: _placeless(inner) for key, inner in value.items()}
    return _last(value) if isinstance(value, str) else value


def _environment(run: Path) -> dict[str, Any]:
    """What environment.json says of hardware and libraries; who started what, where, stays behind."""
    try:
        record = read_json(run / "environment.json")
    except (OSError, ValueError):
        return {}
    kept = ("python", "versions", "device", "precision", "processes", "seed")
    return {key: record[key] for key in kept if key in record}


def _own(run: Path, file: Path) -> Path:
    """The file itself. Raises ValueError where it is a link that leads out of the run."""
    if not file.resolve().is_relative_to(run.resolve()):
        raise ValueError(
            f"{file} is a link that leads out of {run}, and is not passed on: remove it, or put a file there"
        )
    return file.resolve()


def _copy_samples(run: Path, folder: Path) -> list[str]:
    """The samples of the last step that has any, by their names in the package."""
    files = [file for file in (run / "samples").glob("step-*") if file.suffix in MEDIA]
    last = max((file.name.split("-")[1].split(".")[0] for file in files), default="")
    names: list[str] = []
    for file in sorted(file for file in files if file.name.startswith(f"step-{last}")):
        if len(names) < MOST_SAMPLES and _own(run, file).stat().st_size <= LARGEST_SAMPLE:
            (folder / "samples").mkdir(exist_ok=True)
            shutil.copyfile(_own(run, file), folder / "samples" / file.name)
            names.append(f"samples/{file.name}")
    return names


def _copy_scores(run: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the oracle's protocols found, by file, without the path of the run."""
    found = {}
    for name in SCORES:
        if (run / name).is_file():
            content = read_json(_own(run, run / name))
            if isinstance(content, dict):
                found[name] = {key: _placeless(value) for key, value in content.items() if key != "run"}
                (folder / name).write_text(json.dumps(found[name], indent=1) + "\n", encoding="utf-8")
    return found


def _copy_cards(run: Path, folder: Path) -> dict[str, Card]:
    """The cards of scores by a feature network that can be trusted, by their names in the package."""
    return dict(_cards(run, folder))


def _cards(run: Path, folder: Path) -> Iterator[tuple[str, Card]]:
    for file in sorted(run.glob("scores-*/card.json")):
        card = read_card(_own(run, file))
        if card.doubts:
            continue  # it was changed since, or is of a version that noted less
        made = {**card.made, "source": _last(str(card.made["source"])), "weights": _last(str(card.made["weights"]))}
        card = replace(card, made=made)
        name = f"{file.parent.name}/{file.name}"
        (folder / file.parent.name).mkdir()
        write_card(folder / name, card)
        yield name, card
