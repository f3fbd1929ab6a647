"""The kernels in Triton's interpreter, on a CPU, compute what the formulas do, forward and backward."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.nn import blocks, fused
from vidiff.nn.blocks import Attention, ResBlock
from vidiff.nn.cache import Cache
from vidiff.nn.fused import choice, ops
from vidiff.nn.unet import UNet, UNetConfig

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
CPU = torch.device("cpu")
REAL = SimpleNamespace(norm=ops.norm, enter=ops.enter, leave=ops.leave)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton decides what its kernels are as they are made, at the first import of them in this process."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    from triton.runtime.interpreter import InterpretedFunction

    from vidiff.nn.fused import kernels

    if not isinstance(kernels.norm, InterpretedFunction):
        pytest.skip("this process has made the kernels for a GPU: set TRITON_INTERPRET=1 before it starts")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the operators that are called from here on."""
    seen = list[str]()

    def watch(name: str) -> None:
        real = getattr(REAL, name)
        monkeypatch.setattr(ops, name, lambda *given: (seen.append(name), real(*given))[1])

    for name in ("norm", "enter", "leave"):
        watch(name)
    return seen


def results(module: nn.Module, work: Callable[[Tensor, Tensor], Tensor], x: Tensor, clock: Tensor) -> list[Tensor]:
    """Output, and the gradients of both inputs and of all parameters."""
    x, clock = x.detach().requires_grad_(), clock.detach().requires_grad_()
    y = work(x, clock)
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    wanted = [p for p in (x, clock, *module.parameters()) if p.requires_grad]
    grads = torch.autograd.grad(y, wanted, along, allow_unused=True)
    return [y.detach(), *(torch.zeros_like(p) if g is None else g for p, g in zip(wanted, grads, strict=True))]


def agree(ours: list[Tensor], theirs: list[Tensor], exact: list[Tensor]) -> None:
    """To 1e-5 in float32; in bf16 to its rounding, of what float32 gives. What the interpreter writes in bf16 it cuts
    off, which a GPU rounds: that doubles what is off."""
    for number, (one, other, true) in enumerate(zip(ours, theirs, exact, strict=True)):
        assert one.shape == other.shape and one.dtype == other.dtype
        size = float(true.double().norm()) + 1e-3
        if ours[0].dtype == torch.float32:
            assert float((one - other).norm()) <= 1e-5 * size, number
            continue
        off, allowed = (float((x.double() - true.double()).norm()) for x in (one, other))
        assert off <= 3 * allowed + 2**-7 * size, (number, off, allowed, size)


def clip(channels: int, frames: int, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * frames, channels, height, width, generator=generator)
    clock = 3 * torch.randn(2 * frames, 1, height, width, generator=generator)
    return x.to(dtype).contiguous(memory_format=torch.channels_last), clock


TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
WAYS = (("plain", torch.float32), ("plain", None), ("triton", None))  # setting, and precision if not the test's


@needs_triton
@TYPES
@pytest.mark.parametrize(("channels", "head_dim"), [(96, 48), (96, 96), (20, 10)])
@pytest.mark.parametrize(
    ("axis", "frames", "causal"),
    [("space", 3, False), ("time", 5, False), ("time", 5, True), ("joint", 3, True), ("joint", 1, False)],
)
def test_attention_is_as_by_formulas(
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    channels: int,
    head_dim: int,
    axis: str,
    frames: int,
    causal: bool,
) -> None:
    torch.manual_seed(0)
    layer = Attention(channels, axis, head_dim, causal=causal)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    given, outcomes = clip(channels, frames, 3, 5, dtype), []
    for setting, wanted in WAYS:
        layer.fused, seen, own = setting, counted(monkeypatch), wanted or dtype
        with torch.autocast("cpu", own, enabled=own != torch.float32):
            work = lambda x, clock, own=own: layer(x.to(own), clock, frames)  # noqa: E731
            outcomes.append(results(layer, work, *given))
        assert seen == (["norm", "enter", "leave"] if setting == "triton" else [])
    agree(outcomes[2], outcomes[1], outcomes[0])


@needs_triton
@TYPES
@pytest.mark.parametrize(("inputs", "outputs", "height"), [(20, 20, 3), (48, 96, 1), (130, 7, 2)])
@pytest.mark.parametrize("modulation", ["film", "adain"])
def test_a_residual_block_is_as_by_formulas(
    interpreter: None,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    inputs: int,
    outputs: int,
    height: int,
    modulation: str,
) -> None:
    torch.manual_seed(0)
    block, outcomes = ResBlock(inputs, outputs, 12, modulation, spatial_convs=2), []
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, _ = clip(inputs, 3, height, 5, dtype)
    emb = torch.randn(6, 12, generator=torch.Generator().manual_seed(3))
    for setting, wanted in WAYS:
        seen, own = counted(monkeypatch), wanted or dtype
        for part in (block.modulate_space, block.modulate_second, block.modulate_time):
            part.fused = setting
        with torch.autocast("cpu", own, enabled=own != torch.float32):
            outcomes.append(results(block, lambda x, emb, own=own: block(x.to(own), emb, 3), x, emb))
        assert seen == ["norm"] * 3 * (setting == "triton" and modulation == "film")
    agree(outcomes[2], outcomes[1], outcomes[0])


