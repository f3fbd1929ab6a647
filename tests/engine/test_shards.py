"""Weights in shards over real processes, against whole ones: the same course, whoever holds what."""

from __future__ import annotations

import importlib
import json
import multiprocessing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from harness import Runs
from torch import nn

from vidiff.engine import checkpoint
from vidiff.engine.compile import find_blocks
from vidiff.engine.model import make_mesh
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.report.log import read_metrics


class Together:
    """Trainings of blocky.py by several processes, forked from a server that has imported all that they need."""

    def __init__(self, folder: Path, runs: Runs) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", "tiny", "blocky"])
        self.folder, self.runs = folder, runs
        self.blocky: ModuleType = importlib.import_module("blocky")

    def train(self, name: str, world: int, **arguments: Any) -> Path:
        """Goes on with the run `name` as `world` processes, and returns its folder."""
        run = self.folder / name
        run.mkdir(exist_ok=True)
        if world == 1 and "count" not in arguments:
            self.blocky.train(run, **arguments)
            return run
        port = self.runs.port()
        common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        mine = []
        for rank in range(world):
            environment = {key: str(value) for key, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            given = {"run": str(run), "environment": environment, **arguments}
            mine.append(self.context.Process(target=self.blocky.main, args=(given,)))
            mine[-1].start()
        self.runs.started += mine
        for process in mine:
            process.join(100)
            assert process.exitcode == 0, Path(f"{run}.out").read_text()
        return run


@pytest.fixture
def together(tmp_path: Path, runs: Runs) -> Together:
    return Together(tmp_path, runs)


def assert_same_course(run: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Losses, norms and validation of every step, the last weights and their average, and what was drawn."""
    lines, others = (read_metrics(folder / "metrics.jsonl") for folder in (run, other))
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, same in zip(lines, others, strict=True):
        for name in {"loss", "grad_norm", "val/loss"} & line.keys():
            assert line[name] == pytest.approx(same[name], rel=tolerance), (line["step"], name)
    for which in ("model", "ema"):
        one, two = (checkpoint.load_weights(folder, which) for folder in (run, other))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, two[name], rtol=tolerance, atol=tolerance, msg=name)
    if (other / "drawn.json").exists():
        drawn, same = (json.loads((folder / "drawn.json").read_text()) for folder in (run, other))
        assert drawn == pytest.approx(same, rel=tolerance)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The course of one process."""
    together = Together(tmp_path_factory.mktemp("alone"), Runs())
    return together.train("one", 1, look=True, steps=6)


def test_two_then_one_then_two(together: Together, alone: Path) -> None:
    """Two processes with whole weights, one, then two with shards: the course of one throughout."""
    together.train("run", 2, look=True, steps=2)
    together.train("run", 1, look=True, steps=4)
    run = together.train("run", 2, look=True, steps=6, parallel="fsdp")
    assert_same_course(run, alone)
    trained, saved = torch.load(run / "trained.pt"), checkpoint.load_weights(run, "model")
    assert all(torch.equal(saved[name], tensor) for name, tensor in trained.items())  # the caller's own has them, too


def test_shards_then_one_then_shards(together: Together, alone: Path) -> None:
    """With checkpointed blocks, a batch in two parts, and the optimizer's moments carried from shards to whole."""
    options = {"look": True, "checkpoint": [0, 1], "accumulate": 2}
    together.train("run", 2, parallel="fsdp", steps=2, **options)
    together.train("run", 1, steps=4, **options)
    assert_same_course(together.train("run", 2, parallel="fsdp", steps=6, **options), alone)


@pytest.mark.slow
def test_copies_of_shards(together: Together, alone: Path) -> None:
    """HSDP: two groups of two, its batch in two parts, which then become four of one shard each, then two whole."""
    together.train("run", 4, look=True, steps=2, parallel="hsdp", shards=2, accumulate=2)
    together.train("run", 4, look=True, steps=4, parallel="fsdp")
    assert_same_course(together.train("run", 2, look=True, steps=6), alone)


def test_muon_moves_whole_matrices(together: Together) -> None:
    muon = {"name": "muon"}
    one = together.train("one", 1, look=True, optim=muon)
    assert_same_course(together.train("fsdp", 2, look=True, optim=muon, parallel="fsdp"), one, 3e-5)


def test_a_discriminator_plays_on_shards(together: Together) -> None:
    """As on whole weights: a loss may take gradients on its way, and use weights by themselves."""
    whole = together.train("whole", 2, frames=True, accumulate=2)
    assert_same_course(together.train("shards", 2, frames=True, accumulate=2, parallel="fsdp"), whole)


def test_bf16_of_shards_is_that_of_whole_weights(together: Together) -> None:
    """Blocks get bf16 weights, where autocast would have cast them; what is looked at stays float32."""
    one = together.train("one", 1, look=True, precision="bf16")
    two = together.train("two", 2, look=True, precision="bf16", parallel="fsdp")
    assert_same_course(two, one, 2e-2)
    saved = checkpoint.load_weights(two, "model")
    assert all(tensor.dtype == torch.float32 for tensor in saved.values())


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_batch_in_parts_sends_its_gradients_once(together: Together, parallel: str) -> None:
    """As many reductions for two parts as for one; but shards are gathered anew, a block's twice a part, and their
    gradients summed in shards, which whole ones of all blocks would not leave the memory for.

    gloo does a reduce-scatter by an all-reduce, and is seen to do so.
    """
    sent = []
    for parts in (1, 2):
        options = {"parallel": parallel, "accumulate": parts, "steps": 1, "checkpoint_every": 0, "count": True}
        run = together.train(f"parts{parts}", 2, **options)
        sent.append(json.loads((run / "sent-0.json").read_text()))
    blocks = len(find_blocks(together.blocky.Blocky()))
    units = blocks + 1 if parallel == "fsdp" else 0  # with the root
    assert sent[1]["gloo:all_reduce"] - sent[0]["gloo:all_reduce"] == units
    more = 2 * blocks + 1  # each block's forward and backward of the further part, and the root's forward
    assert sent[1]["gloo:all_gather"] - sent[0]["gloo:all_gather"] == (more if parallel == "fsdp" else 0)


def test_blocks_are_found_without_knowing_the_model() -> None:
    unet = importlib.import_module("blocky").Blocky().network
    assert find_blocks(unet) == [*unet.down, *unet.up, *unet.split, unet.middle]
    vae = VAE(VAEConfig(width=4, multipliers=[1, 1]))
    assert [type(block).__name__ for block in find_blocks(vae)] == ["Block", "Block", "Block", "Upsample", "Block"]
    assert find_blocks(nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)))) == []


def test_groups_must_divide() -> None:
    group = Group(torch.device("cpu"), 0, 4, 2)
    with pytest.raises(ValueError, match=r"train.shards is 3, but 4 processes do not divide"):
        make_mesh(group, TrainOptions(parallel="hsdp", shards=3))
    with pytest.raises(ValueError, match=r"train.shards is 2 and train.parallel fsdp"):
        TrainOptions(parallel="fsdp", shards=2)
