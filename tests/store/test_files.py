"""Whole files or none, folders too; locks among processes; hashes; and what killed processes leave."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import socket
from pathlib import Path
from typing import IO

import pytest

from vidiff.store import files
from vidiff.store.files import check_writable, claimed, draft_of, lock, put, remove, sha256, sweep, write_whole

PROCESSES = multiprocessing.get_context("fork")


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    write_whole(file, "ä\n")
    assert file.read_bytes() == b"\xc3\xa4\n"
    with pytest.raises(ZeroDivisionError), draft_of(file) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert file.read_bytes() == b"\xc3\xa4\n" and os.listdir(file.parent) == ["a.txt"]
    with pytest.raises(SystemExit), draft_of(file.with_name("b")) as draft:
        draft.mkdir()
        (draft / "c").touch()
        raise SystemExit
    assert os.listdir(file.parent) == ["a.txt"]


def test_text_may_have_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", "é " + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "x").read_text(encoding="utf-8") == r"é caf\udce9"


def test_a_file_replaces_no_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()
    with pytest.raises(IsADirectoryError, match=r"is a folder: .*/a'"):
        write_whole(tmp_path / "a", "x")
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path("a"), Path("a/b")]


def test_a_folder_replaces_a_folder_or_a_file(tmp_path: Path) -> None:
    for content in "one", "two":
        with draft_of(tmp_path / "a", durable=True) as draft:
            (draft / "b").mkdir(parents=True)
            (draft / "b" / content).write_text(content)
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["a/b/two"]
    (tmp_path / "file").touch()
    put(tmp_path / "file", tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").is_file()


def test_what_is_durable_is_flushed_before_and_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    monkeypatch.setattr(files, "flush", lambda path: events.append((path.name, sorted(os.listdir(tmp_path)))))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    write_whole(tmp_path / "a", b"")
    assert events == []
    write_whole(tmp_path / "b", b"", durable=True)
    draft = f".b.{socket.gethostname()}-1.partial"
    assert events == [(draft, [draft, "a"]), (tmp_path.name, ["a", "b"])]


def test_what_cannot_be_written_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for name, folder in (("file", False), ("folder", True), ("new", False), ("a/b/c", False), ("a/b/c", True)):
        check_writable(tmp_path / name, folder)
    for name, folder, said in (
        ("folder", False, "is a folder; choose a file name"),
        ("file", True, "is a file; choose a folder name"),
        ("file/new", False, f"{tmp_path / 'file'} is a file; choose another folder"),
        ("file/a/new", True, f"{tmp_path / 'file'} is a file; choose another folder"),
        ("x" * 300, False, "cannot be written, file name too long"),
    ):
        with pytest.raises(ValueError, match=said):
            check_writable(tmp_path / name, folder)

    def full(dir: Path) -> IO[bytes]:
        return open("/dev/full", "wb")

    monkeypatch.setattr(files, "TemporaryFile", full)
    with pytest.raises(ValueError, match=r"new: cannot be written, no space left on device; choose another place"):
        check_writable(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_processes_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a"
    with draft_of(file) as draft:
        draft.write_text("mine")
        other = PROCESSES.Process(target=write_whole, args=(file, "other"))
        other.start()
        other.join()
        assert file.read_text() == "other" and draft.read_text() == "mine"
    assert file.read_text() == "mine" and os.listdir(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    def leave() -> None:
        with draft_of(tmp_path / "a.b") as draft:
            draft.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = PROCESSES.Process(target=leave)
    process.start()
    process.join()
    elsewhere = f".a.b.elsewhere-{process.pid}.partial"
    (tmp_path / elsewhere).touch()
    with draft_of(tmp_path / "a.b") as mine:
        mine.touch()
        assert len(os.listdir(tmp_path)) == 3
        sweep(tmp_path, "other")
        assert len(os.listdir(tmp_path)) == 3
        sweep(tmp_path)
        assert set(os.listdir(tmp_path)) == {mine.name, elsewhere}


def test_a_folder_that_is_removed_is_out_of_sight_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / ".old-a").mkdir()  # an earlier one that could not be deleted
    seen: list[list[str]] = []
    monkeypatch.setattr(files, "delete", lambda path: seen.append([path.name, *sorted(os.listdir(tmp_path))]))
    remove(tmp_path / "a")
    assert seen == [[".old-a-", ".old-a", ".old-a-"]]


def test_a_claim_is_one_process_s_until_it_ends(tmp_path: Path) -> None:
    file, (mine, theirs) = tmp_path / "new" / ".lock", PROCESSES.Pipe()

    def hold() -> None:
        with claimed(file):
            theirs.send("held")
            theirs.recv()

    process = PROCESSES.Process(target=hold)
    process.start()
    assert mine.recv() == "held"
    with claimed(file, wait=False) as had:
        assert not had
    process.kill()
    with claimed(file) as had:  # waits no longer than the process lives
        assert had
    process.join()
    assert file.read_bytes() == b""


def test_shared_locks_exclude_exclusive_ones_alone(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with open(tmp_path / "a") as one, open(tmp_path / "a") as two, open(tmp_path / "a") as three:
        assert lock(one, shared=True) and lock(two, shared=True, wait=False)
        assert not lock(three, wait=False)
        one.close()
        two.close()
        assert lock(three, wait=False)


def test_where_the_file_system_has_no_locks_all_work_is_one_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with claimed(tmp_path / "a", wait=False) as had:
        assert had
    with open(tmp_path / "a") as file, pytest.raises(OSError, match="No locks"):
        lock(file)
    with claimed(tmp_path / "a" / "b") as had:  # a file that cannot be made
        assert had


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_the_hash_is_of_the_whole_file(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()
