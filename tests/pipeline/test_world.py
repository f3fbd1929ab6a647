"""Worlds: a frame for each action, the same for the same seed and actions, at a cost that does not grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pipelines import VAE, clip, config, denoiser

from vidiff.codec.codec import VAECodec
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.draw import edit
from vidiff.draw.stream import Going
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.world import World

SPACE = ActionSpace((Action("keys", "discrete", 3, ("NOOP", "LEFT", "RIGHT")),))
CLIP = clip(5, 1)


def build(causal: bool, actions: ActionSpace | None = SPACE, temporal: int = 1, stride: int = 1) -> Pipeline:
    of = config(2, 6, stride)
    of.unet.causal, of.unet.actions = causal, (actions.width * stride if actions else 0)
    of.sampling.strategy = {"name": "stream" if causal else "clean"}
    vae = replace(VAE, temporal=temporal)
    facts = Facts.of(of, ("cat", "dog"), 8.0, actions=actions)
    return Pipeline(TrainedModel(denoiser(of), VAECodec(vae), facts), of.sampling, "cpu")


@pytest.fixture(params=[True, False], ids=["causal", "windows"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return build(request.param)


def play(world: World, *actions: object) -> torch.Tensor:
    return torch.stack([world.step(action) for action in actions], dim=1)  # 3 f h w


def test_the_same_seed_and_actions_give_the_same_frames_and_others_give_others(pipe: Pipeline) -> None:
    world = pipe.world(CLIP, seed=4)
    made = play(world, "LEFT", "LEFT", None, 2, "NOOP")
    assert world.frames == 5 and torch.equal(world.frame, made[:, -1]) and made.shape == (3, 5, 8, 8)
    assert torch.equal(play(pipe.world(CLIP[0], seed=4), 1, [1], None, "right", 0), made)
    other = play(pipe.world(CLIP, seed=4), "LEFT", "RIGHT", None, 2, "NOOP")
    same = (other == made).flatten(2).all(2).all(0)
    assert same.tolist() == [True, False, False, False, False]
    assert not torch.equal(play(pipe.world(CLIP, seed=5), "LEFT"), made[:, :1])


def test_a_world_is_what_the_clip_goes_on_as(pipe: Pipeline) -> None:
    """Frame by frame with its actions as they come, or all at once with all of them known before."""
    keys = ["LEFT", "RIGHT", "NOOP", "LEFT", "LEFT", "RIGHT", "LEFT"]
    made = play(pipe.world(CLIP, ["LEFT"] * 5, label="dog", seed=1), *keys)
    if pipe.facts.causal:
        whole = pipe.extend(CLIP, 12, "dog", actions=["LEFT"] * 5 + keys, seed=1)[0, :, 5:]
        assert torch.allclose(made, whole, atol=1e-5)
    assert not torch.equal(play(pipe.world(CLIP, None, label="dog", seed=1), *keys), made)


def test_a_fork_has_the_same_past_and_a_future_of_its_own(pipe: Pipeline) -> None:
    world = pipe.world(CLIP, seed=2)
    play(world, "LEFT", "RIGHT", "LEFT")
    other, third = world.fork(), world.fork()
    gone = play(other, "LEFT", "LEFT", "RIGHT")
    stayed = play(world, "LEFT", "LEFT", "RIGHT")
    assert torch.equal(gone, stayed) and other.frames == world.frames == 6
    assert not torch.equal(play(third, "RIGHT", "LEFT", "RIGHT"), stayed)


def test_reset_is_the_beginning(pipe: Pipeline) -> None:
    world = pipe.world(CLIP, seed=2)
    made = play(world, "LEFT", "RIGHT", "LEFT")
    world.reset()
    assert world.frames == 0 and torch.equal(world.frame, CLIP[0, :, -1])
    assert torch.equal(play(world, "LEFT", "RIGHT", "LEFT"), made)
    world.reset(clip(4, 2)[1])
    assert not torch.equal(play(world, "LEFT", "RIGHT", "LEFT"), made)
    world.reset()  # of the clip that it has now
    assert torch.equal(world.frame, clip(4, 2)[1, :, -1])
    world, told = pipe.world(CLIP, ["LEFT"] * 5, seed=2), pipe.world(CLIP, ["RIGHT"] * 5, seed=2)
    first = world.step("NOOP")
    world.reset(actions=["RIGHT"] * 5)  # of the same clip, in which something else was done
    assert torch.equal(world.step("NOOP"), told.step("NOOP")) and not torch.equal(world.frame, first)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_clip_may_have_another_precision(pipe: Pipeline, dtype: torch.dtype) -> None:
    given = CLIP.to(dtype)
    assert torch.equal(pipe.world(given, seed=2).step("LEFT"), pipe.world(given.float(), seed=2).step("LEFT"))
    assert pipe.reconstruct(given).dtype == dtype


def test_a_world_keeps_no_more_however_long_it_goes_on(pipe: Pipeline) -> None:
    world = pipe.world(CLIP, seed=0, steps=1)
    kept = list[tuple[int, ...]]()
    for _ in range(30):
        world.step("LEFT")
        turns = world._turns
        cache = turns.seen.after.bytes if isinstance(turns, Going) else 0
        kept.append((len(world._done), turns.kept.numel(), len(turns.numbers), cache))
    assert len({*kept[10:]}) == 1


def test_frames_looked_at_once_are_not_looked_at_anew() -> None:
    """A step of a causal model looks at the one frame that is new, and then at the one to come, once a step."""
    pipe = build(causal=True)
    seen, network = list[int](), pipe.denoiser.network
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[2]))
    play(pipe.world(CLIP, seed=0, steps=2), "LEFT", "RIGHT", "LEFT")
    assert seen == [3, 1] + 2 * [2, 1]


def test_actions_of_the_new_frames_are_theirs_backwards_too() -> None:
    pipe, keys, given = build(False), ["LEFT", "RIGHT", "NOOP", "LEFT"], [None] * 5
    alone = pipe.extend(CLIP, 9, "cat", actions=keys, backwards=True, seed=0)
    assert torch.equal(alone, pipe.extend(CLIP, 9, "cat", actions=keys + given, backwards=True, seed=0))
    assert not torch.equal(alone, pipe.extend(CLIP, 9, "cat", actions=given + keys, backwards=True, seed=0))
    ahead = pipe.extend(CLIP, 9, "cat", actions=keys, seed=0)
    assert torch.equal(ahead, pipe.extend(CLIP, 9, "cat", actions=given + keys, seed=0))


@pytest.mark.parametrize("temporal", [1, 2])
def test_a_stream_reaches_as_far_back_as_it_says(temporal: int) -> None:
    """The end of a clip that it names is all that it looks at, and no frame of it is more."""
    pipe, how, long = build(True, None, temporal), {"name": "stream", "sinks": 1, "chunk": 1}, clip(13, 1)
    reach = pipe.reach(how, 1)
    assert reach == 1 + temporal

    def new(past: torch.Tensor) -> torch.Tensor:
        return pipe.extend(past, past.shape[2] + 4, "cat", strategy=how, context=1, seed=0)[:, :, -4:]

    whole = new(long)
    assert torch.equal(new(long[:, :, -reach:]), whole) and not torch.equal(new(long[:, :, 1 - reach :]), whole)


def test_a_stride_holds_an_action_for_all_its_frames() -> None:
    pipe = build(causal=True, stride=2)
    assert play(pipe.world(CLIP), "LEFT").isfinite().all()


def test_a_model_without_actions_goes_on_by_itself_and_takes_none() -> None:
    world = build(causal=True, actions=None).world(CLIP)
    assert world.actions is None and world.step().isfinite().all()
    with pytest.raises(ValueError, match="this model was trained without"):
        world.step("LEFT")


def test_mistakes_are_named_and_change_nothing(pipe: Pipeline) -> None:
    world = pipe.world(CLIP, seed=2)
    wanted = play(world.fork(), "LEFT")
    with pytest.raises(ValueError, match="keys has no action 'UP'; there are NOOP, LEFT, RIGHT"):
        world.step("UP")
    assert world.frames == 0 and torch.equal(play(world, "LEFT"), wanted)
    with pytest.raises(ValueError, match="2 clips are given, but a world begins with one"):
        pipe.world(clip(4, 2))
    with pytest.raises(ValueError, match="one latent of 2 frames, so it cannot go on by a single one"):
        build(True, temporal=2).world(CLIP)
    with pytest.raises(ValueError, match="actions has 3 rows, but the result has 5 frames"):
        pipe.world(CLIP, ["LEFT"] * 3)


def test_an_inversion_is_told_what_was_done(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    told, edited = [], edit.edit
    monkeypatch.setattr(edit, "edit", lambda *given: told.append((given[5], given[6])) or edited(*given))
    pipe.invert(CLIP, actions=["LEFT"] * 5, inversion=1)
    ((asked, shows),) = told
    assert asked.action is not None and torch.equal(asked.action, shows.action)
