"""A classifier beside a model: what it goes with, and what it draws; here of random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidiff.codec.codec import Identity, VAECodec
from vidiff.codec.files import save_codec
from vidiff.data.options import DataConfig
from vidiff.diffusion.classifier_guidance import ClassifierGuidance
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.grid import Grid, time_grid
from vidiff.diffusion.process import draw_noise
from vidiff.engine import checkpoint
from vidiff.nn.classifier import ClassifierConfig
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import latest_run
from vidiff.recipe.build import build_classifier, build_denoiser
from vidiff.recipe.kinds import ClassifierRun, CodecConfig, DiffusionRun, SamplingConfig
from vidiff.recipe.load import dump
from vidiff.sample import DDIM, start

LABELS = ("cat", "dog", "horse")
SAMPLING = {"sampler": {"name": "ddim"}, "steps": 4, "grid": Grid(kind="log_snr"), "guidance": 1.5, "context": 2}


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Weights that nothing is zero of, without gradients."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def recipe(**change) -> ClassifierRun:
    shape = ClassifierConfig(channels=3, labels=3, width=8, multipliers=[1, 2], blocks=[1, 1], head_dim=8)
    data = DataConfig("nowhere", size=8, frames=6)
    return ClassifierRun("classifier", "judge", data=data, codec=CodecConfig("identity"), classifier=shape, **change)


def judge(codec=None, frames: int = 6, size: int = 8, labels: tuple[str, ...] = LABELS) -> TrainedClassifier:
    torch.manual_seed(0)
    network = randomised(build_classifier(recipe()).network, 7)
    return TrainedClassifier(network, codec or Identity(), frames, size, labels, 20.0, "runs/judge")


class Spy(nn.Module):
    """Keeps the labels that a network is told."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, []

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        self.seen.append(None if condition.label is None else condition.label.tolist())
        return self.network(x, log_snr, condition)


def build(classifier: TrainedClassifier | None, labels: tuple[str, ...] = LABELS) -> Pipeline:
    unet = UNetConfig(3, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=len(labels))
    run = DiffusionRun("diffusion", "tiny", data=DataConfig("nowhere", size=8, frames=6), unet=unet)
    torch.manual_seed(0)
    denoiser = randomised(build_denoiser(run), 3)
    denoiser.network = Spy(denoiser.network)
    sampling = SamplingConfig(**SAMPLING)
    facts = Facts.of(run, labels, 8.0)
    return Pipeline(TrainedModel(denoiser, Identity(), facts, classifier=classifier), sampling, "cpu")


@pytest.fixture
def pipe() -> Pipeline:
    return build(judge())


def clip(frames: int) -> Tensor:
    return torch.rand(2, 3, frames, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_the_classifier_s_gradient_takes_the_place_of_the_label(pipe: Pipeline) -> None:
    """As the library draws it: `Known` outside, the classifier, and within it a model that is not told."""
    label = torch.tensor([1, 2])
    found = pipe.generate(label=["dog", "horse"], count=2, seed=4)
    assert pipe.denoiser.network.seen == [[-1, -1]] * 4
    guided = ClassifierGuidance(pipe.denoiser, pipe.classifier.network, label, 20.0)
    times = time_grid(pipe.denoiser.schedule, 3)
    generator = torch.Generator().manual_seed(4)
    noise = draw_noise(torch.zeros(2, 3, 6, 8, 8), generator)
    untold = Condition(label=torch.tensor([-1, -1]))
    wanted = DDIM()(guided, start(guided.schedule, noise, times), untold, times, generator)
    assert torch.equal(found, wanted.clamp(-1, 1))
    assert not torch.isclose(found, pipe.generate(count=2, seed=4)).all()


def test_frames_are_known_and_the_history_is_guided_on_under_it(pipe: Pipeline) -> None:
    start = clip(3)
    made = pipe.extend(start, 6, "dog", seed=1)
    assert torch.equal(made[:, :, :3], start)
    assert not torch.equal(made, pipe.extend(start, 6, "cat", seed=1))
    told = pipe.denoiser.network.seen
    del told[:]
    pipe.extend(start, 6, "dog", history=2.0)
    assert told == [[-1] * 4] * 4, "two branches, and neither is told"
    shown = []
    inner = pipe.classifier.network.forward
    pipe.classifier.network.forward = lambda x, log_snr, condition: (shown.append(x), inner(x, log_snr, condition))[1]
    pipe.extend(start, 6, "dog", context=3)
    torch.testing.assert_close(shown[0][:, :, :3], start, atol=1e-3, rtol=0)  # it reads the known frames clean


@pytest.mark.parametrize(
    "make",
    [
        lambda pipe, **given: pipe.animate(clip(1)[:, :, 0], label="dog", **given),
        lambda pipe, **given: pipe.interpolate(clip(2), clip(2), 2, "dog", **given),
        lambda pipe, **given: pipe.inpaint(clip(6), torch.ones(1, 1, 1, 8, 8).triu() > 0, "dog", **given),
        lambda pipe, **given: pipe.edit(clip(6), 0.8, "dog", **given),
        lambda pipe, **given: pipe.double(clip(3), "dog", **given),
    ],
)
def test_every_task_is_guided(pipe: Pipeline, make) -> None:
    assert not torch.equal(make(pipe), make(pipe, classifier_scale=5.0))
    assert all(seen == [-1, -1] for seen in pipe.denoiser.network.seen)


def test_scale_0_tells_the_model_the_label_after_all(pipe: Pipeline) -> None:
    plain = build(None).generate(label="dog", seed=2)
    assert torch.equal(pipe.generate(label="dog", seed=2, classifier_scale=0.0), plain)
    assert not torch.equal(pipe.generate(label="dog", seed=2), plain)


def test_without_a_label_it_is_the_plain_model(pipe: Pipeline) -> None:
    assert torch.equal(pipe.generate(count=2, seed=2), build(None).generate(count=2, seed=2))


def test_it_gives_its_labels_to_a_model_without(pipe: Pipeline) -> None:
    untold = build(judge(), labels=())
    assert untold.labels == LABELS
    assert not torch.equal(untold.generate(label="dog"), untold.generate(label="cat"))
    with pytest.raises(ValueError, match="classifier_scale is 0, but only the classifier knows labels"):
        untold.generate(label="dog", classifier_scale=0.0)


def test_the_interval_is_that_of_the_classifier_too(pipe: Pipeline) -> None:
    calls = []
    inner = pipe.classifier.network.forward
    pipe.classifier.network.forward = lambda *given: (calls.append(1), inner(*given))[1]
    times = time_grid(pipe.denoiser.schedule, 3).tolist()
    pipe.generate(label="dog", interval=[0.0, times[2]])
    assert len(calls) == 2
    pipe.generate(label="dog", interval=[0.0, 1.0])
    assert len(calls) == 2 + 4


def test_settings_tell_the_classifier_and_its_scale(pipe: Pipeline) -> None:
    assert {"classifier": "runs/judge", "classifier_scale": 20.0}.items() <= pipe.settings().items()
    assert pipe.settings(classifier_scale=3.0)["classifier_scale"] == 3.0
    assert not {"classifier", "classifier_scale"} & build(None).settings().keys()


@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_named(pipe: Pipeline, scale: float) -> None:
    with pytest.raises(ValueError, match=f"classifier_scale is {scale}; give 0"):
        pipe.generate(label="dog", classifier_scale=scale)


def test_a_guidance_that_scales_nothing_is_refused(pipe: Pipeline) -> None:
    with pytest.raises(ValueError, match=r"guidance is 2\.0, but the classifier stands for the label"):
        pipe.extend(clip(3), 6, "dog", guidance=2.0)
    pipe.generate(label="dog", guidance=2.0, classifier_scale=0.0)  # then the label is what it scales


def test_a_scale_without_a_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match=r"classifier_scale is 2\.0, but no classifier was loaded"):
        build(None).generate(classifier_scale=2.0)


