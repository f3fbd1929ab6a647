"""Data sets of LeRobot are read as they are: episodes that share a video, and rows of Parquet for their frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import build_index, source, stock_of
from pipelines import config
from server import serving

from vidiff.cli.make.doctor import main as doctor
from vidiff.cli.make.train import main as train
from vidiff.data.actions.lerobot import lerobot_space
from vidiff.data.actions.read import read_actions, rows_of
from vidiff.data.captions import read_captions
from vidiff.data.clip import Clip
from vidiff.data.control.pair import control_index
from vidiff.data.index import index_of
from vidiff.data.options import DataConfig
from vidiff.data.root import copies_of, root_of
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.run import read_config
from vidiff.play.openings import Openings
from vidiff.store.error import DataError
from vidiff.store.tree import Folder
from vidiff.training.diffusion import DiffusionStage
from vidiff.video.reader import VideoReader
from vidiff.video.writer import write_video

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

TOP, WRIST = "observation.images.top", "observation.images.wrist"
LENGTHS = (9, 8, 10, 8)  # of episodes; the last has a video of its own
FPS, DARK, STEP = 10, 40, 5
CONFIG = """\
kind: diffusion
name: arm
device: cpu
batch: 4
data: {root: arm, size: 16, frames: 4, workers: 0, actions: true}
codec: {name: identity}
unet: {width: 16, multipliers: [1, 2], blocks: [1, 1], head_dim: 8, patch: 2}
sampling: {sampler: {name: ddim}, steps: 2, context: 1, count: 1, guidance: 1}
train: {steps: 2, precision: fp32, log_every: 2, checkpoint_every: 2, validate_every: 2}
"""


def frames(first: int, count: int) -> torch.Tensor:
    """Grey frames, each of which tells its number in the data set."""
    grey = (DARK + STEP * torch.arange(first, first + count)) / 127.5 - 1
    return grey[None, :, None, None].expand(3, -1, 16, 16)


def numbers(video: torch.Tensor) -> torch.Tensor:
    """The numbers that frames tell, `(..., c, h, w)` in [-1, 1]."""
    return (((video.float().mean(dim=(-3, -2, -1)) + 1) * 127.5 - DARK) / STEP).round().long()


def write(root: Path, version: str = "v3.0", splits: dict[str, str] | None = None) -> Path:
    starts = np.cumsum([0, *LENGTHS])
    actions = np.stack([np.arange(starts[-1]) / 2, np.repeat(np.arange(4), LENGTHS)], axis=1).astype(np.float32)
    videos = root / "videos" / TOP / "chunk-000"
    videos.mkdir(parents=True)
    write_video(videos / "file-000.mp4", frames(0, int(starts[3])), fps=FPS)
    write_video(videos / "file-001.mp4", frames(int(starts[3]), LENGTHS[3]), fps=FPS)
    wrist = root / "videos" / WRIST / "chunk-000"  # all episodes of the other camera are in one file
    wrist.mkdir(parents=True)
    write_video(wrist / "file-000.mp4", frames(0, int(starts[4])), fps=FPS)
    episodes, rows = [], []
    for number, length in enumerate(LENGTHS):
        of, begin = divmod(number, 3)[0], int(starts[number] - (starts[3] if number == 3 else 0))
        places = {f"videos/{TOP}/chunk_index": 0, f"videos/{TOP}/file_index": of}
        times = {f"videos/{TOP}/from_timestamp": begin / FPS, f"videos/{TOP}/to_timestamp": (begin + length) / FPS}
        places |= {f"videos/{WRIST}/chunk_index": 0, f"videos/{WRIST}/file_index": 0}
        times[f"videos/{WRIST}/from_timestamp"] = int(starts[number]) / FPS
        range_ = {"dataset_from_index": int(starts[number]), "dataset_to_index": int(starts[number + 1])}
        data = {"data/chunk_index": 0, "data/file_index": number % 2, "tasks": [f"Lift  block {number}"]}
        episodes.append({"episode_index": number, "length": length, **data, **range_, **places, **times})
        for frame in range(length):
            index = int(starts[number]) + frame
            rows.append(
                {"action": actions[index].tolist(), "episode_index": number, "frame_index": frame, "index": index}
            )
    for name, table in {
        "meta/episodes/chunk-000/file-000": episodes[:2],
        "meta/episodes/chunk-000/file-001": episodes[2:],
        "data/chunk-000/file-000": [row for row in rows[::-1] if row["episode_index"] % 2 == 0],
        "data/chunk-000/file-001": [row for row in rows if row["episode_index"] % 2 == 1],
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(table), root / f"{name}.parquet")
    of_actions = {"dtype": "float32", "shape": [2], "names": ["arm", "grip"]}
    features = {"action": of_actions, TOP: {"dtype": "video"}, WRIST: {"dtype": "video"}}
    info = {"codebase_version": version, "fps": FPS, "features": features, "splits": splits or {"train": "0:4"}}
    (root / "meta" / "info.json").write_text(json.dumps(info))
    stats = {"action": {"min": actions.min(0).tolist(), "max": actions.max(0).tolist()}}
    (root / "meta" / "stats.json").write_text(json.dumps(stats))
    return root


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("robot") / "arm")


def of_all(root: str | Path, runs: Path, **options: object) -> list[Clip]:
    both = [build_index(root, split, workers=1, progress=False, **options) for split in ("train", "test")]
    return sorted((file for index in both for file in index.files), key=lambda file: file.name)


def test_episodes_are_parts_of_their_videos_with_tasks_as_captions(arm: Path, tmp_path: Path) -> None:
    files, start = of_all(arm, tmp_path), 0
    assert [(file.name, file.frames) for file in files] == [(f"episode_00000{n}", LENGTHS[n]) for n in range(4)]
    for file in files:
        with VideoReader(file.place, part=file.part) as reader:
            assert numbers(reader.read().transpose(0, 1)).tolist() == [*range(start, start + file.frames)]
        start += file.frames
    assert read_captions(source(arm), files) == [f"Lift block {number}" for number in range(4)]
    assert [(one.name, one.reason) for one in stock_of(arm).left_out] == [
        (WRIST, "a camera that is not read: data.camera chooses")
    ]


def test_what_was_asked_at_a_frame_leads_to_the_one_after_it(arm: Path, tmp_path: Path) -> None:
    files = of_all(arm, tmp_path)
    space, rows = read_actions(source(arm), files)
    assert [(one.name, one.kind) for one in space.dimensions] == [("arm", "continuous"), ("grip", "continuous")]
    assert np.isnan([one[0] for one in rows]).all() and not np.isnan(np.concatenate([one[1:] for one in rows])).any()
    assert rows[1][1:].tolist() == [[(9 + frame) / 2, 1.0] for frame in range(7)]
    damaged = Clip(files[1].name, files[1].place, frames=3, part=(12, 15), actions=files[1].actions)
    assert rows_of(Folder(arm), damaged, space).tolist() == [[(11 + frame) / 2, 1.0] for frame in range(3)]


def test_a_model_is_trained_by_the_command_on_windows_with_the_actions_of_their_own_frames(
    arm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(arm.parent)
    Path("arm.yaml").write_text(CONFIG)
    assert train(["arm.yaml"]) == 0
    stage = DiffusionStage(read_config(Path("runs/arm")), Path())
    stage.prepare()
    dataset, (low, high) = stage.dataset(), (0.0, 17.0)
    batch = dataset.__getitems__([(turn, number) for turn in range(8) for number in range(len(dataset))])
    shown, told = numbers(batch["latent"][:, :, 0]), batch["action"]
    first = torch.tensor(np.cumsum([0, *LENGTHS])[:-1])
    assert (shown[:, 1:] == shown[:, :-1] + 1).all() and torch.isin(shown, first).any()
    known = ~torch.isin(shown, first)
    assert told.shape == (*shown.shape, 1, 4) and torch.equal(told[..., 0, 1] == 1, known)
    arms = (told[..., 0, 0] + 1) / 2 * (high - low) + low
    assert torch.allclose(arms[known], (shown[known] - 1) / 2, atol=1e-3)
    assert stage.prepared.held_out.files and len(dataset) == 3


def test_another_camera_is_shown_beside_the_first_frame_by_frame(arm: Path, tmp_path: Path) -> None:
    data = DataConfig(str(arm), camera=TOP, control=WRIST)
    index = index_of(data, tmp_path, "train", progress=False)
    beside = control_index(index, data, tmp_path, progress=False)
    assert [(one.name, one.frames) for one in beside.files] == [(one.name, one.frames) for one in index.files]
    for own, other in zip(index.files, beside.files, strict=True):
        assert WRIST in str(other.place) and TOP in str(own.place)
        with index.manner(own).open(own.place) as one, beside.manner(other).open(other.place) as two:
            assert torch.equal(numbers(one.read().transpose(0, 1)), numbers(two.read().transpose(0, 1)))


def test_the_doctor_tells_of_episodes(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "16", "--frames", "2", "--workers", "1", "--camera", TOP]
    assert doctor([str(arm), "--runs", str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    assert "4 files: 4 readable" in said and "actions of 4 of 4 clips can be trained on" in said
    assert "  arm: 0 to 16.5, " in said and f"a camera that is not read: data.camera chooses, such as {WRIST}" in said
    assert f"data.camera={TOP}" in said
    lines = [json.loads(line) for line in (tmp_path / "index" / "arm" / "index.jsonl").read_text().splitlines()]
    assert [(line["frames"], round(line["duration"], 3)) for line in lines] == [(n, n / FPS) for n in LENGTHS]


def test_episodes_elsewhere_are_the_same(arm: Path, tmp_path: Path) -> None:
    copies = copies_of(tmp_path)
    with serving(arm) as server:
        far = of_all(server.url, tmp_path, copies=copies)
        rows = read_actions(root_of(server.url, copies), far)[1]
    near = of_all(arm, tmp_path)
    assert [(file.name, file.frames, file.part) for file in far] == [(f.name, f.frames, f.part) for f in near]
    wanted = read_actions(source(arm), near)[1]
    assert all(np.array_equal(one, two, equal_nan=True) for one, two in zip(rows, wanted, strict=True))


def test_splits_that_are_told_are_kept(tmp_path: Path) -> None:
    root = write(tmp_path / "arm", splits={"train": "0:3", "test": "3:4"})
    assert {name: len(clips) for name, clips in stock_of(root, "lerobot").splits.items()} == {"train": 3, "test": 1}


def test_what_cannot_be_read_is_said(arm: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"data\.camera is 'x'; .*arm has {TOP}, {WRIST}"):
        build_index(arm, camera="x")
    old = write(tmp_path / "old", "v2.1")
    with pytest.raises(DataError, match=r"is a data set of LeRobot v2\.1; versions v3 are read"):
        stock_of(old, "lerobot")
    assert [clip.part for clip in stock_of(old).clips] == [None] * 3  # videos as any others
    info = json.loads((arm / "meta" / "info.json").read_text())
    (old / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v3.1"}))
    parquet.write_table(pyarrow.table({"episode_index": [0]}), old / "meta/episodes/chunk-000/file-001.parquet")
    with pytest.raises(DataError, match=r"file-001\.parquet has no column length"):
        stock_of(old)
    (old / "meta/episodes/chunk-000/file-001.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"file-001\.parquet cannot be read as Parquet"):
        stock_of(old)
    with pytest.raises(DataError, match=r"no .*meta/info\.json, as data sets of LeRobot have it"):
        stock_of(tmp_path, "lerobot")


def test_whole_numbers_are_choices(tmp_path: Path) -> None:
    features = {"action": {"dtype": "int64", "shape": [2], "names": {"keys": ["move", "fire"]}}}
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text(json.dumps({"codebase_version": "v3.0", "features": features}))
    stats = {"action": {"min": [0, 1], "max": [3, 1]}}
    (tmp_path / "meta" / "stats.json").write_text(json.dumps(stats))
    assert str(lerobot_space(Folder(tmp_path))).startswith("move (whole numbers from 0 to 3), fire (whole numbers from")
    (tmp_path / "meta" / "stats.json").write_text("{}")
    with pytest.raises(DataError, match="do not tell of actions and their range"):
        lerobot_space(Folder(tmp_path))


def test_a_world_begins_with_an_episode(arm: Path) -> None:
    """Of a file that several share, with what was done in that one."""
    space = lerobot_space(Folder(arm))
    of = config(2, 6)
    of.data.root, of.data.size, of.unet.actions = str(arm), 16, space.width
    openings = Openings(str(arm), of.data, arm.parent, Facts.of(of, (), 10.0, actions=space), 4)
    for number, clip in enumerate(openings.clips):
        opening = openings.read(number)
        first = sum(LENGTHS[: int(clip.name.rpartition("_")[2])])
        assert numbers(opening.video.transpose(0, 1)).tolist() == [*range(first, first + 4)]
        rows = rows_of(Folder(arm), replace(clip, frames=clip.part[1] - clip.part[0]), space)
        np.testing.assert_array_equal(opening.rows, rows[:4])
