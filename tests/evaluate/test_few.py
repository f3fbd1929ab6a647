"""Few steps beside each other: what is known to be right, or to stand still, scores as such; rows are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vidiff.data.options import DataConfig
from vidiff.data.shapes import ShapesSpec, make_clip, make_shapes, read_clips
from vidiff.evaluate.comparison import comparison_table
from vidiff.evaluate.few import COLUMNS, FewProtocol, Way, compare_few, score_prediction
from vidiff.metrics.objects import LABELS
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video

PROTOCOL = FewProtocol(starts=12, given=3, new=3, batch=5)
SPEC = ShapesSpec(frames=6, train=0, test=1)


class Knowing:
    """In the place of a pipeline: it knows the clips, and with one step it shows the last given frame for ever."""

    device = torch.device("cpu")

    def __init__(self, clips: Tensor, labels: tuple[str, ...], size: int = 64) -> None:
        self.clips, self.labels, self.size, self.calls = clips, labels, size, 0
        self.facts = SimpleNamespace(labels=labels, size=size, actions=None, strides=(1, 1))

    def settings(self, **options: Any) -> dict[str, Any]:
        return {"sampler": {"name": "ddim"}, "steps": 8, **options}

    def generate(self, label: list[str], count: int, seed: int, steps: int = 8) -> Tensor:
        self.calls += 1
        assert count == len(label)
        shown = label if steps > 1 else ["red_disc"] * count
        return torch.stack([make_clip(SPEC, "test", name, 0).video(6) for name in shown])

    def extend(self, given: Tensor, frames: int, label: list[str] | None, *, actions: None, seed: int, steps: int = 8):
        self.calls += 1
        rows = [int((self.clips[:, :, :3] - clip).abs().flatten(1).sum(1).argmin()) for clip in given]
        right = self.clips[rows, :, :frames]
        return right if steps > 1 else torch.cat([given, given[:, :, -1:].expand(-1, -1, frames - 3, -1, -1)], 2)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("run", "student"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "latest").write_text("step-0000001\n")
    monkeypatch.setattr("vidiff.evaluate.few.runs_of", lambda run, config: tmp_path / "runs")
    return tmp_path


def of(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidiff.evaluate.few.read_config", lambda run: SimpleNamespace(data=data))


def test_shapes_are_scored_by_their_oracle_and_rows_are_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shapes(place / "data", SPEC, progress=False)
    of(DataConfig(str(place / "data"), layout="shapes", size=64, frames=6, workers=0), monkeypatch)
    clips = torch.stack([read_video(path) for path in read_clips(place / "data")])
    teacher, student = (Knowing(clips, tuple(LABELS)) for _ in range(2))
    ways = [Way(place / "run", teacher, {"steps": steps}) for steps in (8, 1)]  # type: ignore[arg-type]
    ways.append(Way(place / "student", student))  # type: ignore[arg-type]
    many, one, own = compare_few(ways, None, PROTOCOL, place / "few.json")
    for row in (many, own):
        assert row["generation"]["clips_right"] == 1 and row["extension"]["error"] < 0.2
    assert one["generation"]["clips_right"] == pytest.approx(1 / 12)
    assert one["extension"]["error"] == pytest.approx(one["extension"]["standing_still"], abs=0.2)
    head, *rows = comparison_table([many, one, own], COLUMNS, "run")
    assert head == ["run", "steps", "right", "acceleration, px", "missing", "error, px", "s a frame"]
    assert [row[:3] for row in rows] == [["run", "8", "100.0%"], ["run", "1", "8.3%"], ["student", "8", "100.0%"]]

    made = teacher.calls, student.calls
    assert [*compare_few(ways, None, PROTOCOL, place / "few.json")] == [many, one, own]
    assert (teacher.calls, student.calls) == made
    (place / "student" / "checkpoints" / "latest").write_text("step-0000002\n")
    assert len([*compare_few(ways, None, PROTOCOL, place / "few.json")]) == 3
    assert teacher.calls == made[0] and student.calls > made[1]  # other weights are scored anew

    with pytest.raises(ValueError, match=r"data has 12 held-out clips, but 13 are asked for: lower --starts"):
        next(compare_few(ways, None, replace(PROTOCOL, starts=13), place / "more.json"))

    other = Way(place / "student", Knowing(clips, ("cat",)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"student has the labels \('cat',\).*name runs of the same data"):
        next(compare_few([ways[0], other], None, PROTOCOL, place / "few.json"))
    (place / "scores.json").write_text('{"generation": {}}')
    with pytest.raises(ValueError, match=r"scores.json holds something else .*: give another file, with --json"):
        next(compare_few(ways, None, PROTOCOL, place / "scores.json"))
    assert (place / "scores.json").read_text() == '{"generation": {}}'


def test_other_clips_are_scored_by_what_moves(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        clip = torch.full((3, 6, 16, 16), -0.5)
        for frame in range(6):
            clip[:, frame, 4 * number : 4 * number + 4, 2 * frame : 2 * frame + 4] = 0.5
        (place / "data" / "test").mkdir(parents=True, exist_ok=True)
        write_video(place / "data" / "test" / f"{number}.mp4", clip, crf=1)
    of(DataConfig(str(place / "data"), size=16, frames=6, workers=0), monkeypatch)
    clips = torch.stack([read_video(path) for path in sorted((place / "data" / "test").glob("*.mp4"))])
    ways = [Way(place / "run", Knowing(clips, (), 16), {"steps": steps}) for steps in (8, 1)]  # type: ignore[arg-type]
    many, one = compare_few(ways, None, FewProtocol(2, 3, 3), place / "few.json")
    for row, share in ((many, 0.0), (one, 1.0)):
        told = row["prediction"]
        assert {name: told[name] for name in ("first", "last", "all")} == dict.fromkeys(("first", "last", "all"), share)
        assert len(told["psnr"]) == len(told["psnr_repeated"]) == 3
    last = clips[:, :, 2:3].double()
    wanted = [-10 * ((last - clips[:, :, [at]]) / 2).square().mean((1, 2, 3, 4)).log10() for at in (3, 4, 5)]
    assert one["prediction"]["psnr"] == pytest.approx([float(each.mean()) for each in wanted])
    assert one["prediction"]["psnr_repeated"] == one["prediction"]["psnr"]
    pictures = sorted(path.name for path in place.glob("few-*.png"))
    assert pictures == ["few-run-1.png", "few-run-8.png"]
    with Image.open(place / "few-run-1.png") as picture:  # a given frame and three new, of two clips real and made
        pixels = np.asarray(picture)
    assert pixels.shape == (4 * 16, 4 * 16, 3)
    assert np.array_equal(pixels[:16, :16], pixels[16:32, :16]) and np.array_equal(
        pixels[16:32, 16:32], pixels[:16, :16]
    )
    assert not np.array_equal(pixels[:16, 16:32], pixels[:16, :16])
    assert comparison_table([many], COLUMNS, "run")[0] == ["run", "steps", "first", "last", "all", "s a frame"]
    with pytest.raises(ValueError, match=r"needs 7 frames, but the longest file in .* has 6: lower --given or --new"):
        next(compare_few(ways, None, FewProtocol(2, 3, 4), place / "few.json"))
    with pytest.raises(ValueError, match="nothing moves"):
        score_prediction(clips[:, :, :1].expand(-1, -1, 6, -1, -1), clips[:, :, :1].expand(-1, -1, 6, -1, -1), 3)
    with pytest.raises(ValueError, match=r"starts is 0; give 1 or more"):
        FewProtocol(starts=0)
