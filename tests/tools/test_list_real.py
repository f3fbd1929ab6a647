"""tools/list_real.py: real videos as a data set, with one file held out."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from indexes import build_index

TOOL = Path(__file__).parents[2] / "tools" / "list_real.py"


def command(*arguments: str) -> int:
    return int(runpy.run_path(str(TOOL))["main"](list(arguments)))


def test_one_file_is_held_out_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data" / "real.jsonl"
    assert command("--out", str(out)) == 0
    assert capsys.readouterr().out == f"{out}: 3 files, carphone_pristine held out\n"
    splits = {split: build_index(out, split=split, workers=1, progress=False).files for split in ("train", "test")}
    assert [Path(file.name).stem for file in splits["train"]] == ["bigbuckbunny", "bikes"]
    assert [(Path(f.name).stem, f.frames, f.height, f.width) for f in splits["test"]] == [
        ("carphone_pristine", 120, 144, 193)  # 176 pixels that are wider than high, by 128 to 117
    ]
    assert command("--out", str(out), "--hold-out", "bikes") == 0
    assert Path(build_index(out, split="test", workers=1, progress=False).files[0].name).stem == "bikes"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert command("--out", str(tmp_path / "file" / "real.jsonl")) == 2
    assert capsys.readouterr().err.startswith("error: ")
