"""Curves along checkpoints and along an extension."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidiff.evaluate.card import MADE, PROTOCOL, Card, measured
from vidiff.evaluate.page import checkpoint_curves, checkpoint_table, drift_curves
from vidiff.metrics.drift import by_frame, drift_at_end, look

CARD = Card(
    dict.fromkeys(PROTOCOL, 1),
    {**dict.fromkeys(MADE, None), "checkpoint": 100, "weights": "ema"},
    measured("cpu", 1),
    {"FVD": 40.0, "floor FVD": 3.0, "precision": [0.5, 0.25], "sensitivity to frozen clips": 9.0},
    {},
)


def test_each_score_is_a_line_over_its_reference() -> None:
    later = replace(CARD, made={**CARD.made, "checkpoint": 2000}, scores={**CARD.scores, "FVD": 10.0})
    html = checkpoint_curves([CARD, later])
    assert html.count("<svg") == 2  # what holds of the real clips alone has no chart of its own
    assert html.count("<polyline") == 3  # FVD, its floor, and precision
    assert "made at step 2,000: 10" in html
    assert "floor at step 2,000: 3" in html
    table = checkpoint_table([CARD, later])
    assert "<tr><th>step</th><td>100</td><td>2,000</td></tr><tr><th>weights</th><td>ema</td><td>ema</td></tr>" in table
    assert "<tr><th>FVD</th><td>40</td><td>10</td></tr><tr><th>precision</th><td>0.5</td><td>0.5</td></tr>" in table


def brightening(frames: int) -> Tensor:
    """A noisy clip that gets brighter by 0.01 a frame from frame 4 on."""
    noise = torch.randn(2, 3, frames, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.2
    noise -= noise.mean((3, 4), keepdim=True)
    return noise + 0.01 * (torch.arange(float(frames)) - 3).clamp(min=0).view(1, 1, -1, 1, 1)


def test_an_extension_by_frame() -> None:
    looks = look(brightening(40))
    seen = by_frame(looks, given=4)
    wanted = [0.01 * max(0, frame - 3) for frame in range(40)]
    assert seen["colour"] == pytest.approx(wanted, abs=1e-6)
    assert math.isnan(seen["motion"][0]) and not any(map(math.isnan, seen["motion"][1:]))
    found = drift_at_end(looks, given=4)
    assert found["colour"] == pytest.approx(0.16, rel=1e-4)  # the second stretch of 16 new frames against the first
    assert found["frozen"] == 0
    html = drift_curves({"made": looks, "real": looks}, given=4)
    assert html.count("<svg") == 3
    assert html.count("<polyline") == 6
    assert "nan" not in html
    with pytest.raises(ValueError, match="31 new frames: give at least 32, two stretches of 16"):
        drift_at_end(look(brightening(35)), given=4)
