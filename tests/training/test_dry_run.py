"""What a rehearsal leaves behind, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.recipe.kinds import RunConfig, VAERun
from vidiff.training import dry_run


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"root": "clips"}, False),
        ({"root": "clips", "images": "pictures"}, False),
        ({"root": "clips.csv"}, True),
        ({"root": "s3://bucket/clips"}, True),
        ({"root": "clips", "images": "https://example.org/pictures.jsonl"}, True),
    ],
)
def test_only_what_is_fetched_is_kept(
    data: dict[str, str], kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of data that are here there is nothing to keep, not even a folder."""

    def train(config: RunConfig, given: str, folder: Path) -> None:
        remote = Path(config.runs) / "remote"
        assert remote.is_symlink() == kept and (not kept or remote.resolve() == tmp_path / "runs/remote")
        raise ValueError("enough")

    monkeypatch.setattr(dry_run, "train", train)
    monkeypatch.chdir(tmp_path)
    config = VAERun(kind="vae", name="tiny")
    for key, value in data.items():
        setattr(config.data, key, value)
    with pytest.raises(ValueError, match="enough"):
        dry_run.rehearse(config, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == (["runs", "remote"] if kept else [])
