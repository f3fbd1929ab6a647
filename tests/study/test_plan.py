"""Which clips a rater sees, in which order and on which side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidiff.study.plan import BEGUN, Study, StudyError, make_study, open_study
from vidiff.video.reader import read_metadata, read_video

FACTS = {"a": {"source": "runs/x"}, "b": {"source": "runs/y"}}


class Flat:
    """Clips of one grey."""

    def __init__(self, grey: float) -> None:
        self.grey, self.read_ = grey, []

    def read(self, which: range) -> Tensor:
        self.read_ += [*which]
        return torch.full((len(which), 3, 4, 16, 16), self.grey)


def study(pairs: int = 9, checks: int = 4, seed: int = 0) -> Study:
    return Study(Path("x"), [None] * (pairs + checks), checks, seed, {}, {})


@pytest.mark.parametrize(("pairs", "checks"), [(1, 0), (1, 1), (9, 4), (10, 10), (40, 6)])
def test_each_rater_sees_every_item_once_and_half_of_them_from_each_side(pairs: int, checks: int) -> None:
    made = study(pairs, checks)
    for rater in (1, 2, 3, 8):
        trials = made.trials(rater)
        assert sorted(t.item for t in trials) == [*range(pairs + checks)]
        assert trials == made.trials(rater), "a reload shows the same"
        assert {(t.left, t.right) for t in trials if t.item < pairs} <= {("a", "b"), ("b", "a")}
        assert {(t.left, t.right) for t in trials if t.item >= pairs} <= {("real", "worse"), ("worse", "real")}
        for kind, count in (("a", pairs), ("real", checks)):
            assert abs(2 * sum(t.left == kind for t in trials) - count) <= 1
        assert trials[0].item < pairs


def test_two_raters_in_a_row_see_each_pair_both_ways_and_in_another_order() -> None:
    made = study()
    one, other = ({t.item: t.left for t in made.trials(rater)} for rater in (5, 6))
    assert all(one[item] != other[item] for item in one)
    assert [*one] != [*other]
    assert [t.left for t in made.trials(1)] != [t.left for t in made.trials(3)]
    assert made.trials(1) != study(seed=1).trials(1)


def test_the_files_hold_frames_and_nothing_that_tells_who_made_them(tmp_path: Path) -> None:
    made = make_study(tmp_path / "s", Flat(-0.5), Flat(0.5), Flat(0.0), ["x", "y"], ["x"], 3, FACTS, 8, progress=False)
    assert sorted(p.name for p in (tmp_path / "s" / "clips").iterdir()) == [
        "a-0000.mp4",
        "a-0001.mp4",
        "b-0000.mp4",
        "b-0001.mp4",
        "real-0000.mp4",
        "worse-0000.mp4",
    ]
    assert (read_video(made.clip("a", 1)) + 0.5).abs().max() < 0.05
    assert read_video(made.clip("real", 2)).std() < 0.02 and read_video(made.clip("worse", 2)).std() > 0.2
    assert read_metadata(made.clip("a", 0)) == {}
    assert b"runs/x" not in made.clip("a", 0).read_bytes()
    assert open_study(made.folder) == made


def test_what_is_made_is_not_made_again_and_another_study_is_not_written_over(tmp_path: Path) -> None:
    def make(seed: int, a: Flat) -> Study:
        return make_study(tmp_path / "s", a, Flat(0.5), Flat(0.0), [None] * 6, [None], seed, FACTS, 8, progress=False)

    made = make(0, Flat(0.0))
    again = Flat(0.0)
    assert make(0, again) == made and again.read_ == []
    asked = json.loads((made.folder / "study.json").read_text())
    del asked["sha256"]
    (made.folder / BEGUN).write_text(json.dumps(asked))
    (made.folder / "study.json").unlink()  # as an interruption leaves it
    made.clip("a", 5).unlink()
    assert make(0, again) == made and again.read_ == [4, 5], "only the batch that lacks a clip"
    with pytest.raises(StudyError, match="with other options: give another --out"):
        make(1, again)


def test_what_was_begun_goes_on_with_the_same_options_alone(tmp_path: Path) -> None:
    class Stopped(Flat):
        def read(self, which: range) -> Tensor:
            if which.start:
                raise KeyboardInterrupt
            return super().read(which)

    def make(seed: int, a: Flat) -> Study:
        return make_study(tmp_path / "s", a, Flat(0.5), Flat(0.0), [None] * 6, [None], seed, FACTS, 8, progress=False)

    with pytest.raises(KeyboardInterrupt):
        make(0, Stopped(0.0))
    with pytest.raises(StudyError, match="a study that was begun with other options: give another --out"):
        make(1, Flat(0.0))
    again = Flat(0.0)
    made = make(0, again)
    assert again.read_ == [4, 5] and sorted(p.name for p in made.folder.iterdir()) == ["clips", "study.json"]


def test_what_is_no_study_or_was_changed_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study: make one"):
        open_study(tmp_path)
    (tmp_path / "notes.txt").touch()
    sources = Flat(0.0), Flat(0.0), Flat(0.0)
    with pytest.raises(StudyError, match="other things than a study"):
        make_study(tmp_path, *sources, [None], [], 0, FACTS, 8, progress=False)
    with pytest.raises(StudyError, match="1 pairs and 2 checks"):
        make_study(tmp_path / "s", *sources, [None], [None, None], 0, FACTS, 8, progress=False)
    made = make_study(tmp_path / "s", *sources, [None], [], 0, FACTS, 8, progress=False)
    made.clip("a", 0).write_bytes(made.clip("a", 0).read_bytes() + b"x")
    with pytest.raises(StudyError, match=r"a-0000\.mp4 is missing or was changed"):
        open_study(made.folder)
    (made.folder / "study.json").write_text("{")
    with pytest.raises(StudyError, match="holds no study"):
        open_study(made.folder)
