"""A GPU that is not there: CUDA tensors that have a shape and no content, beside CPU tensors as they are.

A small shim lets a CPU build of torch hold them; it must be loaded before torch is, and so in a process of its own. An
`AbsentGpu` then looks at each operation: which make the program wait for the device, which mix devices, and how
many kernels there would be. It cannot see what kernels do, nor how long they take.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def load_shim() -> None:
    """Compile the shim, once for each torch, and load it."""
    assert "torch" not in sys.modules, "the shim must be loaded before torch"
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.submodule_search_locations
    torch_folder = Path(spec.submodule_search_locations[0])
    source = FOLDER / "shim.cpp"
    stamp = max((torch_folder / "version.py").stat().st_mtime_ns, source.stat().st_mtime_ns)
    library = Path(tempfile.gettempdir()) / f"absent-gpu-{stamp}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            draft = Path(folder) / library.name
            flags = ["-std=c++20", "-O0", "-fPIC", "-shared", f"-I{torch_folder / 'include'}"]
            links = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu"]
            subprocess.run(["g++", *flags, str(source), "-o", str(draft), *links], check=True)
            draft.replace(library)
    for name in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(torch_folder / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library))


load_shim()

import pytest  # noqa: E402
import torch  # noqa: E402
import torch.cuda.amp.common  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

aten = torch.ops.aten
GPU = torch.device("cuda:0")
ANSWERS: dict[str, Any] = {  # of torch.cuda, as if there were one GPU of the H100's kind
    "is_available": True,
    "is_initialized": True,
    "_lazy_init": None,
    "current_device": 0,
    "set_device": None,
    "device_count": 1,
    "get_device_name": "absent",
    "get_device_capability": (9, 0),
    "is_bf16_supported": True,
    "max_memory_allocated": 0,
    "mem_get_info": (80 << 30, 80 << 30),
    "synchronize": None,
    "set_rng_state": None,
    "manual_seed": None,
    "manual_seed_all": None,
    "is_current_stream_capturing": False,
}
WAITING = {  # whose result has a size that the content decides, or that check it
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.repeat_interleave,
    aten._linalg_check_errors,
}
NO_KERNEL = {
    aten.empty,
    aten.empty_strided,
    aten.empty_like,
    aten.new_empty,
    aten.new_empty_strided,
    aten.detach,
    aten.lift_fresh,
    aten._unsafe_view,
    torch.ops.prim.device,
}
PLACING = {aten.index, aten.index_put, aten.index_put_}


def pretend(patch: pytest.MonkeyPatch) -> None:
    """torch.cuda says that there is a GPU, and modules may be moved to it."""
    for name, answer in ANSWERS.items():
        patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.zeros(16, dtype=torch.uint8))
    patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    patch.setattr(torch.nn.utils.clip_grad, "_has_foreach_support", lambda *_: True)  # which looks for plain tensors

    def apply(self: nn.Module, change: Any, recurse: bool = True) -> nn.Module:
        for part in self.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = change(buffer)
        return self

    patch.setattr(nn.Module, "_apply", apply)
    patch.setattr(Tensor, "pin_memory", _pinned)
    # As torch does it in C++ for a true one: all numbers at once, and not one by one.
    patch.setattr(FakeTensor, "tolist", lambda tensor: tensor.cpu().tolist())


def _pinned(tensor: Tensor) -> Tensor:
    """As it is, where it could be copied into memory of its own strides, as a true GPU's driver has it done."""
    if not isinstance(tensor, FakeTensor) and torch._debug_has_internal_overlap(tensor) == 1:
        raise RuntimeError("unsupported operation: more than one element refers to a single memory location")
    return tensor


