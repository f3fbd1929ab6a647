"""Runs go up to a hub and come down from it: the hub's own client, in processes of its own, against a stand-in.

Nothing here leaves this machine: HF_ENDPOINT names the stand-in.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub import Hub, Repository, hub

from vidiff.cli.use.push import main

ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "data" / "release-0.1.0.tar.xz"
NAME, EMA = "ada/shapes", "checkpoints/step-0000004/ema.safetensors"
HASH = "print(hashlib.sha256(clip.numpy().tobytes()).hexdigest())"
DRAW = f"""
import hashlib, sys, vidiff
clip = vidiff.Pipeline.from_pretrained(sys.argv[1], "cpu").generate(label=0, seed=0)
{HASH}
"""
FETCH = """
import sys
from vidiff.pipeline.hub import HubError, folder_of
try:
    print(folder_of(sys.argv[1], *sys.argv[2:]))
except HubError as error:
    sys.exit(f"refused: {error}")
"""
PUSH = """
import sys
from vidiff.share.push import push
print(push(sys.argv[1], sys.argv[2], private=len(sys.argv) > 3))
"""
SEND = """
import sys
from pathlib import Path
from vidiff.pipeline.hub import HubError, send
from vidiff.store.package import seal
seal(Path("empty"))
try:
    send(Path("empty"), sys.argv[1], private=True)
except HubError as error:
    sys.exit(f"refused: {error}")
