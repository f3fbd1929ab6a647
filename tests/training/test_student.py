"""A student, trained by its recipe from a teacher's run, and what it then does by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.videos import numbered
from vidiff.cli import main as command
from vidiff.cli.measure import surprise
from vidiff.engine.checkpoint import load_part, load_weights, newest
from vidiff.objective.diffusion import DiffusionObjective
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.plan.estimate import follow
from vidiff.plan.sketch import sketch
from vidiff.recipe.kinds import StudentRun
from vidiff.recipe.load import load
from vidiff.recipe.slots import ConfigError
from vidiff.share.export import export
from vidiff.train import main
from vidiff.training import diffusion
from vidiff.video.writer import write_video

TEACHER = """\
kind: diffusion
name: teacher
device: cpu
batch: 4
data: {root: data, size: 16, frames: 4, workers: 0}
codec: {name: identity}
unet: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, patch: 4, joint_attention: [0]}
sampling: {sampler: {name: ddim}, steps: 2, context: 2, count: 2, guidance: 2, history: 2}
train: {steps: 1, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 1}
"""
STUDENT = """\
base: teacher.yaml
kind: student
name: student
start: runs/teacher
loss: {steps: 4, segments: 2, tasks: {generate: 0.4, first: 0.3, random: 0.1, boxes: 0.1, clocks: 0.1}}
"""
MATCHING = ["objective=distribution_matching", "loss.segments=1", "loss.steps=16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("student")
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            write_video(place / "data" / split / name / "a.mp4", numbered(4, 16, 16, 20 * number), fps=8)
    (place / "teacher.yaml").write_text(TEACHER)
    (place / "student.yaml").write_text(STUDENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["teacher.yaml"]) == 0
        assert main(["student.yaml"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture(scope="module")
def student(place: Path) -> Pipeline:
    return Pipeline.from_pretrained(place / "runs/student", device="cpu")


def test_its_draws_are_compared_with_those_of_its_teacher(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "runs/student/metrics.jsonl").read_text().splitlines()]
    (scores,) = [line for line in lines if "val/gap" in line]
    assert scores["val/gap"] == pytest.approx(scores["val/gap_teacher"], rel=0.1), "after one step, it is its teacher"
    config = read_config(Path("runs/student"))
    assert isinstance(config, StudentRun) and config.unet.guided and config.scales == (1.0, 4.0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(["objective=progressive", "loss.segments=1"], id="progressive"),
        pytest.param(["objective=reflow", "loss.segments=1"], id="reflow"),
        pytest.param(["objective=guidance", "loss.segments=1", "loss.steps=16"], id="guidance"),
        pytest.param([*MATCHING, "sampling.sampler.name=consistency"], id="distribution_matching"),
        pytest.param(["objective=consistency_training", "loss.guidance=[1,1]"], id="of clips", marks=pytest.mark.slow),
        pytest.param(
            ["loss.steps=0", "loss.segments=1", "sampling.sampler.name=consistency", "loss.tasks.rising=0"],
            id="continuous",
        ),
        pytest.param(["start=runs/student", "loss.guidance=[1,3]"], id="of a student", marks=pytest.mark.slow),
    ],
)
def test_each_kind_of_student_is_trained(changes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that draw at the times that they learn at, half of what clips vary in is not measured."""
    monkeypatch.setattr(diffusion, "FEWEST", 1)
    monkeypatch.setattr(DiffusionObjective, "half_known", lambda objective, batch: -3.0)
    name = "-".join(change.partition("=")[2] for change in changes).replace("/", "")
    name = name.replace("[", "").replace("]", "")
    assert main(["student.yaml", f"name={name}", *changes]) == 0
    config = read_config(Path("runs", name))
    assert isinstance(config, StudentRun)
    assert Facts.load(Path("runs", name), config).half == (-3.0 if config.objective == "guidance" else None)


