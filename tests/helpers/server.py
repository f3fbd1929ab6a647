"""An HTTP server on this machine that serves a folder, and misbehaves as it is told."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import quote, unquote, urlsplit


class Server(ThreadingHTTPServer):
    """Serves the files below `folder`.

    Attributes:
        faults: by path, what happens at the first, second, ... GET: a status such as 500; "cut", the connection ends
            half way; "slow", a pause in the middle; "silent", half, and then nothing. Further requests are answered.
        ranges: whether parts of files are served.
        pause: seconds of a "slow" one.
        gets: how often each path was asked for, with the beginning of the range where one was asked for.
    """

    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """A client that has gone away is no news."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges, self.pause = folder, True, 0.4
        self.faults: dict[str, list[int | str]] = {}
        self.gets: list[tuple[str, int]] = []
        self.heads = Counter[str]()
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(send=False)

    def do_GET(self) -> None:
        self.answer(send=True)

    def answer(self, send: bool) -> None:
        name = unquote(urlsplit(self.path).path, errors="surrogateescape").lstrip("/")
        file, begin, fault = self.server.folder / name, 0, None
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            begin = int(asked.removeprefix("bytes=").split("-")[0])
        with self.server.lock:
            if send:
                self.server.gets.append((name, begin))
                if self.server.faults.get(name):
                    fault = self.server.faults[name].pop(0)
            else:
                self.server.heads[name] += 1
        if file.is_dir():
            return self.list(file)
        if isinstance(fault, int) or not file.is_file():
            return self.plain(fault if isinstance(fault, int) else 404)
        content = file.read_bytes()
        if begin and begin >= len(content):
            return self.plain(416)
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}-{len(content)}"')
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not send:
            return
        middle = (begin + len(content)) // 2
        self.wfile.write(content[begin:middle])
        if fault == "cut":
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
            return
        if fault in ("slow", "silent"):
            self.wfile.flush()
            time.sleep(self.server.pause if fault == "slow" else 1000)
        self.wfile.write(content[middle:])

    def plain(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def list(self, folder: Path) -> None:
        links = "".join(
            f'<a href="{quote(os.fsencode(p.name))}{"/" * p.is_dir()}">x</a>' for p in sorted(folder.iterdir())
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(links)))
        self.end_headers()
        self.wfile.write(links)


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
