"""Serving a study until Ctrl-C (waitress)."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Callable
from typing import Any

from waitress.server import create_server

from vidiff.report.address import token_for
from vidiff.store.files import write_whole
from vidiff.study.app import make_app
from vidiff.study.plan import Study, StudyError
from vidiff.study.results import results, results_page
from vidiff.study.votes import Votes

THREADS = 8  # requests that are answered at once


def serve(study: Study, host: str, port: int, token: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Serve a study's pages until SIGINT or SIGTERM, then write results.json and results.html into its folder.

    Args:
        host: an address of this machine; other than on the loopback interface a token is wanted of every visitor.
        port: 0 for any that is free.
        token: what visitors must know; None makes one where it is needed.
        say: told each line that who runs the study should read.

    Returns:
        the results.

    Raises:
        StudyError: the address cannot be had.
    """
    votes, key = votes_of(study), secrets.token_urlsafe(12)
    token = token_for(host, token)
    app = make_app(study, votes, token, key)
    try:
        server = create_server(app, host=host, port=port, threads=THREADS, ident=None)
    except (OSError, ValueError) as error:
        raise StudyError(f"cannot listen on {host} port {port} ({error}): give another --host or --port") from None
    address = f"http://{f'[{host}]' if ':' in host else host}:{server.effective_port}/"
    say(f"for raters    {address}" + (f"?token={token}" if token else ""))
    say(f"for you       {address}results?key={key}" + (f"&token={token}" if token else ""))
    if host in ("0.0.0.0", "::"):
        say("              (put this machine's own address in place of the zeros)")
    say("Ctrl-C ends it; votes are kept, and the same command goes on with them")

    def leave(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        server.run()  # returns at KeyboardInterrupt
    finally:
        signal.signal(signal.SIGTERM, before)
        server.close()
    return write_results(study)


def votes_of(study: Study) -> Votes:
    """Where a study's votes are."""
    return Votes(study.folder / "votes.sqlite")


def write_results(study: Study) -> dict[str, Any]:
    """Write results.json and results.html, of the votes so far, into a study's folder. Returns what the first holds."""
    votes = votes_of(study)
    content = results(study, votes.all(), votes.raters())
    write_whole(study.folder / "results.json", json.dumps(content, indent=1) + "\n")
    write_whole(study.folder / "results.html", results_page(content))
    return content