@needs_triton
@pytest.mark.parametrize("axis", ["time", "joint"])
def test_a_stream_goes_on_as_by_formulas(interpreter: None, monkeypatch: pytest.MonkeyPatch, axis: str) -> None:
    """What a cache holds is turned by formulas; norm and way out are kernels."""
    layer, said = Attention(24, axis, 12, causal=True), []
    x, clock = clip(24, 5, 3, 2, torch.float32)
    x, clock = x[:5], clock[:5]
    for setting in ("plain", "triton"):
        layer.fused, seen, cache = setting, counted(monkeypatch), Cache(window=3)
        cache.grows = True
        with torch.no_grad():
            said.append(torch.cat([layer(x[at : at + n], clock[at : at + n], n, cache) for at, n in ((0, 3), (3, 2))]))
        assert seen == ["norm", "leave"] * 2 * (setting == "triton")
    torch.testing.assert_close(said[1], said[0], rtol=1e-5, atol=1e-5)


@needs_triton
def test_a_network_with_text_is_as_by_formulas(interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention to the text is the same formulas with both."""
    config = {"channels": 3, "width": 24, "head_dim": 12, "blocks": [1, 1], "text_dim": 6, "spatial_attention": [0]}
    x, generator = torch.randn(2, 3, 3, 4, 4), torch.Generator().manual_seed(0)
    condition = Condition(text=torch.randn(2, 5, 6, generator=generator), text_mask=torch.ones(2, 5, dtype=torch.bool))
    clock, outcomes, weights = torch.randn(2, 1, 3, 4, 4, generator=generator), [], None
    for setting in ("plain", "triton"):
        torch.manual_seed(0)
        network, seen = UNet(UNetConfig(**config, fused=setting)), counted(monkeypatch)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        weights = weights or network.state_dict()
        network.load_state_dict(weights)
        outcomes.append(results(network, lambda x, clock, net=network: net(x, clock, condition), x, clock))
        blocks = 5  # two down, one in the middle, two up, of which two have two attentions and three have one
        assert seen.count("enter") == (7 if setting == "triton" else 0)
        assert seen.count("norm") == (2 * blocks + 7 + 1 if setting == "triton" else 0)
    agree(outcomes[1], outcomes[0], outcomes[0])


@needs_triton
@pytest.mark.parametrize("part", choice.CASES)
def test_in_fp16_kernels_are_as_near_to_the_truth_as_formulas(
    interpreter: None, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """In which the interpreter rounds as a GPU does."""
    for name in ("FRAMES", "SIDE"):
        monkeypatch.setattr(choice, name, 3)
    for case in choice.CASES[part]((20,) if part == "norm" else (2, 10)):
        half = [case.inputs[0].half(), *case.inputs[1:]]
        exact = choice.run(case.plain, [half[0].float(), *half[1:]])
        for one, other, true in zip(choice.run(case.fused, half), choice.run(case.plain, half), exact, strict=True):
            off, allowed = (float((x.float() - true).norm() / true.norm()) for x in (one, other))
            assert off <= allowed + 2**-12, (off, allowed)


@needs_triton
def test_a_compiler_takes_the_kernels_where_they_are_asked_for(
    interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, (x, clock) = Attention(24, "joint", 12, fused="triton"), clip(24, 3, 2, 2, torch.float32)
    around = layer.around(clock, 3, None)
    compiled = torch.compile(lambda x, clock: layer(x, clock, 3, None, around), backend="aot_eager", fullgraph=True)
    outcomes = [results(layer, work, x, clock) for work in (compiled, lambda x, clock: layer(x, clock, 3))]
    agree(outcomes[0], outcomes[1], outcomes[1])


@needs_triton
@pytest.mark.parametrize("part", choice.CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_probe_finds_the_kernels_right_and_wrong_ones_wrong(
    interpreter: None, monkeypatch: pytest.MonkeyPatch, part: str, dtype: torch.dtype
) -> None:
    for name in ("FRAMES", "SIDE"):
        monkeypatch.setattr(choice, name, 3)
    choice.probe.cache_clear()
    sizes = (20,) if part == "norm" else (2, 10)
    found = choice.probe(part, CPU, dtype, sizes)
    assert found.refused is None and found.plain > 0 and found.triton > 0
    choice.probe.cache_clear()
    name = "norm" if part == "norm" else "leave"
    monkeypatch.setattr(ops, name, lambda *given: 1.2 * getattr(REAL, name)(*given))
    refused = choice.probe(part, CPU, dtype, sizes).refused
    assert refused is not None and refused.startswith("they differ from the formulas by")
    choice.probe.cache_clear()


@needs_triton
def test_operators_say_the_shapes_that_they_give(interpreter: None) -> None:
    """As compilers need them, forward and backward; and that nothing else is written to."""
    x, clock = clip(36, 3, 2, 5, torch.float32)
    table, turn = torch.randn(6, 72), torch.randn(2, 10, 3)
    for op, given in (
        (ops.norm, (x.requires_grad_(), table.requires_grad_(), True)),
        (ops.norm, (x, torch.randn(36, requires_grad=True), False)),
        (ops.enter, (x, torch.ones(6, requires_grad=True), torch.ones(2), clock, turn, "space", 3)),
        (ops.enter, (x, torch.ones(6), torch.ones(2, requires_grad=True), clock, turn[:, :3], "time", 3)),
        (ops.leave, (torch.randn(6, 10, 2, 6, requires_grad=True), turn, "space", 3, 2, 5)),
    ):
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


class TestChoice:
    """On a GPU that is not there: what is asked of the probe, and what becomes of its answer."""

    def on_gpu(self, monkeypatch: pytest.MonkeyPatch, found: choice.Found) -> None:
        monkeypatch.setattr(choice, "probe", lambda *_: found)
        choice._chosen.cache_clear()

    class Clip:
        device, dtype = torch.device("cuda:0"), torch.bfloat16

    @pytest.mark.parametrize(
        ("found", "used", "said"),
        [
            (choice.Found(None, 2e-3, 1e-3), True, "by kernels (1.00 ms, and 2.00 by formulas)"),
            (choice.Found(None, 1e-3, 2e-3), False, "by formulas (2.00 ms, and 1.00 by formulas)"),
            (choice.Found("RuntimeError: none"), False, "no kernels for norm on cuda:0 in torch.bfloat16"),
        ],
    )
    def test_the_faster_is_used_and_that_is_said_once(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        found: choice.Found,
        used: bool,
        said: str,
    ) -> None:
        self.on_gpu(monkeypatch, found)
        monkeypatch.setattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda x: False)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                assert choice.serves("norm", self.Clip, "auto", 64) == used
        assert [said in record.message for record in caplog.records] == [True]
        choice._chosen.cache_clear()

    def test_where_runs_are_to_be_the_same_no_time_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_gpu(monkeypatch, choice.Found(None, 1e-3, 2e-3))
        assert choice._chosen("norm", CPU, torch.float32, (8,), True)
        choice._chosen.cache_clear()

    def test_without_triton_a_probe_says_so_and_asking_for_it_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        choice.probe.cache_clear()
        assert choice.probe("norm", CPU, torch.float32, (8,)).refused == "Triton is not installed"
        choice.probe.cache_clear()
        monkeypatch.setattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda x: False)
        with pytest.raises(ValueError, match=r"unet\.fused is \"triton\", but Triton is not installed: pip install"):
            choice.serves("norm", self.Clip, "triton", 64)

    def test_where_nothing_is_learned_no_time_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Two processes that time alike to a hair would else draw different clips of the same seed."""
        monkeypatch.setattr(torch._C._functorch, "is_functorch_wrapped_tensor", lambda x: False)
        for times in ((1e-3, 2e-3), (2e-3, 1e-3)):
            self.on_gpu(monkeypatch, choice.Found(None, *times))
            with torch.no_grad():
                assert choice.serves("norm", self.Clip, "auto", 64)
            assert choice.serves("norm", self.Clip, "auto", 64) == (times[1] < times[0])
        self.on_gpu(monkeypatch, choice.Found("they differ"))
        with torch.no_grad():
            assert not choice.serves("norm", self.Clip, "auto", 64)
        choice._chosen.cache_clear()

    def test_kernels_start_on_the_device_of_what_they_are_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which in another thread need not be the current one."""
        inside, seen = list[torch.device](), list[str]()

        @contextmanager
        def on(device: torch.device) -> Iterator[None]:
            inside.append(device)
            yield
            inside.pop()

        class Kernel:
            def __init__(self, name: str) -> None:
                self.name = name

            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                def start(*given: object, **more: object) -> None:
                    assert inside == [x.device for x in given if isinstance(x, Tensor)][:1]
                    seen.append(self.name)

                return start

        names = ("norm", "norm_back", "enter", "enter_back", "leave")
        monkeypatch.setitem(sys.modules, "vidiff.nn.fused.kernels", SimpleNamespace(**{n: Kernel(n) for n in names}))
        monkeypatch.setattr(fused, "kernels", sys.modules["vidiff.nn.fused.kernels"], raising=False)
        monkeypatch.setattr(ops, "on", on)
        x, clock = clip(36, 3, 2, 5, torch.float32)
        table, turn = torch.randn(6, 72), torch.randn(2, 10, 3)
        with torch.no_grad():
            y = REAL.norm(x, table, True)
            ops.norm_back(y, x, table, True)
            q, k, v = REAL.enter(x, torch.ones(6), torch.ones(2), clock, turn, "space", 3)
            ops.enter_back([q, k, v], x, torch.ones(6), turn, "space", 3)
            ops.leave_back(REAL.leave(q, turn, "space", 3, 2, 5), turn, "space", 3, 6)
        assert seen == [*names, "leave"] and not inside
        monkeypatch.undo()
        assert ops.on(torch.device("cuda:1")).idx == 1 and isinstance(ops.on(CPU), nullcontext)

    def test_a_probe_within_a_level_that_is_recomputed_is_no_part_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A formula stands for the kernel, and a CPU for a GPU."""

        def norm(x: Tensor, table: Tensor, modulated: bool) -> Tensor:
            (case,) = (case for case in choice.norm_cases((x.shape[1],)) if (case.inputs[1].ndim == 2) == modulated)
            return case.plain(x, table)[0]

        def serves(part: str, x: Tensor, setting: str, *sizes: int) -> bool:
            return part == "norm" and choice._chosen(part, x.device, x.dtype, sizes, True)

        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "triton" or find(name, *more))
        monkeypatch.setattr(ops, "norm", norm)
        monkeypatch.setattr(blocks, "serves", serves)
        choice.probe.cache_clear()
        choice._chosen.cache_clear()
        sizes = {"width": 8, "head_dim": 8, "multipliers": [1], "blocks": [1], "temporal_attention": []}
        network = UNet(UNetConfig(channels=3, joint_attention=[], checkpoint=[0], **sizes))
        network(torch.randn(1, 3, 2, 4, 4), torch.zeros(1, 1, 2, 4, 4), Condition()).square().sum().backward()
        assert choice.probe("norm", CPU, torch.float32, (8,)).refused is None
        choice.probe.cache_clear()
        choice._chosen.cache_clear()

    def test_a_cpu_takes_the_formulas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        assert not any(choice.serves("norm", torch.zeros(1, 8, 1, 1), setting, 8) for setting in choice.SETTINGS)


