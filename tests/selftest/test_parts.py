"""What the checks see on this machine, and that they see what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vidiff.cli import main
from vidiff.nn import attention as kernels
from vidiff.nn.fused import choice
from vidiff.plan.plan import Device
from vidiff.recipe.kinds import RunConfig
from vidiff.selftest import clips, parts, runs
from vidiff.selftest.check import Fails, Finding, Place, Skipped, find
from vidiff.selftest.one import CHECKS


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"), "cpu", quick=True)


@pytest.mark.parametrize("name", ["products", "memory", "decoding"])
def test_a_check_works_here(name: str, place: Place) -> None:
    found = find(name, CHECKS[name], place)
    assert found.outcome == "works", found.error
    assert found.line and json.loads(json.dumps(found.numbers)) == found.numbers


def test_products_that_are_not_of_fp32_are_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of TF32 are not, with ten bits after the point."""
    real = torch.nn.functional.conv2d

    def rounded(x: torch.Tensor, kernel: torch.Tensor, *rest: object) -> torch.Tensor:
        cut = lambda y: (y.view(torch.int32) & ~0x1FFF).view(torch.float32) if y.dtype == torch.float32 else y  # noqa: E731
        return real(cut(x.detach()), cut(kernel.detach()), *rest)

    monkeypatch.setattr(parts.torch.nn.functional, "conv2d", rounded)
    with pytest.raises(Fails, match="products in fp32 are off by"):
        parts.products(place)


def test_a_backend_that_is_wrong_is_refused_and_another_is_taken(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.BACKENDS, "sdpa", lambda q, k, v, mask=None: 1.2 * kernels.plain(q, k, v, mask))
    monkeypatch.setattr(parts, "SEQUENCES", {"time": (64, 16)})
    for cached in (kernels.probe, kernels.choose_backend):
        cached.cache_clear()
    try:
        seen = parts.attention(place)
    finally:
        for cached in (kernels.probe, kernels.choose_backend):
            cached.cache_clear()
    assert seen.line == "fp32 plain, bf16 plain"
    assert "differs from the plain formula" in seen.numbers["fp32"]["sdpa"]["refused"]
    assert seen.numbers["bf16"]["plain"]["time 1x16"] > 0


@pytest.mark.parametrize("refused", [None, "they differ from the formulas by 1.0e-01", choice.ABSENT])
def test_kernels_around_attention_are_told_with_both_times(
    place: Place, monkeypatch: pytest.MonkeyPatch, refused: str | None
) -> None:
    with pytest.raises(Skipped, match="on a CPU formulas serve"):
        parts.fused(place)
    monkeypatch.setattr(parts, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(choice, "probe", lambda *_: choice.Found(refused, 4e-3, 1e-3))
    if refused is not None:
        with pytest.raises(Skipped if refused == choice.ABSENT else Fails, match=refused):
            parts.fused(place)
        return
    seen = parts.fused(place)
    assert seen.line.startswith("times as fast: norm fp32 4.00, attention fp32 4.00, norm bf16 4.00")
    assert seen.numbers["attention fp16"] == {"plain_ms": 4.0, "triton_ms": 1.0}


@pytest.mark.parametrize(
    ("device", "bf16", "planned"),
    [
        ("cpu", True, ("cpu", "auto")),
        ("cuda", True, ("a100", "bf16")),
        ("cuda:1", True, ("l40s", "bf16")),
        ("cuda:1", False, ("l40s", "fp16")),
    ],
)
def test_a_training_is_planned_for_the_device_that_takes_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, device: str, bf16: bool, planned: tuple[str, str]
) -> None:
    """Where there are two GPUs, and in the precision that training would choose there."""
    names, found = ("NVIDIA A100-SXM4-80GB", "NVIDIA L40S"), list[tuple[str, str]]()

    def properties(which: torch.device) -> SimpleNamespace:
        return SimpleNamespace(name=names[which.index or 0], total_memory=48 << 30)

    def planner(config: RunConfig, folder: Path, device: Device, gpus: int) -> None:
        found.append((device.name, config.train.precision))
        raise Skipped("it would plan now")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(runs, "choose_device", torch.device)
    monkeypatch.setattr(runs, "Planner", planner)
    with pytest.raises(Skipped, match="it would plan now"):
        runs.training(replace(place, device=device))
    assert found == [planned]


