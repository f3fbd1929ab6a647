from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from vidiff.engine import precision


class Timed(nn.Module):
    """Takes a given time in each precision, by a clock of its own, and leaves traces wherever a forward can."""

    def __init__(self, fp32: float, bf16: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
        self.seconds, self.now = {torch.float32: fp32, torch.bfloat16: bf16}, 0.0

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inside = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
        self.now += self.seconds[inside]
        return {"loss": self.net(batch["x"]).float().square().mean() + torch.rand(()) * 0}


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"), [(0.15, 0.05, "bf16"), (0.05, 0.15, "fp32"), (0.1, 0.095, "fp32")]
)
def test_a_cpu_takes_what_is_clearly_faster_and_leaves_no_trace(
    fp32: float, bf16: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Timed(fp32, bf16)
    monkeypatch.setattr(time, "process_time", lambda: objective.now)
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    batch = {"x": torch.randn(4, 2)}
    state = torch.get_rng_state()
    assert precision.automatic(objective, batch, torch.device("cpu")) == expected
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())
    assert all(p.grad is None for p in objective.parameters())
