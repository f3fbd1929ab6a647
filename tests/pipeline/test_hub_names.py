"""Which names are a run's on the hub, and which are a folder's here."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.pipeline.hub import HubError, check_hub_name, folder_of, is_hub_name


def test_a_name_on_the_hub_is_one_that_no_folder_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("ada/shapes") and is_hub_name(Path("ada/shapes"))
    for name in (
        "runs/shapes",
        "./ada/shapes",
        "/ada/shapes",
        "ada",
        "ada/shapes/deep",
        "ada/",
        "../ada",
        "a da/x",
        "",
    ):
        assert not is_hub_name(name), name
    (tmp_path / "ada").mkdir()
    assert not is_hub_name("ada/shapes"), "a folder of the owner's name is here: a run in it is meant"


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    assert folder_of(tmp_path) == tmp_path
    with pytest.raises(ValueError, match=r"revision is 'main', but .* is a folder here"):
        folder_of(tmp_path, "main")


@pytest.mark.parametrize("name", ["shapes", "ada/shapes/deep", "../shapes", "ada/sha pes", "-/x", ""])
def test_what_is_no_name_on_the_hub_is_refused(name: str) -> None:
    with pytest.raises(HubError, match="give owner/name"):
        check_hub_name(name)
