"""Checks of what a network is made of: attention, products in each precision, memory, compiled blocks."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vidiff.engine.checkpoint import pinned
from vidiff.engine.compile import compile_blocks, objection
from vidiff.engine.parallel import choose_device
from vidiff.engine.precision import DTYPES, Precision, autocast, gpu_precision
from vidiff.nn.attention import BACKENDS, choose_backend, probe
from vidiff.nn.cast import cast_all, low_weights
from vidiff.nn.fused import choice
from vidiff.plan.estimate import machine_memory
from vidiff.plan.plan import convolution_rate
from vidiff.plan.sketch import sketch
from vidiff.recipe.load import find_config, load
from vidiff.selftest.check import Fails, Place, Seen, Skipped
from vidiff.selftest.timing import seconds_of

HEADS, HEAD_DIM = 4, 64
SEQUENCES = {"time": (16_384, 16), "joint": (8, 1024)}  # number and tokens, as in the recipe ucf for 8 clips or so


def precisions(device: torch.device) -> list[Precision]:
    """Those that are worth a look: fp16 has no kernels on most CPUs."""
    return ["fp32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]


def attention(place: Place) -> Seen:
    """Which backends agree with the formula, and how fast they are. Fails where none does, in any precision."""
    device, numbers = choose_device(place.device), dict[str, Any]()
    for precision in precisions(device):
        found: dict[str, Any] = {}
        for name in BACKENDS:
            if name == "xformers" and device.type == "cpu":
                continue  # it has no operators there
            reason = probe(name, device, DTYPES[precision], HEAD_DIM)
            found[name] = {"refused": reason} if reason else times_of(name, device, DTYPES[precision], place.quick)
        found["chosen"] = choose_backend(device, DTYPES[precision], HEAD_DIM)
        numbers[precision] = found
    return Seen(", ".join(f"{name} {found['chosen']}" for name, found in numbers.items()), numbers)


def times_of(backend: str, device: torch.device, dtype: torch.dtype, quick: bool) -> dict[str, float]:
    """Milliseconds of a forward and a backward pass, over time and over a whole clip."""
    times = {}
    for kind, (count, tokens) in SEQUENCES.items():
        count = max(1, count // (64 if quick or device.type == "cpu" else 1))
        shape = (count, tokens, HEADS, HEAD_DIM)
        q, k, v = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3))

        def passes(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
            BACKENDS[backend](q, k, v).square().sum().backward()

        times[f"{kind} {count}x{tokens}"] = round(1000 * seconds_of(passes, device, repeats_of(quick)), 3)
    return times


def fused(place: Place) -> Seen:
    """Whether kernels around attention agree with the formulas, and the milliseconds of both, forward and backward.
    Fails where Triton is there, and they do not."""
    device, numbers = choose_device(place.device), dict[str, Any]()
    if device.type != "cuda":
        raise Skipped("kernels around attention are for GPUs: on a CPU formulas serve")
    for precision in precisions(device):
        for part, sizes in (("norm", (HEADS * HEAD_DIM,)), ("attention", (HEADS, HEAD_DIM))):
            found = choice.probe(part, device, DTYPES[precision], sizes)
            times = {"plain_ms": round(1000 * found.plain, 3), "triton_ms": round(1000 * found.triton, 3)}
            numbers[f"{part} {precision}"] = {"refused": found.refused} if found.refused else times
    refused = {name: found["refused"] for name, found in numbers.items() if "refused" in found}
    if choice.ABSENT in refused.values():
        raise Skipped(choice.ABSENT)
    if refused:
        raise Fails(Seen(", ".join(f"{name}: {reason}" for name, reason in refused.items()), numbers))
    ratios = {name: found["plain_ms"] / max(found["triton_ms"], 1e-3) for name, found in numbers.items()}
    return Seen("times as fast: " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()), numbers)


def casts(place: Place) -> Seen:
    """Whether a network's weights have the same bits cast all at once as one by one, and the milliseconds of both."""
    device, numbers = choose_device(place.device), dict[str, Any]()
    if device.type != "cuda":
        raise Skipped("weights are cast all at once for GPUs: on a CPU autocast does it one by one")
    of = sketch(load(find_config("shapes")), find_config("shapes").parent, look=False)
    torch.manual_seed(0)
    weights = [weight.detach() for weight in of.build().to(device).parameters()]
    for precision in ("bf16", "fp16"):
        dtype = DTYPES[precision]
        pairs = zip(cast_all(weights, dtype), weights, strict=True)
        if bool(torch.stack([(low != weight.to(dtype)).any() for low, weight in pairs]).any()):
            raise Fails(Seen(f"weights that are cast to {precision} all at once have other bits", numbers))
        repeats = repeats_of(place.quick)
        one_by_one = seconds_of(partial(_each, weights, dtype), device, repeats)
        at_once = seconds_of(partial(cast_all, weights, dtype), device, repeats)
        numbers[precision] = {"one_by_one_ms": round(1000 * one_by_one, 3), "at_once_ms": round(1000 * at_once, 3)}
    ratios = {name: found["one_by_one_ms"] / max(found["at_once_ms"], 1e-3) for name, found in numbers.items()}
    told = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Seen(f"{len(weights)} weights, times as fast: {told}", numbers)


