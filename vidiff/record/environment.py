"""An environment of Gymnasium, of which each step is a frame: Atari games, VizDoom, and whatever else draws itself."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from multiprocessing.util import Finalize
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.data.actions.space import Action

BRINGERS = ("ale_py", "vizdoom.gymnasium_wrapper")  # packages that bring environments of their own


class Environment:
    """An environment whose frames are recorded.

    Args:
        name: as Gymnasium knows it, such as "ALE/Breakout-v5", "VizdoomBasic-v1" or "CartPole-v1"; or the plain name of
            an Atari game, such as "breakout" or "ms_pacman".
        hold: its own frames that an action lasts; of these the last is shown, of an Atari game the brighter of the last
            two, pixel by pixel, since many objects are drawn in every other frame alone (Mnih et al. 2015, methods).

    Attributes:
        name: as Gymnasium knows it.
        actions: the dimensions of an action.
        fps: frames a second, as the environment counts seconds.

    Raises:
        ValueError: Gymnasium is not installed, knows no such environment, or it is one that draws nothing or whose
            actions are not numbers.
    """

    def __init__(self, name: str, hold: int = 1) -> None:
        gymnasium = _gymnasium()
        self.name, self.hold = find(name), hold
        self.is_atari = self.name.startswith("ALE/")
        own: dict[str, Any] = {}
        if self.is_atari:
            own = {"frameskip": 1, "repeat_action_probability": 0.0}
        elif self.name.startswith("Vizdoom"):
            own = {"frame_skip": 1}
        self._scraps = mkdtemp(prefix="vidiff_")  # where VizDoom's engine leaves its settings
        try:
            with _within(self._scraps):
                self._env = gymnasium.make(self.name, render_mode="rgb_array", **own)
        except Exception as error:  # each environment has errors of its own
            shutil.rmtree(self._scraps)
            raise ValueError(f"{self.name} cannot be opened: {type(error).__name__}: {error}") from error
        # At the end of a process of a pool too, where nothing else is called, and engines would live on.
        Finalize(self, _close, (self._env, self._scraps), exitpriority=1)
        self.actions = actions_of(self._env.action_space, _meanings(self._env))
        self.fps = (60 if self.is_atari else float(self._env.metadata.get("render_fps") or 30)) / hold

    def reset(self, seed: int) -> None:
        """Begin anew."""
        with _within(self._scraps):
            self._observed, _ = self._env.reset(seed=seed)
        self._before: np.ndarray | None = None

    def step(self, action: np.ndarray) -> bool:
        """Do an action `(a,)` for `hold` of its frames. Returns whether all is over."""
        self._before = None
        for turn in range(self.hold):
            if self.is_atari and turn and turn == self.hold - 1:
                self._before = self._env.unwrapped.ale.getScreenRGB()
            self._observed, _, ended, cut, _ = self._env.step(self._native(action))
            if ended or cut:
                return True
        return False

    def frame(self) -> np.ndarray:
        """What is to be seen, uint8 `(h, w, 3)`."""
        frame = self._env.render()
        if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
            raise ValueError(f"{self.name} draws no frames of red, green and blue")
        return frame if self._before is None else np.maximum(self._before, frame)

    def state(self) -> np.ndarray:
        """What the environment knows of itself, `(s,)`; `(0,)` where it tells of nothing.

        An Atari game's 128 bytes of memory, VizDoom's game variables, or what else is observed that is no picture.
        """
        if self.is_atari:
            return np.asarray(self._env.unwrapped.ale.getRAM())
        seen = self._observed
        if isinstance(seen, dict):
            seen = seen.get("gamevariables", ())
        seen = np.asarray(seen)
        return seen if seen.ndim == 1 else np.zeros(0, np.float32)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """An action `(a,)`, each as likely as any other."""
        return np.array(
            [rng.integers(it.count) if it.kind == "discrete" else rng.uniform(it.low, it.high) for it in self.actions]
        )

    def _native(self, action: np.ndarray) -> Any:
        space = self._env.action_space
        if space.shape == () and self.actions[0].kind == "discrete":
            return int(action[0]) + int(space.start)
        return action.astype(space.dtype).reshape(space.shape)


def _close(env: Any, folder: str) -> None:
    with _within(folder):
        env.close()
    shutil.rmtree(folder)


def find(name: str) -> str:
    """An environment's name as Gymnasium has it. Raises ValueError where there is none such."""
    registry = _gymnasium().registry
    if name in registry:
        return name
    plain = {re.sub(r"(?<!^)(?=[A-Z])", "_", game[4:-3]).lower(): game for game in registry if game.startswith("ALE/")}
    if name in plain:
        return plain[name]
    near = get_close_matches(name, [*plain, *registry], 3)
    raise ValueError(
        f"Gymnasium knows no environment {name!r}"
        + (f"; is it {', '.join(near)}?" if near else "")
        + "; Atari games come with ale-py, Doom with vizdoom: pip install 'vidiff[games]'"
    )


def actions_of(space: Any, meanings: tuple[str, ...] = ()) -> list[Action]:
    """The dimensions of an action space of Gymnasium. Raises ValueError for those that are not numbers."""
    kind = type(space).__name__
    if kind == "Discrete":
        return [Action("action", "discrete", int(space.n), meanings)]
    if kind == "MultiDiscrete" and space.nvec.ndim == 1:
        return [Action(f"action {i}", "discrete", int(n)) for i, n in enumerate(space.nvec)]
    if kind == "MultiBinary" and len(space.shape) == 1:
        names = meanings if len(meanings) == space.n else [f"action {i}" for i in range(space.n)]
        return [Action(name, "discrete", 2) for name in names]
    if kind == "Box" and len(space.shape) == 1 and np.isfinite([space.low, space.high]).all():
        return [
            Action(f"action {i}", "continuous", low=float(low), high=float(high))
            for i, (low, high) in enumerate(zip(space.low, space.high, strict=True))
        ]
    raise ValueError(f"its actions are {space}; those that can be recorded are whole numbers, or numbers within bounds")


def shrink(frame: np.ndarray, size: tuple[int, int] | None) -> Tensor:
    """A frame `(h, w, 3)` as `(3, 1, h, w)` in [-1, 1], brought to a size, where one is given, by means of areas."""
    picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    if size is not None:
        picture = interpolate(picture, size, mode="area")
    return picture[0, :, None] / 127.5 - 1


def _meanings(env: Any) -> tuple[str, ...]:
    inner = env.unwrapped
    if hasattr(inner, "get_action_meanings"):
        return tuple(map(str, inner.get_action_meanings()))
    if hasattr(inner, "button_map"):  # VizDoom: which buttons each number presses
        buttons = [button.name for button in inner.game.get_available_buttons()]
        return tuple(
            "+".join(name for name, down in zip(buttons, row, strict=False) if down) or "NOOP"
            for row in inner.button_map
        )
    return ()


@contextmanager
def _within(folder: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _gymnasium() -> Any:
    """Gymnasium, with the environments that other packages bring; nothing opens a window or says what it is."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    try:
        import gymnasium
    except ImportError:
        raise ValueError("Gymnasium is not installed: pip install 'vidiff[games]'") from None
    for bringer in BRINGERS:
        try:
            brought = import_module(bringer)
        except ImportError:
            continue
        if bringer == "ale_py":
            brought.ALEInterface.setLoggerMode(brought.LoggerMode.Error)
    return gymnasium