def test_programs_cover_all_rows() -> None:
    for rows in (1, 5, 100, 4097):
        for channels in (4, 48, 96, 1000):
            height, width = ops.tiles(rows, channels)
            count, steps = ops.programs(rows, channels)
            assert width >= channels and count * steps * height >= rows > (count - 1) * steps * height
            assert height * width <= max(ops.TILE, width)


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_are_compiled_for_gpus_that_are_not_there(capability: int, tmp_path: Path) -> None:
    """To the end, by the assembler that comes with Triton; in a process of its own, where nothing is interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["norm", "norm", "norm_back", "norm_back", "enter", "enter_back", "leave", "leave"]


COMPILE = """
import sys
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from vidiff.nn.fused import kernels, ops

HALF, FULL = "*bf16", "*fp32"
NORM = {"x": HALF, "table": HALF, "y": HALF, "grad": HALF, "of_x": HALF, "of_table": FULL}
HEADS = {name: HALF for name in ("x", "y", "q", "k", "v", "of_q", "of_k", "of_v", "of_x")}
HEADS |= {name: FULL for name in ("sharpness", "preference", "clock", "turn")}
HEADS |= {f"of_{name}": FULL for name in ("sharpness", "preference", "clock")}

def build(kernel, types, channels, **constants):
    constants["ROWS"], constants["WIDTH"] = ops.tiles(4096, channels)
    if "EPS" in kernel.arg_names:
        constants["EPS"] = ops.EPS
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    compiled = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", int(sys.argv[1]), 32))
    assert len(compiled.asm["cubin"]) > 1000
    print(kernel.fn.__name__)

for kernel in (kernels.norm, kernels.norm_back):
    for modulated in (True, False):
        build(kernel, NORM, 768, MODULATED=modulated)
for kernel in (kernels.enter, kernels.enter_back):
    build(kernel, HEADS, 64, TIME=True)
for backward in (True, False):
    build(kernels.leave, HEADS, 64, BACKWARD=backward, TIME=True)
"""
