"""What a rehearsal leaves behind, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.data.index import index_of
from vidiff.data.shapes import ShapesSpec, make_shapes
from vidiff.recipe.kinds import RunConfig, VAERun
from vidiff.recipe.load import dump
from vidiff.training import dry_run
from vidiff.training.stage import Stage, run_stage


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ({"root": "clips"}, False),
        ({"root": "clips", "images": "pictures"}, False),
        ({"root": "clips.csv"}, True),
        ({"root": "s3://bucket/clips"}, True),
        ({"root": "clips", "images": "https://example.org/pictures.jsonl"}, True),
        ({"root": "clips", "control": "https://example.org/depth"}, True),
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


@pytest.mark.parametrize("begun", [False, True], ids=["nothing there", "a set that was not drawn to its end"])
@pytest.mark.parametrize(("asked", "drawn"), [({}, {"train": 2, "test": 2}), ({"test": 1}, {"train": 2, "test": 1})])
def test_of_a_shapes_set_that_is_missing_a_few_clips_are_drawn(
    begun: bool, asked: dict[str, int], drawn: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the rehearsal reads, in its own folder."""
    before = {"shapes/train/red_disc/0000.mp4"} if begun else set()
    for name in before:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()

    def train(config: RunConfig, given: str, folder: Path) -> None:
        data = config.data
        assert Path(config.runs) in Path(data.root).parents
        assert data.shapes == {"frames": 4, "size": 32, **drawn} and data.limit == 16
        index = index_of(data, Path(config.runs), "train", workers=1, progress=False)
        assert len(index.files) == 16 and len({file.label for file in index.files}) == 12
        raise ValueError("enough")

    monkeypatch.setattr(dry_run, "train", train)
    monkeypatch.chdir(tmp_path)
    config = VAERun(kind="vae", name="tiny")
    config.batch, config.data.layout, config.data.root = 8, "shapes", "shapes"
    config.data.shapes = {"frames": 4, "size": 32, **asked}
    with pytest.raises(ValueError, match="enough"):
        dry_run.rehearse(config, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_shapes_set_that_is_there_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shapes(tmp_path / "shapes", ShapesSpec(size=32, frames=2, train=1, test=0), progress=False)

    def train(config: RunConfig, given: str, folder: Path) -> None:
        assert (config.data.root, config.data.shapes) == ("shapes", {})
        raise ValueError("enough")

    monkeypatch.setattr(dry_run, "train", train)
    monkeypatch.chdir(tmp_path)
    config = VAERun(kind="vae", name="tiny")
    config.data.layout, config.data.root = "shapes", "shapes"
    with pytest.raises(ValueError, match="enough"):
        dry_run.rehearse(config, tmp_path)


def test_who_reads_a_config_while_it_is_written_over_reads_all_of_it(tmp_path: Path) -> None:
    """As the other processes of a training that goes on do: the file they have opened stays as it was."""

    class Nothing(Stage[VAERun]):
        def prepare(self) -> None:
            pass

        def keep(self) -> None:
            raise ValueError("enough")

    config = VAERun(kind="vae", name="tiny", runs=str(tmp_path), device="cpu")
    config.data.root = str(tmp_path)
    config.folder.mkdir()
    paths = [config.folder / name for name in ("config.yaml", "resolved.yaml")]
    for path in paths:
        path.write_text("kind: vae\n")
    opened = [path.open() for path in paths]
    with pytest.raises(ValueError, match="enough"):
        run_stage(Nothing(config, tmp_path), "name: tiny\n")
    for file in opened:
        with file:
            assert file.read() == "kind: vae\n"
    assert paths[0].read_text() == "name: tiny\n"
    assert paths[1].read_text() == dump(config)
