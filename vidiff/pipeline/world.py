"""A world: a model that was told what is done makes the frame that follows, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from vidiff.data.actions.space import ActionSpace
from vidiff.diffusion.condition import Condition
from vidiff.draw.stream import Stream
from vidiff.draw.window import OneByOne
from vidiff.pipeline.drawing import Drawing
from vidiff.pipeline.model import Actions, Labels, Texts


class Turns(Protocol):
    """What goes on frame by frame: `vidiff.draw.stream.Going`, or `vidiff.draw.window.OneByOne`."""

    done: int

    @property
    def numbers(self) -> list[int]: ...

    def next(self, told: Any) -> Tensor: ...

    def copy(self) -> Turns: ...


class World:
    """A clip that goes on by a frame for each action, without end, at the same cost and in the same memory.

    A model that looks back alone (`unet.causal`) keeps what it has made of finished frames, and each step draws one
    frame; another draws a window each time, of the frames looked back on and one more. The same seed and the same
    actions give the same frames.

    Args:
        drawing: the trained model.
        clip: `(3, f, h, w)` in [-1, 1], of the model's size, with which it begins.
        actions: of the frames of the clip, as `Pipeline.stream` takes them; None where they are not known.
        label, text: what it shows, where the model has labels or text.
        context: frames that a frame looks back on; by default as the run says.
        options: `seed`, `steps`, `sampler`, `grid`, `guidance`, `action_guidance` and others of `Pipeline.stream`.

    Attributes:
        frame: the last one, `(3, h, w)` in [-1, 1]; at first that of the clip.
        frames: how many have been made.

    Raises:
        ValueError: as `Pipeline.stream`; several clips; a codec that makes one latent of several frames.
    """

    def __init__(
        self,
        drawing: Drawing,
        clip: Tensor,
        actions: Actions = None,
        *,
        label: Labels = None,
        text: Texts = None,
        context: int | None = None,
        **options: Any,
    ) -> None:
        self._drawing, self._options, self._context, self._asked = drawing, options, context, (label, text)
        self.reset(clip, actions)

    @property
    def actions(self) -> ActionSpace | None:
        """What can be done; None for a model that was told no actions, whose frames follow by themselves."""
        return self._drawing.facts.actions

    @torch.no_grad()
    def reset(self, clip: Tensor | None = None, actions: Actions = None) -> None:
        """Back to the clip with which it began, or on to another one, with the noise of the first step.

        Args:
            clip, actions: as in the beginning; by default those.
        """
        drawing = self._drawing
        if clip is not None:
            given = drawing.facts.check_clip(clip)
            if len(given) != 1:
                raise ValueError(f"{len(given)} clips are given, but a world begins with one")
            if drawing.codec.temporal > 1:
                raise ValueError(
                    f"this model's codec makes one latent of {drawing.codec.temporal} frames, so it cannot go on by a "
                    "single one: train a model on a codec of single frames (vae.temporal=1)"
                )
            self._clip, self._actions = given, actions
        elif actions is not None:
            self._actions = actions
        given, frames = self._clip, self._clip.shape[2]
        window = drawing.facts.window((given.shape[3], given.shape[4]))
        context = drawing._context(self._context, 2, window)
        draw, how = drawing._draw(window, **self._options), drawing._strategy(None, self._options.get("history"))
        stream = Stream(1, how.level, how.sinks) if isinstance(how, Stream) else Stream()
        reach = stream.reach(context) if drawing.facts.causal else context
        label, text = self._asked
        self._told = drawing.condition(label, 1, text, actions=self._actions, frames=(frames, 0))
        past = drawing.codec.encode(given[:, :, -reach:].to(drawing.codec.shift)).mean
        first = frames - past.shape[2]
        self._turns: Turns = (
            stream.begin(draw, past, context, first) if drawing.facts.causal else OneByOne(draw, past, context, first)
        )
        self._done: dict[int, Tensor] = {}
        if self._told.action is not None:
            self._done = {number: self._told.action[:, number : number + 1] for number in range(first, frames)}
        self.frames, self.frame = 0, self._clip[0, :, -1]

    @torch.no_grad()
    def step(self, action: Any = None) -> Tensor:
        """The frame to which an action leads.

        Args:
            action: a number or a name of an action such as "LEFT", or a row of numbers, one for each dimension; None
                where it is not known.

        Returns:
            `(3, h, w)` in [-1, 1].

        Raises:
            ValueError: an action that there is not, or any for a model that was told none.
        """
        number, drawing = self._turns.done, self._drawing
        if action is not None:
            told = drawing.model.action_tensor([action], 1, 1, 0, drawing.facts.strides[0])
            assert told is not None
            self._done[number] = told.to(drawing.device)
        new = self._turns.next(self._condition)
        kept = {number, *self._turns.numbers}
        self._done = {at: row for at, row in self._done.items() if at in kept}
        self.frame = drawing.codec.decode(new)[0, :, 0].cpu()
        self.frames += 1
        return self.frame

    def fork(self) -> World:
        """The same past, another future: what is done in one world does not change the other."""
        other = copy(self)
        other._turns, other._done = self._turns.copy(), dict(self._done)
        return other

    def _condition(self, numbers: Sequence[int]) -> Condition:
        """What frames are asked to be."""
        if self.actions is None:
            return self._told
        facts = self._drawing.facts
        blank = torch.zeros(1, 1, facts.strides[0] * facts.held, self.actions.width, device=self._drawing.device)
        rows = [self._done.get(number, blank) for number in numbers]
        return replace(self._told, action=torch.cat(rows, dim=1) if rows else blank[:, :0])
