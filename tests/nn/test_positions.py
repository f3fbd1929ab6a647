"""Attention in the network: positions tell how far and not where, and clocks which tokens are clean."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import SMALL, build, inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidiff.diffusion.condition import Condition
from vidiff.nn import blocks
from vidiff.nn.attention import plain
from vidiff.nn.blocks import Attention
from vidiff.nn.embed import rotary, rotate, turn_by


@pytest.mark.parametrize("sizes", [(9,), (3, 4), (2, 3, 4)])
def test_rotated_products_depend_on_differences_of_positions_alone(sizes: tuple[int, ...]) -> None:
    dim = 12
    angles = rotary(sizes, dim, torch.device("cpu"))
    assert angles.shape == (torch.tensor(sizes).prod(), dim // 2)
    q, k = torch.randn(2, dim)
    tokens = len(angles)
    turned = [rotate(x.expand(1, tokens, dim), turn_by(angles, real=False).there)[0] for x in (q, k)]
    products = turned[0] @ turned[1].T  # n n
    places = torch.cartesian_prod(*map(torch.arange, sizes)).view(tokens, -1)
    seen: dict[tuple[int, ...], Tensor] = {}
    for i in range(tokens):
        for j in range(tokens):
            difference = tuple((places[i] - places[j]).tolist())
            torch.testing.assert_close(products[i, j], seen.setdefault(difference, products[i, j]))
    values = torch.stack(list(seen.values()))
    assert len(values.round(decimals=4).unique()) == len(seen), "each difference weighs differently"
    torch.testing.assert_close(turned[0].norm(dim=-1), q.norm().expand(tokens))  # nothing but turned


def test_the_first_token_is_not_turned() -> None:
    x = torch.randn(2, 3, 4)
    found = rotate(x, turn_by(rotary((3,), 4, x.device), real=False).there)
    assert torch.equal(found[:, 0], x[:, 0]) and not torch.equal(found[:, 1], x[:, 1])


def test_rotation_in_reals_is_the_rotation() -> None:
    x, angles = torch.randn(2, 3, 12, 8), rotary((3, 4), 8, torch.device("cpu"))
    ways = [turn_by(angles, real) for real in (False, True)]
    turned = [[rotate(x, turn) for turn in way] for way in ways]
    torch.testing.assert_close(turned[1], turned[0], rtol=0, atol=1e-6)
    for way, (there, _) in zip(ways, turned, strict=True):
        torch.testing.assert_close(rotate(there, way.back), x)
        assert torch.equal(rotate(x[:, :, -4:], way.last(4).there), there[:, :, -4:])


@pytest.mark.parametrize("checkpoint", [[], [0, 1]])
def test_positions_that_a_network_has_ready_are_those_of_each_layer(
    checkpoint: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, made once for each kind of attention of a level."""
    torch.manual_seed(0)
    config = replace(SMALL, blocks=[2, 2], checkpoint=checkpoint)
    network = build(config)
    x, clock = inputs(config)
    made, real = [], blocks.rotary
    monkeypatch.setattr(blocks, "rotary", lambda *given: made.append(given[0]) or real(*given))
    expected = network(x, clock, Condition())
    assert len(made) == sum(len(config.attention(level)) for level in range(len(config.multipliers)))
    for stage in (*network.down, network.middle, *network.up):
        for layer in stage.attention:
            own = layer.forward
            monkeypatch.setattr(layer, "forward", lambda x, snr, n, cache, turn, own=own: own(x, snr, n, cache))
    assert torch.equal(network(x, clock, Condition()), expected)