"""


@dataclass
class Place:
    """A folder with a trained run, and a hub to which a user of this folder is logged in."""

    folder: Path
    hub: Hub

    def start(self, *words: str, code: int = 0, **environment: str) -> str:
        """What a process of Python says."""
        settings = {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "home"), "HF_TOKEN": "hf_" + "a" * 34}
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **quiet, **settings, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr if code else done.stdout

    def push(self, *words: str, code: int = 0) -> str:
        return self.start("-c", PUSH, *words, code=code)

    def fetch(self, *words: str, code: int = 0, **environment: str) -> str:
        return self.start("-c", FETCH, *words, code=code, **environment)

    def tampered(self, name: str, **files: bytes | None) -> None:
        """A model of another name, with the files of the first but for these: None for one that is gone."""
        content = {**self.hub.files(NAME), **files}
        self.hub.models[name] = Repository(commits=[{k: v for k, v in content.items() if v is not None}])

    def resealed(self, name: str, **files: bytes) -> None:
        """The same, with a manifest that says what these files are, as a forger would write it."""
        manifest = json.loads(self.hub.files(NAME)["vidiff.json"])
        for file, content in files.items():
            manifest["files"][file] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.tampered(name, **{**files, "vidiff.json": json.dumps(manifest).encode()})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """With the run pushed once."""
    folder = tmp_path_factory.mktemp("hub")
    with tarfile.open(RELEASE) as file:
        file.extractall(folder, filter="data")
    with hub() as server:
        here = Place(folder, server)
        said = here.start("-m", "vidiff", "push", "runs/tiny", NAME)  # as on a command line; else by a call
        assert said == f"{server.url}/{NAME}\n"
        yield here


def test_what_was_pushed_draws_the_same_bytes_in_another_process(place: Place) -> None:
    mine = place.start("-c", DRAW, "runs/tiny")
    page = place.hub.files(NAME)["README.md"].decode()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.S)  # as the card says it is used
    assert place.start("-c", f"import hashlib\n{block}\n{HASH}") == mine
    assert (place.folder / "made.mp4").stat().st_size > 0
    (shown,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sharing.md").read_text(), re.S)
    assert len(place.start("-c", f"import hashlib\n{shown.replace('ada/bouncing-shapes', NAME)}\n{HASH}").strip()) == 64
    before = len(place.hub.asked)
    assert place.start("-c", DRAW, NAME, HF_HUB_OFFLINE="1") == mine, "and from the copy that is kept here"
    assert len(place.hub.asked) == before


def test_only_what_runs_nothing_goes_up(place: Place) -> None:
    kinds = {Path(file).suffix for file in place.hub.files(NAME)} - {""}  # .gitattributes is the hub's own
    assert kinds == {".safetensors", ".json", ".yaml", ".mp4", ".md"}
    assert place.hub.models[NAME].private is False


def test_a_second_push_replaces_the_first_which_its_commit_still_names(place: Place) -> None:
    name, run = "ada/again", place.folder / "runs" / "again"
    place.push("runs/tiny", name, "--private")
    model = place.hub.models[name]
    assert model.private
    first = model.sha(len(model.commits) - 1)
    shutil.copytree(place.folder / "runs" / "tiny", run)
    for sample in (run / "samples").iterdir():
        sample.rename(sample.with_name(sample.name.replace("0000004", "0000005")))
    place.push("runs/again", name)
    assert not [file for file in model.commits[-1] if file.startswith("samples/step-0000004")]
    assert [file for file in model.commits[-1] if file.startswith("samples/step-0000005")]
    then, now = (Path(place.fetch(name, *revision).strip()) for revision in ([first], []))
    assert then.name == first and then != now
    assert (then / "samples" / "step-0000004.mp4").is_file()
    assert not (now / "samples" / "step-0000004.mp4").exists()


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


TAMPERED: dict[str, tuple[Callable[[Place, str], None], str]] = {
    "flipped": (
        lambda place, name: place.tampered(name, **{EMA: flip(place.hub.files(NAME)[EMA])}),
        f"{EMA} is not what vidiff.json says",
    ),
    "cut": (
        lambda place, name: place.tampered(name, **{"resolved.yaml": b"kind: diffusion\n"}),
        "resolved.yaml is of 16 bytes, and vidiff.json says",
    ),
    "gone": (lambda place, name: place.tampered(name, **{EMA: None}), f"{EMA} is missing"),
    "pickle": (
        lambda place, name: place.tampered(name, **{"pytorch_model.bin": b"\x80\x04"}),
        "pytorch_model.bin is of a kind that is not passed on",
    ),
    "named-pickle": (
        lambda place, name: place.resealed(name, **{"codec/data.pkl": b"\x80\x04"}),
        "codec/data.pkl is of a kind that is not passed on",
    ),
    "up": (lambda place, name: place.resealed(name, **{"../up.json": b"{}"}), "'../up.json' is no name of a file"),
    "root": (lambda place, name: place.resealed(name, **{"/tmp/x.json": b"{}"}), "'/tmp/x.json' is no name of a file"),
    "foreign": (lambda place, name: place.tampered(name, **{"vidiff.json": None}), "it has no vidiff.json"),
    "environment": (
        lambda place, name: place.resealed(
            name, **{"resolved.yaml": place.hub.files(NAME)["resolved.yaml"] + b"start: ${oc.env:HF_TOKEN}\n"}
        ),
        "resolved.yaml has an interpolation",
    ),
    "language-model": (
        lambda place, name: place.resealed(name, **{"data.json": b'{"text": {"model": "../secret"}}'}),
        "its text.model is '../secret'",
    ),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_tampered_with_is_refused_by_name(place: Place, case: str) -> None:
    make, reason = TAMPERED[case]
    make(place, f"mallory/{case}")
    said = place.fetch(f"mallory/{case}", code=1)
    assert said.startswith(f"refused: mallory/{case}: ") and reason in said


def test_a_kept_copy_that_became_a_link_out_is_refused_by_name(place: Place) -> None:
    place.tampered("ada/linked")
    folder = Path(place.fetch("ada/linked").strip())
    outside = place.folder / "outside.safetensors"
    shutil.copyfile(folder / EMA, outside)  # the same bytes
    (folder / EMA).unlink()
    (folder / EMA).symlink_to(outside)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert f"{EMA} is a link that leads out" in place.fetch("ada/linked", code=1, **environment)


def test_what_is_not_there_says_what_to_do(place: Place) -> None:
    assert "no model of this name on the hub that you may read" in place.fetch("ada/none", code=1)
    assert f"{NAME} has no revision 'v9'" in place.fetch(NAME, "v9", code=1)
    away = {"HF_HOME": str(place.folder / "elsewhere"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert f"{NAME} is not here, and the hub cannot be reached" in place.fetch(NAME, code=1, **away)


def test_a_push_over_something_else_or_for_all_to_read_sends_nothing(place: Place) -> None:
    place.hub.models["ada/novel"] = Repository(private=True, commits=[{"chapter-1.txt": b"It was"}])
    (place.folder / "empty").mkdir()
    before = {name: len(model.commits) for name, model in place.hub.models.items()}
    for name, reason in (("ada/novel", "it holds chapter-1.txt, and no run"), (NAME, "anybody may read it already")):
        said = place.start("-c", SEND, name, code=1)
        assert reason in said
    assert {name: len(model.commits) for name, model in place.hub.models.items()} == before


def test_what_would_be_sent_can_be_looked_at(place: Place) -> None:
    """In this process: it asks no hub."""
    run, out = str(place.folder / "runs" / "tiny"), place.folder / "shared"
    assert main([run, "ada/later", "--out", str(out)]) == 0
    there = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert there == set(place.hub.files(NAME)) - {".gitattributes"}
