"""Serving the page until Ctrl-C (uvicorn)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from vidiff.pipeline.pipeline import Pipeline
from vidiff.play.openings import Openings
from vidiff.play.real import Real, recording_of
from vidiff.play.session import Session
from vidiff.recipe.kinds import DiffusionRun
from vidiff.report.address import listening, token_for, url_of
from vidiff.store.error import absent

WIDE = 512  # pixels that the longer side of a frame has on the page, about


@dataclass(frozen=True)
class Play:
    """What is played, and how.

    Args:
        name: of the run, as the page shows it.
        data: where clips to begin with are, as of `Openings`; by default the run's own data.
        runs: folder of runs, where copies of remote files are kept.
        beside: also play the environment that the data was recorded of.
        seed: of the first world.
        scale: pixels of the page for each of a frame; 0 for about 512 in all.
        out: folder in which clips are saved.
        options: of `Pipeline.world`.
    """

    name: str
    data: str | None
    runs: Path
    beside: bool
    seed: int
    scale: int
    out: Path
    options: dict[str, Any]


def serve(
    pipeline: Pipeline,
    config: DiffusionRun,
    what: Play,
    host: str,
    port: int,
    token: str | None,
    say: Callable[[str], None],
) -> None:
    """Serve the page until the process is told to stop.

    Args:
        config: of the run.
        host: an address of this machine; other than on the loopback interface a token is wanted of every visitor.
        port: 0 for any that is free.
        token: what visitors must know; None makes one where it is needed.
        say: told each line that who runs it should read.

    Raises:
        ValueError: a run that learned no actions, or cannot be stepped frame by frame; no clips to begin with; as
            `Real`; a library that is not installed; an address that cannot be had.
    """
    try:
        import uvicorn
        import websockets  # noqa: F401, by which uvicorn speaks

        from vidiff.play.controls import Controls
        from vidiff.play.server import Room, make_app
    except ImportError as error:
        raise absent(error, "play") from None
    space = pipeline.facts.actions
    if space is None:
        raise ValueError(
            f"{what.name} learned no actions, so there is nothing to press: train on clips with actions beside them "
            "(data.actions=true), such as vidiff record makes, by a recipe such as breakout"
        )
    frames = pipeline.reach(context=what.options.get("context"))
    data = what.data or config.data.root
    recording = recording_of(data) if what.beside else None
    openings = None if recording else Openings(data, config.data, what.runs, pipeline.facts, frames)

    def open_session() -> Session:
        real = Real(recording, pipeline.facts, frames) if recording else None
        return Session(pipeline, openings, real, what.out, what.options, room.stopped.is_set)

    size = max(pipeline.buckets[0].size)
    told = {
        "name": what.name,
        "fps": pipeline.fps,
        "scale": what.scale or max(1, WIDE // size),
        "clips": openings.names if openings else [],
        "beside": recording.environment if recording else None,
        "seed": what.seed,
    }
    room = Room(open_session, Controls(space), told, token_for(host, token))
    open_session().begin(None, what.seed)  # what cannot be played is told here, and not on the page
    with listening(host, port) as socket:
        options = uvicorn.Config(
            make_app(room), log_level="error", ws="websockets-sansio", ws_max_size=1 << 16, lifespan="off"
        )

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                room.stopped.set()  # so that nothing long is waited for
                super().handle_exit(sig, frame)

        address = url_of(host, socket.getsockname()[1])
        say(f"play it at {address}" + (f"?token={room.token}" if room.token else ""))
        say(f"saved clips go to {what.out}; Ctrl-C ends it")
        try:
            Server(options).run(sockets=[socket])
        finally:
            room.stopped.set()
            room.drawing.shutdown(wait=True, cancel_futures=True)
