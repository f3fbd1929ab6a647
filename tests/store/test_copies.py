from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from server import Server, serving
from videos import run

from vidiff.store import copies as module
from vidiff.store import remote
from vidiff.store.copies import Copies, local_copy
from vidiff.store.error import Unreachable, VideoError
from vidiff.store.remote import Identity, identity, is_url, resolve, shown


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as found:
        yield found


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(remote, "STALL", 1.0)  # half of it by the HTTP client
    monkeypatch.setattr(remote, "TICK", 0.1)
    monkeypatch.setattr(module, "_room", {})


@pytest.fixture
def cache(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "copies", 1 << 30)


def put(server: Server, name: str, size: int = 300_000) -> bytes:
    content = np.random.default_rng(len(name)).bytes(size)
    (server.folder / name).write_bytes(content)
    return content


def fetch(url: str, copies: Copies, check: bool = False) -> bytes:
    with local_copy(url, copies, check) as path:
        return path.read_bytes()


def test_a_copy_is_fetched_once(server: Server, cache: Copies, tmp_path: Path) -> None:
    content = put(server, "a.mp4")
    for _ in range(3):
        with local_copy(f"{server.url}/a.mp4", cache) as path:
            assert path.read_bytes() == content
            assert path.parent == cache.folder and path.suffix == ".mp4"
    assert server.gets == [("a.mp4", 0)]
    with local_copy(tmp_path / "x.bin", cache) as path:
        assert path == tmp_path / "x.bin"
    with local_copy(str(tmp_path / "x.bin"), cache) as path:
        assert path == tmp_path / "x.bin"


def test_a_name_with_spaces_is_found(server: Server, cache: Copies) -> None:
    content = put(server, "a b%.bin")
    assert fetch(f"{server.url}/a b%25.bin", cache) == fetch(f"{server.url}/a%20b%25.bin", cache) == content


def test_a_change_is_noticed_where_it_is_asked_for(server: Server, cache: Copies) -> None:
    old = put(server, "a.bin", 100)
    for check in (False, True):
        with local_copy(f"{server.url}/a.bin", cache, check) as path:
            assert path.read_bytes() == old
    new = put(server, "a.bin", 200)
    with local_copy(f"{server.url}/a.bin", cache) as path:
        assert path.read_bytes() == old
    with local_copy(f"{server.url}/a.bin", cache, check=True) as path:
        assert path.read_bytes() == new


@pytest.mark.parametrize("url", ["file://{root}/a b#1.bin", "zip://a b#1.bin::file://{root}/all.zip"])
def test_other_stores(tmp_path: Path, cache: Copies, url: str) -> None:
    content = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "a b#1.bin").write_bytes(content)
    subprocess.run(["python3", "-m", "zipfile", "-c", "all.zip", "a b#1.bin"], cwd=tmp_path, check=True)
    with local_copy(url.format(root=tmp_path), cache) as path:
        assert path.read_bytes() == content
    with pytest.raises(VideoError, match=r"a b: no such file|a b#2\.bin: no such file|: no such file"):
        fetch(url.format(root=tmp_path).replace("#1", "#2"), cache)


@pytest.mark.faults
@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "slow", "silent"])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_failing_server_is_asked_again(server: Server, cache: Copies, fault: int | str, ranges: bool) -> None:
    content = put(server, "a.bin", 5_000_000)
    server.faults["a.bin"] = [fault] if fault == "silent" else [fault, fault]
    server.ranges = ranges
    with local_copy(f"{server.url}/a.bin", cache, check=True) as path:
        assert path.read_bytes() == content
    begins = [begin for _, begin in server.gets]
    if fault in ("cut", "silent"):
        assert begins[0] == 0 and (begins == sorted(set(begins)) if ranges else not any(begins))
    assert len(begins) == {"slow": 1, "silent": 2}.get(str(fault), 3)
    assert [each.name for each in cache.folder.iterdir()] == [path.name]


