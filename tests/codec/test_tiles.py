"""Frames in tiles: the same result, in less memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from memory import FREED
from torch import Tensor

from vidiff.codec.codec import Codec, VAECodec
from vidiff.codec.tiles import Canvas, cuts, tiles
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.video.reader import VideoReader
from vidiff.video.writer import VideoWriter

ROOT = Path(__file__).parents[2]
SHAPES = [
    VAEConfig(channels=3, width=8, multipliers=[1, 2, 2], blocks=1, patch=2),  # 8x
    VAEConfig(channels=3, width=8, multipliers=[1, 2], blocks=2, patch=2),  # 4x
    VAEConfig(channels=3, width=8, multipliers=[1], blocks=1, patch=4),  # 4x, all in the patch
]


def whole(codec: Codec) -> Codec:
    """The same codec without tiles."""
    plain = VAECodec(codec.network.config, tile=0)  # type: ignore[arg-type]
    plain.load_state_dict(codec.state_dict())
    return plain


@pytest.mark.parametrize(("length", "tile"), [(1, 4), (4, 4), (5, 4), (37, 8), (64, 16), (9, 0)])
@pytest.mark.parametrize(("margin", "blend"), [(0, 0), (3, 0), (0, 4), (2, 6), (0, 100)])
@pytest.mark.parametrize("scale", [1, 8])
def test_what_tiles_count_adds_up_to_one(length: int, tile: int, margin: int, blend: int, scale: int) -> None:
    total = torch.zeros(length * scale)
    for cut in cuts(length, tile, margin, blend):
        assert 0 <= cut.start <= cut.first < cut.last <= cut.stop <= length
        assert cut.first == 0 or cut.first - cut.start == min(margin, cut.first)
        assert not tile or cut.last - cut.first <= 2 * tile
        assert len(range(length * scale)[cut.put(scale)]) == len(range(length * scale)[cut.used(scale)])
        total[cut.put(scale)] += cut.weight(scale)
    torch.testing.assert_close(total, torch.ones(length * scale))


def test_a_canvas_is_put_together_again() -> None:
    """Each part says what it read; sharply cut or mixed, the picture is the one that they were cut from."""
    frames = torch.randn(5, 2, 24, 40)
    for margin, blend in ((2, 0), (1, 4)):
        canvas = Canvas(5, (6, 10), 4, bool(blend))
        for tile in tiles((6, 10), 3, margin, blend):
            part = tile.read(frames, 4)
            canvas.put(part[:2], 0, tile)
            canvas.put(part[2:], 2, tile)
        assert torch.equal(canvas.frames, frames) if not blend else torch.allclose(canvas.frames, frames, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_of_the_autoencoder_leave_no_trace(shape: VAEConfig) -> None:
    codec = VAECodec(shape, tile=64)
    codec.set_statistics(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]))
    plain, video = whole(codec), torch.rand(1, 3, 3, 192, 136) * 2 - 1
    found, expected = codec.encode(video), plain.encode(video)
    torch.testing.assert_close(found.mean, expected.mean, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(found.std, expected.std, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decode(expected.mean), plain.decode(expected.mean), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_margin_is_as_far_as_the_autoencoder_sees(shape: VAEConfig) -> None:
    network, factor, far = VAE(shape), shape.factor, shape.margin
    frames = torch.rand(1, 3, 8 * factor, 40 * factor) * 2 - 1
    changed = frames.clone()
    changed[..., 20 * factor : 21 * factor] *= -1
    moved = (network.encode(changed)[0] != network.encode(frames)[0]).any(0).any(0).any(0).nonzero().flatten()
    assert moved.min() == 20 - far and moved.max() == 20 + far
    z = torch.randn(1, 3, 8, 40)
    changed = z.clone()
    changed[..., 20] += 1
    moved = (network.decode(changed) != network.decode(z)).any(0).any(0).any(0).nonzero().flatten() // factor
    assert moved.min() == 20 - far and moved.max() == 20 + far


def test_frames_up_to_the_size_of_a_tile_are_not_cut() -> None:
    """So what was computed before there were tiles comes out bit for bit."""

    class Spy(Codec):
        seen: list[tuple[int, ...]]

        def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
            self.seen.append(tuple(frames.shape))
            return frames, frames

    codec = Spy(channels=3, factor=1, tile=64)
    codec.seen, codec.margin = [], 4
    codec.encode(torch.zeros(1, 3, 20, 64, 64))
    assert codec.seen == [(16, 3, 64, 64), (4, 3, 64, 64)]
    codec.seen = []
    codec.encode(torch.zeros(1, 3, 1, 64, 128))
    assert codec.seen == [(1, 3, 64, 68), (1, 3, 64, 68)]


def test_large_frames_go_in_smaller_chunks() -> None:
    sizes: list[int] = []

    class Spy(Codec):
        def decode_frames(self, z: Tensor) -> Tensor:
            sizes.append(len(z))
            return z.repeat_interleave(8, 2).repeat_interleave(8, 3)

    for size in (64, 128, 256, 1024):
        sizes.clear()
        Spy(channels=3, factor=8).decode(torch.zeros(1, 3, 16, size // 8, size // 8))
        assert sizes == {64: [16], 128: [16], 256: [4] * 4, 1024: [1] * 16}[size]


MEASURE = """
import json, resource, sys, torch
from vidiff.codec.codec import VAECodec
from vidiff.nn.vae import VAEConfig
torch.set_num_threads(1)
codec, found = VAECodec(VAEConfig(width=16)), []
def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
codec.decode(codec.encode(torch.zeros(1, 3, 4, 256, 256)).mean)
for size, frames in json.loads(sys.argv[1]):
    for what in ("encode", "decode"):
        z = torch.ones(1, 4, frames, size // 8, size // 8)
        given = torch.ones(1, 3, frames, size, size) if what == "encode" else z
        result = 2 * z.nbytes if what == "encode" else 64 * 3 // 4 * z.nbytes
        before = most()
        getattr(codec, what)(given)
        found.append(most() - before - result / 2**20)
        del given
print(json.dumps(found))
"""


def test_memory_grows_neither_with_frames_nor_with_their_size() -> None:
    """Beyond input and output, in MB: what a process held at most, from one size and length to the next larger."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **FREED}
    sizes = json.dumps([(256, 4), (256, 16), (256, 40), (1024, 2)])
    said = subprocess.run(
        [sys.executable, "-c", MEASURE, sizes], env=environment, text=True, capture_output=True, check=True
    )
    assert max(json.loads(said.stdout)) < 48, said.stdout  # a whole frame of 1024 px takes 17 MB in each convolution


STREAM = """
import json, resource, sys, torch
from pathlib import Path
from vidiff.codec.codec import VAECodec
from vidiff.data.latents.chunks import ChunkReader
from vidiff.store.place import place_of
from vidiff.video.reader import VideoReader
from vidiff.video.writer import VideoWriter
from vidiff.nn.vae import VAEConfig
torch.set_num_threads(2)
torch.manual_seed(0)
path, back = Path(sys.argv[1]), Path(sys.argv[2])
codec, plain = (VAECodec(VAEConfig(width=8), tile=tile).eval() for tile in (256, 0))
plain.load_state_dict(codec.state_dict())
with VideoReader(path) as reader:
    frames = reader.frames
apart, done = 0.0, 0
with ChunkReader(60) as reader, VideoWriter(back, fps=1) as writer:
    for video in reader.read(place_of(path), frames, 4, None):
        made = codec.decode(codec.encode(video[None]).mean)[0]
        writer.write(made)
        if done % 100 == 0:
            first = video[None, :, :1]
            apart = max(apart, float((plain.decode(plain.encode(first).mean)[0] - made[:, :1]).abs().max()))
        done += video.shape[1]
        if done == 40:
            early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
late = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([done, early / 1024, late / 1024, apart]))
"""


@pytest.mark.slow
def test_ten_minutes_of_720p_go_through_in_the_memory_of_forty_frames(tmp_path: Path) -> None:
    """Decoded, encoded in tiles, decoded in tiles and written: 600 s at one frame a second."""
    y, x = torch.linspace(0, 9, 720)[:, None], torch.linspace(0, 16, 1280)
    with VideoWriter(tmp_path / "long.mp4", fps=1) as writer:
        for t in range(600):
            writer.write(torch.stack([0.8 * torch.sin(x + y + phase + t / 7) for phase in (0.0, 1.0, 2.0)])[:, None])
    command = [sys.executable, "-c", STREAM, str(tmp_path / "long.mp4"), str(tmp_path / "back.mp4")]
    said = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT), **FREED}, text=True, capture_output=True)
    assert said.returncode == 0, said.stderr
    done, early, late, apart = json.loads(said.stdout)
    print(f"{done} frames, {early:.0f} MB after 40 of them and {late:.0f} MB after all; tiles differ by {apart:.1e}")
    assert done == 600 and late < 1.05 * early
    assert apart < 1e-3
    with VideoReader(tmp_path / "back.mp4") as reader:
        assert (reader.frames, reader.size) == (600, (720, 1280))
