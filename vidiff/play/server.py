"""The page and the web socket by which it plays (Starlette): messages in, frames out.

The page sends JSON: {"do": "begin", "clip": 3, "seed": 0}, {"do": "step", "keys": ["ArrowLeft"], "sliders": [null],
"stamp": 12.5}, {"do": "show", "number": 7}, {"do": "fork"}, {"do": "turn", "branch": 1}, {"do": "save"}. A frame comes
back as bytes: the length of a JSON text as a little-endian number of four bytes, the text, and the pixels, three bytes
each, of the world and of the environment beside it. Pixels are sent as they are: at 64 px and 15 frames a second, two
pictures are 0.4 MB a second. All else comes back as JSON: what there is at first, what was saved, what was wrong.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from vidiff.play.controls import Controls
from vidiff.play.session import Session, Shot, Stopped
from vidiff.report.address import is_loopback

MOST_PAGES = 4
LONGEST = 4_096  # characters of a message
REFUSED = 1008  # of web sockets: policy violation
HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


@dataclass
class Room:
    """What all pages share.

    Args:
        open: makes a session, for each page one.
        controls: of the model's actions.
        told: what each page is told first: `name`, `fps`, `scale`, `clips`, `beside`, `seed`.
        token: what visitors must know; None where they must be on this machine instead.

    Attributes:
        stopped: set when all is to end.
        drawing: the one thread in which all worlds are drawn, by turns, so that the server can listen meanwhile.
    """

    open: Callable[[], Session]
    controls: Controls
    told: dict[str, Any]
    token: str | None = None
    pages: int = 0
    stopped: Event = field(default_factory=Event)
    drawing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "drawing"))

    def admits(self, given: str | None, host: str, origin: str | None) -> str | None:
        """Why a visitor is refused; None where it is not.

        Args:
            given: the token.
            host, origin: of the request. Another site's page may not play, nor one that a name server of its own leads
                here (DNS rebinding): without a token this machine is to be asked for by a name that is surely its own.
        """
        if origin is not None and urlsplit(origin).netloc != host:
            return "a page of another site may not play here"
        if self.token is None:
            name = urlsplit(f"//{host}").hostname or ""
            return None if is_loopback(name) else "ask for this machine as 127.0.0.1 or localhost"
        if given is None or not secrets.compare_digest(given.encode(), self.token.encode()):
            return "this page wants a token: open the address that the command printed, with ?token= at its end"
        return None

    @contextmanager
    def seat(self) -> Iterator[bool]:
        """A place for a page, for as long as it is open. Yields whether there was one."""
        free = self.pages < MOST_PAGES
        self.pages += free
        try:
            yield free
        finally:
            self.pages -= free


class Player:
    """What answers the messages of one page."""

    def __init__(self, room: Room) -> None:
        self.room, self.session = room, room.open()

    def answer(self, text: str) -> str | bytes:
        """What a message comes back as. A mistake of the page's comes back as {"error": ...}."""
        try:
            message = json.loads(text)
            if not isinstance(message, dict):
                raise ValueError("a message is an object, such as {'do': 'fork'}")
            return self._do(message)
        except ValueError as error:
            return json.dumps({"error": " ".join(str(error).split())})

    def _do(self, message: dict[str, Any]) -> str | bytes:
        session, do = self.session, message.get("do")
        if do == "step":
            keys = [str(key) for key in _listed(message, "keys")]
            sliders = [_number(value) for value in _listed(message, "sliders")]
            return packed(session.step(self.room.controls.row(keys, sliders)), stamp=message.get("stamp"))
        if do == "begin":
            return packed(session.begin(_whole(message, "clip", None), _whole(message, "seed", 0) or 0))
        if do == "show":
            return packed(session.show(_whole(message, "number", -1) or 0))
        if do == "turn":
            return packed(session.turn_to(_whole(message, "branch", -1) or 0))
        if do == "fork":
            return packed(session.fork())
        if do == "save":
            return json.dumps({"saved": [str(path) for path in session.save()]})
        raise ValueError(f"do is {do!r}; choose begin, step, show, fork, turn or save")


def packed(shot: Shot, **further: Any) -> bytes:
    """A frame as it is sent."""
    count, height, width, _ = shot.pixels.shape
    told = {name: value for name, value in vars(shot).items() if name != "pixels"}
    text = json.dumps({**told, "count": count, "height": height, "width": width, **further}).encode()
    return struct.pack("<I", len(text)) + text + shot.pixels.tobytes()


def make_app(room: Room) -> Starlette:
    """The page at /, and the web socket at /play."""
    page = files("vidiff.play").joinpath("page.html").read_text(encoding="utf-8")

    async def show(request: Request) -> Response:
        why = room.admits(request.query_params.get("token"), request.headers.get("host", ""), None)
        if why is not None:
            return PlainTextResponse(why, 403, HEADERS)
        nonce = secrets.token_urlsafe(12)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page.replace("NONCE", nonce), headers={**HEADERS, "Content-Security-Policy": policy})

    async def play(socket: WebSocket) -> None:
        given, headers = socket.query_params.get("token"), socket.headers
        if room.admits(given, headers.get("host", ""), headers.get("origin")) is not None:
            await socket.close(REFUSED)  # before it is accepted: the browser is told 403
            return
        await socket.accept()
        with room.seat() as free:
            if not free:
                await socket.send_json({"full": f"{MOST_PAGES} pages play already: close one, and load this anew"})
                await socket.close()
                return
            with suppress(WebSocketDisconnect, Stopped):  # the page was closed, or all ends: its world goes with it
                await _serve(socket, room)

    return Starlette(routes=[Route("/", show), WebSocketRoute("/play", play)])


async def _serve(socket: WebSocket, room: Room) -> None:
    loop = asyncio.get_running_loop()
    player = await loop.run_in_executor(room.drawing, Player, room)
    await socket.send_json({**room.told, "legend": room.controls.legend(), "keys": room.controls.keys()})
    while True:
        text = await socket.receive_text()
        if len(text) > LONGEST:
            await socket.send_json({"error": f"a message has {len(text)} characters; {LONGEST} is the most"})
            continue
        answer = await loop.run_in_executor(room.drawing, player.answer, text)
        await (socket.send_bytes(answer) if isinstance(answer, bytes) else socket.send_text(answer))


def _listed(message: dict[str, Any], name: str) -> list[Any]:
    value = message.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r}; give a list")
    return value


def _number(value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"a slider is {value!r}; give a number, or null")
    return value


def _whole(message: dict[str, Any], name: str, default: int | None) -> int | None:
    value = message.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} is {value!r}; give a whole number")
    return value
