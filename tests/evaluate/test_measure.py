"""Which sets of features are refused, and what is told of the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from vidiff.evaluate.measure import look_at_motion, measure
from vidiff.metrics.features import Declaration, Features
from vidiff.metrics.motion import NO_FLOW

NETWORK = Features(nn.Identity(), Declaration("none", "none.pt"), "", torch.device("cpu"))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GOOD = normal(40, 4)


@pytest.mark.parametrize(
    ("real", "made", "told"),
    [
        (GOOD[:1], GOOD, "network none on real clips: features has 1 clips; give at least 2"),
        (GOOD, GOOD[:1], "network none on made clips: features has 1 clips; give at least 2"),
        (GOOD, GOOD.index_fill(0, torch.tensor([7]), torch.nan), "features of 1 of 40 clips are not finite.*clip 7"),
        (
            GOOD.index_fill(0, torch.tensor([3]), torch.inf),
            GOOD,
            "on real clips: features of 1 of 40 clips are not fin",
        ),
        (GOOD, GOOD[:, :3], "4 features against 3"),
    ],
)
def test_what_means_nothing_is_refused(real: Tensor, made: Tensor, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        measure(NETWORK, {"features": real}, {"features": made})


def test_few_clips_are_told() -> None:
    few = measure(NETWORK, {"features": GOOD[:4]}, {"features": GOOD[4:20]})
    assert few.cautions == [
        "4 clips for 4 features: Fréchet distances of so few are far above those of many, and compare only at this "
        "number of clips"
    ]
    assert "needs" in few.left_out["frechet_video[none] interval of 95 %"]
    assert measure(NETWORK, {"features": GOOD[:20]}, {"features": GOOD[20:]}).cautions == []


def test_copies_of_any_training_clip_are_found_and_the_floor_stays() -> None:
    """400 training clips, of which the first 40 are the floor, and made ones that copy others of them."""
    held_out, training, made = (
        normal(40, 4),
        {"features": normal(400, 4, seed=1)},
        {"features": normal(400, 4, seed=1)[40:80]},
    )
    name = "share of clips nearer to training than 95 % of held-out clips, {} training clips searched"
    found = measure(NETWORK, {"features": held_out}, made, training, in_all=500)
    assert found.values[name.format("400 of 500")] == 1
    fewer = {"features": training["features"][:40]}
    floor = measure(NETWORK, {"features": held_out}, made, fewer)
    assert floor.values[name.format("40")] < 0.2
    fewer_scores, all_scores = (
        {key: value for key, value in scores.values.items() if "share" not in key} for scores in (floor, found)
    )
    assert fewer_scores.keys() == all_scores.keys()
    for key, value in fewer_scores.items():  # the same sums, which linear algebra's kernels may round otherwise
        assert value == pytest.approx(all_scores[key], rel=1e-9), key
    assert any(key.startswith("floor ") for key in found.values)
    same = measure(NETWORK, {"features": held_out}, {"features": normal(40, 4, seed=2)}, training)
    assert same.values[name.format("400")] < 0.2


def test_a_network_that_sees_no_motion_is_told() -> None:
    worse = {"worse shuffled": GOOD, "worse reversed": GOOD + 5, "worse frozen": GOOD * 1.01}
    found = measure(NETWORK, {"features": GOOD, **worse}, {"features": GOOD + 1})
    name = "sensitivity to {} clips, times the floor of frechet_video[none]"
    assert found.values[name.format("shuffled")] == pytest.approx(1)
    assert found.values[name.format("reversed")] > 10
    assert len(found.cautions) == 1
    assert "network none hardly sees clips that are shuffled, frozen (less than 2 times" in found.cautions[0]


def test_without_the_flow_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    video = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    assert {"motion frozen", "motion warping error", "motion speed"} <= look_at_motion(video).keys()
    for module in ("vidiff.evaluate.measure", "vidiff.metrics.motion"):
        monkeypatch.setattr(f"{module}.has_flow", lambda: False)
    assert set(look_at_motion(video)) == {f"motion {n}" for n in ("change", "acceleration", "flicker", "frozen")}
    assert look_at_motion(video[:, :, :2]) == {}
    found = measure(NETWORK, {"features": GOOD}, {"features": GOOD})
    assert found.left_out["motion warping error"] == NO_FLOW
