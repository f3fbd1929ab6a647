"""The network's structure, each part against what it is said to be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from networks import SMALL, build, inputs

from vidiff.diffusion.condition import Condition
from vidiff.nn.blocks import Attention, Modulation, ResBlock, Upsample, normalise
from vidiff.nn.embed import Embedding, sinusoidal
from vidiff.nn.unet import UNet

SPATIAL = replace(SMALL, spatial_attention=[0, 1], temporal_attention=[], joint_attention=[])


def forget_time(network: UNet) -> UNet:
    """Temporal convolutions become the identity."""
    for block in network.modules():
        if isinstance(block, ResBlock):
            torch.nn.init.zeros_(block.time.bias)
            torch.nn.init.zeros_(block.time.weight)
            with torch.no_grad():
                channels = range(block.time.out_channels)
                block.time.weight[channels, channels, 1, 0] = 1.0
    return network


@pytest.mark.parametrize("modulation", ["film", "adain"])
def test_without_time_a_clip_is_its_frames_one_by_one(modulation: str) -> None:
    config = replace(SPATIAL, modulation=modulation)
    network = forget_time(build(config))
    x, clock = inputs(config)
    together = network(x, clock, Condition())
    for sample in range(2):
        for frame in range(3):
            part = (slice(sample, sample + 1), slice(None), slice(frame, frame + 1))
            alone = network(x[part], clock[part], Condition())
            torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-5)


def test_temporal_convolution_is_a_convolution_over_frames() -> None:
    block = ResBlock(4, 4, 8, "film").eval()
    torch.nn.init.zeros_(block.space.weight)
    impulse = torch.zeros(5, 4, 2, 2)
    torch.nn.init.ones_(block.modulate_time.project.bias)  # a shift that silu passes
    emb = torch.zeros(5, 8)
    steady = block(impulse, emb, 5)
    kernel = block.time.weight[:, :, :, 0]
    value = torch.nn.functional.silu(block.modulate_time(block.space(impulse), emb))[0, :, 0, 0]
    middle = block.time.bias + sum(kernel[:, :, i] @ value for i in range(3))
    first = block.time.bias + sum(kernel[:, :, i] @ value for i in (1, 2))  # nothing before the first frame
    torch.testing.assert_close(steady[2, :, 0, 0], middle)
    torch.testing.assert_close(steady[0, :, 1, 1], first)


def test_samples_of_a_batch_do_not_mix() -> None:
    network = build(SMALL)
    x, clock = inputs(SMALL)
    both = network(x, clock, Condition())
    torch.testing.assert_close(both[1:], network(x[1:], clock[1:], Condition()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["temporal_attention", "joint_attention", "convolution"])
def test_each_temporal_part_alone_carries_a_change_to_other_frames(part: str) -> None:
    """And without any of them nothing gets there: so each is connected, and nothing else leaks."""
    config = SPATIAL if part == "convolution" else replace(SPATIAL, **{part: [1]})
    network = build(config)
    if part != "convolution":
        forget_time(network)
    x, clock = inputs(config)
    changed = x.clone()
    changed[:, :, 0] += 1
    difference = (network(changed, clock, Condition()) - network(x, clock, Condition())).abs().amax((0, 1, 3, 4))
    assert (difference > 1e-4).all()
    forget_time(network)
    if part == "convolution":
        difference = (network(changed, clock, Condition()) - network(x, clock, Condition())).abs().amax((0, 1, 3, 4))
        assert difference[0] > 1e-4 and not difference[1:].any()


def test_a_second_convolution_begins_as_nothing_and_is_learned() -> None:
    """A network that gets one is the network that it was; from the next step on it sees a pixel further."""
    before, after = build(SMALL), UNet(replace(SMALL, spatial_convs=2)).eval()
    missing, unexpected = after.load_state_dict(before.state_dict(), strict=False)
    assert not unexpected and all("second" in key for key in missing)
    x, clock = inputs(SMALL)
    assert torch.equal(before(x, clock, Condition()), after(x, clock, Condition()))
    optimizer = torch.optim.SGD(after.parameters(), 0.1)
    for learned in (("second.weight",), ("second.weight", "modulate_second.project.weight")):
        optimizer.zero_grad()
        after(x, clock, Condition()).square().mean().backward()
        reached = {key: p.grad for key, p in after.named_parameters() if key.endswith(learned)}
        assert len(reached) == 7 * len(learned) and all(g is not None and g.any() for g in reached.values())
        optimizer.step()


@pytest.mark.parametrize(("convs", "reach"), [(1, 1), (2, 2)])
def test_convolutions_of_a_block_see_as_far_as_their_number(convs: int, reach: int) -> None:
    torch.manual_seed(0)
    block = ResBlock(4, 4, 8, "film", spatial_convs=convs).eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x, emb = torch.randn(1, 4, 9, 9, requires_grad=True), torch.randn(1, 8)
    block(x, emb, 1)[0, :, 4, 4].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum((0, 1)).nonzero()
    assert (seen.amin(0).tolist(), seen.amax(0).tolist()) == ([4 - reach] * 2, [4 + reach] * 2)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 4, 4), (7, 4, 4), (3, 8, 2), (5, 10, 6)])
def test_other_lengths_and_sizes_work(frames: int, height: int, width: int) -> None:
    network = build(SMALL)
    x, clock = inputs(SMALL, frames, height, width)
    found = network(x, clock, Condition())
    assert found.shape == x.shape and found.isfinite().all()


def test_a_network_says_nothing_before_it_is_trained() -> None:
    x, clock = inputs(SMALL)
    assert not UNet(SMALL)(x, clock, Condition()).any()


def test_recomputed_activations_give_the_same_gradients() -> None:
    gradients = []
    for levels in ([], [0, 1]):
        torch.manual_seed(0)
        network = build(replace(SMALL, checkpoint=levels, labels=2, dropout=0.3)).train()
        x, clock = inputs(SMALL)
        torch.manual_seed(5)  # of the dropout, which is drawn again when it is recomputed
        network(x, clock, Condition(label=torch.tensor([0, 1]))).square().sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert torch.equal(gradient, gradients[1][name]), name


# The clock


def test_the_clock_of_a_voxel_is_felt_there_first() -> None:
    """Changed within a frame so that the frame's mean stays, it reaches the network as the input channel alone."""
    network = forget_time(build(replace(SPATIAL, spatial_attention=[], blocks=[1, 1])))
    x, clock = inputs(SMALL, height=32, width=32)
    changed = clock.clone()
    changed[0, 0, 1, 4, 4] += 3
    changed[0, 0, 1, 5, 5] -= 3
    difference = (network(x, changed, Condition()) - network(x, clock, Condition())).abs().amax(1)  # b f h w
    assert difference[0, 1, 4, 4] > 1e-4
    assert difference[0, 1, 4, 4] > 10 * difference[0, 1, 28, 28]
    assert not difference[1].any() and difference[0, [0, 2]].max() < 1e-6


