"""A stand-in for the Hugging Face hub: as much of its HTTP interface as its own client asks for, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One model: its commits, each all files by name, the newest last."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b"*.safetensors filter=lfs\n"}])

    def sha(self, place: int) -> str:
        return hashlib.sha1(f"{place} {sorted(self.commits[place])}".encode()).hexdigest()

    def find(self, revision: str) -> int | None:
        """Which commit is meant; None for none."""
        if revision == "main":
            return len(self.commits) - 1
        return next((n for n in range(len(self.commits)) if self.sha(n) == revision), None)


class Hub(ThreadingHTTPServer):
    """Attributes:
    models: by owner/name.
    blobs: what was sent apart from a commit, by SHA-256.
    asked: each request, as method and path.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        """Those of the newest commit, to look at and to tamper with."""
        return self.models[name].commits[-1]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            self.body = b"".join(self.chunks())
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for pattern, method in ROUTES:
            if match := re.fullmatch(pattern, path):
                return method(self, *match.groups())
        self.say(404, {"error": f"no route {path}"})

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def say(self, status: int, content: Any, **headers: str) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def missing(self, code: str) -> None:
        self.say(404, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def create(self) -> None:
        asked = json.loads(self.body)
        name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if name in self.server.models:
            return self.say(409, {"error": "there already", "url": f"{self.server.url}/{name}"})
        self.server.models[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.say(200, {"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def info(self, name: str, revision: str | None = None) -> None:
        if name not in self.server.models:
            return self.missing("RepoNotFound")
        model = self.server.models[name]
        place = model.find(revision or "main")
        if place is None:
            return self.missing("RevisionNotFound")
        files = [{"rfilename": file, "size": len(content)} for file, content in model.commits[place].items()]
        self.say(200, {"id": name, "sha": model.sha(place), "private": model.private, "siblings": files, "tags": []})

    def valid(self) -> None:
        self.say(200, {"errors": [], "warnings": []})

    def preupload(self, name: str) -> None:
        files = json.loads(self.body)["files"]
        modes = [
            {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"} for f in files
        ]
        self.say(200, {"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def batch(self, name: str) -> None:
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.server.url}/blob/{o['oid']}", "header": {}}}}
            for o in json.loads(self.body)["objects"]
        ]
        self.say(200, {"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def blob(self, digest: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.blobs[digest] = self.body
        self.say(200, {})

    def commit(self, name: str) -> None:
        model = self.server.models[name]
        files = dict(model.commits[-1])
        for line in self.body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif step["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif step["key"] == "deletedFile":
                del files[value["path"]]
        model.commits.append(files)
        sha = model.sha(len(model.commits) - 1)
        url = f"{self.server.url}/{name}/commit/{sha}"
        self.say(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if name not in self.server.models:
            return self.missing("RepoNotFound")
        model = self.server.models[name]
        place = model.find(revision)
        if place is None:
            return self.missing("RevisionNotFound")
        if file not in model.commits[place]:
            return self.missing("EntryNotFound")
        content = model.commits[place][file]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self.say(200, content, ETag=etag, X_Repo_Commit=model.sha(place), Accept_Ranges="bytes")


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: tuple[tuple[str, Any], ...] = (
    (r"/api/repos/create", Handler.create),
    (r"/api/validate-yaml", Handler.valid),
    (rf"/api/models/{NAME}", Handler.info),
    (rf"/api/models/{NAME}/revision/([^/]+)", Handler.info),
    (rf"/api/models/{NAME}/preupload/main", Handler.preupload),
    (rf"/api/models/{NAME}/commit/main", Handler.commit),
    (rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/blob/([0-9a-f]{64})", Handler.blob),
    (rf"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextmanager
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
