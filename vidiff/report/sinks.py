"""Where metrics and samples may go besides the run's own files: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vidiff.video.reader import VideoReader
from vidiff.video.writer import FASTEST_OF, write_video


class Sink(Protocol):
    """Takes what the main process of a run logs."""

    @staticmethod
    def package() -> Any:
        """What it is made with. Raises ValueError where that is not installed."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step, all finite."""

    def sample(self, step: int, file: Path) -> None:
        """A video."""

    def close(self) -> None:
        """Nothing more comes."""


class TensorBoard:
    """Event files in `run`/tensorboard, for `tensorboard --logdir runs`. Videos are animated GIFs, under Images.

    What an earlier start logged from `step` on is hidden there, since the run takes these steps again.

    Raises:
        ValueError: the package tensorboard is not installed.
    """

    @staticmethod
    def package() -> Any:
        """Classes of an event, of a session's log, of a summary, and of what writes events."""
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise ValueError("train.log has tensorboard: pip install 'vidiff[tensorboard]', or leave it out") from None
        return Event, SessionLog, Summary, EventFileWriter

    def __init__(self, run: Path, title: str, step: int) -> None:
        self._event, log, self._summary, writer = self.package()
        self._writer = writer(str(run / "tensorboard"))
        self._writer.add_event(self._event(wall_time=time.time(), step=step + 1, session_log=log(status=log.START)))

    def _add(self, step: int, values: list[Any]) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()])

    def sample(self, step: int, file: Path) -> None:
        with VideoReader(file) as reader, tempfile.TemporaryDirectory() as folder:
            (height, width), gif = reader.size, Path(folder) / "clip.gif"
            write_video(gif, reader.read()[None], fps=min(reader.fps, FASTEST_OF[".gif"]))
            picture = self._summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=gif.read_bytes()
            )
        name = "samples" + file.stem.removeprefix(f"step-{step:07d}")
        self._add(step, [self._summary.Value(tag=name, image=picture)])
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of the project vidiff at Weights & Biases, or of what WANDB_PROJECT names, resumed where the training is.

    The package's own settings hold: WANDB_MODE=offline keeps all in `run`/wandb, for `wandb sync` to send.

    Raises:
        ValueError: the package wandb is not installed, or nobody is logged in.
    """

    @staticmethod
    def package() -> Any:
        """The module."""
        try:
            import wandb
        except ImportError:
            raise ValueError("train.log has wandb: pip install 'vidiff[wandb]', or leave it out") from None
        return wandb

    def __init__(self, run: Path, title: str, step: int) -> None:
        self._wandb = wandb = self.package()
        name = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "vidiff"),
                dir=str(run),
                id=name,
                name=title or run.name,
                resume="allow",
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise ValueError(
                f"train.log has wandb, which does not begin ({str(error).splitlines()[0]}): run `wandb login`, "
                "or set WANDB_MODE=offline"
            ) from None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sample(self, step: int, file: Path) -> None:
        name = "samples" + file.stem.removeprefix(f"step-{step:07d}")
        self._run.log({name: self._wandb.Video(str(file), format="mp4")}, step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of the project vidiff of Trackio, or of what TRACKIO_PROJECT names, gone on with where the training is.

    All stays on this machine, where TRACKIO_DIR says, for `trackio show --project vidiff`; the package's own settings,
    such as TRACKIO_SPACE_ID, send it to others.

    Raises:
        ValueError: the package trackio is not installed.
    """

    @staticmethod
    def package() -> Any:
        """The module."""
        try:
            import trackio
        except ImportError:
            raise ValueError("train.log has trackio: pip install 'vidiff[trackio]', or leave it out") from None
        return trackio

    def __init__(self, run: Path, title: str, step: int) -> None:
        self._trackio = trackio = self.package()
        folder = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:6]  # runs of one name in other folders
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "vidiff"),
            name=f"{title or run.name} {folder}".replace("/", "-"),
            resume="allow",
            embed=False,
            auto_log_gpu=False,  # the run logs its memory itself
            auto_log_cpu=False,
        )

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def sample(self, step: int, file: Path) -> None:
        name = "samples" + file.stem.removeprefix(f"step-{step:07d}")
        self._run.log({name: self._trackio.Video(str(file), format="mp4")}, step=step)

    def close(self) -> None:
        self._run.finish()


SINKS: dict[str, type[TensorBoard] | type[WandB] | type[Trackio]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
}


def check_sinks(names: Iterable[str]) -> None:
    """Raises ValueError where one of `SINKS` is named whose package is not installed; nothing is begun."""
    for name in names:
        SINKS[name].package()