def test_the_interval_of_a_recipe_is_distilled_and_another_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["objective=guidance", "loss.segments=1", "loss.steps=16", "sampling.interval=[0.4,1]"]
    assert main(["student.yaml", "name=interval", *changes]) == 0
    pipe = Pipeline.from_pretrained("runs/interval")
    one, other = (pipe.generate(label="bee", guidance=2.0, seed=1, **given) for given in ({}, {"interval": [0.4, 1]}))
    assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"interval is .*: leave it at \[0.4, 1.0\], or draw with its teacher"):
        pipe.generate(label="bee", guidance=2.0, interval=[0.1, 1])
    assert main(["student.yaml", "name=next", "start=runs/interval", *changes[:-1]]) == 2
    assert "in the interval [0.4, 1.0], not None: set sampling.interval so" in capsys.readouterr().err
    for change in ("sampling.interval=[0.1,1]", "loss.guidance=[1,2]", "loss.history=false"):  # it would be of both
        assert main(["student.yaml", "name=interval", *changes, change, "train.steps=4"]) == 2
        assert f"runs/interval was trained with {change.partition('=')[0]}=" in capsys.readouterr().err


def test_every_task_asks_the_student_once_a_step(student: Pipeline) -> None:
    """Guided, with a label, and known frames come back bit for bit."""
    rows: list[int] = []
    student.denoiser.network.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    clip = student.generate(label="bee", guidance=3.0, seed=1)
    assert rows == [1, 1]
    longer = student.extend(clip, frames=6, label="bee", history=1.5)
    assert rows == [1] * 4 and torch.equal(longer[:, :, :4], clip)
    mask = torch.zeros(1, 1, 1, 16, 16, dtype=torch.bool)
    mask[..., 4:8, 4:8] = True
    filled = student.inpaint(clip, mask, label="bee")
    assert rows == [1] * 6 and torch.equal(filled.masked_fill(mask, 0), clip.masked_fill(mask, 0))
    rolled = student.extend(clip, frames=8, label="bee", strategy="rolling", sampler="consistency")
    assert torch.equal(rolled[:, :, :4], clip) and rolled.isfinite().all()
    assert set(rows) == {1}


