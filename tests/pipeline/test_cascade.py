"""Two stages of super-resolution in one call, and what they look like in several numbers of steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipelines import enlarging, save

from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.pipeline.cascade import Cascade
from vidiff.pipeline.pipeline import Pipeline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    save(runs / "sr16", enlarging(16), seed=16)
    save(runs / "sr32", enlarging(32, level=0.05, labels=2), seed=32, labels=("cat", "dog"))
    save(runs / "base", enlarging(factor=0))
    return runs


def load(*runs: Path) -> Cascade:
    return Cascade.from_pretrained(runs, device="cpu")


def test_each_stage_enlarges_what_the_one_before_made(runs: Path) -> None:
    cascade = load(runs / "sr16", runs / "sr32")
    assert (cascade.factor, cascade.small, cascade.size, cascade.labels) == (4, (8, 8), (32, 32), ("cat", "dog"))
    given = torch.rand(2, 3, 7, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    first, second = (Pipeline.from_pretrained(runs / name, "cpu") for name in ("sr16", "sr32"))
    made = cascade.upscale(given, ["cat", "dog"], seed=3, level=0.2, steps=3)
    middle = first.upscale(given, seed=3, level=0.2, steps=3)
    expected = second.upscale(middle, ["cat", "dog"], seed=3, steps=3)  # at its own level
    assert made.shape == (2, 3, 7, 32, 32)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(made, cascade.upscale(given, ["dog", "dog"], seed=3, level=0.2, steps=3))
    streamed = list(cascade.upscale_stream(given.split(3, dim=2), ["cat", "dog"], 2, seed=3, level=0.2, steps=3))
    assert len(streamed) > 1 and torch.allclose(torch.cat(streamed, dim=2), made, atol=1e-5)


def test_one_stage_is_its_run(runs: Path) -> None:
    given = torch.zeros(1, 3, 4, 8, 8)
    alone = Pipeline.from_pretrained(runs / "sr16", "cpu")
    assert torch.equal(load(runs / "sr16").upscale(given, seed=2), alone.upscale(given, seed=2))


def test_bicubic_is_what_the_first_stage_is_given_enlarged_at_once(runs: Path) -> None:
    video = torch.rand(1, 3, 2, 32, 32) * 2 - 1
    small, bicubic = load(runs / "sr16", runs / "sr32").bicubic(video)
    assert torch.equal(small, shrink(video, 4)) and torch.equal(bicubic, enlarge(small, 4))


def test_mistakes_name_the_stage(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"sr16: it enlarges clips of 8 px, but is given clips of 16 px"):
        load(runs / "sr16", runs / "sr16")
    with pytest.raises(ValueError, match=r"base: this run makes clips and enlarges none"):
        load(runs / "base")
    with pytest.raises(ValueError, match=r"base: this run makes clips and enlarges none"):
        load(runs / "sr16", runs / "base")
    with pytest.raises(ValueError, match="stages is empty"):
        Cascade([])
    with pytest.raises(ValueError, match="label"):
        load(runs / "sr16").upscale(torch.zeros(1, 3, 4, 8, 8), "cat")
