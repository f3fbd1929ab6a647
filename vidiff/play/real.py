"""The real environment, under the same keys as a world that was learned of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.data.actions.space import ActionSpace
from vidiff.data.clip import ABOUT
from vidiff.data.root import local
from vidiff.pipeline.facts import Facts
from vidiff.play.openings import Opening
from vidiff.record.environment import Environment, shrink
from vidiff.record.record import STICKY, TRIES, Episode, Recording, typed
from vidiff.store.error import DataError
from vidiff.video.fit import Fit
from vidiff.video.writer import to_uint8

Size = tuple[int, int]


def recording_of(data: str | Path) -> Recording:
    """How the clips of a data set were recorded, as its `actions.json` tells.

    Raises:
        DataError: there is none, or it was not `vidiff record` that wrote it.
    """
    folder = local(data)
    folder = folder if folder.is_dir() else folder.parent
    places = [folder, *sorted(path for path in folder.glob("*") if path.is_dir()), *folder.resolve().parents]
    file = next((place / ABOUT for place in places if (place / ABOUT).is_file()), None)
    told = json.loads(file.read_text(encoding="utf-8")) if file else {}
    if "environment" not in told or "recorded" not in told:
        raise DataError(
            f"no {ABOUT} of vidiff record in {folder}, so nothing tells which environment is to be played beside: name "
            "a folder that it wrote as --data, or leave out --beside"
        )
    options = told["recorded"]
    size = None if options["size"] is None else (options["size"][0], options["size"][1])
    return Recording(told["environment"], options["frames"], options["hold"], size, start=options["start"])


class Real:
    """An environment that is stepped beside a world, and shows what the model would be shown of it.

    Args:
        recording: how the clips that the model learned from were recorded.
        facts: of the model.
        frames: of an opening.

    Attributes:
        over: whether its episode has ended; what is done then changes nothing.

    Raises:
        ValueError: as `Environment`; one whose actions are not those of the model.
    """

    def __init__(self, recording: Recording, facts: Facts, frames: int) -> None:
        self.recording, self.facts, self.frames = recording, facts, frames
        self.environment = Environment(recording.environment, recording.hold)
        own = ActionSpace(tuple(self.environment.actions))
        if own != facts.actions:
            raise ValueError(
                f"{self.environment.name} takes {own}, but this model was told {facts.actions}: leave out --beside"
            )
        self.label = recording.label if recording.label in facts.labels else None
        self.stride = facts.strides[0] * facts.held  # the environment's own frames from one that is shown to the next
        self.over, self._seed = False, 0
        self._before: list[np.ndarray] = []  # what was done before the opening ended
        self._done: list[np.ndarray] = []  # and since

    def begin(self, seed: int) -> Opening:
        """Anew from a seed: a few frames of random play, as in the clips of `vidiff record`, are what is begun with.

        Raises:
            ValueError: its episodes are too short for that.
        """
        stride, space = self.stride, self.facts.actions
        assert space is not None
        for turn in range(TRIES):
            rng = np.random.default_rng((seed, turn))
            start = int(rng.integers(self.recording.start + 1))
            self._seed = int(rng.integers(1 << 31))
            self.environment.reset(self._seed)
            self._before, self._done, self.over = [], [], False
            rows = np.full((1, len(space.dimensions)), np.nan)
            video = [self._frame()]
            while len(self._before) < (start + self.frames - 1) * stride and not self.over:
                again = self._before and rng.random() < STICKY
                self._before.append(self._before[-1] if again else self.environment.draw(rng))
                self.over = self.environment.step(self._before[-1])
                if len(self._before) % stride == 0 and not self.over:
                    video, rows = [*video, self._frame()], np.concatenate([rows, self._before[-1][None]])
                    video, rows = video[-self.frames :], rows[-self.frames :]
            if not self.over:
                return Opening(f"{self.environment.name}, seed {seed}", torch.cat(video, dim=1), rows, self.label)
        raise ValueError(f"{self.environment.name}: {TRIES} episodes ended within {start + self.frames} frames")

    def go_to(self, rows: list[np.ndarray], stopped: Callable[[], bool]) -> Tensor:
        """What is to be seen after all of this was done since the opening, `(3, h, w)` in [-1, 1].

        It steps on where that is enough, and else plays all of it again, which leads to the same place.
        """
        done = len(self._done)
        same = (
            a is b or np.array_equal(a, b) for a, b in zip(self._done, rows, strict=False)
        )  # as a rule the very row
        if done > len(rows) or not all(same):
            self.environment.reset(self._seed)
            for row in self._before:
                self.environment.step(row)
            self._done, self.over, done = [], False, 0
        for row in rows[done:]:
            self._done.append(row)
            for _ in range(self.stride):
                if not (self.over or stopped()):
                    self.over = self.environment.step(row)
        return self._frame()[:, 0]

    def episode(self, rows: list[np.ndarray]) -> Episode:
        """The opening and all that was done since, played again, frame by frame as `vidiff record` has them.

        It ends where the environment's own episode does.
        """
        environment, stride = self.environment, self.stride
        environment.reset(self._seed)
        done = [*self._before, *(row for row in rows for _ in range(stride))]
        first = len(self._before) - (self.frames - 1) * stride  # of the opening
        frames, actions, states = [], [], []
        self.over = False
        for number in range(len(done) + 1):
            if number:
                self.over = environment.step(done[number - 1])
            if self.over:
                break
            if number >= first:
                frames.append(to_uint8(shrink(environment.frame(), self.recording.size))[0])
                actions.append(done[number - 1] if number else np.full(len(environment.actions), np.nan))
                states.append(environment.state())
        self._done = [*rows]
        return Episode(frames, typed(environment.actions, np.stack(actions)), np.stack(states))

    def _frame(self) -> Tensor:
        """As the model sees it: `(3, 1, h, w)`."""
        frame = shrink(self.environment.frame(), self.recording.size)
        given: Size = (frame.shape[-2], frame.shape[-1])
        fit = Fit(given, self.facts.nearest(*given))
        if fit.resize is not None:
            frame = interpolate(frame.transpose(0, 1), fit.resize, mode="bicubic", antialias=True).transpose(0, 1)
        return fit.crop(frame).clamp(-1, 1)