@pytest.mark.faults
def test_tries_come_to_an_end(server: Server, cache: Copies, tmp_path: Path) -> None:
    put(server, "a.bin")
    url = server.url.replace("//", "//me:secret@") + "/a.bin?token=secret"
    server.faults["a.bin"] = [500] * 99
    with pytest.raises(Unreachable, match=rf"^{server.url}/a\.bin: cannot be fetched in 4 tries, 500") as caught:
        fetch(url, cache)
    assert "secret" not in str(caught.value) and len(server.gets) == 4
    server.faults["a.bin"] = [404]
    with pytest.raises(VideoError, match=r"a\.bin: no such file"):
        fetch(url, cache)
    server.faults["a.bin"] = [403]
    with pytest.raises(VideoError, match=r"a\.bin: cannot be fetched, the server answers 403"):
        fetch(url, cache)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9/x: cannot be fetched in 4 tries, Cannot connect"):
        fetch("http://127.0.0.1:9/x", cache, check=True)
    assert not [each for each in cache.folder.iterdir() if not each.name.startswith(".")]


@pytest.mark.faults
def test_a_file_that_changes_is_not_mixed_with_what_it_was(server: Server, cache: Copies) -> None:
    put(server, "a.bin", 1000)
    place = resolve(f"{server.url}/a.bin")
    complaint = r"1,000 bytes came, where 900 were listed; it has changed since"
    with pytest.raises(VideoError, match=complaint), cache.hold("x", place, Identity(900)):
        pass
    (cache.folder / ".x.partial").write_bytes(bytes(2000))  # longer than what is there now: the server answers 416
    with cache.hold("x", place, Identity(1000)) as path:
        assert path.read_bytes() == put(server, "a.bin", 1000)


def test_what_was_used_longest_ago_makes_room(server: Server, tmp_path: Path) -> None:
    cache = Copies(tmp_path / "copies", 3500)
    for name in "abc":
        put(server, name, 1000)

    def names() -> set[str]:
        here = {each.read_bytes() for each in cache.folder.iterdir()}
        return {file.name for file in server.folder.iterdir() if file.read_bytes() in here}

    contents = {name: np.random.default_rng(ord(name)).bytes(1000) for name in "abcde"}
    for name, content in contents.items():
        (server.folder / name).write_bytes(content)
    held = {}
    for name in "abc":
        with local_copy(f"{server.url}/{name}", cache, check=True) as held[name]:
            pass
        os.utime(held[name], ns=(ord(name), ord(name)))  # it was used long ago, one after the other
    with local_copy(f"{server.url}/a", cache, check=True):
        pass
    assert names() == set("abc")
    assert held["a"].stat().st_mtime > 1e9
    with held["c"].open("rb") as opened, local_copy(f"{server.url}/a", cache, check=True):
        for name in "de":
            with local_copy(f"{server.url}/{name}", cache, check=True):
                pass
        assert names() == set("ade")  # b and c were used before a
        assert opened.read() == contents["c"]  # who has it open reads on
    (server.folder / "large").write_bytes(bytes(3501))
    with pytest.raises(Unreachable, match=r"large: has 3\.5e-06 GB, and .* may hold 3\.5e-06: raise data\.remote_c"):
        fetch(f"{server.url}/large", cache, check=True)
    (server.folder / "unsized").write_bytes(bytes(3000))
    with local_copy(f"{server.url}/unsized", cache) as path:
        assert sum(each.stat().st_size for each in cache.folder.iterdir()) <= 3500
        assert path.stat().st_size == 3000


FETCH = """
    import sys
    from pathlib import Path
    from vidiff.store.copies import Copies, local_copy
    with local_copy(sys.argv[1], Copies(Path(sys.argv[2]), 1 << 30), check=True) as path:
        print(path.name, path.stat().st_size)
"""


@pytest.mark.faults
def test_processes_share_one_fetch(server: Server, cache: Copies) -> None:
    put(server, "a.bin", 2_000_000)
    server.faults["a.bin"] = ["slow"]
    both = [run(FETCH, f"{server.url}/a.bin", cache.folder) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] and said[0][0].endswith(" 2000000\n")
    assert server.gets == [("a.bin", 0)]


