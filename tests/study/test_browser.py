"""The whole of a study, in a real Chromium against the real command: two raters at once, a reload, and a forger."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from playwright.sync_api import BrowserContext, Error, Page, sync_playwright

from vidiff.video.writer import write_video

ROOT = Path(__file__).resolve().parents[2]
PAIRS, CHECKS = 5, 2
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models' clips and real ones: of model a a bright square moves, of model b there is nothing."""
    root = tmp_path_factory.mktemp("browser")
    for name in ("a", "b", "real/train", "real/test"):
        for number in range(PAIRS):
            video = torch.full((3, 8, 48, 48), -0.8)
            for frame in range(8 if name != "b" else 0):
                video[:, frame, 8 + number : 24 + number, 2 * frame : 2 * frame + 16] = 0.8
            write_video(root / name / f"{number}.mp4", video, fps=16)
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, str, subprocess.Popen]]:
    command = [sys.executable, "tools/study.py", "--a", str(folder / "a"), "--b", str(folder / "b")]
    command += ["--real", str(folder / "real"), "--pairs", str(PAIRS), "--checks", str(CHECKS), "--frames", "8"]
    command += ["--size", "48", "--fps", "16", "--port", "0", "--out", str(folder / "study")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    raters, own = (process.stdout.readline().split()[-1] for _ in range(2))
    try:
        yield raters, own, process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def contexts() -> Iterator[list[BrowserContext]]:
    """Two browsers' worth of cookies."""
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*quiet, "--disable-sync", "--no-first-run"])
        yield [browser.new_context(), browser.new_context()]
        browser.close()


def best(page: Page) -> str:
    """The side with the moving square, as it is seen: the brighter clip, or of a check the one without noise."""
    return page.evaluate(
        """() => {
            const seen = ["left", "right"].map((side) => {
                const video = document.getElementById(side), canvas = document.createElement("canvas");
                canvas.width = canvas.height = 48;
                const context = canvas.getContext("2d");
                context.drawImage(video, 0, 0, 48, 48);
                const pixels = context.getImageData(0, 0, 48, 48).data;
                let bright = 0, rough = 0;
                for (let i = 0; i + 4 < pixels.length; i += 4) {
                    bright += pixels[i] > 160;
                    rough += Math.abs(pixels[i] - pixels[i + 4]) > 24;
                }
                return { bright, rough };
            });
            if (!seen[0].bright !== !seen[1].bright) return seen[0].bright ? "left" : "right";
            return seen[0].rough < seen[1].rough ? "left" : "right";
        }"""
    )


def wait_for(page: Page, condition: str, argument: object = None) -> None:
    """Until a condition holds, asked from outside: the page's own policy lets no script be made from text in it."""
    until = time.monotonic() + 60
    while True:
        try:
            if page.evaluate(condition, argument):
                return
        except Error as error:
            if "context was destroyed" not in str(error):  # as by a page that loads meanwhile
                raise
        assert time.monotonic() < until, condition
        page.wait_for_timeout(20)


def answer(page: Page, how: str) -> None:
    page.wait_for_selector("button[value=left]:enabled")
    wait_for(page, "[...document.querySelectorAll('video')].every((v) => v.currentTime > 0 && !v.paused)")
    before = page.text_content("#count")
    side = best(page)
    if how == "key":
        page.keyboard.press("ArrowLeft" if side == "left" else "ArrowRight")
    else:
        page.click(f"button[value={side}]")
    wait_for(page, "(old) => document.querySelector('#count')?.textContent !== old", before)


def votes(folder: Path) -> list[tuple]:
    with closing(sqlite3.connect(folder / "study" / "votes.sqlite")) as db:
        return db.execute("SELECT rater, item, preferred FROM votes").fetchall()


def test_two_raters_at_once_a_reload_and_a_forger(folder: Path, server, contexts: list[BrowserContext]) -> None:
    address, results, process = server
    pages = [context.new_page() for context in contexts]
    one = pages[0]
    problems: list[str] = []
    for page, name in zip(pages, ("Ann", "Bob"), strict=True):
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        page.goto(address)
        page.fill("input[name=name]", name)
        page.click("#begin")
    for turn in range(PAIRS + CHECKS):
        for page in pages:
            answer(page, "key" if turn % 2 else "click")
        if turn == 2:
            one.reload()
            assert one.text_content("#count") == f"4 of {PAIRS + CHECKS}", "it goes on where it was"
            one.close()
            one = pages[0] = contexts[0].new_page()  # the same browser, another day
            one.goto(address)
            assert one.text_content("#count") == f"4 of {PAIRS + CHECKS}"
            one.wait_for_selector("button[value=left]:enabled")
            stolen = dict(re.findall(r'name="(place|stamp)" value="(\w+)"', one.content()))
            before = votes(folder)
            data = urllib.parse.urlencode({**stolen, "choice": "left"}).encode()
            with pytest.raises(urllib.error.HTTPError) as refused:  # without Ann's cookie
                urllib.request.urlopen(urllib.request.Request(f"{address}vote", data), timeout=300)
            assert refused.value.code == 403
            theirs = contexts[1].request.post(f"{address}vote", form={**stolen, "choice": "left"})
            assert theirs.status == 403, "Ann's stamp, sent with Bob's cookies"
            assert votes(folder) == before
    for page in pages:
        assert "your answers are kept" in page.text_content("#done")
    kept = votes(folder)
    assert len(kept) == len(set((rater, item) for rater, item, _ in kept)) == 2 * (PAIRS + CHECKS)
    assert {preferred for *_, preferred in kept} == {"a", "real"}, "what was seen is what was kept"
    assert problems == []

    page = contexts[0].new_page()
    page.goto(results)
    assert "a is preferred in 100.0 %" in page.text_content("h1")
    assert f"{2 * PAIRS} : 0 : 0" in page.text_content("tbody tr")
    process.send_signal(signal.SIGTERM)
    said, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    assert "a is preferred in 100.0% of the pairs" in said and "Krippendorff" in said
    page.goto((folder / "study" / "results.html").as_uri())
    assert "Ann" in page.text_content("body")
    assert page.evaluate("getComputedStyle(document.body).maxWidth") == "1216px", "it brings its style along"
    assert page.evaluate("document.body.scrollWidth <= window.innerWidth")
