"""A run as it is passed on: what drawing takes, nothing that could run, and no word of the machine that it is from."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vidiff.engine import checkpoint
from vidiff.engine.publish import Keep
from vidiff.evaluate.card import MADE, MEASURED, PROTOCOL, Card, read_card, write_card
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import dump, load
from vidiff.share.export import _portable, export
from vidiff.store.package import MANIFEST, read_manifest, verify

RELEASE = Path(__file__).parents[1] / "data" / "release-0.1.0.tar.xz"
STEP = "checkpoints/step-0000004"
ALWAYS = {
    *("data.json", "environment.json", "resolved.yaml", "codec/codec.json", "codec/codec.safetensors"),
    *(f"{STEP}/{name}" for name in ("ema.safetensors", "model.safetensors", "manifest.json")),
}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    with tarfile.open(RELEASE) as file:
        file.extractall(folder, filter="data")
    return folder / "runs"


@pytest.fixture
def run(released: Path, tmp_path: Path) -> Path:
    """A copy, to be changed; it is of clips in a folder whose name nobody is to learn."""
    shutil.copytree(released / "tiny", tmp_path / "secret" / "tiny")
    path = tmp_path / "secret" / "tiny" / "resolved.yaml"
    config = yaml.safe_load(path.read_text())
    config["data"]["root"] = str(tmp_path / "secret" / "cats")
    config["codec"]["override"] = {"data": {"root": str(tmp_path / "secret" / "cats")}}
    path.write_text(yaml.safe_dump(config))
    return path.parent


def card_of(run: Path, network: str, **scores: float) -> Path:
    """A card beside a run, as tools/evaluate.py leaves it."""
    protocol, made, measured = (dict.fromkeys(names, "known") for names in (PROTOCOL, MADE, MEASURED))
    card = Card(
        {**protocol, "network": network},
        {**made, "source": str(run)},
        measured,
        scores,
        {"fvd": "no I3D"},
        ("few | clips",),
    )
    file = run / f"scores-{network}" / "card.json"
    write_card(file, card)
    return file


def test_a_package_of_the_best_weights_says_at_which_step_they_were(run: Path, tmp_path: Path) -> None:
    newest = {name: tensor + 1 for name, tensor in checkpoint.load_weights(run, "ema").items()}
    checkpoint.save(run / "checkpoints", 7, newest, newest, {}, Keep(3, best=4))
    for weights, step in {"best": 4, "ema": 7}.items():
        export(run, tmp_path / weights, "ada/cats", weights=weights)
        assert checkpoint.describe_weights(tmp_path / weights)["checkpoint"] == step
        assert f"{step} of " in (tmp_path / weights / "README.md").read_text()


def test_a_package_draws_the_same_bytes_and_holds_nothing_else(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "shared", "ada/cats")
    files = read_manifest(tmp_path / "shared" / MANIFEST)
    verify(tmp_path / "shared", files, tmp_path / "shared")
    samples = {f"samples/{path.name}" for path in (run / "samples").glob("step-0000004*.mp4")}
    assert samples and set(files) == ALWAYS | samples
    there = {p.relative_to(tmp_path / "shared").as_posix() for p in (tmp_path / "shared").rglob("*") if p.is_file()}
    assert there == {*files, MANIFEST, "README.md"}
    mine, theirs = (Pipeline.from_pretrained(path, "cpu") for path in (run, tmp_path / "shared"))
    assert torch.equal(mine.generate(label="red_disc", seed=3), theirs.generate(label="red_disc", seed=3))
    with pytest.raises(ValueError, match="shared with one set of weights alone"):
        Pipeline.from_pretrained(tmp_path / "shared", "cpu", weights="model")


def test_other_weights_are_sent_where_they_are_asked_for(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "shared", "ada/cats", weights="model")
    mine = Pipeline.from_pretrained(run, "cpu", weights="model").generate(label=0, seed=3)
    assert torch.equal(Pipeline.from_pretrained(tmp_path / "shared", "cpu").generate(label=0, seed=3), mine)
    assert not torch.equal(Pipeline.from_pretrained(run, "cpu").generate(label=0, seed=3), mine)


def test_nothing_tells_of_the_machine(run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "environment.json").read_text())
    card_of(run, "motion", frechet=3.5)
    (run / "scores.json").write_text(json.dumps({"run": str(run), "sampling": {"classifier": str(run)}}))
    export(run, tmp_path / "shared", "ada/cats")
    for path in (tmp_path / "shared").rglob("*"):
        if path.is_file():
            for word in ("secret", str(tmp_path), *(start["command"] for start in record.get("starts", []))):
                assert word.encode() not in path.read_bytes(), path
    assert read_config(tmp_path / "shared").data.root == "cats"


def test_a_card_has_front_matter_scores_and_their_protocol(run: Path, tmp_path: Path) -> None:
    card_of(run, "motion", frechet=3.5)
    forged = card_of(run, "forged", frechet=0.1)
    forged.write_text(forged.read_text().replace("0.1", "0.01"))
    scores = {"protocol": {"frames": 16}, "generation": {"right": 0.906, "each": [1] * 9}}
    (run / "scores.json").write_text(json.dumps(scores))
    export(run, tmp_path / "shared", "ada/cats", licence="cc-by-4.0")
    _, front, page = (tmp_path / "shared" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "cc-by-4.0" and yaml.safe_load(front)["library_name"] == "vidiff"
    for line in (
        "| frechet | 3.5 |",
        "| generation right | 0.906 |",
        "| protocol frames | 16 |",
        "- mind: few \\| clips",
        "- fvd left out: no I3D",
        "| source | tiny |",
        "| data set | cats |",
        "The weights are under `cc-by-4.0`.",
    ):
        assert line in page.splitlines() or line in page, line
    assert "forged" not in page and "generation each" not in page
    kept = read_card(tmp_path / "shared" / "scores-motion" / "card.json")
    assert not kept.doubts and kept.scores == {"frechet": 3.5}
    assert not (tmp_path / "shared" / "scores-forged").exists()


def test_an_unscored_run_without_a_licence_says_so(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "shared", "ada/cats")
    page = (tmp_path / "shared" / "README.md").read_text()
    assert "This run was not scored." in page and "No licence was chosen" in page and "license: other\n" in page


def test_a_name_from_the_data_cannot_write_into_the_card(run: Path, tmp_path: Path) -> None:
    facts = json.loads((run / "data.json").read_text())
    facts["labels"][0] = "<script>`|\n# x"
    (run / "data.json").write_text(json.dumps(facts))
    export(run, tmp_path / "shared", "ada/cats")
    page = (tmp_path / "shared" / "README.md").read_text()
    assert "Labels: `&lt;script&gt;'\\| # x`, " in page
    (block,) = [part.split("```")[0] for part in page.split("```python\n")[1:]]
    compile(block, "card", "exec")


@pytest.mark.parametrize("name", ["samples/step-0000009.mp4", "scores.json", "scores-x/card.json"])
def test_a_link_that_leads_out_of_the_run_is_refused_by_name(run: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "passwords").write_text("{}")
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(tmp_path / "passwords")
    with pytest.raises(ValueError, match=f"{name} is a link that leads out"):
        export(run, tmp_path / "shared", "ada/cats")
    assert not (tmp_path / "shared").exists()


def test_a_language_model_of_this_machine_alone_is_refused(run: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run / "resolved.yaml").read_text())
    config["text"] = {"name": "huggingface", "model": str(tmp_path / "t5")}
    (run / "resolved.yaml").write_text(yaml.safe_dump(config))
    facts = {**json.loads((run / "data.json").read_text()), "text": {}}
    (run / "data.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="on this machine alone"):
        export(run, tmp_path / "shared", "ada/cats")


def test_an_autoencoder_s_run_is_refused(released: Path, tmp_path: Path) -> None:
    (vae,) = (path.parent for path in released.glob("*/resolved.yaml") if "kind: vae" in path.read_text())
    with pytest.raises(ValueError, match="one of kind diffusion is needed"):
        export(vae, tmp_path / "shared", "ada/cats")


def test_no_place_in_a_config_is_told() -> None:
    """Every option that may name a file or a folder: those without a value of their own, and those with slashes."""
    config, told = load(RELEASE.parents[2] / "configs" / "shapes.yaml"), []

    def hide(of: Any, key: str = "") -> None:
        for one in fields(of):
            value, name = getattr(of, one.name), f"{key}{one.name}"
            if is_dataclass(value):
                hide(value, f"{name}.")
            elif name in ("data.camera", "train.keep_best") or not isinstance(value, str):
                continue  # the names of a view and of a score
            elif not value or "/" in value or value.endswith(".yaml"):
                setattr(of, one.name, f"/home/anna/hidden/{one.name}")
                told.append(name)

    hide(config)
    assert {"data.root", "data.images", "data.control", "codec.path", "codec.ceiling.network", "start"} <= {*told}
    assert isinstance(config, DiffusionRun) and "anna" not in dump(_portable(config))
