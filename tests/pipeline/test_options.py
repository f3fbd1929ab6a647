"""Options of a pipeline's methods as users give them: sizes, seeds, and names that are mistyped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pipelines import build, clip

from vidiff.pipeline.facts import sides
from vidiff.pipeline.pipeline import Pipeline
from vidiff.video.writer import write_video

CALLS: dict[str, Callable[..., Any]] = {  # of each, nothing but what it needs
    "generate": lambda pipe, **options: pipe.generate(**options),
    "stream": lambda pipe, **options: list(pipe.stream(**options)),
    "extend": lambda pipe, **options: pipe.extend(clip(3), 6, **options),
    "animate": lambda pipe, **options: pipe.animate(clip(1)[0, :, 0], **options),
    "interpolate": lambda pipe, **options: pipe.interpolate(clip(2), clip(2), 2, **options),
    "loop": lambda pipe, **options: pipe.loop(clip(3), 3, **options),
    "inpaint": lambda pipe, **options: pipe.inpaint(clip(3), torch.ones(1, 1, 1, 8, 8).bool(), **options),
    "outpaint": lambda pipe, **options: pipe.outpaint(clip(3), (0, 0, 4, 4), **options),
    "edit": lambda pipe, **options: pipe.edit(clip(3), 0.5, **options),
    "invert": lambda pipe, **options: pipe.invert(clip(3), inversion=1, **options),
    "double": lambda pipe, **options: pipe.double(clip(3), **options),
    "world": lambda pipe, **options: pipe.world(clip(3)[:1], **options),
}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return build()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_method_says_what_is_wrong_with_an_option(pipe: Pipeline, call: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"^there is no option 'guidence'; did you mean guidance\?$"):
        call(pipe, guidence=2)
    with pytest.raises(TypeError, match=r"^there is no option 'zzz'; there are guidance, steps, sampler, "):
        call(pipe, zzz=None)
    for seed in (None, -1, 2**64, 1.5, True):
        with pytest.raises(ValueError, match=rf"^seed is {seed}; give a whole number from 0 to {2**64 - 1}$"):
            call(pipe, seed=seed)
    for wrong in ({"steps": 0}, {"steps": 10**23}, {"guidance": math.nan}, {"history": math.inf}):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"^{name} is {value}; give a "):
            call(pipe, **wrong)


def test_an_option_of_another_method_is_told_apart(pipe: Pipeline) -> None:
    with pytest.raises(TypeError, match=r"^strategy is no option of this method: leave it out$"):
        pipe.double(clip(3), strategy="clean")
    with pytest.raises(TypeError, match=r"^there is no option 'lable'; did you mean label\?$"):
        pipe.generate(lable="cat")


def test_one_number_is_the_size_of_a_square(pipe: Pipeline, tmp_path: Any) -> None:
    wanted = pipe.generate(seed=3)
    for size in (8, (8, 8), [8, 8], np.int64(8), torch.Size([8, 8])):
        assert torch.equal(pipe.generate(size=size, seed=np.int64(3)), wanted)
    assert torch.equal(pipe.extend(clip(3), 6, size=8), pipe.extend(clip(3), 6))
    assert pipe.reach(size=8) == pipe.reach(size=(8, 8)) == pipe.reach()
    write_video(tmp_path / "clip.mp4", clip(3)[0])
    assert torch.equal(pipe.read_clip(tmp_path / "clip.mp4", 4), pipe.read_clip(tmp_path / "clip.mp4", (4, 4)))
    for size in (16, (16, 16)):
        with pytest.raises(ValueError, match=r"^size is 16x16; this model was trained on clips of 8x8"):
            pipe.generate(size=size)
        with pytest.raises(ValueError, match=r"^size is \(16, 16\), but the clip has \(8, 8\)"):
            pipe.extend(clip(3), 6, size=size)


@pytest.mark.parametrize("size", ["8x8", (8,), (8, 8, 8), (8.0, 8.0), 8.5, "8"])
def test_a_size_that_is_none_is_named(pipe: Pipeline, size: Any) -> None:
    with pytest.raises(ValueError, match=r"^size is .*; give height and width in pixels, such as \(48, 80\), or one"):
        pipe.generate(size=size)
    assert sides(None) is None
