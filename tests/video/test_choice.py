"""Which decoder reads a file, and what stays open of one."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from encoded import encode, in_order, x264
from indexes import build_index
from messy import write_clip, write_twice
from videos import run

from vidiff.store.error import VideoError
from vidiff.video import decord, pyav
from vidiff.video.decoders import Automatic, check_decoder, video_file
from vidiff.video.decord import DecordFile
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import VideoReader
from vidiff.video.timetable import Shelf
from vidiff.video.torchcodec import why_not


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "SHELF", Shelf())


def test_the_last_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file is opened once for each size, and again once it has changed."""
    one, other = (encode(tmp_path / f"{n}.mp4", frames=20, **x264(10)) for n in range(2))
    opened, make = [], decord.decord.VideoReader
    monkeypatch.setattr(
        decord.decord, "VideoReader", lambda *given, **more: opened.append(given[0]) or make(*given, **more)
    )
    for path, size in ((one, None), (one, None), (one, (24, 32)), (other, None), (other, None), (one, None)):
        file = DecordFile(path)
        assert file.decode([4], size).shape == (1, *(size or (48, 64)), 3)
        file.close()
    assert opened == [str(path) for path in (one, one, other, one)]
    encode(one, frames=30, **x264(10))
    assert DecordFile(one).frames == 30


def test_a_process_ends_without_a_reader(tmp_path: Path) -> None:
    """decord would crash now and then, as its threads go on decoding."""
    path = write_clip(tmp_path / "x.mp4")
    code = """
        import atexit
        import sys
        from pathlib import Path

        atexit.register(lambda: print(len(decord._KEPT)))  # registered first, so it runs last
        from vidiff.video import decord

        file = decord.DecordFile(Path(sys.argv[1]))
        file.decode([4], None)
        file.close()
        print(len(decord._KEPT))
    """
    process = run(code, path)
    assert process.communicate()[0] == "1\n0\n" and process.returncode == 0


def test_a_fork_finds_no_reader_open(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4")
    file = DecordFile(path)
    file.decode([4], None)
    file.close()
    assert decord._KEPT
    child = os.fork()
    if not child:
        file.decode([3], None)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not decord._KEPT


def test_a_file_whose_times_tell_nothing_is_read_by_decord(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its frames are shown at the same time. PyAV reads it as well, from its beginning on."""
    for n in range(2):
        write_clip(tmp_path / "data" / "train" / f"{n}.mp4", number=n)
    twice = write_twice(write_clip(tmp_path / "2.mkv", number=2), tmp_path / "data" / "train" / "twice.mkv")
    with closing(PyAVFile(twice)) as file:
        assert file.structure.by_order == "several of its frames say that they are shown at the same time"
        assert np.array_equal(file.decode([5, 2, 7], None), in_order(twice)[[5, 2, 7]])
        assert len(np.unique(file.times)) == file.frames == 8
    with VideoReader(twice) as reader:
        assert (reader.decoder, reader.frames) == ("decord", 8)
        assert np.array_equal(reader.pixels(range(8)), in_order(twice))
    index = build_index(tmp_path / "data", layout="flat", progress=False)
    assert [file.decoder for file in index.files] == ["decord"] * 3
    tried = []
    monkeypatch.setattr(pyav.av, "open", lambda *given: tried.append(given))
    with VideoReader(twice, decoder=index.files[2].decoder) as reader:
        assert reader.frames == 8 and not tried


def test_a_name_that_is_not_utf8_is_read_by_pyav(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "plain.mp4")
    other = path.rename(tmp_path / os.fsdecode(b"\xff.mp4"))
    with pytest.raises(VideoError, match="decord opens no file whose name is not UTF-8"):
        _ = DecordFile(other).frames
    with VideoReader(other) as reader:
        assert (reader.decoder, reader.frames) == ("pyav", 8)


def test_what_none_reads_is_refused_by_the_first(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"\x00\x01\x02" * 500)
    with pytest.raises(VideoError, match=r"x\.mp4: not a video, or cut off: .*Invalid data found"):
        _ = Automatic(tmp_path / "x.mp4").frames


def test_a_decoder_is_chosen_by_name(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4")
    assert [type(video_file(path, name)) for name in ("pyav", "decord")] == [PyAVFile, DecordFile]
    for name in ("auto", "decord"):
        index = build_index(tmp_path, layout="flat", decoder=name, cache=tmp_path / "cache" / "x.jsonl", progress=False)
        assert index.files[0].decoder == {"auto": "decord"}.get(name, name)
    check_decoder("auto")
    with pytest.raises(ValueError, match=r"data\.decoder is 'opencv'; choose auto, pyav, decord, torchcodec"):
        check_decoder("opencv")


def test_torchcodec_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    why_not.cache_clear()
    try:
        with pytest.raises(
            ValueError, match=r"data\.decoder is torchcodec, which cannot be imported here .*ModuleNotFound"
        ):
            check_decoder("torchcodec")
    finally:
        why_not.cache_clear()
