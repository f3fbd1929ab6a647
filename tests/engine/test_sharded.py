from __future__ import annotations

import importlib
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
from harness import Runs, moments_of
from sharded import toy, train

from vidiff.engine import checkpoint


def test_two_processes_then_one_then_two(tmp_path: Path) -> None:
    """Each goes on from the very bits that the others left: weights, average, and the optimizer's moments."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.checkpoint", "torch.distributed.fsdp", "sharded"])
    folder = tmp_path / "checkpoints"
    results = []
    for number, world in enumerate((2, 1, 2)):
        out = str(tmp_path / f"{number}")
        given = (world, str(folder), out, 2, 2 * number)
        processes = [context.Process(target=train, args=(rank, *given)) for rank in range(world)]
        for process in processes:
            process.start()
        for rank, process in enumerate(processes):
            process.join(100)
            assert process.exitcode == 0, Path(f"{out}.{rank}.log").read_text()
        results.append(torch.load(out, weights_only=True))
        path = folder / f"step-{2 * number + 2:07d}"
        assert len(list(path.glob("training/__*.distcp"))) == world
        found = checkpoint.load(path)
        parts = {"model": found.model, "ema": found.ema, "moments": moments_of(path)}
        saved = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.items()}
        assert_equal(saved, results[-1]["after"])
        module = toy()
        module.load_state_dict(found.ema)
        torch.testing.assert_close(results[-1]["shown"], module(torch.linspace(-1, 1, 12).view(4, 3)))
    for earlier, later in itertools.pairwise(results):
        assert_equal(earlier["after"], later["before"])


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


SHORT_OF_ROOM = """
import errno, json, os, sys
from vidiff.engine import checkpoint

real = checkpoint.write_snapshot

def write_snapshot(folder, step, *rest):
    if step == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    real(folder, step, *rest)

checkpoint.write_snapshot = write_snapshot
import blocky
blocky.main(json.loads(sys.argv[1]))
"""


def test_a_snapshot_that_finds_no_room_leaves_later_checkpoints_whole(tmp_path: Path, runs: Runs) -> None:
    """All processes leave out that step's checkpoint; none waits for another, and one process goes on from a later."""
    run = tmp_path / "run"
    run.mkdir()
    options = {"ema_widths": [0.1], "ema_every": 2, "keep": 9}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": runs.port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    given = json.dumps({"run": str(run), "steps": 6, **options})
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SHORT_OF_ROOM, given],
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": path},
        )
        for rank in "01"
    ]
    try:
        assert [process.wait(100) for process in processes] == [0, 0], Path(f"{run}.out").read_text()
    finally:
        for process in processes:
            process.kill()
    assert "could not write the checkpoint of step 2 ([Errno 28] No space left" in Path(f"{run}.out").read_text()
    saved = sorted((run / "checkpoints").glob("step-*"))
    assert [path.name for path in saved] == ["step-0000004", "step-0000006"]
    for path in saved:
        assert sorted(part.name for part in path.glob("training/__*")) == ["__0_0.distcp", "__1_0.distcp"]
        moments_of(path)
    blocky = importlib.import_module("blocky")
    blocky.train(run, steps=8, **options)
    assert checkpoint.newest(run / "checkpoints") == run / "checkpoints" / "step-0000008"
