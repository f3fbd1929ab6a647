"""Writing a latent cache: by one process or several, killed or not, always the same bytes."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from cached import BYTES, LENGTHS, ONE_FILE, certain, contents, direct, encode, make, make_index, never, plan
from safetensors.torch import load_file
from torch import Tensor

from vidiff.data.buckets import Bucket, View
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import LatentDataset
from vidiff.data.latents.encode import Share, discard, encode_latents
from vidiff.data.latents.stale import stale
from vidiff.data.workers import DecodingProcesses
from vidiff.store.error import DataError
from vidiff.store.files import write_whole
from vidiff.video.fit import Fit
from vidiff.video.reader import read_video


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def many(index: Index) -> Index:
    """The same files, each three times."""
    return Index(index.root, index.files * 3, index.labels)


def names(folder: Path) -> list[str]:
    """Of what is to be seen."""
    return sorted(path.name for path in folder.glob("*/[!.]*"))


# What is planned


def test_shards_are_planned_by_their_bytes(tmp_path: Path, index: Index) -> None:
    bytes_per_frame = 16 * 16 * BYTES
    options = {"shard_bytes": int(12 * bytes_per_frame)}
    assert plan(index, **options).shards() == [range(2), range(2, 4)]  # 7 + 5 | 9 + 6 frames
    assert plan(index, **options, flips=True).shards() == [range(1), range(1, 3), range(3, 4)]
    assert plan(index, shard_bytes=10**9).shards() == [range(4)]
    folder = make(tmp_path, index, **options)
    shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    assert [sorted(shard) for shard in shards] == [["0.0.0", "1.0.0"], ["2.0.0", "3.0.0"]]
    assert [sum(x.nbytes for x in shard.values()) for shard in shards] == [12 * bytes_per_frame, 15 * bytes_per_frame]
    cache = LatentCache(folder)
    for number in (3, 1, 2, 0):
        assert torch.equal(cache.read(number, 0, 1)[0], direct(index, number)[0][:, :1])


def test_another_key_for_whatever_changes_the_bytes(index: Index) -> None:
    other = Index(index.root, [replace(index.files[0], label=1), *index.files[1:]], index.labels)
    keys = [
        plan(index).key,
        plan(index, sizes=[(16, 18)] * 4).key,
        plan(index, sizes=[(16, 16), (16, 18), (16, 16), (16, 16)]).key,
        plan(index, sizes=[(16, 18), (16, 16), (16, 16), (16, 16)]).key,
        plan(index, made_of={"codec": "a"}).key,
        plan(index, crops=2).key,
        plan(index, flips=True).key,
        plan(index, dtype="bfloat16").key,
        plan(index, shard_bytes=5).key,
        plan(other).key,
    ]
    assert len(set(keys)) == len(keys)
    assert plan(index, of="elsewhere").key == keys[0], "the place of the data is no part of it"


def test_crops_are_even_along_the_longer_side(index: Index) -> None:
    wide, high = replace(index.files[0], height=20, width=40), replace(index.files[1], height=45, width=20)
    files = Index(index.root, [wide, high, index.files[2]], [])
    found = plan(files, sizes=[(16, 16)] * 3, crops=3)
    assert [found.fit(number).whole for number in range(3)] == [(16, 32), (36, 16), (16, 19)]
    assert [found.corners(number) for number in range(3)] == [
        [(0, 0), (0, 8), (0, 16)],
        [(0, 0), (10, 0), (20, 0)],
        [(0, 0), (0, 1), (0, 3)],
    ]
    assert plan(files, sizes=[(16, 16)] * 3).corners(2) == [(0, 1)], "the middle"
    assert len(plan(files, sizes=[(16, 16)] * 3, crops=9).corners(2)) == 4, "no more than there are"
    assert plan(files, sizes=[(16, 19)] * 3, crops=5).corners(2) == [(0, 0)], "nor the same one twice"


def test_what_cannot_be_planned_is_refused(index: Index) -> None:
    for options, said in [
        ({"sizes": [(16, 16)] * 3}, "3 sizes for 4 files"),
        ({"crops": 0}, "crops is 0"),
        ({"dtype": "float32"}, "dtype is 'float32'; choose float16, bfloat16"),
    ]:
        with pytest.raises(ValueError, match=said):
            plan(index, **options)


# What is kept


def test_every_crop_is_kept_and_its_mirror_image(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index, crops=3, flips=True, chunk=4))
    assert cache.crops == [3] * 4
    video = read_video(index.files[2].place, size=(16, 19))[None]
    for crop, left in enumerate((0, 1, 3)):
        for mirrored in (False, True):
            frames = video[..., left : left + 16]
            mean, std = encode(frames.flip(-1) if mirrored else frames)
            found = cache.read(2, 1, 5, mirrored=mirrored, crop=crop)
            assert torch.equal(found[0], mean[0, :, 1:6].half().float())
            assert torch.equal(found[1], std[0, :, 1:6].half().float())
    with pytest.raises(ValueError, match="crop 3 of file 2 asked for"):
        cache.read(2, 0, 1, crop=3)


def test_each_file_has_its_own_size(tmp_path: Path, index: Index) -> None:
    sizes = [(16, 16), (12, 20), (20, 12), (16, 16)]
    cache = LatentCache(make(tmp_path, index, sizes=sizes))
    for number, (height, width) in enumerate(sizes):
        fitted = Fit((20, 24), (height, width)).whole
        top, left = (fitted[0] - height) // 2, (fitted[1] - width) // 2
        video = read_video(index.files[number].place, size=fitted)[None, ..., top : top + height, left : left + width]
        found, _ = cache.read(number, 0, LENGTHS[number])
        assert found.shape[2:] == (height // 2, width // 2)
        assert torch.equal(found, encode(video)[0][0].half().float())
    with pytest.raises(ValueError, match=r"files 0 and 1 .* have latents of \(8, 8\) and \(6, 10\), which one batch"):
        LatentDataset(cache, View(Bucket(3, 16, 16))).__getitems__([(0, 0), (0, 1)])


def test_latents_too_large_for_float16_fit_into_bfloat16(tmp_path: Path, index: Index) -> None:
    def large(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = encode(video)
        return mean * 1e5, std

    with pytest.raises(
        DataError, match=r"0\.mp4 reach .*e\+05, but float16 ends at 6\.55e\+04: .*latent_dtype=bfloat16"
    ):
        make(tmp_path, index, encode=large)
    cache = LatentCache(make(tmp_path, index, encode=large, dtype="bfloat16"))
    video = read_video(index.files[1].place, size=(16, 19))[None, ..., 1:17]
    mean, std = large(video)
    found = cache.read(1, 0, 5)
    assert torch.equal(found[0], mean[0].bfloat16().float()) and torch.equal(found[1], std[0].bfloat16().float())
    with pytest.raises(DataError, match=r"latents of .* are not finite: has the training of the codec diverged"):
        make(tmp_path, index, encode=lambda video: (video * torch.nan, video), made_of={"codec": "diverged"})


def test_a_standard_deviation_of_0_is_not_kept(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index, encode=certain)
    assert {tuple(x.shape[1:]) for x in load_file(folder / "latents-00000.safetensors").values()} == {(1, 4, 8, 8)}
    cache = LatentCache(folder)
    mean, std = cache.read(2, 1, 3, stride=2)
    assert torch.equal(mean, direct(index, 2)[0][:, 1:6:2]) and torch.equal(std, torch.zeros_like(mean))
    everything = torch.cat([direct(index, number)[0].flatten(1) for number in range(4)], 1).double()
    torch.testing.assert_close(cache.statistics[0], everything.mean(1).float())
    torch.testing.assert_close(cache.statistics[1], everything.std(1, correction=0).float())


@pytest.mark.parametrize("shard_bytes", [ONE_FILE, 10**9])
def test_statistics_are_those_of_all_latents(tmp_path: Path, index: Index, shard_bytes: int) -> None:
    shift, scale = LatentCache(make(tmp_path, index, flips=True, shard_bytes=shard_bytes)).statistics
    both = [direct(index, number) for number in range(4)]
    mean = torch.cat([mean.double().flatten(1) for mean, _ in both], 1)
    std = torch.cat([std.double().flatten(1) for _, std in both], 1)
    torch.testing.assert_close(shift, mean.mean(1).float(), rtol=1e-6, atol=1e-6)
    variance = mean.var(1, correction=0) + std.square().mean(1)
    torch.testing.assert_close(scale, variance.sqrt().float(), rtol=1e-5, atol=0)


# Once, and no more


def test_a_finished_cache_is_not_encoded_again(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index)
    before = contents(folder)
    assert set(before) == {"index.json", "latents-00000.safetensors"}
    assert make(tmp_path, index, encode=never) == folder
    assert contents(folder) == before
    with pytest.raises(AssertionError, match="encoded again"):
        make(tmp_path, index, encode=never, made_of={"codec": "another"})


def test_parts_make_what_one_process_makes(tmp_path: Path, many: Index) -> None:
    whole = contents(make(tmp_path / "whole", many, shard_bytes=ONE_FILE))
    shares = [Share(1, 2), Share(0, 2)]
    planned = plan(many, shard_bytes=ONE_FILE)
    assert encode_latents(tmp_path / "parts", planned, encode, shares[0], progress=False) is None
    assert names(tmp_path / "parts") == [f"latents-{i:05d}.safetensors" for i in range(1, 12, 2)]
    folder = encode_latents(tmp_path / "parts", planned, encode, shares[1], progress=False)
    assert folder is not None and contents(folder) == whole


def test_processes_of_a_share_begin_apart() -> None:
    assert [Share(0, 1, rank, 3).order(7) for rank in range(3)] == [
        [0, 1, 2, 3, 4, 5, 6],
        [2, 3, 4, 5, 6, 0, 1],
        [4, 5, 6, 0, 1, 2, 3],
    ]
    assert [Share(1, 2, rank, 2).order(7) for rank in range(2)] == [[1, 3, 5], [3, 5, 1]]
    assert Share(3, 4).order(2) == []


def count(log: Path, out: Path, index: Index, rank: int = 0, ranks: int = 1, **options: object) -> None:
    """An encoder that writes its rank to a log, each time that it is called.

    It then waits until so many ranks have, and until the log's size is below the number in the file beside it that
    ends in .allowed, if there is one.
    """
    allowed = log.with_suffix(".allowed")

    def counted(video: Tensor) -> tuple[Tensor, Tensor]:
        with log.open("a") as file:
            file.write(str(rank))
        while len(set(log.read_text())) < ranks or (allowed.exists() and log.stat().st_size > int(allowed.read_text())):
            time.sleep(0.005)
        return encode(video)

    make(out, index, encode=counted, **options)


def test_two_processes_share_the_work(tmp_path: Path, many: Index) -> None:
    whole = contents(make(tmp_path / "whole", many, shard_bytes=ONE_FILE))
    processes = []
    for rank in range(2):
        options = {"share": Share(rank=rank, world=2), "shard_bytes": ONE_FILE, "ranks": 2}
        arguments = (tmp_path / "log", tmp_path / "shared", many, rank)
        processes.append(DecodingProcesses().Process(target=count, args=arguments, kwargs=options))
        processes[-1].start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    calls = (tmp_path / "log").read_text()
    assert len(calls) == 12, "each file once"
    assert set(calls) == {"0", "1"}
    (folder,) = (tmp_path / "shared").iterdir()
    assert contents(folder) == whole


# Faults


@pytest.mark.faults
def test_two_encoders_killed_at_random_end_with_the_same_bytes(tmp_path: Path, many: Index) -> None:
    options = {"shard_bytes": ONE_FILE, "flips": True, "chunk": 3}
    whole = contents(make(tmp_path / "whole", many, **options))
    log, allowed = tmp_path / "log", tmp_path / "log.allowed"
    log.touch()
    write_whole(allowed, "0")
    chance, killed = random.Random(0), 0

    def start() -> BaseProcess:
        process = DecodingProcesses().Process(target=count, args=(log, tmp_path / "cut", many), kwargs=options)
        process.start()
        return process

    processes = [start(), start()]
    while killed < 6:
        calls = log.stat().st_size + chance.randrange(1, 6)  # 12 files want 72 in all, and more as some are lost
        write_whole(allowed, str(calls))
        while log.stat().st_size < calls:  # into the work
            assert any(process.is_alive() for process in processes), "it was too fast to be killed"
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1))
        victim = chance.randrange(2)
        processes[victim].kill()
        processes[victim].join()
        killed += processes[victim].exitcode == -9
        processes[victim] = start()
    allowed.unlink()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (folder,) = (tmp_path / "cut").iterdir()
    assert contents(folder) == whole


@pytest.mark.faults
def test_what_a_killed_process_left_is_swept_up(tmp_path: Path, index: Index) -> None:
    process = DecodingProcesses().Process(target=time.sleep, args=(0,))
    process.start()
    process.join()
    folder = plan(index).folder(tmp_path)
    folder.mkdir(parents=True)
    dead, live = (f".latents-00000.safetensors.{host}.partial" for host in (f"x-{process.pid}", "x-1"))
    (folder / dead).write_bytes(b"half")
    (folder / live).write_bytes(b"half")
    make(tmp_path, index)
    assert set(contents(folder)) == {"index.json", "latents-00000.safetensors"}


@pytest.mark.faults
@pytest.mark.parametrize("content", [b"", b"\x00" * 400])
def test_a_shard_that_the_disk_lost_is_made_again(tmp_path: Path, index: Index, content: bytes) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    whole = contents(folder)
    (folder / "index.json").unlink()
    (folder / "latents-00001.safetensors").write_bytes(content)
    make(tmp_path, index, shard_bytes=ONE_FILE)
    assert contents(folder) == whole


@pytest.mark.faults
@pytest.mark.parametrize("damage", ["cut", "gone", "index"])
def test_only_what_is_damaged_is_made_again(
    tmp_path: Path, index: Index, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    whole, lost = contents(folder), "latents-00002.safetensors"
    calls = []

    def counted(video: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(video.shape[2])
        return encode(video)

    if damage == "cut":
        (folder / lost).write_bytes(whole[lost][:-1])
    elif damage == "gone":
        (folder / lost).unlink()
    else:
        (folder / "index.json").write_bytes(whole["index.json"][:-1])
    make(tmp_path, index, encode=counted, shard_bytes=ONE_FILE)
    assert contents(folder) == whole
    assert calls == ([] if damage == "index" else [9])
    named = folder / ("index.json" if damage == "index" else lost)
    assert f"{named} is missing or damaged: it is made again" in capsys.readouterr().out


@pytest.mark.faults
def test_flipped_bits_are_found_and_mended(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    whole, name = contents(folder), "latents-00002.safetensors"
    cache = LatentCache(folder)
    cache.verify()
    content = bytearray(whole[name])
    content[-100] ^= 1
    (folder / name).write_bytes(content)
    assert cache.damaged() == cache.damaged(0, 2) == [name] and cache.damaged(1, 2) == []
    with pytest.raises(DataError, match=r"latents-00002\.safetensors is missing or damaged: remove it, and run again"):
        cache.verify()
    discard(folder, cache.damaged())
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
    assert len(calls) == 3
    assert names(tmp_path) == ["latents-00000.safetensors", "latents-00001.safetensors"]
    assert not list(tmp_path.glob("*/*.partial"))


@pytest.mark.faults
def test_a_file_that_breaks_is_named_and_left_out(
    tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [replace(file, frames=30) if number == 2 else file for number, file in enumerate(index.files)]
    lying = Index(index.root, files, index.labels)
    with pytest.raises(DataError, match=r"1 of 4 files .* more than data\.max_broken=0\.2 allows.*2\.mp4: frames"):
        make(tmp_path, lying, max_broken=0.2)
    assert not list(tmp_path.glob("*/latents-*"))
    cache = LatentCache(make(tmp_path, lying, max_broken=0.25))
    assert "2.mp4: frames" in "".join(capsys.readouterr())
    assert cache.frames == [7, 5, 0, 6]
    with pytest.warns(UserWarning, match="1 of 4 files"):
        assert LatentDataset(cache, View(Bucket(2, 16, 16))).kept == [0, 1, 3]
    with pytest.raises(DataError, match=r"1 of 4 files"):  # found when all the others are there
        make(tmp_path / "parts", lying, max_broken=0.2, shard_bytes=ONE_FILE)
    left = {path.name for path in (tmp_path / "parts").glob("*/latents-*")}
    assert left == {f"latents-0000{i}.safetensors" for i in (0, 1)}


# Others


def test_caches_of_the_same_clips_are_named(tmp_path: Path, index: Index) -> None:
    old = make(tmp_path, index, of="clips train", made_of={"codec": "a", "precision": "fp32"})
    make(tmp_path, index, of="clips test", made_of={"codec": "a"})
    wanted = plan(index, of="clips train", made_of={"codec": "b", "precision": "bf16"}, crops=2)
    size = sum(len(content) for content in contents(old).values())
    assert stale(tmp_path, wanted) == [
        f"{old} was made of another codec, encoded in fp32, with data.crops=1: {size / 1e9:.3g} GB; remove it if no "
        "run needs it"
    ]
    assert stale(tmp_path, plan(index, of="clips train", made_of={"codec": "a", "precision": "fp32"})) == []
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "index.json").write_text(json.dumps({"key": "abc"}))
    assert stale(tmp_path, wanted)[1].startswith(f"{tmp_path / 'earlier'} was made by another version of vidiff: ")
