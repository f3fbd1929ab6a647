from __future__ import annotations

from itertools import chain, islice, pairwise

import pytest

from vidiff.data.buckets import Bucket, assign, group, longest_of, nearest_size, shrunk
from vidiff.data.order import JointOrder, Key, Order

SQUARE, LONG, WIDE, TALL = Bucket(8, 64, 64), Bucket(16, 64, 64), Bucket(8, 48, 80), Bucket(8, 80, 48)
SMALL, LARGE = Bucket(8, 32, 32), Bucket(8, 96, 96)


@pytest.mark.parametrize(
    ("file", "bucket"),
    [
        ((40, 240, 240), LONG),
        ((40, 240, 300), LONG),  # log 5/4 = 0.22 from 1:1, and 0.29 from 5:3
        ((40, 240, 320), WIDE),  # log 4/3 = 0.29 from 1:1, and 0.22 from 5:3
        ((40, 240, 426), WIDE),
        ((40, 426, 240), TALL),
        ((12, 240, 240), SQUARE),  # too short for 16 frames
        ((15, 500, 500), SQUARE),
        ((16, 500, 500), LONG),
        ((3, 500, 500), SQUARE),  # too short for all
    ],
)
def test_a_file_goes_to_the_nearest_aspect_and_the_most_frames(file: tuple[int, int, int], bucket: Bucket) -> None:
    assert assign([file], [WIDE, SQUARE, TALL, LONG]) == [bucket]


def test_of_equal_aspects_the_largest_that_needs_no_enlarging() -> None:
    sizes = [LARGE, SMALL, SQUARE]
    files = [(8, side, side) for side in (200, 96, 95, 64, 63, 32, 31, 8)]
    assert assign(files, sizes) == [LARGE, LARGE, SQUARE, SQUARE, SMALL, SMALL, SMALL, SMALL]
    assert assign([(9, 64, 64)], [LONG, SQUARE], stride=1) == [SQUARE]
    assert assign([(30, 64, 64), (31, 64, 64)], [LONG, SQUARE], stride=2) == [SQUARE, LONG]


def test_places_are_grouped_by_their_keys() -> None:
    assert group(["b", "a", "b", "c", "a"]) == [[0, 2], [1, 4], [3]]


def keys(order: JointOrder | Order, batches: int) -> list[list[Key]]:
    return list(islice(order, batches))


GROUPS = [[0, 3, 6, 9, 12, 15, 18], [1, 4], list(range(20, 41)), [2, 5, 7, 8, 10]]  # some smaller than a batch
OF = {index: number for number, each in enumerate(GROUPS) for index in each}


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 50])
def test_a_batch_is_of_one_group_and_a_sample_comes_once_an_epoch(batch: int) -> None:
    order, total = Order(GROUPS, batch, seed=2), sum(map(len, GROUPS))
    epochs = 60
    drawn = keys(order, sum(order.before(epochs)))
    assert all(len(each) == batch and len({OF[index] for _, index in each}) == 1 for each in drawn)
    flat = list(chain.from_iterable(drawn))
    assert len(set(flat)) == len(flat), "no (epoch, index) twice"
    for number, indices in enumerate(GROUPS):
        own = [key for key in flat if OF[key[1]] == number]
        assert len(own) == epochs * len(indices) // batch * batch, "less than a batch waits for the next epoch"
        whole = len(own) // len(indices)
        for epoch in range(whole):
            part = own[epoch * len(indices) : (epoch + 1) * len(indices)]
            assert sorted(part) == [(epoch, index) for index in sorted(indices)]
    assert len(flat) > epochs * total - len(GROUPS) * batch


def test_groups_are_mixed_within_an_epoch() -> None:
    order = Order([list(range(40)), list(range(40, 80))], 2, seed=3)
    kinds = [each[0][1] >= 40 for each in keys(order, 80)]
    assert kinds[:40].count(True) == kinds[40:].count(True) == 20
    assert kinds[:40] != kinds[40:] and 10 < sum(a != b for a, b in pairwise(kinds)) < 70


@pytest.mark.parametrize("number", [0, 1, 7, 33, 400])
@pytest.mark.parametrize("batch", [4, 50])
def test_a_grouped_order_goes_on_from_anywhere(number: int, batch: int) -> None:
    whole = keys(Order(GROUPS, batch, seed=1), number + 20)[number:]
    assert keys(Order(GROUPS, batch, seed=1, start=number * batch), 20) == whole
    assert keys(Order(GROUPS, batch, seed=1, start=number * batch + 3), 20) == whole, "from within a batch"
    assert keys(Order(GROUPS, batch, seed=2, start=number * batch), 20) != whole


@pytest.mark.parametrize("start", [0, 24])
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_batches_of_one(start: int, world: int) -> None:
    def split(make) -> bool:  # type: ignore[no-untyped-def]
        parts = [keys(make(rank, world), 30) for rank in range(world)]
        return [list(chain.from_iterable(each)) for each in zip(*parts, strict=True)] == keys(make(0, 1), 30)

    assert split(lambda rank, world: Order(GROUPS, 6, 5, rank, world, start))
    assert split(lambda rank, world: JointOrder((GROUPS, [[50, 51, 52]]), 0.3, 6, 5, rank, world, start))


@pytest.mark.parametrize("share", [0, 0.1, 0.2, 0.25, 0.3, 0.5, 0.7, 1])
def test_the_share_of_pictures_is_exact_over_a_period(share: float) -> None:
    pictures = [list(range(50, 57)), [60, 61]]
    drawn = keys(JointOrder((GROUPS, pictures), share, 4, seed=3), 200)
    shown = [each[0][1] >= 50 for each in drawn]
    for begin in range(0, 200, 20):
        assert sum(shown[begin : begin + 20]) == round(20 * share)
    assert all(abs(sum(shown[:m]) - m * share) < 1 for m in range(200))
    clips = [each for each, other in zip(drawn, shown, strict=True) if not other]
    assert clips == keys(Order(GROUPS, 4, seed=3), len(clips)), "clips come as without pictures"
    for m in (1, 13, 100):
        assert keys(JointOrder((GROUPS, pictures), share, 4, seed=3, start=4 * m), 50) == drawn[m : m + 50]


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="the dataset is empty"):
        Order([], 4)
    with pytest.raises(ValueError, match="the dataset is empty"):
        Order([[1], []], 4)
    with pytest.raises(ValueError, match="choose a multiple of 4"):
        Order([[1]], 6, world=4)
    with pytest.raises(ValueError, match=r"share is 1\.2"):
        JointOrder(([[1]], [[2]]), 1.2, 4)


def test_sizes_that_a_model_was_trained_on() -> None:
    buckets = [SQUARE, LONG, WIDE, TALL, WIDE.picture]
    assert [longest_of(buckets, size) for size in ((64, 64), (48, 80), (80, 48))] == [16, 8, 8]
    with pytest.raises(ValueError, match="size is 80x80; this model was trained on clips of 64x64, 48x80, 80x48: ask"):
        longest_of(buckets, (80, 80))
    assert nearest_size(buckets, 1080, 1920) == (48, 80) and nearest_size(buckets, 1000, 1100) == (64, 64)
    assert shrunk([WIDE], 4) == [Bucket(8, 12, 20)]
