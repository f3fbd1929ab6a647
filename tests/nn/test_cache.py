"""Causal networks: no frame sees one after it, and frames one by one with a cache are the video at once without."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.nn.attention import attention, plain
from vidiff.nn.blocks import Attention, ResBlock, Told
from vidiff.nn.cache import MOST_TOLD, Cache, looks_back
from vidiff.nn.unet import UNet, UNetConfig

SMALL = UNetConfig(
    channels=2,
    width=8,
    multipliers=[1, 2],
    blocks=[1, 1],
    head_dim=4,
    spatial_attention=[0],
    temporal_attention=[0],
    joint_attention=[1],
    causal=True,
)


def build(config: UNetConfig) -> UNet:
    """A network in which every part matters: what starts at zero is drawn, too."""
    torch.manual_seed(0)
    network = UNet(config)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    return network.eval()


def inputs(frames: int, config: UNetConfig = SMALL, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Clips, and a clock that differs from voxel to voxel."""
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(batch, config.channels, frames, 4, 4, generator=generator)
    return x, 4 * torch.randn(batch, 1, frames, 4, 4, generator=generator)


def in_pieces(network: UNet, x: Tensor, clock: Tensor, cuts: list[int], cache: Cache, condition: Condition) -> Tensor:
    """What a network says of a video that comes piece by piece."""
    cache = cache.copy(grows=True)
    parts = [
        network(x[:, :, a:b], clock[:, :, a:b], condition.at(range(a, b)), cache)
        for a, b in pairwise([0, *cuts, x.shape[2]])
    ]
    return torch.cat(parts, dim=2)


# No frame sees one after it


@pytest.mark.parametrize("layer", ["convolution", "time", "joint"])
def test_no_layer_looks_ahead_and_each_looks_back(layer: str) -> None:
    torch.manual_seed(0)
    module = ResBlock(8, 8, 16, "film", causal=True) if layer == "convolution" else Attention(8, layer, 4, causal=True)
    x, clock, emb = torch.randn(5, 8, 2, 2), torch.randn(5, 1, 2, 2), torch.randn(5, 16)

    def run(x: Tensor, clock: Tensor) -> Tensor:
        return module(x, emb, 5) if isinstance(module, ResBlock) else module(x, clock, 5)

    wanted = run(x, clock)
    for frame in range(5):
        changed = [part.clone() for part in (x, clock)]
        changed[0][frame] += 1
        changed[1][frame] += 1
        found = run(*changed)
        assert torch.equal(found[:frame], wanted[:frame])
        reach = frame + 3 if layer == "convolution" else 5
        assert all(not torch.equal(a, b) for a, b in zip(found[frame:reach], wanted[frame:reach], strict=False))
        assert torch.equal(found[reach:], wanted[reach:])


OPTIONS = {  # each with every other
    "attention": [
        {},
        {"temporal_attention": [], "joint_attention": []},
        {"spatial_attention": [0, 1], "temporal_attention": [0, 1], "joint_attention": [], "spatial_convs": 2},
        {"spatial_attention": [], "temporal_attention": [], "joint_attention": [0, 1]},
    ],
    "modulation": [{}, {"modulation": "adain"}],
    "told": [{}, {"labels": 3, "strided": True, "text_dim": 6, "words": 5, "lowres_channels": 2}],
    "shape": [{}, {"patch": 2, "multipliers": [1, 2], "variance": True}, {"previous": True}],
}


@pytest.mark.parametrize("number", range(48))
def test_no_frame_depends_on_a_later_one_whatever_the_options(number: int) -> None:
    chosen = list(product(*OPTIONS.values()))[number]
    config = SMALL
    for change in chosen:
        config = replace(config, **change)
    network, (x, clock) = build(config), inputs(4, config)
    low = torch.randn(2, 2, 4, 4, 4)
    told = Condition(torch.tensor([0, 2]), torch.tensor([[1, 2], [3, 4]]), stride=torch.tensor([1, 2]), lowres=low)
    condition = told if config.labels else Condition()
    wanted = network(x, clock, condition)
    for frame in range(1, 4):
        now = replace(condition, lowres=low.clone()) if config.labels else condition
        changed = [x.clone(), clock.clone(), *([now.lowres] if now.lowres is not None else [])]
        for part in changed:
            part[:, :, frame:] += torch.randn(part[:, :, frame:].shape)
        found = network(changed[0], changed[1], now)
        assert torch.equal(found[:, :, :frame], wanted[:, :, :frame])
        assert not torch.isclose(found[:, :, frame:], wanted[:, :, frame:]).all(dim=(0, 1, 3, 4)).any()


