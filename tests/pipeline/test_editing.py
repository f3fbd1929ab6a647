"""What one trained run does with clips besides: every task of editing, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from pipelines import build, clip

from vidiff.pipeline.pipeline import Pipeline


@pytest.fixture
def pipe() -> Pipeline:
    return build()


def test_a_clip_is_continued_into_its_past(pipe: Pipeline) -> None:
    for given, frames in ((1, 15), (3, 7), (9, 16)):
        start = clip(given)
        longer = pipe.extend(start, frames, "horse", backwards=True, seed=3)
        assert longer.shape == (2, 3, frames, 8, 8)
        assert torch.equal(longer[:, :, -given:], start)
        assert torch.equal(longer, pipe.extend(start, frames, "horse", backwards=True, seed=3))
        assert not torch.equal(longer[:, :, :-given], pipe.extend(start, frames, "horse", seed=3)[:, :, given:])


def test_a_picture_starts_to_move(pipe: Pipeline) -> None:
    picture = clip(1)[:, :, 0]
    made = pipe.animate(picture, label="dog")
    assert made.shape == (2, 3, 6, 8, 8) and torch.equal(made[:, :, 0], picture)
    assert torch.equal(made, pipe.extend(clip(1), 6, "dog"))
    one = pipe.animate(picture[0].double(), 9)
    assert one.shape == (1, 3, 9, 8, 8) and torch.equal(one[0, :, 0], picture[0].double())


def test_interpolation_keeps_both_ends(pipe: Pipeline) -> None:
    first, last = clip(3), clip(2).flip(0)
    made = pipe.interpolate(first, last, 2, "cat", seed=1)
    assert made.shape == (2, 3, 7, 8, 8)
    assert torch.equal(made[:, :, :3], first) and torch.equal(made[:, :, 5:], last)
    assert torch.equal(made, pipe.interpolate(first, last, 2, "cat", seed=1, context=2)), "as much as fits is seen"
    assert not torch.equal(made, pipe.interpolate(first, last, 2, "cat", seed=1, context=1))
    pictures = pipe.interpolate(first[0, :, 0], last[0].double(), 4)
    assert pictures.shape == (1, 3, 7, 8, 8) and pictures.dtype == torch.float64
    assert torch.equal(pictures[0, :, 5:], last[0].double())


def test_a_loop_ends_as_it_begins(pipe: Pipeline) -> None:
    start = clip(9)
    made = pipe.loop(start, label="cat")
    assert made.shape == (2, 3, 12, 8, 8) and torch.equal(made[:, :, :9], start)
    middle = start.clone()
    middle[:, :, 2:7] = 0
    assert torch.equal(made[:, :, 9:], pipe.loop(middle, 3, "cat")[:, :, 9:]), "only the ends are seen"


@pytest.mark.parametrize("frames", [1, 6, 15])
def test_inpainting_keeps_what_is_known_and_outpainting_is_the_same(pipe: Pipeline, frames: int) -> None:
    start = clip(frames).double()
    mask = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    mask[..., 5:8, 6:8] = True
    made = pipe.inpaint(start, mask, "dog", seed=2)
    every = mask.expand_as(start)
    assert made.dtype == torch.float64 and torch.equal(made[~every], start[~every])
    assert (made[every] != start[every]).all() and made.abs().max() <= 1
    around = pipe.outpaint(start, (5, 6, 8, 8), "dog", seed=2)
    assert torch.equal(around[every], start[every]) and (around[~every] != start[~every]).all()
    assert torch.equal(around, pipe.inpaint(start, ~mask, "dog", seed=2))
    assert torch.equal(start, pipe.inpaint(start, torch.zeros_like(mask)))
    generated = pipe.generate(frames, "dog", 2, seed=2)
    assert torch.equal(pipe.inpaint(start.float(), torch.ones_like(mask), "dog", seed=2), generated)


def test_doubling_keeps_every_other_frame(pipe: Pipeline) -> None:
    for frames in (2, 4, 9):
        made = pipe.double(clip(frames), "cat")
        assert made.shape == (2, 3, 2 * frames - 1, 8, 8) and torch.equal(made[:, :, ::2], clip(frames))


def test_editing_goes_from_the_clip_to_another(pipe: Pipeline) -> None:
    start = clip(6)
    torch.testing.assert_close(pipe.edit(start, 0.0, "cat"), pipe.reconstruct(start))
    assert torch.equal(pipe.edit(start, 1.0, "cat", seed=4), pipe.generate(6, "cat", 2, seed=4))
    assert pipe.edit(clip(15)[0], 0.5).shape == (1, 3, 15, 8, 8)
    cat, dog = (pipe.edit(start, 0.5, label) for label in ("cat", "dog"))
    assert not torch.equal(cat, dog)


def test_a_clip_comes_back_from_its_own_noise_and_not_from_any(pipe: Pipeline) -> None:
    start = clip(6)
    kept, there = pipe.reconstruct(start), {"steps": 12, "seed": 3}
    off = [float((pipe.invert(start, "cat", inversion=n, **there) - kept).square().mean().sqrt()) for n in (1, 8)]
    fresh = float((pipe.edit(start, 1.0, "cat", guidance=1.0, **there) - kept).square().mean().sqrt())
    assert 3 * off[1] < off[0] < fresh


TASKS = {
    "extend": lambda pipe, x, **options: pipe.extend(x, 12, backwards=True, **options),
    "animate": lambda pipe, x, **options: pipe.animate(x[:, :, 0], **options),
    "interpolate": lambda pipe, x, **options: pipe.interpolate(x, x, 2, **options),
    "loop": lambda pipe, x, **options: pipe.loop(x, 2, **options),
    "inpaint": lambda pipe, x, **options: pipe.inpaint(x, torch.ones(1, 1, 1, 8, 8) > 0, **options),
    "outpaint": lambda pipe, x, **options: pipe.outpaint(x, (0, 0, 4, 4), **options),
    "edit": lambda pipe, x, **options: pipe.edit(x, 0.5, **options),
    "double": lambda pipe, x, **options: pipe.double(x, **options),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("start", "options", "said"),
    [
        (torch.zeros(1, 3, 3, 16, 16), {}, "resize"),
        (torch.zeros(1, 1, 3, 8, 8), {}, "8, 8); expected ("),
        (torch.zeros(1, 3, 3, 8, 8, dtype=torch.uint8), {}, "uint8; expected floating point"),
        (clip(3), {"label": "hors"}, "no label 'hors'; the nearest of 3 are horse"),
        (clip(3), {"label": ["cat"]}, "1 labels for 2 clips"),
        (clip(3), {"context": 6}, "context is 6; give 1 to 5: the model sees 6 frames at once"),
        (clip(3), {"context": 0}, "context is 0; give 1 to 5"),
        (clip(3), {"steps": 0}, "steps is 0"),
        (clip(3), {"lag": -1}, "lag is -1"),
        (clip(3), {"sampler": "ddmi"}, "unknown sampling.sampler 'ddmi'"),
    ],
)
def test_every_task_names_a_mistake(pipe: Pipeline, task: str, start, options: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        TASKS[task](pipe, start, **options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda pipe: pipe.interpolate(clip(2), clip(2, 1), 2), "first holds 2 clips and last 1"),
        (lambda pipe: pipe.interpolate(clip(2), clip(2), 0), "between is 0; give 1 or more"),
        (lambda pipe: pipe.interpolate(clip(3), clip(3), 2, context=6), "context is 6; give 1 to 5"),
        (lambda pipe: pipe.interpolate(clip(2), torch.zeros(2, 3, 2, 16, 16), 2), "resize"),
        (lambda pipe: pipe.loop(clip(2), 0), "between is 0"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 1, 8, 8)), "the mask is of torch.float32"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 3, 8, 8) > 0), "the mask is (1, 1, 3, 8, 8); expected"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(1, 1, 0, 8, 8) > 0), "the mask is (1, 1, 0, 8, 8); expected"),
        (lambda pipe: pipe.inpaint(clip(2), torch.ones(8, 8) > 0), "the mask is (8, 8); expected"),
        (lambda pipe: pipe.outpaint(clip(2), (4, 4, 4, 8)), "box rows 4..4, columns 4..8 must lie within 8 x 8"),
        (lambda pipe: pipe.outpaint(clip(2), (0, 0, 9, 8)), "must lie within 8 x 8"),
        (lambda pipe: pipe.edit(clip(2), 1.5), "strength is 1.5; give 0"),
        (lambda pipe: pipe.double(clip(1)), "the clip has 1 frame"),
        (lambda pipe: pipe.animate(clip(2), 6), "image is (2, 3, 2, 8, 8); expected (3, h, w) or (b, 3, h, w)"),
        (lambda pipe: pipe.animate(clip(2)[:, :, 0], 1), "frames is 1, the clip has 1 already"),
    ],
)
def test_what_a_task_cannot_do_is_said(pipe: Pipeline, make, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        make(pipe)
    assert said in str(caught.value)


def test_a_model_of_single_frames_edits_pictures_alone() -> None:
    pipe, picture = build(frames=1), clip(1)
    mask = torch.zeros(1, 1, 1, 8, 8, dtype=torch.bool)
    mask[..., :3] = True
    made = pipe.inpaint(picture, mask)
    assert torch.equal(made[..., 3:], picture[..., 3:]) and not torch.equal(made, picture)
    assert torch.equal(pipe.edit(picture, 1.0), pipe.generate(1, count=2))
    for task in TASKS.values():
        with pytest.raises(ValueError, match="single frames"):
            task(pipe, clip(3))


# A run's folder
