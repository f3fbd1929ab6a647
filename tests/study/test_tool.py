"""`tools/study.py` as a careless one uses it: each mistake is a line and exit code 2, and nothing is written over."""

from __future__ import annotations

import json
import runpy
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vidiff.cli.measure.study import parse, parts
from vidiff.data.options import DataConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.study.plan import open_study
from vidiff.study.serve import serve, votes_of
from vidiff.study.votes import Vote
from vidiff.video.writer import write_video

TOOL = Path(__file__).parents[2] / "tools" / "study.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of clips, one of fewer, and real clips with captions."""
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    for name, count in (("a", 4), ("b", 4), ("few", 2), ("real/train/dog", 1), ("real/test/dog", 4)):
        for number in range(count):
            write_video(place / name / f"{number}.mp4", torch.rand(3, 4, 16, 16) * 2 - 1)
    captions = [{"path": f"test/dog/{n}.mp4", "caption": f"dog {n} runs"} for n in range(4)]
    captions.append({"path": "train/dog/0.mp4", "caption": "a dog"})
    (place / "real" / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in captions))
    (place / "empty").mkdir()
    return place


SETTINGS = ("weights", "sampler", "steps", "guidance")
SMALL = ("--pairs", "4", "--checks", "2", "--frames", "4", "--size", "16")


def call(place: Path, *arguments: str) -> int:
    return runpy.run_path(str(TOOL))["main"]([part.format(place=place) for part in arguments])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --a and --b"),
        (("--a", "{place}/a"), "give --a and --b"),
        (("--a", "{place}/a", "--b", "{place}/b"), "give --real, for the checks"),
        (("--a", "{place}/a", "--b", "{place}/none", "--real", "{place}/real"), "no folder"),
        (("--a", "{place}/a", "--b", "{place}/empty", "--real", "{place}/real"), "no videos in"),
        (("--a", "{place}/a", "--b", "{place}/few", "--real", "{place}/real"), "has 2 clips of 4 frames, but 4 are"),
        (("--a", "{place}/a", "--b", "{place}/b", "--real", "{place}/none"), "no folder"),
        (("--a", "{place}/a", "--b", "{place}/b", "--real", "{place}/real", "--pairs", "9"), "has 4 clips of 4 frames"),
        (("--out", "{place}/a", "--results"), "holds no study"),
        (("--out", "{place}/none"), "holds no study"),
    ],
)
def test_a_mistake_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    given = (*SMALL, "--out", "{place}/never") if "--a" in arguments else ()
    assert call(place, *given, *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (place / "never").exists() and not (place / "none").exists()


def test_what_votes_say_can_be_asked_without_serving(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--a", "{place}/a", "--b", "{place}/b", "--real", "{place}/real", "--out", "{place}/study", *SMALL)
    assert call(place, *given, "--text", "--results") == 0
    assert "no votes yet" in capsys.readouterr().out
    study = open_study(place / "study")
    assert study.labels == [*(f"dog {n} runs" for n in range(4)), "dog 0 runs", "dog 2 runs"]
    votes = votes_of(study)
    for item in range(3):
        votes.add(Vote(votes.begin("x").number, item, "b", "left", 1.0))
    assert call(place, "--out", "{place}/study", "--results") == 0
    assert "a is preferred in 0.0% of the pairs" in capsys.readouterr().out
    assert json.loads((study.folder / "results.json").read_text())["all"]["wins"] == [0, 3, 0]
    assert "studies/" not in (page := (study.folder / "results.html").read_text()) and "0.0 %" in page
    assert call(place, *given, "--results") == 2, "the same folder, another study"
    assert "made with other options" in capsys.readouterr().err


def test_real_clips_are_seen_as_a_run_sees_its_own(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a stride of 3 two frames are 4 of a file, so that one clip fits in each; and captions are asked for."""
    data = DataConfig("elsewhere", size=16, frames=2, stride=[3, 3], captions="jsonl")
    config = DiffusionRun(
        "diffusion", "run", data=data, codec=CodecConfig("identity"), sampling=SamplingConfig(context=1)
    )
    (place / "run").mkdir()
    (place / "run" / "resolved.yaml").write_text(dump(config))
    run = SimpleNamespace(frames=2, size=16, fps=8.0, labels=(), text=None, settings=lambda: dict.fromkeys(SETTINGS))
    run.facts = SimpleNamespace(actions="keys", control=False)
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda path, device: run)
    given = ("--a", "{place}/run", "--b", "{place}/b", "--real", "{place}/real", "--pairs", "4", "--checks", "2")
    options = parse([part.format(place=place) for part in (*given, "--text", "--frames", "2")])
    found = parts(options)
    assert (found["real"].stride, len(found["real"])) == (3, 2) and found["b"].stride == 1
    assert found["a"].texts == found["labels"] == [f"dog {n} runs" for n in range(4)]
    assert f"note: {place}/run: the run is told actions, and its clips are drawn without any" in capsys.readouterr().err


def test_an_address_that_is_taken_or_is_none_is_named(place: Path) -> None:
    given = ("--a", "{place}/a", "--b", "{place}/b", "--real", "{place}/real", "--out", "{place}/served", *SMALL)
    assert call(place, *given, "--results") == 0
    study = open_study(place / "served")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for host, port in (("127.0.0.1", taken.getsockname()[1]), ("no.such.host.invalid", 0)):
            with pytest.raises(ValueError, match=f"cannot listen on {host}"):
                serve(study, host, port, None, print)
