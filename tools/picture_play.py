"""Press keys on the page of `vidiff play`, served meanwhile, in a Chromium without a window, for a picture."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("address", help="that the command printed")
    parser.add_argument(
        "--keys", nargs="+", default=["ArrowLeft:8"], metavar="KEY:FRAMES", help="what is held, and for how long"
    )
    parser.add_argument("--size", type=int, nargs=2, default=(1140, 760), help="width and height of the picture")
    parser.add_argument("--out", type=Path, default=Path("play.png"), help="file to write")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    width, height = options.size
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(options.address)
        world = page.locator("#world[data-number]")
        world.wait_for()
        for held in options.keys:
            key, frames = held.split(":")
            last = int(world.get_attribute("data-number") or 0) + int(frames)
            page.keyboard.down(key)
            while int(world.get_attribute("data-number") or 0) < last:
                page.wait_for_timeout(10)
            page.keyboard.up(key)
        page.screenshot(path=options.out)
        browser.close()
    print(options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
