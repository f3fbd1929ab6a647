"""What the page can be asked for, without the page: a run is chosen, uploads are looked into, clips are drawn."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidiff.data.clip import Clip
from vidiff.data.probe import probe_all
from vidiff.pipeline.given import GivenClip
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import find_runs
from vidiff.store.files import write_whole
from vidiff.store.place import Place
from vidiff.store.plain import read_json
from vidiff.video.writer import VideoWriter, to_uint8

LARGEST = 64 << 20
"""Bytes of an upload."""
MOST_GIVEN, MOST_MADE, MOST_STEPS = 1_000, 512, 1_000
"""Frames of an upload, new frames of a result, and steps of a sampler."""
WIDEST = 4_096  # pixels of a side of an upload
PATIENCE = 60.0  # seconds that looking into an upload may stand still
SHOWN = 512  # pixels of the longer side of a frame that is painted on


class Made(NamedTuple):
    """A result: a video, and beside it a JSON file that says how it was made."""

    video: Path
    settings: Path


@dataclass(frozen=True)
class Asked:
    """What every way to draw is told; None for what the run's own config says.

    Attributes:
        label: name of a class; None for none.
        text: what to show, in words; None for nothing.
    """

    label: str | None = None
    text: str | None = None
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None

    def options(self, pipeline: Pipeline) -> dict[str, Any]:
        """As the methods of a `Pipeline` take it. Raises ValueError out of range.

        Guidance that is the run's own is left out: what is asked for takes the place of guidance on history, too.
        """
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}; give 0 or more, below 2 to the 63")
        if self.steps is not None and not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"steps is {self.steps}; give 1 to {MOST_STEPS}")
        guidance = None if self.guidance == pipeline.sampling.guidance else self.guidance
        given = {"text": self.text, "seed": self.seed, "guidance": guidance, "steps": self.steps}
        return {"progress": True, **{name: value for name, value in given.items() if value is not None}}


class Desk:
    """Runs, one of them loaded, and a folder for what they make.

    Args:
        run: a run's folder or its name on the hub; or None for all in `runs/` that make clips.
        out: where results go.
        device: "auto", "cpu", "cuda", ...

    Raises:
        ValueError: where there is no run.
    """

    def __init__(self, run: str | Path | None, out: Path, device: str = "auto") -> None:
        self.out, self.device = out, device
        found = sorted(find_runs(Path("runs"))) if run is None else []
        self.names = [str(path) for path in found if _makes(path)] if run is None else [str(run)]
        if not self.names:
            raise ValueError("no trained run in runs/: train one first, for instance vidiff train shapes, or name one")
        self._name = ""
        self._pipeline: Pipeline | None = None
        self._opening = Lock()  # the page draws in several threads

    def open(self, name: str) -> Pipeline:
        """The run of this name, which is loaded in the place of the one before. Raises ValueError for any other."""
        if name not in self.names:
            raise ValueError(f"no run {name!r} here; choose {', '.join(self.names)}")
        with self._opening:
            if self._pipeline is None or self._name != name:
                self._pipeline = None  # before another takes its memory
                pipeline = Pipeline.from_pretrained(name, self.device)
                if pipeline.facts.enlarges:
                    raise ValueError(f"{name} enlarges clips, and makes none: use vidiff edit upscale")
                self._name, self._pipeline = name, pipeline
            return self._pipeline

    def generate(self, name: str, asked: Asked, frames: int) -> Made:
        """A clip of so many frames. Raises ValueError as `Pipeline.generate`."""
        pipeline = self.open(name)
        parts = pipeline.stream(_some(frames), asked.label, **asked.options(pipeline))
        return self._write("generated", parts, pipeline.fps, self._settings(name, asked, frames=frames))

    def extend(self, name: str, asked: Asked, clip: str | Path, frames: int) -> Made:
        """A clip and so many new frames. Raises ValueError as `look_into` and `Pipeline.extend`."""
        look_into(clip)
        pipeline = self.open(name)
        with GivenClip(clip, pipeline.facts) as given:
            reach = min(given.frames, pipeline.reach(size=given.size))
            last = given.read(range(given.frames - reach, given.frames))[None]
            new = pipeline.stream(reach + _some(frames), asked.label, clip=last, **asked.options(pipeline))
            settings = self._settings(name, asked, given=given.frames, frames=given.frames + frames)
            return self._write("extended", chain(given.pieces(), new), given.fps or pipeline.fps, settings)

    def inpaint(self, name: str, asked: Asked, clip: str | Path, painted: np.ndarray) -> Made:
        """A clip with new content where a mask is painted, in every frame.

        Args:
            painted: `(h, w)`, of any size and of the frame's aspect; above 0 where content is to be new.

        Raises:
            ValueError: where nothing is painted; as `look_into` and `Pipeline.inpaint`.
        """
        if not (painted > 0).any():
            raise ValueError("nothing is painted, so there is nothing to make: paint over what is to be new")
        look_into(clip, most=MOST_MADE)
        pipeline = self.open(name)
        with GivenClip(clip, pipeline.facts) as given:
            mask = torch.from_numpy((painted > 0).astype(np.float32))[None, None]
            mask = torch.nn.functional.adaptive_max_pool2d(mask, given.size)[:, :, None] > 0  # 1 1 1 h w
            made = pipeline.inpaint(given.read(), mask, asked.label, **asked.options(pipeline))
            settings = self._settings(name, asked, new=f"{float(mask.float().mean()):.1%} of each frame")
            return self._write("inpainted", [made], given.fps or pipeline.fps, settings)

    def animate(self, name: str, asked: Asked, picture: str | Path, frames: int) -> Made:
        """A clip that begins with a picture. Raises ValueError as `look_into` and `Pipeline.animate`."""
        look_into(picture, most=1)
        pipeline = self.open(name)
        with GivenClip(picture, pipeline.facts) as given:
            made = pipeline.animate(given.read()[:, 0], max(2, _some(frames)), asked.label, **asked.options(pipeline))
            return self._write("animated", [made], pipeline.fps, self._settings(name, asked, frames=frames))

    def first_frame(self, name: str, clip: str | Path) -> np.ndarray:
        """The first frame of a clip as the run sees it, enlarged to be painted on: uint8 `(h, w, 3)`.

        Raises:
            ValueError: as `look_into`.
        """
        look_into(clip)
        with GivenClip(clip, self.open(name).facts) as given:
            frame = to_uint8(given.read(range(1)))[0]  # h w 3
        times = max(1, SHOWN // max(frame.shape[:2]))
        return frame.repeat(times, 0).repeat(times, 1)

    def _settings(self, name: str, asked: Asked, **further: Any) -> dict[str, Any]:
        pipeline = self.open(name)
        options = {key: value for key, value in asked.options(pipeline).items() if key not in ("progress", "text")}
        return {"run": name, "label": asked.label, "text": asked.text, **further, **pipeline.settings(**options)}

    def _write(self, what: str, parts: Iterable[Tensor], fps: float, settings: dict[str, Any]) -> Made:
        path = self.out / f"{what}-{secrets.token_hex(4)}.mp4"
        with VideoWriter(path, fps, settings) as writer:
            for part in parts:
                writer.write(part[0].cpu())
        write_whole(path.with_suffix(".json"), json.dumps(settings, indent=1) + "\n")
        return Made(path, path.with_suffix(".json"))


def look_into(upload: str | Path, most: int = MOST_GIVEN) -> Clip:
    """Look through an upload in a process of its own, which a damaged file may crash or hang.

    Returns:
        it, with its number of frames and its size.

    Raises:
        ValueError: where it is too large in any way, or no clip that can be read.
    """
    path = Path(upload)
    size = path.stat().st_size
    if size > LARGEST:
        raise ValueError(f"the file has {size / 2**20:.0f} MB; {LARGEST >> 20} is the most")
    ((_, outcome),) = probe_all([Clip(path.name, Place(path.name, path))], processes=1, patience=PATIENCE)
    if isinstance(outcome, str):
        raise ValueError(f"the file cannot be read as a clip: {outcome}")
    if max(outcome.height, outcome.width) > WIDEST:
        raise ValueError(f"its frames have {outcome.width} x {outcome.height} pixels; {WIDEST} a side is the most")
    if outcome.frames > most:
        raise ValueError(f"it has {outcome.frames} frames; {most} is the most: cut it first")
    return outcome


def _some(frames: int) -> int:
    if not 1 <= frames <= MOST_MADE:
        raise ValueError(f"frames is {frames}; give 1 to {MOST_MADE}")
    return frames


def _makes(run: Path) -> bool:
    """Whether a run makes clips: a diffusion run that is trained, and no super-resolution model."""
    try:
        return "detail" not in read_json(run / "data.json") and (run / "resolved.yaml").is_file()
    except (OSError, ValueError):
        return False
