"""tools/evaluate.py --network on a run of random weights, on real files."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vidiff.codec.codec import Identity
from vidiff.codec.files import save_codec
from vidiff.data.clip import Clip
from vidiff.data.options import DataConfig
from vidiff.data.quarantine import Quarantine, quarantine_list
from vidiff.engine import checkpoint
from vidiff.engine.parallel import Group
from vidiff.evaluate import network
from vidiff.evaluate.card import read_card
from vidiff.metrics.features import Features
from vidiff.metrics.motion_network import MotionNetwork, save_motion
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.store.files import sha256
from vidiff.video.writer import write_video

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noisy clips, in two splits; a run of random weights; a motion network of random weights."""
    place, draw = tmp_path_factory.mktemp("place"), torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for number in range(6):
            noise = torch.randn(3, 9, 16, 16, generator=draw) * 0.3 + (number % 2) / 2
            write_video(place / "data" / split / ("cat", "dog")[number % 2] / f"{number}.mp4", noise.clamp(-1, 1))
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=2)
    data = DataConfig("data", size=16, frames=4)
    sampling = SamplingConfig({"name": "ddim"}, steps=2, context=2)
    config = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    run = place / "runs" / "tiny"
    run.mkdir(parents=True)
    (run / "resolved.yaml").write_text(dump(config))
    (run / "data.json").write_text(json.dumps({"labels": ["cat", "dog"], "fps": 8.0}))
    save_codec(run / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    for step in (1, 2, 3):
        moved = {key: value + 0.02 * step * torch.randn(value.shape, generator=draw) for key, value in weights.items()}
        checkpoint.save(run / "checkpoints", step, weights, moved, {})
    torch.manual_seed(0)
    save_motion(place / "network", network := MotionNetwork(2, features=4, width=8), {})
    for name, changes in (("other", {"sha256": "0" * 64}), ("damaged", {}), ("long", {"frames": [8, None]})):
        save_motion(place / name, network, {})
        file = place / name / "network.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    (place / "damaged" / "motion.safetensors").write_bytes(b"no weights")
    network.get_buffer("mean").fill_(torch.nan)
    save_motion(place / "broken", network, {})
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


MADE = ("--data", "data", "--made")
LEVEL = ("floor ", "ceiling ", "real ", "sensitivity ")
COMMON = ("--network", "network", "--device", "cpu")
RUN = ("--run", "runs/tiny")


def score(*arguments: str) -> int:
    main = runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]
    return int(main([*COMMON, *arguments]))


