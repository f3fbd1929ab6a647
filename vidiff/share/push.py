"""A trained run, put on the hub in one call."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from vidiff.pipeline.hub import check_hub_name, send
from vidiff.share.export import export


def push(run: str | Path, name: str, *, private: bool = False, weights: str = "ema", licence: str = "other") -> str:
    """Share a run on the Hugging Face hub: its weights, its settings, and a card that tells what it is.

    Anybody then has it by `Pipeline.from_pretrained(name)`. The card is written anew each time.

    Args:
        run: its folder.
        name: "owner/name"; a repository that is not there is made.
        private, weights, licence: as of `vidiff.pipeline.hub.send` and `vidiff.share.export.export`.

    Returns:
        its address.

    Raises:
        ValueError: as both.
    """
    check_hub_name(name)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "package"
        export(Path(run), folder, name, weights, licence)
        return send(folder, name, private)
