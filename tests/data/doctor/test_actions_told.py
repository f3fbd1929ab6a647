"""The doctor tells of actions: whose are there, what is wrong with others', and what is done how often."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from indexes import stock_of
from messy import FRAMES, write_clip

from vidiff.cli.make.doctor import main
from vidiff.data.actions.space import Action
from vidiff.data.doctor.actions import Column, action_lines, look_at_actions
from vidiff.data.doctor.record import Record
from vidiff.store.place import Place

SPACE = [
    {"name": "keys", "kind": "discrete", "count": 3, "names": ["NOOP", "LEFT", "RIGHT"]},
    {"name": "speed", "kind": "continuous", "low": 0, "high": 30},
    {"name": "gear", "kind": "continuous", "low": 0, "high": 5},
]


def test_the_command_tells_of_actions_and_shows_them_on_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, (sound, short, wrong) = tmp_path / "clips", (np.zeros((FRAMES, 3)) for _ in range(3))
    for number in range(4):
        write_clip(root / f"{number}.mp4", number)
    (root / "actions.json").write_text(json.dumps({"actions": SPACE}))
    sound[:, 0], sound[:, 1], sound[0] = [-1, 1, 1, 1, 1, 1, 0, 0], np.arange(FRAMES), [-1, np.nan, 2]
    sound[:, 2] = short[:, 2] = 2
    short[:, 1], wrong[3, 0] = 15, 7
    for number, rows in enumerate((sound, short[1:], wrong)):
        np.save(root / f"{number}.actions.npy", rows)
    assert main([str(root), "--runs", str(tmp_path / "runs"), "--size", "16", "--frames", "2", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "actions of 1 of 4 clips can be trained on (data.actions=true)" in said
    assert "     1  another number of rows than frames: give one a frame" in said
    assert f"1.mp4: {FRAMES - 1} rows for {FRAMES} frames" in said
    assert "2.actions.npy: keys is 7; it takes whole numbers from 0 to 2" in said
    assert "     1  no actions: write them" in said
    # of the clips that can be read, 8 + 7 rows: of the known 14 keys five are LEFT
    assert "  keys: NOOP 64.3%, LEFT 35.7%, RIGHT 0.0%; 6.7% of 15 rows unknown\n    never RIGHT" in said
    assert "  speed: 1 to 15, 47% of the range from 0 to 30, 9.5 on average; 6.7% of 15 rows unknown" in said
    assert "  gear: 2 to 2, 0% of the range from 0 to 5, 2 on average\n    always 2: it tells a model nothing" in said
    page = next((tmp_path / "runs").rglob("doctor.html")).read_text()
    assert "<h2>Actions</h2>" in page and "NOOP 64.3%" in page and f"{FRAMES - 1} rows for {FRAMES} frames" in page


def test_clips_without_any_actions_are_not_spoken_of(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "0.mp4")
    records = [Record("0.mp4", Place(str(path), path), frames=FRAMES)]
    assert look_at_actions(stock_of(tmp_path), records) is None and action_lines(None) == []
    np.save(tmp_path / "0.actions.npy", np.zeros(FRAMES))
    assert "names the dimensions of actions: write one" in action_lines(look_at_actions(stock_of(tmp_path), records))[0]


def test_a_dimension_that_is_never_known_or_hardly_moves_is_told() -> None:
    column = Column(Action("stick", "continuous", low=-1.0, high=1.0))
    column.add(np.array([np.nan]))
    assert (column.used, column.advice) == ("never known", "no row tells it: leave it out")
    column.add(np.array([0.0, 0.1]))
    assert column.advice.startswith("less than a tenth of its range is used") and column.unknown == 1
