"""What is known of a training before it: as far as data are here, and without asking for those that are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.plan.sketch import sketch
from vidiff.recipe.load import load

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = ["unet.width=32", "unet.head_dim=16", "data.layout=auto", "codec.override.data.shapes={}", "data.shapes={}"]


def listed(folder: Path, where: str) -> Path:
    """A list of two clips with two labels."""
    file = folder / "clips.csv"
    file.write_text(
        "".join(f"{row}\n" for row in ("path,label,split", f"{where}a.mp4,x,train", f"{where}b.mp4,y,train"))
    )
    return file


def test_labels_of_a_list_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    config = load(CONFIGS / "shapes.yaml", [*SMALL, f"data.root={listed(tmp_path, '')}"])
    of = sketch(config, CONFIGS)
    assert of.config.network.labels == 2 and of.unknown == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("root", ["clips.csv", "https://example.invalid/clips.csv", "s3://bucket/clips"])
def test_no_store_is_asked(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a URL, nor for those that a list names: what is not here is assumed, and nothing is written."""
    listed(tmp_path, "https://example.invalid/")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidiff.data.root.look_at", lambda address: pytest.fail(f"asked for {address}"))
    of = sketch(load(CONFIGS / "shapes.yaml", [*SMALL, f"data.root={root}"]), CONFIGS)
    assert [line.endswith("is not there, so its labels or captions are assumed") for line in of.unknown] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["clips.csv"]
