from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vidiff.engine import checkpoint, moments
from vidiff.engine.checkpoint import Saver, share_out
from vidiff.engine.ema import EMA
from vidiff.engine.optim import Optim, build_optimizer
from vidiff.engine.parallel import Group


class Toy:
    def __init__(self, folder: Path, width: int, depth: int) -> None:
        self.net = nn.Sequential(*[nn.Linear(width, width) for _ in range(depth)])
        self.optimizer = build_optimizer(Optim(), self.net)
        self.net(torch.randn(2, width)).square().mean().backward()
        self.optimizer.step()
        self.ema = EMA(self.net)
        self.said: list[str] = []
        self.saver = Saver(folder, Group(torch.device("cpu")), self.said.append)

    def save(self, step: int, state: dict | None = None) -> None:
        kept = moments.of_optimizers(self.net, self.optimizer.parts)
        self.saver.save(step, self.net.state_dict(), self.ema.state_dict(), state or {}, {}, kept)


def test_what_a_kill_has_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    """Also of a run that has no more to save."""
    for name in (".old-step-0000002", ".writing-step-0000004", "step-0000002"):
        (tmp_path / name).mkdir()
    Saver(tmp_path, Group(torch.device("cpu")), print)
    Saver(tmp_path / "none", Group(torch.device("cpu")), print)
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000002"]


def test_what_is_saved_is_as_it_was(tmp_path: Path) -> None:
    """Whatever the training does meanwhile, to weights, moments and counters; also in memory that is used again."""
    toy = Toy(tmp_path, 8, 3)
    for step in (1, 2):
        weight = toy.net[0].weight.detach().clone()
        moment = toy.optimizer.parts[0].state[toy.net[0].weight]["exp_avg"].clone()
        state = {"counts": {"a": step}}
        toy.save(step, state)
        state["counts"]["a"] = 99
        with torch.no_grad():
            for tensor in (*toy.net.parameters(), *moments.of_optimizers(toy.net, toy.optimizer.parts).values()):
                tensor.mul_(-2)
        toy.saver.finish()
        path = tmp_path / f"step-000000{step}"
        found = checkpoint.load(path)
        assert torch.equal(found.model["0.weight"], weight)
        assert found.state == {"counts": {"a": step}}
        read = torch.empty_like(moment)
        moments.read(path, {"AdamW.0.weight.exp_avg": read})
        assert torch.equal(read, moment)


def test_one_at_a_time_and_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Toy(tmp_path, 8, 1)
    real, running, most = checkpoint.save, 0, 0

    def slow(folder: Path, step: int, **rest: object) -> Path:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.1)
        running -= 1
        if step == 2:
            raise OSError("no space left")
        return real(folder, step, **rest)

    monkeypatch.setattr(checkpoint, "save", slow)
    for step in (1, 2, 3):
        toy.save(step)
        assert toy.saver.begun == step
    assert toy.said == ["could not write the checkpoint of step 2 (no space left); training goes on"]
    assert toy.saver.saved == 1
    toy.saver.finish()
    assert (toy.saver.saved, most) == (3, 1)
    toy.save(2)
    with pytest.raises(OSError, match="no space left"):
        toy.saver.finish()
    toy.save(2)
    while toy.saver._thread is not None:  # as the loop asks after each step
        toy.saver.poll()
    assert len(toy.said) == 2


def test_without_a_part_that_is_named_nothing_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its manifest would call sound what no training could go on from."""
    toy = Toy(tmp_path, 8, 1)
    real = checkpoint.write_moments

    def write(draft: Path, *rest: Any) -> None:
        real(draft, *rest)
        (draft / "training" / "__0_0.distcp").unlink()

    toy.save(1)
    toy.saver.finish()
    monkeypatch.setattr(checkpoint, "write_moments", write)
    toy.save(2)
    with pytest.raises(OSError, match=r"a process's part of the moments is not there.*__0_0\.distcp"):
        toy.saver.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-0000001"]


@pytest.mark.slow
def test_saving_holds_the_training_up_a_tenth_as_long_as_it_takes(tmp_path: Path) -> None:
    """400 MB: weights and average of 100 MB each, two moments. Once the memory for copies is there, from the second."""
    toy = Toy(tmp_path, 640, 61)
    shares = []
    for step in range(1, 6):
        began = time.perf_counter()
        toy.save(step)
        held = time.perf_counter() - began
        toy.saver.finish()
        shares.append(held / (time.perf_counter() - began))
    print("share of each save that the training waited for:", [f"{share:.3f}" for share in shares])
    assert statistics.median(shares[1:]) < 0.1, shares


@pytest.mark.parametrize("world", [1, 2, 3])
def test_what_all_processes_have_each_writes_a_share_of(world: int) -> None:
    kept = {f"moment {number}": torch.zeros(number + 1) for number in range(20)}
    shares = [share_out(kept, Group(torch.device("cpu"), rank, world)) for rank in range(world)]
    assert sorted(name for share in shares for name in share) == sorted(kept)
    sizes = [sum(tensor.numel() for tensor in share.values()) for share in shares]
    assert max(sizes) - min(sizes) <= 2
    assert list(share_out(kept, Group(torch.device("cpu")))) == list(kept)
