"""Scores by a network of random weights, of a run that reads text and of folders of clips, on real files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.engine.parallel import Group
from vidiff.evaluate import network
from vidiff.evaluate.card import Card, read_card
from vidiff.evaluate.network import Drawing, Prediction, RealClips, Request, Scoring, score_by_network
from vidiff.metrics.motion_network import MotionNetwork, save_motion
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import read_config
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.video.writer import write_video

GROUP = Group(torch.device("cpu"))
WORDS = ["a", "cat", "dog", "runs"]
RUN = Path("runs/told")


def noise(path: Path, frames: int, draw: torch.Generator) -> None:
    write_video(path, (torch.randn(3, frames, 16, 16, generator=draw) * 0.3).clamp(-1, 1))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy clips: of two splits with captions and no classes, of a long training, and a run that reads text."""
    place, draw = tmp_path_factory.mktemp("place"), torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("test", 3)):
        for number in range(count):
            noise(place / "data" / split / f"{number}.mp4", 9, draw)
            (place / "data" / split / f"{number}.txt").write_text(f"a {WORDS[1 + number % 2]} runs")
    for split, count in (("train", 10), ("test", 2)):
        for number in range(count):
            noise(place / "long" / split / f"{number}.mp4", 40, draw)
    (place / "data" / "test" / "2.txt").write_text("a cow runs")
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, text_dim=8, words=len(WORDS))
    data = DataConfig("data", size=16, frames=4)
    sampling, codec = SamplingConfig({"name": "ddim"}, steps=1, context=2), CodecConfig("identity")
    text = {"name": "words", "dim": 8}
    config = DiffusionRun("diffusion", "told", data=data, codec=codec, unet=unet, sampling=sampling, text=text)
    (place / RUN).mkdir(parents=True)
    (place / RUN / "resolved.yaml").write_text(dump(config))
    learned = {"vocabulary": WORDS, "length": 3}
    (place / RUN / "data.json").write_text(json.dumps({"labels": [], "fps": 8.0, "text": learned}))
    save_codec(place / RUN / "codec", Identity())
    weights = {f"denoiser.{key}": value for key, value in build_denoiser(config).state_dict().items()}
    checkpoint.save(place / RUN / "checkpoints", 1, weights, weights, {})
    torch.manual_seed(0)
    save_motion(place / "network", MotionNetwork(2, features=4, width=8), {})
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def request_of(out: Path | None = None, predict: int | None = None, clip: Path | None = None, **real: Any) -> Request:
    return Request(Path("network"), RealClips(**real), Drawing(), Prediction(predict), clip=clip, out=out)


def card_of(request: Request, origin: Path, run: Pipeline | None = None) -> Card:
    page = Path(score_by_network(request, origin, run, GROUP)[-1])
    return read_card(page.parent / "card.json")


class Judge:
    """In place of a CLIP model: notes the words that it is given."""

    sha256 = "of the model"
    heard: list[str]

    def __init__(self, folder: Path, device: torch.device) -> None:
        Judge.heard = []

    def __call__(self, video: Tensor, captions: Sequence[str]) -> Tensor:
        Judge.heard += captions
        return torch.full((len(video),), 25.0)


def test_a_folder_is_scored_twice_alike(tmp_path: Path) -> None:
    """What the first time leaves in the folder is no clip of the second."""
    for number, name in enumerate(("a", "b", "zebra")):
        (tmp_path / "made" / name).mkdir(parents=True)
        shutil.copy(f"data/train/{number}.mp4", tmp_path / "made" / name / "clip.mp4")
    asked = request_of(data="data", frames=4, size=16)
    first = card_of(asked, tmp_path / "made")
    made = tmp_path / "made" / "scores-motion"
    files = sorted(path.name for path in made.iterdir())
    assert "real-left-made-right.mp4" in files
    again = card_of(asked, tmp_path / "made")
    assert again.scores == first.scores and again.cautions == first.cautions
    assert sorted(path.name for path in made.iterdir()) == files
    with pytest.raises(ValueError, match="the folder of made clips itself"):
        card_of(request_of(tmp_path / "made", data="data", frames=4, size=16), tmp_path / "made")


