from __future__ import annotations

import json
import pickle
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from videos import smooth

from vidiff.data.clips import Strides, make_loader
from vidiff.data.index import DataError, Index, VideoFile
from vidiff.data.latents import LatentCache, LatentDataset, encode_latents
from vidiff.data.order import Order
from vidiff.data.processes import decoding_processes
from vidiff.data.video import read_video, write_video

LENGTHS = [7, 5, 9, 6]
ONE_FILE = 1  # bytes: every shard is full after its first file


def encode(video: Tensor) -> tuple[Tensor, Tensor]:
    """A codec of 4 channels that halves height and width."""
    small = torch.nn.functional.avg_pool3d(video[0], (1, 2, 2))[None]
    mean = torch.cat([3 * small + 1, small[:, :1] * small[:, 1:2] - 2], 1)
    return mean, 0.1 + mean.abs() / 4


def slowly(video: Tensor) -> tuple[Tensor, Tensor]:
    time.sleep(0.2)
    return encode(video)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    root, files = tmp_path_factory.mktemp("videos"), []
    for number, length in enumerate(LENGTHS):
        write_video(root / f"{number}.mp4", smooth(length, 20, 24) * (1 - number / 8))
        files.append(VideoFile(f"{number}.mp4", number % 2, length, 8, 20, 24, bytes=1, fingerprint=""))
    return Index(root, files, ["a", "b"])


def make(out: Path, index: Index, **options: object) -> Path:
    arguments = {
        "encode": encode,
        "sizes": [(16, 16)] * len(index.files),
        "key": "0123456789abcdef-and-more",
        "progress": False,
        **options,
    }
    return encode_latents(out, index, **arguments)  # type: ignore[arg-type]


