"""Guidance as a user asks for it: from a call, a config or a command to the library's own denoisers."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from vidiff.cli.options import GUIDING, add_drawing, drawing
from vidiff.codec.codec import Identity
from vidiff.data.buckets import Bucket
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.grid import Grid, time_grid
from vidiff.diffusion.guidance import ClassifierFree, Projected, Threshold
from vidiff.diffusion.known import Known, first_frames
from vidiff.diffusion.process import draw_noise
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.guide import Guide
from vidiff.draw.window import Draw
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.kinds import DiffusionRun, SamplingConfig
from vidiff.recipe.load import build_config, dump
from vidiff.sample import DDIM, start

STEPS = 4  # between times, of which there is one more
EVERY = {
    "convention": "ho",
    "interval": [0.2, 0.6],
    "rescale": 0.7,
    "apg": {"eta": 0.3, "radius": 1.0, "momentum": -0.5},
    "threshold": {"floor": 0.5},
    "history_level": 0.4,
}


class Network(nn.Module):
    """Label, text, clock and the other frames all meddle with each other; the size of each call is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.calls.append(len(x))
        out = x + x.mean(2, keepdim=True) + 0.1 * log_snr.mean(2, keepdim=True)
        if condition.label is not None:
            out = torch.sin(out + 0.3 * (condition.label + 1).view(-1, 1, 1, 1, 1))
        if condition.text is not None:
            mask = torch.ones(condition.text.shape[:2]) if condition.text_mask is None else condition.text_mask
            out = torch.cos(out * (1 + (condition.text * mask[..., None]).sum((1, 2)).view(-1, 1, 1, 1, 1)))
        return out


def build(**sampling) -> Pipeline:
    denoiser = Denoiser(Network(), Cosine(), "v")
    options = SamplingConfig(
        {"name": "ddim"}, steps=STEPS + 1, grid=Grid(kind="log_snr"), guidance=2.0, context=2, **sampling
    )
    return Pipeline(TrainedModel(denoiser, Identity(), Facts((Bucket(6, 8, 8),), ("cat", "dog"))), options, "cpu")


@pytest.fixture
def pipe() -> Pipeline:
    return build()


def clip() -> Tensor:
    return torch.rand(2, 3, 3, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def generate(pipe: Pipeline, **options) -> Tensor:
    return pipe.generate(label=["cat", "dog"], count=2, seed=1, **options)


def extend(pipe: Pipeline, **options) -> Tensor:
    return pipe.extend(clip(), 6, "dog", seed=1, context=3, **{"history": 2.0, **options})


NEUTRAL = {
    "convention": "cfg",
    "interval": [0.0, 1.0],
    "rescale": 0.0,
    "apg": {},
    "threshold": {"floor": 1e6},
    "history_level": 1.0,
    "separate": False,
}


@pytest.mark.parametrize("make", [generate, extend])
def test_off_is_plain_guidance_bit_for_bit(pipe: Pipeline, make) -> None:
    """As it is without any of the options, and as the library draws it."""
    plain = make(pipe)
    for name, value in NEUTRAL.items():
        assert torch.equal(make(pipe, **{name: value}), plain), name
    assert torch.equal(make(pipe, **dict.fromkeys(EVERY)), plain)  # None is the run's default


def by_hand(pipe: Pipeline, **options) -> Tensor:
    """What `generate` draws, put together of the library's parts."""
    generator = torch.Generator().manual_seed(1)
    times = time_grid(Cosine(), STEPS)
    noise = draw_noise(torch.zeros(2, 3, 6, 8, 8), generator)
    floor = options.pop("floor", None)
    guided = ClassifierFree(pipe.denoiser, options.pop("scale", 2.0), **options)
    guided = guided if floor is None else Threshold(guided, floor=floor)
    condition = Condition(label=torch.tensor([0, 1]))
    return DDIM()(guided, start(Cosine(), noise, times), condition, times, generator).clamp(-1, 1)


@pytest.mark.parametrize(
    ("asked", "library"),
    [
        ({}, {}),
        ({"convention": "ho"}, {"convention": "ho"}),
        ({"convention": "ho"}, {"scale": 3.0}),
        ({"interval": (0.2, 0.6)}, {"interval": (0.2, 0.6)}),
        ({"rescale": 0.7}, {"rescale": 0.7}),
        ({"apg": EVERY["apg"]}, {"apg": Projected(0.3, 1.0, -0.5)}),
        ({"apg": {"eta": 0}}, {"apg": Projected()}),
        ({"threshold": {"floor": 0.5}}, {"floor": 0.5}),
    ],
)
def test_an_option_is_the_library_s_own(pipe: Pipeline, asked: dict, library: dict) -> None:
    assert torch.equal(generate(pipe, **asked), by_hand(pipe, **library))


def test_every_option_changes_the_draw_in_a_call_and_in_a_config(pipe: Pipeline) -> None:
    more = {"separate", "text_guidance", "action_guidance", "control_guidance"}  # these need more than a label
    assert EVERY.keys() == asdict(Guide()).keys() - more
    for name, value in EVERY.items():
        make = extend if name == "history_level" else generate
        changed = make(pipe, **{name: value})
        assert not torch.isclose(changed, make(pipe)).all(), name
        assert torch.equal(make(build(**{name: value})), changed), name
        assert torch.equal(make(build(**{name: value}), **{name: NEUTRAL[name]}), make(pipe)), "a call goes first"


def test_guided_history_is_the_library_s_own(pipe: Pipeline) -> None:
    options = {"history_level": 0.4, "rescale": 0.5, "interval": [0.1, 0.9]}
    generator = torch.Generator().manual_seed(1)
    frames, mask = torch.zeros(2, 3, 6, 8, 8), first_frames(6, 3)
    frames[:, :, :3] = clip()
    guided = ClassifierFree(
        pipe.denoiser, 2.0, history=mask, generator=generator, history_level=0.4, rescale=0.5, interval=(0.1, 0.9)
    )
    noise, times = draw_noise(frames, generator), time_grid(Cosine(), STEPS)
    known, condition = Known(guided, frames, mask), Condition(label=torch.tensor([1, 1]))
    wanted = DDIM()(known, start(Cosine(), noise, times), condition, times, generator)
    assert torch.equal(extend(pipe, **options), wanted.clamp(-1, 1))


def test_one_call_a_step_of_twice_the_batch_and_of_the_batch_itself_outside_the_interval(pipe: Pipeline) -> None:
    calls = pipe.denoiser.network.calls
    times = time_grid(Cosine(), STEPS)
    for make in (generate, extend):
        for options in ({}, {**EVERY, "interval": [0.0, 1.0]}):
            del calls[:]
            make(pipe, **options)
            assert calls == [4] * (STEPS + 1), (make, options)
        del calls[:]
        make(pipe, **{**EVERY, "interval": [float(times[3]), float(times[1])]})
        assert calls == [2, 4, 4, 4, 2]
    del calls[:]
    generate(pipe, guidance=1.0, rescale=0.7, apg={"eta": 0.0})
    assert calls == [2] * (STEPS + 1)


# Text


def words(label: Tensor | None) -> Condition:
    text = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(2))
    return Condition(label=label, text=text)


