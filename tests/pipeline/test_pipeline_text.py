"""Prompts through the pipeline; of random weights, since nothing of this depends on what was learned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.data.options import DataConfig
from vidiff.nn.unet import UNetConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.text import Words


def build(told: bool = True, guidance: float = 1.5) -> Pipeline:
    encoder = Words(8, ("a", "blue", "moves", "red"), 3)
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, text_dim=8 * told, words=4 * told)
    data = DataConfig("nowhere", size=8, frames=4)
    sampling = SamplingConfig({"name": "ddim"}, steps=2, guidance=guidance, context=2)
    of = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    torch.manual_seed(0)
    made, generator = build_denoiser(of), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model = TrainedModel(made.eval(), Identity(), Facts.of(of, (), 8.0), encoder if told else None)
    return Pipeline(model, sampling, "cpu")


def clip(frames: int = 3, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_one_prompt_is_for_all_and_words_alone_count() -> None:
    pipe = build()
    one = pipe.generate(text="a RED, moves", count=2)
    assert torch.equal(one, pipe.generate(text=["a red moves", "A red. Moves!"], count=2))
    other = pipe.generate(text=["a red moves", "a blue moves"], count=2)
    torch.testing.assert_close(other[0], one[0])
    assert not torch.allclose(other[1], one[1], atol=1e-3)


def test_prompts_are_guided_and_what_is_not_asked_for_is_not() -> None:
    plain, guided = build(guidance=1.0), build(guidance=3.0)
    assert torch.equal(plain.generate(), guided.generate())
    one, three = (pipe.generate(text="a red moves") for pipe in (plain, guided))
    assert not torch.allclose(one, three, atol=1e-3)
    assert torch.equal(three, plain.generate(text="a red moves", guidance=3.0))


def mask() -> Tensor:
    wanted = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    wanted[..., 2:6, 2:6] = True
    return wanted


TASKS: dict[str, Callable[..., Tensor]] = {
    "generate": lambda pipe, **rest: pipe.generate(6, **rest),
    "extend": lambda pipe, **rest: pipe.extend(clip(), 7, **rest),
    "rewind": lambda pipe, **rest: pipe.extend(clip(), 5, backwards=True, **rest),
    "animate": lambda pipe, **rest: pipe.animate(clip()[:, :, 0], **rest),
    "interpolate": lambda pipe, **rest: pipe.interpolate(clip(), clip().flip(2), 2, **rest),
    "loop": lambda pipe, **rest: pipe.loop(clip(), **rest),
    "inpaint": lambda pipe, **rest: pipe.inpaint(clip(), mask(), **rest),
    "outpaint": lambda pipe, **rest: pipe.outpaint(clip(), (2, 2, 6, 6), **rest),
    "edit": lambda pipe, **rest: pipe.edit(clip(), 0.7, **rest),
    "double": lambda pipe, **rest: pipe.double(clip(), **rest),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_listens_to_a_prompt(task: str) -> None:
    pipe = build()
    none, red, blue = (TASKS[task](pipe, text=text) for text in (None, "a red moves", "a blue moves"))
    assert none.shape == red.shape
    assert not torch.allclose(red, none, atol=1e-3) and not torch.allclose(red, blue, atol=1e-3)


@pytest.mark.parametrize(
    ("told", "asked", "complaint"),
    [
        (False, {"text": "a cat"}, "text is 'a cat', but this model was trained without text: leave it out"),
        (True, {"text": "a cat"}, "no word 'cat' of 'a cat'"),
        (True, {"text": ["a red", "a blue"], "count": 3}, "2 texts for 3 clips: give one, or one for each clip"),
        (True, {"text": "a red", "label": "cat"}, "label is 'cat', but this model was trained without labels"),
    ],
)
def test_prompts_that_cannot_be_followed_are_refused(told: bool, asked: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build(told).generate(**asked)
