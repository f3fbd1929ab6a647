"""`tools/benchmark.py` compares networks of equal size by turns, and fills docs/speed.md with what it finds."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import subprocess
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a file of tools/benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.chdir(ROOT)  # where recipes are

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return load


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A recipe whose model takes no time."""
    shape = "{width: 8, multipliers: [1], blocks: [1], joint_attention: [], temporal_attention: [0], head_dim: 8}"
    config = tmp_path / "small.yaml"
    config.write_text(
        f"base: {ROOT / 'configs' / 'shapes.yaml'}\nname: small\nunet: {shape}\n"
        "data: {frames: 6}\nsampling: {context: 3}\n"
    )
    return config


def measured(part: Any, out: Path, *arguments: str) -> dict[str, Any]:
    """What a measurement keeps, and what the page makes of it."""
    assert part("command").main([*arguments, "--threads", "1", "--json", str(out)]) == 0
    found = json.loads(out.read_text())[arguments[0]]
    shown = part("page").filled(f"<!-- measured: {arguments[0]} -->\n<!-- end -->", {arguments[0]: found})
    assert found["machine"]["versions"]["torch"] in shown and "1 of " in shown
    return found


@pytest.mark.parametrize(
    ("size", "multipliers", "width", "blocks"),
    [
        (10_592_788, (1, 2, 4), 64, [2, 3, 2]),  # video-diffusion-pytorch 0.7.0's Unet3D(dim=64)
        (14_909_723, (1, 2, 4), 80, [2, 2, 2]),  # imagen-pytorch 2.1.0's
        (29_519_172, (1, 2, 4), 112, [2, 2, 2]),  # diffusers'
        (35_709_460, (1, 2, 4, 8), 64, [2, 2, 3, 2]),  # the first with its default multipliers
    ],
)
def test_a_plan_is_found_that_one_would_build(
    part: Any, size: int, multipliers: tuple[int, ...], width: int, blocks: list[int]
) -> None:
    networks = part("networks")
    plan = networks.matching(size, multipliers)
    assert (plan.width, plan.blocks) == (width, blocks)
    assert plan.head_dim >= 32 and width % plan.head_dim == 0
    with torch.device("meta"):
        assert networks.ours(plan).parameters == pytest.approx(size, rel=0.05)


def test_where_no_width_fits_the_command_says_so(part: Any) -> None:
    with pytest.raises(ValueError, match=r"no width gives \[1, 2, 4\] levels 10 parameters: choose another --dim"):
        part("networks").matching(10, (1, 2, 4))


@pytest.mark.parametrize("name", ["video-diffusion-pytorch", "imagen-pytorch", "diffusers"])
def test_a_peer_predicts_and_every_weight_of_it_learns(part: Any, name: str) -> None:
    if importlib.util.find_spec(name.replace("-", "_")) is None:
        pytest.skip(f"{name} is not installed: `make bench` does")
    side = part("peers").PEERS[name](32, (1, 2))
    x = torch.randn(1, 4, 2, 4, 4)
    out = side.predict(x)
    assert out.shape == x.shape
    (out + 1).square().sum().backward()
    learned = sum(p.numel() for p in side.network.parameters() if p.grad is not None)
    assert learned >= 0.99 * side.parameters


def test_sides_run_by_turns_and_ratios_are_of_rounds(part: Any) -> None:
    timing, order = part("timing"), []
    seconds = timing.in_turns({name: (lambda name=name: order.append(name)) for name in "abc"}, 3)
    assert "".join(order) == "abccbaabccba"  # one round warms up
    assert {name: len(column) for name, column in seconds.items()} == dict.fromkeys("abc", 3)
    assert timing.ratio([2, 6, 4], [1, 2, 4]) == {"median": 2, "min": 1, "max": 3}
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert timing.flops(lambda: a @ b) == 2 * 3 * 4 * 5


