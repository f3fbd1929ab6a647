"""A page in a real Chromium against the real command: keys are pressed, and the frames are seen to obey."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from playwright.sync_api import Page, sync_playwright

from vidiff.cli.make.train import main as train
from vidiff.video.writer import write_video

for library in ("starlette", "uvicorn", "websockets"):
    pytest.importorskip(library, reason="no server here: pip install 'vidiff[play]'")
ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
NAMES = ("NOOP", "LEFT", "RIGHT")
CONFIG = """\
kind: diffusion
name: lamp
device: cpu
batch: 16
data: {root: data, size: 8, frames: 4, workers: 0, actions: true}
codec: {name: identity}
unet: {width: 16, multipliers: [1, 2], blocks: [1, 1], head_dim: 8, patch: 2, causal: true}
loss: {drop_action: 0}
sampling: {sampler: {name: ddim}, strategy: {name: stream}, steps: 2, context: 2, count: 1, guidance: 1}
train: {steps: 150, precision: fp32, optim: {lr: 0.01, warmup: 10}, log_every: 50, checkpoint_every: 150,
  validate_every: 150, sample_every: 150}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned a lamp: red after LEFT, blue after RIGHT, and else dark."""
    place, draw = tmp_path_factory.mktemp("lamp"), np.random.default_rng(0)
    for split, clips in (("train", 12), ("test", 2)):
        folder = place / "data" / split
        folder.mkdir(parents=True)
        told = {"actions": [{"name": "keys", "kind": "discrete", "count": 3, "names": NAMES}]}
        (folder / "actions.json").write_text(json.dumps(told))
        for number in range(clips):
            keys = draw.integers(0, 3, 12)
            video = torch.full((3, 12, 8, 8), -1.0)
            video[0, keys == 1] = video[2, keys == 2] = 1
            write_video(folder / f"{number}.mp4", video)
            np.save(folder / f"{number}.actions.npy", keys)
    (place / "lamp.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["lamp.yaml"]) == 0
    return place


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_frames_obey_the_keys_that_are_pressed(place: Path) -> None:
    problems, asked = list[str](), list[str]()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vidiff", "play", "runs/lamp", "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().split()[-1]
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = browser.new_page()
            page.set_default_timeout(300_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(address)
            walk(page)
            browser.close()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        assert said == "\nstopped; what was saved is there, and nothing else\n" and process.returncode == 130
    finally:
        process.kill()
        process.communicate()
    assert problems == [] and {url.split("?")[0] for url in asked} == {address}, "no other server"
    assert np.load(place / "played" / "world" / "0000.actions.npy")[-1] == [2]


def walk(page: Page) -> None:
    page.locator("#world[data-number='0']").wait_for()
    assert page.locator("#actions button").all_inner_texts() == ["NOOP", "LEFT←", "RIGHT→"]
    for key, wanted in (("ArrowLeft", "red"), ("ArrowRight", "blue"), ("KeyA", "red")):
        page.keyboard.down(key)
        until(page, lambda wanted=wanted: colour(page) == wanted)  # type: ignore[misc]
        page.keyboard.up(key)
        until(page, lambda: colour(page) == "dark")
    page.get_by_text("key to frame").wait_for()
    page.keyboard.press("p")
    page.locator("#play:not(.on)").wait_for()
    page.keyboard.press("n")
    page.locator("#world[data-number='0']").wait_for()
    for number in (1, 2):  # a frame at a time
        page.keyboard.press(".")
        page.locator(f"#world[data-number='{number}']").wait_for()
    page.locator("#time").fill("1")
    page.locator("#world[data-number='1']").wait_for()
    button = page.get_by_role("button", name="RIGHT").bounding_box()
    assert button is not None
    page.mouse.move(button["x"] + 5, button["y"] + 5)
    page.mouse.down()
    page.get_by_role("button", name="way 2").wait_for()
    until(page, lambda: colour(page) == "blue")
    page.keyboard.press("k")
    page.get_by_text("world/0000.mp4").wait_for()
    page.mouse.up()


def until(page: Page, so: Callable[[], bool]) -> None:
    """Waits for a state, as long as it takes."""
    while not so():
        page.wait_for_timeout(20)


def colour(page: Page) -> str:
    """Of the canvas's middle."""
    red, _, blue, _ = page.evaluate(
        "() => [...document.querySelector('#world').getContext('2d').getImageData(4, 4, 1, 1).data]"
    )
    return "dark" if max(red, blue) < 100 else "red" if red > blue + 60 else "blue" if blue > red + 60 else "mixed"
