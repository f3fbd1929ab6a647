"""ActionsBeside of files that are seen at a rate of one's own: rows follow the frames that are shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from indexes import build_index, source
from messy import write_clip

from vidiff.data.actions.beside import ActionsBeside, most_and_usual, spans_of
from vidiff.data.actions.read import frames_behind, read_actions
from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.clip import Clip
from vidiff.data.latents.dataset import Window
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.video.reader import Manner, VideoReader

TIMES = [0, 100, 150, 300, 350, 400, 800, 850, 900, 1000]  # ms
SPACE = ActionSpace((Action("n", "continuous", low=0.0, high=20.0),))


def numbers(actions: ActionsBeside, window: Window) -> list[list[float]]:
    told = actions([window])["action"][0]
    return torch.where(told[..., 1] == 1, (told[..., 0] + 1) * 10, -1).round().tolist()  # -1 where nothing is told


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clip(tmp_path / "0.mkv", frames=len(TIMES), times=TIMES)
    np.save(tmp_path / "0.actions.npy", np.arange(float(len(TIMES))))
    (tmp_path / "actions.json").write_text(json.dumps({"actions": SPACE.facts()}))
    return tmp_path


def test_all_rows_between_two_frames_that_are_seen_are_told(folder: Path) -> None:
    index = build_index(folder, fps=5, workers=1, progress=False)
    (file,) = index.files
    behind, own = frames_behind(file, index.manner(file))
    assert behind.tolist() == [0, 2, 5, 5, 6, 9] and own == len(TIMES)
    with VideoReader(file.place, 5) as seen, VideoReader(file.place) as plain:
        assert np.array_equal(seen.pixels(), plain.pixels(behind.tolist()))
    assert most_and_usual([behind], 1) == (3, 2) and most_and_usual([behind], 2) == (5, 2)
    rows = read_actions(source(folder), [Clip(file.name, file.place, frames=own)])[1]
    actions = ActionsBeside(SPACE, rows, 3, sources=[behind])
    wanted = [[0, -1, -1], [2, 1, -1], [5, 4, 3], [-1, -1, -1], [6, -1, -1], [9, 8, 7]]
    assert numbers(actions, Window(0, 0, 6, 1, False, 0)) == wanted
    assert numbers(actions, Window(0, 2, 3, 1, False, 0)) == wanted[2:5]
    strided = ActionsBeside(SPACE, rows, 5, sources=[behind])
    assert numbers(strided, Window(0, 1, 3, 2, False, 0)) == [[2, 1, 0, -1, -1], [5, 4, 3, -1, -1], [9, 8, 7, 6, -1]]
    fewer = ActionsBeside(SPACE, rows, 2, sources=[behind])  # of a held-out file with longer gaps, the last
    assert numbers(fewer, Window(0, 4, 2, 1, False, 0)) == [[6, -1], [9, 8]]
    in_time = ActionsBeside(SPACE, rows, 5, temporal=2, sources=[behind])
    wanted = [[0, -1, -1, -1, -1], [5, 4, 3, 2, 1], [6, -1, -1, -1, -1]]
    assert numbers(in_time, Window(0, 0, 3, 1, False, 0)) == wanted


def test_a_part_keeps_its_rows(folder: Path) -> None:
    place = place_of(folder / "0.mkv")
    part = Clip("0.mkv", place, frames=4, part=(2, 9))
    behind, own = frames_behind(part, Manner(5.0, "auto", part=part.part))
    assert behind.tolist() == [0, 2, 3, 3] and own == 7
    (rows,) = read_actions(source(folder), [Clip("0.mkv", place, frames=own, part=part.part)])[1]
    assert numbers(ActionsBeside(SPACE, [rows], 2, sources=[behind]), Window(0, 0, 4, 1, False, 0)) == [
        [2, -1], [4, 3], [5, -1], [-1, -1]
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"0\.mkv has 4 frames at 5 a second, but had 5 when it was looked at"):
        frames_behind(Clip("0.mkv", place, frames=5, part=part.part), Manner(5.0, "auto", part=part.part))


def test_a_higher_rate_repeats_frames_to_which_nothing_leads() -> None:
    behind = np.array([0, 0, 1, 1, 2])
    assert spans_of(behind, [0, 1, 2, 4], [1, 1, 1, 3]) == [1, 0, 1, 2]
    assert most_and_usual([behind], 1) == (1, 1) and most_and_usual([behind[:1]], 2) == (1, 1)
