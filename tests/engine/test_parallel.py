from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import Runs

from vidiff.engine import checkpoint
from vidiff.engine.model import Model
from vidiff.engine.parallel import PATIENCE, Group, choose_device, processes
from vidiff.report.log import read_metrics

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_one_process_needs_nothing() -> None:
    with processes("cpu") as group, processes("cpu") as again:
        assert group == again == Group(torch.device("cpu"), 0, 1)
        module = torch.nn.Linear(1, 1)
        assert Model(module, group).call is module
        assert group.gather("x") == ["x"]
        assert group.share(3) == 3
        assert group.reduce_sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]
        group.barrier()


FREED = """
import resource, torch
from vidiff.engine.parallel import processes

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        pieces = [torch.zeros(3_000_000) for _ in range(4)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
with processes("cpu"):
    faults()
    print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such thresholds")
@pytest.mark.parametrize("own", [False, True], ids=["ours", "the user's"])
def test_memory_that_is_freed_is_not_taken_anew(own: bool) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    environment = plain | ({"MALLOC_MMAP_THRESHOLD_": "100000"} if own else {})
    done = subprocess.run([sys.executable, "-c", FREED], env=environment, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 100_000) == own, "pages of 4 KiB; one pass asks for 234,000"
    assert own or int(done.stdout) < 1000


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="torch finds no GPU here"):
        choose_device("cuda:1")
    with pytest.raises(ValueError, match="no such device: 'gpu'"):
        choose_device("gpu")
    with pytest.raises(
        ValueError, match="device is mps, on which vidiff does not run: samplers and grids count in float64"
    ):
        choose_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = list[torch.device]()
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    with pytest.raises(ValueError, match="device is cuda:2, but there are 2 GPUs here, numbered from 0"):
        choose_device("cuda:2")
    assert choose_device("auto") == torch.device("cuda") and not current
    assert choose_device("cuda:1") == torch.device("cuda:1") and current == [torch.device("cuda:1")]
    monkeypatch.setenv("WORLD_SIZE", "2")  # by torchrun: each process has its own, whatever a config names
    monkeypatch.setenv("LOCAL_RANK", "1")
    for name in ("auto", "cuda", "cuda:0"):
        assert choose_device(name) == torch.device("cuda:1")
    assert choose_device("cpu") == torch.device("cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32  # by the older names too
    with torch.backends.cudnn.flags(enabled=False):
        assert not torch.backends.cudnn.enabled


def test_two_processes_are_one(tiny, tmp_path: Path) -> None:
    """Two by torchrun, stopped on the way, then one: the same course as one process throughout.

    Each takes half of each batch, in two parts. A sample of the second process is bad in step 3, and neither may move.
    """
    options = {"noise": 0.0, "accumulate": 2, "bad": [2 * 8 + 7], "steps": 60, "checkpoint_every": 4}
    run, mark = tmp_path / "run", tmp_path / "mark"
    faults = {"hold": [8 * 6], "mark": str(mark)}  # in step 7 the first process waits, and so do both
    path = os.pathsep.join(filter(None, [str(HERE), *sys.path]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*TORCHRUN, str(HERE / "tiny.py"), json.dumps({"run": str(run), "faults": faults, **options})]
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300

    def wait(condition: Callable[[], bool]) -> None:
        while not condition():
            assert time.monotonic() < until
            assert launcher.poll() is None, (tmp_path / "run.out").read_text()
            time.sleep(0.01)

    wait(mark.exists)
    launcher.send_signal(signal.SIGTERM)
    wait(lambda: "SIGTERM: finishing this step and saving" in (tmp_path / "run.out").read_text())
    Path(f"{mark}.go").touch()
    launcher.wait(100)
    stopped = len(read_metrics(run / "metrics.jsonl"))
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None
    assert found.name == f"step-{stopped:07d}"
    assert stopped == 7
    assert len(checkpoint.load(found).state["random"]) == 2

    options["steps"] = stopped + 4
    tiny.train(run, **options)
    tiny.train(tmp_path / "one", **options)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "one")]
    assert [line["step"] for line in lines[0]] == list(range(1, stopped + 5))
    assert (
        "step 3 skipped: its loss or gradients are not finite (samples 16, 17, 18, 19, 20, 21, 22, 23)"
        in (tmp_path / "run.out").read_text()
    )
    assert [line["skipped"] for line in lines[0]] == [0, 0] + [1] * (stopped + 2)
    for name in ("loss", "error", "grad_norm"):
        values = [[line[name] for line in part if line["step"] != 3] for part in lines]
        assert values[0] == pytest.approx(values[1], rel=1e-5), name
    for which in ("model", "ema"):
        one, other = (checkpoint.load_weights(tmp_path / name, which) for name in ("run", "one"))
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=1e-5, atol=1e-6)


PATIENT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from vidiff.engine.checkpoint import Saver
from vidiff.engine.model import make_mesh
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import processes

with processes("cpu") as group:
    groups = {"all": dist.group.WORLD, "saver": Saver(Path(sys.argv[1]), group, print)._wire}
    for parallel, shards in ("fsdp", 0), ("hsdp", 1), ("hsdp", 2):
        mesh = make_mesh(group, TrainOptions(parallel=parallel, shards=shards))
        for name in mesh.mesh_dim_names:
            ranks = dist.get_process_group_ranks(mesh.get_group(name))
            groups[f"{parallel} {shards} {name} {ranks}"] = mesh.get_group(name)
    if group.main:
        for name, one in groups.items():
            print(name, one._get_backend(torch.device("cpu")).options._timeout, sep="=")
"""


def test_no_group_of_processes_waits_shorter_than_another(tmp_path: Path, runs: Runs) -> None:
    """A day, as PATIENCE says: what takes long is for the watch over each process to judge."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": runs.port(), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PATIENT, str(tmp_path)],
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=100)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert dict(line.split("=") for line in said[0].splitlines() if "=" in line) == dict.fromkeys(
        (
            "all",
            "saver",
            "fsdp 0 shard [0, 1]",
            "hsdp 1 copy [0, 1]",
            "hsdp 1 shard [0]",
            "hsdp 2 copy [0]",
            "hsdp 2 shard [0, 1]",
        ),
        str(PATIENCE),
    )
