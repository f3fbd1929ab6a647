from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from harness import moments_of
from safetensors.torch import load_file
from torch import nn

from vidiff.engine import checkpoint, loop, moments
from vidiff.engine.loop import Diverged, fit
from vidiff.engine.optim import Optim, Together, build_optimizer
from vidiff.engine.options import TrainOptions
from vidiff.report.log import read_metrics


def weights(run: Path, which: str = "model") -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(run, which)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6)


def test_in_two_halves_or_at_once(tiny, runs, tmp_path: Path) -> None:
    """The second half starts with another history: workers, global random numbers, callbacks."""
    tiny.train(tmp_path / "whole")
    tiny.train(tmp_path / "halves", steps=3)
    torch.manual_seed(99)
    watching = {"validate": lambda step: {"val/x": torch.rand(()).item()}, "sample": lambda step: torch.rand(3)}
    tiny.train(tmp_path / "halves", workers=1, validate_every=1, sample_every=2, callbacks=watching)
    runs.assert_same(tmp_path / "whole", tmp_path / "halves")


def test_what_is_done_is_not_done_again(tiny, tmp_path: Path, capsys) -> None:
    tiny.train(tmp_path, steps=2)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints").rglob("*")}
    tiny.train(tmp_path, steps=2, callbacks={"sample": lambda step: pytest.fail("sampled again")})
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "checkpoints").rglob("*")}
    assert "trained to step 2" in capsys.readouterr().out


