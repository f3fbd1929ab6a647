"""The web page of a study (Flask): a welcome, one pair after the other, and for who runs it the results."""

from __future__ import annotations

import hmac
import secrets
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, make_response, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from vidiff.report.page import STYLE
from vidiff.study.plan import Study, Trial
from vidiff.study.results import results, results_page
from vidiff.study.votes import CHOICES, NAME_LENGTH, Rater, Vote, Votes

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LONGEST = 86_400.0  # seconds that a vote may have taken
RATER, GUEST = "vidiff_rater", "vidiff_guest"  # cookies: who votes, and that the token was given
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; media-src 'self'; form-action 'self'"
RESULTS_POLICY = f"default-src 'none'; style-src 'sha256-{b64encode(sha256(STYLE.encode()).digest()).decode()}'"

Answer = str | AnyResponse


class Server:
    """The study as it is served.

    Args:
        token: what a visitor must know; None for none, which is for the loopback interface alone.
        key: what one must know to see the results.
    """

    def __init__(self, study: Study, votes: Votes, token: str | None, key: str) -> None:
        self.study, self.votes, self.token, self.key = study, votes, token, key

    def current(self, rater: Rater) -> tuple[int, Trial] | None:
        """The first trial that a rater has not answered, with its place from 0; None at the end."""
        voted = self.votes.voted(rater.number)
        trials = enumerate(self.study.trials(rater.number))
        return next(((place, trial) for place, trial in trials if trial.item not in voted), None)

    def stamp(self, rater: Rater, place: int) -> str:
        """What a vote on a trial must carry, which only the page that showed it to this rater knows."""
        return hmac.new(rater.secret.encode(), f"vote {place}".encode(), sha256).hexdigest()


def make_app(study: Study, votes: Votes, token: str | None, key: str) -> Flask:
    """The application. It serves its own pages and, to who was shown them, clips of the study; no other file."""
    app = Flask(__name__)
    server = Server(study, votes, token, key)

    @app.before_request
    def admit() -> Answer | None:
        """Only who knows the token; and no page of another site in a visitor's browser (rebinding, forged forms)."""
        host = urlsplit(f"//{request.host}").hostname or ""
        if server.token is None and host not in LOOPBACK:
            abort(403, "this study is served to this machine alone")
        origin = request.headers.get("Origin")
        if request.method == "POST" and origin is not None and urlsplit(origin).netloc != request.host:
            abort(403, "a vote from another site")
        g.rater = votes.find(request.cookies.get(RATER, ""))
        if server.token is None or request.endpoint == "static":
            return None
        if secrets.compare_digest(request.cookies.get(GUEST, "").encode(), _guest(server.token).encode()):
            return None
        if not secrets.compare_digest(request.args.get("token", "").encode(), server.token.encode()):
            abort(403, "ask who runs this study for the whole address, with its token")
        response = redirect(request.path)  # so that the token does not stay in the address bar
        return _cookie(response, GUEST, _guest(server.token))

    @app.after_request
    def guard(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @app.get("/")
    def welcome() -> Answer:
        if g.rater:
            return redirect(url_for("compare"))
        return render_template("welcome.html", study=study, longest=NAME_LENGTH)

    @app.post("/begin")
    def begin() -> Answer:
        if g.rater is None:
            g.rater = votes.begin(request.form.get("name", ""))
        return _cookie(redirect(url_for("compare")), RATER, g.rater.secret)

    @app.get("/compare")
    def compare() -> Answer:
        if g.rater is None:
            return redirect(url_for("welcome"))
        at = server.current(g.rater)
        if at is None:
            return render_template("done.html", study=study)
        place, trial = at
        label, stamp = study.labels[trial.item], server.stamp(g.rater, place)
        return render_template("compare.html", study=study, place=place, stamp=stamp, label=label)

    @app.get("/clip/<int:place>/<side>")
    def clip(place: int, side: str) -> Answer:
        """The left or right clip of a rater's trial, as far as they have come, and of the next, to be fetched ahead."""
        if g.rater is None or side not in ("left", "right"):
            abort(404)
        at = server.current(g.rater)
        trials = study.trials(g.rater.number)
        if place >= len(trials) or (at is not None and place > at[0] + 1):
            abort(404)
        return send_clip(study.clip(getattr(trials[place], side), trials[place].item))

    @app.post("/vote")
    def vote() -> Answer:
        """Keeps an answer, once; whatever comes twice, late or without its stamp changes nothing."""
        if g.rater is None:
            abort(403, "no rater is known in this browser: begin at the first page")
        try:
            place, choice = int(request.form["place"]), request.form["choice"]
            seconds = min(max(float(request.form.get("seconds", "0")), 0.0), LONGEST)
        except ValueError:
            abort(400, "place and seconds must be numbers")
        trials = study.trials(g.rater.number)
        if choice not in CHOICES or not 0 <= place < len(trials) or seconds != seconds:
            abort(400, f"choice must be one of {', '.join(CHOICES)}, of a pair that there is")
        stamp = request.form.get("stamp", "")
        if not secrets.compare_digest(stamp.encode(), server.stamp(g.rater, place).encode()):
            abort(403, "this vote does not come from the page that showed the pair")
        trial = trials[place]
        kind = "equal" if choice == "equal" else getattr(trial, choice)
        votes.add(Vote(g.rater.number, trial.item, kind, choice, seconds))
        return redirect(url_for("compare"), 303)

    @app.get("/results")
    def show() -> Answer:
        """The results so far, as a page, or with format=json as data."""
        _check_key(server)
        content = results(study, votes.all(), votes.raters())
        if request.args.get("format") == "json":
            return make_response(content)
        response = make_response(results_page(content))
        response.headers["Content-Security-Policy"] = RESULTS_POLICY
        return response

    @app.errorhandler(400)
    @app.errorhandler(403)
    @app.errorhandler(404)
    def refused(error: Exception) -> tuple[str, int]:
        number = getattr(error, "code", 500)
        reason = getattr(error, "description", "") if number != 404 else "there is nothing here"
        return render_template("refused.html", reason=reason), number

    return app


def send_clip(file: Path) -> AnyResponse:
    """A clip, or the range of it that is asked for, under no name of its own: that would tell who made it."""
    content = file.read_bytes()
    response = Response(content, mimetype="video/mp4")
    return response.make_conditional(request, accept_ranges=True, complete_length=len(content))


def _check_key(server: Server) -> None:
    if not secrets.compare_digest(request.args.get("key", "").encode(), server.key.encode()):
        abort(403, "the results are for who runs this study: open the address that the command printed")


def _guest(token: str) -> str:
    return hmac.new(token.encode(), b"guest", sha256).hexdigest()


def _cookie(response: AnyResponse, name: str, value: str) -> AnyResponse:
    response.set_cookie(name, value, max_age=365 * 86_400, httponly=True, samesite="Lax")
    return response
