"""Files of checkpoints that were changed or cut short: each time it is found, told, and the one before taken."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from vidiff.engine import checkpoint
from vidiff.engine.checkpoint import CheckpointError

pytestmark = pytest.mark.faults


@pytest.fixture
def checkpoints(whole: Path, tmp_path: Path) -> Path:
    """Those of steps 2, 4 and 6 of a run, to be damaged."""
    return Path(shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints"))


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def assert_the_one_before_is_taken(checkpoints: Path) -> None:
    told: list[str] = []
    assert checkpoint.newest(checkpoints, told.append) == checkpoints / "step-0000004"
    assert len(told) == 1
    assert "step-0000006 is " in told[0]
    assert told[0].endswith("; taking the one before")


def test_two_hundred_flipped_bytes(checkpoints: Path) -> None:
    """Spread over all files, the small ones and the manifest as often as the large ones."""
    chance = random.Random(0)
    files = files_of(checkpoints / "step-0000006")
    assert len(files) == 6
    for number in range(200):
        file = files[number % len(files)]
        whole = file.read_bytes()
        changed = bytearray(whole)
        changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        assert_the_one_before_is_taken(checkpoints)
        file.write_bytes(whole)
    assert checkpoint.newest(checkpoints) == checkpoints / "step-0000006"


def test_cut_short_at_ten_places(checkpoints: Path) -> None:
    chance = random.Random(1)
    for file in files_of(checkpoints / "step-0000006"):
        whole = file.read_bytes()
        for length in [0, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(8))]:
            file.write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match=r"step-0000006 is (corrupt|incomplete): "):
                checkpoint.load_weights(checkpoints / "step-0000006")
            assert_the_one_before_is_taken(checkpoints)
        file.unlink()
        with pytest.raises(CheckpointError, match=r"is incomplete: .*cannot be read"):
            checkpoint.load_weights(checkpoints / "step-0000006")
        assert_the_one_before_is_taken(checkpoints)
        file.write_bytes(whole)


def test_the_training_goes_on_from_the_one_before(tiny, runs, whole: Path, tmp_path: Path, capsys) -> None:
    """To the same bits, moments of the optimizer included."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    file = run / "checkpoints" / "step-0000006" / "training" / "__0_0.distcp"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 16
    file.write_bytes(data)
    tiny.train(run)
    out = capsys.readouterr().out
    name = "training/__0_0.distcp"
    assert f"step-0000006 is corrupt: {name} is not what its manifest says; taking the one before" in out
    assert "going on from step 4 of 6 (step-0000004)" in out
    runs.assert_same(run, whole)
