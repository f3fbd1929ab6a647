"""ActionsBeside beside clips: what files hold is what a network is told, each row at its frame."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidiff.data.actions.beside import ActionsBeside
from vidiff.data.actions.read import read_actions
from vidiff.data.actions.space import Action, ActionSpace, stacked
from vidiff.data.clip import Clip
from vidiff.data.latents.dataset import Window
from vidiff.data.root import Root
from vidiff.store.error import DataError
from vidiff.store.place import Place
from vidiff.store.tree import Folder

KEYS = Action("keys", "discrete", 3, ("NOOP", "LEFT", "RIGHT"))
STICK = Action("stick", "continuous", low=-2.0, high=6.0)
SPACE = ActionSpace((KEYS, STICK))
ROWS = np.array([[-1, np.nan], [0, -2.0], [2, 6.0], [1, 2.0]])


def test_a_network_is_told_one_of_each_choice_and_numbers_scaled_to_their_range() -> None:
    wanted = [[0, 0, 0, 0, 0], [1, 0, 0, -1, 1], [0, 0, 1, 1, 1], [0, 1, 0, 0, 1]]
    assert SPACE.width == 5 and SPACE.encode(ROWS).tolist() == wanted
    assert SPACE.encode(np.array([[np.nan, 0.0]])).tolist() == [[0, 0, 0, -0.5, 1]]
    assert ActionSpace.of(json.loads(json.dumps(SPACE.facts()))) == SPACE


def test_names_and_numbers_are_the_same_actions() -> None:
    keys = ActionSpace((KEYS,))
    wanted = [[2], [-1], [0]]
    for given in (["right", None, "NOOP"], [2, -1, 0], np.array([2, -1, 0]), torch.tensor([[2], [-1], [0]])):
        assert np.nan_to_num(keys.rows(given), nan=-1).tolist() == wanted
    assert np.array_equal(SPACE.rows([["LEFT", 0.5], None]), [[1, 0.5], [np.nan, np.nan]], equal_nan=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([["UP", 0.0]], "keys has no action 'UP'; there are NOOP, LEFT, RIGHT"),
        ([[3, 0.0]], "keys is 3; it takes whole numbers from 0 to 2, or -1 where it is unknown"),
        ([[0.5, 0.0]], "keys is 0.5"),
        ([[0, 7.0]], "stick is 7; it takes numbers from -2 to 6, or NaN where it is unknown"),
        ([[0]], "has 1 numbers; expected 2 a row"),
        (np.zeros(4), r"shape \(4,\); expected 2 a row"),
    ],
)
def test_what_is_no_action_is_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPACE.rows(given)


def test_what_is_no_dimension_is_refused() -> None:
    for told in ([], [{"name": "a"}], [{"name": "a", "kind": "discrete", "count": 3, "names": ["x"]}], ["a"], None):
        with pytest.raises(ValueError, match="dimension of actions"):
            ActionSpace.of(told)  # type: ignore[arg-type]


def test_all_that_led_to_a_frame_is_told_the_last_first() -> None:
    told = torch.arange(1.0, 7)[:, None]  # of frames 0 to 5
    assert stacked(told, [1, 4], [3, 3], 3)[..., 0].tolist() == [[2, 1, 0], [5, 4, 3]]
    assert stacked(told, [0, 4], [1, 4], 4)[..., 0].tolist() == [[1, 0, 0, 0], [5, 4, 3, 2]]
    assert stacked(told, [2, 3], [1, 1], 2)[..., 0].tolist() == [[3, 0], [4, 0]]


def test_windows_have_the_rows_of_their_own_frames() -> None:
    space = ActionSpace((Action("n", "continuous", low=0.0, high=20.0),))
    rows = [np.arange(10.0)[:, None], 10 + np.arange(10.0)[:, None]]

    def numbers(actions: ActionsBeside, *windows: Window) -> list[list[list[float]]]:
        told = actions(windows)["action"]
        known = told[..., 1] == 1
        return torch.where(known, (told[..., 0] + 1) * 10, -1).round().tolist()  # -1 where nothing is told

    plain = numbers(ActionsBeside(space, rows, 3), Window(0, 2, 3, 1, False, 0), Window(1, 1, 3, 3, False, 0))
    assert plain == [[[2, -1, -1], [3, -1, -1], [4, -1, -1]], [[11, 10, -1], [14, 13, 12], [17, 16, 15]]]
    in_time = numbers(ActionsBeside(space, rows, 2, temporal=2), Window(1, 3, 3, 1, False, 0))
    assert in_time == [[[15, -1], [17, 16], [19, 18]]]


def clips(*names: str, frames: int = 4) -> list[Clip]:
    return [Clip(name, Place(name, Path(name)), frames=frames) for name in names]


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        np.save(folder / name, content)
    else:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def read(folder: Path, *found: Clip) -> tuple[ActionSpace, list[np.ndarray]]:
    return read_actions(Root(Folder(folder)), list(found))


def test_three_kinds_of_files_hold_the_same(tmp_path: Path) -> None:
    write(tmp_path, "actions.json", {"actions": SPACE.facts()})
    write(tmp_path, "a/0.actions.npy", ROWS)
    write(tmp_path, "a/1.actions.csv", "time,stick,keys\n0,,\n1,-2,NOOP\n2,6,2\n3,2,left\n")
    lines = [None, [0, -2], {"keys": "RIGHT", "stick": 6, "other": 1}, ["LEFT", 2.0]]
    write(tmp_path, "2.actions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    space, rows = read(tmp_path, *clips("a/0.mp4", "a/1.mp4", "2.webm"))
    assert space == SPACE and len(rows) == 3
    assert all(torch.equal(space.encode(one), space.encode(ROWS)) for one in rows)
    (part,) = read(tmp_path, Clip("a/0.mp4", Place("a", Path("a")), frames=2, part=(1, 3)))[1]
    assert np.array_equal(part, ROWS[1:3])


def test_a_folder_of_pictures_with_a_dot_in_its_name_has_actions_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "actions.json", {"actions": SPACE.facts()})
    for name, rows in (("walk.1", ROWS), ("walk.2", ROWS[::-1]), ("walk", ROWS[:1])):
        write(tmp_path, f"{name}.actions.npy", rows)
    found = read(tmp_path, *clips("walk.1", "walk.2"))[1]
    assert np.array_equal(found, [ROWS, ROWS[::-1]], equal_nan=True)
    with pytest.raises(DataError, match=r"no walk\.3\.actions\.npy"):
        read(tmp_path, *clips("walk.3"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.actions.npy", ROWS[:3], "has 3 rows, but 0.mp4 has 4 frames: give one each"),
        ("0.actions.npy", ROWS + 1, "keys is 3; it takes"),
        ("0.actions.npy", np.array(["a"] * 4), "cannot be read as actions, it holds <U1, not numbers"),
        ("0.actions.csv", "keys\n1\n", "columns are .'keys'., without 'stick'"),
        ("0.actions.csv", "keys,stick\n1,2\n1\n", "cannot be read as actions"),
        ("0.actions.jsonl", "[1, 2]\nno\n", "cannot be read as actions"),
        ("0.actions.txt", "", "no 0.actions.npy .or .csv, .jsonl. in .*, beside 0.mp4"),
        ("actions.json", {"actions": []}, "no dimension of actions is told"),
        ("actions.json", "{", "actions.json: Expecting"),
    ],
)
def test_files_that_do_not_go_with_their_clip_are_named(
    tmp_path: Path, name: str, content: object, message: str
) -> None:
    write(tmp_path, "actions.json", {"actions": SPACE.facts()})
    write(tmp_path, name, content)
    with pytest.raises(DataError, match=message):
        read(tmp_path, *clips("0.mp4"))


def test_clips_of_one_training_share_their_dimensions(tmp_path: Path) -> None:
    write(tmp_path, "a/actions.json", {"actions": SPACE.facts()})
    write(tmp_path, "b/actions.json", {"actions": ActionSpace((KEYS,)).facts()})
    with pytest.raises(DataError, match=r"are keys .NOOP, LEFT, RIGHT., stick .* in a, but keys .* in b"):
        read(tmp_path, *clips("a/0.mp4", "b/0.mp4"))
    with pytest.raises(DataError, match=r"no actions.json in .*/c or above it"):
        read(tmp_path, *clips("c/0.mp4"))