def test_real_clips_are_those_that_training_would_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the quarantine holds is left out, and the decoder is that of the config."""
    config = read_config(place / "runs" / "tiny")
    config.data.decoder = "decord"
    monkeypatch.setattr(network, "read_config", lambda run: config)
    asked = network.Request(place / "network", network.RealClips(), network.Drawing(), network.Prediction())
    group = Group(torch.device("cpu"))

    def real() -> list[Clip]:
        run = Pipeline.from_pretrained(place / "runs" / "tiny", device="cpu")
        return network.Scoring(asked, place / "runs" / "tiny", run, group).real.index.files

    first = real()
    assert len(first) == 6 and {file.decoder for file in first} == {"decord"}
    quarantine = Quarantine(quarantine_list(place / "runs"))
    try:
        quarantine.add(first[2], "its decoder hung in a training")
        assert [file.name for file in real()] == [file.name for file in first if file != first[2]]
    finally:
        quarantine.file.unlink()


@pytest.mark.slow
def test_a_network_of_pictures_needs_no_folder(place: Path) -> None:
    arguments = ("--predict", "2", "--clips", "4", "--network", "efficientnet", "--lpips", "efficientnet")
    assert score(*RUN, *arguments, "--out", "pictures") == 0
    card = read_card("pictures/card.json")
    assert card.protocol["network_sha256"] == Features.load("efficientnet").sha256
    assert card.scores["frechet_frame[efficientnet]"] > 0
    assert card.scores["inception score[efficientnet] in 1 parts and standard deviation"][0] >= 1
    assert card.scores["perceptual distance[efficientnet] after 2 given frames, best of 1"] > 0
    assert "lpips" not in card.left_out and "lpips" not in " ".join(card.scores)


def test_a_run_is_scored_with_a_card_and_a_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*RUN, "--predict", "2", "--tries", "2", "--out", "one") == 0
    said = capsys.readouterr().out
    card = read_card("one/card.json")
    assert card.doubts == ()
    assert card.protocol["clips"] == card.protocol["real_clips"] == 12  # two windows of each of six files
    assert card.protocol["network_sha256"] == Features.load("network").sha256
    assert (card.protocol["frames"], card.protocol["size"], card.protocol["stride"]) == (4, 16, 1)
    assert card.made == {
        "source": "runs/tiny",
        "checkpoint": 3,
        "weights": "ema",
        "ema": "decay 0.999, warm-up 10",
        "weights_sha256": sha256(Path("runs/tiny/checkpoints/step-0000003/ema.safetensors")),
        "sampler": {"name": "ddim"},
        "steps": 2,
        "guidance": 1.5,
        "seed": 0,
    }
    assert card.scores["frechet_video[motion]"] > 0
    assert card.scores["floor frechet_video[motion]"] > 0
    assert card.scores["ceiling frechet_video[motion]"] == pytest.approx(0, abs=1e-6)  # there is no codec
    assert 0 <= card.scores["precision, recall_video[motion]"][0] <= 1
    assert 1 <= card.scores["inception score[motion] in 1 parts and standard deviation"][0] <= 2
    assert card.scores["psnr after 2 given frames, best of 2"] > 0
    assert "lpips" in card.left_out
    kinds = ("change", "acceleration", "flicker", "frozen", "warping error", "speed")
    assert all({f"motion {kind}", f"real motion {kind}"} <= card.scores.keys() for kind in kinds)
    seen = {name.split()[2]: value for name, value in card.scores.items() if name.startswith("sensitivity to ")}
    assert set(seen) == {"shuffled", "reversed", "frozen"}
    assert all(value > 0 for value in seen.values())
    told = json.loads(Path("one/scores.json").read_text())
    assert told["scores"] == dict(card.scores)
    assert told.get("mind", []) == list(card.cautions)
    assert f"frechet_video[motion]: {card.scores['frechet_video[motion]']:.6g}" in said
    page = Path("one/report.html").read_text()
    assert page.count("<video") == 1
    assert page.count("<img") == 1
    assert "frechet_video[motion]" in page
    assert "No step has been logged" not in page


def test_the_same_again_compares_and_an_edited_card_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*RUN, "--out", "two", "--clips", "8") == 0
    assert score(*RUN, "--out", "three", "--clips", "8", "--against", "two/card.json") == 0
    said = capsys.readouterr().out
    value = read_card("two/card.json").scores["frechet_video[motion]"]
    assert read_card("three/card.json").scores == read_card("two/card.json").scores
    assert f"against the other card: frechet_video[motion]: {value:.6g} against {value:.6g}" in said
    edited = json.loads(Path("two/card.json").read_text())
    edited["scores"]["frechet_video[motion]"] = 0.001
    Path("edited.json").write_text(json.dumps(edited))
    assert score(*RUN, "--out", "three", "--clips", "8", "--against", "edited.json") == 0
    said = capsys.readouterr().out
    assert "not compared: the other card cannot be trusted: its content is not what its digest" in said
    assert "against the other card" not in said
    assert score(*RUN, "--out", "three", "--clips", "6", "--against", "two/card.json") == 0
    assert "not compared: clips differs: 6 against 8" in capsys.readouterr().out


def test_a_folder_of_clips_is_scored(capsys: pytest.CaptureFixture[str]) -> None:
    """The training clips in place of made ones: what was made is the training data, and the score says so."""
    assert score("--made", "data/train", "--data", "data", "--frames", "4", "--size", "16", "--out", "copies") == 0
    card = read_card("copies/card.json")
    assert card.scores["frechet_video[motion]"] == card.scores["floor frechet_video[motion]"]
    assert card.left_out["ceiling"] == "clips from a folder have no codec"
    assert card.made["guidance"] is None
    assert "share of clips nearer" in "".join(card.left_out)  # 12 held-out clips are too few to tell
    del capsys


def test_checkpoints_are_curves_and_none_is_scored_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after the first, it goes on with the second; a later call makes the newest's clips alone."""
    drawn: list[torch.Tensor] = []
    generate = Pipeline.generate

    def counted(self: Pipeline, *arguments: Any, **options: Any) -> torch.Tensor:
        drawn.append(next(iter(self.denoiser.parameters())).clone())
        if len(drawn) == 3:  # of two batches for each checkpoint
            raise KeyboardInterrupt
        return generate(self, *arguments, **options)

    monkeypatch.setattr(Pipeline, "generate", counted)
    along = (*RUN, "--checkpoints", "all", "--out", "along", "--weights", "ema")
    assert score(*along) == 130
    cards = Path("along/checkpoints")
    first = cards / "step-0000001.json"
    assert [path.name for path in cards.iterdir()] == [first.name]
    written = first.stat().st_mtime_ns
    assert score(*along) == 0
    assert len(drawn) == 3 + 4
    assert first.stat().st_mtime_ns == written
    found = [read_card(path) for path in sorted(cards.iterdir())]
    assert [card.made["checkpoint"] for card in found] == [1, 2, 3]
    assert len({card.scores["frechet_video[motion]"] for card in found}) == 3
    name = "denoiser." + next(iter(dict(Pipeline.from_pretrained("runs/tiny", "cpu").denoiser.named_parameters())))
    for step, weight in zip((1, 1, 2, 2, 2, 3, 3), drawn, strict=True):
        own = checkpoint.load_weights(Path(f"runs/tiny/checkpoints/step-000000{step}"))
        assert torch.equal(weight, own[name])
    assert read_card("along/card.json") == found[-1]
    assert score(*RUN, "--out", "alone") == 0
    assert read_card("alone/card.json").scores == found[-1].scores
    page = Path("along/report.html").read_text()
    assert "Over checkpoints" in page
    assert page.count('class="chart"') == sum(not name.startswith(LEVEL) for name in found[-1].scores)
    assert score(*along) == 0
    assert len(drawn) == 3 + 4 + 2 + 2
    changed = json.loads(first.read_text())
    changed["scores"]["frechet_video[motion]"] = 0.001
    first.write_text(json.dumps(changed))
    assert score(*along) == 0
    assert read_card(first) == found[0]  # one that was edited is made again


