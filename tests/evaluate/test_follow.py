"""How truly a world obeys: the environment itself obeys wholly, a still picture as the still picture does."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vidiff.data.actions.space import Action, ActionSpace
from vidiff.data.buckets import Bucket
from vidiff.data.options import DataConfig
from vidiff.evaluate.follow.page import animation, write_page
from vidiff.evaluate.follow.score import FollowProtocol, follow, score_inverse, teach
from vidiff.evaluate.follow.signs import LIT, SIDE, UNLIT, signs
from vidiff.evaluate.follow.starts import Starts, drawn, find_starts, refuse_gaps, shuffled
from vidiff.pipeline.facts import Facts
from vidiff.video.reader import read_image, read_video

SPACE = ActionSpace((Action("keys", "discrete", 3), Action("pull", "continuous", low=-1, high=1)))
PROTOCOL = FollowProtocol(starts=3, given=3, new=4, clips=3, frames=8, steps=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ale_py")
    from vidiff.record.record import Recording, record

    place = tmp_path_factory.mktemp("follow")
    record(
        place / "data", [Recording("breakout", frames=8, size=(128, 128), policy="random", start=12)], 3, 3, processes=1
    )
    return place


@pytest.fixture(scope="module")
def starts(place: Path) -> Starts:
    return find_starts(DataConfig(str(place / "data"), workers=0), place / "runs", 3, 7, 64)


def the_environment(starts: Starts, given: int) -> object:
    def world(before: Tensor, actions: np.ndarray, which: range) -> Tensor:
        assert starts.replays is not None
        return torch.stack(
            [starts.replays[n].frames(given, rows, 64)[0] for n, rows in zip(which, actions, strict=True)]
        )

    return world


def test_the_environment_obeys_itself_and_the_last_frame_does_not(place: Path, starts: Starts) -> None:
    assert starts.environment == "ALE/Breakout-v5" and starts.left_out == ""
    found = follow(the_environment(starts, 3), starts, PROTOCOL)  # type: ignore[arg-type]
    scores = found.scores
    assert set(scores) == {"true", "counterfactual", "shuffled", "left_out"} and set(scores["left_out"]) == {"turning"}
    other = scores["counterfactual"]
    assert other["psnr"] == pytest.approx(120) or other["psnr"] > 100  # equal frames have the most that is told
    assert other["paddle_error"] == 0 and other["paddle_within"] == 1 and other["paddle_seen"] == 1
    assert other["psnr_repeated"] < 45 and other["paddle_error_repeated"] > 1
    assert scores["true"]["psnr"] > 35  # but for how H.264 packs a clip that is longer
    assert scores["true"]["paddle_error"] < 0.3 and scores["true"]["paddle_within"] == 1
    assert scores["shuffled"]["paddle_error"] > 3 * scores["true"]["paddle_error"]
    assert len(other["paddle_error_by_frame"]) == 4

    network = teach(DataConfig(str(place / "data"), workers=0), place / "runs", starts.space, 64, PROTOCOL)
    read = score_inverse(found, starts, network)
    assert read["counterfactual_ratio"] >= 0 and 0 <= read["real_accuracy"] <= 1
    found = replace(found, scores={**scores, "inverse": read})
    html, picture, played = write_page(place / "follow.json", found)
    assert "paddle within" in html.read_text()
    assert read_image(picture).shape == (3, 2 * (3 * (2 * (2 * 64 + 4) + 8)), 2 * 7 * 64)
    video = read_video(played)
    assert video.shape == (3, 7, 4 * 64 + SIDE, 4 * 128 + 4 * 4) and video.shape == animation(found).shape


def test_a_still_picture_scores_as_the_last_frame_repeated(starts: Starts) -> None:
    scores = follow(
        lambda before, rows, which: before[:, :, -1:].expand(-1, -1, rows.shape[1], -1, -1), starts, PROTOCOL
    ).scores
    for name in ("true", "counterfactual", "shuffled"):
        for key in [key for key in scores[name] if f"{key}_repeated" in scores[name]]:
            assert scores[name][key] == scores[name][f"{key}_repeated"], key


def test_clips_that_do_not_play_as_they_were_recorded_are_told(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    config = DataConfig(str(tmp_path / "data"), workers=0)
    state = tmp_path / "data" / "test" / "0001.state.npy"
    np.save(state, np.load(state) + 1)
    found = find_starts(config, tmp_path / "runs", 3, 7, 64)
    assert found.replays is None and "0001.mp4: the state of its episode, played again, are others" in found.left_out
    told = tmp_path / "data" / "test" / "actions.json"
    told.write_text(json.dumps({"actions": json.loads(told.read_text())["actions"]}))
    found = find_starts(config, tmp_path / "runs", 3, 7, 64)
    assert found.environment is None and "was not recorded by `vidiff record`" in found.left_out
    scores = follow(lambda before, rows, which: torch.zeros(3, 3, 4, 64, 64), found, PROTOCOL).scores
    assert set(scores["left_out"]) == {"counterfactual", "places", "turning"} and "paddle_error" not in scores["true"]


def test_other_actions_are_never_the_true_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        true = np.stack([rng.integers(0, 3, 8), rng.uniform(-1, 1, 8)], 1)
        assert (drawn(SPACE, true, rng) != true).any(1).sum() >= 4
    keys = ActionSpace(SPACE.dimensions[:1])
    true = [np.full((8, 1), float(n % 3)) for n in range(9)]
    dealt = shuffled(keys, true)
    assert all((one != other).all() for one, other in zip(dealt, true, strict=True))
    assert sorted(rows[0, 0] for rows in dealt) == sorted(rows[0, 0] for rows in true)  # none is left out
    with pytest.raises(ValueError, match="of 2 starts some have no other"):
        shuffled(keys, [true[0], true[0]])


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="new is 1; give 2 or more"):
        FollowProtocol(new=1)


def test_turning_is_scored_beside_the_environment_s_own(tmp_path: Path) -> None:
    """Doom itself turns as it is told; a picture that stands still turns no way, and a mirrored one the wrong way."""
    pytest.importorskip("vizdoom")
    from vidiff.record.record import Recording, record

    wanted = Recording("VizdoomHealthGathering-v1", frames=10, hold=2, size=(64, 64), start=12)
    record(tmp_path / "data", [wanted], 0, 2, processes=1)
    starts = find_starts(DataConfig(str(tmp_path / "data"), workers=0), tmp_path / "runs", 2, 7, 64)
    env, protocol = the_environment(starts, 3), replace(PROTOCOL, starts=2)
    turned = follow(env, starts, protocol).scores["turning"]  # type: ignore[arg-type]
    assert turned["right"] == turned["right_environment"] == 1
    assert turned["pixels"] == turned["pixels_environment"] == pytest.approx(3, abs=1)
    mirrored = follow(lambda *told: env(*told).flip(-1), starts, protocol).scores["turning"]  # type: ignore[operator]
    assert mirrored["right"] < 0.5 and mirrored["pixels"] < 0 and mirrored["right_environment"] == 1
    still = follow(lambda before, rows, _: before[:, :, -1:].expand(-1, -1, 4, -1, -1), starts, protocol)
    assert still.scores["turning"]["right"] == 0 and still.scores["turning"]["pixels"] == 0


def test_signs_light_up_for_what_is_done() -> None:
    keys = ActionSpace((Action("action", "discrete", 4, ("NOOP", "FIRE", "RIGHT", "LEFT")),))
    lit = {name: (signs(keys, [number], 60)[0] == LIT) for number, name in enumerate(keys.dimensions[0].names)}
    dark = signs(keys, None, 60)
    assert dark.shape == (3, SIDE, 60) and torch.equal(dark.unique(), torch.tensor([-1.0, UNLIT]))
    assert not lit["NOOP"].any() and torch.equal(lit["LEFT"][:, 9:23].flip(1), lit["RIGHT"][:, 23:37])
    assert lit["FIRE"][:, 37:51].any() and not lit["FIRE"][:, :37].any()
    steps = ActionSpace((Action("action", "discrete", 3, ("NOOP", "MOVE_LEFT", "TURN_LEFT")), SPACE.dimensions[1]))
    shown = signs(steps, [2, 0.5], 128)[0] == LIT  # two ways to the left are no arrow, but a box each
    assert shown[:, 15:43].sum() == 0 and shown[:, 43:57].sum() == 64 and shown[SIDE // 2, 57:].sum() == 39
    assert signs(steps, [2, 0.5], 16).shape == (3, SIDE, 16)


def test_worlds_that_leave_frames_out_are_refused() -> None:
    facts = Facts((Bucket(4, 8, 8),))
    refuse_gaps(Path("runs/x"), facts)
    for change, told in (({"strides": (2, 2)}, "every 2 frames of a clip"), ({"rate": 4.0}, "at 4 frames a second")):
        with pytest.raises(ValueError, match=f"runs/x sees .*{told}; only worlds that see each frame"):
            refuse_gaps(Path("runs/x"), replace(facts, **change))
