"""Data sets, clips and indexes by paths on this machine, for tests that need no config."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidiff.data import captions, find, index
from vidiff.data.clip import Clip
from vidiff.data.doctor import examine, scan
from vidiff.data.doctor.record import Record
from vidiff.data.options import DataConfig
from vidiff.data.root import Root, copies_of, root_of
from vidiff.store.place import Place, place_of
from vidiff.video.sources import stamp_of

KEPT = ("cache", "quarantine", "records", "copies", "workers", "progress")


def build_index(root: str | Path, split: str = "train", **options: Any) -> index.Index:
    """`vidiff.data.index.build_index`, by options of its own and those of `DataConfig`."""
    own = {name: options.pop(name) for name in KEPT if name in options}
    return index.build_index(DataConfig(str(root), **{"patience": 300.0, **options}), split, **own)


def clip_at(path: str | Path, name: str | None = None, label: int = -1, **facts: Any) -> Clip:
    """A clip that is a file or folder of its own, by default under its path."""
    return Clip(str(path) if name is None else name, place_of(path), label, **facts)


def source(root: str | Path) -> Root:
    return root_of(root, copies_of(Path("nowhere")))


def find_clips(root: str | Path | Root, layout: str = "auto", split: str = "train", fold: int = 1) -> list[Clip]:
    there = root if isinstance(root, Root) else source(root)
    return find.take_stock(there, layout, fold, {split}).of(split)


def find_files(
    root: str | Path | Root, layout: str = "auto", split: str = "train", fold: int = 1
) -> tuple[list[tuple[str, int]], list[str]]:
    """(name, label) of each clip of a split, and the labels' names."""
    there = root if isinstance(root, Root) else source(root)
    stock = find.take_stock(there, layout, fold, {split})
    return [(clip.name, clip.label) for clip in stock.of(split)], stock.labels


def stock_of(root: str | Path | Root, layout: str = "auto") -> find.Stock:
    return find.take_stock(root if isinstance(root, Root) else source(root), layout)


def find_all(root: str | Path | Root) -> list[Clip]:
    return scan.find_all(stock_of(root))


def read_captions(root: str | Path, names: Sequence[str], kind: str = "auto") -> list[str]:
    """The captions of clips that lie below a folder."""
    return captions.read_captions(source(root), [clip_at(Path(root, name), name) for name in names], kind)


def case(path: str | Path | Place, name: str = "x", known: Record | None = None, whole: bool = False) -> examine.Case:
    return examine.Case(Clip(name, place_of(path)), known, whole)


def size_and_change(path: str | Path | Place) -> tuple[int, int]:
    return tuple(stamp_of(place_of(path)))


def member(root: str | Path, name: str) -> Place:
    """Where a clip in a tar is, of which the tar's name comes first."""
    return next(clip.place for clip in find_all(root) if clip.name == name)