def test_every_frame_is_learned_from_and_recomputed_alike() -> None:
    gradients = []
    for levels in ([], [0, 1]):
        network, (x, clock) = build(replace(SMALL, checkpoint=levels)).train(), inputs(4)
        x.requires_grad_()
        network(x, clock, Condition())[:, :, 1].square().sum().backward()
        assert x.grad is not None and x.grad[:, :, :2].abs().amax((1, 3, 4)).min() > 0 and not x.grad[:, :, 2:].any()
        gradients.append([x.grad, *(parameter.grad for parameter in network.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)


# Frames with a cache are the video without


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [2, 4, 6], [5]])
@pytest.mark.parametrize("attention", range(4))
@pytest.mark.parametrize("previous", [False, True])
def test_a_video_in_pieces_is_the_video(cuts: list[int], attention: int, previous: bool) -> None:
    config = replace(SMALL, labels=2, previous=previous, **OPTIONS["attention"][attention])
    network, (x, clock) = build(config), inputs(7, config)
    condition = Condition(label=torch.tensor([0, 1]))
    with torch.no_grad():
        wanted = network(x, clock, condition)
        found = in_pieces(network, x, clock, cuts, Cache(7), condition)
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
        again = in_pieces(network, x, clock + 1, cuts, Cache(7), condition)
    assert (again - wanted).abs().amax() > 1e-2, "the clock at which a frame was shown counts"


@pytest.mark.parametrize("cuts", [list(range(1, 12)), [3, 6, 9], [1, 7], [2]])
@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("previous", [False, True])
def test_a_window_is_a_mask_whatever_the_pieces(cuts: list[int], window: int, previous: bool) -> None:
    """At once, with an empty cache, each frame is masked to its window."""
    network, (x, clock) = build(replace(SMALL, previous=previous)), inputs(12)
    with torch.no_grad():
        wanted = network(x, clock, Condition(), Cache(window))
        found = in_pieces(network, x, clock, cuts, Cache(window), Condition())
        whole = network(x, clock, Condition())
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(wanted[:, :, : window + 1], whole[:, :, : window + 1])
    assert not torch.isclose(wanted[:, :, window + 1 :], whole[:, :, window + 1 :]).all(dim=(0, 1, 3, 4)).any()


@pytest.mark.parametrize("axis", ["time", "joint"])
@pytest.mark.parametrize(("window", "sinks"), [(3, 0), (2, 2), (4, 1)])
def test_a_frame_reads_the_first_and_the_last_right_before_it(axis: str, window: int, sinks: int) -> None:
    """As if no others had ever been: so no distance grows with the length of a stream."""
    torch.manual_seed(0)
    layer, cache = Attention(8, axis, 4, causal=True).eval(), Cache(window, sinks).copy(grows=True)
    x, clock = torch.randn(2, 12, 8, 2, 2), torch.randn(2, 12, 1, 2, 2)
    with torch.no_grad():
        for frame in range(12):
            found = layer(x[:, frame], clock[:, frame], 1, cache)
            seen = [i for i in range(frame + 1) if i < sinks or frame - i <= window]
            alone = layer(x[:, seen].flatten(0, 1), clock[:, seen].flatten(0, 1), len(seen))
            torch.testing.assert_close(found, alone.unflatten(0, (2, -1))[:, -1], atol=1e-5, rtol=1e-5)


def test_masks_are_what_they_are_said_to_be() -> None:
    device = torch.device("cpu")
    for new, frames, area, cache in product((1, 2, 5), (5, 7), (1, 3), (None, Cache(2), Cache(1, 2))):
        mask = looks_back(new, frames, area, cache, device)
        assert mask.shape == (1, new * area, frames * area)
        for row, column in product(range(new * area), range(frames * area)):
            own, other = frames - new + row // area, column // area
            kept = cache is None or own - other <= cache.window or other < cache.sinks
            assert bool(mask[0, row, column]) == (other <= own and kept)


@pytest.mark.parametrize("backend", ["sdpa", "plain", "auto"])
def test_backends_agree_on_masks_of_queries(backend: str) -> None:
    q, k, v = torch.randn(3, 5, 6, 2, 8)
    mask = looks_back(2, 2, 3, None, q.device)
    found = attention(q, k, v, backend, mask)
    torch.testing.assert_close(found, plain(q, k, v, mask))
    torch.testing.assert_close(found[:, :3], plain(q[:, :3], k[:, :3], v[:, :3]))