def test_a_step_is_measured_against_a_peer(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size of no time, with vidiff on the peer's side as well, so that no peer is needed, and memory in this
    process, where that twin is known."""
    networks, steps = part("networks"), part("steps")
    plan = networks.config(16, (1, 2), (1, 1))
    monkeypatch.setattr(steps, "SHAPES", ((2, 4, 2, 4, 4),))
    monkeypatch.setattr(steps, "FRAMES", (16, 32))
    monkeypatch.setattr(steps, "matching", lambda size, multipliers: plan)
    monkeypatch.setattr(steps, "PEERS", {"twin": lambda dim, multipliers: networks.ours(plan)})
    monkeypatch.setattr(steps, "machine_rates", lambda: {"fp32": 1e12, "bf16": 1e12, "copy": 1e10})
    monkeypatch.setattr(steps, "chosen_precision", lambda side, shape: "bf16")
    monkeypatch.setattr(steps, "run_fresh", lambda function, **given: 1 + steps.peak_of_step(**given))
    out, few = tmp_path / "found.json", ["--peers", "twin", "--multipliers", "1", "2", "--dim", "16", "--rounds", "1"]
    train = measured(part, out, "train", *few)
    assert not part("command").parse(["train", "--no-memory"]).memory
    (memory,) = train["memory"]
    assert memory["peer"] == "twin" and memory["ratio"] == memory["ours"] / memory["theirs"] > 0
    forward = measured(part, out, "forward", *few)
    for found in (train, forward):
        (row,) = found["rows"]
        assert row["ours"]["flops"] == row["theirs"]["flops"] > 0
        assert row["precision"] == "bf16" and row["ratio_chosen"]["median"] > 0
        assert row["ours"]["share"] == pytest.approx(row["ours"]["flops"] / row["ours"]["seconds"] / 1e12)
    assert train["rows"][0]["ours"]["flops"] > 2 * forward["rows"][0]["ours"]["flops"]
    assert train["rows"][0]["ours"]["bytes"] > 0
    apart, joint = (row["flops"] for row in forward["frames"])
    assert apart[1] < 1.1 < joint[1]  # linear in frames but for attention
    assert set(json.loads(out.read_text())) == {"train", "forward"}
    (page := tmp_path / "page.md").write_text("# Speed\n<!-- measured: train -->\nstale\n<!-- end -->\nend\n")
    assert part("command").main(["page", "--json", str(out), "--page", str(page)]) == 0
    assert "stale" not in page.read_text() and "| vidiff: width 16, [1, 2], blocks [1, 1] |" in page.read_text()
    assert (tmp_path / part("page").RATIOS).stat().st_size > 1000


def test_draws_are_measured(part: Any, small: Path, tmp_path: Path) -> None:
    """Memory of an extension is that of its own process, whatever this one holds."""
    out, few = tmp_path / "found.json", ["--config", str(small), "--steps", "2"]
    rows = measured(part, out, "sample", *few, "--rounds", "1")["rows"]
    assert all(0 < row["share"]["median"] <= 1 for row in rows)
    big = torch.zeros(1 << 30, dtype=torch.uint8) + 1
    found = measured(part, out, "extend", *few, "--windows", "3")
    assert len(found["seconds"]) == 3 and found["peak"] == sorted(found["peak"])
    assert found["peak"][-1] < big.nbytes <= part("fresh").peak()


def test_what_fails_in_a_process_of_its_own_is_told(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh, ended = part("fresh"), subprocess.CompletedProcess([], 1, "", "Traceback\nMemoryError: too large\n")
    monkeypatch.setattr(fresh.subprocess, "run", lambda *given, **options: ended)
    with pytest.raises(ValueError, match="nothing failed: MemoryError: too large"):
        fresh.run_fresh("benchmarks.fresh:nothing")


def test_guidance_costs_the_clips_that_it_asks_for(part: Any, small: Path, tmp_path: Path, monkeypatch) -> None:
    """Also beside a peer, in whose place is a network that does nothing, and for a guided pass waits."""

    class Still(torch.nn.Module):
        def __init__(self, **shape: Any) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            time.sleep(0.01)
            return x

        def forward_with_cond_scale(self, *given: torch.Tensor, cond_scale: float, **cond: torch.Tensor) -> None:
            for _ in range(2):
                self(*given, **cond)

    drawing = part("drawing")
    monkeypatch.setattr(drawing, "video_diffusion", lambda: SimpleNamespace(Unet3D=Still))
    tiny = part("networks").config(16, (1, 2), (1, 1))
    monkeypatch.setattr(drawing, "config", lambda *_: tiny)
    found = measured(part, tmp_path / "found.json", "guidance", "--config", str(small), "--steps", "2", "--rounds", "1")
    clips = {row["name"]: row["clips"] for row in found["rows"]}
    assert clips["none"] == 1 and clips["label"] == 2 and clips["label and history at once"] == 2
    assert clips["each by itself"] == 3
    assert found["passes"]["vidiff"]["median"] > 0
    assert found["passes"]["video-diffusion-pytorch"]["median"] == pytest.approx(2, rel=0.5)


def test_attention_is_measured_by_every_backend(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a plain layer of vidiff as the peer's."""
    attending = part("attending")
    monkeypatch.setattr(attending, "SHAPES", dict.fromkeys(attending.SHAPES, (1, 2, 4, 4)))
    monkeypatch.setattr(attending, "machine_rates", lambda: {"fp32": 1e12})
    monkeypatch.setattr(attending, "peer", lambda axis, width, shape: attending.layer(axis, width, "plain", shape))
    found = measured(part, tmp_path / "found.json", "attention", "--width", "16", "--rounds", "1")
    rows = {(row["axis"], row["name"]): row for row in found["rows"]}
    assert {("space", "vidiff, sdpa"), ("joint", "the kernel alone"), ("time", "video-diffusion-pytorch")} <= {*rows}
    for axis, sequences in {"time": [16, 2], "space": [2, 16], "joint": [1, 32]}.items():
        row = rows[axis, "vidiff, plain"]
        assert row["sequences"] == sequences and row["seconds"] > 0 and row["share"] > 0


def test_clips_are_read_by_every_reader(part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = part("load")
    monkeypatch.setattr(load, "ROWS", [load.Row((64, 64), 12, 32, 40)])
    monkeypatch.setattr(load, "COPIES", 2)
    folder = tmp_path / "films"
    few = ["--clips", "1", "--rounds", "1", "--data", str(folder)]
    rows = measured(part, tmp_path / "found.json", "load", *few)["rows"]
    assert [row["one_core"] for row in rows] == [False, True]
    for row in rows:
        assert {"default", "pyav", "one file", "plain PyAV", "unsought"} <= {*row["readers"]}
        assert row["readers"]["pyav"]["ratio"] == {"median": 1, "min": 1, "max": 1}
    assert sorted(path.name for path in folder.iterdir())[0] == "64x64-g12-0.mp4"


def test_latents_are_read_beside_clips_and_copies(part: Any, tmp_path: Path) -> None:
    few = ["--size", "32", "--files", "2", "--megabytes", "1", "--batch", "1", "--rounds", "2"]
    found = measured(part, tmp_path / "found.json", "latents", *few, "--scratch", str(tmp_path))
    assert found["decoding"]["ratio"] == pytest.approx(found["decoding"]["cached"] / found["decoding"]["decoded"])
    assert [row["kib"] for row in found["copying"]] == [2, 4, 16]
    assert min(min(row.values()) for row in found["copying"]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_each_measure_is_really_made_here(part: Any) -> None:
    """None can break unseen: every one runs in this file, at a size of no time."""
    made = re.findall(r'measured\(part, [^,]+, "(\w+)"', Path(__file__).read_text(encoding="utf-8"))
    assert {*made} == {*part("command").MEASURES}


def test_each_change_of_the_recipe_is_a_step(part: Any, small: Path, tmp_path: Path) -> None:
    found = measured(part, tmp_path / "found.json", "ablation", "--config", str(small), "--batch", "1", "--rounds", "1")
    names = [row["name"] for row in found["rows"]]
    assert names == list(part("ablation").variants(1, False)) and found["rows"][0]["ratio"]["median"] == 1


def test_all_runs_each_by_arguments_that_it_has(part: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command, ran = part("command"), []

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        assert Path(words[1]) == ROOT / "tools" / "benchmark.py"
        ran.append(command.parse(words[2:]))
        return subprocess.CompletedProcess(words, 2 if len(ran) == 3 else 0)

    monkeypatch.setattr(command.subprocess, "run", run)
    out = tmp_path / "found.json"
    assert command.main(["all", "--json", str(out), "--but", "train", "quality", "--threads", "3"]) == 2
    assert [args.command for args in ran] == [
        "forward",
        "attention",
        "sample",
    ]  # which failed, so the rest is not begun
    assert command.main(["all", "--json", str(out), "--threads", "3"]) == 0
    threads = {args.command: args.threads for args in ran[3:]}
    assert list(threads) == list(command.MEASURES) == list(part("page").SECTIONS)
    assert threads["train"] == 3 and threads["load"] == 1 and {args.json for args in ran} == {out}


@pytest.mark.parametrize(
    ("content", "said"), [("{", "is no JSON that can be read"), ("[]", "holds no figures"), (None, "is a folder")]
)
def test_a_file_that_could_not_take_figures_is_refused_before_hours_are_spent(
    part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, content: str | None, said: str
) -> None:
    command, out = part("command"), tmp_path / "found.json"
    out.mkdir() if content is None else out.write_text(content)
    never = replace(command.MEASURES["sample"], run=lambda args: pytest.fail("it was measured"))
    monkeypatch.setitem(command.MEASURES, "sample", never)
    assert command.main(["sample", "--json", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert content is None or out.read_text() == content


@pytest.mark.parametrize(
    ("missing", "told"),
    [("imagen_pytorch", True), ("video_diffusion_pytorch.trainer", True), ("matplotlib", True), ("torch.none", False)],
)
def test_only_what_is_not_installed_is_said_to_be(
    part: Any, monkeypatch: pytest.MonkeyPatch, capsys, missing: str, told: bool
) -> None:
    command = part("command")

    def run(args: argparse.Namespace) -> dict[str, Any]:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setitem(command.MEASURES, "sample", replace(command.MEASURES["sample"], run=run))
    if told:
        assert command.main(["sample"]) == 2
        assert f"{missing.split('.')[0]} is not installed; `make bench` installs" in capsys.readouterr().err
    else:
        with pytest.raises(ModuleNotFoundError, match=r"No module named 'torch\.none'"):
            command.main(["sample"])


def test_a_name_that_a_package_lacks_is_no_missing_package(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = part("command")

    def run(args: argparse.Namespace) -> dict[str, Any]:
        raise ImportError("cannot import name 'UNet3D' from 'diffusers'", name="diffusers")

    monkeypatch.setitem(command.MEASURES, "sample", replace(command.MEASURES["sample"], run=run))
    with pytest.raises(ImportError, match="cannot import name"):
        command.main(["sample"])


def test_where_a_curve_comes_down_to_an_error(part: Any) -> None:
    reached = part("quality").reached
    assert reached([(0, 1.0), (1, 0.5), (2, 0.25)], 0.375) == 1.5
    assert reached([(0, 1.0), (1, 0.5)], 0.4) is None
    assert reached([(0, 1.0), (1, 0.5), (2, 0.6)], 0.5) == 1


def test_a_side_of_quality_learns(part: Any, small: Path) -> None:
    """vidiff's: the error of the noise falls from 1, which an untrained network has."""
    quality = part("quality")
    args = part("command").parse(["quality", "--clips", "1", "--batch", "4", "--config", str(small)])
    clips, held_out = quality.data(args)
    assert clips.shape == held_out.shape == (len(quality.LABELS), 3, 16, 8, 8)
    assert clips.std(dim=(0, 2, 3, 4)).allclose(torch.ones(3), atol=1e-2)
    side = quality.ours(args, clips, 0)
    first = side.look(held_out[:4])
    side.learn(clips, 0.5)
    assert side.steps > 0 and side.look(held_out[:4]) < first


def test_quality_tells_when_vidiff_got_to_where_the_peer_ended(
    part: Any, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With vidiff on the peer's side as well, learning slowly, and a clock by which a step takes a second: by turns, or
    each side by itself, or waiting while it is ahead, vidiff gets there after the same minutes."""
    quality, now = part("quality"), count(0, 0.5)

    def slow(args: Any, clips: torch.Tensor, seed: int, rate: float, batch: int) -> Any:
        few = argparse.Namespace(**vars(args) | {"set": [f"train.optim.lr={rate}"], "batch": batch})
        return quality.ours(few, clips, seed)

    monkeypatch.setattr(quality, "theirs", slow)
    monkeypatch.setattr(quality, "RATES", (1e-6, 1e-4))
    monkeypatch.setattr(quality, "automatic", lambda *_: "fp32")
    monkeypatch.setattr(quality, "worked", lambda: next(now) * 2)
    few = ["--config", str(small), "--clips", "1", "--batch", "2", "--batches", "1", "2", "--seeds", "1"]
    few += ["--minutes", "0.5", "--slices", "5", "--set", "train.optim.lr=1e-3", "train.optim.warmup=1"]
    both = measured(part, tmp_path / "both.json", "quality", *few)
    assert [(trial["rate"], trial["batch"]) for trial in both["peer"]["trials"]] == [(1e-6, 1), (1e-4, 1), (1e-4, 2)]
    assert both["peer"]["rate"] == 1e-4 and 0 < both["runs"][0]["share"] < 1
    waiting = measured(part, tmp_path / "waiting.json", "quality", *few, "--stop")["runs"][0]
    assert waiting["minutes"] == both["runs"][0]["minutes"] and waiting["theirs"] == both["runs"][0]["theirs"]
    assert waiting["ours"]["steps"] < both["runs"][0]["ours"]["steps"] == 30
    alone = tmp_path / "alone.json"
    assert part("command").main(["quality", *few, "--sides", "theirs", "--threads", "1", "--json", str(alone)]) == 0
    figures = json.loads(alone.read_text())
    shown = part("page").quality(figures["quality"])
    assert "not measured" in shown and "not reached" not in shown
    (page := tmp_path / "page.md").write_text("<!-- measured: quality -->\n<!-- end -->\n")
    assert part("command").main(["page", "--json", str(alone), "--page", str(page)]) == 0
    assert (tmp_path / part("page").CURVES).stat().st_size > 1000
    assert measured(part, alone, "quality", *few, "--sides", "ours")["runs"] == both["runs"]
    other = [*few, "--sides", "ours", "--minutes", "1", "--json", str(alone), "--threads", "1"]
    assert part("command").main(["quality", *other]) == 2
    assert "had another minutes; run --sides theirs anew" in capsys.readouterr().err


def test_an_interrupt_leaves_a_curve_of_each_side(part: Any) -> None:
    """Also of one whose turn did not come: what was measured counts, and is kept."""

    class Side(SimpleNamespace):
        def look(self, held_out: None) -> None:
            self.curve.append((0.0, 1.0))

        def learn(self, clips: None, until: float) -> None:
            raise KeyboardInterrupt

    sides = {name: Side(curve=[], seconds=0.0) for name in ("theirs", "ours")}
    part("quality").train(SimpleNamespace(minutes=1, slices=2, stop=False), sides, None, (None, None))
    found = part("quality").outcome({name: vars(side) for name, side in sides.items()})
    assert found == {"minutes": 0, "share": None}


def test_a_stream_is_timed_against_windows(part: Any, small: Path, tmp_path: Path, capsys) -> None:
    """On a small network: every way has its row, and what is kept is as much at frame 2,000 as at frame 50."""
    found = measured(part, tmp_path / "found.json", "stream", "--config", str(small), "--frames", "4", "--steps", "2")
    names = [row["name"] for row in found["rows"]]
    assert names == [
        *("clean, context 3", "stream, context 3, chunk 1", "stream, context 3, chunk 2"),
        *("clean, context 4", "stream, context 4, chunk 1", "stream, context 4, chunk 2"),
        *("clean, context 5", "stream, context 5, chunk 1"),
    ]
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert found["bytes"]["50"] == found["bytes"]["2000"] > 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


def test_a_device_that_is_none_is_refused_in_a_line(part: Any, small: Path, capsys) -> None:
    assert part("command").main(["stream", "--config", str(small), "--device", "gpu"]) == 2
    error = capsys.readouterr().err
    assert error == "error: no such device: 'gpu'; give auto, cpu, cuda or cuda:0\n"


def test_a_frame_of_a_world_is_timed_part_by_part(part: Any, tmp_path: Path, capsys) -> None:
    """By a small recipe of as many steps as are asked for: the first of them looks at the finished frame as well."""
    shape = "{width: 8, multipliers: [1], blocks: [1], joint_attention: [], temporal_attention: [0], head_dim: 8}"
    config = tmp_path / "small.yaml"
    config.write_text(f"base: {ROOT / 'configs' / 'breakout.yaml'}\nname: small\nunet: {shape}\n")
    found = measured(part, tmp_path / "found.json", "play", "--config", str(config), "--frames", "3", "--steps", "2")
    calls = ["call 1 of the network, 2 frames", "call 2 of the network, 1 frame"]
    assert list(found["ms"]) == ["frame", *calls, "decoder"] and min(found["ms"].values()) > 0
    assert "frames a second" in capsys.readouterr().out


def test_the_page_says_what_was_measured(part: Any) -> None:
    page = part("page")
    text, figures = (ROOT / page.PAGE).read_text(encoding="utf-8"), ROOT / page.FIGURES
    assert text == page.filled(text, json.loads(figures.read_text()) if figures.exists() else {}), (
        "fill it again: python tools/benchmark.py page"
    )
    assert re.findall(r"<!-- measured: (\w+) -->", text) == list(page.SECTIONS)
