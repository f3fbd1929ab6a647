"""A training that begins with another run's weights: what is known of a class or a word goes to that of its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.helpers.videos import numbered
from vidiff.codec.files import load_codec
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.engine.checkpoint import load_part
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.run import read_config
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import DiffusionRun
from vidiff.train import main
from vidiff.training.start import look_beside, start_denoiser
from vidiff.video.writer import write_video

CONFIG = """\
kind: diffusion
name: before
device: cpu
batch: 2
data: {root: before, size: 16, frames: 2, workers: 0, captions: jsonl}
codec: {name: identity}
text: {name: words, dim: 8}
unet: {width: 8, multipliers: [1], blocks: [1], head_dim: 8, patch: 4, joint_attention: []}
sampling: {sampler: {name: ddim}, steps: 1, context: 1, count: 2}
train: {steps: 1, precision: fp32, log_every: 1, checkpoint_every: 1, validate_every: 1}
"""
UNET = UNetConfig(width=8, multipliers=[1], blocks=[1], head_dim=8, patch=4, joint_attention=[])
CLASSES = {"before": ["ant", "bee", "cat"], "after": ["cat", "dog", "elk", "bee"]}
CAPTIONS = {"before": "it\u2019s a red cat", "after": "it's a blue cat"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("start")
    for root, names in CLASSES.items():
        lines = []
        for split in ("train", "test"):
            for number, name in enumerate(names):
                write_video(place / root / split / name / "a.mp4", numbered(3, 16, 16, 20 * number), fps=8)
                lines.append(json.dumps({"path": f"{split}/{name}/a.mp4", "caption": CAPTIONS[root]}))
        (place / root / "captions.jsonl").write_text("\n".join(lines) + "\n")
    (place / "before.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["before.yaml"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def begun(labels: list[str], words: list[str], **change: object) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a model of these classes and words, fresh and with those of the run before."""
    config = read_config(Path("runs/before"))
    config.name, config.start = "after", "runs/before"
    for key, value in change.items():
        setattr(config, key, value)
    config.forget()
    config.resolve(3, len(labels), (8, len(words)) if words else (0, 0))
    torch.manual_seed(1)
    denoiser: Denoiser = build_denoiser(config)
    fresh = {key: value.clone() for key, value in denoiser.state_dict().items()}
    facts = Facts.of(config, tuple(labels), 8.0, text={"vocabulary": words, "length": 5} if words else None)
    start_denoiser(config, load_codec(Path("runs/before/codec")), facts, denoiser)
    return fresh, denoiser.state_dict()


def test_rows_follow_names_and_what_begins_anew_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["a", "blue", "cat", "it's"]
    fresh, now = begun(CLASSES["after"], words)
    before = load_part(Path("runs/before"), "denoiser")
    for key, start, names, known in (
        ("network.embed.label.weight", 1, CLASSES["after"], CLASSES["before"]),
        ("network.text.embed.weight", 0, words, ["a", "cat", "it's", "red"]),
    ):
        for number, name in enumerate(names):
            row = before[key][start + known.index(name)] if name in known else fresh[key][start + number]
            assert torch.equal(now[key][start + number], row), name
        assert torch.equal(now[key][:start], before[key][:start])
        assert not torch.equal(before[key], fresh[key][: len(before[key])])
    others = set(now) - {"network.embed.label.weight", "network.text.embed.weight"}
    assert all(torch.equal(now[key], before[key]) for key in others)
    assert capsys.readouterr().out.strip() == (
        "start=runs/before: of the classes, 'dog', 'elk' begin anew; what was learned of the classes 'ant' is left "
        "out; of the words, 'blue' begin anew; what was learned of the words 'red' is left out"
    )


def test_a_model_without_classes_begins_with_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    _, now = begun([], ["a", "cat", "it's", "red"], conditional=False)
    assert "network.embed.label.weight" not in now
    assert "knows no class, so what was learned of 'ant', 'bee', 'cat' is left out" in capsys.readouterr().out


def test_text_of_another_encoder_begins_anew(capsys: pytest.CaptureFixture[str]) -> None:
    fresh, now = begun(CLASSES["before"], ["a", "b"], text={"name": "huggingface", "model": "x"})
    assert torch.equal(now["network.text.null"], fresh["network.text.null"])
    assert torch.equal(now["network.middle.read.query.weight"], fresh["network.middle.read.query.weight"])
    assert "'text'" in capsys.readouterr().out