# The record


def test_a_record_holds_as_much_at_frame_50_as_at_frame_2000() -> None:
    network, cache, sizes = build(replace(SMALL, labels=2)), Cache(6, 2).copy(grows=True), {}
    x, clock = inputs(10)
    condition = Condition(label=torch.tensor([0, 1]))
    with torch.no_grad():
        for frame in range(10, 2001, 10):
            found = network(x, clock, condition, cache)
            sizes[frame] = cache.bytes
    assert found.isfinite().all()
    assert sizes[50] == sizes[2000] > 0
    attentions = [layer for layer in network.modules() if isinstance(layer, Attention) and layer.causal]
    blocks = [layer for layer in network.modules() if isinstance(layer, ResBlock)]
    area = {8: 4 * 4, 16: 2 * 2}  # voxels of a frame, by the width of a level
    kept = sum(2 * 8 * 2 * layer.qkv.in_channels * area[layer.qkv.in_channels] for layer in attentions)
    kept += sum(2 * 2 * layer.time.in_channels * area[layer.time.in_channels] for layer in blocks)
    assert sizes[50] == 4 * kept, "keys and values of eight frames, and two of what convolutions were given, of 2 clips"


def test_a_copy_leaves_its_record_as_it_is() -> None:
    network, (x, clock) = build(SMALL), inputs(4)
    with torch.no_grad():
        first = Cache(4).copy(grows=True)
        network(x[:, :, :2], clock[:, :, :2], Condition(), first)
        kept = first.copy()
        rest = (x[:, :, 2:], clock[:, :, 2:], Condition())
        wanted, size = network(*rest, kept), kept.bytes
        network(*rest, kept.copy(grows=True))
        assert kept.bytes == size
        assert torch.equal(network(*rest, kept), wanted), "what does not grow may be asked again"
        alone = network(*(part[:1] for part in rest[:2]), Condition(), kept)
    torch.testing.assert_close(alone, wanted[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_what_is_told_again_is_made_once(dtype: torch.dtype) -> None:
    cache, emb = Cache(2), torch.randn(3, 4).to(dtype)
    made = cache.told(emb, Told)
    assert cache.told(emb.clone(), Told) is made and cache.copy().told(emb, Told) is made
    others = [cache.told(emb + 1 + number, Told) for number in range(MOST_TOLD)]
    assert others[-1] is cache.told(emb + MOST_TOLD, Told)
    assert cache.told(emb, Told) is not made, "the oldest is forgotten"
    asked = emb.clone().requires_grad_()
    assert cache.told(asked, Told) is asked


def test_a_network_that_is_told_nothing_but_clocks_streams_in_bf16() -> None:
    """Nothing of fp32 is then added to the embedding."""
    network, (x, clock) = build(SMALL), inputs(6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        whole = network(x, clock, Condition())
        cache = Cache(6).copy(grows=True)
        parts = [network(x[:, :, at], clock[:, :, at], Condition(), cache) for at in (slice(0, 4), slice(4, 6))]
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=0.05, rtol=0.05)


def test_of_a_call_the_first_frames_may_be_added_alone() -> None:
    """What is added is what would be without the others, and those are what they would be in a call of their own."""
    network, (x, clock) = build(SMALL), inputs(9)
    with torch.no_grad():
        alone = Cache(3).copy(grows=True)
        network(x[:, :, :5], clock[:, :, :5], Condition(), alone)
        some = alone.copy(grows=True, finished=2)
        both = network(x[:, :, 5:], clock[:, :, 5:], Condition(), some)
        alone.grows = True
        first = network(x[:, :, 5:7], clock[:, :, 5:7], Condition(), alone)
        rest = (x[:, :, 7:], clock[:, :, 7:], Condition())
        last = network(*rest, alone.copy())
        assert some.bytes == alone.bytes
        torch.testing.assert_close(network(*rest, some.copy()), last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, :, :2], first, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[:, :, 2:], last, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_kept_is_refused() -> None:
    x, clock = inputs(2)
    with pytest.raises(ValueError, match=r"looks ahead, so frames cannot be kept for it: set unet\.causal=true"):
        build(replace(SMALL, causal=False))(x, clock, Condition(), Cache(2))
    for window, sinks in ((0, 0), (3, -1)):
        with pytest.raises(ValueError, match=f"window is {window} and sinks {sinks}"):
            Cache(window, sinks)
