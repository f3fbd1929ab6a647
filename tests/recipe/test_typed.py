"""What is typed is taken as text where text is meant, on a command line and in a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.videos import write_numbered
from vidiff.recipe.kinds import KINDS, DiffusionRun, VAERun
from vidiff.recipe.load import changed, dump, load, load_codec_config
from vidiff.recipe.slots import ConfigError
from vidiff.recipe.typed import types_at
from vidiff.train import main

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = CONFIGS / "shapes.yaml"
NUMBERS = ["0515", "2024_01", "1e3", "12:30:45", "1.10", "0x1F", "1_000", "007", ".5", "2024-01-01"]
WORDS = ["on", "off", "yes", "no", "true", "null", "Null", "y", "nan", ".inf"]
MARKS = [
    "it's",
    'a "b" c',
    "caf\u00e9",
    " x ",
    "a\\b",
    "\u2028",
    "data #2",
    "a: b",
    "[a]",
    "{a: b}",
    "x=y",
    "- x",
    "&x",
    "*x",
    "!x",
    "%x",
    "@x",
    "a b",
]


def text_fields(kind: Any, path: tuple[str, ...] = ()) -> list[str]:
    """Keys of all fields of text of a config, as on a command line."""
    keys = []
    for option in dataclasses.fields(kind):
        here = (*path, option.name)
        types = types_at(here)
        inner = next((type_ for type_ in types if dataclasses.is_dataclass(type_)), None)
        assert inner or str not in types or types == {str}, f"{here} has types that differ: {types}"
        keys += text_fields(inner, here) if inner else [".".join(here)] if str in types else []
    return keys


def value_of(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.mark.parametrize("typed", NUMBERS + WORDS + MARKS)
def test_text_on_a_command_line_is_what_was_typed(typed: str, tmp_path: Path) -> None:
    keys = ["name", "runs", "data.root", "data.split", "start", "codec.config", "codec.override.name", "text.model"]
    config = load(SHAPES, [f"{key}={typed}" for key in keys] + ["text.name=huggingface"])
    assert [value_of(config, key) for key in keys] == [typed] * len(keys)
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(tmp_path / "again.yaml") == config
    assert value_of(changed(config, [f"name={typed}"]), "name") == typed


@pytest.mark.parametrize("typed", NUMBERS + WORDS)
def test_text_in_a_file_is_what_is_written_there(typed: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"base: {SHAPES}\nname: {typed}\nruns: {typed}\ndata: {{root: {typed}}}\ntext: {{name: words}}\n"
        f"codec:\n  override:\n    name: {typed}\n    data: {{split: {typed}}}\n"
    )
    config = load(tmp_path / "a.yaml")
    keys = ["name", "runs", "data.root", "codec.override.name", "codec.override.data.split"]
    assert [value_of(config, key) for key in keys] == [typed] * len(keys)
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load(tmp_path / "again.yaml") == config


def test_every_field_of_text_is_known() -> None:
    kinds = {name: text_fields(kind) for name, kind in KINDS.items()}
    assert {"name", "runs", "device", "data.root", "data.layout", "train.precision", "train.optim.name"} <= {
        *kinds["vae"]
    }
    assert {"prediction", "start", "codec.path", "sampling.convention", "unet.modulation"} <= {*kinds["diffusion"]}
    slots = ["text.name", "text.model", "schedule.name", "sampling.sampler.name", "sampling.strategy.name"]
    assert all(str in types_at(tuple(key.split("."))) for key in slots)
    assert str in types_at(("train", "log", 0)) and str not in types_at(("text", "dim"))


def test_quotes_comments_and_merged_keys_are_yaml_s_own(tmp_path: Path) -> None:
    assert load(SHAPES, ["name='0515'", 'data.root="data #2"']).name == "0515"
    assert load(SHAPES, ["name=~"]).name == "~"
    (tmp_path / "a.yaml").write_text(
        f"base: {SHAPES}\nname: 010  # the tenth\ndata:\n  <<: {{split: 011, test_split: 012}}\n  split: '013'\n"
    )
    config = load(tmp_path / "a.yaml")
    assert (config.name, config.data.split, config.data.test_split) == ("010", "013", "012")


def test_numbers_are_to_base_ten() -> None:
    assert load(SHAPES, ["batch=016", "data.fps=08"]).batch == 16
    assert load(SHAPES, ["data.stride=[01, 010]"]).data.stride == [1, 10]
    with pytest.raises(ConfigError, match="batch is '1:20'; expected a whole number"):
        load(SHAPES, ["batch=1:20"])


@pytest.mark.parametrize("change", ["name", "=3", "data.root"])
def test_a_change_without_a_value_is_refused(change: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        load(SHAPES, [change])


def test_an_autoencoder_s_name_is_text_as_well() -> None:
    config = load(SHAPES, ["codec.override.name=0515", "data.root=1e3"])
    assert isinstance(config, DiffusionRun)
    codec = load_codec_config(config, CONFIGS)
    assert (codec.name, codec.data.root) == ("0515", "1e3")


VAE = """\
kind: vae
name: 0515
device: cpu
batch: 2
data: {root: elsewhere, size: 16, frames: 2, workers: 0}
vae: {channels: 2, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 1, precision: fp32, log_every: 1, validate_every: 1, sample_every: 1}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vae.yaml").write_text(VAE)
    for number in range(2):
        write_numbered(tmp_path / "data #2" / f"{number}.mp4", 4, 16, 16)
    return tmp_path


def test_a_run_has_the_folder_that_was_typed_and_the_clips_of_the_folder_that_was(place: Path) -> None:
    assert main(["vae.yaml", "data.root=data #2"]) == 0
    assert sorted(path.name for path in (place / "runs").iterdir()) == ["0515", "index"]
    config = load(place / "runs" / "0515" / "resolved.yaml")
    assert isinstance(config, VAERun) and (config.name, config.data.root) == ("0515", "data #2")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../../etc", "leads out of the folder of runs"),
        ("a/../../b", "leads out of the folder of runs"),
        ("/tmp/x", "leads out of the folder of runs"),
        ("", "names no folder"),
        (" ", "names no folder"),
        (".", "names no folder"),
        ("a//b", "names no folder"),
        ("a/", "names no folder"),
        ("a\0b", "characters that cannot be seen"),
        ("a\nb", "characters that cannot be seen"),
        ("a\udcff", "characters that cannot be seen"),
        ("x" * 201, "has more than 200 bytes"),
        ("\u00e9" * 101, "has more than 200 bytes"),
        ("latents", "latents is where runs keep what they share"),
        ("cats/checkpoints", "leads into what another run keeps"),
        ("index/x", "index is where runs keep what they share"),
    ],
)
def test_a_name_that_is_no_folder_of_runs_is_refused(
    name: str, reason: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--dry-run"]):
        assert main(["vae.yaml", "data.root=data #2", f"name={name}", *more]) == 2
        said = capsys.readouterr().err.strip()
        assert reason in said and "give one such as name=cats" in said and said.count("\n") == 0
    assert sorted(path.name for path in place.iterdir()) == ["data #2", "vae.yaml"]