@pytest.mark.faults
def test_a_killed_fetch_is_taken_up(server: Server, cache: Copies) -> None:
    content = put(server, "a.bin", 4_000_000)
    server.faults["a.bin"] = ["silent"]
    process = run(FETCH, f"{server.url}/a.bin", cache.folder)
    until = time.monotonic() + 100
    while not (cache.folder.is_dir() and any(each.stat().st_size for each in cache.folder.iterdir())):
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    process.communicate()
    (draft,) = cache.folder.iterdir()
    assert draft.name.endswith(".partial") and draft.stat().st_size
    begun = draft.stat().st_size
    with local_copy(f"{server.url}/a.bin", cache, check=True) as path:
        assert path.read_bytes() == content
    assert server.gets[-1] == ("a.bin", begun)


@pytest.mark.faults
def test_a_folder_that_cannot_be_written_is_told(server: Server, tmp_path: Path) -> None:
    put(server, "a.bin")
    (tmp_path / "copies").touch()
    with pytest.raises(Unreachable, match=r"a\.bin: no copy can be kept in .*copies, (File exists|Not a directory)"):
        fetch(f"{server.url}/a.bin", Copies(tmp_path / "copies", 1 << 30))
    if os.path.exists("/dev/full"):
        cache = Copies(tmp_path / "here", 1 << 30)
        cache.folder.mkdir()
        (cache.folder / ".x.partial").symlink_to("/dev/full")
        with pytest.raises(Unreachable, match=r"no copy can be kept in .*here, No space left"):
            remote.download(resolve(f"{server.url}/a.bin"), cache.folder / ".x.partial", Identity())


def test_what_is_a_url() -> None:
    for url in ("s3://b/c", "https://h/x", "zip://*::/tmp/x.zip", "memory://x", "file:///x", "simplecache::s3://b"):
        assert is_url(url)
    for path in ("data/clips", "/data", "c:/x", "pipe:cat x", "a:b", Path("s3://b")):
        assert not is_url(path)


def test_secrets_are_not_shown() -> None:
    assert shown("https://me:pw@h:80/a/b.mp4?sig=1#x") == "https://h:80/a/b.mp4"
    assert shown("404, url='https://me@h/a?sig=1' no") == "404, url='https://h/a' no"
    assert shown("zip://a/b.mp4::https://k:s@h/x.zip?t=1") == "zip://a/b.mp4::https://h/x.zip"
    assert shown("s3://bucket/a b/c.mp4") == "s3://bucket/a b/c.mp4"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"nowhere://x cannot be opened: Protocol not known: nowhere; expected s3://"):
        resolve("nowhere://x")
    with pytest.raises(ValueError, match=r"s3://b/c cannot be opened by what is installed: pip install s3fs"):
        resolve("s3://b/c")
    with pytest.raises(ValueError, match=r"gs://b/c cannot be opened by what is installed: .*gcsfs"):
        resolve("gs://b/c")


def test_stores_tell_of_a_file_in_their_own_ways() -> None:
    from datetime import datetime, timezone

    moment = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)
    nanoseconds = int(moment.timestamp() * 1e9)
    assert identity({"size": 5, "LastModified": moment, "ETag": '"x"'})[:2] == (5, nanoseconds)
    assert identity({"size": 5, "updated": "2024-05-01T12:00:00+00:00"})[:2] == (5, nanoseconds)
    assert identity({"size": 5, "Last-Modified": "Wed, 01 May 2024 12:00:00 GMT"})[:2] == (5, nanoseconds)
    assert identity({"size": 5, "mtime": moment.timestamp()})[:2] == (5, nanoseconds)
    assert identity({"size": None, "mtime": "?"})[:2] == (-1, 0)
    assert identity({"ETag": "x"}).version != identity({"ETag": "y"}).version
