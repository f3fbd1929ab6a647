"""A training that takes milliseconds, for tests that kill, stop and compare real processes.

python tiny.py '{"run": "folder", "steps": 6, ...}'
"""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vidiff.data.order import Order as Shuffled
from vidiff.engine.guard import shield_worker
from vidiff.engine.loop import fit
from vidiff.engine.optim import Optim
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import processes

BATCH = 8


@dataclass
class Faults:
    """What goes wrong when a process is given certain samples, and what it notes."""

    poison: Iterable[int] = ()
    """Their gradients, and nothing else, are not finite."""
    stall: Iterable[int] = ()
    """The process stands still."""
    die: Iterable[int] = ()
    """It is killed, the first time; `mark` is a file that tells that it was."""
    hold: Iterable[int] = ()
    """It touches `mark`, and waits until there is a file `mark`.go."""
    stop: Iterable[int] = ()
    """It stops itself, as Ctrl-Z does."""
    mark: str = ""
    keys: str = ""
    """A file that gets the samples of each forward pass, a line each."""

    def strike(self, keys: list[int], hidden: Tensor) -> None:
        if self.keys:
            with open(self.keys, "a") as file:
                file.write(json.dumps(keys) + "\n")
        if set(self.poison) & set(keys):
            hidden.register_hook(lambda grad: grad * float("nan"))
        if set(self.stall) & set(keys):
            time.sleep(1000)
        if set(self.hold) & set(keys):
            Path(self.mark).touch()
            while not os.path.exists(f"{self.mark}.go"):
                time.sleep(0.005)
        if set(self.stop) & set(keys):
            os.kill(os.getpid(), signal.SIGSTOP)
        if set(self.die) & set(keys) and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Tiny(nn.Module):
    """A regression with everything that a resume can lose: noise, dropout, buffers, a frozen part."""

    def __init__(self, noise: float = 0.1, pause: float = 0.0, faults: Faults | None = None) -> None:
        super().__init__()
        self.faults = faults
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.1 * (noise > 0)))
            self.head = nn.Linear(16, 4)
        if noise == 0:
            self.body[1] = nn.LayerNorm(16)  # the same in every split of a batch
        self.noise, self.pause = noise, pause

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        time.sleep(self.pause)
        x = batch["x"]
        hidden = self.body(x + self.noise * torch.randn_like(x))
        if self.faults is not None and self.training:
            self.faults.strike(batch["key"].tolist(), hidden)
        error = self.head(hidden) - self.frozen(x)
        return {"loss": error.square().mean(), "error": error.abs().mean()}


class Numbers(Dataset[dict[str, Tensor]]):
    """Sample n is a function of n; those in `bad` are not finite, those in `loud` large, and `slow` ones never come."""

    def __init__(self, bad: Iterable[int] = (), loud: Iterable[int] = (), slow: Iterable[int] = ()) -> None:
        self.bad, self.loud, self.slow = set(bad), set(loud), set(slow)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Tensor]:
        n = key[1] if isinstance(key, tuple) else key
        x = torch.randn(4, generator=torch.Generator().manual_seed(n)) * (30.0 if n in self.loud else 1.0)
        if n in self.slow:
            time.sleep(1000)
        return {"x": x * float("nan") if n in self.bad else x, "key": torch.tensor(n)}


class Order:
    """Batches without end; of each, this process's part."""

    def __init__(self, start: int, batch: int, rank: int, world: int) -> None:
        self.start, self.batch, self.rank, self.world = start, batch, rank, world

    def __iter__(self):
        first, share = self.start, self.batch // self.world
        while True:
            mine = first + self.rank * share
            yield list(range(mine, mine + share))
            first += self.batch


