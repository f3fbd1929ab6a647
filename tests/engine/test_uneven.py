"""Losses are means over the voxels of the whole batch, however it is shared out."""

from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import pytest
import torch
import uneven

from vidiff.report.log import read_metrics


def step(out: Path, world: int, *options: object) -> tuple[list[torch.Tensor], float]:
    """The gradients of a step among `world` processes, and the loss that it logged."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "torch._dynamo", "uneven"])
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", 0))
        given = (world, str(port.getsockname()[1]), str(out), *options)
        processes = [context.Process(target=uneven.gradients, args=(rank, *given)) for rank in range(world)]
        for process in processes:
            process.start()
        for rank, process in enumerate(processes):
            process.join(100)
            assert process.exitcode == 0, Path(f"{out}.{rank}.log").read_text()
    (line,) = read_metrics(Path(f"{out}.run") / "metrics.jsonl")
    return torch.load(out, weights_only=True), line["loss"]


def test_gradients_are_those_of_one_process_with_the_whole_batch(tmp_path: Path) -> None:
    rest = ("uncertainty", 0.01)  # with the bound, and weights that the objective itself learns
    whole, loss = step(tmp_path / "whole", 1, 1, "ddp", *rest)
    for world, parts, parallel in [(1, 2, "ddp"), (2, 1, "ddp"), (2, 2, "fsdp")]:
        found, logged = step(tmp_path / f"{world}{parts}{parallel}", world, parts, parallel, *rest)
        assert logged == pytest.approx(loss, rel=1e-5)
        for one, other in zip(whole, found, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)
