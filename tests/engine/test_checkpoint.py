from __future__ import annotations

import random
import resource
import shutil
from pathlib import Path

import pytest
import torch

from vidiff.engine import checkpoint
from vidiff.engine.checkpoint import CheckpointError
from vidiff.engine.publish import Keep, verify

MOMENTS = {"AdamW.a.exp_avg": torch.arange(6.0).view(3, 2), "AdamW.a.step": torch.tensor(3.0)}


def save(folder: Path, step: int, value: float | None = None, keep: int = 3) -> Path:
    weights = {"a": torch.full((3, 2), step if value is None else value), "count": torch.tensor(step)}
    state = {"step": step, "list": [1, 3.5] * 10}
    return checkpoint.save(folder, step, weights, {"a": weights["a"] / 2}, state, Keep(keep), moments=MOMENTS)


def files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    run = tmp_path / "run"
    path = save(run / "checkpoints", 1000)
    assert path.name == "step-0001000"
    assert (run / "checkpoints" / "latest").read_text() == "step-0001000\n"
    assert checkpoint.newest(run / "checkpoints") == path
    found = checkpoint.load(path)
    assert found.state == {"step": 1000, "list": [1, 3.5] * 10}
    assert torch.equal(found.model["a"], torch.full((3, 2), 1000.0))
    for place in (run, run / "checkpoints", path, str(run)):
        weights = checkpoint.load_weights(place)
        assert torch.equal(weights["a"], torch.full((3, 2), 500.0))
        assert weights["count"] == 1000  # not averaged, so the model's own
    assert torch.equal(checkpoint.load_weights(run, "model")["a"], torch.full((3, 2), 1000.0))
    assert len({file.stat().st_mode for file in files_of(path)}) == 1, "some files are less readable than others"


def test_layouts_and_ties_survive(tmp_path: Path) -> None:
    """Channels-last weights, and one tensor under two names."""
    kernel = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    tied = torch.randn(5)
    path = checkpoint.save(tmp_path, 1, {"kernel": kernel, "x": tied, "y": tied}, {"kernel": kernel}, {})
    found = checkpoint.load(path)
    assert torch.equal(found.model["kernel"], kernel)
    assert torch.equal(found.model["x"], tied)
    assert torch.equal(found.model["y"], tied)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-0000004", "step-0000005"]


def test_a_course_that_was_left_is_dropped(tmp_path: Path) -> None:
    """`latest` says where a run stands: set back, it goes on from there, and what was newer makes room."""
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "latest").write_text("step-0000001\n")
    assert checkpoint.newest(tmp_path) == tmp_path / "step-0000001"
    save(tmp_path, 2, value=7.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-0000001", "step-0000002"]
    assert checkpoint.load_weights(tmp_path / "step-0000002", "model")["a"][0, 0] == 7.0


def test_without_latest_the_newest_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "latest").unlink()
    (tmp_path / "step-best").mkdir()
    (tmp_path / ".writing-step-0000003").mkdir()
    assert checkpoint.newest(tmp_path) == tmp_path / "step-0000002"
    assert checkpoint.newest(tmp_path / "nowhere") is None


@pytest.mark.faults
def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Any one, in any file, the manifest too; and the checkpoint before is taken."""
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    chance = random.Random(0)
    for file in files_of(second):
        whole = file.read_bytes()
        for place in chance.sample(range(len(whole)), 50):
            changed = bytearray(whole)
            changed[place] ^= 1 << chance.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(CheckpointError):
                verify(second)
        file.write_bytes(changed)
        told: list[str] = []
        assert checkpoint.newest(tmp_path, told.append) == first
        assert len(told) == 1
        assert str(second) in told[0]
        assert told[0].endswith("; taking the one before")
        file.write_bytes(whole)
    verify(second)


@pytest.mark.faults
def test_truncated_missing_or_renamed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    second = save(tmp_path, 2)
    kept = tmp_path / "kept"
    shutil.copytree(second, kept)
    for name in [str(file.relative_to(kept)) for file in files_of(kept)]:
        size = (kept / name).stat().st_size
        for length in (0, 1, size // 2, size - 1):
            (second / name).write_bytes((kept / name).read_bytes()[:length])
            with pytest.raises(CheckpointError, match=r"step-0000002 is (corrupt|incomplete): "):
                checkpoint.load_weights(second)
        (second / name).unlink()
        with pytest.raises(CheckpointError, match=f"is incomplete: {name} cannot be read"):
            verify(second)
        shutil.copy(kept / name, second / name)
    verify(second)
    second.rename(tmp_path / "step-0000009")
    with pytest.raises(CheckpointError, match="not as it was written"):
        verify(tmp_path / "step-0000009")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"step": 2, "files": 3}', "[" * 100_000, '{"step": 1e999}', "\xff"])
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    path = save(tmp_path, 2)
    (path / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"manifest.json"):
        verify(path)


def test_nothing_sound_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    for step in (1, 2):
        (save(tmp_path, step) / "state.json").write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="taking the one before"),
        pytest.raises(CheckpointError, match="none of the 2 checkpoints"),
    ):
        checkpoint.newest(tmp_path)
    with pytest.raises(CheckpointError, match="has no checkpoints; train it first"):
        checkpoint.load_weights(tmp_path / "other")
    with pytest.raises(ValueError, match="choose ema, model"):
        checkpoint.load_weights(tmp_path, "worst")


@pytest.mark.faults
@pytest.mark.parametrize("limit", [100, 3_000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, limit: int) -> None:
    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # bytes a file may have
    try:
        with pytest.raises(OSError):
            checkpoint.save(tmp_path, 2, {"a": torch.zeros(20)}, {"a": torch.zeros(20)}, {"a": [0] * 2000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-0000001"]
    assert checkpoint.newest(tmp_path) == tmp_path / "step-0000001"
