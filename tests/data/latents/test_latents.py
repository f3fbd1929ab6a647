"""Reading a latent cache, and batches of windows drawn from it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from cached import LENGTHS, ONE_FILE, certain, direct, encode, make, make_index
from fsspec.implementations.memory import MemoryFileSystem
from torch import Tensor

from vidiff.data.buckets import Bucket, Strides, View
from vidiff.data.clips import Sample, change_colours, draw, draw_window, make_loader
from vidiff.data.index import Index
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import CachedVideo, Classes, LatentDataset, Texts
from vidiff.data.order import Order, seeded
from vidiff.objective.latents import normalised
from vidiff.store.copies import Copies
from vidiff.store.error import DataError


def view(frames: int, most: int = 1) -> View:
    """Clips of so many frames, at any stride up to `most`."""
    return View(Bucket(frames, 16, 16), Strides(1, most))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, index: Index) -> LatentCache:
    return LatentCache(make(tmp_path_factory.mktemp("latents"), index, flips=True, chunk=4, shard_bytes=ONE_FILE))


def seen(sample: Sample) -> Sample:
    """A sample as a model sees it."""
    return {name: value[0] for name, value in normalised({name: value[None] for name, value in sample.items()}).items()}


def test_what_is_read_is_what_was_encoded(cache: LatentCache, index: Index) -> None:
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


def test_each_number_of_a_batch_has_memory_of_its_own(cache: LatentCache) -> None:
    """Without it a batch cannot be pinned, which is where batches for a GPU go first."""
    beside = [CachedVideo("control", cache, cache.statistics), Classes([0, 1, 0, 1], 2)]
    dataset = LatentDataset(cache, view(3), beside=beside)
    batch = next(iter(make_loader(dataset, Order(dataset.groups, 2, 0), 0)))
    assert "control_shift" in batch
    for name, value in batch.items():
        assert torch._debug_has_internal_overlap(value) != 1, name


def test_a_window_is_one_piece_of_the_file(cache: LatentCache) -> None:
    found = cache.window(2, 3, 4)
    assert found.shape == (4, 2, 4, 8, 8) and found.flags.c_contiguous and not found.flags.owndata
    again = cache.window(2, 3, 4)
    assert found.ctypes.data == again.ctypes.data, "where it lies, and no copy of it"


def test_normalised_latents_have_unit_variance(tmp_path: Path, index: Index) -> None:
    cache = LatentCache(make(tmp_path, index))
    shift, scale = (x.view(-1, 1, 1, 1) for x in cache.statistics)
    with pytest.warns(UserWarning, match="3 of 4 files"):
        longest = seen(LatentDataset(cache, view(9))[0, 0])  # the whole of file 2
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


def test_a_model_sees_the_windows_that_a_seed_stands_for(cache: LatentCache) -> None:
    """To the bit: start, stride and side as they are drawn one after the other, and latents normalised in float32."""
    dataset = LatentDataset(cache, view(3, 2), seed=5)
    keys = [(epoch, place) for epoch in range(3) for place in range(4)]
    batch = normalised(dataset.__getitems__(keys))
    shift, scale = (x.view(-1, 1, 1, 1) for x in cache.statistics)
    assert batch["mean"].is_contiguous() and batch["mean"].dtype == torch.float32
    for row, key in enumerate(keys):
        generator = seeded(5, *key)
        start, stride = draw_window(LENGTHS[key[1]], 3, Strides(1, 2), generator)
        mean, std = cache.read(key[1], start, 3, stride, draw(0, 1, generator) == 1)
        assert torch.equal(batch["mean"][row], (mean - shift) / scale)
        assert torch.equal(batch["std"][row], std / scale)
        assert (int(batch["key"][row]), int(batch["stride"][row])) == (key[1], stride)
        alone = dataset[key]
        assert all(torch.equal(alone[name], value[row]) for name, value in dataset.__getitems__(keys).items())


def test_the_colours_of_pixels_change_as_those_of_clips_do(tmp_path: Path, index: Index) -> None:
    """Of a whole clip, after all else is drawn, by the seed alone; and what the cache keeps stays what it is."""
    pixels = LatentCache(make(tmp_path, index, encode=lambda video: (video, torch.zeros_like(video)), flips=True))
    plain, changed = (LatentDataset(pixels, replace(view(3, 2), jitter=jitter), seed=5) for jitter in (0.0, 0.5))
    keys = [(epoch, place) for epoch in range(3) for place in range(4)]
    before, after = plain.__getitems__(keys), changed.__getitems__(keys)
    assert before["latent"].shape == (12, 3, 1, 3, 16, 16)
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "latent")
    for key, one, other in zip(keys, before["latent"], after["latent"], strict=True):
        generator = seeded(5, *key)
        draw_window(LENGTHS[key[1]], 3, Strides(1, 2), generator)
        draw(0, 1, generator)
        wanted = change_colours(one[:, 0].transpose(0, 1).float(), 0.5, generator)
        torch.testing.assert_close(other[:, 0].transpose(0, 1).float(), wanted, atol=2e-3, rtol=0)
        assert not torch.equal(one, other)
    assert torch.equal(plain.__getitems__(keys)["latent"], before["latent"])


def test_each_crop_comes_and_one_crop_draws_nothing(tmp_path: Path, index: Index) -> None:
    crops = LatentDataset(LatentCache(make(tmp_path, index, crops=3)), view(5))
    drawn = [crops.draw((epoch, 1), seeded(0, epoch)) for epoch in range(60)]
    assert {window.crop for window in drawn} == {0, 1, 2}
    window = next(window for window in drawn if window.crop == 2)
    latent = crops.cache.window(1, 0, 5, crop=2)
    assert torch.equal(torch.from_numpy(latent.copy()), torch.from_numpy(crops.cache.window(*window).copy()))
    one = LatentDataset(LatentCache(make(tmp_path, index)), view(5))
    generator = seeded(0, 3)
    one.draw((0, 1), generator)
    expected = seeded(0, 3)
    draw_window(5, 5, Strides(), expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_a_channel_that_never_changes_stays_finite(tmp_path: Path, index: Index) -> None:
    def still(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = encode(video)
        mean[:, 3], std[:, 3] = 0.3, 0
        return mean, std

    sample = seen(LatentDataset(LatentCache(make(tmp_path, index, encode=still)), view(5))[0, 0])
    assert sample["mean"][3].abs().max() < 1e-3


def test_files_with_and_without_noise_share_a_batch(tmp_path: Path, index: Index) -> None:
    calls = []

    def mixed(video: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(video)
        return encode(video) if len(calls) % 2 else certain(video)

    cache = LatentCache(make(tmp_path, index, encode=mixed))
    assert cache.parts == 2
    batch = normalised(LatentDataset(cache, view(5)).__getitems__([(0, place) for place in range(4)]))
    assert batch["std"].flatten(1).any(1).tolist() == [True, False, True, False]
    assert not normalised(LatentDataset(cache, view(5)).__getitems__([(0, 1)]))["std"].any()


def test_windows_are_random_and_the_same_for_any_number_of_workers(cache: LatentCache, index: Index) -> None:
    dataset = LatentDataset(cache, view(3, 2), seed=4)
    alone, shared = (
        list(islice(make_loader(dataset, Order([range(4)], 2, seed=4), workers), 12)) for workers in (0, 2)
    )
    shift, scale = (x.view(-1, 1, 1, 1) for x in cache.statistics)
    found = set()
    for one, other in zip(alone, shared, strict=True):
        assert one.keys() == other.keys() == {"latent", "shift", "scale", "label", "stride", "key"}
        assert all(torch.equal(one[name], other[name]) for name in one)
        drawn = normalised(one)
        for mean, number, stride, label in zip(*(drawn[k] for k in ("mean", "key", "stride", "label")), strict=True):
            assert label == number % 2
            for mirrored in (False, True):
                whole = (direct(index, int(number), mirrored)[0] - shift) / scale
                starts = range(LENGTHS[number] - 2 * int(stride))
                found |= {(s, mirrored) for s in starts if torch.equal(mean, whole[:, s : s + 2 * stride + 1 : stride])}
    assert len(found) > 6
    pickle.loads(pickle.dumps(cache)).read(0, 0, 1)  # open shards stay behind


def test_the_low_resolution_is_of_the_same_frames(tmp_path: Path, index: Index) -> None:
    def low(video: Tensor) -> tuple[Tensor, Tensor]:
        mean, _ = encode(video)
        return 0.5 * mean + 0.25, torch.zeros_like(mean)

    caches = [
        LatentCache(make(tmp_path, index, encode=way, flips=True, made_of={"kind": way.__name__}))
        for way in (encode, low)
    ]
    unit, other = (torch.zeros(4), torch.ones(4)), (torch.full((4,), 0.25), torch.full((4,), 0.5))
    both = LatentDataset(caches[0], view(3, 2), 5, unit, [CachedVideo("lowres", caches[1], other)])
    alone = LatentDataset(caches[0], view(3, 2), 5, unit)
    for epoch in range(4):
        for number in range(len(both)):
            found, expected = seen(both[epoch, number]), seen(alone[epoch, number])
            assert {**found, "lowres": 0}.keys() == {**expected, "lowres": 0}.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected), "the same windows as without"
            torch.testing.assert_close(found["lowres"], found["mean"], atol=2e-3, rtol=2e-3)  # float16
    fewer = LatentCache(make(tmp_path, index, encode=low, made_of={"kind": "c"}))
    with pytest.raises(DataError, match="are not of the same files"):
        LatentDataset(caches[0], view(3), beside=[CachedVideo("lowres", fewer, other)])


def test_each_clip_comes_with_the_text_of_its_file(cache: LatentCache) -> None:
    text, mask = torch.tensor([[5, 6], [7, 0]]), torch.tensor([[True, True], [True, False]])
    plain = LatentDataset(cache, view(3))
    dataset = LatentDataset(cache, view(3), beside=[Texts(text, mask, rows=[0, 0, 1, 1])])  # two files share a caption
    assert len(dataset) == 4
    batch = dataset.__getitems__([(9, 2), (9, 0)])
    assert batch["key"].tolist() == [2, 0]
    assert torch.equal(batch["text"], text[[1, 0]]) and torch.equal(batch["text_mask"], mask[[1, 0]])
    assert torch.equal(dataset[9, 2]["text"], text[1]) and torch.equal(dataset[9, 0]["text_mask"], mask[0])
    assert torch.equal(batch["latent"], plain.__getitems__([(9, 2), (9, 0)])["latent"])
    with pytest.raises(DataError, match="3 captions for the 4 files of"):
        LatentDataset(cache, view(3), beside=[Texts(text, mask, rows=[0, 0, 1])])


def test_a_cache_elsewhere_is_read_through_copies(tmp_path: Path, index: Index, cache: LatentCache) -> None:
    store = MemoryFileSystem()
    store.put(str(cache.folder), "/elsewhere/cache", recursive=True)
    most = max(path.stat().st_size for path in Path(cache.folder).iterdir())
    copies = Copies(tmp_path / "copies", 3 * most)
    remote = LatentCache("memory://elsewhere/cache", copies)
    assert (remote.frames, remote.labels, remote.flips) == (cache.frames, cache.labels, cache.flips)
    assert len(list(copies.folder.iterdir())) == 1, "the index, and no shard before it is touched"
    datasets = [LatentDataset(each, view(3, 2), seed=4) for each in (cache, remote)]
    for epoch in range(3):
        for place in range(4):
            one, other = (dataset[epoch, place] for dataset in datasets)
            assert all(torch.equal(one[name], other[name]) for name in one)
        assert sum(path.stat().st_size for path in copies.folder.iterdir()) <= copies.limit
    assert len(remote._open) == 1, "no copy that was removed stays mapped for long"
    with pytest.raises(ValueError, match="memory://elsewhere/cache is elsewhere: give copies"):
        LatentCache("memory://elsewhere/cache")
    with pytest.raises(DataError, match="memory://elsewhere/none is not a finished latent cache: copy one there"):
        LatentCache("memory://elsewhere/none", copies)


def test_workers_share_the_copies_of_a_cache_elsewhere(tmp_path: Path, cache: LatentCache) -> None:
    url = f"file://{cache.folder}"
    remote = LatentCache(url, Copies(tmp_path / "copies", 10**9))
    order = Order([range(4)], 2, seed=4)
    alone, shared = (
        list(islice(make_loader(LatentDataset(each, view(3), seed=4), order, workers), 6))
        for each, workers in ((cache, 0), (remote, 2))
    )
    for one, other in zip(alone, shared, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(list((tmp_path / "copies").iterdir())) == 1 + 4, "the index and each shard, once"


def test_a_damaged_shard_elsewhere_is_named(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    shard = folder / "latents-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    remote = LatentCache(f"file://{folder}", Copies(tmp_path / "copies", 10**9))
    remote.read(0, 0, 1)
    with pytest.raises(DataError, match=r"file://.*latents-00001\.safetensors is missing or damaged: copy it there"):
        remote.read(1, 0, 1)
    assert remote.damaged() == [shard.name]


def test_mistakes(tmp_path: Path, index: Index) -> None:
    folder = make(tmp_path, index, shard_bytes=ONE_FILE)
    cache = LatentCache(folder)
    with pytest.raises(ValueError, match="frames 3 to 7 of file 0 asked for; it has 7"):
        cache.read(0, 3, 3, stride=2)
    with pytest.raises(ValueError, match=r"made without data\.flip"):
        cache.read(0, 0, 1, mirrored=True)
    with pytest.raises(DataError, match="a clip of 10 frames at stride 1 needs 10 frames, but the longest file"):
        LatentDataset(cache, view(10))
    shard = folder / "latents-00002.safetensors"
    content = shard.read_bytes()
    for damaged in (content[:-1], content[:20], b""):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"latents-00002\.safetensors is missing or damaged"):
            LatentCache(folder)
        with pytest.raises(DataError, match=r"latents-00002\.safetensors is missing or damaged"):
            cache.read(2, 0, 1)
    shard.unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        cache.read(2, 0, 1)
    (folder / "index.json").write_text("{")
    with pytest.raises(DataError, match="is not a finished latent cache"):
        LatentCache(folder)


@pytest.mark.parametrize(
    ("labels", "says"), [([0, 1, 2, 5], "file 3 .* has label 5, but there are 3"), ([0], "1 labels")]
)
def test_a_label_that_no_class_has_is_refused_before_a_gpu_meets_it(
    cache: LatentCache, labels: list[int], says: str
) -> None:
    assert len(LatentDataset(cache, view(3), beside=[Classes([-1, 0, 1, 2], 3)])) == 4
    with pytest.raises(DataError, match=says):
        LatentDataset(cache, view(3), beside=[Classes(labels, 3)])
