"""Decoders, against frames decoded one after the other from the first: the same ones, wherever a window lies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest
from encoded import FILES, encode, in_order, times_in_order, x264
from indexes import build_index
from messy import turned, with_edit_list, write_clip
from videos import smooth

from vidiff.store.error import VideoError
from vidiff.store.place import Place
from vidiff.video import exact, pyav, timetable
from vidiff.video.decode import Decoder
from vidiff.video.decoders import BY_NAME, Automatic
from vidiff.video.decord import DecordFile
from vidiff.video.exact import fault_of_decord
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import VideoReader
from vidiff.video.timetable import Shelf, Timetable, Unsuited, read_through
from vidiff.video.torchcodec import why_not
from vidiff.video.writer import write_video

needs_torchcodec = pytest.mark.skipif(bool(why_not()), reason=f"torchcodec: {why_not()}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(params=FILES)
def path(request: pytest.FixtureRequest, folder: Path) -> Path:
    path = folder / request.param
    if not path.exists():
        encode(path, **FILES[request.param])
    return path


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyav, "SHELF", Shelf())


def windows(frames: int) -> Iterator[range]:
    """Random windows at several strides, and all that touch the ends."""
    random = np.random.default_rng(frames)
    yield from (range(8), range(frames - 8, frames), range(frames - 1, frames))
    for step in (1, 1, 1, 1, 1, 2, 3):
        start = int(random.integers(0, frames - 7 * step))
        yield range(start, start + 7 * step + 1, step)


def test_any_window_is_what_decoding_in_order_shows(path: Path) -> None:
    expected = in_order(path)
    for reopened in (True, False):
        decoder = PyAVFile(path)
        assert decoder.frames == len(expected)
        for window in windows(len(expected)):
            assert np.array_equal(decoder.decode(window, None), expected[window]), (path.name, window)
            if reopened:
                decoder.close()
        mixed = [len(expected) - 1, 0, 9, 9, 4]
        assert np.array_equal(decoder.decode(mixed, None), expected[mixed])
        assert np.array_equal(decoder.decode(None, None), expected)
        decoder.close()


def test_reading_on_decodes_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(folder / "on.mp4", **x264(60))
    expected = in_order(path)
    passes, make = [], pyav._Pass
    monkeypatch.setattr(pyav, "_Pass", lambda *given: passes.append(given) or make(*given))
    decoder = PyAVFile(path)
    for start in range(0, 90, 5):
        assert np.array_equal(decoder.decode(range(start, start + 5), None), expected[start : start + 5])
    assert len(passes) == 2  # the first ended with its five frames: only then is it known that others follow
    decoder.decode([3], None)
    assert len(passes) == 3
    decoder.close()


def test_times_are_those_of_the_frames(path: Path) -> None:
    decoder = PyAVFile(path)
    assert decoder.times == pytest.approx(times_in_order(path), abs=1e-9)
    assert decoder.frames == len(decoder.times)
    decoder.close()


def test_frames_that_nothing_refers_to_are_left_out(folder: Path) -> None:
    """Fewer frames are decoded than lie between the key frame and the window; those that are shown are the same."""
    path = encode(folder / "skip.mp4", frames=120, **x264(120))
    decoder = PyAVFile(path)
    found = decoder.decode(range(100, 104), None)
    assert decoder._pass is not None
    undecoded = sum(number < 100 for number in decoder._pass.numbers.values())  # numbered, and never come out
    decoder.close()
    assert np.array_equal(found, in_order(path)[100:104])
    assert 40 < undecoded < 75  # of 100 before the window, x264 makes about half such


@pytest.mark.parametrize("name", ["g12.mp4", "open.mp4", "vp9.webm", "intra.mov", "mpeg4.avi"])
def test_decord_and_pyav_agree_to_the_bit(folder: Path, name: str) -> None:
    path = folder / name
    if not path.exists():
        encode(path, **FILES[name])
    agree(PyAVFile(path), DecordFile(path))


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv444p", "yuv422p", "gray"])
@pytest.mark.parametrize("size", [(34, 50), (48, 64)])
def test_they_agree_on_other_pixels_and_sizes(tmp_path: Path, pixels: str, size: tuple[int, int]) -> None:
    path = encode(tmp_path / "x.mp4", frames=12, size=size, pixels=pixels, **x264(6))
    agree(PyAVFile(path), DecordFile(path))


def test_they_agree_on_odd_sizes_and_colours(tmp_path: Path) -> None:
    odd = encode(tmp_path / "odd.webm", frames=6, codec="libvpx-vp9", size=(31, 45), **{"cpu-used": "8"})
    agree(PyAVFile(odd), DecordFile(odd))
    for colours in ("colormatrix=bt709", "fullrange=on", "fullrange=on:colormatrix=bt709"):
        path = encode(tmp_path / "colours.mp4", frames=6, **x264(6, colours))
        agree(PyAVFile(path), DecordFile(path))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_they_agree_on_what_is_turned(tmp_path: Path, degrees: int) -> None:
    path = write_clip(tmp_path / "x.mp4", height=32, width=48)
    straight = in_order(path)
    path.write_bytes(turned(path.read_bytes(), degrees))
    agree(PyAVFile(path), DecordFile(path))
    with VideoReader(path, decoder="pyav") as reader:
        error = np.abs(reader.pixels().astype(int) - np.rot90(straight, -degrees // 90, axes=(1, 2)))
    assert error.mean() < 3  # colours are interpolated elsewhere


def agree(one: Decoder, other: Decoder) -> None:
    assert one.frames == other.frames
    assert one.fps == pytest.approx(other.fps)
    assert one.times == pytest.approx(other.times, abs=1e-6)
    for size in (None, (20, 36), (64, 80)):
        window = range(3, one.frames)
        assert np.array_equal(one.decode(window, size), other.decode(window, size)), size
    one.close()
    other.close()


@needs_torchcodec
@pytest.mark.parametrize("name", ["g12.mp4", "g250.mp4", "varying.mp4", "late.mkv", "vp9.webm", "mpeg4.avi"])
def test_torchcodec_agrees(folder: Path, name: str) -> None:
    """To 2 of 255 levels."""
    path = folder / name
    if not path.exists():
        encode(path, **FILES[name])
    ours, theirs = PyAVFile(path), BY_NAME["torchcodec"](path)
    assert theirs.frames == ours.frames
    assert theirs.fps == pytest.approx(ours.fps, rel=0.01)
    assert theirs.times == pytest.approx(ours.times)
    window = range(5, 25)
    a, b = (decoder.decode(window, None).astype(int) for decoder in (ours, theirs))
    assert np.abs(a - b).max() <= 2
    ours.close()
    theirs.close()


@needs_torchcodec
def test_torchcodec_resizes_alike(tmp_path: Path) -> None:
    """To 8 of 255 levels, and 2 on average, where colours change smoothly: it is done before or after they are RGB."""
    write_video(tmp_path / "x.mp4", smooth(12, 96, 128))
    ours, theirs = PyAVFile(tmp_path / "x.mp4"), BY_NAME["torchcodec"](tmp_path / "x.mp4")
    for size in ((48, 64), (40, 50), (120, 160)):
        a, b = (decoder.decode(range(12), size).astype(int) for decoder in (ours, theirs))
        assert a.shape == b.shape == (12, *size, 3)
        assert np.abs(a - b).max() <= 8 and np.abs(a - b).mean() <= 2
    ours.close()
    theirs.close()


@needs_torchcodec
def test_torchcodec_names_what_it_cannot_read(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4: is empty"):
        _ = BY_NAME["torchcodec"](folder / "empty.mp4").frames


READ_BY_PYAV = {"open.mp4", "open.mkv", "refresh.mp4", "stream.ts", "mpeg2.mpg", "reordered.avi", "open-hevc.mp4"}


def test_decord_reads_all_that_it_reads_exactly(path: Path) -> None:
    """Which are those that `READ_BY_PYAV` does not name; a window of either is what decoding in order shows."""
    expected = in_order(path)
    with VideoReader(path) as reader:
        assert reader.decoder == ("pyav" if path.name in READ_BY_PYAV else "decord")
        assert reader.frames == len(expected)
        times = np.array(times_in_order(path))
        assert reader.times - reader.times[0] == pytest.approx(times - times[0])
        for window in windows(len(expected)):
            assert np.array_equal(reader.pixels(window), expected[window]), window
        assert np.array_equal(reader.pixels([5, 3, 5]), expected[[5, 3, 5]])


def test_decord_is_caught_where_it_is_wrong(folder: Path) -> None:
    """Some window of each of these files is not what decoding in order shows, or is refused."""
    for name in sorted(READ_BY_PYAV):
        path = folder / name
        if not path.exists():
            encode(path, **FILES[name])
        assert fault_of_decord(path)
        expected, decoder, right = in_order(path), DecordFile(path), []
        for start in range(len(expected) - 2):
            try:
                right.append(np.array_equal(decoder.decode(range(start, start + 2), None), expected[start : start + 2]))
            except VideoError:
                right.append(False)
        decoder.close()
        assert not all(right), name


@pytest.mark.parametrize(
    ("name", "options", "fault"),
    [
        ("trimmed.mp4", {}, "it has 5 frames, and by decord 7"),
        ("h264.avi", x264(20, "bframes=0"), "decord knows no times of its frames"),
        ("deep.mp4", {"pixels": "yuv420p10le", **x264(20)}, ""),
        ("interlaced.mkv", x264(20, "interlaced=1"), ""),
        ("cropped.mp4", {"size": (50, 66), **x264(20)}, ""),
        ("steady-hevc.mp4", {"codec": "libx265", "x265-params": "keyint=20:bframes=0:log-level=none:pools=none"}, ""),
        ("bundled-hevc.mp4", {"codec": "libx265", "x265-params": "open-gop=0:bframes=4:log-level=none:pools=none"},
         "several frames of hevc may come out at once"),
    ],
)  # fmt: skip
def test_why_decord_is_not_taken(tmp_path: Path, name: str, options: dict[str, str], fault: str) -> None:
    path = tmp_path / name
    if name == "trimmed.mp4":
        path.write_bytes(with_edit_list(write_clip(path).read_bytes()))
    else:
        encode(path, **options)
    assert fault_of_decord(path).startswith(fault) and bool(fault_of_decord(path)) == bool(fault)
    with VideoReader(path, decoder="pyav") as reader:
        expected = reader.pixels()  # in order, by the same filters
    with VideoReader(path) as reader:
        for start in range(0, len(expected) - 3, 3):
            assert np.array_equal(reader.pixels(range(start, start + 4)), expected[start : start + 4])


def test_the_index_says_how_many_are_read_by_pyav(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(2):
        write_clip(tmp_path / "data" / "train" / f"{n}.mp4", number=n)
    encode(tmp_path / "data" / "train" / "open.mp4", **FILES["open.mp4"])
    index = build_index(tmp_path / "data", layout="flat", progress=False)
    assert {Path(file.name).name: file.decoder for file in index.files} == {
        "0.mp4": "decord",
        "1.mp4": "decord",
        "open.mp4": "pyav",
    }
    assert capsys.readouterr().out.count("1 of 3 files in") == 1


def test_a_large_file_is_read_by_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "x.mp4", **x264(20))
    monkeypatch.setattr(exact, "LARGEST", 1000)
    assert fault_of_decord(path) == "it has 90 frames in 0 MiB, all of which decord reads to open it"


def test_a_file_cut_without_encoding_begins_where_its_edit_list_says(tmp_path: Path) -> None:
    """As `ffmpeg -ss 0.5 -c copy` makes it: from the key frame before on, of which the beginning is not shown."""
    same = x264(60, "mbtree=0")  # x264's macroblock tree differs from run to run
    path = encode(tmp_path / "cut.mp4", times=lambda n: 40 * n - 520, **same)
    expected = in_order(path)
    assert len(expected) == 77 and np.array_equal(expected[0], in_order(encode(tmp_path / "x.mp4", **same))[13])
    assert fault_of_decord(path) == "it has 77 frames, and by decord 90"
    decoder = PyAVFile(path)
    assert decoder.times == pytest.approx(times_in_order(path))
    for window in windows(77):
        assert np.array_equal(decoder.decode(window, None), expected[window])
        decoder.close()


def test_what_begins_with_another_frame_than_a_key_frame_is_refused(tmp_path: Path) -> None:
    whole, path = encode(tmp_path / "whole.mp4", **x264(60)), tmp_path / "rest.mkv"
    with av.open(str(whole)) as file, av.open(str(path), "w") as rest:
        stream = rest.add_stream_from_template(file.streams.video[0])
        for packet in [packet for packet in file.demux(video=0) if packet.size][7:]:
            packet.stream = stream
            rest.mux(packet)
    with pytest.raises(VideoError, match=r"does not begin with a key frame; nor can decord: damaged or truncated"):
        _ = Automatic(path).frames


def test_a_trimmed_clip_ends_where_its_edit_list_says(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.mp4")
    path.write_bytes(with_edit_list(path.read_bytes()))
    expected = in_order(path)
    decoder = PyAVFile(path)
    assert decoder.frames == len(expected) == 5
    assert np.array_equal(decoder.decode([4, 2, 3], None), expected[[4, 2, 3]])
    decoder.close()


def test_a_file_that_changes_is_opened_anew(tmp_path: Path) -> None:
    path = encode(tmp_path / "x.mp4", frames=20, **x264(10))
    decoder = PyAVFile(path)
    decoder.decode([3], None)
    encode(path, frames=30, **x264(10))
    assert decoder.frames == 30
    assert np.array_equal(decoder.decode([25], None), in_order(path)[[25]])
    decoder.close()


def test_an_mp4_is_not_read_through(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable, "read_through", None)
    monkeypatch.setattr(pyav, "read_through", None)
    path = encode(folder / "listed.mp4", **x264(20))
    decoder = PyAVFile(path)
    assert (decoder.frames, decoder._table().keys.tolist()) == (90, [0, 20, 40, 60, 80])
    decoder.close()


def test_the_shelf_keeps_what_was_read_last() -> None:
    shelf = Shelf(most=25)
    keys = np.arange(5)

    def table(frames: int) -> Timetable:
        return Timetable(frames, keys, keys, by_dts=True, pts=None)  # 10 numbers

    made = [shelf.get(Path("a"), (1, n), False, lambda n=n: table(n)) for n in (1, 2, 1, 3)]
    assert made[0] is made[2] and shelf.held == 20
    assert [state for _, state, _ in shelf.tables] == [(1, 1), (1, 3)]


def test_what_two_threads_read_at_once_is_on_the_shelf_once() -> None:
    shelf, keys, both = Shelf(), np.arange(5), Barrier(2)

    def made() -> Timetable:
        both.wait(60)
        return Timetable(5, keys, keys, by_dts=True, pts=None)

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: shelf.get(Place("a"), (1, 1), False, made), range(2))
    assert one is other and shelf.held == one.size == 10


def test_a_raw_stream_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "x.h264")
    with av.open(str(path)) as file, pytest.raises(Unsuited, match="not all of its frames say when they are shown"):
        read_through(file, file.streams.video[0])
