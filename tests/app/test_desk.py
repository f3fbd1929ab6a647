"""What the page can be asked for, without the page."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import smooth

from vidiff.app import desk as module
from vidiff.app.desk import Asked, Desk, look_into
from vidiff.pipeline.pipeline import Pipeline
from vidiff.report.address import free_port, is_loopback, token_for
from vidiff.video.reader import read_metadata, read_video
from vidiff.video.writer import to_uint8, write_image, write_video

RELEASE = Path(__file__).parents[1] / "data" / "release-0.1.0.tar.xz"
RUN = "runs/tiny"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("desk")
    with tarfile.open(RELEASE) as file:
        file.extractall(place, filter="data")
    write_video(place / "clip.mp4", smooth(8, 40, 40), fps=16)
    write_image(place / "picture.png", smooth(1, 40, 40)[:, 0])
    (place / "notes.mp4").write_text("no clip")
    return place


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(place)
    return Desk(None, tmp_path, "cpu")


def test_all_runs_that_make_clips_may_be_chosen_and_no_other(desk: Desk, tmp_path: Path) -> None:
    assert desk.names == [RUN], "the autoencoder's run makes none"
    assert desk.open(RUN) is desk.open(RUN), "it is loaded once"
    with pytest.raises(ValueError, match=r"no run '\.\./tiny' here; choose runs/tiny"):
        desk.open("../tiny")


def test_where_no_run_is_the_way_to_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="train one first"):
        Desk(None, tmp_path)


def test_a_generated_clip_is_the_pipeline_s_own_and_says_how_it_was_made(desk: Desk) -> None:
    made = desk.generate(RUN, Asked("red_disc", seed=4, guidance=3.0, steps=2), frames=9)
    own = Pipeline.from_pretrained(RUN, "cpu").generate(9, "red_disc", seed=4, guidance=3.0, steps=2)
    write_video(desk.out / "own.mp4", own[0], fps=16)
    assert torch.equal(read_video(made.video), read_video(desk.out / "own.mp4"))
    settings = json.loads(made.settings.read_text())
    assert settings == read_metadata(made.video)
    wanted = {"run": RUN, "label": "red_disc", "seed": 4, "guidance": 3.0, "steps": 2, "frames": 9}
    assert wanted.items() <= settings.items()


def test_guidance_that_is_the_run_s_own_leaves_that_on_history_as_it_is(desk: Desk) -> None:
    pipeline = desk.open(RUN)
    assert "guidance" not in Asked(guidance=pipeline.sampling.guidance).options(pipeline)
    assert (
        Asked(guidance=pipeline.sampling.guidance + 1).options(pipeline)["guidance"] == pipeline.sampling.guidance + 1
    )


def test_an_extended_clip_begins_with_the_given_one(desk: Desk, place: Path) -> None:
    made = read_video(desk.extend(RUN, Asked("red_disc"), place / "clip.mp4", frames=5).video)
    seen = desk.open(RUN).read_clip(place / "clip.mp4")
    assert made.shape == (3, 13, 32, 32)
    assert (made[:, :8] - seen).abs().mean() < 0.03, "but for what encoding them costs"


def test_what_is_not_painted_stays(desk: Desk, place: Path) -> None:
    painted = np.zeros((512, 512), np.uint8)
    painted[100:130, 300:480] = 200
    made = read_video(desk.inpaint(RUN, Asked("red_disc"), place / "clip.mp4", painted).video)
    seen = desk.open(RUN).read_clip(place / "clip.mp4")
    change = (made - seen).abs().mean((0, 1))  # h w
    new = torch.zeros(32, 32, dtype=torch.bool)
    new[6:9, 18:30] = True
    far = torch.nn.functional.max_pool2d(new[None].float(), 5, 1, 2)[0] == 0  # encoding smears a little
    assert change[new].mean() > 5 * change[far].mean() and change[far].mean() < 0.05


def test_an_animated_picture_is_the_first_frame(desk: Desk, place: Path) -> None:
    made = read_video(desk.animate(RUN, Asked("red_disc"), place / "picture.png", frames=8).video)
    assert made.shape == (3, 8, 32, 32)
    assert (made[:, 0] - desk.open(RUN).read_clip(place / "picture.png")[:, 0]).abs().mean() < 0.03


def test_a_frame_to_paint_on_is_as_the_run_sees_it(desk: Desk, place: Path) -> None:
    frame = desk.first_frame(RUN, place / "clip.mp4")
    assert frame.shape == (512, 512, 3)
    assert np.array_equal(frame[::16, ::16], to_uint8(desk.open(RUN).read_clip(place / "clip.mp4"))[0])


def test_what_cannot_be_made_is_refused(desk: Desk, place: Path) -> None:
    for frames in (0, -1, 513):
        with pytest.raises(ValueError, match=f"frames is {frames}; give 1 to 512"):
            desk.generate(RUN, Asked(), frames)
    for asked, reason in (
        (Asked("zebra"), "no label 'zebra'"),
        (Asked(text="a cat"), "trained without text"),
        (Asked(seed=-1), "seed is -1"),
        (Asked(seed=2**63), "seed is"),
        (Asked(steps=0), "steps is 0"),
        (Asked(steps=10**9), "steps is 1000000000; give 1 to 1000"),
    ):
        with pytest.raises(ValueError, match=reason):
            desk.generate(RUN, asked, 6)
    with pytest.raises(ValueError, match="nothing is painted"):
        desk.inpaint(RUN, Asked(), place / "clip.mp4", np.zeros((9, 9)))
    with pytest.raises(ValueError, match="it has 8 frames; 1 is the most"):
        desk.animate(RUN, Asked(), place / "clip.mp4", 8)
    assert not list(desk.out.glob("*.mp4"))


def test_uploads_are_looked_into_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look_into(place / "clip.mp4").frames == 8
    with pytest.raises(ValueError, match="the file cannot be read as a clip: "):
        look_into(place / "notes.mp4")
    monkeypatch.setattr(module, "WIDEST", 39)
    with pytest.raises(ValueError, match="its frames have 40 x 40 pixels; 39 a side is the most"):
        look_into(place / "clip.mp4")
    monkeypatch.setattr(module, "LARGEST", 100)
    with pytest.raises(ValueError, match="0 is the most"):
        look_into(place / "clip.mp4")


def test_addresses() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.2", "example.org", "")))
    assert token_for("::1", None) is None and token_for("::1", "known") == token_for("::", "known") == "known"
    assert len({token_for("0.0.0.0", None), token_for("0.0.0.0", None), None}) == 3
    port = free_port("127.0.0.1", 0)
    assert 0 < port < 65_536 and free_port("127.0.0.1", port) == port


def test_a_field_that_was_emptied_says_nothing() -> None:
    page = pytest.importorskip("vidiff.app.page", reason="no gradio here")
    assert page.asked("", " ", None, None, None) == Asked()
    assert page.asked("cat", "a cat", 3.0, 2.0, 5.0) == Asked("cat", "a cat", 3, 2.0, 5)
