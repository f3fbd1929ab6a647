"""A folder in which the commands of the documentation run as they are shown, on tiny data and with tiny networks."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
import yaml

from vidiff.cli import main as vidiff
from vidiff.train import main as train
from vidiff.video.reader import VideoReader
from vidiff.video.writer import write_image, write_video

ROOT = Path(__file__).parents[2]
SERVER = "127.0.0.1:8765"  # of docs/data.md


@dataclass(frozen=True)
class Run:
    """How a command is run."""

    after: tuple[str, ...] = ()
    """Commands, shown too, that are run first."""
    add: str = ""
    """Arguments that make it small."""
    instead: dict[str, str] = field(default_factory=dict)
    """Parts of it and what stands in their place."""
    latest: str = ""
    """The run that is to be the latest."""
    leaves: dict[str, int] = field(default_factory=dict)
    """Files that it writes, and the frames of those that are videos, 0 for what is none."""
    slow: bool = False


@dataclass(frozen=True)
class Part:
    """A command that is too dear to run, or is not ours: why, and what is checked of it instead."""

    why: str
    check: Any
    """A function of its words."""


class Workplace:
    """Runs each command once, at most."""

    def __init__(self, folder: Path, shown: dict[str, Run | Part]) -> None:
        self.folder, self.shown, self.done = folder, shown, dict[str, str]()
        fill(folder)

    def run(self, command: str) -> None:
        """Run a command and what comes before it.

        Raises:
            AssertionError: it fails, or does not leave what it should; with what it said.
        """
        if command in self.done:
            assert not self.done[command], self.done[command]
            return
        row = self.shown[command]
        assert isinstance(row, Run)
        for before in row.after:
            self.run(before)
        self.done[command] = f"failed before: {command}"
        began = time.time()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            if row.latest:
                os.utime(Path("runs", row.latest, "checkpoints", "latest"))
            with served(self.folder) as server:
                line = f"{command} {row.add}"
                for part, other in {**row.instead, SERVER: server}.items():
                    line = line.replace(part, other)
                call(shlex.split(line))
        for name, frames in row.leaves.items():
            path = self.folder / name
            assert path.stat().st_mtime > began - 1, f"{name} is not new"
            if frames:
                with VideoReader(path) as reader:
                    assert reader.frames == frames, f"{name} has {reader.frames} frames, not {frames}"
        self.done[command] = ""


def call(words: list[str]) -> None:
    """Run a command, ours in this process. Raises AssertionError where it fails."""
    if words[:3] == ["python", "-m", "vidiff.train"]:
        assert train(words[3:]) == 0
    elif words[0] == "vidiff":
        assert vidiff(words[1:]) == 0
    elif words[0] == "python":
        assert runpy.run_path(str(ROOT / words[1]))["main"](words[2:]) == 0
    else:
        command = [sys.executable, "-m", "torch.distributed.run", *words[1:]] if words[0] == "torchrun" else words
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """An HTTP server that lists folders, as python -m http.server does: its host and port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def fill(folder: Path) -> None:
    """Everything that a reader of the documentation has: clips of their own, pictures, the configs."""
    (folder / "configs").mkdir(parents=True)
    for path in (ROOT / "configs").glob("*.yaml"):
        (folder / "configs" / path.name).write_text(small(path.read_text()))
    readme = (ROOT / "README.md").read_text()
    recipe = readme[readme.index("# configs/mine.yaml") :].partition("```")[0]
    averaged = yaml.safe_load(small(recipe))
    averaged["train"]["ema_widths"] = [0.05, 0.1]
    (folder / "configs" / "mine.yaml").write_text(yaml.safe_dump(averaged))
    for name in ("clip.mp4", "a.mp4", "b.mp4"):
        write_video(folder / name, moving(20, 64), fps=8)
    write_image(folder / "picture.png", moving(1, 64)[:, 0])
    (folder / "moves.csv").write_text("action\n" + "LEFT\nNOOP\n" * 5)
    for label in ("cat", "dog"):
        for number in range(3):
            write_video(folder / "data" / "mine" / label / f"{number}.mp4", moving(18, 128), fps=8)
    ucf = folder / "data" / "ucf101"
    write_video(folder / "one.mp4", moving(18, 64), fps=25)
    for split, group in (("train", 8), ("test", 1)):
        lines = []
        for label in ("Archery", "Biking"):
            for number in (1, 2):
                name = f"{label}/v_{label}_g{group:02d}_c{number:02d}.avi"
                (ucf / "UCF-101" / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / "one.mp4", ucf / "UCF-101" / name)
                lines.append(f"{name} {1 + (label == 'Biking')}\n")
        (ucf / "ucfTrainTestlist").mkdir(exist_ok=True)
        (ucf / "ucfTrainTestlist" / f"{split}list01.txt").write_text("".join(lines))
    (ucf / "ucfTrainTestlist" / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    (folder / "list.csv").write_text("path,label\na.mp4,cat\nb.mp4,dog\n")


def moving(frames: int, side: int) -> torch.Tensor:
    """A gradient that moves, `(3, f, h, w)`."""
    y, x, t = torch.linspace(0, 3, side)[:, None], torch.linspace(0, 4, side), torch.linspace(0, 2, frames)
    return torch.stack([0.8 * torch.sin(x + y + phase + t[:, None, None]) for phase in (0.0, 1.0, 2.0)])


def small(text: str) -> str:
    """A config with all that it says but for what costs time: two steps of narrow networks on few clips."""
    config = yaml.safe_load(text)
    own = "base" not in config
    if own:
        config["device"], config["batch"] = "cpu", 2
    often = dict.fromkeys(("steps", "log_every", "checkpoint_every", "validate_every", "sample_every"), 2)
    config["train"] = {**config.get("train", {}), **often, "log_every": 1, "precision": "fp32", "compile": False}
    config["train"]["optim"] = {**config["train"].get("optim", {}), "warmup": 1}
    data = config.get("data", {})
    if own:
        data["workers"] = 0
    if data.get("layout") == "shapes":
        given = data.get("shapes", {})  # where all directions are to come, four clips a label
        data["shapes"] = {"frames": 40, **given, "train": 4 if "straight" in given else 3, "test": 1}
    if data.get("layout") == "ucf101":
        data["size"] = 64
    if "codec" in config:
        config["codec"]["least"] = 0  # of an autoencoder of two steps
    if "vae" in config:
        config["vae"] |= {"width": 8, "blocks": 1}
    for name in ("unet", "classifier"):
        if "multipliers" in config.get(name, {}):  # else they are those of its base
            levels = len(config[name]["multipliers"])
            config[name] |= {"width": 8, "head_dim": 8, "blocks": [1] * levels}
    if own and config["kind"] == "diffusion":
        config["sampling"] |= {"steps": min(2, config["sampling"]["steps"]), "count": 2}
    elif "steps" in config.get("sampling", {}):
        config["sampling"]["steps"] = 2
    return yaml.safe_dump(config)
