"""Autoencoders on trial: which is taken, that one learns in its time, and that the recipe says what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from messy import write_clip

from vidiff.cli import main
from vidiff.data.index import index_of
from vidiff.plan.codecs import candidates, choose_codec
from vidiff.plan.shape import network_for
from vidiff.recipe.load import load
from vidiff.training.kept import Kept, measure
from vidiff.training.trial import LEAST, Trial, choose, learn

VAE = """\
kind: vae
name: small
batch: 2
data: {root: clips, size: 32, frames: 2, workers: 0}
vae: {channels: 4, width: 8, blocks: 1, multipliers: [1], patch: 2}
train: {optim: {lr: 3.0e-3}}
"""


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for n in range(3):
        write_clip(tmp_path / "clips" / f"{n}.mp4", n, frames=8)
    return tmp_path


def trials(*found: tuple[int, int, float | None, float]) -> list[Trial]:
    """Of (factor, channels, share kept of what moves, PSNR)."""
    codec = choose_codec(64)
    return [
        Trial(replace(codec, factor=factor, channels=channels), 9, Kept(psnr, 0.5, moving, 0.1, 4))
        for factor, channels, moving, psnr in found
    ]


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ([(4, 16, 0.9, 20), (4, 8, 0.8, 30), (8, 16, 0.4, 30)], 0),
        ([(4, 16, 0.9, 20), (4, 8, 0.86, 20), (8, 16, 0.4, 30)], 1),  # nearly as much, in half the numbers
        ([(4, 16, 0.9, 20), (4, 8, 0.91, 20), (8, 16, 0.88, 20)], 2),  # nearly as much, in a quarter of the places
        ([(4, 16, 0.1, 12), (4, 8, 0.19, 12), (8, 16, -0.3, 12)], 0),  # too little to tell: the table's
        ([(4, 16, None, 30), (4, 8, None, 29.6), (8, 16, None, 27)], 1),  # nothing moves
    ],
)
def test_what_is_kept_decides_and_then_how_small_latents_are(
    found: list[tuple[int, int, float | None, float]], taken: int
) -> None:
    tried = trials(*found)
    assert choose(tried) is tried[taken]


def test_candidates_are_the_table_s_and_others() -> None:
    assert candidates(32) == []
    for size in (48, 64, 96, 128, 256, 512):
        first, *others = candidates(size)
        assert first == choose_codec(size) and len(others) == 2
        assert len({(codec.factor, codec.channels) for codec in (first, *others)}) == 3
    for size in range(40, 512, 8):
        try:
            network_for(size)
        except ValueError:
            continue  # no frames of that size are asked for
        assert [network_for(size, codec)[0] for codec in candidates(size)] == candidates(size)


def test_an_autoencoder_learns_in_its_time(clips: Path) -> None:
    """With next to no time it takes the least steps there are; with some it comes nearer to the clips."""
    (clips / "small.yaml").write_text(VAE)
    config = load(clips / "small.yaml")
    index, held_out = (index_of(config.data, Path("runs"), split) for split in ("train", "test"))
    psnr = []
    for seconds in (1e-9, 1.5):
        codec, steps = learn(config, index, seconds, torch.device("cpu"), "small")
        kept, _ = measure(config, codec, held_out, torch.device("cpu"))
        psnr.append(kept.psnr)
        assert steps >= LEAST and not codec.training and (seconds > 1 or steps == LEAST)
    assert steps < 20 or psnr[1] > psnr[0]  # fewer where other work takes the time
    assert not (Path("runs") / "small").exists()  # nothing is kept


def test_pixels_have_nothing_to_try(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--data", "clips", "--trial", "1", "--gpu", "cpu"]) == 2
    assert "frames of 32 px are learned as they are" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["new", "mine", "--data", "clips", "--trial", "0"])
    assert "argument --trial: 0 is out of range; give a number above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_recipe_says_what_was_tried(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", "mine", "--data", "clips", "--trial", "0.1", "--size", "48", "--gpu", "cpu"]) == 0
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("tried ")]
    assert len(lines) == 3
    text = Path("mine.yaml").read_text()
    assert all(f"#   {line.removeprefix('tried ')}" in text for line in lines)
    (taken,) = (line for line in text.splitlines() if line.endswith(" (taken)"))
    vae = load("mine_vae.yaml").vae
    assert taken.startswith(f"#   {vae.factor}x, {vae.channels} channels")
    assert "of 4 held-out windows" in text