def train(
    run: Path | str,
    *,
    noise: float = 0.1,
    pause: float = 0.0,
    bad: Iterable[int] = (),
    loud: Iterable[int] = (),
    slow: Iterable[int] = (),
    epoch: int = 0,
    faults: dict[str, Any] | None = None,
    dump: str = "",
    workers: int = 0,
    method: str = "fork",
    batch: int = BATCH,
    callbacks: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    **options: Any,
) -> Tiny:
    """Runs `fit` in `run` with the given TrainOptions, and returns the objective.

    epoch  samples of an epoch, shuffled; else their numbers go up for ever
    keys   of `faults`, and `dump`, a file for the state in the end and one for the average, get the rank at their end
    """
    settings = TrainOptions(**{"steps": 6, "precision": "fp32", "log_every": 1, "checkpoint_every": 2} | options)
    settings.optim = Optim(**{"lr": 0.01, "warmup": 2} | (optim or {}))
    callbacks = dict(callbacks or {})
    with processes("cpu") as group:
        given = Faults(**faults) if faults else None
        if given and given.keys:
            given.keys += str(group.rank)
        objective = Tiny(noise, pause, given)

        def average(step: int) -> dict[str, float]:
            torch.save(objective.state_dict(), f"{dump}-ema{group.rank}")
            return {"val/loss": 0.0}

        if dump:
            settings.validate_every, callbacks["validate"] = settings.steps, average

        def batches(start: int) -> Iterable[dict[str, Tensor]]:
            part = batch // settings.accumulate
            order: Any = Order(start, part, group.rank, group.world)
            if epoch:
                order = Shuffled([range(epoch)], part, 0, group.rank, group.world, start)
            return DataLoader(
                Numbers(bad, loud, slow),
                batch_sampler=order,
                num_workers=workers,
                worker_init_fn=shield_worker,
                multiprocessing_context=method if workers else None,
            )

        fit(objective, batches, batch, settings, Path(run), device=group.device, title="tiny", **callbacks)
        if dump:
            torch.save(objective.state_dict(), f"{dump}{group.rank}")
    return objective


def die_at(event: int, folder: str) -> None:
    """Kills this process, as kill -9 does, when it is about to do its `event`th thing to the files of `folder`."""
    count = 0

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if name.partition(".")[0] in ("open", "os", "shutil") and folder in str(arguments[:1]):
            count += 1
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def slow_save(seconds: float) -> None:
    """Makes every save after the first take that long, with its files half written."""
    begun = 0

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal begun
        if name == "open" and "writing" in str(arguments[0]) and str(arguments[0]).endswith("manifest.json"):
            begun += 1
            if begun > 2:  # a save opens it twice, to write and to flush
                time.sleep(seconds)

    sys.addaudithook(audit)


def refuse(*events: str) -> None:
    """From now on the system refuses these, for step-... folders and what was put aside of them."""

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in events and re.search(r"/(\.old-)?step-\d+[^/]*$", str(arguments[0])):
            raise PermissionError(errno.EPERM, "refused", arguments[0])

    sys.addaudithook(audit)


def slowly(mark: str, seconds: float, result: Any = None) -> Any:
    """What takes so long, and touches `mark` as it begins."""
    Path(mark).touch()
    time.sleep(seconds)
    return result


def full_disk(full: Iterable[int], size: int) -> dict[str, Any]:
    """A `validate` in which no file can grow beyond `size` bytes from the steps `full` on, until one that is not."""

    def validate(step: int) -> dict[str, float]:
        while any(thread.name == "saving" for thread in threading.enumerate()):
            time.sleep(0.01)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if step in full else hard, hard))
        return {"val/loss": 1.0}

    return {"validate": validate}


def main(arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(arguments.pop("environment", {}))
    with open(f"{arguments['run']}.out", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    mark = f"{arguments['run']}.slow"
    if arguments.pop("own_group", False):
        os.setpgid(0, 0)
    if event := arguments.pop("die_at", 0):
        die_at(event, f"{arguments['run']}/checkpoints")
    if seconds := arguments.pop("slow_save", 0):
        slow_save(seconds)
    if seconds := arguments.pop("slow_validation", 0):
        arguments["callbacks"] = {"validate": lambda step: slowly(mark, seconds, {"val/loss": 1.0})}
    if long := arguments.pop("slow_sampling", 0):
        arguments["callbacks"] = {"sample": lambda step: slowly(mark, long)}
    if events := arguments.pop("refuse", ()):
        refuse(*events)
    if full := arguments.pop("full", ()):
        arguments["callbacks"] = full_disk(full, arguments.pop("size"))
    train(**arguments)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