def direct(index: Index, number: int, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Latents of a whole file, `(c, f, h, w)`: the shorter side becomes 16, then the middle is cut out."""
    video = read_video(index.path(number), size=(16, 19))[None, ..., 1:17]
    mean, std = encode(video.flip(-1) if mirrored else video)
    return mean[0].half().float(), std[0].half().float()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_read_is_what_was_encoded(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index, flips=True, chunk=4))
    assert (len(cache), cache.frames, cache.labels, cache.flips) == (4, LENGTHS, [0, 1, 0, 1], True)
    for number in range(4):
        for mirrored in (False, True):
            mean, std = direct(index, number, mirrored)
            assert mean.shape == (4, LENGTHS[number], 8, 8)
            for start, frames, stride in [(0, LENGTHS[number], 1), (1, 2, 3), (0, 3, 2), (2, 1, 1)]:
                window = slice(start, start + (frames - 1) * stride + 1, stride)
                found = cache.read(number, start, frames, stride, mirrored)
                assert torch.equal(found[0], mean[:, window])
                assert torch.equal(found[1], std[:, window])
    assert not torch.equal(direct(index, 0)[0], direct(index, 0, mirrored=True)[0])


def test_statistics_are_those_of_all_latents(tmp_path: Path, index: Index) -> None:
    shift, scale = LatentCache(make(tmp_path, index, flips=True, shard_bytes=ONE_FILE)).statistics
    both = [direct(index, number) for number in range(4)]
    mean = torch.cat([mean.double().flatten(1) for mean, _ in both], 1)
    std = torch.cat([std.double().flatten(1) for _, std in both], 1)
    torch.testing.assert_close(shift, mean.mean(1).float(), rtol=1e-6, atol=1e-6)
    variance = mean.var(1, correction=0) + std.square().mean(1)
    torch.testing.assert_close(scale, variance.sqrt().float(), rtol=1e-5, atol=0)


def test_normalised_latents_have_unit_variance(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index))
    shift, scale = (x.view(-1, 1, 1, 1) for x in cache.statistics)
    with pytest.warns(UserWarning, match="3 of 4 files"):
        longest = LatentDataset(cache, frames=9)[0, 0]  # the whole of file 2
    assert torch.equal(longest["mean"], (cache.read(2, 0, 9)[0] - shift) / scale)
    assert torch.equal(longest["std"], cache.read(2, 0, 9)[1] / scale)
    samples = []
    for number, length in enumerate(LENGTHS):
        mean, std = cache.read(number, 0, length)
        noise = torch.randn(64, *mean.shape, generator=torch.Generator().manual_seed(number))
        samples.append((((mean + std * noise) - shift) / scale).transpose(0, 1).flatten(1))
    drawn = torch.cat(samples, 1)
    torch.testing.assert_close(drawn.mean(1), torch.zeros(4), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(1), torch.ones(4), atol=0.01, rtol=0)


def test_a_channel_that_never_changes_stays_finite(tmp_path: Path, index: Index) -> None:
    def still(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = encode(video)
        mean[:, 3], std[:, 3] = 0.3, 0
        return mean, std

    sample = LatentDataset(LatentCache(make(tmp_path, index, encode=still)), frames=5)[0, 0]
    assert sample["mean"][3].abs().max() < 1e-3


def test_windows_are_random_and_the_same_for_any_number_of_workers(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index, flips=True, shard_bytes=ONE_FILE))
    dataset = LatentDataset(cache, frames=3, stride=Strides(1, 2), seed=4)
    alone, shared = (list(islice(make_loader(dataset, Order(4, 2, seed=4), workers), 12)) for workers in (0, 2))
    shift, scale = (x.view(-1, 1, 1, 1) for x in cache.statistics)
    seen = set()
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys() == {"mean", "std", "label", "stride", "key"}
        assert all(torch.equal(one[name], other[name]) for name in one)
        for mean, number, stride, label in zip(one["mean"], one["key"], one["stride"], one["label"], strict=True):
            assert label == number % 2
            for mirrored in (False, True):
                whole = (direct(index, int(number), mirrored)[0] - shift) / scale
                starts = range(LENGTHS[number] - 2 * int(stride))
                seen |= {(s, mirrored) for s in starts if torch.equal(mean, whole[:, s : s + 2 * stride + 1 : stride])}
    assert len(seen) > 6
    pickle.loads(pickle.dumps(cache)).read(0, 0, 1)  # open shards stay behind


def test_shards_are_bounded_by_their_bytes(tmp_path: Path, index: Index) -> None:
    bytes_per_frame = 2 * 4 * 8 * 8 * 2  # mean and std, channels, height, width, float16
    folder = make(tmp_path, index, shard_bytes=12 * bytes_per_frame)  # 7 + 5 | 9 + 6
    held = [sorted(load_file(path)) for path in sorted(folder.glob("*.safetensors"))]
    assert held == [["0.0.mean", "0.0.std", "1.0.mean", "1.0.std"], ["2.0.mean", "2.0.std", "3.0.mean", "3.0.std"]]
    cache = LatentCache(folder)
    for number in (3, 1, 2, 0):
        assert torch.equal(cache.read(number, 0, 1)[0], direct(index, number)[0][:, :1])


def test_a_finished_cache_is_not_encoded_again(tmp_path: Path, index: Index) -> None:
    def never(video: Tensor) -> tuple[Tensor, Tensor]:
        raise AssertionError("encoded again")

    folder = make(tmp_path, index)
    before = contents(folder)
    assert make(tmp_path, index, encode=never) == folder
    assert contents(folder) == before
    with pytest.raises(AssertionError, match="encoded again"):
        make(tmp_path, index, encode=never, key="another")


@pytest.mark.faults
def test_a_killed_encoding_ends_with_the_same_bytes(tmp_path: Path, index: Index) -> None:
    whole = contents(make(tmp_path / "whole", index, shard_bytes=ONE_FILE, flips=True, chunk=2))
    kills = 0
    for wanted in (1, 2, 3):  # die in the shard after this many
        arguments = (tmp_path / "cut", index)
        options = {"encode": slowly, "shard_bytes": ONE_FILE, "flips": True, "chunk": 2}
        process = decoding_processes().Process(target=make, args=arguments, kwargs=options)
        process.start()
        while process.is_alive() and len(list(tmp_path.glob("cut/*/latents-*"))) < wanted:
            time.sleep(0.02)
        time.sleep(0.3)  # into the next shard
        process.kill()
        process.join()
        kills += process.exitcode == -9
        assert not list(tmp_path.glob("cut/*/index.json"))
    assert kills == 3
    folder = make(tmp_path / "cut", index, shard_bytes=ONE_FILE, flips=True, chunk=2)
    assert contents(folder) == whole


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"\x00" * 400])
def test_a_shard_that_the_disk_lost_is_made_again(tmp_path: Path, index: Index, content: bytes) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    whole = contents(folder)
    (folder / "index.json").unlink()
    (folder / "latents-00001.safetensors").write_bytes(content)
    make(tmp_path, index, shard_bytes=ONE_FILE)
    assert contents(folder) == whole


def test_an_interrupt_leaves_finished_shards_alone(tmp_path: Path, index: Index) -> None:
    calls: list[float] = []

    def interrupted(video: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(time.monotonic())
        if len(calls) > 2:
            raise KeyboardInterrupt
        return encode(video)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, index, encode=interrupted, shard_bytes=ONE_FILE)
    assert time.monotonic() - calls[-1] < 3
    assert sorted(path.name for path in tmp_path.glob("*/*")) == [f"latents-0000{i}.safetensors" for i in range(2)]


@pytest.mark.faults
def test_a_file_that_breaks_is_named_and_left_out(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [replace(file, frames=30) if number == 2 else file for number, file in enumerate(index.files)]
    lying = Index(index.root, files, index.labels)
    with pytest.raises(DataError, match=r"1 of 4 files .* more than data\.max_broken=0\.2 allows.*2\.mp4: frames"):
        make(tmp_path, lying, max_broken=0.2)
    assert not list(tmp_path.glob("*/*"))
    cache = LatentCache(make(tmp_path, lying, max_broken=0.25))
    assert "2.mp4: frames" in "".join(capsys.readouterr())
    assert cache.frames == [7, 5, 0, 6]
    with pytest.warns(UserWarning, match="1 of 4 files"):
        assert LatentDataset(cache, frames=2).kept == [0, 1, 3]


@pytest.mark.faults
def test_damage_is_found(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    cache = LatentCache(folder)
    cache.verify()
    shard = folder / "latents-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"latents-00002\.safetensors is missing or damaged: remove .* and run again"):
        LatentCache(folder).verify()
    shard.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"latents-00002\.safetensors is missing or damaged"):
        LatentCache(folder)
    shard.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        cache.read(2, 0, 1)
    (folder / "index.json").write_text(json.dumps({})[:1])
    with pytest.raises(DataError, match="is not a finished latent cache"):
        LatentCache(folder)


def test_the_low_resolution_is_of_the_same_frames(tmp_path: Path, index: Index) -> None:
    def low(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = encode(video)
        return 0.5 * mean + 0.25, torch.zeros_like(mean)

    caches = [LatentCache(make(tmp_path, index, encode=way, flips=True, key=way.__name__)) for way in (encode, low)]
    unit, other = (torch.zeros(4), torch.ones(4)), (torch.full((4,), 0.25), torch.full((4,), 0.5))
    both = LatentDataset(caches[0], 3, Strides(1, 2), 5, unit, caches[1], other)
    alone = LatentDataset(caches[0], 3, Strides(1, 2), 5, unit)
    for epoch in range(4):
        for number in range(len(both)):
            found, expected = both[epoch, number], alone[epoch, number]
            assert {**found, "lowres": 0}.keys() == {**expected, "lowres": 0}.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected), "the same windows as without"
            torch.testing.assert_close(found["lowres"], found["mean"], atol=2e-3, rtol=2e-3)  # float16
    with pytest.raises(DataError, match="are not of the same files"):
        LatentDataset(caches[0], 3, lowres=LatentCache(make(tmp_path, index, encode=low, key="c")))


def test_a_standard_deviation_of_0_is_not_kept(tmp_path: Path, index: Index) -> None:
    def certain(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = encode(video)
        return mean, torch.zeros_like(mean)

    folder = make(tmp_path, index, encode=certain)
    assert set(load_file(folder / "latents-00000.safetensors")) == {f"{number}.0.mean" for number in range(4)}
    cache = LatentCache(folder)
    mean, std = cache.read(2, 1, 3, stride=2)
    assert torch.equal(mean, direct(index, 2)[0][:, 1:6:2]) and torch.equal(std, torch.zeros_like(mean))
    everything = torch.cat([direct(index, number)[0].flatten(1) for number in range(4)], 1).double()
    torch.testing.assert_close(cache.statistics[0], everything.mean(1).float())
    torch.testing.assert_close(cache.statistics[1], everything.std(1, correction=0).float())


def test_mistakes(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index))
    with pytest.raises(ValueError, match="frames 3 to 7 of file 0 asked for; it has 7"):
        cache.read(0, 3, 3, stride=2)
    with pytest.raises(ValueError, match=r"made without data\.flip"):
        cache.read(0, 0, 1, mirrored=True)
    with pytest.raises(DataError, match="a clip of 10 frames at stride 1 needs 10 frames, but the longest file"):
        LatentDataset(cache, frames=10)
    with pytest.raises(DataError, match="not finite in float16"):
        make(tmp_path, index, encode=lambda video: (video * 1e6, video), key="diverged")
