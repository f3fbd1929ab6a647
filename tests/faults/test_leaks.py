"""What fifty saves leave behind in the process: nothing."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from vidiff.engine import moments
from vidiff.engine.checkpoint import Saver
from vidiff.engine.ema import EMA
from vidiff.engine.optim import Optim, build_optimizer
from vidiff.engine.parallel import Group
from vidiff.engine.publish import Keep

pytestmark = pytest.mark.faults


def measure() -> dict[str, int]:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    counts = {name: len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task")}
    return {"bytes": pages * os.sysconf("SC_PAGE_SIZE"), **counts}


def save_often(folder: str) -> None:
    torch.set_num_threads(1)
    net = nn.Sequential(*[nn.Linear(256, 256) for _ in range(16)])  # 4 MB, and as much of the average; 8 of moments
    optimizer = build_optimizer(Optim(), net)
    net(torch.randn(8, 256)).square().mean().backward()
    optimizer.step()
    ema = EMA(net)
    saver = Saver(Path(folder), Group(torch.device("cpu")), print)
    found = []
    for step in range(1, 61):
        kept = moments.of_optimizers(net, optimizer.parts)
        saver.save(step, net.state_dict(), ema.state_dict(), {"step": step}, {}, kept, keep=Keep(2))
        if step % 10 == 0:
            saver.finish()
            found.append(measure())
    Path(folder, "found").write_text(json.dumps(found))


def test_fifty_saves(tmp_path: Path) -> None:
    """After ten that fill caches and staging memory: memory grows by less than 2 %, files and threads not at all."""
    process = multiprocessing.get_context("spawn").Process(target=save_often, args=(str(tmp_path),))
    process.start()
    process.join(200)
    assert process.exitcode == 0
    found = json.loads((tmp_path / "found").read_text())
    assert found[-1]["bytes"] < 1.02 * found[0]["bytes"], found
    for name in ("fd", "task"):
        assert len({each[name] for each in found}) == 1, found
