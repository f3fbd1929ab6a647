"""Actions that a tar or a list brings along, here and elsewhere."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import build_index, stock_of
from messy import FRAMES, write_clip
from server import Server, serving
from tars import pack

from vidiff.data.actions.read import read_actions
from vidiff.data.actions.space import UNKNOWN
from vidiff.data.clip import Clip
from vidiff.data.doctor.actions import look_at_actions
from vidiff.data.doctor.record import Record
from vidiff.data.root import copies_of, root_of
from vidiff.store.error import DataError
from vidiff.video.reader import read_video

TOLD = json.dumps({"actions": [{"name": "n", "kind": "discrete", "count": 100}]})
FIRST, SECOND = np.arange(FRAMES), 50 + np.arange(FRAMES)
LINES = "".join(f"{number}\n" for number in SECOND)


def npy(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as it:
        yield it


def read(root: str | Path, runs: Path, **options: object) -> dict[str, list[float]]:
    """The actions of all clips, as a training has them."""
    copies, files = copies_of(runs), []
    for split in ("train", "test"):
        index = build_index(root, split, copies=copies, cache=runs / "x.jsonl", workers=1, progress=False, **options)
        files += index.files
    rows = read_actions(root_of(root, copies), files)[1]
    return {file.name.rpartition("/")[2]: column[:, 0].tolist() for file, column in zip(files, rows, strict=True)}


@pytest.mark.parametrize("beside", [True, False])
def test_members_of_tars(tmp_path: Path, server: Server, beside: bool) -> None:
    clips = [write_clip(tmp_path / f"{n}.mp4", n).read_bytes() for n in range(2)]
    parts = {"a/0.mp4": clips[0], "a/0.actions.npy": npy(FIRST), "a/1.actions.csv": f"n\n{LINES}", "a/1.mp4": clips[1]}
    pack(server.folder / "x-0.tar", parts if beside else {**parts, "actions.json": TOLD})
    if beside:
        (server.folder / "actions.json").write_text(TOLD)
    wanted = {"0.mp4": FIRST.tolist(), "1.mp4": SECOND.tolist()}
    assert read(server.folder, tmp_path / "here") == wanted
    assert read(server.folder, tmp_path / "here") == wanted  # headers that were read before
    assert read(server.url, tmp_path / "there") == wanted


def test_a_member_that_is_missing_is_named(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "0.mp4").read_bytes()
    pack(tmp_path / "x.tar", {"0.mp4": clip, "0.actions.npy": npy(FIRST), "1.mp4": clip, "actions.json": TOLD})
    with pytest.raises(DataError, match=r"actions of 1 of 2 clips: no actions of x\.tar/1\.mp4 are there"):
        read(tmp_path / "x.tar", tmp_path / "runs")
    records = [Record(clip.name, clip.place, frames=FRAMES) for clip in stock_of(tmp_path / "x.tar").clips]
    found = look_at_actions(stock_of(tmp_path / "x.tar"), records)
    assert found is not None and found.sound == 1 and found.faults == {"none": [("x.tar/1.mp4", "x.tar/1.mp4")]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("where", ["here", "urls", "there"])
def test_a_column_of_a_list(tmp_path: Path, server: Server, kind: str, where: str) -> None:
    for number, rows in enumerate((FIRST, SECOND)):
        write_clip(server.folder / "clips" / f"{number}.mp4", number)
        (server.folder / "told").mkdir(exist_ok=True)
        np.save(server.folder / "told" / f"of-{number}.npy", rows)
    folder, before = (tmp_path, f"{server.url}/") if where == "urls" else (server.folder, "")
    (folder / "actions.json").write_text(TOLD)
    paths = [(f"{before}clips/{number}.mp4", f"{before}told/of-{number}.npy") for number in range(2)]
    lines = {
        "csv": ["path,actions", *map(",".join, paths)],
        "jsonl": [json.dumps({"path": clip, "actions": told}) for clip, told in paths],
    }
    (folder / f"list.{kind}").write_text("\n".join(lines[kind]))
    root = f"{server.url}/list.{kind}" if where == "there" else folder / f"list.{kind}"
    assert read(root, tmp_path / "runs") == {"0.mp4": FIRST.tolist(), "1.mp4": SECOND.tolist()}
    (folder / f"list.{kind}").write_text("\n".join(lines[kind]).replace("of-1", "of-2"))
    with pytest.raises(DataError, match=r"actions of 1 of 2 clips: no actions of .*1\.mp4 are there"):
        read(root, tmp_path / "runs")
    if kind == "csv":
        (folder / "actions.json").unlink()
        with pytest.raises(DataError, match=r"no actions\.json in "):
            read(root, tmp_path / "others")


def test_a_folder_elsewhere(tmp_path: Path, server: Server) -> None:
    for number, rows in enumerate((FIRST, SECOND)):
        write_clip(server.folder / f"{number}.mp4", number)
        np.save(server.folder / f"{number}.actions.npy", rows)
    (server.folder / "actions.json").write_text(TOLD)
    assert read(server.url, tmp_path / "runs") == {"0.mp4": FIRST.tolist(), "1.mp4": SECOND.tolist()}


def test_what_one_steps_oneself_as_the_page_on_worlds_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stepped again by the rows that were kept, the environment draws the frames that were."""
    gymnasium = pytest.importorskip("gymnasium")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "worlds.md").read_text()
    (block,) = [part for part in re.findall(r"```python\n(.*?)```", page, re.S) if "gymnasium" in part]
    assert "range(40)" in block
    exec(block.replace("range(40)", "range(5)"), {})
    root, files = root_of("data/cart", copies_of(Path("runs"))), list[Clip]()
    for split in ("train", "test"):  # which the clips' names tell, as nothing else does
        kept = Path(f"runs/{split}.jsonl")
        files += build_index("data/cart", split, cache=kept, workers=1, progress=False).files
    space, rows = read_actions(root, files)
    assert str(space) == "push (LEFT, RIGHT)"
    assert sorted(file.name for file in files) == [f"{number:04d}.mp4" for number in range(5)]
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    for file, column in zip(files, rows, strict=True):
        video = (read_video(Path("data/cart", file.name)) + 1) * 127.5
        env.reset(seed=int(Path(file.name).stem))
        assert column[0, 0] == UNKNOWN and video.shape[1] == len(column)
        for frame, action in enumerate(column[1:, 0].astype(int), start=1):
            env.step(action)
            drawn = torch.from_numpy(env.render().copy()).permute(2, 0, 1)
            assert (video[:, frame] - drawn).abs().mean() < 1
