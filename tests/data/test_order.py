from __future__ import annotations

import hashlib
from itertools import chain, islice

import pytest
import torch

from vidiff.data.order import Key, Order, seeded


def keys(order: Order, batches: int) -> list[Key]:
    return list(chain.from_iterable(islice(order, batches)))


@pytest.mark.parametrize(("length", "batch"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_sample_comes_once_an_epoch(length: int, batch: int) -> None:
    drawn = keys(Order([range(length)], batch, seed=3), 3 * length)
    for epoch in range(2):
        part = drawn[epoch * length : (epoch + 1) * length]
        assert sorted(part) == [(epoch, index) for index in range(length)]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    order = Order([range(100)], 10, seed=1)
    assert order.permutation(4) == Order([range(100)], 25, seed=1, start=50).permutation(4)
    assert order.permutation(4) != order.permutation(5)
    assert order.permutation(4) != Order([range(100)], 10, seed=2).permutation(4)
    assert Order([range(5)], 5, seed=0).permutation(0) == [1, 4, 2, 0, 3]  # for ever, or no run resumes after an update


@pytest.mark.parametrize("consumed", [0, 4, 8, 96])
def test_a_resumed_order_goes_on(consumed: int) -> None:
    whole = keys(Order([range(10)], 4), 40)
    assert keys(Order([range(10)], 4, start=consumed), 10) == whole[consumed : consumed + 40]


@pytest.mark.parametrize(
    ("length", "batch", "start", "digest"),
    [
        (10, 4, 0, "fb22ccdf593dde5c"),
        (7, 7, 12, "dd2c4071d9a8f28e"),
        (3, 8, 31, "ed3e2b078fee0264"),
        (11, 6, 5, "3f29200e11ec0ea2"),
        (100, 7, 998, "d4f96d879a9990fa"),
    ],
)
def test_one_group_is_drawn_as_runs_of_earlier_versions_were(length: int, batch: int, start: int, digest: str) -> None:
    """From within a batch as well, where the batch size was another before."""
    drawn = list(islice(Order([range(length)], batch, 5, start=start), 60))
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == digest
    whole = keys(Order([range(length)], 1, 5), start + 60 * batch)
    assert list(chain.from_iterable(drawn)) == whole[start:]


@pytest.mark.parametrize("start", [0, 24])
def test_ranks_share_the_batches_of_one(start: int) -> None:
    one = list(islice(Order([range(11)], 6, seed=5, start=start), 20))
    parts = [islice(Order([range(11)], 6, seed=5, rank=rank, world=3, start=start), 20) for rank in range(3)]
    assert [list(chain.from_iterable(batch)) for batch in zip(*parts, strict=True)] == one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0, "batch": 4}, "the dataset is empty"),
        ({"length": 5, "batch": 0}, "a batch of 0"),
        ({"length": 5, "batch": 6, "world": 4}, "a batch of 6 cannot be shared by 4 processes: choose a multiple of 4"),
        ({"length": 5, "batch": 4, "start": -4}, "starts at sample -4"),
        ({"length": 5, "batch": 4, "rank": 2, "world": 2}, "rank is 2; expected 0 to 1"),
    ],
)
def test_mistakes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order([range(arguments.pop("length"))], **arguments)


def test_seeded_tells_numbers_apart() -> None:
    draws = {tuple(torch.randint(0, 1 << 30, (4,), generator=seeded(*n)).tolist()) for n in [(1, 11), (11, 1), (111,)]}
    assert len(draws) == 3