def test_the_clock_of_a_frame_is_felt_in_all_of_it() -> None:
    network = forget_time(build(replace(SPATIAL, spatial_attention=[])))
    x, clock = inputs(SMALL, height=16, width=16)
    changed = clock.clone()
    changed[0, 0, 1] += 3
    difference = (network(x, changed, Condition()) - network(x, clock, Condition())).abs().amax(1)
    assert (difference[0, 1] > 0).all()
    assert not difference[1].any() and not difference[0, 0].any() and not difference[0, 2].any()


def test_labels_and_strides_are_told_apart_and_none_is_one_of_them() -> None:
    embedding = Embedding(8, labels=2, strided=True)
    clock = torch.zeros(4, 3)
    label = torch.tensor([-1, 0, 1, -1])
    found = embedding(clock, Condition(label=label))  # b f dim
    assert torch.equal(found[0], found[3]) and torch.equal(found[0], embedding(clock, Condition())[0])
    assert len(found[:, 0].unique(dim=0)) == 3
    stride = Condition(stride=torch.tensor([1, 2, 4, 1]))
    assert torch.equal(embedding(clock, stride), embedding(clock, Condition())), "it says nothing until it is trained"
    assert embedding.stride is not None
    torch.nn.init.normal_(embedding.stride[-1].weight)
    strided = embedding(clock, stride)
    assert len(strided[:, 0].unique(dim=0)) == 3 and torch.equal(strided[0], strided[3])
    torch.testing.assert_close(found[:, :1].expand_as(found), found)  # the clock being the same in every frame


