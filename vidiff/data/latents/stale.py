"""Caches that a new one stands beside: they are never read for it, but may only take up room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidiff.data.latents.spec import Plan
from vidiff.store.plain import read_json

DIFFERENCES = {  # part of a plan -> what the other cache has, `{}` its value
    "codec": "of another codec",
    "files": "of other files, or labels",
    "size": "of frames of another size, {}",
    "crops": "with data.crops={}",
    "flips": "with data.flip={}",
    "dtype": "with data.latent_dtype={}",
    "precision": "encoded in {}",
    "shard_bytes": "in shards of {} bytes",
    "format": "by another version of vidiff",
}


def stale(out: Path, plan: Plan) -> list[str]:
    """A line on each cache in `out` that is of the same clips as a plan, or that this version cannot read.

    Each says how it differs, and how large it is.
    """
    lines = []
    for path in sorted(out.glob("*/index.json")):
        facts = _read(path)
        if facts is None or path.parent == plan.folder(out):
            continue
        made_of = facts.get("made_of", {"format": None})
        if made_of["format"] == plan.parts["format"] and facts["of"] != plan.of:
            continue
        if made_of["format"] != plan.parts["format"]:
            differs = [DIFFERENCES["format"]]
        else:
            keys = [key for key in {**plan.parts, **made_of} if plan.parts.get(key) != made_of.get(key)]
            differs = [DIFFERENCES.get(key, f"with another {key}, {{}}").format(made_of.get(key)) for key in keys]
        size = sum(file.stat().st_size for file in path.parent.iterdir())
        lines.append(f"{path.parent} was made {', '.join(differs)}: {size / 1e9:.3g} GB; remove it if no run needs it")
    return lines


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None
