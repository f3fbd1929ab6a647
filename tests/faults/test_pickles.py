"""A pickle that runs code, put in place of each file that is ever read: it is refused, and runs nothing.

The manifest is made to agree each time, as whoever puts it there would.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from vidiff.engine import checkpoint, moments, publish
from vidiff.engine.checkpoint import CheckpointError

pytestmark = pytest.mark.faults

NAME = "step-0000006"


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def agree(path: Path) -> None:
    """Writes the manifest anew."""
    (path / publish.MANIFEST).unlink()
    step = publish.step_of(path)
    path.rename(draft := path.parent / publish.hidden(step))
    publish.publish(draft, step, best=0)
    publish.verify(path)


def zipped(bomb: Bomb, file: Path) -> None:
    torch.save({"x": bomb}, stream := io.BytesIO())
    file.write_bytes(stream.getvalue())


def plain(bomb: Bomb, file: Path) -> None:
    file.write_bytes(pickle.dumps(bomb))


@pytest.mark.parametrize("write", [plain, zipped])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "state.json", "training/.metadata", "training/__0_0.distcp"]
)
def test_in_place_of_each_file(tiny, run: Path, name: str, write: Callable[[Bomb, Path], None]) -> None:
    path = run / "checkpoints" / NAME
    write(Bomb(run / "boom"), path / name)
    agree(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        tiny.train(run, steps=8)
    if name in ("model.safetensors", "ema.safetensors"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoint.load_weights(run)
    assert not (run / "boom").exists()


@pytest.mark.parametrize("name", ["latest", f"{NAME}/manifest.json"])
def test_where_there_is_no_manifest(tiny, run: Path, name: str) -> None:
    plain(Bomb(run / "boom"), run / "checkpoints" / name)
    tiny.train(run, steps=8)
    assert not (run / "boom").exists()


def in_plan(bomb: Bomb, found: Metadata) -> None:
    found.planner_data = bomb


def in_a_name(bomb: Bomb, found: Metadata) -> None:
    found.state_dict_metadata = {"x": found.state_dict_metadata.popitem()[1], "y": bomb}


def as_bytes(bomb: Bomb, found: Metadata) -> None:
    """torch.distributed.checkpoint itself would unpickle what is marked as bytes."""
    name = next(iter(found.state_dict_metadata))
    found.state_dict_metadata[name] = BytesStorageMetadata()
    found.storage_data = {MetadataIndex(name): _StorageInfo("__0_0.distcp", 0, 10_000)}


def elsewhere(bomb: Bomb, found: Metadata) -> None:
    for of in found.storage_data.values():
        of.relative_path = "../../../" + of.relative_path


@pytest.mark.parametrize("change", [in_plan, in_a_name, as_bytes, elsewhere])
def test_inside_the_metadata(tiny, run: Path, change: Callable[[Bomb, Metadata], None]) -> None:
    path = run / "checkpoints" / NAME
    found = moments.metadata(path)
    change(Bomb(run / "boom"), found)
    (path / "training" / ".metadata").write_bytes(pickle.dumps(found))
    zipped(Bomb(run / "boom"), path / "training" / "__0_0.distcp")
    agree(path)
    with pytest.raises(CheckpointError, match=r"does not belong there|does not tell of tensors"):
        tiny.train(run, steps=8)
    assert not (run / "boom").exists()


def test_the_state_of_an_earlier_vidiff_is_not_read(tiny, run: Path) -> None:
    """Its weights are: a checkpoint of version 0.1 had a pickle, state.pt, beside them."""
    path = run / "checkpoints" / NAME
    (path / "state.json").unlink()
    shutil.rmtree(path / "training")
    plain(Bomb(run / "boom"), path / "state.pt")
    agree(path)
    assert checkpoint.load_weights(run).keys() == checkpoint.load_weights(run, "model").keys()
    with pytest.raises(CheckpointError, match=r"made by vidiff 0\.1, .*: its weights can be used, .* start=RUN"):
        tiny.train(run, steps=8)
    assert not (run / "boom").exists()


def test_the_bomb_works(tmp_path: Path) -> None:
    """Where it is unpickled freely, so that the tests above can fail."""
    plain(Bomb(tmp_path / "boom"), tmp_path / "file")
    pickle.loads((tmp_path / "file").read_bytes())
    assert (tmp_path / "boom").exists()
    (tmp_path / "boom").rmdir()
    zipped(Bomb(tmp_path / "boom"), tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "boom").exists()
