"""Pickles that run code, in place of files other than checkpoints: refused, and nothing is run."""

from __future__ import annotations

import ast
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch
from test_pickles import Bomb, plain, zipped
from torch import nn

from vidiff.codec.files import load_codec
from vidiff.data.latents.shard import Shard, facts_of
from vidiff.metrics.features import Features

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("write", [plain, zipped])
def test_a_codec(tmp_path: Path, write) -> None:
    (tmp_path / "codec.json").write_text("null")
    write(Bomb(tmp_path / "boom"), tmp_path / "codec.safetensors")
    with pytest.raises(ValueError, match=r"codec.safetensors is damaged"):
        load_codec(tmp_path)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("write", [plain, zipped])
def test_a_shard_of_latents(tmp_path: Path, write) -> None:
    write(Bomb(tmp_path / "boom"), tmp_path / "latents-00000.safetensors")
    assert facts_of(tmp_path / "latents-00000.safetensors") is None
    with pytest.raises(ValueError):
        Shard(tmp_path / "latents-00000.safetensors")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("write", [plain, zipped])
@pytest.mark.parametrize("architecture", [None, "motion"])
def test_a_network_for_scores(tmp_path: Path, write, architecture: str | None) -> None:
    declared = {"name": "x", "file": "x.bin", "architecture": architecture}
    (tmp_path / "network.json").write_text(json.dumps(declared))
    write(Bomb(tmp_path / "boom"), tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x.bin cannot be loaded"):
        Features.load(tmp_path)
    assert not (tmp_path / "boom").exists()


def test_inside_of_torchscript(tmp_path: Path) -> None:
    """Its pickles are read without Python: they cannot name functions of it."""
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "good.pt"))
    plain(Bomb(tmp_path / "boom"), tmp_path / "bomb")
    stream = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "good.pt") as good, zipfile.ZipFile(stream, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, (tmp_path / "bomb").read_bytes() if name.endswith("/data.pkl") else good.read(name))
    (tmp_path / "x.pt").write_bytes(stream.getvalue())
    (tmp_path / "network.json").write_text(json.dumps({"name": "x", "file": "x.pt"}))
    with pytest.raises(ValueError, match=r"x.pt cannot be loaded"):
        Features.load(tmp_path)
    assert not (tmp_path / "boom").exists()


def test_nothing_else_reads_pickles() -> None:
    """Only moments.py unpickles, by a list of what may stand there; no file calls numpy's load on objects, and
    torch.load is called for tensors alone, of a package that is installed.
    """
    found, loads = [], []
    for file in sorted([*ROOT.glob("vidiff/**/*.py"), *ROOT.glob("tools/*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                loads.append({word.arg: ast.unparse(word.value) for word in node.keywords})
            named = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if named in ("torch.load", "np.load", "numpy.load", "torch.hub.load") or {
                "pickle", "dill", "joblib", "shelve", "marshal"
            } & set(names):  # fmt: skip
                found.append((file.relative_to(ROOT).as_posix(), named or names[0]))
    weights = "vidiff/metrics/efficientnet.py"  # which names the error of a file that holds anything else
    assert found == [("vidiff/engine/moments.py", "pickle"), (weights, "pickle"), (weights, "torch.load")]
    assert [load["weights_only"] for load in loads] == ["True"]
