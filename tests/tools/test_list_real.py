"""tools/list_real.py: real videos as a data set, with one file held out."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from indexes import build_index
from videos import filmed

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


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two packages of Debian, and an `apt-get download` that has these alone."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("there is no dpkg-deb")
    folder = tmp_path / "archive"
    (folder / "bin").mkdir(parents=True)
    for package, name, place in (
        ("kphotoalbum", "movie.avi", "usr/share/demo"),
        ("python3-hug-doc", "movie.mp4", "usr/share/doc"),
    ):
        root = tmp_path / package
        (root / "DEBIAN").mkdir(parents=True)
        (root / place).mkdir(parents=True)
        (root / "DEBIAN" / "control").write_text(
            f"Package: {package}\nVersion: 1\nArchitecture: all\nMaintainer: none\nDescription: none\n"
        )
        filmed(root / place / name, "null", "-q:v", "1", "-b:v", "4M")
        (root / "usr" / name).write_text("a page about it")
        subprocess.run(["dpkg-deb", "-b", root, folder / f"{package}_1_all.deb"], check=True, capture_output=True)
    program = folder / "bin" / "apt-get"
    program.write_text(f'#!/bin/sh\nfor last; do :; done\ncp "{folder}/$last"_*.deb .\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return folder


def test_films_of_packages_are_got_once(packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, films = tmp_path / "films.jsonl", tmp_path / "films"
    assert command("--out", str(out), "--debian", str(films)) == 0
    told = capsys.readouterr()
    assert told.out == f"{out}: 5 files, carphone_pristine held out\n"
    assert "not to be had: forensics-samples-files: VID_20191220_170832.mp4, " in told.err
    names = ["bigbuckbunny.mp4", "bikes.mp4", "movie.avi", "movie.mp4"]
    index = build_index(out, workers=1, progress=False)
    assert sorted(Path(file.name).name for file in index.files) == names
    assert sorted(path.name for path in films.rglob("*") if path.is_file()) == names[2:]  # and no package is left
    (packages / "kphotoalbum_1_all.deb").unlink()
    assert command("--out", str(out), "--debian", str(films)) == 0
    assert len(build_index(out, workers=1, progress=False).files) == 4


def test_no_films_at_all_are_told(packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packages / "kphotoalbum_1_all.deb").write_bytes(b"half of it")
    assert command("--debian", str(tmp_path / "films"), "--out", str(tmp_path / "x.jsonl")) == 2
    assert "kphotoalbum_1_all.deb did not come whole" in capsys.readouterr().err
    for archive in packages.glob("*.deb"):
        archive.unlink()
    assert command("--debian", str(tmp_path / "films"), "--out", str(tmp_path / "x.jsonl")) == 2
    assert "apt-get has none of these packages" in capsys.readouterr().err
    assert not (tmp_path / "x.jsonl").exists()