def moved() -> Identity:
    codec = Identity()
    codec.set_statistics(torch.ones(3), torch.ones(3))
    return codec


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"size": 16}, "runs/judge was trained with data.size=16, the model with 8"),
        ({"frames": 4}, "runs/judge was trained with data.frames=4, the model with 6"),
        ({"labels": ("cat", "dog", "cow")}, "runs/judge has other labels than the model, such as 'cow'"),
        ({"labels": ("dog", "cat", "horse")}, "runs/judge has other labels than the model, in their order"),
        ({"codec": moved()}, "runs/judge was trained on latents of another codec than the model's"),
        ({"codec": VAECodec(VAEConfig(3, 4, [1], patch=1))}, "latents of another codec"),
    ],
)
def test_what_does_not_go_together_is_refused(other: dict, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(judge(**other))
    assert said in str(caught.value) and "train one with the model's own data and codec" in str(caught.value)


# A run's folder


def save(folder: Path) -> Path:
    folder.mkdir(parents=True)
    run = recipe(scale=2.5)
    (folder / "resolved.yaml").write_text(dump(run))
    (folder / "classifier.json").write_text(json.dumps({"labels": LABELS}))
    save_codec(folder / "codec", Identity())
    weights = [
        {f"network.{key}": value for key, value in randomised(build_classifier(run).network, seed).state_dict().items()}
        for seed in (0, 1)
    ]
    checkpoint.save(folder / "checkpoints", 1, *weights, {})
    return folder


def test_a_folder_holds_all_that_is_needed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = save(tmp_path / "judge")
    found = TrainedClassifier.from_pretrained(run, "cpu")
    assert (found.labels, found.frames, found.size, found.scale, found.name) == (LABELS, 6, 8, 2.5, str(run))
    plain = TrainedClassifier.from_pretrained(run, "cpu", weights="model")
    x, log_snr = torch.randn(1, 3, 6, 8, 8), torch.zeros(1, 1, 6, 8, 8)
    assert not torch.equal(found.network(x, log_snr, Condition()), plain.network(x, log_snr, Condition()))
    assert not any(p.requires_grad for p in found.network.parameters()) and not found.network.training
    build(found)


def test_what_is_no_trained_classifier_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a trained run"):
        TrainedClassifier.from_pretrained(tmp_path, "cpu")
    run = save(tmp_path / "judge")
    with pytest.raises(ValueError, match="is a run of kind classifier; one of kind diffusion is needed"):
        Pipeline.from_pretrained(run, "cpu")
    with pytest.raises(ValueError, match="no trained run in"):
        latest_run(tmp_path)  # a classifier draws nothing
    (run / "classifier.json").rename(tmp_path / "gone.json")
    with pytest.raises(ValueError, match="has no checkpoint yet"):
        TrainedClassifier.from_pretrained(run, "cpu")