def test_copies_of_any_training_clip_are_found(tmp_path: Path) -> None:
    """100 windows to train on, of which the floor has each fifth; two files of them in place of made clips."""
    for number in (3, 7):
        (tmp_path / "made").mkdir(exist_ok=True)
        shutil.copy(f"long/train/{number}.mp4", tmp_path / "made" / f"{number}.mp4")
    card = card_of(request_of(tmp_path / "out", data="long", frames=4, size=16), tmp_path / "made")
    assert card.protocol["clips"] == 20
    (name,) = (name for name in card.scores if name.startswith("share of clips nearer to training"))
    assert card.scores[name] > 0.9 and name.endswith(", 100 of 100 training clips searched")
    assert (tmp_path / "out" / "made-then-nearest-training-clips.png").is_file()


def test_made_clips_are_not_thinned_as_real_ones_are(tmp_path: Path) -> None:
    """Files of as many frames as a clip has: at a stride of 2 none would be long enough."""
    draw = torch.Generator().manual_seed(1)
    for number in range(3):
        noise(tmp_path / "made" / f"{number}.mp4", 4, draw)
    card = card_of(request_of(tmp_path / "out", data="data", frames=4, size=16, stride=2), tmp_path / "made")
    assert card.protocol["stride"] == 2 and card.protocol["clips"] == 3


def test_data_named_are_seen_as_the_run_sees_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(RUN)
    config.data.stride, config.data.background, config.data.layout = [2, 2], "black", "flat"
    monkeypatch.setattr(network, "read_config", lambda run: config)
    run = Pipeline.from_pretrained(RUN, "cpu")
    own, named = (Scoring(request_of(data=data), RUN, run, GROUP) for data in (None, "data"))
    assert own.protocol() == named.protocol() and own.protocol()["stride"] == 2
    assert named.real.index.treatment.background == "black"


def test_a_run_that_reads_text_is_told_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = list[Any]()
    for name in ("generate", "extend"):
        monkeypatch.setattr(Pipeline, name, heard(told, getattr(Pipeline, name)))
    monkeypatch.setattr(network, "ClipScore", Judge)
    card = card_of(request_of(tmp_path, predict=2, clip=Path("clip")), RUN, Pipeline.from_pretrained(RUN, "cpu"))
    shown = ["a cat runs", "a cat runs", "a dog runs", "a dog runs", "a cow runs", "a cow runs"]  # two of each file
    assert told == [[*shown[:4], None, None]] * 2
    assert Judge.heard == shown * 2
    assert card.scores["CLIP score"] == card.scores["real CLIP score"] == 25
    assert card.protocol["clip_words"] == "captions" and card.protocol["clip_sha256"] == Judge.sha256
    assert (card.protocol["given"], card.protocol["tries"]) == (2, 1)
    assert any("2 of 6 real clips have captions with words that the run does not know" in x for x in card.cautions)


def heard(told: list[Any], make: Any) -> Any:
    """`make`, whose texts are noted."""

    def making(*given: Any, **options: Any) -> Tensor:
        told.append(options["text"])
        return make(*given, **options)

    return making


def test_without_captions_and_labels_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "ClipScore", Judge)
    asked = {"clip": Path("clip"), "data": "long", "clips": 4}
    card = card_of(request_of(tmp_path / "run", **asked), RUN, Pipeline.from_pretrained(RUN, "cpu"))
    assert "the run reads text, and its clips are drawn without any" in card.cautions
    assert card.left_out["CLIP score"] == "the run's clips are drawn without label and text"
    card = card_of(request_of(tmp_path / "made", **asked, frames=4, size=16), Path("long/train"))
    assert card.left_out["CLIP score"] == "4 of 4 real clips have neither a caption nor a label"
    assert Judge.heard == [] and card.protocol["clip_sha256"] is None and "CLIP score" not in card.scores


def test_made_clips_are_compared_with_their_own_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "ClipScore", Judge)
    for folder, names in (("data/train", "ab"), ("data/test", "ab"), ("made", "bb")):
        for number, name in enumerate(names):
            (tmp_path / folder / f"red_{name}").mkdir(parents=True, exist_ok=True)
            shutil.copy(f"data/test/{number}.mp4", tmp_path / folder / f"red_{name}" / f"{number}.mp4")
    real = {"data": str(tmp_path / "data"), "frames": 4, "size": 16, "clips": 4}
    card = card_of(request_of(tmp_path / "out", clip=Path("clip"), **real), tmp_path / "made")
    assert Judge.heard == ["red a", "red a", "red b", "red b", *["red b"] * 4]
    assert card.protocol["clip_words"] == "labels" and "CLIP score" in card.scores
