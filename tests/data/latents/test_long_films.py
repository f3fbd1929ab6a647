"""Films of any length are encoded in the memory of a short one, to the bytes that memory alone would make."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from cached import encode, make, make_index
from indexes import clip_at
from memory import FREED
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vidiff.data.index import Index
from vidiff.data.latents import encode as encoding
from vidiff.data.latents import shard
from vidiff.data.latents.cache import LatentCache


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("videos"))


def film(path: Path, frames: int, side: int = 64) -> Path:
    """A film whose frames differ, in H.264, written as quickly as that goes."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "g": "48"})
        stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        for number in range(frames):
            levels = np.full((side * 3 // 2, side), number % 200 + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(levels, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def index_of_film(path: Path, frames: int) -> Index:
    return Index(str(path.parent), [clip_at(path, path.name, -1, frames=frames, fps=24, height=64, width=64)], [])


def bits(folder: Path) -> dict[str, Tensor]:
    return {name: x for path in sorted(folder.glob("*.safetensors")) for name, x in load_file(path).items()}


def now_and_then(video: Tensor) -> tuple[Tensor, Tensor]:
    """No noise but in what is bright: some pieces of a file have none."""
    mean, std = encode(video)
    return mean, std * (video.mean() > 0.1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("encoder", [encode, now_and_then], ids=["noisy", "now-and-then"])
def test_a_shard_is_what_safetensors_writes(
    tmp_path: Path, index: Index, encoder: object, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "BLOCK", 3000)  # less than two frames
    folder = make(tmp_path, index, encode=encoder, flips=True, crops=3, chunk=2, dtype=dtype)
    (path,) = folder.glob("*.safetensors")
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    assert len(tensors) == 4 * 3 * 2 and {x.dtype for x in tensors.values()} == {getattr(torch, dtype)}
    save_file(tensors, tmp_path / "theirs", metadata=metadata)
    assert path.read_bytes() == (tmp_path / "theirs").read_bytes()


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_latents_that_wait_on_the_disk_are_the_same(
    tmp_path: Path, index: Index, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"flips": True, "crops": 2, "shard_bytes": 9000}
    whole = make(tmp_path / "whole", index, **options)
    monkeypatch.setattr(shard, "HELD", 1)
    monkeypatch.setattr(encoding, "SUMMED", 1)
    pieces = make(tmp_path / "pieces", index, chunk=chunk, **options)
    assert {name: x.tolist() for name, x in bits(pieces).items()} == {
        name: x.tolist() for name, x in bits(whole).items()
    }
    for one, other in zip(LatentCache(pieces).statistics, LatentCache(whole).statistics, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)
    assert sorted(path.name for path in pieces.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_short_files_have_the_statistics_of_one_sum(tmp_path: Path, index: Index) -> None:
    """Bit for bit as earlier versions summed them: file by file, crop by crop."""
    folder = make(tmp_path, index, flips=True, crops=3, chunk=2)
    total, squares, count = torch.zeros(4).double(), torch.zeros(4).double(), 0
    tensors = bits(folder)
    for number in range(4):
        for crop in range(3):
            mean, std = tensors[f"{number}.{crop}.0"].double().permute(1, 2, 0, 3, 4).flatten(2)
            total, squares, count = total + mean.sum(1), squares + (mean**2 + std**2).sum(1), count + mean.shape[1]
    (path,) = folder.glob("*.safetensors")
    facts = shard.facts_of(path)
    assert facts is not None
    assert facts["sums"] == {"count": count, "total": total.tolist(), "squares": squares.tolist()}


MEASURE = """
import json, re, sys, torch
from pathlib import Path
from test_long_films import LatentCache, film, index_of_film, make

def still(video):
    return video, torch.zeros_like(video)

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    peaks = []
    for frames in map(int, sys.argv[2:]):
        index = index_of_film(film(out / f"{frames}.mp4", frames), frames)
        folder = make(out / str(frames), index, encode=still, sizes=[(64, 64)])
        assert LatentCache(folder).frames == [frames]
        peaks.append(most())
    print(json.dumps(peaks))
"""


def test_memory_of_encoding_does_not_grow_with_the_length_of_a_film(tmp_path: Path) -> None:
    """The codec that changes nothing makes 24 kB of latents of a frame, the most there is: 14 MB and 56 MB."""
    (tmp_path / "measure.py").write_text(MEASURE)
    here = Path(__file__).parent
    path = ":".join(map(str, [here, here.parents[1] / "helpers", *filter(None, sys.path)]))
    done = subprocess.run(
        [sys.executable, "measure.py", ".", "600", "601", "2400"],
        cwd=tmp_path,
        env={"PYTHONPATH": path, "PATH": "", "OMP_NUM_THREADS": "1", **FREED},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    _, short, long = json.loads(done.stdout)
    assert long < short + 24, (short, long)  # a piece of it in float64 is 32 MB, the whole film 220