# Normalisation and modulation


def test_film_normalises_each_voxel_and_adain_each_channel() -> None:
    x = 3 * torch.randn(2, 16, 4, 5) + 1
    for kind, dims in (("film", (1,)), ("adain", (2, 3))):
        found = normalise(x, kind)
        mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
        torch.testing.assert_close(found, (x - mean) / (variance + 1e-5).sqrt())
        torch.testing.assert_close(found.mean(dims), torch.zeros_like(mean.squeeze(dims)), atol=1e-6, rtol=0)
        torch.testing.assert_close(
            found.std(dims, correction=0), torch.ones_like(mean.squeeze(dims)), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("kind", ["film", "adain"])
def test_modulation_scales_and_shifts_frame_by_frame(kind: str) -> None:
    layer = Modulation(3, 2, kind)
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(layer(x, torch.randn(2, 2)), normalise(x, kind))  # neutral before training
    with torch.no_grad():
        layer.project.weight.copy_(torch.randn(6, 2))
    emb = torch.randn(2, 2)
    scale, shift = (emb @ layer.project.weight.T).chunk(2, dim=1)
    expected = normalise(x, kind) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(layer(x, emb), expected)


def test_upsample_splits_each_voxel_into_its_own_square() -> None:
    layer = Upsample(2, 3)
    x = torch.zeros(1, 2, 2, 2)
    x[0, :, 1, 0] = 1.0
    changed = (layer(x) - layer(torch.zeros_like(x))).abs().sum((0, 1)) > 0  # 4 4
    assert changed.nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]


def test_sinusoids_are_those_of_the_paper() -> None:
    angles = torch.tensor([3.0, 0.03])  # 3 / 10000^(2i / 4) for i = 0, 1
    torch.testing.assert_close(sinusoidal(torch.tensor([3.0]), 4)[0], torch.cat([angles.sin(), angles.cos()]))


# Mistakes


@pytest.mark.parametrize("label", [2, -2])
def test_a_label_out_of_range_is_named(label: int) -> None:
    network = build(replace(SMALL, labels=2))
    x, clock = inputs(SMALL)
    with pytest.raises(ValueError, match=rf"\[0, {label}\] is outside 0 to 1"):
        network(x, clock, Condition(label=torch.tensor([0, label])))


@pytest.mark.parametrize(("height", "width"), [(5, 4), (4, 7)])
def test_a_size_that_does_not_halve_is_named(height: int, width: int) -> None:
    x, clock = inputs(SMALL, height=height, width=width)
    with pytest.raises(ValueError, match=f"halves {height}x{width} 1 times: both must divide by 2"):
        build(SMALL)(x, clock, Condition())


