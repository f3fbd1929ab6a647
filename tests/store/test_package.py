"""A folder that is passed on holds plain files alone, and each is what its manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vidiff.store.package import MANIFEST, Measured, PackageError, check_name, read_manifest, seal, verify

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "codec").mkdir(parents=True)
    (folder / "data.json").touch()
    (folder / "codec" / "codec.safetensors").write_bytes(b"abc")
    (folder / "README.md").write_text("may change")
    return folder


def test_a_manifest_says_what_is_there(folder: Path) -> None:
    files = seal(folder)
    assert files["data.json"] == Measured(0, EMPTY) and set(files) == {"data.json", "codec/codec.safetensors"}
    assert read_manifest(folder / MANIFEST) == files == seal(folder), "the manifest does not name itself"
    verify(folder, files, folder)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "../data.json",
            "codec/../../data.json",
            "/etc/data.json",
            "codec//data.json",
            ".hidden.json",
            "codec/.x.json",
        ),
        *(
            "C:\\data.json",
            "codec\\data.json",
            "data.json\n",
            "da\0ta.json",
            "ä.json",
            "",
            ".",
            "..",
            "a/" * 9 + "b.json",
        ),
        *(
            "model.pkl",
            "model.bin",
            "model.pt",
            "weights.ckpt",
            "code.py",
            "x.npy",
            "moments.distcp",
            "latest",
            "a.JSON",
        ),
    ],
)
def test_what_has_no_place_in_a_package_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(PackageError):
        check_name(name)
    content = {"format": 1, "files": {name: {"bytes": 0, "sha256": EMPTY}}}
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(PackageError):
        read_manifest(folder / MANIFEST)


def test_a_link_is_refused_where_it_would_go_up_and_where_it_came_down(folder: Path, tmp_path: Path) -> None:
    files = seal(folder)
    (tmp_path / "outside.json").touch()
    (folder / "data.json").unlink()
    (folder / "data.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(PackageError, match=r"data\.json is a link"):
        seal(folder)
    with pytest.raises(PackageError, match=r"data\.json is a link that leads out"):
        verify(folder, files, folder)
    verify(folder, files, tmp_path)  # the same bytes, within


def test_one_changed_byte_and_a_missing_file_are_named(folder: Path) -> None:
    files = seal(folder)
    (folder / "codec" / "codec.safetensors").write_bytes(b"abd")
    with pytest.raises(PackageError, match=r"codec/codec\.safetensors is not what vidiff\.json says"):
        verify(folder, files, folder)
    (folder / "codec" / "codec.safetensors").unlink()
    with pytest.raises(PackageError, match=r"codec/codec\.safetensors is missing"):
        verify(folder, files, folder)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "no manifest"),
        ("[]", "no manifest"),
        ("[" * 100_000, "no manifest"),
        ('{"format": 2, "files": {}}', "format 2; this vidiff reads 1"),
        ('{"format": 1, "files": {"a.json": {"bytes": -1, "sha256": "' + EMPTY + '"}}}', "cannot be true"),
        ('{"format": 1, "files": {"a.json": {"bytes": 0, "sha256": "' + EMPTY.upper() + '"}}}', "cannot be true"),
        ('{"format": 1, "files": {"vidiff.json": {"bytes": 0, "sha256": "' + EMPTY + '"}}}', "cannot be true"),
        ('{"format": 1, "files": {"a.json": 5}}', "no manifest"),
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(PackageError, match=reason):
        read_manifest(tmp_path / MANIFEST)


def test_a_manifest_of_too_many_files_is_refused(tmp_path: Path) -> None:
    files = {f"{number}.json": {"bytes": 0, "sha256": EMPTY} for number in range(1001)}
    (tmp_path / MANIFEST).write_text(json.dumps({"format": 1, "files": files}))
    with pytest.raises(PackageError, match="1,001 files"):
        read_manifest(tmp_path / MANIFEST)