def test_steps_are_those_of_a_plain_loop(tiny, tmp_path: Path) -> None:
    """Learning rate, clipping, AdamW and the average, written out."""
    tiny.train(tmp_path, noise=0.0, steps=4, ema=0.5, ema_warmup=1, optim={"clip": 0.3, "decay": "linear"})
    objective = tiny.Tiny(noise=0.0)
    trained = [p for p in objective.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim > 1]}, {"params": [p for p in trained if p.ndim == 1]}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=0.01)
    optimizer.param_groups[1]["weight_decay"] = 0.0
    means = [p.detach().clone() for p in trained]
    norms = []
    for step, rate in enumerate([0.005, 0.01, 0.01, 0.005]):
        x = torch.stack([tiny.Numbers()[n]["x"] for n in range(8 * step, 8 * step + 8)])
        optimizer.zero_grad()
        objective({"x": x})["loss"].backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in trained))
        norms.append(norm)
        for parameter in trained:
            parameter.grad *= min(1.0, 0.3 / (norm + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        means = [m + 0.5 * (p.detach() - m) for m, p in zip(means, trained, strict=True)]
    assert min(norms) > 0.3, "nothing was clipped"
    assert_close(dict(objective.named_parameters()), weights(tmp_path))
    names = [name for name, p in objective.named_parameters() if p.requires_grad]
    assert_close(dict(zip(names, means, strict=True)), weights(tmp_path, "ema"))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["lr"] for line in lines] == [0.005, 0.01, 0.01, 0.005]
    assert [line["grad_norm"] for line in lines] == pytest.approx(norms, rel=1e-4)


def test_parts_of_a_batch_are_the_batch(tiny, tmp_path: Path) -> None:
    tiny.train(tmp_path / "whole", noise=0.0)
    tiny.train(tmp_path / "parts", noise=0.0, accumulate=4)
    assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert_close(weights(tmp_path / "whole", "ema"), weights(tmp_path / "parts", "ema"))
    losses = [[line["loss"] for line in read_metrics(tmp_path / n / "metrics.jsonl")] for n in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_bad_step_changes_nothing_but_the_count(tiny, tmp_path: Path, capsys) -> None:
    """Neither weights, average and optimizer, nor the running means that the forward pass had touched."""
    tiny.train(tmp_path / "before", steps=3)
    tiny.train(tmp_path / "after", steps=4, bad=[24 + 5], checkpoint_every=0)
    before, after = (checkpoint.load(checkpoint.newest(tmp_path / n / "checkpoints")) for n in ("before", "after"))
    assert all(torch.equal(after.model[name], tensor) for name, tensor in before.model.items())
    assert all(torch.equal(after.ema[name], tensor) for name, tensor in before.ema.items())
    kept = moments_of(after.path)
    assert all(torch.equal(kept[name], tensor) for name, tensor in moments_of(before.path).items())
    assert after.state["counters"]["skipped"] == 1
    assert after.state["counters"]["samples"] == 32
    assert "step 4 skipped: its loss or gradients are not finite (samples 24, 25, 26, 27, 28, 29, 30, 31)" in (
        capsys.readouterr().out
    )
    assert read_metrics(tmp_path / "after" / "metrics.jsonl")[-1]["loss"] is None


def test_too_many_bad_steps(tiny, tmp_path: Path) -> None:
    """Not the first one, which a good step follows, but three in a row."""
    with pytest.raises(Diverged, match=r"^3 steps in a row, up to step 6, .* \(samples 40, 41.*checkpoint of step 3"):
        tiny.train(tmp_path, steps=9, bad=[0, 24, 33, 42], max_skips=3, checkpoint_every=3)
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


@pytest.mark.parametrize(("precision", "scales"), [("bf16", []), ("fp16", [2.0**15])])
def test_half_precision(tiny, runs, tmp_path: Path, precision: str, scales: list[float]) -> None:
    """Near fp32, with weights in fp32, and resumed bit for bit. fp16 finds its first scale, 2 ** 16, too large."""
    tiny.train(tmp_path / "fp32", noise=0.0)
    tiny.train(tmp_path / "half", noise=0.0, precision=precision)
    losses = [read_metrics(tmp_path / name / "metrics.jsonl")[0]["loss"] for name in ("fp32", "half")]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.01)
    assert {tensor.dtype for tensor in weights(tmp_path / "half").values()} == {torch.float32}
    tiny.train(tmp_path / "halves", noise=0.0, precision=precision, steps=2)
    tiny.train(tmp_path / "halves", noise=0.0, precision=precision)
    runs.assert_same(tmp_path / "half", tmp_path / "halves")
    state = checkpoint.load(checkpoint.newest(tmp_path / "half" / "checkpoints")).state
    assert ([state["scaler"]["scale"]] if state["scaler"] else []) == scales
    assert state["counters"]["skipped"] == 6 - state["ema_updates"] == len(scales)


def test_automatic_precision_is_kept(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial may end otherwise another time: a resumed run does as it did before."""
    monkeypatch.setattr("vidiff.engine.precision.automatic", lambda *_: "bf16")
    tiny.train(tmp_path / "run", steps=2, precision="auto")
    monkeypatch.setattr("vidiff.engine.precision.automatic", lambda *_: pytest.fail("tried again"))
    tiny.train(tmp_path / "run", steps=4, precision="auto")
    tiny.train(tmp_path / "bf16", steps=4, precision="bf16")
    for name, tensor in weights(tmp_path / "bf16").items():
        assert torch.equal(tensor, weights(tmp_path / "run")[name])


def test_callbacks_see_the_average_and_leave_no_trace(tiny, runs, tmp_path: Path) -> None:
    tiny.train(tmp_path / "plain", steps=4)
    seen: list[tuple[str, int]] = []
    draws = []
    objective = None

    def look(what: str, step: int) -> dict[str, float]:
        seen.append((what, step))
        draws.append(torch.rand(()).item())
        assert not torch.is_grad_enabled()
        return {"val/loss": step / 2}

    class Spy(tiny.Tiny):
        def __init__(self, *args: object) -> None:
            nonlocal objective
            super().__init__(*args)
            objective = self
            self.frozen.eval()

    def validate(step: int) -> dict[str, float]:
        assert objective is not None
        assert not any(part.training for part in objective.modules())
        found.update({name: tensor.clone() for name, tensor in objective.state_dict().items()})
        return look("validate", step)

    found: dict[str, torch.Tensor] = {}
    original, tiny.Tiny = tiny.Tiny, Spy
    try:
        callbacks = {"validate": validate, "sample": lambda step: look("sample", step)}
        tiny.train(tmp_path / "watched", steps=4, validate_every=3, sample_every=2, callbacks=callbacks)
    finally:
        tiny.Tiny = original
    assert seen == [("sample", 2), ("validate", 3), ("validate", 4), ("sample", 4)]
    assert len(set(draws)) == 1, "each look has the same noise"
    runs.assert_same(tmp_path / "plain", tmp_path / "watched")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights(tmp_path / "watched", "ema").items())
    assert objective is not None
    assert objective.body.training
    assert not objective.frozen.training
    lines = [line for line in read_metrics(tmp_path / "watched" / "metrics.jsonl") if "val/loss" in line]
    assert lines == [{"step": 3, "val/loss": 1.5}, {"step": 4, "val/loss": 2.0}]


def test_a_failing_sample_or_report_does_not_end_the_training(tiny, tmp_path: Path, capsys) -> None:
    def sample(step: int) -> None:
        raise OSError("no space left")

    tiny.train(tmp_path, steps=2, sample_every=1, callbacks={"sample": sample})
    assert capsys.readouterr().out.count("could not write the samples (no space left); training goes on") == 2
    assert (tmp_path / "report.html").exists()


def test_a_failing_save_is_told_and_the_last_one_must_succeed(tiny, tmp_path: Path, capsys, monkeypatch) -> None:
    real = checkpoint.save

    def full(folder: Path, step: int, **rest: object) -> Path:
        if step > 2:
            raise OSError("no space left")
        return real(folder, step, **rest)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="no space left"):
        tiny.train(tmp_path, steps=6)
    assert "could not write the checkpoint of step 4 (no space left); training goes on" in capsys.readouterr().out
    assert checkpoint.newest(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step-0000002"


@pytest.mark.faults
def test_a_corrupt_checkpoint_is_told_and_the_one_before_taken(tiny, runs, tmp_path: Path, capsys) -> None:
    tiny.train(tmp_path / "whole", steps=8)
    tiny.train(tmp_path / "run")
    file = tmp_path / "run" / "checkpoints" / "step-0000006" / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 16
    file.write_bytes(data)
    capsys.readouterr()
    tiny.train(tmp_path / "run", steps=8)
    out = capsys.readouterr().out
    assert "step-0000006 is corrupt: ema.safetensors is not what its manifest says; taking the one before" in out
    assert "going on from step 4 of 8 (step-0000004)" in out
    runs.assert_same(tmp_path / "whole", tmp_path / "run")


def test_settings_of_today_hold_on_resume(tiny, tmp_path: Path, monkeypatch) -> None:
    """And the moments go on."""
    made: list[Together] = []
    monkeypatch.setattr(loop, "build_optimizer", lambda *given: made.append(build_optimizer(*given)) or made[-1])
    tiny.train(tmp_path, steps=2, optim={"weight_decay": 0.1})
    tiny.train(tmp_path, steps=4, optim={"weight_decay": 0.2, "lr": 0.02})
    assert [group["weight_decay"] for group in made[1].param_groups] == [0.2, 0.0]
    assert {group["lr"] for group in made[1].param_groups} == {0.02}
    assert {state["step"].item() for state in made[1].parts[0].state.values()} == {4.0}


def test_another_optimizer_is_refused(tiny, tmp_path: Path) -> None:
    objective = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.Conv2d(32, 3, 3))
    other = build_optimizer(Optim(name="muon"), objective)
    for parameter in objective.parameters():
        parameter.grad = torch.ones_like(parameter)
    other.step()
    path = checkpoint.save(tmp_path, 1, {}, {}, {}, moments=moments.of_optimizers(objective, other.parts))
    mine = build_optimizer(Optim(), objective)
    with pytest.raises(ValueError, match=r"made by another optimizer .*\(it has Muon\.1\.weight\.momentum\)"):
        moments.into_optimizers(path, objective, mine.parts)


def test_scalars_are_means_over_the_logged_interval(tiny, tmp_path: Path) -> None:
    """Also across a resume in the middle of one."""
    tiny.train(tmp_path / "each")
    each = [line["error"] for line in read_metrics(tmp_path / "each" / "metrics.jsonl")]
    tiny.train(tmp_path / "run", steps=4, log_every=5)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 4]
    (tmp_path / "other").mkdir()
    tiny.train(tmp_path / "other", steps=3, log_every=10)
    tiny.train(tmp_path / "other", steps=6, log_every=5)
    found = read_metrics(tmp_path / "other" / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 3, 5, 6]
    assert [line["error"] for line in found] == pytest.approx(
        [each[0], sum(each[1:3]) / 2, sum(each[3:5]) / 2, each[5]], rel=1e-12
    )
    seconds = [line["seconds"] for line in found]
    assert seconds == sorted(seconds)


def test_checkpoint_files_hold_what_the_layout_says(tiny, tmp_path: Path) -> None:
    tiny.train(tmp_path, steps=2)
    path = tmp_path / "checkpoints" / "step-0000002"
    assert sorted(f.relative_to(path).as_posix() for f in path.rglob("*") if f.is_file()) == [
        "ema.safetensors",
        "manifest.json",
        "model.safetensors",
        "state.json",
        "training/.metadata",
        "training/__0_0.distcp",
    ]
    model, ema = load_file(path / "model.safetensors"), load_file(path / "ema.safetensors")
    assert set(model) - set(ema) == {"frozen.weight", "frozen.bias", "body.1.num_batches_tracked"}
    state = json.loads((path / "state.json").read_text())
    assert set(state) == {"counters", "scaler", "precision", "rate", "ema_updates", "random"}
    assert set(state["random"][0]) == {"python", "numpy", "torch", "cuda"}
    kept = moments_of(path)
    names = [name for name in ema if "running" not in name]
    assert set(kept) == {f"AdamW.{name}.{key}" for name in names for key in ("exp_avg", "exp_avg_sq", "step")}
    record = json.loads((tmp_path / "environment.json").read_text())
    assert record["seed"] == 0


def test_what_cannot_work_is_said_before_training(tiny, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_size is 8; it must be a multiple of 3"):
        tiny.train(tmp_path / "a", accumulate=3)

    def short(start: int) -> list[dict[str, torch.Tensor]]:
        return [{"x": torch.zeros(8, 4)}]

    options = TrainOptions(steps=3, precision="fp32", optim=Optim())
    with pytest.raises(ValueError, match="the batches ended, 8 samples in"):
        fit(tiny.Tiny(), short, 8, options, tmp_path / "b", device="cpu")
    with pytest.raises(ValueError, match="the loader gave 8 samples at once; expected 4"):
        fit(tiny.Tiny(), short, 4, options, tmp_path / "c", device="cpu")
    tiny.train(tmp_path / "d", steps=1)
    with pytest.raises(ValueError, match=r"step-0000001 is of another model.*Missing key"):
        fit(torch.nn.Sequential(torch.nn.Linear(4, 4)), short, 8, options, tmp_path / "d", device="cpu")


def test_a_learning_rate_that_jumps_is_told_with_its_numbers(tiny, tmp_path: Path, capsys) -> None:
    """Of a longer decay, and of another rate; not of the same run taken up, nor of more at a constant one."""
    falling = {"decay": "linear", "lr": 0.01, "warmup": 0}
    tiny.train(tmp_path, steps=4, optim=falling)
    tiny.train(tmp_path, steps=4, optim=falling)
    assert "learning rate" not in capsys.readouterr().out
    tiny.train(tmp_path, steps=8, optim=falling)
    out = capsys.readouterr().out
    assert "the learning rate rises from 0 to 0.005, where train.optim.decay=linear over train.steps=8 has it at" in out
    assert "at step 4; for another, set train.optim.decay=constant train.optim.lr=..." in out
    assert read_metrics(tmp_path / "metrics.jsonl")[4]["lr"] == pytest.approx(0.005)
    constant = {"decay": "constant", "lr": 0.002, "warmup": 0}
    tiny.train(tmp_path, steps=10, optim=constant)
    assert "the learning rate rises from 0 to 0.002, as train.optim now has it" in capsys.readouterr().out
    tiny.train(tmp_path, steps=12, optim=constant)
    assert "learning rate" not in capsys.readouterr().out
