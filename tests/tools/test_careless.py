"""Careless use of the commands: each mistake ends in exit code 2 and one line that says what to do."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from careless import fill

from vidiff.video.reader import read_metadata, read_video
from vidiff.video.writer import write_video

TOOLS = Path(__file__).parents[2] / "tools"
EXTEND = ("clip.mp4", "--frames", "9")
USERS = {
    "generate": (),
    "extend": EXTEND,
    "evaluate": (),
    "compare_extend": (),
}  # of a trained run, and what each needs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    fill(place)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(name: str, *arguments: str) -> int:
    """The exit code of a tool, run in this process."""
    main = runpy.run_path(str(TOOLS / f"{name}.py"))["main"]
    try:
        return int(main(list(arguments)))
    except SystemExit as end:  # argparse's own
        return int(end.code or 0)


EXTEND = ("clip.mp4", "--frames", "9")
STARTS = ((), EXTEND, (), ())
MISTAKES = [
    *(
        (name, (*start, "--run", "none"), "none is not a trained run")
        for name, start in zip(USERS, STARTS, strict=True)
    ),
    *((name, (*start, "--run", "notes.txt"), "not a trained run") for name, start in zip(USERS, STARTS, strict=True)),
    *((name, (*start, "--device", "tpu"), "no such device: 'tpu'") for name, start in zip(USERS, STARTS, strict=True)),
    ("generate", ("--count", "-1"), "--count: -1 is out of range; give 1"),
    ("generate", ("--strategy", "replace", "--history", "2"), "leave out history, or choose another strategy"),
    ("generate", ("--interval", "0.8", "0.2"), "interval = (0.8, 0.2) must satisfy"),
    ("generate", ("--apg", "etta=0"), "apg does not take 'etta'"),
    ("generate", ("--threshold", "percentile=99"), "needs a floor"),
    ("generate", ("--convention", "w"), "unknown convention 'w'"),
    ("generate", ("--classifier-scale", "2"), "classifier_scale is 2.0, but no classifier was loaded"),
    ("generate", ("--classifier", "none"), "none is not a trained run"),
    ("generate", ("--classifier", "runs/tiny"), "is a run of kind diffusion; one of kind classifier is needed"),
    ("extend", (*EXTEND, "--history-level", "2"), "history_level = 2.0 is outside [0, 1]"),
    ("generate", ("--fps", "-2"), "--fps: -2 is out of range; give"),
    ("generate", ("--fps", "nan"), "argument --fps: invalid number value: 'nan'"),
    ("generate", ("--seed", str(2**70)), "is out of range; give 0 to"),
    ("extend", ("clip.mp4", "--frames", "5"), "--frames is 5, but 5 are given already"),
    ("extend", (*EXTEND, "--given", "6"), "--given is 6; clip.mp4 has 1 to 5"),
    ("extend", (*EXTEND, "--context", "5"), "context is 5; give 1 to 3"),
    ("extend", (*EXTEND, "--context", "4"), "context is 4; give 1 to 3"),
    ("extend", (*EXTEND, "--sampler", "x"), "unknown sampling.sampler 'x'"),
    ("extend", (*EXTEND, "--label", "zebra"), "no label 'zebra'"),
    ("extend", (*EXTEND, "--strategy", "keyframes"), "this model knows of one stride alone"),
    ("extend", (*EXTEND, "--strategy", "{name: noisy, level: 1}"), "level is 1; give 0"),
    ("extend", (*EXTEND, "--strategy", "{name: noisy"), "give a name, or {name: ..., option: ...}"),
    ("compare_extend", ("--strategies", "clean", "x"), "unknown sampling.strategy 'x'"),
    ("compare_extend", ("--data", "folder"), "folder"),
    ("compare_extend", ("--others", "elsewhere/tiny"), "two of the runs are called tiny"),
    ("compare_extend", ("--history", "some"), "argument --history: invalid scale value: 'some'"),
    ("evaluate", (), "was not trained on the shapes set: its labels are cat, dog; --network efficientnet, or numbers"),
]


@pytest.mark.parametrize(
    ("name", "arguments", "said"), MISTAKES, ids=[" ".join((name, *arguments)) for name, arguments, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    name: str, arguments: tuple[str, ...], said: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = set(place.rglob("*"))
    assert call(name, *arguments) == 2
    said_all = capfd.readouterr().err.replace("\r", "\n").splitlines()
    aside = ("sampling", "[")  # the progress bar, and a line that decord writes past its own log level
    lines = [line for line in said_all if line.strip() and not line.startswith(aside)]
    assert len(lines) == 1 and lines[0].startswith("error: ") and said in lines[0], lines
    assert set(place.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("generate", ("--frames", "many")),
        ("generate", ("--frames", "1.5")),
        ("generate", ("--nonsense", "1")),
        ("extend", ("clip.mp4",)),
        ("extend", ("--frames", "9")),
        ("evaluate", ("--oracle", "cats")),
    ],
)
def test_a_wrong_type_is_argparses_to_tell(
    name: str, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call(name, *arguments) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "--help" in said


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", "/"])
def test_the_out_folder_is_made_and_the_settings_kept(suffix: str, tmp_path: Path) -> None:
    out = f"{tmp_path}/not/there/clip{suffix}"
    assert call("generate", "--frames", "6", "--label", "dog", "--out", out, "--guidance", "0", "--seed", "7") == 0
    found = read_metadata(out)
    assert (found["labels"], found["guidance"], found["seed"], found["steps"]) == (["dog"], 0.0, 7, 1)
    if suffix == "/":
        assert len(list(Path(out).iterdir())) == 6
    else:
        assert read_video(out).shape == (3, 6, 8, 8)


def test_a_time_of_day_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".mp4", ".webm", ".gif"):
        write_video(f"12:30:45{suffix}", torch.zeros(3, 5, 8, 8))
        assert read_video(tmp_path / f"12:30:45{suffix}").shape == (3, 5, 8, 8)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in --out=~/clip.mp4, in which no shell sees it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("generate", "--frames", "2", "--run", "runs/tiny", "--out=~/new/clip.mp4") == 0
    assert read_video(tmp_path / "new" / "clip.mp4").shape[1] == 2
    (tmp_path / "mine").symlink_to(Path("runs/tiny").resolve())
    assert call("generate", "--frames", "2", "--run=~/mine", "--out=~/other.gif") == 0


def test_labels_take_turns(tmp_path: Path) -> None:
    out = f"{tmp_path}/clip.mp4"
    assert call("generate", "--label", "dog", "--label", "cat", "--count", "3", "--out", out) == 0
    assert read_metadata(out)["labels"] == ["dog", "cat", "dog"]
    assert read_video(out).shape[2:] == (16, 16)


def test_a_clip_may_be_extended_in_place(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.rand(3, 5, 8, 8) * 2 - 1)
    assert call("extend", f"{tmp_path}/a.mp4", "--frames", "8", "--out", f"{tmp_path}/a.mp4", "--fps", "12.5") == 0
    assert read_video(tmp_path / "a.mp4").shape[1] == 8
    assert read_metadata(tmp_path / "a.mp4")["given"] == 5


def test_without_any_run_the_tools_say_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, start in USERS.items():
        assert call(name, *start) == 2
        said = capfd.readouterr().err
        assert "no trained run in runs/: train one first" in said and "vidiff train shapes" in said


@pytest.mark.parametrize("name", ["extend", "make_shapes"])
def test_help_stands_alone_from_any_folder(name: str, tmp_path: Path) -> None:
    environment = {"PYTHONPATH": str(TOOLS.parent), "PATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TOOLS / f"{name}.py"), "--help"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=True)
    assert "usage:" in found.stdout and not found.stderr
