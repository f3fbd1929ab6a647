"""Trainings of tiny.py as processes of their own, for tests that kill, stop and compare them."""

from __future__ import annotations

import importlib
import multiprocessing
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from vidiff.engine import checkpoint, moments
from vidiff.report.log import read_metrics

sys.path.insert(0, str(Path(__file__).parent))  # so that other processes find tiny.py too
tiny = importlib.import_module("tiny")


class Runs:
    """Trainings of tiny.py as processes of their own, and what they leave.

    They are forked from a server that has imported torch once, so that each takes a fraction of a second.
    """

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch._dynamo", "torch.distributed.checkpoint", "tiny"])
        self.started: list[BaseProcess] = []
        self.ports: list[socket.socket] = []

    def port(self) -> str:
        """A port that nobody else is given: it stays bound, which the first of the processes may do as well."""
        self.ports.append(socket.socket())
        self.ports[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.ports[-1].bind(("127.0.0.1", 0))
        return str(self.ports[-1].getsockname()[1])

    def start(self, run: Path, **arguments: Any) -> BaseProcess:
        process = self.context.Process(target=tiny.main, args=({"run": str(run), **arguments},))
        process.start()
        self.started.append(process)
        return process

    def start_ranks(
        self, run: Path, world: int, own: dict[int, dict[str, Any]] | None = None, **arguments: Any
    ) -> list[BaseProcess]:
        """So many processes of one training, without a launcher; `own` arguments, by rank, come before the others."""
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port(), "WORLD_SIZE": str(world)}
        given = [arguments | (own or {}).get(rank, {}) for rank in range(world)]
        ranks = ({**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world))
        return [self.start(run, environment=rank, **one) for rank, one in zip(ranks, given, strict=True)]

    def finish_ranks(self, run: Path, world: int, **arguments: Any) -> None:
        for process in self.start_ranks(run, world, **arguments):
            assert self.end(process) == 0, self.said(run)

    def end(self, process: BaseProcess, seconds: float = 100) -> int:
        """Waits for a process; its exit code, negative for a signal."""
        process.join(seconds)
        assert process.exitcode is not None, f"still running after {seconds} s"
        return process.exitcode

    def close(self) -> None:
        for process in self.started:
            if process.is_alive():
                process.kill()
        for port in self.ports:
            port.close()

    def finish(self, run: Path, **arguments: Any) -> int:
        return self.end(self.start(run, **arguments))

    def wait(self, condition: Callable[[], object], seconds: float = 100) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.005)

    def wait_for_more(self, run: Path) -> None:
        """Until the run prints something."""
        before = len(self.said(run))
        self.wait(lambda: len(self.said(run)) > before)

    def said(self, run: Path) -> str:
        """What the processes of a run printed."""
        file = Path(f"{run}.out")
        return file.read_text() if file.exists() else ""

    def step(self, run: Path) -> int:
        """The last step that was logged."""
        return max((line["step"] for line in read_metrics(run / "metrics.jsonl")), default=0)

    def saved(self, run: Path) -> int:
        """The step of the checkpoint that a run would go on from, 0 for none."""
        path = checkpoint.newest(run / "checkpoints")
        return int(path.name.removeprefix("step-")) if path else 0

    def assert_same(self, run: Path, other: Path, metrics: bool = True) -> None:
        """Weights, average, optimizer, counters, and every logged loss unless not `metrics`: bit for bit."""
        found = []
        for folder in (run, other):
            path = checkpoint.newest(folder / "checkpoints")
            assert path is not None
            state = checkpoint.load(path).state | {"moments": moments_of(path)}
            for name in ("seconds", "validated", "sampled"):  # the clock's, and what was only looked at
                state["counters"].pop(name)
            files = [(path / name).read_bytes() for name in ("model.safetensors", "ema.safetensors")]
            lines = read_metrics(folder / "metrics.jsonl")
            logged = [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]
            found.append((path.name, files, state, logged))
        assert found[0][0] == found[1][0]
        assert found[0][1] == found[1][1]
        assert _same(found[0][2], found[1][2])
        assert found[0][3] == found[1][3] or not metrics


def moments_of(path: Path) -> dict[str, torch.Tensor]:
    """What the optimizer remembered in a checkpoint, whole."""
    metadata = moments.metadata(path).state_dict_metadata
    tensors = {name: torch.empty(of.size, dtype=of.properties.dtype) for name, of in metadata.items()}
    moments.read(path, tensors)
    return tensors


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
