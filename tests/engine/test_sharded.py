from __future__ import annotations

import itertools
import multiprocessing
from pathlib import Path

import torch
from harness import moments_of
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
