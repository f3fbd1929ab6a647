"""Texts that would run code, fill the memory or take for ever: refused within a second, in words."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import indexes
import pytest

from vidiff.codec.files import load_codec
from vidiff.data.lists import read_rows
from vidiff.pipeline.run import latest_run, read_config
from vidiff.recipe.load import load
from vidiff.recipe.slots import ConfigError, read_slot
from vidiff.report.run import write_report
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.train import main

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
LEVELS = "abcdefghijklmnopqrstuvwxyz"


def laughs(form: str) -> str:
    """Each level repeats the one before it nine times: 9 ** 25 in all."""
    lines = ["a: &a [x, x]"]
    for before, level in pairwise(LEVELS):
        lines.append(form.format(level=level, nine=", ".join([f"*{before}"] * 9)))
    return "\n".join(lines)


BOMBS = {
    "runs code": "name: !!python/object/apply:os.mkdir [{boom}]\n",
    "names code": "name: !!python/name:os.mkdir\n",
    "an unknown tag": "name: !boom x\n",
    "aliases": laughs("{level}: &{level} [{nine}]"),
    "merged keys": "a: &a {x: 1}\n" + "".join(
        f"{level}: &{level} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
        for before, level in pairwise(LEVELS)
    ),
    "an alias of itself": "a: &a [*a]\n",
    "interpolations": "name: ${a}\n" + "".join(
        f"{level}: '${{{after}}}${{{after}}}'\n" for level, after in pairwise(LEVELS)
    ),
    "deep lists": "name: " + "[" * 3000 + "]" * 3000,
    "deep lists without an end": "name: " + "[" * 3000,
    "deep mappings": "name: " + "{a: " * 3000 + "1" + "}" * 3000,
    "deep blocks": "- " * 3000,
    "ten megabytes": "name: x\n" + "# a comment\n" * 900_000,
    "a value of ten megabytes": "name: " + "x" * 10_000_000,
    "many values": "name: [" + "1, " * 80_000 + "1]",
    "bytes": "name: \x00\x01",
}  # fmt: skip


def refused(call: Callable[[], object], kind: type[Exception], match: str | None = None) -> None:
    began = time.thread_time()
    with pytest.raises(kind, match=match) as caught:
        call()
    assert time.thread_time() - began < 1
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", BOMBS)
def test_as_a_config(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Given to a command, as another's base, and as the resolved config of a run."""
    text = BOMBS[name].replace("{boom}", str(tmp_path / "boom"))
    for file in ("bomb.yaml", "resolved.yaml"):
        (tmp_path / file).write_text(text)
    (tmp_path / "child.yaml").write_text("base: bomb.yaml\nname: child\n")
    for file in ("bomb.yaml", "child.yaml"):
        refused(lambda file=file: load(tmp_path / file), ConfigError, "bomb.yaml")
    refused(lambda: read_config(tmp_path), ConfigError, "resolved.yaml")
    assert main([str(tmp_path / "bomb.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'bomb.yaml'}")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["runs code", "aliases", "deep lists"])
def test_on_the_command_line_and_in_a_slot(tmp_path: Path, name: str) -> None:
    text = BOMBS[name].replace("{boom}", str(tmp_path / "boom"))
    slot = "{" + text.replace("\n", ", ") + "}"
    refused(lambda: read_slot("sampling.strategy", slot), ConfigError)
    given = text.partition(": ")[2].splitlines()[0] if name != "aliases" else "&a [*a, *a]"
    refused(lambda: load(ROOT / "configs/shapes.yaml", [f"data.shapes={given}"]), ConfigError)
    refused(lambda: load(ROOT / "configs/shapes.yaml", [f"text={given}"]), ConfigError)
    assert load(ROOT / "configs/shapes.yaml", [f"name={given}"]).name == given  # which is text, and no YAML
    assert not (tmp_path / "boom").exists()


def test_anchors_and_interpolations_that_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"base: {ROOT}/configs/shapes.yaml\nname: plain\nruns: 'r/${{name}}'\ndata: {{stride: &s [1, 2]}}\n"
    )
    config = load(tmp_path / "c.yaml")
    assert (config.runs, list(config.data.stride)) == ("r/plain", [1, 2])


DEEP = "[" * 100_000


def test_json(tmp_path: Path) -> None:
    """Nested without an end, in each file that others may have written."""
    for name in ("codec.json", "codec.safetensors", "data.json", "resolved.yaml", "scores.json", "environment.json"):
        (tmp_path / name).write_text(DEEP)
    refused(lambda: load_codec(tmp_path), ValueError, "codec.json")
    (tmp_path / "codec.json").write_text(json.dumps({"width": 1, "no": 2}))
    refused(lambda: load_codec(tmp_path), ValueError, "codec.json does not tell of an autoencoder's shape")
    (tmp_path / "runs/one/checkpoints").mkdir(parents=True)
    for name in ("checkpoints/latest", "data.json", "resolved.yaml"):
        (tmp_path / "runs/one" / name).write_text(DEEP)
    refused(lambda: latest_run(tmp_path / "runs"), ValueError, "data.json")
    assert "nested too deeply" in write_report(tmp_path).read_text()
    for name in ("list.jsonl", "captions.jsonl"):
        (tmp_path / name).write_text('{"path": ' + DEEP)
    refused(lambda: read_rows(place_of(tmp_path / "list.jsonl")), DataError, "list.jsonl cannot be read")
    refused(
        lambda: indexes.read_captions(tmp_path, ["a.mp4"]), DataError, "captions.jsonl: line 1, .* is nested too deeply"
    )
