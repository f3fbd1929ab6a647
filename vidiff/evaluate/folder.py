"""A folder of made clips, one a file, as an index."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from vidiff.data.index import Index, VideoFile
from vidiff.data.probe import probe_all
from vidiff.store.error import DataError
from vidiff.video.sources import CLIP_SUFFIXES


def index_folder(root: str | Path, labels: list[str], workers: int = 2) -> Index:
    """All videos in a folder and in folders in it, in order of their paths. Every one of them must be readable.

    Args:
        labels: names of classes; a clip is of the class that its folder is named after, if any.

    Raises:
        DataError: no such folder, no videos, or a file that cannot be read (named).
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"no folder {root}: give a trained run, or a folder of clips, one a file")
    paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in CLIP_SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise DataError(f"no videos in {root}: expected {', '.join(sorted(CLIP_SUFFIXES))}, one clip a file")
    with closing(probe_all(paths, workers)) as outcomes:
        found = dict(outcomes)
    files = []
    for path in paths:
        facts = found[path]
        if isinstance(facts, str):
            raise DataError(f"{path} cannot be read ({facts}): mend or remove it")
        label = labels.index(path.parent.name) if path.parent.name in labels else -1
        size = path.stat().st_size
        files.append(VideoFile(str(path.relative_to(root)), label, *facts[:4], size, facts.fingerprint))
    return Index(root, files, labels)