def test_an_extension_is_drawn_frame_by_frame() -> None:
    assert score(*RUN, "--predict", "2", "--extend", "36", "--clips", "4", "--out", "drift") == 0
    card, along = read_card("drift/card.json"), json.loads(Path("drift/drift.json").read_text())
    assert along["given"] == 2
    assert {name: len(values) for name, values in along["made"].items()} == dict.fromkeys(
        ("colour", "sharpness", "motion"), 36
    )
    assert along["made"]["motion"][0] is None  # there is no frame before it
    assert "real" not in along  # the files have 9 frames
    parts = {name.rpartition(" ")[2] for name in card.scores if name.startswith("drift to 36 frames, ")}
    assert parts >= {"colour", "contrast", "motion", "frozen"}
    page = Path("drift/report.html").read_text()
    assert "Along an extension, after 2 given frames" in page
    assert page.count('class="chart"') == 3


def test_made_clips_of_another_size_are_told() -> None:
    assert score(*MADE, "data/train", "--frames", "4", "--size", "8", "--out", "small") == 0
    card = read_card("small/card.json")
    assert "6 of 6 made clips are not of 8 x 8 px: they were resized and cropped" in card.cautions
    assert "not of 8 x 8 px" in Path("small/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--run", "runs/tiny", "--clips", "4"), "--clips needs a --network"),
        (("--network", "network", "--json", "a.json"), "--json goes with the oracle, not with --network"),
        (("--network", "network", "--run", "a", "--made", "b"), "--made stands in place of --run"),
        (("--network", "network", "--oracle", "shapes"), "--oracle is not read with --network: leave one of them out"),
        (("--network", "network", "--made", "b", "--guidance", "2"), "--guidance is of a run that draws clips"),
        (("--network", "network", "--tries", "2"), "--tries needs --predict"),
    ],
)
def test_options_that_would_not_be_read_are_refused(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "tools" / "evaluate.py"))["main"]([*arguments])
    assert told in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_print_the_same_digits(tmp_path: Path) -> None:
    told = []
    for count in (1, 2):
        out = tmp_path / str(count)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "--"]
        command += [str(ROOT / "tools" / "evaluate.py"), *RUN, *COMMON, "--predict", "2", "--out", str(out)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.replace(str(out), ""))
        assert read_card(out / "card.json").measured["processes"] == count
    assert told[0] == told[1]
    assert "frechet_video[motion]: " in told[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*MADE, "nowhere", "--frames", "4"), "no folder nowhere: give a trained run, or a folder of clips"),
        ((*MADE, "data", "--clips", "1000", "--frames", "4"), "but 1000 are asked for"),
        (("--made", "data", "--frames", "4"), "name the real clips with --data"),
        ((*RUN, "--size", "32"), "makes clips of 16 pixels"),
        ((*MADE, "data", "--predict", "2"), "data is no trained run, so it cannot continue clips"),
        (
            (*MADE, "data", "--checkpoints", "all"),
            "has no checkpoints: leave out --predict, --extend and --checkpoints",
        ),
        ((*RUN, "--predict", "4"), "4 of 4 frames given"),
        ((*RUN, "--against", "none.json"), "none.json: No such file"),
        ((*RUN, "--clip", "data"), "data holds no CLIP model"),
        ((*RUN, "--frames", "100"), "needs 100 frames"),
        ((*RUN, "--clips", "1"), "real clips: features has 1 clips; give at least 2"),
        ((*RUN, "--extend", "20"), "extend is 20; give at least 34 frames"),
        ((*RUN, "--checkpoints", "4"), "checkpoints is '4'; runs/tiny has 3: give \"all\", or 1 to 3"),
        ((*RUN, "--checkpoints", "2", "--weights", "best"), "knows of no best one"),
        ((*RUN, "--network", "nowhere"), "no nowhere/network.json: give efficientnet, which needs none"),
        ((*RUN, "--network", "other"), "is another file"),
        ((*RUN, "--network", "damaged"), "cannot be loaded as network.json declares it"),
        ((*RUN, "--network", "long"), "clips have 4 frames, network motion takes 8 or more: change --frames"),
        ((*RUN, "--network", "broken"), "features of 12 of 12 clips are not finite, first of clip 0"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*arguments) == 2
    assert not list(Path("runs/tiny").glob("scores-*"))  # what cannot be scored leaves no card
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert told in error[0]
