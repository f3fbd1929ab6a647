"""Look at every file of a data set once: what it holds, whether it can be read, and why not.

Files that cannot be read go to a list that training leaves out. A second scan looks only at what has changed.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, number, processes, tilde

LAYOUTS = (
    "auto",
    "folders",
    "ucf101",
    "flat",
    "images",
    "list",
    "webdataset",
    "lerobot",
    "shapes",
)  # of vidiff.data.find
USUAL = {"split": "train", "test_split": "test"}  # splits, as a config has them
SHOWN = 24  # files in the sheet of thumbnails

if TYPE_CHECKING:
    from vidiff.data.find import Stock


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="example: vidiff doctor data/mine",
    )
    parser.add_argument("data", help="the data set's folder, a list of clips (.csv, .jsonl), tars, or a URL of these")
    parser.add_argument("--runs", type=tilde, default=Path("runs"), help="as in the config: where its list is")
    parser.add_argument("--out", type=tilde, help="for page and index; by default where training finds it")
    parser.add_argument("--layout", choices=LAYOUTS, default="auto", help="how clips lie, as data.layout")
    parser.add_argument("--camera", default="", help="of a data set of LeRobot, as data.camera; by default its first")
    parser.add_argument("--control", default="", help="videos beside the clips, as data.control, to look at as well")
    parser.add_argument("--images", action="store_true", help="the same as --layout images")
    parser.add_argument("--whole", action="store_true", help="read every frame, also of files with more than 256")
    parser.add_argument("--patience", type=number, default=60.0, help="seconds after which a decoder counts as hanging")
    parser.add_argument("--remote-cache-gb", type=number, default=50.0, help="as data.remote_cache_gb")
    parser.add_argument("--workers", type=processes, default=2, help="processes that decode")
    parser.add_argument(
        "--size", type=Whole(1, 4096), default=64, help="side of the thumbnails in pixels, as data.size"
    )
    parser.add_argument("--frames", type=Whole(1, 1000), default=8, help="thumbnails of a file")
    options = parser.parse_args(arguments)
    for name in ("patience", "remote_cache_gb"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name.replace('_', '-')} is {getattr(options, name)}; give a number above 0")
    return options


def examine(options: argparse.Namespace) -> None:
    from vidiff.data.clip import account
    from vidiff.data.control.pair import beside_of
    from vidiff.data.doctor.actions import action_lines, look_at_actions
    from vidiff.data.doctor.control import look_at_control
    from vidiff.data.doctor.page import write_scan, write_sheet
    from vidiff.data.doctor.scan import scan, summarise, thumbnails
    from vidiff.data.find import take_stock
    from vidiff.data.options import DataConfig
    from vidiff.data.quarantine import Quarantine, quarantine_list
    from vidiff.data.root import copies_of, local, name_of, root_of
    from vidiff.store.error import called
    from vidiff.store.files import check_writable
    from vidiff.store.remote import is_url, shown

    folder = options.out or options.runs / "index" / name_of(options.data)
    check_writable(folder, folder=True)
    quarantine, copies = Quarantine(quarantine_list(options.runs)), copies_of(options.runs, options.remote_cache_gb)
    layout = "images" if options.images else options.layout
    with called("data"):
        data = root_of(options.data, copies, fresh=True)
        stock = take_stock(data, layout, camera=options.camera)
    records = scan(stock, folder, quarantine, options.whole, options.workers, options.patience)
    readable = [record for record in records if record.readable]
    chosen = [readable[i * len(readable) // SHOWN] for i in range(SHOWN)] if len(readable) > SHOWN else readable
    pictures = thumbnails(chosen, options.size, options.frames, options.patience)
    rows = [(record.name, pictures[record.name]) for record in chosen if record.name in pictures]
    root = shown(options.data) if is_url(options.data) else str(local(options.data).resolve())
    sheet = write_sheet(folder / "thumbnails.png", [frames for _, frames in rows]) if rows else None
    actions = look_at_actions(stock, records)
    control = None
    if options.control:
        beside = beside_of(DataConfig(options.data, layout=layout, control=options.control), copies)
        control = look_at_control(stock, records, beside, options.control, options.workers, options.patience)
    names = [name for name, _ in rows]
    page = write_scan(folder / "doctor.html", root, records, names, sheet, actions, control)
    total = len(stock.clips) + len(stock.left_out)
    told = [*summarise(records), *action_lines(actions), *(control.lines if control else [])]
    print("\n".join([*told, *account(stock.left_out, total, str(data))]))
    print(f"page, to open in a browser   {page}")
    print(f"facts of each file           {folder / 'index.jsonl'}")
    if sheet:
        print(f"what a model will see        {sheet}")
    if len(readable) < len(records):
        print(f"what training leaves out     {quarantine.file}")
    if not readable:
        raise ValueError("none of the files can be read: there is nothing to train on")
    print("\n".join(outlook(stock, {record.name for record in readable}, options)))


def outlook(stock: Stock, readable: Collection[str], options: argparse.Namespace) -> list[str]:
    """What a training will have of each split, and the command that begins one; or why none can begin."""
    from vidiff.data.find import HALVES, chosen_splits, halves
    from vidiff.store.remote import shown

    splits = {name: [clip for clip in clips if clip.name in readable] for name, clips in stock.splits.items()}
    told = ""
    if not stock.is_split:
        *both, told = halves(splits[""])
        splits = dict(zip(HALVES, both, strict=True))
    lines = [told] if told else []
    lines.append("  ".join(f"{name}: {len(clips)} clips" for name, clips in splits.items()))
    rest = [name for name, clips in splits.items() if clips]
    keys = {"data.root": shown(options.data)}
    if (layout := "images" if options.images else options.layout) != "auto":
        keys["data.layout"] = layout
    for name in ("camera", "control"):
        if given := getattr(options, name):
            keys[f"data.{name}"] = given
    chosen = chosen_splits(rest)
    if chosen is None:
        return [
            *lines,
            "before training: there are no other clips than these, and some are to be held out: put some in a "
            f"folder {stock.root}/test beside theirs, or all in one folder",
        ]
    keys |= {f"data.{key}": name for key, name in chosen.items() if name != USUAL[key]}
    changes = " ".join(f"{key}={shlex.quote(value)}" for key, value in {**keys, "runs": str(options.runs)}.items())
    if options.runs == Path("runs") and keys.keys() <= {"data.root", "data.split", "data.test_split"}:
        lines.append(f"a recipe for it: vidiff new NAME --data {shlex.quote(shown(options.data))}")
    return [*lines, f"next: vidiff train CONFIG {changes}"]


def main(arguments: list[str] | None = None) -> int:
    return exit_code(examine, parse(arguments), "the same command goes on from what is finished")