def test_a_causal_model_begins_with_one_that_looks_ahead(capsys: pytest.CaptureFixture[str]) -> None:
    """Where frames repeat, a convolution gives what it gave, but for the ends; all other weights are as they were."""
    unet = replace(read_config(Path("runs/before")).unet, causal=True)
    _, now = begun(CLASSES["before"], ["a", "cat", "it's", "red"], unet=unet)
    before = load_part(Path("runs/before"), "denoiser")
    changed = [key for key in now if not torch.equal(now[key], before[key])]
    assert changed and all(key.endswith(".time.weight") for key in changed)
    for key in changed:
        still = torch.randn(now[key].shape[1]).view(1, -1, 1, 1).expand(1, -1, 5, 1)
        found, wanted = (torch.nn.functional.conv2d(still, weights[key])[0, :, 0, 0] for weights in (now, before))
        torch.testing.assert_close(found, wanted)
        assert not now[key][:, :, 0].any()
    told = capsys.readouterr().out.strip()
    assert told.startswith("start=runs/before: attention and temporal convolutions no longer look ahead, where a frame")


def test_frames_begin_from_known_ones_in_a_model_that_begins_with_one_without(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where none is known it says what the other said, and where one is hardly anything else."""
    _, now = begun(CLASSES["before"], ["a", "cat", "it's", "red"], unet=replace(UNET, previous=True))
    assert capsys.readouterr().out.strip() == "start=runs/before: frames hardly begin from known ones at first"
    before = UNet(resolved := replace(UNET, channels=3, labels=3, text_dim=8, words=4)).eval()
    after = UNet(replace(resolved, previous=True)).eval()
    given = {f"network.{key}": torch.randn_like(value) for key, value in before.state_dict().items()}
    before.load_state_dict({key.removeprefix("network."): value for key, value in given.items()})
    own = {f"network.{key}": value for key, value in after.state_dict().items()}
    assert look_beside(given, own, before.config, after.config) == ["frames hardly begin from known ones at first"]
    after.load_state_dict({key.removeprefix("network."): value for key, value in given.items()})
    x, clock, nothing = torch.randn(2, 3, 4, 16, 16), torch.zeros(2, 1, 4, 16, 16), Condition()
    torch.testing.assert_close(after(x, clock, nothing), before(x, clock, nothing))
    clock[:, :, :2] = 12.0
    said, wanted = after(x, clock, nothing), before(x, clock, nothing)
    assert 0.0 < (said - wanted).std() < 0.1 * wanted.std()
    assert now["network.leave.bias"].shape == (3 * 3 * 16,)


def test_weights_of_videos_that_are_shown_keep_their_places() -> None:
    """Whether a video comes to previous frames, or these to a video."""
    for first in ("control_channels", "previous"):
        one = replace(UNET, channels=3, **{first: 1})
        both = replace(UNET, channels=3, control_channels=1, previous=True)
        given = {"network.enter.weight": torch.randn(UNet(one).enter.weight.shape)}
        given |= {
            f"network.leave.{key}": torch.randn_like(value) for key, value in UNet(one).leave.state_dict().items()
        }
        weight = given["network.enter.weight"]
        own = {f"network.{key}": value for key, value in UNet(both).state_dict().items()}
        look_beside(given, own, one, both)
        wider = given["network.enter.weight"].unflatten(1, (9, 16))  # x, clock, control, four of frames before
        kept = [0, 1, 2, 3, 4] if first == "control_channels" else [0, 1, 2, 3, 5, 6, 7, 8]
        assert torch.equal(wider[:, kept], weight.unflatten(1, (-1, 16)))
        assert not wider[:, [place for place in range(9) if place not in kept]].any()


def test_a_model_that_looks_ahead_begins_with_no_causal_one(place: Path) -> None:
    command = ["before.yaml", "name=causal", "unet.causal=true", "loss.tasks.clocks=0.5"]
    assert main(command) == 0
    with pytest.raises(ValueError, match="start=runs/causal looks back alone, and this model is to look ahead"):
        begun(CLASSES["before"], ["a"], start="runs/causal")


def test_a_training_of_other_classes_begins_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["before.yaml", "name=after", "data.root=after", "start=runs/before"]
    assert main(command) == 0
    assert "start=runs/before: of the classes, 'dog', 'elk' begin anew" in capsys.readouterr().out
    assert main([*command, "train.steps=2"]) == 0
    assert "start=" not in capsys.readouterr().out, "it goes on from its own checkpoint"
    config = read_config(Path("runs/after"))
    assert isinstance(config, DiffusionRun) and config.unet.labels == 4
