"""Damaged packets inside a film: which frames they reach, and that these are in no clip."""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from indexes import build_index
from videos import filmed

from vidiff.data.buckets import Bucket, View
from vidiff.data.clip import Clip
from vidiff.data.clips import ClipDataset
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.doctor.scan import summarise
from vidiff.data.index import Index
from vidiff.data.latents.encode import encode_latents
from vidiff.data.latents.spec import Plan
from vidiff.data.probe import probe
from vidiff.store.error import DamageError, DataError
from vidiff.store.place import place_of
from vidiff.video import stream
from vidiff.video.exact import fault_of_decord
from vidiff.video.pyav import PyAVFile
from vidiff.video.reader import VideoReader
from vidiff.video.stream import look_through, sound_parts

H264 = ("-c:v", "libx264", "-g", "20", "-bf", "2", "-x264-params", "scenecut=0:threads=1", "-pix_fmt", "yuv420p")
SOURCE = "testsrc2=s=192x128:r=25:d=4"
OPTIONS = {
    "x.mp4": H264,
    "x.mkv": H264,
    "x.avi": ("-c:v", "mpeg4", "-g", "20", "-bf", "0", "-q:v", "4"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "5"),
    "x.mov": ("-c:v", "prores_ks"),
}
REACHED = {"x.mp4": (46, 60), "x.mkv": (46, 60), "x.avi": (47, 60), "mjpeg.avi": (47, 48), "x.mov": (47, 48)}


