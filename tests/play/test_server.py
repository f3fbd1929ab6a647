"""The page's messages and what comes back, in this process; who is let in; and how many."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="no Starlette here: pip install 'vidiff[play]'")

from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from vidiff.play.server import MOST_PAGES, Room, make_app

Frame = tuple[dict[str, Any], np.ndarray]


HERE = "http://127.0.0.1:7861"


def client(room: Room, address: str = HERE) -> TestClient:
    return TestClient(make_app(room), address)


def connect(visitor: TestClient, query: str = "", origin: str | None = None) -> Any:
    headers = {} if origin is None else {"origin": origin}
    return visitor.websocket_connect(f"{str(visitor.base_url).replace('http', 'ws')}/play{query}", headers=headers)


def unpacked(content: bytes) -> Frame:
    (length,) = struct.unpack("<I", content[:4])
    told = json.loads(content[4 : 4 + length])
    shape = (told["count"], told["height"], told["width"], 3)
    return told, np.frombuffer(content, np.uint8, offset=4 + length).reshape(shape)


def ask(socket: Any, **message: Any) -> Frame:
    socket.send_json(message)
    return unpacked(socket.receive_bytes())


def test_keys_lead_from_frame_to_frame(room: Callable[..., Room]) -> None:
    made = room()
    with connect(client(made)) as socket:
        told = socket.receive_json()
        assert told["fps"] == 8 and told["clips"] == ["test/cat/0.mp4", "test/dog/0.mp4"]
        assert [one["name"] for one in told["legend"][0]["numbers"]] == ["NOOP", "LEFT", "RIGHT"]
        assert "ArrowLeft" in told["keys"]
        begun, first = ask(socket, do="begin", clip=0, seed=2)
        assert (begun["number"], begun["name"]) == (0, "test/cat/0.mp4")
        step = {"do": "step", "keys": ["ArrowLeft"], "stamp": 12.5}
        moved, left = ask(socket, **step)
        assert (moved["number"], moved["last"], moved["stamp"]) == (1, 1, 12.5)
        assert np.array_equal(ask(socket, do="show", number=0)[1], first)
        other, right = ask(socket, do="step", keys=["ArrowRight"], sliders=[None])
        assert other["branches"] == [1, 2] and other["stamp"] is None and not np.array_equal(left, right)
        assert np.array_equal(ask(socket, do="turn", branch=1)[1], left)
        assert ask(socket, do="fork")[0]["branches"] == [1, 2, 3]
        socket.send_json({"do": "save"})
        (path,) = socket.receive_json()["saved"]
        assert path.endswith("world/0000.mp4")
        assert made.pages == 1
    assert made.pages == 0, "a page that is closed leaves its place"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no JSON", "Expecting value"),
        ("[]", "a message is an object"),
        ("{}", "do is None; choose begin, step"),
        ('{"do": "jump"}', "do is 'jump'"),
        ('{"do": "step"}', "nothing is played yet: begin first"),
        ('{"do": "step", "keys": 3}', "keys is 3; give a list"),
        ('{"do": "step", "sliders": ["x"]}', "a slider is 'x'; give a number"),
        ('{"do": "begin", "seed": "x"}', "seed is 'x'; give a whole number"),
        ('{"do": "begin", "seed": -1}', "seed is -1"),
        ('{"do": "begin", "clip": 99}', "there is no clip 99"),
        (json.dumps({"do": "x" * 5_000}), "characters; 4096 is the most"),
    ],
)
def test_a_message_that_is_wrong_is_told_of_and_the_page_goes_on(
    room: Callable[..., Room], text: str, said: str
) -> None:
    with connect(client(room())) as socket:
        socket.receive_json()
        socket.send_text(text)
        assert said in socket.receive_json()["error"]
        assert ask(socket, do="begin")[0]["number"] == 0


def test_the_page_is_whole_and_asks_nobody_else(room: Callable[..., Room]) -> None:
    got = client(room()).get("/")
    assert got.status_code == 200 and "vidiff play" in got.text and "NONCE" not in got.text
    assert "http:" not in got.text and "https:" not in got.text and " src=" not in got.text
    policy = got.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert f'<script nonce="{nonce}">' in got.text


@pytest.mark.parametrize(
    ("token", "address", "origin", "query"),
    [
        (None, "http://127.0.0.1:1", "http://evil.example", ""),
        (None, "http://127.0.0.1:1", "http://127.0.0.1:2", ""),
        (None, "http://127.0.0.1:1", "null", ""),
        (None, "http://evil.example:1", "http://evil.example:1", ""),
        ("secret-one", "http://127.0.0.1:1", "http://127.0.0.1:1", ""),
        ("secret-one", "http://127.0.0.1:1", "http://127.0.0.1:1", "?token=secret-on"),
        ("secret-one", "http://127.0.0.1:1", "http://evil.example", "?token=secret-one"),
    ],
)
def test_who_is_not_let_in(room: Callable[..., Room], token: str | None, address: str, origin: str, query: str) -> None:
    visitor = client(room(token), address)
    with (
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
        connect(visitor, query, origin),
    ):
        pass
    if origin == address:
        assert visitor.get(f"/{query}").status_code == 403


@pytest.mark.parametrize(
    ("token", "address", "query"),
    [
        (None, "http://localhost:1", ""),
        (None, "http://[::1]:1", ""),
        ("secret-one", "http://play.example:1", "?token=secret-one"),
    ],
)
def test_who_is_let_in(room: Callable[..., Room], token: str | None, address: str, query: str) -> None:
    visitor = client(room(token), address)
    assert visitor.get(f"/{query}").status_code == 200
    with connect(visitor, query, address) as socket:
        assert socket.receive_json()["name"] == "tiny"


def test_pages_have_worlds_of_their_own_and_no_more_than_some(room: Callable[..., Room]) -> None:
    made = room(pages=MOST_PAGES - 2)
    visitor = client(made)
    with connect(visitor) as one, connect(visitor) as other:
        for socket in (one, other):
            socket.receive_json()
            ask(socket, do="begin", clip=0)
        left = ask(one, do="step", keys=["ArrowLeft"])
        right = ask(other, do="step", keys=["ArrowRight"])
        assert left[0]["number"] == right[0]["number"] == 1 and not np.array_equal(left[1], right[1])
        with connect(visitor) as third:
            assert f"{MOST_PAGES} pages play already" in third.receive_json()["full"]
            with pytest.raises(WebSocketDisconnect):
                third.receive_json()
        assert ask(one, do="step", keys=[])[0]["number"] == 2
    assert made.pages == MOST_PAGES - 2