def test_a_patch_is_folded_into_channels_and_unfolded() -> None:
    """A network on patches is one without them on pixels that are already folded."""
    folded = replace(SPATIAL, patch=2)
    network, plain = build(folded), build(replace(SPATIAL, channels=4 * SMALL.channels))
    with torch.no_grad():  # the clock comes once for each place of a patch
        weight = network.enter.weight
        state = {key: value for key, value in network.state_dict().items() if key != "enter.weight"}
        state["enter.weight"] = torch.cat([weight[:, :-4], weight[:, -4:].sum(1, keepdim=True)], dim=1)
        plain.load_state_dict(state)
    x, clock = inputs(folded, height=8, width=12)
    clock = clock[..., ::2, ::2].repeat_interleave(2, 3).repeat_interleave(2, 4)
    small = rearrange(x, "b c f (h p) (w q) -> b (c p q) f h w", p=2, q=2)
    expected = rearrange(
        plain(small, clock[..., ::2, ::2], Condition()), "b (c p q) f h w -> b c f (h p) (w q)", p=2, q=2
    )
    found = network(x, clock, Condition())
    assert found.shape == x.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_noise_of_the_low_resolution_is_told_and_none_is_the_least() -> None:
    config = replace(SMALL, lowres_channels=2)
    network = build(config)
    x, clock = inputs(config)
    low = torch.randn_like(x)
    with torch.no_grad():
        found = [
            network(x, clock, Condition(lowres=low, lowres_log_snr=None if level is None else torch.tensor(level)))
            for level in (None, [20.0, 20.0], [20.0, 3.0])
        ]
        other = network(x, clock, Condition(lowres=-low))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[1][0], found[2][0])
    assert (found[1][1] - found[2][1]).abs().max() > 1e-3
    assert (found[0] - other).abs().max() > 1e-3


def test_a_missing_low_resolution_video_is_named() -> None:
    x, clock = inputs(SMALL)
    with pytest.raises(ValueError, match="lowres is missing"):
        build(replace(SMALL, lowres_channels=3))(x, clock, Condition())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": [1]}, "unet.blocks has 1 numbers, unet.multipliers 2"),
        ({"blocks": [1, 0]}, "one a level, 1 or more"),
        ({"multipliers": [], "blocks": []}, "unet.multipliers is []"),
        ({"multipliers": [1, 0]}, "unet.multipliers"),
        ({"width": 0}, "unet.width is 0"),
        ({"joint_attention": [2]}, "unet.joint_attention names level 2, but multipliers give levels 0 to 1"),
        ({"checkpoint": [-1]}, "unet.checkpoint names level -1"),
        ({"modulation": "none"}, "'none'; choose film or adain"),
        ({"attention_backend": "flash"}, "'flash'; choose auto, sdpa, xformers, plain"),
        ({"fused": "cuda"}, "'cuda'; choose auto, plain, triton"),
        ({"head_dim": 3}, "8 channels do not divide into heads of 3"),
        ({"head_dim": 0}, "heads of 0"),
        ({"temporal_attention": [0], "width": 5, "head_dim": 64}, "5 channels do not divide into heads of 5"),
        ({"dropout": 1.0}, "unet.dropout is 1.0"),
        ({"spatial_convs": 3}, "unet.spatial_convs is 3; give 1 or 2"),
    ],
)
def test_a_config_that_builds_no_network_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(SMALL, **change).validate()
    assert message in str(caught.value)


def test_an_unknown_axis_or_modulation_is_named() -> None:
    with pytest.raises(ValueError, match="'depth'; choose space, time, joint"):
        Attention(8, "depth", 4)
    with pytest.raises(ValueError, match="'batch'; choose film or adain"):
        Modulation(8, 4, "batch")


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_of_kernels_lie_as_kernels_do(precision: torch.dtype) -> None:
    """Pointwise ones too, or DistributedDataParallel copies each with a warning."""
    network = build(SMALL)
    x, clock = inputs(SMALL)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        loss = network(x, clock, Condition()).square().sum()
    loss.backward()
    kernels = {name: p for name, p in network.named_parameters() if p.ndim == 4}
    assert any(p.shape[2:] == (1, 1) for p in kernels.values())
    for name, p in kernels.items():
        assert p.grad is not None and p.grad.stride() == p.stride(), name
