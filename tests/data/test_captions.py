from __future__ import annotations

from pathlib import Path

import pytest
from indexes import clip_at, read_captions, source

from vidiff.data import captions
from vidiff.data.shapes import ShapesSpec, make_shapes, read_clips
from vidiff.store.error import DataError

PATHS = ["train/a.mp4", "train/b.mp4"]
GOOD = {
    "captions.jsonl": '{"path": "train/b.mp4", "caption": "dog, \\u00e9"}\n\n'
    '{"path": "else.mp4", "caption": ""}\n{"path": "train/a.mp4", "caption": " a cat ", "more": 1}\n',
    "captions.csv": '\ufeffpath,label,caption\ntrain/b.mp4,2,"dog, é"\ntrain/a.mp4,1, a cat \n',
    "train/a.txt": "a\ncat\n",
    "train/b.txt": "dog, é",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(("source", "kind"), [("jsonl", "captions.jsonl"), ("csv", "captions.csv"), ("txt", ".txt")])
def test_three_sources_say_the_same(tmp_path: Path, source: str, kind: str) -> None:
    write(tmp_path, {name: text for name, text in GOOD.items() if name.endswith(kind)})
    assert read_captions(tmp_path, PATHS) == ["a cat", "dog, é"]
    assert read_captions(tmp_path, PATHS, source) == ["a cat", "dog, é"]


def test_the_first_source_that_is_there_is_taken(tmp_path: Path) -> None:
    """jsonl before txt before csv; and any of them by name."""
    write(tmp_path, {name: text.replace("dog", name.split(".")[-1]) for name, text in GOOD.items()})
    found = []
    for gone in ("captions.jsonl", "train/b.txt", "train/a.txt"):
        assert read_captions(tmp_path, PATHS, "csv")[1] == "csv, é"
        if gone != "train/a.txt":
            found.append(read_captions(tmp_path, PATHS)[1])
        (tmp_path / gone).unlink()
    assert [*found, read_captions(tmp_path, PATHS)[1]] == ["jsonl, é", "txt, é", "csv, é"]


@pytest.mark.parametrize(
    ("files", "source", "complaint"),
    [
        ({}, "auto", "no captions in .*, which a model with text needs: expected captions.jsonl in"),
        ({}, "json", "data.captions is 'json'; choose auto, jsonl, txt, csv"),
        ({}, "jsonl", "no .*captions.jsonl: write it, or choose another source with data.captions"),
        ({"train/a.txt": "cat"}, "auto", "no .*train/b.txt: write it"),
        ({"train/a.txt": "cat", "train/b.txt": " \n"}, "auto", "the caption of train/b.mp4 is empty"),
        (
            {"captions.csv": "path,caption\ntrain/a.mp4,cat\n"},
            "auto",
            "1 of 2 clips have no caption in .*captions.csv, such as train/b.mp4",
        ),
        (
            {"captions.csv": "path,caption\ntrain/a.mp4,cat\ntrain/a.mp4,dog\n"},
            "auto",
            "captions.csv has two captions for train/a.mp4: leave one",
        ),
        ({"captions.csv": "file,text\n"}, "auto", r"has the columns \['file', 'text'\]; expected path,caption"),
        ({"captions.csv": ""}, "auto", "has the columns None; expected path,caption"),
        ({"captions.csv": "path,caption\ntrain/a.mp4,a cat, asleep\n"}, "auto", "csv:2 has more values than .* comma"),
        ({"captions.csv": "path,caption\ntrain/a.mp4\n"}, "auto", "csv:2 has fewer values"),
        ({"captions.jsonl": '{"path": "train/a.mp4", "caption": 3}'}, "auto", 'jsonl:1 is .*; expected {"path"'),
        ({"captions.jsonl": '\n{"path": "train/a.mp4"}'}, "auto", "jsonl:2 is "),
        ({"captions.jsonl": '["train/a.mp4", "cat"]'}, "auto", "jsonl:1 is "),
        ({"captions.jsonl": "a cat"}, "auto", "jsonl:1 is 'a cat'; expected"),
    ],
)
def test_captions_that_cannot_be_used_are_named(
    tmp_path: Path, files: dict[str, str], source: str, complaint: str
) -> None:
    write(tmp_path, files)
    with pytest.raises(DataError, match=complaint):
        read_captions(tmp_path, PATHS, source)


def test_a_list_with_captions_is_checked_as_captions_are(tmp_path: Path) -> None:
    """Also where it is the data set itself, of which clips are named by the same rows."""
    write(tmp_path, {"captions.csv": "path,caption\ntrain/a.mp4,a cat, asleep\n"})
    touched = clip_at(tmp_path / PATHS[0], PATHS[0])
    with pytest.raises(DataError, match=r"captions\.csv:2 has more values than the first line has columns"):
        captions.read_captions(source(tmp_path / "captions.csv"), [touched])


def test_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_bytes("path,caption\na.mp4,é\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"captions.csv is not UTF-8 text .* at byte 19"):
        read_captions(tmp_path, ["a.mp4"])


def test_the_shapes_set_has_captions(tmp_path: Path) -> None:
    make_shapes(tmp_path, ShapesSpec(size=32, frames=2, train=1, test=1), progress=False)
    truth = {str(path.relative_to(tmp_path)): clip.caption for path, clip in read_clips(tmp_path).items()}
    paths = sorted(truth)[::-1]
    assert read_captions(tmp_path, paths) == [truth[path] for path in paths]
