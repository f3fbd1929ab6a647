"""Pixels in another range, layout or type are refused wherever they are taken, with what converts them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vidiff
from vidiff.codec.codec import Identity, VAECodec
from vidiff.data.buckets import Bucket
from vidiff.metrics.drift import look
from vidiff.metrics.motion import motion_measures, warping_error
from vidiff.metrics.oracle import read_shapes
from vidiff.metrics.prediction import overall_psnr, psnr, ssim
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pixels import FARTHEST, check_picture, check_video
from vidiff.recipe.kinds import SamplingConfig
from vidiff.video.writer import VideoWriter, write_image

SHAPE = (2, 3, 5, 16, 16)
GOOD = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
LEVELS = ((GOOD + 1) * 127.5).round()

WRONG: dict[str, tuple[Tensor, str]] = {  # a clip as others have it; the expression that its refusal ends in
    "bytes": (LEVELS.byte(), "{}.float() / 127.5 - 1"),
    "floats to 255": (LEVELS, "{} / 127.5 - 1"),
    "whole numbers": (LEVELS.long(), "{}.float() / 127.5 - 1"),
    "colours last": (GOOD.movedim(1, -1), "{}.movedim(-1, -4)"),
    "colours last, bytes": (LEVELS.byte().movedim(1, -1), "{}.movedim(-1, -4).float() / 127.5 - 1"),
    "frames first": (GOOD.transpose(1, 2), "{}.transpose(-4, -3)"),
    "frames first, to 255": (LEVELS.transpose(1, 2), "{}.transpose(-4, -3) / 127.5 - 1"),
    "with alpha": (torch.cat([GOOD, GOOD[:, :1]], 1), "{}[..., :3, :, :, :]"),
    "grey": (GOOD[:, :1], "{}.repeat_interleave(3, -4)"),
}


def refusal(call: Callable[[Tensor], Any], x: Any) -> str:
    with pytest.raises(ValueError) as caught:
        call(x)
    return str(caught.value)


@pytest.mark.parametrize("name", WRONG)
def test_the_expression_that_a_refusal_gives_makes_a_clip_of_it(name: str) -> None:
    clip, way = WRONG[name]
    said = refusal(check_video, clip)
    assert said.removesuffix(", if they are 0 to 255").endswith(way.format("clip")), said
    made = eval(way.format("clip"), {"clip": clip})
    check_video(made)
    assert made.shape == SHAPE
    if name != "grey":
        torch.testing.assert_close(made, LEVELS / 127.5 - 1 if "127.5" in way else GOOD)


def test_one_clip_a_picture_and_arrays() -> None:
    assert refusal(check_video, LEVELS[0].byte().movedim(0, -1)).endswith(
        "clip is (5, 16, 16, 3); expected (3, f, h, w) or (b, 3, f, h, w) in [-1, 1]: clip.movedim(-1, -4).float() / "
        "127.5 - 1"
    )
    picture = LEVELS[0, :, 0].byte().permute(1, 2, 0)
    assert refusal(check_picture, picture).endswith(": image.movedim(-1, -3).float() / 127.5 - 1")
    check_picture(picture.movedim(-1, -3).float() / 127.5 - 1)
    assert "clip is a ndarray; expected a torch tensor" in refusal(check_video, np.zeros(SHAPE))
    assert refusal(lambda x: check_video(x, one=False), GOOD[0]).endswith("(b, 3, f, h, w) in [-1, 1]: clip[None]")
    assert refusal(check_video, torch.zeros(16, 16)) == (
        "clip is (16, 16); expected (3, f, h, w) or (b, 3, f, h, w) in [-1, 1]"
    )


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite(value: float) -> None:
    clip = GOOD.clone()
    clip[1, 2, 3, 4, 5] = value
    assert "clip holds values that are not finite" in refusal(check_video, clip)


def test_what_a_model_or_a_resizing_overshoots_passes() -> None:
    """The worst that bicubic resizing makes of pixels is far outside of [-1, 1], and within bounds."""
    signs = torch.tensor([-1.0, 1.0, 1.0, -1.0])
    picture = torch.outer(signs, signs).expand(1, 3, 4, 4)
    worst = torch.nn.functional.interpolate(picture, scale_factor=4, mode="bicubic").unsqueeze(2)
    assert 1.7 < worst.max() < FARTHEST
    check_video(worst)
    check_video(GOOD * FARTHEST)
    check_video(GOOD.half())
    assert "has values from -4 to 4; expected [-1, 1]: bring them there" in refusal(
        check_video, torch.full(SHAPE, 4.0) * torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1)
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    class Nothing(torch.nn.Module):
        schedule = None

        def forward(self, *given: object) -> None:
            raise AssertionError("it has been drawn")

    model = TrainedModel(Nothing(), Identity(), Facts((Bucket(8, 16, 16),)))  # type: ignore[arg-type]
    return Pipeline(model, SamplingConfig(context=2), "cpu")


MASK = torch.ones(1, 1, 1, 16, 16, dtype=torch.bool)
CALLS: dict[str, Callable[[Pipeline, Tensor], Any]] = {
    "extend": lambda pipe, x: pipe.extend(x, 9),
    "backwards": lambda pipe, x: pipe.extend(x, 9, backwards=True),
    "stream": lambda pipe, x: [*pipe.stream(9, clip=x)],
    "first": lambda pipe, x: pipe.interpolate(x, GOOD, 2),
    "last": lambda pipe, x: pipe.interpolate(GOOD, x, 2),
    "loop": lambda pipe, x: pipe.loop(x),
    "inpaint": lambda pipe, x: pipe.inpaint(x, MASK),
    "outpaint": lambda pipe, x: pipe.outpaint(x, (0, 0, 4, 4)),
    "edit": lambda pipe, x: pipe.edit(x, 0.5),
    "double": lambda pipe, x: pipe.double(x),
    "reconstruct": lambda pipe, x: pipe.reconstruct(x),
    "encode": lambda pipe, x: VAECodec(VAEConfig(channels=3, width=4, multipliers=[1], patch=2)).encode(x),
    "psnr": lambda pipe, x: psnr(x, x),
    "ssim": lambda pipe, x: ssim(x, x),
    "motion_measures": lambda pipe, x: motion_measures(x),
    "warping_error": lambda pipe, x: warping_error(x),
    "read_shapes": lambda pipe, x: read_shapes(x),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_refuses_what_is_no_clip(pipe: Pipeline, call: str) -> None:
    for clip, way in WRONG.values():
        if call != "read_shapes" or not torch.equal(clip.float(), LEVELS):  # which reads any colours
            said = refusal(lambda x: CALLS[call](pipe, x), clip)
            name = next(name for name in ("clip", "video", "first", "last", "made") if said.startswith(f"{name} "))
            assert way.format(name) in said


def test_pictures_that_are_animated_or_written(pipe: Pipeline, tmp_path: Path) -> None:
    picture = LEVELS[0, :, 0].byte()
    for call in (lambda x: pipe.animate(x), lambda x: write_image(tmp_path / "a.png", x)):
        assert "image.float() / 127.5 - 1" in refusal(call, picture)
        assert "image.movedim(-1, -3).float() / 127.5 - 1" in refusal(call, picture.movedim(0, -1))
    assert "first.movedim(-1, -3)" in refusal(lambda x: pipe.interpolate(x, GOOD[:1], 2), picture.movedim(0, -1))


@pytest.mark.parametrize("name", WRONG)
def test_what_is_written(tmp_path: Path, name: str) -> None:
    clip, way = WRONG[name]
    for given in (clip, clip[0]):
        assert way.format("video") in refusal(lambda x: vidiff.write_video(tmp_path / "a.mp4", x), given)
    with pytest.raises(ValueError), VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(clip[0])
    assert not [*tmp_path.iterdir()]


def test_measures_of_any_channels_and_shapes_ask_for_values_alone() -> None:
    assert look(torch.zeros(1, 4, 3, 8, 8)).change.shape == (1, 3)
    for clip in (LEVELS.byte(), LEVELS):
        assert "/ 127.5 - 1" in refusal(look, clip) and "/ 127.5 - 1" in refusal(lambda x: overall_psnr(x, x), clip)


def test_latents_that_are_none_of_the_codec() -> None:
    codec = Identity()
    for z, said in (
        (torch.zeros(1, 4, 2, 8, 8), r"latents are (1, 4, 2, 8, 8) of torch.float32; expected floating point (b, 3, f"),
        (torch.zeros(3, 2, 8, 8), "latents are (3, 2, 8, 8)"),
        (torch.zeros(1, 3, 2, 8, 8).long(), "of torch.int64"),
        (torch.full((1, 3, 2, 8, 8), torch.nan), "not finite: the model that made them has diverged"),
    ):
        assert said in refusal(codec.decode, z)
