from __future__ import annotations

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vidiff.engine import checkpoint
from vidiff.engine.ema import PowerEMA, find_snapshots, gamma_of, synthesis, synthesise, write_snapshot
from vidiff.engine.options import TrainOptions
from vidiff.report.log import read_metrics

ema_tool = importlib.import_module("tools.ema")


@pytest.mark.parametrize("width", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_gamma_gives_the_width_back(width: float) -> None:
    """As the closed form, and as the standard deviation of the profile itself, by its density (g + 1) x^g on [0, 1]."""
    gamma = gamma_of(width)
    assert math.sqrt(gamma + 1) / ((gamma + 2) * math.sqrt(gamma + 3)) == pytest.approx(width, rel=1e-9)
    x = (np.arange(200_000) + 0.5) / 200_000
    density = (gamma + 1) * x**gamma / 200_000
    deviation = math.sqrt((density * x**2).sum() - (density * x).sum() ** 2)
    assert deviation == pytest.approx(width, rel=1e-4)


def test_known_exponents() -> None:
    """Karras et al. 2024, section 3.1, name these: gamma 16.97 for 5 % and 6.94 for 10 %."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_a_linear_course_is_the_closed_form() -> None:
    """For weights w_k = k: the sum over k of k ((k / n)^(g + 1) - ((k - 1) / n)^(g + 1)); in the limit, a fraction of n
    that is (g + 1) / (g + 2).
    """
    module = nn.Linear(1, 1, bias=False)
    averages = [PowerEMA(module, width) for width in (0.05, 0.1, 0.25)]
    for n in range(1, 401):
        nn.init.constant_(module.weight, float(n))
        for average in averages:
            average.update()
    for average in averages:
        power = average.gamma + 1
        exact = sum(k * ((k / 400) ** power - ((k - 1) / 400) ** power) for k in range(1, 401))
        assert average.state_dict()["weight"].item() == pytest.approx(exact, rel=5e-6)
        assert exact == pytest.approx(400 * power / (power + 1) + 0.5, rel=1e-3)


def test_what_is_tracked_is_its_own_synthesis() -> None:
    have = [(n, gamma_of(width)) for n in (100, 200, 300) for width in (0.05, 0.1)]
    for place in range(len(have)):
        assert synthesis(have, have[place]) == pytest.approx(np.eye(len(have))[place], abs=1e-6)
    assert synthesis(have, (300, gamma_of(0.07))).sum() == pytest.approx(1, abs=1e-12)


def course(n: int) -> torch.Tensor:
    """Weights that drift, turn and shake."""
    generator = torch.Generator().manual_seed(n)
    place = torch.linspace(0.5, 3, 64) * n / 1000
    return place.sin() + place.square() + 0.2 * torch.randn(64, generator=generator)


def test_another_width_afterwards(tmp_path: Path) -> None:
    """From 16 snapshots of two widths in half precision, beside the averages of those widths tracked all along.

    The shaking of single weights averages out at about 0.2 / sqrt(width * 1000), 0.02; the error is far below.
    """
    module = nn.Linear(8, 8, bias=False)
    module.register_buffer("mean", torch.zeros(2))
    kept = [PowerEMA(module, width) for width in (0.05, 0.1)]
    wanted = {width: PowerEMA(module, width) for width in (0.04, 0.08, 0.15, 0.2)}
    for n in range(1, 1025):
        with torch.no_grad():
            module.weight.copy_(course(n).view(8, 8))
            module.mean.copy_(torch.tensor([70_000.0, 1.0]))  # the first is too large for float16
        for average in (*kept, *wanted.values()):
            average.update()
        if n % 64 == 0:
            write_snapshot(tmp_path, 2 * n, n, {average.width: average.state_dict() for average in kept})
    have = find_snapshots(tmp_path)
    assert len(have) == 32
    errors = {}
    for width, average in wanted.items():
        made, step = synthesise(have, width)
        assert step == 2048
        assert made["mean"].tolist() == pytest.approx([70_000.0, 1.0], rel=1e-3)
        errors[width] = (made["weight"] - average.state_dict()["weight"]).abs().max().item()
    assert errors[0.08] < 0.003, errors
    assert errors[0.15] < 0.006, errors
    assert max(errors.values()) < 0.02, errors
    made, step = synthesise(have, 0.05, step=1024)
    assert step == 1024
    assert torch.allclose(made["weight"], load_file(tmp_path / "step-0001024" / "0.050.safetensors")["weight"].float())


def test_a_damaged_snapshot_is_told_and_left_out(tmp_path: Path) -> None:
    for step in (1, 2):
        write_snapshot(tmp_path, step, step, {0.1: {"weight": torch.ones(2)}})
    file = tmp_path / "step-0000001" / "0.100.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    told: list[str] = []
    assert [each.step for each in find_snapshots(tmp_path, told.append)] == [2]
    assert told == [
        f"{tmp_path / 'step-0000001'} is corrupt: {file.name} is not what its manifest says; making do without it"
    ]


def test_in_a_training(tiny, runs, tmp_path: Path) -> None:
    """Interrupted, resumed, and set back to an earlier step: the same averages and snapshots; and the same weights as
    without them.
    """
    options = {"ema_widths": [0.05, 0.1], "ema_every": 3, "keep": 9}
    tiny.train(tmp_path / "without", steps=8)
    tiny.train(tmp_path / "whole", steps=8, **options)
    tiny.train(tmp_path / "run", steps=5, **options)
    tiny.train(tmp_path / "run", steps=8, **options)
    runs.assert_same(tmp_path / "whole", tmp_path / "run")
    runs.assert_same(tmp_path / "whole", tmp_path / "without")
    step = "checkpoints/step-0000008"
    for name in ("ema-0.050.safetensors", "ema-0.100.safetensors"):
        one, other = ((tmp_path / run / step / name).read_bytes() for run in ("whole", "run"))
        assert one == other
    assert {(each.step, each.updates, each.width) for each in find_snapshots(tmp_path / "whole" / "ema")} == {
        (step, step, width) for step in (3, 6, 8) for width in (0.05, 0.1)
    }
    assert [each.step for each in find_snapshots(tmp_path / "run" / "ema")] == [3, 3, 5, 5, 6, 6, 8, 8]
    (tmp_path / "run" / "checkpoints" / "latest").write_text("step-0000004\n")
    tiny.train(tmp_path / "run", steps=5, **options)
    assert [each.step for each in find_snapshots(tmp_path / "run" / "ema")] == [3, 3, 5, 5]
    with pytest.raises(ValueError, match=r"train.ema_widths has 0.2, but .* only \[0.05, 0.1\]"):
        tiny.train(tmp_path / "run", steps=9, ema_widths=[0.2])


def test_the_command(tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    tiny.train(run, steps=8, ema_widths=[0.05, 0.1], ema_every=2)
    assert ema_tool.main([str(run), "--width", "0.1"]) == 0
    out = run / "ema" / "width-0.100.safetensors"
    assert f"{out}: the average of width 0.1 at step 8" in capsys.readouterr().out
    exact = checkpoint.load(run / "checkpoints" / "step-0000008").averages[0.1]
    weights = checkpoint.load_weights(run, str(out))
    for name, tensor in exact.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)  # the snapshot's half precision
    assert torch.equal(weights["frozen.weight"], checkpoint.load_weights(run, "model")["frozen.weight"])
    other = tmp_path / "other.safetensors"
    assert ema_tool.main([str(run), "--width", "0.08", "--step", "4", "--out", str(other)]) == 0
    assert not torch.equal(load_file(other)["head.weight"], load_file(out)["head.weight"])
    for wrong, said in [
        (["--width", "0.5"], "width is 0.5; give 0.01"),
        (["--width", "0.1", "--step", "3"], "step is 3; there are snapshots of 2, 4, 6, 8"),
        (["--width", "0.1", "--out", "x.pt"], "ends in .safetensors"),
    ]:
        assert ema_tool.main([str(run), *wrong]) == 2
        assert said in capsys.readouterr().err
    assert ema_tool.main([str(tmp_path), "--width", "0.1"]) == 2
    assert "no snapshots: train with ema_widths=" in capsys.readouterr().err
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoint.load_weights(run, str(tmp_path / "none.safetensors"))
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match=r"other\.safetensors is no average of .*: body\.0\.bias is on one side only"):
        checkpoint.load_weights(run, str(other))


def test_the_best_is_kept(tiny, runs, tmp_path: Path, capsys) -> None:
    """Where it is best it is saved, whatever checkpoint_every says, and then kept beside the newest. Where the
    validation gives no such score no step is lost: with another name it goes on as if that had been asked for."""
    scores = {1: 5.0, 2: 4.0, 3: 1.0, 4: 3.0, 5: 2.0, 6: math.nan, 7: 2.0, 8: 1.5}
    options = {"validate_every": 1, "keep_best": "val/loss", "keep": 1, "checkpoint_every": 2}
    callbacks = {"validate": lambda step: {"val/loss": scores[step], "val/other": 0.0}}
    tiny.train(tmp_path / "six", steps=6, callbacks=callbacks, **options)
    tiny.train(tmp_path, steps=5, callbacks=callbacks, **options)
    tiny.train(tmp_path, steps=8, callbacks=callbacks, **options)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-0000003", "step-0000008"]
    best, last = (checkpoint.load(tmp_path / "checkpoints" / name) for name in kept)
    assert torch.equal(checkpoint.load_weights(tmp_path, "best")["head.weight"], best.ema["head.weight"])
    assert torch.equal(checkpoint.load_weights(tmp_path)["head.weight"], last.ema["head.weight"])
    wrong = options | {"keep_best": "val/lose", "validate_every": 3, "checkpoint_every": 3}
    with pytest.raises(ValueError, match=r"is val/lose; the validation gives val/loss, val/other. Step 3 is saved"):
        tiny.train(tmp_path / "other", callbacks=callbacks, **wrong)
    assert [path.name for path in (tmp_path / "other" / "checkpoints").glob("step-*")] == ["step-0000003"]
    tiny.train(tmp_path / "other", steps=6, callbacks=callbacks, **wrong | {"keep_best": "val/loss"})
    lines = read_metrics(tmp_path / "other" / "metrics.jsonl")
    assert [line["step"] for line in lines if "val/loss" in line] == [3, 6]
    runs.assert_same(tmp_path / "other", tmp_path / "six")
    assert torch.equal(*(checkpoint.load_weights(tmp_path / n, "best")["head.weight"] for n in ("other", "six")))
    tiny.train(tmp_path / "none", steps=2)
    with pytest.raises(ValueError, match="knows of no best one: train with keep_best=val/loss"):
        checkpoint.load_weights(tmp_path / "none", "best")


def test_every_nth_is_kept(tiny, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=14, keep=2, keep_every=4)
    kept = [int(path.name[5:]) for path in sorted((tmp_path / "checkpoints").glob("step-*"))]
    assert kept == [4, 8, 12, 14]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"ema_widths": [0.3]}, "width is 0.3; give 0.01"),
        ({"ema_widths": [0.1, 0.1]}, "give each once"),
        ({"ema_widths": [0.0501]}, "three decimals"),
        ({"ema_every": -1}, "ema_every is -1"),
        ({"keep_every": 7, "checkpoint_every": 5}, "keep_every is 7; give a multiple of checkpoint_every, 5"),
        ({"keep_best": "val/loss"}, "validate_every is 0"),
        ({"ema": 1.0}, r"train.ema is 1.0; the decay must be in \[0, 1\)"),
        ({"ema": -0.1}, "train.ema is -0.1"),
        ({"ema": math.nan}, "train.ema is nan"),
        ({"ema_warmup": 0}, "train.ema_warmup is 0; give 1"),
    ],
)
def test_wrong_options(wrong: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainOptions(**wrong)
