"""The site builds without a warning: every page is in its navigation, and every link and anchor leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr
    return folder


def test_the_home_page_is_the_readme(site: Path) -> None:
    page = (site / "index.html").read_text()
    (title,) = re.findall(r"<h1[^>]*>(.*?)<", page)
    assert title == "vidiff" and "two commands, nothing to download" in page
    assert 'href="docs/' not in page and 'src="docs/' not in page


def test_every_public_class_and_function_of_a_floor_is_on_its_page(site: Path) -> None:
    page = (site / "api" / "pipeline" / "index.html").read_text()
    for name in ("pipeline.Pipeline.extend", "hub.fetch", "facts.Facts", "model.load_model"):
        assert f'id="vidiff.pipeline.{name}"' in page, name
    assert "(b, 3, frames, h, w)" in page, "shapes are told"
    floors = {
        path.stem for path in (ROOT / "vidiff").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {path.parent.name for path in (site / "api").glob("*/index.html")} == floors - {"__init__", "__main__"}


def test_a_link_to_a_source_leads_to_its_module(site: Path) -> None:
    assert 'href="../api/nn/#vidiff.nn.unet"' in (site / "architecture" / "index.html").read_text()


def test_no_page_asks_another_server_for_anything(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        wanted = re.findall(r'<(?:script|img|video|iframe)[^>]* src="(https?:[^"]*)"', text)
        wanted += re.findall(r'<link[^>]* rel="(?:stylesheet|preconnect)"[^>]* href="(https?:[^"]*)"', text)
        assert wanted == [], page
