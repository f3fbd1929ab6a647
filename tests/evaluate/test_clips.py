from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from indexes import build_index

from vidiff.data.root import root_of
from vidiff.engine.parallel import Group
from vidiff.evaluate.clips import DrawnClips, captions_of, classes_of, index_folder, searched_windows
from vidiff.pipeline.pipeline import Pipeline
from vidiff.store.copies import Copies
from vidiff.text import Words
from vidiff.training.windows import BATCH, choose_windows, gathered
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video


def run(**own: object) -> Pipeline:
    """What is asked of a run; unless told otherwise, it knows neither labels, text, actions nor a control."""
    plain = {"labels": (), "text": None, "facts": SimpleNamespace(actions=None, control=False)}
    return cast(Pipeline, SimpleNamespace(**plain | own))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 10, 11 and 4 frames, of 32x48 pixels; frame i is nearly of one grey, i / 8 - 1."""
    root = tmp_path_factory.mktemp("clips")
    for name, frames in (("cat/a", 10), ("dog/b", 11), ("dog/c", 4)):
        grey = (torch.arange(float(frames)) / 8 - 1).view(1, -1, 1, 1).expand(3, frames, 32, 48)
        write_video(root / f"{name}.mp4", grey)
    return root


def test_a_folder_s_clips_are_found_whatever_the_folders_are(root: Path) -> None:
    index = index_folder(root, ["cat", "cow"])
    assert [(f.name, f.label, f.frames) for f in index.files] == [
        ("cat/a.mp4", 0, 10),
        ("dog/b.mp4", -1, 11),
        ("dog/c.mp4", -1, 4),
    ]


def test_what_a_scoring_left_is_no_clip(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "clips")
    for name in ("real-left-made-right", "checkpoints/old"):
        (tmp_path / "clips" / "scores-motion" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "cat" / "a.mp4", tmp_path / "clips" / "scores-motion" / f"{name}.mp4")
    for folder in ("clips/scores-motion", "clips"):  # and a card beside the clips themselves hides none of them
        (tmp_path / folder / "card.json").write_text("{}")
        assert [file.name for file in index_folder(tmp_path / "clips", []).files] == [
            "cat/a.mp4",
            "dog/b.mp4",
            "dog/c.mp4",
        ]


def test_each_window_has_the_caption_of_its_file(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "clips")
    for name in ("cat/a", "dog/b", "dog/c"):
        (tmp_path / "clips" / f"{name}.txt").write_text(f"this is {name[-1]}")
    windows = choose_windows(index_folder(tmp_path / "clips", ["cat"]), 4, 16)
    named = root_of(tmp_path / "clips", Copies(tmp_path / "copies", 1))
    assert captions_of(windows, named) == ["this is a", "this is a", "this is b", "this is b", "this is c"]
    assert classes_of(windows) == ["cat", "cat", None, None, None]


def test_copies_are_looked_for_in_the_floor_s_clips_and_in_others(root: Path) -> None:
    every = choose_windows(index_folder(root, []), 1, 32)
    assert len(every) == 25
    floor = choose_windows(every.index, 1, 32, count=4).starts
    assert searched_windows(every, 4, 4).starts == floor
    some = searched_windows(every, 4, 11).starts
    assert some[:4] == floor and some[4:] == [start for start in every.starts if start not in floor][::3]
    whole = searched_windows(every, 4)
    assert whole.starts[:4] == floor and sorted(whole.starts) == every.starts


def test_windows_are_evenly_chosen_and_read_as_they_are(root: Path) -> None:
    index = index_folder(root, ["cat", "dog"])
    with pytest.warns(UserWarning, match="1 of 3 files"):
        windows = choose_windows(index, frames=3, size=16, stride=2)
    assert windows.starts == [(0, 0), (1, 0), (1, 6)]  # 5 frames of the file each, from 6 on where they fit
    assert windows.labels.tolist() == [0, 1, 1]
    found = windows.read(range(2, 3))
    assert found.shape == (1, 3, 3, 16, 16)
    whole = read_video(root / "dog" / "b.mp4", [6, 8, 10], size=(16, 24))
    assert torch.equal(found[0], whole[..., 4:20])  # the middle
    every = choose_windows(index, 2, 32)
    assert len(every) == 5 + 5 + 2
    some = choose_windows(index, 2, 32, count=4)
    assert some.starts == every.starts[::3]
    assert some.sha256 != every.sha256
    assert some.sha256 == choose_windows(index, 2, 32, count=4).sha256
    with pytest.raises(ValueError, match="has 12 clips of 2 frames, but 13 are asked for"):
        choose_windows(index, 2, 32, count=13)
    with pytest.raises(ValueError, match=r"longest file in .* has 11: lower --frames or --stride"):
        choose_windows(index, 12, 32)
    with pytest.raises(ValueError, match="has 11: lower --given or --new"):
        choose_windows(index, 12, 32, lower="--given or --new")
    with pytest.raises(ValueError, match="stride=0"):
        choose_windows(index, 2, 32, stride=0)
    assert build_index(root, split="train", progress=False).digest != index.digest


def test_shares_come_together_in_order() -> None:
    """Two processes, played by one: what each makes is put together as one process would have made it."""
    count, made = 2 * BATCH + 3, []

    class Played(Group):
        def gather(self, value: object) -> list[object]:
            made.append(value)
            return made if self.main else []

    def make(which: range) -> dict[str, torch.Tensor]:
        return {"number": torch.tensor(list(which)), "first": torch.tensor([which.start])}

    assert gathered(count, Played(torch.device("cpu"), 1, 2), make, "", progress=False) == {}
    found = gathered(count, Played(torch.device("cpu"), 0, 2), make, "", progress=False)
    assert found["number"].tolist() == list(range(count))
    assert found["first"].tolist() == [0, BATCH, 2 * BATCH]
    assert sorted(made[0]) == [BATCH]


def test_a_folder_that_cannot_be_scored_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        index_folder(tmp_path / "none", [])
    with pytest.raises(ValueError, match="no videos in"):
        index_folder(tmp_path, [])
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    with pytest.raises(ValueError, match=r"broken\.mp4 cannot be read"):
        index_folder(tmp_path, [])


def test_classes_that_a_run_does_not_know_are_told_and_not_asked_for(root: Path) -> None:
    index = index_folder(root, ["cat", "cow"])
    assert [index.class_of(file) for file in index.files] == ["cat", None, None]
    asked = []

    def generate(frames: int, **options: object) -> torch.Tensor:
        asked.append(options["label"])
        return torch.zeros(1)

    known = run(labels=("cat", "dog"), generate=generate)
    for names in (["cat", None], ["cat", "cow"], [None, None]):
        DrawnClips(known, names, 2, 0).read(range(2))
    assert asked == [["cat", None], None, [None, None]], "one without a class is asked for none, beside others"
    for names in (["cat", "dog"], [None, None]):
        assert DrawnClips(known, names, 2, 0).cautions == [] and DrawnClips(known, names, 2, 0).told
    assert DrawnClips(run(), ["cow"], 2, 0).cautions == [] and not DrawnClips(run(), ["cow"], 2, 0).told
    strange = DrawnClips(known, ["cat", "cow", *"abcdef"], 2, 0)
    assert not strange.told and strange.cautions == [
        "the run knows no class 'a', 'b', 'c', 'cow', 'd' and 2 more of the real clips, so its clips are drawn without "
        "any label"
    ]


def test_captions_are_asked_for_and_what_cannot_be_asked_is_told() -> None:
    asked = []

    def make(*given: object, **options: object) -> torch.Tensor:
        asked.append((options["label"], options["text"]))
        return torch.zeros(1)

    reads = {"text": Words(8, ("a", "cat", "runs"), 3), "generate": make, "extend": make, "stream": make}
    texts, names = ["a cat", "a cat runs", "a cow", "a cat runs a"], ["cat", "cat", "dog", "dog"]
    clips = DrawnClips(run(labels=("cat", "dog"), **reads), names, 2, 0, texts=texts)
    clips.read(range(1, 3))
    clips.extend(range(0, 2), torch.zeros(1), 0)
    clips.onward(range(3, 4), torch.zeros(1), 9)
    assert asked == [(["cat", "dog"], ["a cat runs", None]), (["cat", "cat"], texts[:2]), (["dog"], [None])]
    assert clips.told and clips.cautions == [
        "2 of 4 real clips have captions with words that the run does not know, or too many: in their place clips are "
        "drawn without text"
    ]
    unasked = DrawnClips(run(**reads), ["cat"], 2, 0)
    assert not unasked.told and unasked.cautions == ["the run reads text, and its clips are drawn without any"]
    acts = DrawnClips(run(facts=SimpleNamespace(actions="keys", control=True)), ["cat"], 2, 0)
    assert acts.cautions == [
        "the run is told actions, and its clips are drawn without any",
        "the run is shown another video of what it makes (control), and its clips are drawn without one",
    ]
