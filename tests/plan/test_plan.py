"""Plans: time and cost by arithmetic, and the first settings that fit."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidiff.plan.estimate import GB, LIBRARIES
from vidiff.plan.plan import FILLED, GPUS, Device, Planner, this_cpu
from vidiff.recipe.load import load

ROOT = Path(__file__).parents[2]
SMALL = ["unet.width=32", "unet.blocks=[1,1]", "unet.head_dim=16", "batch=8", "data.frames=4", "sampling.context=1"]


def planner(
    device: Device, gpus: int, *changes: str, recipe: str = "shapes.yaml", price: float | None = None
) -> Planner:
    return Planner(load(ROOT / "configs" / recipe, changes), ROOT / "configs", device, gpus, price=price)


def with_room(extra: int, device: str = "a100") -> Device:
    """With so many bytes beside the libraries that may be filled."""
    return replace(GPUS[device], memory=math.ceil((LIBRARIES[True] + extra) / FILLED))


def test_time_and_cost_are_arithmetic() -> None:
    one = planner(GPUS["h100"], 1, *SMALL, "train.optim.name=adamw", price=3.6).given()
    two = planner(GPUS["h100"], 2, *SMALL, "train.optim.name=adamw", price=3.6).given()
    assert one is not None and two is not None
    assert one.precision == "bf16"
    pairs = one.estimate.work.items()
    assert sum(flops * count for (flops, _), count in pairs) == one.estimate.flops > 0
    longer = sum(count * max(flops / (0.5 * 989e12), moved / (0.8 * 3.35e12)) for (flops, moved), count in pairs)
    assert one.seconds == pytest.approx(longer, rel=1e-12)
    whole = replace(GPUS["h100"], bandwidth=None, used={"bf16": 0.3})  # as --mfu says it
    assert whole.seconds(one.estimate, "bf16") == pytest.approx(one.estimate.flops / (0.3 * 989e12), rel=1e-12)
    assert one.cost == pytest.approx(one.steps * one.seconds / 1000, rel=1e-12)  # 3.6 an hour is 0.001 a second
    weights = 40 * 4 * one.estimate.parameters / (0.8 * 3.35e12)  # at most: the optimizer's, casts, their gradients
    assert one.seconds / 2 < two.seconds < one.seconds / 2 + weights  # all but weights is halved
    assert two.cost == pytest.approx(two.steps * two.seconds / 500, rel=1e-12)


def test_what_fits_is_left_as_it_is() -> None:
    made = planner(GPUS["a100"], 2, *SMALL)
    given = made.given()
    assert given is not None and given.fits and not given.changes
    assert made.proposal().changes == []


@pytest.mark.slow
def test_the_first_that_fits_costs_least() -> None:
    """With ever less memory: more parts, then recomputed levels, then shards, then nothing. Of clips whose activations
    outweigh the weights that are cast: of smaller ones recomputed levels would free nothing."""
    clips = [*SMALL, "data.size=128", "data.frames=16"]

    def needed(*changes: str) -> int:
        plan = planner(GPUS["a100"], 2, *clips, *changes).given()
        assert plan is not None
        return plan.estimate.total - LIBRARIES[True]

    def proposed(room: int) -> list[str]:
        plan = planner(with_room(room), 2, *clips).proposal()
        assert plan.fits
        return plan.changes

    recomputed = ["train.accumulate=4", "unet.checkpoint=[0,1]"]
    sizes = [
        needed(),
        needed("train.accumulate=4"),
        needed("train.accumulate=4", "unet.checkpoint=[0]"),
        needed(*recomputed),
        needed(*recomputed, "train.parallel=fsdp"),
    ]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 5
    assert proposed(sizes[0]) == []
    assert proposed(sizes[0] - 1) == ["train.accumulate=2"]
    assert proposed(sizes[1] - 1) == ["train.accumulate=4", "unet.checkpoint=[0]"]
    assert proposed(sizes[2] - 1) == recomputed
    assert proposed(sizes[3] - 1)[-1] == "train.parallel=fsdp"
    with pytest.raises(ValueError, match=r"nothing fits .* train.parallel=fsdp a step still needs"):
        proposed(sizes[4] // 100)


def test_a_proposal_is_a_config_that_runs_as_planned() -> None:
    """Its changes, given to the config, lead to the same plan without a proposal."""
    device = with_room(20 << 20)
    proposal = planner(device, 3, *SMALL).proposal()
    assert proposal.changes[0] == "batch=9"
    again = planner(device, 3, *SMALL, *proposal.changes).given()
    assert again is not None and again.fits
    assert again.estimate == proposal.estimate


def test_a_batch_that_does_not_divide_has_no_plan_of_its_own() -> None:
    assert planner(GPUS["a100"], 3, *SMALL).given() is None


def test_several_machines_may_shard_within_each() -> None:
    """hsdp comes before fsdp, as it sends less between machines; on one machine it would be the same."""
    many = planner(GPUS["a100"], 16, *SMALL, "batch=16")
    kinds = [config.train.parallel for _, config in many.ways()]
    assert list(dict.fromkeys(kinds)) == ["ddp", "hsdp", "fsdp"]
    assert {config.train.parallel for _, config in planner(GPUS["a100"], 8, *SMALL).ways()} == {"ddp", "fsdp"}
    asked = planner(GPUS["a100"], 8, *SMALL, "train.parallel=fsdp").ways()
    assert {config.train.parallel for _, config in asked} == {"fsdp"}


def test_groups_that_do_not_divide_are_no_way() -> None:
    """Of 12 GPUs, 8 of them in a machine: none is tried, whether groups were asked for or not."""
    some = planner(GPUS["a100"], 12, *SMALL)
    assert [config.train.parallel for _, config in some.ways()] == ["ddp", "ddp", "ddp", "fsdp", "fsdp", "fsdp"]
    assert some.proposal().changes == ["batch=12"]
    asked = planner(GPUS["a100"], 12, *SMALL, "train.parallel=hsdp")
    assert {config.train.parallel for _, config in asked.ways()} == {"fsdp"}


@pytest.mark.parametrize(("gpus", "kinds"), [(1, ["ddp"]), (8, ["hsdp", "fsdp"]), (6, ["fsdp"])])
def test_groups_that_were_asked_for_go_with_no_other_kind(gpus: int, kinds: list[str]) -> None:
    """The size of a group is taken back where another kind is tried, so that this is a config."""
    asked = [*SMALL, f"batch={gpus}", "train.parallel=hsdp", "train.shards=4"]
    ways = list(planner(GPUS["a100"], gpus, *asked).ways())
    assert list(dict.fromkeys(config.train.parallel for _, config in ways)) == kinds
    for changes, config in ways:
        assert config.train.shards == (4 if config.train.parallel == "hsdp" else 0)
        assert ("train.shards=0" in changes) == (config.train.parallel != "hsdp")
    if gpus == 8:  # all of them, to the last
        with pytest.raises(ValueError, match="nothing fits"):
            planner(with_room(-(1 << 29)), gpus, *asked).proposal()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "batch"), [("", 8), ("_vae", 4), ("_classifier", 16)])
def test_the_time_of_a_step_here_is_as_predicted(kind: str, batch: int) -> None:
    """To a factor of two, on this CPU, whose rate is measured in turn with the steps."""
    made = planner(this_cpu(), 1, f"batch={batch}", "train.precision=fp32", recipe=f"shapes{kind}.yaml")
    objective = made.sketch.build()
    given = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in made.sketch.batch(batch).items()}
    predicted, measured = [], []
    for _ in range(3):
        made.device = this_cpu()
        plan = made.given()
        assert plan is not None
        predicted.append(plan.seconds)
        began = time.perf_counter()
        objective(given)["loss"].backward()
        measured.append(time.perf_counter() - began)
    print(f"predicted {min(predicted):.2f} s, measured {min(measured):.2f} s")
    assert min(predicted) / 2 < min(measured) < min(predicted) * 2


def test_lines_say_what_facts_say() -> None:
    plan = planner(GPUS["h100"], 2, *SMALL, price=2.0).given()
    assert plan is not None
    facts, text = plan.facts(), "\n".join(plan.lines())
    assert facts["memory_total"] == sum(facts["memory"].values()) == plan.estimate.total
    assert f"{facts['parameters']:,}" in text and f"{plan.estimate.total / GB:,.2f} GB: fits" in text
    assert "2 x h100, 80 GB each" in text and "50% of 989 TFLOP/s" in text and "80% of the memory's 3.35 TB/s" in text
    assert f"{facts['bytes_per_step_and_device'] / 1e9:,.3g} GB on each, in blocks that are not compiled" in text
    assert f"{facts['operations_per_step_and_device']:,} on each" in text
