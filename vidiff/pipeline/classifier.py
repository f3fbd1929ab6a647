"""A trained classifier as it is loaded, and whether it goes with a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from vidiff.codec.codec import Codec
from vidiff.codec.files import load_codec, load_into, same_codec
from vidiff.engine.checkpoint import load_part, newest
from vidiff.engine.parallel import choose_device
from vidiff.nn.classifier import Classifier
from vidiff.pipeline.run import read_run
from vidiff.recipe.kinds import ClassifierRun
from vidiff.store.plain import read_json

FILE = "classifier.json"  # its classes, in a run's folder


class TrainedClassifier:
    """A classifier of noised latents.

    Attributes:
        network: `(x, log_snr, condition) -> (b, labels)` logits, as `ClassifierGuidance` calls it.
        labels: names of its classes.
        frames, size: of the clips that it was trained on, in the first bucket; size is height and width in pixels, the
            shorter side where they differ.
        scale: by which its gradient guides, unless a call says otherwise.
        name: how messages call it: the run's folder.
    """

    def __init__(
        self,
        network: Classifier,
        codec: Codec,
        frames: int,
        size: int,
        labels: Sequence[str],
        scale: float = 1.0,
        name: str = "the classifier",
    ) -> None:
        self.network, self.codec, self.frames, self.size = network, codec, frames, size
        self.labels, self.scale, self.name = tuple(labels), scale, name

    @classmethod
    def from_pretrained(
        cls, run: str | Path, device: str | torch.device = "auto", weights: str = "ema"
    ) -> TrainedClassifier:
        """Load a run's folder.

        Args:
            run: such as "runs/shapes_classifier".
            device: "auto", "cpu", "cuda", ...
            weights: "ema", or "model" for those that the optimizer left.

        Raises:
            ValueError: if the folder is no trained classifier, or a file in it is damaged.
        """
        run = Path(run)
        config = read_run(run, ClassifierRun)
        checkpoint = newest(run / "checkpoints") if (run / FILE).is_file() else None
        if checkpoint is None:
            raise ValueError(f"{run} has no checkpoint yet: let `vidiff train` reach its first")
        network = Classifier(config.classifier)
        load_into(network, load_part(checkpoint, "network", weights), checkpoint)
        network = network.eval().requires_grad_(False).to(choose_device(device))
        labels = read_json(run / FILE)["labels"]
        codec = load_codec(run / "codec")
        first = config.data.plan()[0]
        return cls(network, codec, first.frames, min(first.size), labels, config.scale, str(run))

    def arranged(self, labels: Sequence[str]) -> TrainedClassifier:
        """Itself, with its verdicts in the order of `labels`, if it has just these: a model may have another order."""
        if {*labels} == {*self.labels} and tuple(labels) != self.labels:
            rows = [self.labels.index(name) for name in labels]
            for parameter in self.network.leave.parameters():  # a row for each class
                parameter.data = parameter.data[rows]
            self.labels = tuple(labels)
        return self

    def check(self, codec: Codec, frames: int, size: int, labels: Sequence[str]) -> None:
        """Refuse a model that it was not trained for; one without labels takes those of the classifier.

        Raises:
            ValueError: for latents of another codec or size, another number of frames, or other labels.
        """
        advice = "train one with the model's own data and codec"
        for what, own, other in (("size", self.size, size), ("frames", self.frames, frames)):
            if own != other:
                raise ValueError(f"{self.name} was trained with data.{what}={own}, the model with {other}: {advice}")
        if labels and tuple(labels) != self.labels:
            differ = sorted({*labels} ^ {*self.labels})
            example = f"such as {differ[0]!r}" if differ else "in their order"
            raise ValueError(f"{self.name} has other labels than the model, {example}: {advice}")
        if not same_codec(self.codec, codec, statistics=True):
            raise ValueError(f"{self.name} was trained on latents of another codec than the model's: {advice}")
