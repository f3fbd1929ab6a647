"""What is done to pixels, from the options of the data to the clips of a training, its latents and what is told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from indexes import build_index
from PIL import Image
from videos import filmed

from vidiff.data.buckets import Bucket, View
from vidiff.data.clip import Clip, told_of
from vidiff.data.clips import ClipDataset
from vidiff.data.doctor.examine import Case, examine
from vidiff.data.index import Index
from vidiff.store.error import DataError
from vidiff.store.place import place_of
from vidiff.video.decode import Treatment

OPTIONS = {"background": "blue", "deinterlace": True, "tonemap": True}
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip of each kind, and a plain one."""
    root = tmp_path_factory.mktemp("clips") / "train"
    root.mkdir()
    filmed(root / "plain.mp4", "null", *H264)
    filmed(root / "squeezed.mp4", "setsar=2", *H264)
    fields = "tinterlace=interleave_top,fieldorder=tff"
    filmed(root / "fields.mp4", fields, *H264, "-flags", "+ildct+ilme", source="testsrc2=s=96x64:r=50:d=1")
    hdr = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"
    filmed(root / "hdr.mp4", "null", *H264[:2], "-x264-params", hdr, "-pix_fmt", "yuv420p10le")
    filmed(root / "clear.mov", "format=argb", "-c:v", "qtrle", source="color=red@0.5:s=96x64:r=25:d=1,format=rgba")
    return root


@pytest.fixture(scope="module")
def plain(clips: Path) -> Index:
    return build_index(clips.parent, layout="flat", progress=False)


def by_name(index: Index) -> dict[str, Clip]:
    return {Path(file.name).name: file for file in index.files}


def test_a_training_is_told_of_each_kind(plain: Index) -> None:
    files = by_name(plain)
    traits = {name: file.traits for name, file in files.items()}
    assert traits == {"plain.mp4": (), "squeezed.mp4": ("squeezed",), "fields.mp4": ("interlaced",),
                      "hdr.mp4": ("hdr",), "clear.mov": ("transparent",)}  # fmt: skip
    sizes = {name: (file.height, file.width) for name, file in files.items()}
    assert sizes.pop("squeezed.mp4") == (64, 192) and {*sizes.values()} == {(64, 96)}
    assert told_of(plain.files, plain.treatment) == [
        "1 of 5 files, such as train/squeezed.mp4, have pixels that are not square: "
        "they are stretched to what players show",
        "1 of 5 files, such as train/fields.mp4, have frames of two fields: "
        "set data.deinterlace=true to have them made whole",
        "1 of 5 files, such as train/hdr.mp4, have high dynamic range: set data.tonemap=true, or colours are pale",
        "1 of 5 files, such as train/clear.mov, have an alpha channel: they are put over white (data.background)",
    ]
    assert told_of([files["plain.mp4"]], plain.treatment) == []


@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_options_reach_the_clips_of_a_training(
    clips: Path, plain: Index, decoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever decoder is asked for: a file is PyAV's where that one cannot do what is to be done."""
    treated = build_index(clips.parent, layout="flat", decoder=decoder, progress=False, **OPTIONS)
    said = capsys.readouterr().out
    assert "have frames of two fields: made whole\n" in said and "have high dynamic range: brought to BT.709\n" in said
    readers = {name: file.decoder for name, file in by_name(treated).items()}
    assert readers == {"plain.mp4": "decord", "squeezed.mp4": "decord", "fields.mp4": "pyav", "hdr.mp4": "pyav",
                       "clear.mov": "pyav"}  # fmt: skip
    shown = []
    for index in (plain, treated):
        dataset = ClipDataset(index, View(Bucket(4, 32, 48)))
        names = [Path(index.files[number].name).name for number in dataset.kept]
        shown.append({name: dataset[0, number]["video"].numpy() for number, name in enumerate(names)})
    before, after = shown
    for name in ("plain.mp4", "squeezed.mp4"):
        assert np.array_equal(before[name], after[name])
    for name in ("fields.mp4", "hdr.mp4"):
        assert np.abs(before[name] - after[name]).mean() > 0.01
    assert np.abs((before["clear.mov"].mean((1, 2, 3)) + 1) * 127.5 - [255, 127, 127]).max() < 2
    assert np.abs((after["clear.mov"].mean((1, 2, 3)) + 1) * 127.5 - [128, 0, 127]).max() < 2


def test_latents_are_made_anew_only_of_what_is_treated(plain: Index) -> None:
    """Caches of before hold for plain clips, whatever the options, and for all whose frames are read as before."""
    for name, file in by_name(plain).items():
        index = Index("clips", [file], [])
        content = json.dumps([file.name, -1, file.frames, file.fingerprint])
        before = hashlib.sha256(content.encode()).hexdigest()
        assert (index.digest == before) == (name not in ("squeezed.mp4", "clear.mov"))
        treated = replace(index, treatment=Treatment(**OPTIONS))
        assert (treated.digest == index.digest) == (name in ("plain.mp4", "squeezed.mp4"))


def test_what_is_known_of_a_file_holds_for_its_treatment_alone(clips: Path, plain: Index, tmp_path: Path) -> None:
    common = {"layout": "flat", "progress": False, "cache": tmp_path / "known.jsonl"}
    readers = [by_name(build_index(clips.parent, **common, deinterlace=way))["fields.mp4"].decoder
               for way in (False, True, False)]  # fmt: skip
    assert readers == [by_name(plain)["fields.mp4"].decoder, "pyav", by_name(plain)["fields.mp4"].decoder]
    assert build_index(clips.parent, **common).files == plain.files, "lists and tuples alike"


def test_the_doctor_tells_of_each_kind(clips: Path) -> None:
    notes = {path.name: examine(Case(Clip(path.name, place_of(path)))).notes for path in clips.iterdir()}
    assert notes["plain.mp4"] == []
    assert "squeezed: 2:1, and 192x64 in square pixels" in notes["squeezed.mp4"]
    assert "interlaced: frames of two fields" in notes["fields.mp4"]
    assert "high dynamic range: PQ (SMPTE ST 2084)" in notes["hdr.mp4"]
    assert "transparent: an alpha channel" in notes["clear.mov"]


def test_pictures_are_put_over_the_colour_as_films_are(tmp_path: Path) -> None:
    Image.new("RGBA", (32, 32), (255, 0, 0, 51)).save(tmp_path / "0.png")
    for background, expected in {"white": [255, 204, 204], "blue": [51, 0, 204]}.items():
        index = build_index(tmp_path, layout="images", background=background, progress=False)
        video = ClipDataset(index, View(Bucket(1, 32, 32)))[0, 0]["video"]
        assert np.rint((video[:, 0, 0, 0].numpy() + 1) * 127.5).tolist() == expected
    record = examine(Case(Clip("0.png", place_of(tmp_path / "0.png"))))
    assert record.notes == ["transparent: an alpha channel"]


def test_a_colour_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.background is 'sky'; give a colour as CSS names it: white, black"):
        build_index(tmp_path, background="sky")
