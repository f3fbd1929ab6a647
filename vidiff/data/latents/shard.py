"""A shard of a latent cache: one safetensors file, published whole, and read in place.

    "<file>.<crop>.<mirrored>": float16 or bfloat16 `(f, p, c, h, w)`, mean and std of each frame one after the other;
                                p is 1, the mean alone, where the std is 0 throughout, as of a codec without noise

So a window of frames is one piece of the file, and is read by one copy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any
from weakref import finalize

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidiff.store.files import DRAFT, draft_of
from vidiff.store.plain import parse_json

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
CODES = {torch.float16: "F16", torch.bfloat16: "BF16"}  # as safetensors calls them
HELD = 8 << 20  # bytes of a spool that memory holds
BLOCK = 4 << 20  # bytes of latents that are copied at once


def latent_name(number: int, crop: int, mirrored: bool) -> str:
    """What the latents of a file are called in its shard."""
    return f"{number}.{crop}.{int(mirrored)}"


class Spool:
    """The latents of one copy of a file, which come piece by piece; beyond a few MB they wait on the disk.

    Args:
        folder: where what does not fit in memory waits, in a file without a name, which ends with the process.
    """

    def __init__(self, folder: Path) -> None:
        self._bits = SpooledTemporaryFile(HELD, dir=str(folder))  # noqa: SIM115  mean and std
        finalize(self, self._bits.close)
        self._shape: tuple[int, ...] = (0,)  # of a frame's mean
        self._dtype = torch.float16
        self.frames, self.noisy = 0, False

    def add(self, mean: Tensor, std: Tensor) -> None:
        """Takes in the next frames, `(c, f, h', w')` both, of one of `DTYPES`."""
        frames = torch.stack([mean, std]).permute(2, 0, 1, 3, 4)  # f p c h' w'
        self._shape, self._dtype = tuple(frames.shape[2:]), frames.dtype
        self._bits.write(frames.contiguous().view(torch.int16).numpy().tobytes())
        self.frames += len(frames)
        self.noisy |= bool(std.any())

    def entry(self, begin: int) -> dict[str, Any]:
        """What the header of a shard says of these latents, which begin at byte `begin` of its content."""
        shape = [self.frames, 1 + self.noisy, *self._shape]
        return {"dtype": CODES[self._dtype], "shape": shape, "data_offsets": [begin, begin + 2 * math.prod(shape)]}

    def blocks(self) -> Iterator[bytes]:
        """The latents as a shard has them, some frames at once: without a std where that is 0 throughout."""
        numbers = math.prod(self._shape)
        together = max(1, BLOCK // (4 * numbers))
        self._bits.seek(0)
        while block := self._bits.read(together * 4 * numbers):
            frames = np.frombuffer(block, np.int16).reshape(-1, 2, numbers)
            yield block if self.noisy else frames[:, 0].tobytes()


def write_shard(path: Path, latents: Mapping[str, Spool], facts: dict[str, Any]) -> None:
    """Publish a shard by name of each latent, with facts about it that go through JSON.

    It is what safetensors' own `save_file` writes, to the byte, but does not take all of it in memory.
    """
    names, end = sorted(latents), 0
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts)}}
    for name in names:
        header[name] = latents[name].entry(end)
        end = header[name]["data_offsets"][1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with publishing(path) as draft, draft.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.writelines(latents[name].blocks())


def facts_of(path: Path) -> dict[str, Any] | None:
    """The facts that a shard was written with; None where there is none, or it is cut short."""
    try:
        with safe_open(path, "pt") as shard:
            return parse_json(shard.metadata()["facts"])
    except (OSError, SafetensorError):
        return None


class Shard:
    """The latents of a shard, mapped into memory: the system reads what is touched, and may forget it again.

    Raises:
        OSError, ValueError: for a file that is not there, or no whole shard.
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(min(length, size)))
        header.pop("__metadata__", None)
        begin, shapes = 8 + length, dict[tuple[int, ...], tuple[int, ...]]()
        # where it begins, counted in numbers of 2 bytes; numbers of a frame; shape of a frame: one object for all alike
        self._places: dict[tuple[int, ...], tuple[int, int, tuple[int, ...]]] = {}
        for name, entry in header.items():
            shape = tuple(entry["shape"][1:])
            place = (begin + entry["data_offsets"][0]) // 2, math.prod(shape), shapes.setdefault(shape, shape)
            self._places[tuple(map(int, name.split(".")))] = place
            if begin + entry["data_offsets"][1] > size:
                raise ValueError(f"{path} is cut short")
        # a torch mapping keeps no file open, of which a process may have a thousand or so
        self._bits = torch.from_file(str(path), shared=False, size=size // 2, dtype=torch.int16).numpy()

    def window(self, number: int, crop: int, mirrored: bool, start: int, frames: int, stride: int = 1) -> np.ndarray:
        """The bits of some frames, int16 `(frames, p, c, h, w)`, where they lie in memory. Not to be written to."""
        place, numbers, shape = self._places[number, crop, mirrored]
        first = place + start * numbers
        if stride == 1:
            return self._bits[first : first + frames * numbers].reshape(frames, *shape)
        last = first + ((frames - 1) * stride + 1) * numbers
        return self._bits[first:last].reshape(-1, *shape)[::stride]


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """A draft that takes the name `path` once it is written and on the disk itself, as of `draft_of`.

    Where another process has published it, and swept the draft up, that one stands.
    """
    try:
        with draft_of(path, durable=True) as draft:
            yield draft
    except FileNotFoundError:
        if not path.is_file():
            raise


def turn(path: Path) -> Path:
    """What processes claim in order to make `path`."""
    return path.with_name(f".{path.name}.lock")


def clear(folder: Path) -> None:
    """Remove every draft and every claim of a cache that is finished."""
    for path in [*folder.glob(f".*{DRAFT}"), *folder.glob(".*.lock")]:
        path.unlink(missing_ok=True)
