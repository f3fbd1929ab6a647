"""What the server answers, to raters, to strangers and to forgers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flask.testing import FlaskClient
from torch import Tensor

from vidiff.study.app import make_app
from vidiff.study.plan import Study, make_study
from vidiff.study.votes import Votes

FACTS = {"a": {"source": "runs/<x>"}, "b": {"source": "runs/y"}}


class Flat:
    def read(self, which: range) -> Tensor:
        return torch.zeros(len(which), 3, 4, 16, 16)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("study") / "s"
    return make_study(folder, Flat(), Flat(), Flat(), ["<b>one", "two", "two"], ["two"], 0, FACTS, 8, progress=False)


@pytest.fixture
def votes(tmp_path: Path) -> Votes:
    return Votes(tmp_path / "votes.sqlite")


@pytest.fixture
def visit(study: Study, votes: Votes) -> Callable[..., FlaskClient]:
    def make(token: str | None = None) -> FlaskClient:
        return make_app(study, votes, token, "the-key").test_client()

    return make


def form(page: str) -> dict[str, str]:
    return dict(re.findall(r'name="(place|stamp)" value="(\w+)"', page))


def test_a_rater_is_led_through_all_pairs(study: Study, votes: Votes, visit: Callable[..., FlaskClient]) -> None:
    client = visit()
    assert client.get("/compare").headers["Location"] == "/"
    assert client.post("/begin", data={"name": "Ann"}).headers["Location"] == "/compare"
    for place in range(4):
        page = client.get("/compare").text
        assert f"{place + 1} of 4" in page and form(page)["place"] == str(place)
        assert client.get("/").headers["Location"] == "/compare", "who comes back goes on"
        for side in ("left", "right"):
            found = client.get(f"/clip/{place}/{side}")
            trial = study.trials(1)[place]
            assert found.data == study.clip(getattr(trial, side), trial.item).read_bytes()
            assert found.mimetype == "video/mp4"
            told = str(found.headers) + page
            assert not re.search(r"a-000|b-000|real|worse|runs/|sqlite|Last-Modified|ETag", told), "blind"
            part = client.get(f"/clip/{place}/{side}", headers={"Range": "bytes=4-7"})
            assert (part.status_code, part.data) == (206, b"ftyp")
        assert client.post("/vote", data={**form(page), "choice": "left", "seconds": "1.5"}).status_code == 303
    assert "All 4 of your answers are kept" in client.get("/compare").text
    trials = study.trials(1)
    assert {(v.item, v.preferred, v.side, v.seconds) for v in votes.all()} == {
        (t.item, t.left, "left", 1.5) for t in trials
    }


def test_labels_are_shown_as_text(visit: Callable[..., FlaskClient]) -> None:
    client = visit()
    client.post("/begin")
    pages = []
    for _ in range(4):
        pages.append(client.get("/compare").text)
        client.post("/vote", data={**form(pages[-1]), "choice": "equal"})
    assert any("&lt;b&gt;one" in page for page in pages) and not any("<b>one" in page for page in pages)


def test_no_vote_is_doubled_or_changed(votes: Votes, visit: Callable[..., FlaskClient]) -> None:
    client = visit()
    client.post("/begin")
    first = form(client.get("/compare").text)
    for choice in ("left", "right", "left"):  # a double click, or the page before, sent again
        assert client.post("/vote", data={**first, "choice": choice}).status_code == 303
    assert [v.side for v in votes.all()] == ["left"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"stamp": "0" * 64}, 403),
        ({"stamp": ""}, 403),
        ({"place": "1"}, 403),  # the stamp is of place 0
        ({"place": "99"}, 400),
        ({"place": "-1"}, 400),
        ({"place": "x"}, 400),
        ({"choice": "a"}, 400),
        ({"choice": None}, 400),
        ({"seconds": "nan"}, 400),
    ],
)
def test_a_forged_vote_is_refused(votes: Votes, visit: Callable[..., FlaskClient], change: dict, status: int) -> None:
    client = visit()
    client.post("/begin")
    data = {**form(client.get("/compare").text), "choice": "left", **change}
    found = client.post("/vote", data={k: v for k, v in data.items() if v is not None})
    assert found.status_code == status and "Not here" in found.text
    assert votes.all() == []


def test_one_rater_s_stamp_is_no_use_to_another_nor_to_another_site(
    votes: Votes, visit: Callable[..., FlaskClient]
) -> None:
    one, other, nobody = visit(), visit(), visit()
    for client in (one, other):
        client.post("/begin")
    stolen = {**form(one.get("/compare").text), "choice": "left"}
    assert other.post("/vote", data=stolen).status_code == 403
    assert nobody.post("/vote", data=stolen).status_code == 403
    assert one.post("/vote", data=stolen, headers={"Origin": "http://elsewhere.example"}).status_code == 403
    assert one.post("/vote", data=stolen, headers={"Origin": "null"}).status_code == 403
    assert votes.all() == []
    assert one.post("/vote", data=stolen, headers={"Origin": "http://localhost"}).status_code == 303
    assert "SameSite=Lax" in (cookie := visit().post("/begin").headers["Set-Cookie"]) and "HttpOnly" in cookie


def test_a_page_of_another_name_for_this_machine_is_refused(visit: Callable[..., FlaskClient]) -> None:
    for host, status in (("localhost:8765", 200), ("127.0.0.1:1", 200), ("[::1]:1", 200), ("rebound.example", 403)):
        assert visit().get("/", headers={"Host": host}).status_code == status


def test_beyond_this_machine_a_token_is_wanted(votes: Votes, visit: Callable[..., FlaskClient]) -> None:
    client = visit("the-token")
    host = {"Host": "lab.example"}
    for path in ("/", "/?token=wrong", "/compare", "/clip/0/left", "/results?key=the-key"):
        assert client.get(path, headers=host).status_code == 403
    assert client.post("/begin", headers=host).status_code == 403
    let_in = client.get("/?token=the-token", headers=host)
    assert let_in.headers["Location"] == "/" and "the-token" not in let_in.headers["Set-Cookie"]
    client = visit("the-token")
    client.get("/?token=the-token")
    assert client.get("/").status_code == 200
    client.post("/begin")
    assert client.get("/compare").status_code == 200 and len(votes.raters()) == 1


def test_only_clips_of_the_study_are_served_and_only_as_far_as_one_has_come(
    study: Study, visit: Callable[..., FlaskClient]
) -> None:
    stranger, client = visit(), visit()
    assert stranger.get("/clip/0/left").status_code == 404
    client.post("/begin")
    assert client.get("/clip/1/left").status_code == 200, "the next is fetched ahead"
    for path in (
        "/clip/2/left",
        "/clip/9/left",
        "/clip/0/a",
        "/clip/0/folder",
        "/clip/-1/left",
        "/clip/0/../../votes.sqlite",
        "/static/../votes.py",
        "/static/..%2fvotes.py",
        "/votes.sqlite",
        "/study.json",
    ):
        assert client.get(path).status_code == 404, path


def test_the_results_are_for_who_has_the_key(visit: Callable[..., FlaskClient]) -> None:
    client = visit()
    assert client.get("/results").status_code == client.get("/results?key=x").status_code == 403
    assert "No votes yet" in client.get("/results?key=the-key").text
    client.post("/begin", data={"name": "<script>"})
    client.post("/vote", data={**form(client.get("/compare").text), "choice": "left"})
    page = client.get("/results?key=the-key").text
    assert "runs/&lt;x&gt;" in page and "&lt;script&gt;" in page and "<script>" not in page
    found = client.get("/results?key=the-key&format=json").json
    assert found["all"]["votes"] == 1 and found["a"] == {"source": "runs/<x>"}


def test_headers_forbid_what_the_pages_do_not_need(visit: Callable[..., FlaskClient]) -> None:
    headers = visit().get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")