def test_a_run_that_goes_on_with_other_bits_is_seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error where it must go on with the same, and else told."""
    folder, taken = place.folder / "runs" / "it", list[str]()

    def train(place: Place, name: str, *changes: str) -> Path:
        taken.append(name)
        end = folder / "checkpoints" / "step-0000006"
        end.mkdir(parents=True, exist_ok=True)
        (end / "model.safetensors").write_text("the same")
        (end / "ema.safetensors").write_text(f"{len(taken)}")
        return folder

    monkeypatch.setattr(runs, "train", train)
    with pytest.raises(Fails, match=r"other bits after 3 of 6 steps .*: ema.safetensors"):
        runs.goes_on(place, "it", must=True)
    told = runs.goes_on(place, "it", must=False)
    assert told.numbers["apart"] == ["ema.safetensors"] and "train.deterministic=true" in told.line
    shutil.rmtree(folder)


def test_a_clip_that_is_none_is_seen() -> None:
    for wrong in (torch.full((1, 3, 2, 4, 4), torch.nan), torch.full((1, 3, 2, 4, 4), 1.5)):
        with pytest.raises(Fails, match="ddim: numbers of a clip"):
            clips.check(wrong, "ddim", {})


def test_the_command_tells_what_failed_and_ends_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def made(names: list[str], place: Place, minutes: float) -> Iterator[Finding]:
        assert (names, place.device, place.quick, minutes) == ([*CHECKS], "cpu", False, 8.0)
        yield Finding("attention", "works", "fp32 sdpa", 1.0, {"fp32": {}})
        yield Finding("training", "fails", "RuntimeError: no kernel", 2.0, error="Traceback ...")
        yield Finding("decoding", "no time", "not begun")

    monkeypatch.setattr("vidiff.selftest.check.find_all", made)
    assert main(["selftest", "--device", "cpu", "--json", str(tmp_path / "found.json")]) == 1
    said = capsys.readouterr().out
    assert "attention      works        1 s  fp32 sdpa\n" in said and "training: Traceback ...\n" in said
    assert said.endswith("1 of 3 checks work; training failed\n")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["outcome"] for one in found["checks"]] == ["works", "fails", "no time"]
    assert found["asked"] == {"device": "cpu", "minutes": 8.0} and found["machine"]["versions"]["torch"]


@pytest.mark.slow
def test_the_command_makes_every_check_and_writes_them_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vidiff.cli.measure.selftest.QUICK", 61)
    assert main(["selftest", "--device", "cpu", "--minutes", "60", "--json", "found.json"]) == 0
    said, found = capsys.readouterr().out, json.loads((tmp_path / "found.json").read_text())
    assert [one["name"] for one in found["checks"]] == [*CHECKS]
    assert {one["outcome"] for one in found["checks"]} <= {"works", "skipped"}, said
    by_name = {one["name"]: one for one in found["checks"]}
    assert {name for name in CHECKS if by_name[name]["outcome"] == "skipped"} <= {"compile", "fused", "casts"}, said
    assert by_name["training"]["numbers"]["clips_per_second"] > 0
    assert by_name["training"]["numbers"]["clips_per_second_planned"] > 0
    assert by_name["resume"]["numbers"] == by_name["deterministic"]["numbers"] == {"files": 3, "apart": []}
    assert found["machine"]["versions"]["torch"] and found["machine"]["cpus"] > 0
    assert str(tmp_path) not in json.dumps(found["machine"])
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
