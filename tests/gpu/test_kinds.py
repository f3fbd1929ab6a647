"""Every kind of training on a GPU, and the models that they make: nothing mixes devices, and a step waits once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from absent import GPU, AbsentGpu
from small import LABELS, ROOT, pipeline, small
from torch import Tensor

from vidiff.codec.codec import Identity
from vidiff.engine import loop
from vidiff.engine.guard import Signals
from vidiff.engine.parallel import Group
from vidiff.nn.classifier import Classifier, ClassifierConfig
from vidiff.pipeline.classifier import TrainedClassifier
from vidiff.pipeline.pipeline import Pipeline
from vidiff.plan.sketch import sketch
from vidiff.recipe.load import load
from vidiff.text import Words

UNET = ["unet.width=16", "unet.head_dim=8", "unet.multipliers=[1]", "unet.blocks=[1]"]
UNET += ["unet.temporal_attention=[]", "unet.joint_attention=[0]"]
KINDS = {  # a recipe -> what makes it small
    "shapes_text": UNET,
    "shapes_sr": UNET,
    "shapes_guided": UNET,
    "shapes_guided progressive": [*UNET, "objective=progressive", "loss.steps=12", "loss.order=2"],  # two for each
    "shapes_student": UNET,
    "shapes_student consistency": [*UNET, "objective=consistency"],
    "small": [*UNET, "unet.previous=true", "data.actions=false"],
    "shapes_classifier": ["classifier.width=16", "classifier.head_dim=8", "classifier.blocks=[1,1]"],
    "shapes_vae": ["vae.width=8"],
    "small_vae": ["vae.width=8"],
    "shapes_vae adversarial": ["vae.width=8", "loss.adversarial=0.5", "loss.discriminator_width=8"],
}


TAUGHT = {  # casts one by one, fewer than there are where a teacher's weights are cast so at each call
    "shapes_guided": 120,
    "shapes_guided progressive": 300,
    "shapes_student": 215,
    "shapes_student consistency": 215,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_step_of_every_kind_of_training_waits_once(
    gpu: AbsentGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changes, recipe = KINDS[name], ROOT / "configs" / f"{name.split()[0]}.yaml"
    config = load(recipe, [*changes, "batch=2", "train.precision=bf16", "train.hang=0"])
    of = sketch(config, recipe.parent, look=False)
    collect = loop.collect
    monkeypatch.setattr(loop, "collect", lambda *given: (collect(*given)[0], True))  # the numbers are none
    options = of.config.train
    training = loop._Training(
        of.build(), lambda start: iter(lambda: of.batch(2), None), 2, options, tmp_path, Group(GPU), Signals(), "t", str
    )
    training.resume()
    training.recorder.begin(0)
    gpu.truth = True
    training.step()
    gpu.reset()
    training.step()
    assert not gpu.mixed, gpu.mixed
    assert not gpu.complex, gpu.complex
    assert gpu.waits.total() <= 1, gpu.waits
    assert not any("median" in name for name in gpu.names), "it has no deterministic kernel"
    if name in TAUGHT:
        assert gpu.names["aten._to_copy"] < TAUGHT[name], gpu.names["aten._to_copy"]


def followed(gpu: AbsentGpu, pipe: Pipeline, clip: Tensor | None = None, **options: object) -> None:
    """A draw, or an enlargement; a step of it more waits for nothing more."""
    waits = []
    for steps in (2, 3):
        gpu.reset()
        gpu.truth = True
        if clip is None:
            pipe.generate(steps=steps, **options)  # type: ignore[arg-type]
        else:
            pipe.upscale(clip, steps=steps, **options)
        assert not gpu.mixed, gpu.mixed
        assert not gpu.complex, gpu.complex
        waits.append(gpu.waits)
    assert waits[1] == waits[0], waits[1] - waits[0]


def test_words_are_drawn_without_mixing_devices(gpu: AbsentGpu) -> None:
    words = Words(dim=16)
    words.learn(["a red square moves left", "a blue disc moves up"])
    config = small("shapes_text")
    config.unet.text_dim, config.unet.words = words.dim, words.words
    config.unet.labels = 0
    pipe = pipeline(config, text=words)
    followed(gpu, pipe, text="a red disc moves up", guidance=2.0)


def test_a_classifier_guides_without_mixing_devices(gpu: AbsentGpu) -> None:
    config = small("shapes_long")
    config.unet.labels = 0
    plain = pipeline(config)
    network = Classifier(ClassifierConfig(4, len(LABELS), 16, [1], [1], [0], head_dim=8, strided=True))
    network = network.eval().requires_grad_(False).to(GPU)
    classifier = TrainedClassifier(network, plain.codec, config.data.frames, config.data.size, LABELS)
    pipe = pipeline(config, codec=plain.codec, classifier=classifier)
    followed(gpu, pipe, label="a", classifier_scale=2.0)


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_clips_are_enlarged_without_mixing_devices(gpu: AbsentGpu, where: str) -> None:
    config = small("shapes_sr")
    config.unet.channels = config.unet.lowres_channels = 3
    config.unet.labels = 0
    pipe = pipeline(config, codec=Identity(), detail=(1.0, 1.0, 1.0))
    height = config.data.size // 2
    followed(gpu, pipe, torch.zeros(1, 3, config.data.frames + 4, height, height, device=where))


def test_a_student_draws_without_mixing_devices(gpu: AbsentGpu) -> None:
    config = small("shapes_student")
    config.unet.guided = True
    followed(gpu, pipeline(config), label="a", guidance=2.0)
