"""Windows of cached latents that are parts of frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cached import LENGTHS, ONE_FILE, make, make_index

from vidiff.data.buckets import Bucket, Strides, View
from vidiff.data.clips import draw, draw_window
from vidiff.data.latents.cache import LatentCache
from vidiff.data.latents.dataset import CachedVideo, LatentDataset
from vidiff.data.order import seeded


@pytest.fixture
def cache(tmp_path: Path) -> LatentCache:
    return LatentCache(make(tmp_path / "latents", make_index(tmp_path), flips=True, chunk=4, shard_bytes=ONE_FILE))


def test_a_part_of_each_frame_is_where_it_was_drawn_and_the_same_beside(cache: LatentCache) -> None:
    beside = CachedVideo("lowres", cache, cache.statistics)
    dataset = LatentDataset(cache, View(Bucket(3, 16, 16), Strides(1, 2)), seed=5, beside=[beside], part=3)
    keys = [(epoch, 1) for epoch in range(40)]
    batch, corners = dataset.__getitems__(keys), set()
    assert batch["latent"].shape == (40, 3, 2, 4, 3, 3) and torch.equal(batch["latent"], batch["lowres"])
    for row, key in enumerate(keys):
        generator = seeded(5, *key)
        start, stride = draw_window(LENGTHS[1], 3, Strides(1, 2), generator)
        mirrored = draw(0, 1, generator) == 1
        top, left = draw(0, 5, generator), draw(0, 5, generator)
        whole = torch.from_numpy(cache.window(1, start, 3, stride, mirrored).copy()).view(cache.dtype)
        assert torch.equal(batch["latent"][row], whole[..., top : top + 3, left : left + 3])
        corners.add((top, left))
    assert {top for top, _ in corners} == {left for _, left in corners} == {0, 1, 2, 3, 4, 5}