def draw(pipe: Pipeline, guide: Guide, history: float | None = None, label: Tensor | None = None) -> Tensor:
    """A window of 6 frames, the first 2 of them known."""
    made = Draw(
        pipe.denoiser,
        DDIM(),
        STEPS + 1,
        2.0,
        6,
        torch.Generator().manual_seed(1),
        history=history,
        guide=guide,
        grid=Grid(kind="log_snr"),
    )
    frames = torch.zeros(2, 3, 6, 8, 8)
    frames[:, :, :2] = clip()[:, :, :2]
    return made(frames, first_frames(6, 2), words(torch.tensor([0, 1]) if label is None else label))


@pytest.mark.parametrize("history", [None, 1.5])
@pytest.mark.parametrize("text", [None, 4.0])
def test_scales_may_be_separate(pipe: Pipeline, text: float | None, history: float | None) -> None:
    """For label, text and known frames each its own; without a scale the known frames are seen by every branch."""
    found = draw(pipe, Guide(separate=True, text_guidance=text, interval=[0.1, 0.9], rescale=0.3), history)
    scales = {"label": 2.0, "text": 2.0 if text is None else text}
    generator = torch.Generator().manual_seed(1)
    frames, mask = torch.zeros(2, 3, 6, 8, 8), first_frames(6, 2)
    frames[:, :, :2] = clip()[:, :, :2]
    if history is not None:
        scales["history"] = history
    given = {"history": mask} if history is not None else {}
    guided = ClassifierFree(pipe.denoiser, scales, **given, generator=generator, interval=(0.1, 0.9), rescale=0.3)
    noise, times = draw_noise(frames, generator), time_grid(Cosine(), STEPS)
    condition = words(torch.tensor([0, 1]))
    wanted = DDIM()(Known(guided, frames, mask), start(Cosine(), noise, times), condition, times, generator)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, draw(pipe, Guide(), history))


def test_a_scale_of_text_is_separate_by_itself(pipe: Pipeline) -> None:
    found = draw(pipe, Guide(text_guidance=4.0))
    assert torch.equal(found, draw(pipe, Guide(text_guidance=4.0, separate=True)))
    none = torch.tensor([-1, -1])
    alone = draw(pipe, Guide(text_guidance=4.0), label=none)  # with nothing beside it, it is the scale there is
    twice = replace(Guide(), text_guidance=2.0)
    assert torch.equal(draw(pipe, twice, label=none), draw(pipe, Guide(), label=none))
    assert not torch.equal(alone, draw(pipe, Guide(), label=none))


