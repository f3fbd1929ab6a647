from __future__ import annotations

import json
from pathlib import Path

import pytest
from indexes import clip_at, find_files, read_captions, source

from vidiff.data import captions
from vidiff.data.quarantine import Quarantine
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


def test_a_folder_of_pictures_with_a_dot_in_its_name_has_a_caption_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"walk.1.txt": "a man walks", "walk.2.txt": "a dog runs", "walk.txt": "of neither", "a.b.txt": "c"})
    assert read_captions(tmp_path, ["walk.1", "walk.2", "a.b.mp4"], "txt") == ["a man walks", "a dog runs", "c"]


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


BREAKS = "\u2028\u2029\x85\v\f\x1c\x1d\x1e"  # that str.splitlines takes for the end of a line, and no file does


@pytest.mark.parametrize("letter", BREAKS)
def test_what_only_looks_like_a_line_break_ends_no_line(tmp_path: Path, letter: str) -> None:
    cat = f"a{letter}cat"
    write(tmp_path / "csv", {"captions.csv": f"path,caption\ntrain/a.mp4,{cat}\ntrain/b.mp4,dog\n"})
    write(tmp_path / "txt", {"train/a.txt": cat, "train/b.txt": "dog"})
    raw = cat if ord(letter) >= 32 else json.dumps(cat)[1:-1]  # JSON has control characters as escapes alone
    lines = f'{{"path": "train/a.mp4", "caption": "{raw}"}}\n{{"path": "train/b.mp4", "caption": "dog"}}\n'
    write(tmp_path / "jsonl", {"captions.jsonl": lines})
    for kind in ("csv", "txt", "jsonl"):
        assert read_captions(tmp_path / kind, PATHS, kind) == ["a cat", "dog"], kind


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_caption_of_two_lines_is_words_apart(tmp_path: Path, end: str) -> None:
    rows = ["path,caption", f'train/a.mp4,"a black{end}cat,{end}{end}asleep"', "train/b.mp4,dog", ""]
    (tmp_path / "captions.csv").write_bytes(end.join(rows).encode())
    assert read_captions(tmp_path, PATHS) == ["a black cat, asleep", "dog"]
    (tmp_path / "captions.csv").unlink()
    write(tmp_path, {"captions.jsonl": '{"path": "train/a.mp4", "caption": "a black\\ncat"}\n'})
    assert read_captions(tmp_path, PATHS[:1]) == ["a black cat"]


@pytest.mark.parametrize("header", ["path,caption", " Path , Caption", "file_name,text", "video,caption", "file,text"])
def test_columns_are_called_as_those_of_lists(tmp_path: Path, header: str) -> None:
    write(tmp_path, {"captions.csv": f"{header}\ntrain/a.mp4, a cat\ntrain/b.mp4,dog\n"})
    assert read_captions(tmp_path, PATHS) == ["a cat", "dog"]
    (tmp_path / "captions.csv").unlink()
    path, text = header.split(",")
    rows = ({path: name, text: words} for name, words in zip(PATHS, ["a cat", "dog"], strict=True))
    write(tmp_path, {"captions.jsonl": "".join(json.dumps(row) + "\n" for row in rows)})
    assert read_captions(tmp_path, PATHS) == ["a cat", "dog"]
    touch(tmp_path, *PATHS)
    write(tmp_path, {"list.csv": f"{path},split\ntrain/a.mp4,train\ntrain/b.mp4,test\n"})
    assert find_files(tmp_path / "list.csv") == ([("train/a.mp4", -1)], [])


@pytest.mark.parametrize("letter", BREAKS)
def test_a_list_names_clips_with_such_letters(tmp_path: Path, letter: str) -> None:
    """So do a label in it, and the quarantine."""
    name = f"a{letter}b.mp4"
    touch(tmp_path, name)
    write(tmp_path, {"list.csv": f"path,label\n{name},x{letter}y\n"})
    assert find_files(tmp_path / "list.csv") == ([(name, 0)], [f"x{letter}y"])
    write(tmp_path, {"list.jsonl": json.dumps({"path": name}, ensure_ascii=ord(letter) < 32) + "\n"})
    assert find_files(tmp_path / "list.jsonl") == ([(name, -1)], [])
    quarantine = Quarantine(tmp_path / "quarantine.txt")
    quarantine.add(clip_at(tmp_path / name, name), "broken")
    assert quarantine.held([clip_at(tmp_path / name, name)]) == {name: "broken"}
    quarantine.replace({})
    assert quarantine.held([clip_at(tmp_path / name, name)]) == {name: "broken"}


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


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
        ({"captions.csv": "clip,words\n"}, "auto", r"has the columns \['clip', 'words'\]; expected path,caption"),
        ({"captions.csv": ""}, "auto", "has the columns None; expected path,caption"),
        ({"captions.csv": "path,caption\ntrain/a.mp4,a cat, asleep\n"}, "auto", "csv:2 has more values than .* comma"),
        ({"captions.csv": "path,caption\ntrain/a.mp4\n"}, "auto", "csv:2 has fewer values"),
        ({"captions.jsonl": '{"path": "train/a.mp4", "caption": 3}'}, "auto", 'jsonl:1 is .*; expected {"path"'),
        ({"captions.jsonl": '{"path": "train/a.mp4", "caption": "x\ny"}'}, "auto", "line 1, .*: Invalid control"),
        ({"captions.jsonl": '\n{"path": "train/a.mp4"}'}, "auto", "jsonl:2 is "),
        ({"captions.jsonl": '["train/a.mp4", "cat"]'}, "auto", "jsonl: line 1, .*: no object"),
        ({"captions.jsonl": "a cat"}, "auto", "jsonl: line 1, 'a cat': .*; expected"),
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
