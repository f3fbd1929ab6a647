from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from vidiff.data.index import Index
from vidiff.evaluate.card import (
    BESIDE,
    MADE,
    PROTOCOL,
    Card,
    check_network,
    compare_cards,
    measured,
    protocol_of,
    read_card,
    write_card,
)
from vidiff.evaluate.network import _kept as kept
from vidiff.metrics.features import Declaration, Features
from vidiff.report.log import git_revision
from vidiff.training.windows import Windows

CARD = Card(
    protocol={
        **dict.fromkeys(PROTOCOL, 1),
        "network": "i3d",
        "network_sha256": "aa",
        "preprocessing": {"size": [224, 224]},
    },
    made={**dict.fromkeys(MADE, None), "source": "runs/a", "guidance": 2.0},
    measured=measured("cpu", 1),
    scores={"FVD": 123.25, "kernel_video[i3d]": 0.5},
    left_out={"CLIP score": "the clips have no captions"},
)


def pairs(sha256: str, size: int) -> Features:
    """A network of two pictures that sees them in some size."""
    declared = Declaration("pairs", "pairs.pt", size=(size, size), layout="bchw")
    return Features(nn.Identity(), declared, sha256, torch.device("cpu"))


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    write_card(tmp_path / "deep" / "card.json", CARD)
    assert read_card(tmp_path / "deep" / "card.json") == CARD
    assert CARD.measured["git"] == git_revision()
    assert CARD.measured["versions"]["torch"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["card.json"]


def test_like_is_compared_with_like(tmp_path: Path) -> None:
    other = replace(CARD, made={**CARD.made, "guidance": 3.0}, scores={"FVD": 100.0, "recall[i3d]": 1.0})
    found = compare_cards(CARD, other)
    assert found.reasons == ()
    assert found.differences == ("guidance: 2.0 against 3.0",)
    assert found.scores == {"FVD": (123.25, 100.0)}
    moved = replace(CARD, protocol={**CARD.protocol, "data": "elsewhere"})
    assert compare_cards(CARD, moved).scores == {name: (value, value) for name, value in CARD.scores.items()}


@pytest.mark.parametrize("name", [name for name in PROTOCOL if name != "data"])
def test_unlike_is_not(name: str) -> None:
    found = compare_cards(CARD, replace(CARD, protocol={**CARD.protocol, name: "bb"}))
    assert len(found.reasons) == 1
    assert found.reasons[0].startswith(f"{name} differs: ")
    assert found.reasons[0].endswith(" against bb")
    assert found.scores == {}


@pytest.mark.parametrize("name", BESIDE)
def test_what_only_one_card_has_scores_of_does_not_matter(name: str) -> None:
    found = compare_cards(CARD, replace(CARD, protocol={**CARD.protocol, name: None}))
    assert found.reasons == () and found.scores.keys() == CARD.scores.keys()


def test_a_card_tells_which_network_of_pictures_scored(tmp_path: Path) -> None:
    """Of two of them, as of two CLIP models, the scores are called the same."""
    real, network = Windows(Index("data", [], []), [(0, 0)], 4, 1, 16), pairs("aa", 64)

    def card(*beside: Features, **used: object) -> Card:
        return replace(CARD, protocol=protocol_of(network, real, "data", "test", 0, *beside, **used))

    first = card(pairs("bb", 64), given=2, tries=1)
    write_card(tmp_path / "card.json", first)
    for other, name in (
        (card(pairs("cc", 64), given=2, tries=1), "lpips_sha256"),
        (card(pairs("bb", 32), given=2, tries=1), "lpips_preprocessing"),
        (card(pairs("bb", 64), given=2, tries=3), "tries"),
        (card(pairs("bb", 64), given=3, tries=1), "given"),
    ):
        (reason,) = compare_cards(first, other).reasons
        assert reason.startswith(f"{name} differs: ")
        assert kept(tmp_path / "card.json", other.protocol, other.made, other.measured) is None
    assert kept(tmp_path / "card.json", first.protocol, first.made, first.measured) == first
    assert not compare_cards(first, card()).reasons and set(card().protocol) == set(PROTOCOL)


def test_a_changed_card_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_card(path, CARD)
    path.write_text(path.read_text().replace("123.25", "99.25"))
    card = read_card(path)
    assert card.scores["FVD"] == 99.25
    assert card.doubts == ("its content is not what its digest was taken of: it was changed after it was written",)
    found = compare_cards(CARD, card)
    assert found.reasons == (f"the other card cannot be trusted: {card.doubts[0]}",)
    assert found.scores == {}


def test_a_card_with_less_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    write_card(path, CARD)
    content = json.loads(path.read_text())
    del content["protocol"]["frames"], content["measured"], content["sha256"]
    path.write_text(json.dumps(content))
    doubts = read_card(path).doubts
    assert doubts[:2] == ("protocol.frames is missing", "measured.git is missing")
    assert len(doubts) == 6
    with pytest.raises(ValueError, match=r"needs protocol.frames, measured.git"):
        write_card(path, read_card(path))


def test_a_card_of_another_network_is_not_trusted() -> None:
    assert check_network(CARD, "aa") is CARD
    assert check_network(CARD, "bb").doubts == ("it names the network file aa, but the file has bb",)


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    with pytest.raises(ValueError, match="No such file"):
        read_card(path)
    for text in ("{", "[]", "{}", '{"scores": 3}'):
        path.write_text(text)
        with pytest.raises(ValueError, match="is no card"):
            read_card(path)
    with pytest.raises(ValueError, match="FVD is not finite"):
        write_card(path, replace(CARD, scores={"FVD": float("nan")}))
    with pytest.raises(ValueError, match=r"has no field made.luck"):
        write_card(path, replace(CARD, made={**CARD.made, "luck": 1}))
