"""Serving the page until Ctrl-C (Gradio)."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from vidiff.report.address import free_port, token_for
from vidiff.store.error import absent

USER = "vidiff"


def serve(
    run: str | Path | None, host: str, port: int, token: str | None, device: str, say: Callable[[str], None]
) -> None:
    """Serve the page until the process is told to stop. What was uploaded and made is deleted then.

    Args:
        run: as of `Desk`.
        host: an address of this machine; other than on the loopback interface a token is wanted of every visitor.
        port: 0 for any that is free.
        token: what visitors must know; None makes one where it is needed.
        say: told each line that who runs it should read.

    Raises:
        ValueError: where there is no run, Gradio is not installed, or the address cannot be had.
    """
    port = free_port(host, port)
    token = token_for(host, token)
    with TemporaryDirectory(prefix="vidiff-app-") as scratch:
        os.environ["GRADIO_TEMP_DIR"] = scratch  # read when Gradio is loaded: uploads go there
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        from vidiff.app.desk import LARGEST, Desk

        desk = Desk(run, Path(scratch) / "made", device)
        try:
            import gradio as gr

            from vidiff.app.page import build_page
        except ImportError as error:
            raise absent(error, "app") from None
        page = build_page(desk).queue(default_concurrency_limit=2, max_size=16)
        known = token or ""

        def admits(user: str, given: str) -> bool:
            right = secrets.compare_digest(given.encode(), known.encode())
            return right and secrets.compare_digest(user.encode(), USER.encode())

        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=admits if token else None,
            auth_message=f"User: {USER}. Password: the token that the command printed.",
            max_file_size=LARGEST,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            footer_links=[],
            share=False,
            quiet=True,
            ssr_mode=False,
            prevent_thread_lock=True,
        )
        say(f"the page   {address}")
        if token:
            say(f"user       {USER}, with the password {token}")
        say("Ctrl-C ends it, and deletes what was uploaded and made: save what you want to keep")
        try:
            while True:
                time.sleep(3600)
        finally:
            page.close(verbose=False)