class AbsentGpu(TorchDispatchMode):
    """Looks at every operation inside.

    Attributes:
        waits: how often the program waited for the device, by what and where.
        mixed: operations on tensors of several devices, or with a generator of another one, by what and where.
        kernels: how many there would be.
        moved: bytes that these would read and write, each tensor once a kernel, as if there were no caches.
        names: which kernels there were, and how often.
        complex: operations with complex numbers, by where.
        truth: what is answered where the program asks for a bool on the GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode(allow_non_fake_inputs=True)
        self.truth = False
        self.reset()

    def reset(self) -> None:
        self.waits: Counter[str] = Counter()
        self.mixed: Counter[str] = Counter()
        self.complex: Counter[str] = Counter()
        self.kernels, self.moved = 0, 0
        self.names: Counter[str] = Counter()

    def __enter__(self) -> AbsentGpu:
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is then seen as a copy
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._lifts)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        asked = kwargs.get("device")
        target = torch.device(asked).type if asked is not None else tensors[0].device.type if tensors else "cpu"
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != target:
            self.mixed[f"{packet}: a generator on {generator.device.type} for {target}, {where()}"] += 1
        if target != "cuda" and not any(isinstance(x, FakeTensor) for x in tensors):
            return func(*args, **kwargs)  # the CPU's own, for real
        if packet is torch.ops.prim.device:
            return args[0].fake_device
        if packet is aten._local_scalar_dense:
            self.waits[f"item, {where()}"] += 1
            kind = args[0].dtype
            return self.truth if kind == torch.bool else 0.5 if kind.is_floating_point else 1
        self._look(packet, args, kwargs, tensors, target)
        if packet in PLACING:
            args = self._without_masks(packet, args)
        with self.fakes:
            result = func(*tree_map_only(Tensor, self._faked, args), **tree_map_only(Tensor, self._faked, kwargs))
        if packet not in NO_KERNEL and not func.is_view:
            count = launches(packet, args)
            self.kernels += count
            self.names[str(packet)] += count
            read = args[1:] if packet is aten.copy_ else args  # what is there is only written over
            self.moved += sum(map(touched, tree_leaves((read, kwargs, result))))
        if packet is aten.copy_:
            return args[0]
        return tree_map_only(FakeTensor, fetched, result)

    def _faked(self, tensor: Tensor) -> FakeTensor:
        return tensor if isinstance(tensor, FakeTensor) else self.fakes.from_tensor(tensor)

    def _look(self, packet: Any, args: Any, kwargs: Any, tensors: list[Tensor], target: str) -> None:
        if packet in (aten._to_copy, aten.copy_):
            source, end = (args[0], target) if packet is aten._to_copy else (args[1], args[0].device.type)
            goes_on = kwargs.get("non_blocking") or (packet is aten.copy_ and len(args) > 2 and args[2])
            if source.device.type != end and not goes_on:
                self.waits[f"copy {source.device.type} to {end}, {where()}"] += 1
        elif len({x.device.type for x in tensors if x.ndim}) > 1 and packet not in PLACING:
            self.mixed[f"{packet}, {where()}"] += 1
        if packet in WAITING:
            self.waits[f"{packet}, {where()}"] += 1
        if any(x.is_complex() for x in tensors if x.device.type == "cuda"):
            self.complex[where()] += 1

    def _without_masks(self, packet: Any, args: Any) -> Any:
        """The same with as many places as a mask may name at most: how many it names, a fake tensor cannot tell."""

        def places(index: Tensor | None) -> list[Tensor | None]:
            if index is None or index.dtype != torch.bool:
                return [index]
            self.waits[f"{packet} by a mask, {where()}"] += 1
            with self.fakes:
                return [torch.zeros(index.numel(), dtype=torch.long, device=index.device) for _ in range(index.ndim)]

        return (args[0], [place for index in args[1] for place in places(index)], *args[2:])


def launches(packet: Any, args: Any) -> int:
    """Kernels of an operation: one, or, of lists of tensors, as many as CUDA's own take for them.

    A kernel takes so many tensors of each list, and 320 pieces of 65,536 numbers; where those of several lists are laid
    out in different ways, they go one by one, but for the optimizer's, which cannot.
    """
    name = str(packet)
    if not name.startswith(("aten._foreach", "aten._fused_adamw")):
        return 1
    lists = [x for x in args if isinstance(x, (list, tuple)) and x and isinstance(x[0], Tensor)]
    lists = [x for x in lists if x[0].ndim] or lists[:1]  # numbers, such as of steps, come along
    alike = all(one.stride() == other.stride() for row in lists for one, other in zip(row, lists[0], strict=True))
    if name.startswith("aten._foreach") and not alike:
        return len(lists[0])
    most = {1: 110, 2: 64, 3: 48, 4: 36}[len(lists)]
    pieces = sum(math.ceil(x.numel() / 65_536) for x in lists[0])
    return max(math.ceil(len(lists[0]) / most), math.ceil(pieces / 320))


def touched(x: Any) -> int:
    """Bytes of a tensor, one that is expanded counted as what it is expanded from; 0 of anything else."""
    if not isinstance(x, Tensor) or x.device.type != "cuda":
        return 0
    return x.element_size() * math.prod(size for size, stride in zip(x.shape, x.stride(), strict=True) if stride)


def fetched(tensor: Tensor) -> Tensor:
    """What a copy to the CPU holds: zeros, for nobody knows."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.device.type == "cpu" else tensor


def where() -> str:
    """The innermost two lines of vidiff on the stack."""
    frame, lines = sys._getframe(2), list[str]()
    while frame is not None and len(lines) < 2:
        name = frame.f_code.co_filename
        if "/vidiff/" in name and "/tests/" not in name:
            lines.append(f"{name.rpartition('/vidiff/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines) or "autograd"
