"""Text in the network: what is dropped or padded is not seen, and what is seen matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import SMALL, build
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.nn.attention import attention, plain, sdpa
from vidiff.nn.text import CrossAttention, TextInput
from vidiff.nn.unet import UNet, UNetConfig

EMBEDDED, WORDS = replace(SMALL, text_dim=6), replace(SMALL, text_dim=6, words=5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text(config: UNetConfig, batch: int = 3, length: int = 4, seed: int = 2) -> Tensor:
    if config.words:
        return torch.randint(0, config.words, (batch, length), generator=torch.Generator().manual_seed(seed))
    return draw(batch, length, config.text_dim, seed=seed)


def mask(*lengths: int, longest: int = 4) -> Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


def run(network: UNet, condition: Condition, rows: slice = slice(None)) -> Tensor:
    x, clock = draw(3, 2, 2, 4, 4, seed=3), draw(3, 1, 2, 4, 4, seed=4)
    with torch.no_grad():
        return network(x[rows], clock[rows], condition)


@pytest.mark.parametrize("config", [EMBEDDED, WORDS])
def test_without_text_the_tokens_are_not_seen(config: UNetConfig) -> None:
    """Dropped text is the same bits, whatever it was; it equals none at all, and text does not."""
    network = build(config)
    dropped = [run(network, Condition(text=text(config, seed=seed)).null()) for seed in (2, 3)]
    assert torch.equal(*dropped)
    none = run(network, Condition())
    torch.testing.assert_close(dropped[0], none, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(network, Condition(text=text(config))), none, atol=1e-3)


@pytest.mark.parametrize("config", [EMBEDDED, WORDS])
def test_one_sample_of_a_batch_can_be_without_text(config: UNetConfig) -> None:
    network = build(config)
    given = Condition(text=text(config))
    found = run(network, Condition(text=given.text, text_mask=mask(4, 0, 4)))
    assert torch.equal(found[1], run(network, given.null())[1])
    assert torch.equal(found[[0, 2]], run(network, given)[[0, 2]])


@pytest.mark.parametrize("config", [EMBEDDED, WORDS])
def test_what_stands_in_the_padding_changes_nothing(config: UNetConfig) -> None:
    network = build(config)
    tokens, counts = text(config), mask(2, 3, 1)
    found = run(network, Condition(text=tokens, text_mask=counts))
    shown = counts if config.words else counts[..., None]
    others = torch.where(shown, tokens, text(config, seed=7))
    assert not torch.equal(others, tokens)
    assert torch.equal(run(network, Condition(text=others, text_mask=counts)), found)


@pytest.mark.parametrize("config", [EMBEDDED, WORDS])
def test_a_batch_of_texts_equals_each_alone(config: UNetConfig) -> None:
    """Each is also free of the padding that a longer one brings."""
    network = build(config)
    tokens, lengths = text(config), (2, 4, 1)
    together = run(network, Condition(text=tokens, text_mask=mask(*lengths)))
    for row, length in enumerate(lengths):
        alone = run(network, Condition(text=tokens[row : row + 1, :length]), slice(row, row + 1))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_the_order_of_words_matters() -> None:
    network = build(WORDS)
    found = run(network, Condition(text=torch.tensor([[1, 2, 3]] * 3)))
    turned = run(network, Condition(text=torch.tensor([[3, 2, 1]] * 3)))
    assert not torch.allclose(found, turned, atol=1e-3)


def test_the_null_token_alone_is_read_as_it_is() -> None:
    """Softmax over one token is 1, so every voxel gets its value through the last projection: a closed form."""
    layer = CrossAttention(8, 6, 4)
    x, token = draw(4, 8, 2, 2), draw(2, 1, 6)
    value = layer.key_value(token.mT)[:, 8:, 0]  # b c
    moved = torch.nn.functional.linear(value, layer.out.weight[:, :, 0, 0], layer.out.bias)
    expected = x + moved.repeat_interleave(2, 0)[:, :, None, None]
    torch.testing.assert_close(layer(x, token, torch.ones(2, 1, dtype=torch.bool), frames=2), expected)


def test_pooled_text_is_the_mean_of_the_tokens_that_count() -> None:
    part = TextInput(6, 0, 8)
    tokens, counts = draw(2, 4, 6), mask(3, 0)
    (read, seen), pooled = part(Condition(text=tokens, text_mask=counts), 2)
    normed = torch.nn.functional.layer_norm(tokens, (6,))
    torch.testing.assert_close(pooled, part.pool(torch.stack([normed[0, :3].mean(0), part.null])))
    torch.testing.assert_close(read[0, 1:4], normed[0, :3])
    assert torch.equal(read[:, 0], part.null.expand(2, 6)) and not read[1, 1:].any()
    assert seen.tolist() == [[True, True, True, True, False], [True, False, False, False, False]]


@pytest.mark.parametrize("backend", [plain, sdpa])
def test_a_mask_leaves_tokens_out(backend) -> None:
    q, k, v = draw(2, 5, 2, 4), draw(2, 3, 2, 4, seed=1), draw(2, 3, 2, 4, seed=2)
    found = attention(q, k, v, backend.__name__, mask(2, 3, longest=3))
    torch.testing.assert_close(found[:1], plain(q[:1], k[:1, :2], v[:1, :2]))
    torch.testing.assert_close(found[1:], plain(q[1:], k[1:], v[1:]))
    assert torch.equal(attention(q, k, v, "xformers", mask(2, 3, longest=3)), sdpa(q, k, v, mask(2, 3, longest=3)))


def test_levels_that_read_the_text() -> None:
    def reading(network: UNet) -> list[bool]:
        return [stage.read is not None for stage in (*network.down, network.middle, *network.up)]

    assert reading(UNet(WORDS)) == [True] * 7
    assert reading(UNet(replace(WORDS, text_attention=[1]))) == [False, True, True, True, True, True, False]
    none = UNet(replace(WORDS, text_attention=[]))
    assert reading(none) == [False] * 7
    given = Condition(text=text(WORDS))
    build_none = build(replace(WORDS, text_attention=[]))
    assert not torch.allclose(run(build_none, given), run(build_none, Condition()), atol=1e-3)  # through the mean


def test_a_model_without_text_has_no_weights_for_it() -> None:
    """Nor do its weights depend on there being such models."""
    names = set(UNet(SMALL).state_dict())
    assert not any("text" in name or "read" in name for name in names)
    extra = set(UNet(WORDS).state_dict()) - names
    assert names < set(UNet(WORDS).state_dict()) and all("text." in name or ".read." in name for name in extra)


def test_recomputed_levels_give_the_same_gradients() -> None:
    gradients = []
    for levels in ([], [0, 1]):
        torch.manual_seed(0)
        network = build(replace(WORDS, checkpoint=levels)).train()
        x, clock = draw(3, 2, 2, 4, 4, seed=3), draw(3, 1, 2, 4, 4, seed=4)
        network(x, clock, Condition(text=text(WORDS), text_mask=mask(4, 0, 2))).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    assert all(g is not None and g.any() for g in gradients[0].values())
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name])


@pytest.mark.parametrize(
    ("config", "given", "complaint"),
    [
        (EMBEDDED, torch.zeros(3, 2, 5), r"text is \(3, 2, 5\); this model reads embeddings \(b, n, 6\)"),
        (EMBEDDED, torch.zeros(3, 2, dtype=torch.int64), "this model reads embeddings"),
        (WORDS, torch.zeros(3, 2, 6), r"this model reads numbers of words, \(b, n\)"),
        (WORDS, torch.tensor([[0, 5]] * 3), "names words outside 0 to 4"),
    ],
)
def test_text_of_another_kind_is_refused(config: UNetConfig, given: Tensor, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run(UNet(config), Condition(text=given))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"words": 5}, "unet.text_dim is 0 and unet.words 5"),
        ({"words": 5, "text_dim": 7}, "words an even width"),
        ({"text_dim": -2}, "give 0 or more"),
        ({"text_dim": 6, "text_attention": [2]}, "unet.text_attention names level 2"),
    ],
)
def test_what_builds_no_network_is_refused(changes: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        replace(SMALL, **changes).validate()
