"""Small videos, for the tests of this folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import av
import torch
from einops import repeat
from imageio_ffmpeg import get_ffmpeg_exe
from torch import Tensor

from vidiff.data.clip import Clip
from vidiff.data.probe import Outcome, probe
from vidiff.data.workers import Begin, at_once
from vidiff.video.writer import write_video


def numbered(frames: int, height: int = 32, width: int = 32, shade: int = 0) -> Tensor:
    """Frame i is of one brightness, 10 (i + 1) + shade of 255, above: `(3, f, h, w)`. `number_of` reads i back."""
    levels = (torch.arange(frames) + 1) * 10.0 + shade
    return repeat(levels / 127.5 - 1, "f -> c f h w", c=3, h=height, w=width)


def number_of(video: Tensor) -> list[int]:
    """The numbers of the frames of a clip that `numbered` made, lossily encoded or not."""
    return [round(level / 10) - 1 for level in ((video.mean((0, 2, 3)) + 1) * 127.5).tolist()]


def smooth(frames: int = 12, height: int = 48, width: int = 64) -> Tensor:
    """A moving gradient, `(3, f, h, w)`."""
    y, x, t = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 4, width), torch.linspace(0, 2, frames)
    return torch.stack([0.8 * torch.sin(x + y + phase + t[:, None, None]) for phase in (0.0, 1.0, 2.0)])


def write_numbered(path: Path, frames: int, height: int = 32, width: int = 32, fps: float = 8) -> Path:
    write_video(path, numbered(frames, height, width), fps=fps)
    return path


def write_avi(path: Path, frames: int, height: int = 48, width: int = 64, fps: int = 25) -> Path:
    """MPEG-4 in .avi, as UCF-101 has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in numbered(frames, height, width).add(1).mul(127.5).round().byte().permute(1, 2, 3, 0).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame.copy(), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def ffmpeg(*arguments: object) -> None:
    subprocess.run([get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)], check=True, timeout=60)


def filmed(path: Path, filters: str, *options: str, source: str = "testsrc2=s=96x64:r=25:d=1") -> Path:
    """FFmpeg's test picture, filtered, encoded without visible loss."""
    ffmpeg("-f", "lavfi", "-i", source, "-vf", filters, *options, path)
    return path


def look(clip: Clip, begin: Begin = at_once) -> Outcome:
    """`probe`, by a decoder that dies or hangs on certain files."""
    stem = Path(clip.place.name).stem
    if stem == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if stem == "hang":
        Path(clip.place.name).with_suffix(".begun").touch()
        time.sleep(600)
    return probe(clip, begin)


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process of its own that runs `code`, in a process group of its own; stdout and stderr are pipes."""
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here.parents[1]), str(here)])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