def _each(weights: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [weight.to(dtype) for weight in weights]


def repeats_of(quick: bool) -> int:
    """How often something is timed, of which the best counts."""
    return 2 if quick else 6


def products(place: Place) -> Seen:
    """TFLOP/s of a convolution in each precision, and how far it is from one in float64.

    Fails where fp32 is not what it is said to be: on a GPU products might be of TF32, which has a tenth of the digits.
    """
    device, numbers = choose_device(place.device), dict[str, Any]()
    generator = torch.Generator().manual_seed(0)
    x, kernel = torch.randn(2, 64, 16, 16, generator=generator), torch.randn(64, 64, 3, 3, generator=generator)
    exact = torch.nn.functional.conv2d(x.double(), kernel.double())
    for precision in precisions(device):
        dtype = DTYPES[precision]
        got = torch.nn.functional.conv2d(x.to(device, dtype), kernel.to(device, dtype)).double().cpu()
        error = float((got - exact).norm() / exact.norm())
        rate = convolution_rate(device, dtype, *((4, 64, 16) if place.quick else ()))
        numbers[precision] = {"tflops": round(rate / 1e12, 4), "error": error}
    line = ", ".join(f"{name} {found['tflops']:.3g} TFLOP/s" for name, found in numbers.items())
    if not numbers["fp32"]["error"] < 1e-5:
        raise Fails(Seen(f"products in fp32 are off by {numbers['fp32']['error']:.1e} of their size", numbers))
    return Seen(line, numbers)


def memory(place: Place) -> Seen:
    """How much there is, and how fast it is: within the device, and between it and pinned memory."""
    device, gb = choose_device(place.device), 2**30
    size = (64 if place.quick or device.type == "cpu" else 1024) << 20
    repeats = repeats_of(place.quick)
    one, other = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    numbers: dict[str, Any] = {"copy_gb_s": 2 * size / seconds_of(lambda: one.copy_(other), device, repeats) / 1e9}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        there = pinned(size)
        numbers |= {"total_gb": total / gb, "free_gb": free / gb}
        for name, into, source in (("to_device_gb_s", one, there), ("from_device_gb_s", there, one)):
            copy = lambda into=into, source=source: into.copy_(source, non_blocking=True)  # noqa: E731
            numbers[name] = size / seconds_of(copy, device, repeats) / 1e9
    else:
        numbers["total_gb"] = machine_memory() / gb
    return Seen(f"{numbers['total_gb']:.1f} GB, copied at {numbers['copy_gb_s']:,.0f} GB/s, both ways counted", numbers)


def compiled(place: Place) -> Seen:
    """Whether blocks compute the same once they are compiled, and how much faster a step then is."""
    device = choose_device(place.device)
    changes = ["unet.width=32", "unet.head_dim=16", "unet.blocks=[1]", "unet.multipliers=[1]"]
    changes += ["unet.temporal_attention=[]", "unet.joint_attention=[0]", "data.frames=8", "sampling.context=4"]
    of = sketch(load(find_config("shapes"), changes * place.quick), find_config("shapes").parent, look=False)
    precision: Precision = gpu_precision() if device.type == "cuda" else "fp32"
    torch.manual_seed(0)
    objective = of.build().to(device)
    given = {name: value.to(device) for name, value in content(of.batch(2 if place.quick else 8)).items()}
    with low_weights(objective, device, DTYPES[precision]), autocast(device, precision):
        reason = objection(objective, given, precision)
    if reason and "Compiler" in reason and device.type == "cpu":
        raise Skipped(f"there is no compiler that torch could use: {reason}")
    if reason:
        raise Fails(Seen(f"blocks are not compiled: {reason}", {"objection": reason}))

    def step() -> None:
        with low_weights(objective, device, DTYPES[precision]):
            with autocast(device, precision):
                loss = objective(given)["loss"]
            loss.backward()

    repeats = repeats_of(place.quick)
    before = seconds_of(step, device, repeats)
    compile_blocks(objective)
    began = time.perf_counter()
    step()
    took, after = time.perf_counter() - began, seconds_of(step, device, repeats)
    numbers = {"eager_s": before, "compiled_s": after, "first_step_s": took, "precision": precision}
    return Seen(f"a step in {precision} is {before / after:.2f} times as fast", numbers)


def content(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with something in it."""
    return {name: torch.randn_like(x) if x.is_floating_point() else x for name, x in batch.items()}