def test_the_label_and_known_frames_apart(pipe: Pipeline) -> None:
    joint, apart = extend(pipe, history=3.0), extend(pipe, history=3.0, separate=True)
    assert torch.equal(apart[:, :, :3], clip()) and not torch.isclose(joint, apart).all()
    del pipe.denoiser.network.calls[:]
    extend(pipe, history=3.0, guidance=1.0, separate=True)
    assert pipe.denoiser.network.calls == [4] * (STEPS + 1), "null for the label has no weight"


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"convention": "w"}, "unknown convention 'w'; choose one of cfg, ho"),
        ({"interval": [0.2]}, "interval is [0.2]; give two times"),
        ({"interval": [0.6, 0.2]}, "interval = (0.6, 0.2) must satisfy 0 <= low <= high <= 1"),
        ({"interval": [0.0, 1.5]}, "interval = (0.0, 1.5)"),
        ({"rescale": -0.1}, "rescale = -0.1 is outside [0, 1]"),
        ({"apg": {"etta": 1.0}}, "apg does not take 'etta'; it takes eta, radius, momentum"),
        ({"apg": {"eta": math.nan}}, "apg: eta = nan must be finite"),
        ({"apg": {"radius": 0.0}}, "apg: radius = 0.0 must be positive"),
        ({"apg": {"radius": math.inf}}, "apg: radius = inf must be positive, or None"),
        ({"apg": {"momentum": 0.5}}, "apg: momentum = 0.5 must be above -1"),
        ({"apg": {"eta": 0.0}, "separate": True}, "apg is {'eta': 0.0}, but it changes one difference"),
        ({"apg": {"eta": 0.0}, "text_guidance": 2.0}, "leave out apg, or separate, text_guidance, action_guidance"),
        ({"threshold": {"percentile": 99.0}}, "threshold is {'percentile': 99.0}; it needs a floor"),
        ({"threshold": {"floor": 0.0}}, "threshold: floor = 0.0 must be positive"),
        ({"threshold": {"floor": math.inf}}, "threshold: floor = inf must be positive and finite"),
        *(({f"{name}_guidance": math.nan}, f"{name}_guidance is nan; give a finite") for name in ("text", "action")),
        ({"threshold": {"floor": 1.0, "percentile": 10.0}}, "threshold: percentile = 10.0 must be from 50 to 100"),
        ({"threshold": {"flor": 1.0}}, "threshold does not take 'flor'"),
        ({"history_level": 1.5}, "history_level = 1.5 is outside [0, 1]"),
    ],
)
def test_a_wrong_option_is_named(pipe: Pipeline, options: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        generate(pipe, **options)
    assert said in str(caught.value)
    assert not pipe.denoiser.network.calls


def test_an_option_that_is_not_there_is_refused(pipe: Pipeline) -> None:
    for value in (1.0, None):
        with pytest.raises(TypeError, match=r"there is no option 'rescal'; did you mean rescale\?"):
            generate(pipe, rescal=value)


# Config and commands


def test_a_config_has_them_all_typed_and_survives_a_round_trip() -> None:
    given = {"kind": "diffusion", "name": "a", "data": {"root": "z"}, "codec": {"name": "identity"}}
    config = build_config({**given, "sampling": {**EVERY, "separate": False}}, "here")
    assert isinstance(config, DiffusionRun)
    assert {name: getattr(config.sampling, name) for name in EVERY} == EVERY
    again = build_config(OmegaConf.create(dump(config)), "dump")
    assert again == config
    plain = build_config(given, "here")
    assert isinstance(plain, DiffusionRun)
    assert {name: getattr(plain.sampling, name) for name in asdict(Guide())} == asdict(Guide())


def read(line: str) -> dict:
    parser = argparse.ArgumentParser()
    add_drawing(parser)
    return {name: value for name, value in drawing(parser.parse_args(line.split())).items() if value is not None}


def test_a_command_has_a_flag_for_each() -> None:
    assert {"guidance", "history", "classifier_scale", *asdict(Guide())} == GUIDING.keys()
    line = "--convention ho --interval 0.2 0.6 --rescale 0.7 --apg eta=0.3,radius=1,momentum=-0.5"
    line += " --threshold floor=0.5 --history-level 0.4"
    assert read(line) == {**EVERY, "seed": 0}
    assert read("--separate --text-guidance 3") == {"separate": True, "text_guidance": 3.0, "seed": 0}
    assert read("") == {"seed": 0}


@pytest.mark.parametrize("line", ["--apg 0", "--apg eta=a", "--threshold =", "--interval 0.2", "--rescale much"])
def test_what_a_flag_cannot_read_is_argparse_s_to_tell(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read(line)
    assert ended.value.code == 2 and line.split()[0] in capsys.readouterr().err