def test_the_scale_is_told_as_the_call_has_it(student: Pipeline) -> None:
    told: list[float] = []
    hook = student.denoiser.network.register_forward_pre_hook(lambda _, given: told.extend(given[2].guidance.tolist()))
    clip = student.generate(label="ant", guidance=3.0, steps=1)
    student.generate(label="ant", guidance=2.0, convention="ho", steps=1)
    student.generate(steps=1)
    student.extend(clip, frames=5, guidance=1.5, steps=1)
    student.extend(clip, frames=5, steps=1, history=2.5)
    hook.remove()
    assert told == [3.0, 3.0, 2.0, 1.5, 2.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 5.0}, "guidance is 5, but this student knows scales of 1 to 4: give one"),
        ({"guidance": 0.5}, "guidance is 0.5, but this student knows scales of 1 to 4"),
        ({"history": 7.0}, "history is 7, but"),
        ({"rescale": 0.7}, "rescale is 0.7, but guidance was distilled into this student"),
        ({"interval": [0.2, 0.8]}, "interval is .*draw with its teacher"),
        ({"separate": True}, "separate is True"),
    ],
    ids=str,
)
def test_what_was_not_distilled_is_refused(student: Pipeline, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        student.generate(label="bee", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["start="], "start is not set: name the finished run"),
        (
            ["objective=denoising"],
            "objective is 'denoising'; choose consistency or consistency_training or",
        ),
        (["prediction=x0"], "prediction is x0, by which a consistency model"),
        (
            ["objective=consistency_training"],
            r"loss.guidance is \[1.0, 4.0\], but consistency_training",
        ),
        (["objective=progressive", "loss.steps=3"], "loss.steps is 3, but the student draws by sampling.steps=2"),
        (["objective=reflow", "loss.steps=0"], "loss.steps is 0, but objective is reflow"),
        ([*MATCHING, "train.keep_best=val/loss"], "that of distribution_matching is not the student's: give val/mis"),
        (MATCHING, "sampling.sampler.name is ddim, but .* noised anew: set sampling.sampler.name=consistency"),
        (["objective=guidance", "loss.guidance=[1,1]"], r"which is none, but objective is guidance: .*=\[1,4\]"),
        (["loss.steps=0"], "loss.segments is 2, but loss.steps=0 is for one"),
        (["loss.guidance=[4,1]"], r"loss.guidance is \[4.0, 1.0\]; give the least scale and the largest"),
        (["loss.bound=0.001"], "loss.bound is 0.001, loss.rollout 0.0 and loss.spread 0.0, but a student"),
        (["sampling.guidance=9"], "sampling.guidance is 9, but this student knows"),
        (["loss.steps=0", "loss.segments=1"], "loss.tasks.rising is 0.25, but in continuous time"),
        (["train.compile=true", "loss.steps=0", "loss.segments=1", "loss.tasks.rising=0"], "train.compile does not go"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_be_is_refused(changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load("student.yaml", changes)


def test_a_teacher_of_another_shape_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for change, message in (
        ("unet.width=16", "start=runs/teacher has unet.width=8, not 16, but a student begins as a copy of its teacher"),
        ("prediction=eps", "start=runs/teacher has prediction=v, not eps"),
        ("conditional=false", "start=runs/teacher has unet.labels=2, not 0"),
    ):
        assert main(["student.yaml", "name=other", change]) == 2
        assert message in capsys.readouterr().err
    matching = [*MATCHING, "sampling.steps=1", "loss.guidance=[1,4]", "start=runs/student"]
    assert main(["student.yaml", "name=other", *matching]) == 2
    assert "a student by consistency, which says where a draw ends" in (told := capsys.readouterr().err)
    assert "objective=distribution_matching asks its teacher" in told and "that one, start=runs/teacher, or" in told
    assert main(["student.yaml", "name=other", "start=runs/student", "loss.guidance=[1,5]"]) == 2
    assert "start=runs/student is a student of scales 1 to 4" in capsys.readouterr().err


def test_a_student_begins_as_its_teacher_and_holds_nothing_of_it_besides(place: Path) -> None:
    before, after = (load_part(Path(f"runs/{name}"), "denoiser") for name in ("teacher", "student"))
    new = after.keys() - before.keys()
    assert before.keys() <= after.keys() and new and all(key.startswith("network.embed.guidance.") for key in new)
    checkpoint = newest(place / "runs/student/checkpoints")
    assert checkpoint is not None
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, atol=0.01, rtol=0)  # one step of warm-up


def test_its_card_says_of_whom_it_learned_and_for_how_many_steps(place: Path) -> None:
    push = ["push", "runs/student", "ada/student", "--out", "card"]
    assert command(push) == 0
    page = (place / "card/README.md").read_text()
    assert "a student of the model teacher, trained with vidiff to draw in 2 steps (consistency)" in page


@pytest.mark.slow
def test_it_is_planned_with_its_teacher_s_passes() -> None:
    """Of shapes alone: four of the guided teacher, one without a gradient, and the three that any step has."""
    operations = []
    for name in ("teacher.yaml", "student.yaml"):
        of = sketch(load(name), Path())
        operations.append(follow(of, 4, "fp32").flops)
    assert operations[1] == pytest.approx(operations[0] * 8 / 3, rel=0.1)


def test_it_is_not_asked_for_a_likelihood(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert surprise.main(["data/test/ant/a.mp4", "--run", "runs/student", "--device", "cpu"]) == 2
    assert "ask its teacher's run" in capsys.readouterr().err


def test_what_a_student_was_matched_by_is_no_part_of_it(place: Path) -> None:
    """Its training tells how far both are apart, and what is passed on is the student alone."""
    changes = [*MATCHING, "name=matched", "sampling.sampler.name=consistency", "train.keep_best=val/mismatch"]
    assert main(["student.yaml", *changes]) == 0
    lines = [json.loads(line) for line in (place / "runs/matched/metrics.jsonl").read_text().splitlines()]
    (mismatch,) = [line["val/mismatch"] for line in lines if "val/mismatch" in line]
    assert mismatch > 0 and not any("val/gap" in line for line in lines)
    export(place / "runs/matched", place / "passed on", "ada/matched")
    checkpoint = newest(place / "passed on/checkpoints")
    assert checkpoint is not None
    kept = load_weights(checkpoint)
    assert kept and all(key.startswith("denoiser.") for key in kept)
    assert load_part(checkpoint, "denoiser").keys() == load_part(place / "runs/student", "denoiser").keys()