@pytest.mark.parametrize("axis", ["space", "time", "joint"])
def test_no_complex_number_is_met_on_a_gpu(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler fuses none there."""
    seen: set[torch.dtype] = set()

    class Types(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            seen.update(x.dtype for x in tree_leaves(result) if isinstance(x, Tensor))
            return result

    layer, x, clock = Attention(16, axis, 8), torch.randn(6, 16, 4, 4), torch.zeros(6, 1, 4, 4)
    expected = layer(x, clock, 3)
    monkeypatch.setattr(blocks, "turn_by", lambda angles, real: turn_by(angles, real=True))
    with Types():
        result = layer(x, clock, 3)
    assert torch.float32 in seen and not any(dtype.is_complex for dtype in seen)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_temporal_attention_knows_how_far_and_not_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal frames have attention logits that are constant along diagonals."""
    caught: list[Tensor] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, backend: str, mask: Tensor | None) -> Tensor:
        caught.append(torch.einsum("bihd,bjhd->bhij", q, k))
        return plain(q, k, v)

    monkeypatch.setattr(blocks, "attention", spy)
    layer = Attention(8, "time", 4)
    frames = 7
    x = torch.randn(1, 8, 2, 2).expand(frames, 8, 2, 2).contiguous()
    layer(x, torch.zeros(frames, 1, 2, 2), frames)
    logits = caught[0]  # (b h w) heads f f
    torch.testing.assert_close(logits[:, :, 1:, 1:], logits[:, :, :-1, :-1])
    assert logits[0, 0, 0].std() > 1e-3, "yet distance counts"


def test_a_moved_event_moves_the_output_of_temporal_attention() -> None:
    """Wherever a short event stands among frames of nothing, the frames around it see the same."""
    layer = Attention(8, "time", 4)
    torch.nn.init.zeros_(layer.qkv.bias)  # so that nothing is nothing
    event = torch.randn(2, 8, 1, 1)

    def around(place: int) -> Tensor:
        x = torch.zeros(12, 8, 1, 1)
        x[place : place + 2] = event
        return layer(x, torch.zeros(12, 1, 1, 1), 12)[place - 1 : place + 3]

    torch.testing.assert_close(around(2), around(7))


def test_what_is_read_tells_how_far_away_it_was() -> None:
    """With attention even over all frames, a frame still reads the one event differently from each distance."""
    layer = Attention(8, "time", 8)
    with torch.no_grad():
        layer.sharpness.zero_()  # logits are 0
        layer.preference.zero_()
        layer.qkv.bias.zero_()  # so that nothing is nothing
    x = torch.zeros(6, 8, 1, 1)
    x[2] = torch.randn(8, 1, 1)
    change = (layer(x, torch.zeros(6, 1, 1, 1), 6) - x).flatten(1)
    assert torch.cdist(change, change).add(torch.eye(6)).min() > 1e-4
    apart = [change[i] for i in (0, 1, 3, 4, 5)]
    moved = (layer(x.roll(1, 0), torch.zeros(6, 1, 1, 1), 6) - x.roll(1, 0)).flatten(1)
    for place, one in zip((1, 2, 4, 5), apart, strict=False):
        torch.testing.assert_close(moved[place], one)


def test_heads_prefer_cleaner_tokens_and_equal_clocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Tensor] = []

    def spy(q: Tensor, k: Tensor, v: Tensor, backend: str, mask: Tensor | None) -> Tensor:
        caught.append(torch.einsum("bihd,bjhd->bhij", q, k).mul(q.shape[-1] ** -0.5).softmax(-1))
        return plain(q, k, v)

    monkeypatch.setattr(blocks, "attention", spy)
    layer = Attention(8, "time", 4)
    x, clock = torch.randn(4, 8, 1, 1), torch.full((4, 1, 1, 1), -6.0)
    even = layer(x, clock, 4)
    torch.testing.assert_close(layer(x, clock + 9, 4), even)
    clock[1] = 20.0
    layer(x, clock, 4)
    before, after = caught[0][0], caught[2][0]  # heads f f
    assert (after[0, :, 1] > 0.9).all(), "the first head starts with a preference"
    torch.testing.assert_close(after[1], before[1])  # the second does not


@pytest.mark.parametrize(("axis", "reached"), [("space", 1 * 4), ("time", 3 * 1), ("joint", 3 * 4)])
def test_each_attention_reaches_along_its_axis_alone(axis: str, reached: int) -> None:
    layer = Attention(4, axis, 4).eval()
    x = torch.randn(3, 4, 2, 2)  # one clip of 3 frames
    changed, clock = x.clone(), torch.zeros(3, 1, 2, 2)
    changed[1, :, 0, 1] += torch.randn(4)
    difference = (layer(changed, clock, 3) - layer(x, clock, 3)).abs().amax(1)  # f h w
    assert int((difference > 1e-7).sum()) == reached
