from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from indexes import build_index, clip_at

from vidiff.data.quarantine import HEADER, Entry, Quarantine
from vidiff.store.error import DataError
from vidiff.store.place import place_of


def test_a_line_holds_until_its_file_changes(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "runs" / "list.txt")
    path = tmp_path / "x.mp4"
    path.write_text("one")
    assert quarantine.held([clip_at(path)]) == {}
    quarantine.add(clip_at(path), "its\tdecoder\nhangs")
    assert quarantine.held([clip_at(path), clip_at(tmp_path / "y.mp4")]) == {str(path): "its decoder hangs"}
    path.write_text("another")
    assert quarantine.held([clip_at(path)]) == {}
    assert (tmp_path / "runs" / "list.txt").read_text().startswith(HEADER)


@pytest.mark.parametrize(
    "name", ["a b.mp4", "tab\there.mp4", "line\nbreak.mp4", "back\\nslash\\.mp4", "ü\\\\t.mp4", "#.mp4"]
)
def test_any_name_comes_back(tmp_path: Path, name: str) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    for path in (tmp_path / name, tmp_path / os.fsdecode(b"\xff.mp4")):
        path.touch()
        quarantine.add(clip_at(path), "reason")
        assert quarantine.held([clip_at(path)]) == {str(path): "reason"}
    quarantine.replace({})
    assert len(quarantine.entries()) == 2 and quarantine.held([clip_at(tmp_path / name)])


def test_lines_by_hand_stay_and_need_no_stamp(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    one, two = tmp_path / "1.mp4", tmp_path / "2.mp4"
    (tmp_path / "list.txt").write_text(f"# mine\n\n{one}\n{two}\ttoo dark\n")
    assert quarantine.held([clip_at(one), clip_at(two)]) == {str(one): "listed by hand", str(two): "too dark"}
    quarantine.replace({place_of(one).key: None, place_of(two).key: Entry("truncated", "1:2")})
    assert quarantine.entries() == {str(one): Entry("listed by hand", ""), str(two): Entry("too dark", "")}


def test_a_scan_leaves_other_files_alone(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    for name in ("1", "2", "3"):
        (tmp_path / name).write_text(name)
        quarantine.add(clip_at(tmp_path / name), f"reason {name}")
    stamp = str(place_of(tmp_path / "2").stamp())
    quarantine.replace({place_of(tmp_path / "1").key: None, place_of(tmp_path / "2").key: Entry("another", stamp)})
    assert [entry.reason for entry in quarantine.entries().values()] == ["another", "reason 3"]
    assert quarantine.entries()[place_of(tmp_path / "2").key].stamp == stamp


def test_many_may_write_at_once(tmp_path: Path) -> None:
    def add(number: int) -> None:
        Quarantine(tmp_path / "list.txt").add(clip_at(tmp_path / f"{number}.mp4"), "x" * 500)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(64)))
    assert len(Quarantine(tmp_path / "list.txt").entries()) == 64


def test_a_training_says_where_all_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quarantine = Quarantine(tmp_path / "list.txt")
    for number in range(25):
        path = tmp_path / "data" / "train" / f"{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        quarantine.add(clip_at(path), "zero bytes")
    with pytest.raises(DataError, match=r"all 25 files in .*data are left out by .*list\.txt: mend or replace them"):
        build_index(tmp_path / "data", quarantine=quarantine, progress=False)
    said = "".join(capsys.readouterr())
    assert said.count(": zero bytes") == 20
    assert "25 of 25 files" in said and f"      25  a file that {tmp_path}/list.txt lists, such as train/00.mp4" in said
    assert "\nand 5 more\n" in said