def films(folder: Path, name: str) -> tuple[Path, Path]:
    """A film of 100 frames with a key frame every 20, and the same with another's bytes in one packet of the third."""
    whole = filmed(folder / f"whole-{name}", "null", *OPTIONS[name], source=SOURCE)
    with av.open(str(whole)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        numbers = sorted(packet.pts for packet in packets)
        struck = min(packets[45:], key=lambda packet: packet.is_disposable)  # to which others refer
        position, size = struck.pos, struck.size
    content = bytearray(whole.read_bytes())
    begin = position + size // 3
    content[begin : begin + size // 3] = np.random.default_rng(3).bytes(size // 3)
    path = folder / name
    path.write_bytes(content)
    assert numbers.index(struck.pts) in range(45, 50)
    return path, whole


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return films(tmp_path_factory.mktemp("film"), "x.mp4")


def pixels(path: Path) -> np.ndarray:
    """All frames as they come out of FFmpeg."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


@pytest.mark.faults
@pytest.mark.parametrize("name", OPTIONS)
def test_damage_reaches_to_the_next_key_frame(tmp_path: Path, name: str) -> None:
    path, whole = films(tmp_path, name)
    look = look_through(place_of(path))
    assert look is not None and look.frames == 100 and len(look.damage) == 1
    start, stop = look.damage[0]
    assert stop == (60 if name in ("x.mp4", "x.mkv", "x.avi") else start + 1) and 40 < start < 50
    wrong = np.flatnonzero((pixels(path) != pixels(whole)).any((1, 2, 3)))
    assert len(wrong) and start <= wrong.min() and wrong.max() < stop
    undamaged = look_through(place_of(whole))
    assert undamaged is not None and not undamaged.damage
    record = examine(Case(Clip(name, place_of(path))))
    assert record.readable and record.damage == look.damage
    assert f"damaged stretch: frames {start} to {stop - 1}, which are damaged" in record.notes
    assert any("damaged stretch" in line for line in summarise([record]))


def test_stretches_are_told_by_decoding_order() -> None:
    """B-frames that refer to what comes after them, open GOPs, and key frames that do not stand alone."""
    packet = stream._Packet
    # shown 0 to 11; in the order of decoding I0 P3 B1 B2 I6 b4 b5 P9 b7 b8 P11 b10
    order = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8, 11, 10]
    for alone, bad, expected in [
        (True, {1}, ((1, 6),)),  # nobody knows that none refers to it
        (True, {3}, ((1, 6),)),
        (True, {6}, ((4, 12),)),
        (True, {0}, ((0, 6),)),
        (True, {2, 9}, ((2, 6), (7, 12))),
        (True, {2, 5}, ((2, 12),)),
        (False, {3}, ((1, 12),)),  # what comes after such a key frame may still refer to what came before
        (True, set(), ()),
    ]:
        packets = [packet(pts, True, pts in (0, 6), alone and pts in (0, 6)) for pts in order]
        assert stream.stretches(packets, range(12), bad) == expected, bad
    assert sound_parts([(0, 4), (8, 12)], 12) == [(4, 8)] and sound_parts([], 3) == [(0, 3)]
    assert sound_parts([(0, 3)], 3) == []


@pytest.mark.faults
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_a_damaged_stretch_is_in_no_clip(
    tmp_path: Path, film: tuple[Path, Path], decoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, whole = film
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.mp4").write_bytes(path.read_bytes())
    index = build_index(tmp_path / "data", split="train", decoder=decoder, progress=False)
    ((start, stop),) = index.files[0].damage
    assert [(file.part, file.frames) for file in index.files] == [((0, start), start), ((stop, 100), 100 - stop)]
    assert f"left out of x.mp4: frames {start} to {stop - 1}, which are damaged" in capsys.readouterr().out
    expected = torch.from_numpy(pixels(whole)).permute(3, 0, 1, 2)  # 3 f h w
    dataset = ClipDataset(index, View(Bucket(16, 128, 192)))
    begins = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for epoch in range(12):
            for number in range(2):
                clip = ((dataset[epoch, number]["video"] + 1) * 127.5).round().byte()
                same = [n for n in range(85) if torch.equal(expected[:, n : n + 16], clip)]
                assert len(same) == 1, "not a window of the film as it was"
                begins.add(same[0])
    assert len(begins) > 8 and all(n + 16 <= start or n >= stop for n in begins)


@pytest.mark.faults
def test_at_a_rate_parts_are_seen_from_their_first_frame(tmp_path: Path, film: tuple[Path, Path]) -> None:
    path, _ = film
    (tmp_path / "x.mp4").write_bytes(path.read_bytes())
    index = build_index(tmp_path, split="train", fps=5, progress=False)
    ((start, stop),) = index.files[0].damage
    assert [file.frames for file in index.files] == [-(-start // 5), -(-(100 - stop) // 5)]
    with index.manner(index.files[1]).open(index.files[1].place) as seen, VideoReader(path) as own:
        assert np.array_equal(seen.pixels([0, 3]), own.pixels([stop, stop + 15]))


@pytest.mark.faults
def test_latents_are_of_the_parts_that_are_sound(tmp_path: Path, film: tuple[Path, Path]) -> None:
    path, whole = film
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.mp4").write_bytes(path.read_bytes())
    index = build_index(tmp_path / "data", split="train", progress=False)
    ((start, stop),) = index.files[0].damage
    plan = Plan(index, [(128, 192)] * 2, {"codec": "pixels"})
    seen: list[torch.Tensor] = []

    def encode(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(video[0])
        return video, torch.zeros_like(video)

    assert encode_latents(tmp_path / "out", plan, encode, progress=False)
    found = ((torch.cat(seen, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(found, np.delete(pixels(whole), np.s_[start:stop], 0))
    plain = Index(index.root, [index.files[0].with_facts([100, *index.files[0].facts[1:-2], [], []])], [])
    assert plan.key != Plan(plain, [(128, 192)], {"codec": "pixels"}).key


@pytest.mark.faults
def test_decord_is_not_given_what_it_says_nothing_of(film: tuple[Path, Path]) -> None:
    path, _ = film
    assert fault_of_decord(path).endswith("on are damaged")


@pytest.mark.faults
def test_a_file_that_nobody_looked_through_is_refused_where_it_is_damaged(film: tuple[Path, Path]) -> None:
    """By PyAV, whose FFmpeg tells: sound windows before and after are read as ever."""
    path, whole = film
    look = look_through(place_of(path))
    assert look
    ((start, stop),) = look.damage
    expected = pixels(whole)
    for first in range(0, 96, 4):
        with closing(PyAVFile(path)) as file:
            if first + 4 <= start or first >= stop:
                assert np.array_equal(file.decode(range(first, first + 4), None), expected[first : first + 4])
            elif first > start + 4:
                with pytest.raises(DamageError, match=r"x\.mp4: damaged or truncated, frame \d+ is damaged"):
                    file.decode(range(first, first + 4), None)


@pytest.mark.faults
def test_damage_that_the_index_does_not_know_of_is_named_once(
    tmp_path: Path, film: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a film too long to be looked through, other windows are drawn, and it does not count as one that failed."""
    path, _ = film
    (tmp_path / "x.mp4").write_bytes(path.read_bytes())
    monkeypatch.setattr(stream, "LOOKED_AT", 99 * 192 * 128)
    monkeypatch.setattr(stream, "_LOOKS", {})
    found = probe(Clip("x.mp4", place_of(tmp_path / "x.mp4")))
    assert isinstance(found, Clip) and (found.parts, found.decoder) == ((), "pyav")
    dataset = ClipDataset(Index(str(tmp_path), [found], []), View(Bucket(16, 128, 192)), max_broken=0.0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for epoch in range(24):
            _ = dataset[epoch, 0]
    assert len(said) == 1 and "another clip is drawn wherever a damaged one's turn comes" in str(said[0].message)
    monkeypatch.setattr("vidiff.data.clips.PATCHY", 1)
    with pytest.raises(DataError, match="failed to decode"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for epoch in range(24):
            _ = dataset[epoch, 0]


def strike(whole: Path, path: Path, packets: int) -> None:
    """A film with another's bytes in the second half of each of its first packets."""
    content = bytearray(whole.read_bytes())
    with av.open(str(whole)) as file:
        struck = [packet for packet in file.demux(video=0) if packet.size][:packets]
        for packet in struck:
            begin, size = packet.pos + packet.size // 2, packet.size // 2
            content[begin : begin + size] = np.random.default_rng(size).bytes(size)
    path.write_bytes(content)


@pytest.mark.faults
def test_a_film_may_be_damaged_at_its_beginning(tmp_path: Path, film: tuple[Path, Path]) -> None:
    path = tmp_path / "x.mp4"
    strike(film[1], path, 1)
    index = build_index(tmp_path, split="train", progress=False)
    assert [(file.part, file.height, file.width) for file in index.files] == [((20, 100), 128, 192)]
    record = examine(Case(Clip("x.mp4", place_of(path))))
    assert record.readable and record.damage == ((0, 20),) and (record.height, record.width) == (128, 192)


@pytest.mark.faults
def test_a_film_without_a_sound_frame_is_left_out_whole(tmp_path: Path, film: tuple[Path, Path]) -> None:
    path = tmp_path / "x.mp4"
    strike(film[1], path, 100)
    found = probe(Clip("x.mp4", place_of(path)))
    assert found == "all of its frames are damaged"
    record = examine(Case(Clip("x.mp4", place_of(path))))
    assert record.problem == "damaged" and record.reason == "frames that do not decode: all 100 of them"
