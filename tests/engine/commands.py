"""Commands of vidiff as processes of their own, in which encoding takes its time."""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from vidiff.codec.codec import Gaussian, Identity
from vidiff.train import main as train

ROOT = Path(__file__).parents[2]


def main(command: str, arguments: list[str], folder: str, seconds: float) -> None:
    """Runs `command` ("train" or the name of a tool) in `folder`, and leaves what it says in out.txt there."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)
    os.chdir(folder)
    with open("out.txt", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    encode = Identity.encode

    def slowly(self: Identity, video: Tensor) -> Gaussian:
        time.sleep(seconds)
        return encode(self, video)

    Identity.encode = slowly  # type: ignore[method-assign]
    run = train if command == "train" else runpy.run_path(str(ROOT / "tools" / f"{command}.py"))["main"]
    sys.exit(run(arguments))
