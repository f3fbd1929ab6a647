"""The page in a real Chromium against the real command: each tab once, a file that is no clip, and the token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from videos import smooth

from vidiff.video.reader import read_video
from vidiff.video.writer import write_image, write_video

pytest.importorskip("gradio", reason="no Gradio here: pip install 'vidiff[app]'")
ROOT = Path(__file__).resolve().parents[2]
RELEASE = ROOT / "tests" / "data" / "release-0.1.0.tar.xz"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300_000  # milliseconds; what is waited for is a state
QUIET = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DRAWS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]  # for the mask's canvas


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("app")
    with tarfile.open(RELEASE) as file:
        file.extractall(place, filter="data")
    write_video(place / "clip.mp4", smooth(8, 40, 40), fps=16)
    write_image(place / "picture.png", smooth(1, 40, 40)[:, 0])
    (place / "notes.mp4").write_text("no clip")
    return place


@contextmanager
def served(place: Path, *words: str) -> Iterator[tuple[str, str]]:
    """The command's first two lines, as long as it serves."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vidiff", "app", "--port", "0", *words]
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline(), process.stdout.readline()
    finally:
        process.terminate()
        process.communicate()


def made(page: Page, tab: str) -> tuple[Path, dict]:
    """Presses the tab's button, waits for what it makes, and fetches both files."""
    page.click(f"#{tab}-go")
    page.wait_for_selector(f"#{tab}-result video")
    folder = Path(os.environ["FETCHED"])
    files = []
    for link in page.query_selector_all(f"#{tab}-files a[download]"):
        with page.expect_download() as download:
            link.click()
        files.append(folder / download.value.suggested_filename)
        download.value.save_as(files[-1])
    video, settings = files
    return video, json.loads(settings.read_text())


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_each_tab_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETCHED", str(tmp_path))
    problems, asked = list[str](), list[str]()
    with served(place) as (line, _), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *DRAWS])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(line.split()[-1])
        page.wait_for_function("document.querySelector('#facts textarea, #facts input')?.value?.includes('12 labels')")
        page.fill("#seed input", "5")
        video, settings = made(page, "generate")
        assert read_video(video).shape == (3, 6, 32, 32)
        assert (settings["label"], settings["seed"], settings["run"]) == ("blue_disc", 5, "runs/tiny")

        page.get_by_role("tab", name="Extend").click()
        page.set_input_files("#extend-clip input[type=file]", place / "notes.mp4")
        page.wait_for_selector("#extend-clip video")
        page.click("#extend-go")
        page.get_by_text("the file cannot be read as a clip").wait_for()
        page.reload()
        page.wait_for_function("document.querySelector('#facts textarea, #facts input')?.value?.includes('12 labels')")
        page.get_by_role("tab", name="Extend").click()
        page.set_input_files("#extend-clip input[type=file]", place / "clip.mp4")
        page.wait_for_selector("#extend-clip video")
        video, settings = made(page, "extend")
        assert read_video(video).shape == (3, 14, 32, 32) and settings["given"] == 8

        page.get_by_role("tab", name="Animate").click()
        page.set_input_files("#animate-picture input[type=file]", place / "picture.png")
        page.wait_for_selector("#animate-picture img")
        assert read_video(made(page, "animate")[0]).shape == (3, 6, 32, 32)

        page.get_by_role("tab", name="Inpaint").click()
        page.set_input_files("#inpaint-clip input[type=file]", place / "clip.mp4")
        page.wait_for_selector("#inpaint-clip video")
        paint(page)
        video, settings = made(page, "inpaint")
        assert read_video(video).shape == (3, 8, 32, 32)
        assert 1 < float(settings["new"].split("%")[0]) < 60
        browser.close()
    assert problems == []
    assert [url for url in asked if not url.startswith((line.split()[-1], "data:", "blob:"))] == [], "no other server"


def paint(page: Page) -> None:
    """Draws a stroke across the middle of the first frame, once the editor shows it."""
    canvas = page.wait_for_selector("#inpaint-mask canvas")
    assert canvas is not None
    page.wait_for_function(  # the frame has colours, the empty canvas has none
        """() => {
            const from = document.querySelector('#inpaint-mask canvas'), to = document.createElement('canvas');
            to.width = from.width; to.height = from.height;
            return new Promise((done) => requestAnimationFrame(() => {
                const context = to.getContext('2d');
                context.drawImage(from, 0, 0);
                const p = context.getImageData(to.width / 2, to.height / 2, 1, 1).data;
                done(Math.max(p[0], p[1], p[2]) - Math.min(p[0], p[1], p[2]) > 20);
            }));
        }"""
    )
    box = canvas.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y, steps=16)
    page.mouse.up()


@pytest.mark.slow
def test_any_other_address_wants_the_token(place: Path) -> None:
    with served(place, "--host", "0.0.0.0") as (line, second):
        address = line.split()[-1].replace("0.0.0.0", "127.0.0.1")
        token = second.split()[-1]
        assert len(token) >= 12
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        for password in (None, "x" * len(token), token[:-1]):
            with pytest.raises(urllib.error.HTTPError) as refused:
                if password is not None:
                    login(opener, address, password)
                opener.open(f"{address}config", timeout=300)
            assert refused.value.code in (400, 401)
        login(opener, address, token)
        assert json.loads(opener.open(f"{address}config", timeout=300).read())["title"] == "vidiff"


def login(opener: urllib.request.OpenerDirector, address: str, password: str) -> None:
    data = urllib.parse.urlencode({"username": "vidiff", "password": password}).encode()
    opener.open(urllib.request.Request(f"{address}login", data), timeout=300)
