"""Textured shapes: detail that cannot be known from smaller frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidiff.data.shapes import GRAIN, ShapesSpec, make_clip, make_shapes, read_clips
from vidiff.diffusion.cascade import shrink
from vidiff.metrics.objects import LABELS
from vidiff.video.reader import VideoReader


def test_a_texture_vanishes_when_shrunk_by_its_factor_and_moves_with_the_object() -> None:
    spec = ShapesSpec(size=256, frames=32, straight=1, texture=4)
    clip = make_clip(spec, "test", "red_square", 0)
    assert replace(clip, texture=0, grain=0) == make_clip(replace(spec, texture=0), "test", "red_square", 0)
    still, plain = clip.video(2), replace(clip, texture=0).video(2)

    def power(factor: int) -> float:
        return float((shrink(still[None], factor) - shrink(plain[None], factor)).square().mean())

    assert power(1) == pytest.approx(GRAIN**2, rel=0.1) and 0.2 * GRAIN**2 < power(2) < 0.4 * GRAIN**2
    assert power(4) < 0.01 * GRAIN**2
    # moved by whole pixels, the object takes its texture along, and the ground's stays
    moved = replace(clip, position=(100.3, 60.7), velocity=(3.0, -2.0)).video(2)
    inside, beside = moved[:, :, 45:75, 90:110], moved[:, :, 200:, 200:]
    torch.testing.assert_close(moved[:, 1, 43:73, 93:113], inside[:, 0], atol=1e-4, rtol=0)
    assert torch.equal(beside[:, 0], beside[:, 1]) and not torch.equal(inside[:, 0], inside[:, 1])
    other = make_clip(spec, "test", "red_square", 1)
    assert (other.texture, other.grain == clip.grain) == (4, False)


def test_a_textured_set_says_so_and_is_read_back(tmp_path: Path) -> None:
    spec = ShapesSpec(size=64, frames=4, train=1, test=0, texture=2)
    make_shapes(tmp_path, spec, progress=False)
    assert json.loads((tmp_path / "spec.json").read_text())["texture"] == 2
    read = read_clips(tmp_path)
    assert list(read.values()) == [make_clip(spec, "train", label, 0) for label in LABELS]
    path = next(iter(read))
    with VideoReader(path) as reader:
        kept, made = reader.read(), read[path].video(4)
    grey = [(video[:, :, :20, :20].mean(0) - video[:, :, :20, :20].mean()).flatten() for video in (kept, made)]
    assert float(torch.corrcoef(torch.stack(grey))[0, 1]) > 0.95, "H.264 keeps it"
    with pytest.raises(ValueError, match="texture is 1; give the factor by which frames are shrunk"):
        ShapesSpec(texture=1)
