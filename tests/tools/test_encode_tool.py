"""`tools/encode.py`, as a user runs it: real processes, a tiny autoencoder, and a shapes set of tiny clips."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vidiff.train import main as train

ROOT = Path(__file__).parents[2]
VAE = """\
kind: vae
name: tiny_vae
device: cpu
batch: 2
data: {root: data, layout: shapes, shapes: {size: 32, frames: 6, train: 2, test: 1}, size: 32, frames: 2, workers: 0}
vae: {channels: 3, width: 8, multipliers: [1, 1], patch: 2}
train: {steps: 2, precision: fp32}
"""
MODEL = """\
kind: diffusion
name: tiny
device: cpu
batch: 2
data:
  {root: data, layout: shapes, shapes: {size: 32, frames: 6, train: 2, test: 1}, size: 32, frames: 6, shard_mb: 0.01}
codec: {config: vae.yaml}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {context: 3}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs, clips, an autoencoder, and a cache that nothing has disturbed in `runs`."""
    place = tmp_path_factory.mktemp("place")
    (place / "vae.yaml").write_text(VAE)
    (place / "tiny.yaml").write_text(MODEL)
    said = refused(place, "tiny.yaml")
    assert said.endswith("the autoencoder in runs/tiny_vae is not trained: run python -m vidiff.train vae.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["vae.yaml"]) == 0
    shutil.copytree(place / "runs", place / "clean")
    said = run(place, "tiny.yaml")
    assert "train (video): 8 of 8 shards in runs/latents/" in said and said.count("complete") == 2
    return place


def start(place: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    command = [*arguments] if arguments[0] == "-m" else [str(ROOT / "tools/encode.py"), *arguments]
    return subprocess.Popen([sys.executable, *command], cwd=place, env=environment, text=True, **pipes)


def run(place: Path, *arguments: str, code: int = 0) -> str:
    process = start(place, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in said, said
    return said


def refused(place: Path, *arguments: str) -> str:
    return run(place, *arguments, code=2).strip().splitlines()[-1]


def latents(place: Path, runs: str) -> dict[str, bytes]:
    folder = place / runs / "latents"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mistakes(place: Path) -> None:
    assert "'2/2' is no part: give i/n with i from 0 to n - 1" in refused(place, "tiny.yaml", "--shard", "2/2")
    assert refused(place, "vae.yaml").startswith("error: a run of kind vae has no latents")
    assert "data.crops is 0; give 1 or more" in refused(place, "tiny.yaml", "data.crops=0")
    assert "data.shard_mb is 0.0; give megabytes above 0" in refused(place, "tiny.yaml", "data.shard_mb=0")
    assert "data.latent_dtype is 'float32'; choose float16" in refused(place, "tiny.yaml", "data.latent_dtype=float32")


def test_parts_by_the_command_are_what_one_process_makes(place: Path) -> None:
    shutil.copytree(place / "clean", place / "parts")
    said = run(place, "tiny.yaml", "runs=parts", "--shard", "1/2", "--split", "train")
    assert "4 of 8 shards" in said and "the others are still to come" in said
    run(place, "tiny.yaml", "runs=parts", "--shard", "0/2")
    said = run(place, "tiny.yaml", "runs=parts", "--shard", "1/2")
    assert said.count("complete") == 2
    assert latents(place, "parts") == latents(place, "runs")
    shutil.rmtree(place / "parts")


def test_another_codec_is_told(place: Path) -> None:
    said = run(place, "tiny.yaml", "data.flip=true", "--split", "test")
    assert "with data.flip=False" in said and "remove it if no run needs it" in said
    assert "was made" not in run(place, "tiny.yaml", "data.flip=true", "--split", "test"), "once"
    for path in list((place / "runs/latents").iterdir()):
        if path.is_dir() and path.name not in {Path(name).parts[0] for name in latents(place, "runs")}:
            shutil.rmtree(path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_leaves_nothing_half_made(place: Path, number: int, code: int) -> None:
    shutil.copytree(place / "clean", place / "stopped")
    process = start(place, "tiny.yaml", "runs=stopped")
    until = time.monotonic() + 120
    while not list((place / "stopped").glob("latents/*/.*.lock")):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in said, said
    assert "stopped; the same command goes on from what is finished" in said
    assert not [name for name in latents(place, "stopped") if name.endswith((".partial", "index.json"))]
    shutil.rmtree(place / "stopped")


@pytest.mark.slow
def test_all_processes_of_torchrun_encode(place: Path) -> None:
    shutil.copytree(place / "clean", place / "many")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = run(place, *torchrun, str(ROOT / "tools/encode.py"), "tiny.yaml", "runs=many")
    assert said.count("complete") == 2, "one of them tells"
    assert latents(place, "many") == latents(place, "runs")
    shutil.rmtree(place / "many")


@pytest.mark.slow
@pytest.mark.faults
def test_two_commands_killed_at_random_end_with_the_same_bytes(place: Path) -> None:
    shutil.copytree(place / "clean", place / "killed")
    chance, killed = random.Random(1), 0
    processes = [start(place, "tiny.yaml", "runs=killed") for _ in range(2)]
    while killed < 4:
        until = time.monotonic() + chance.uniform(3, 6)
        while time.monotonic() < until and not list((place / "killed").glob("latents/*/.*.lock")):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        victim = chance.randrange(2)
        processes[victim].kill()
        processes[victim].communicate()
        killed += processes[victim].returncode == -9
        processes[victim] = start(place, "tiny.yaml", "runs=killed")
    for process in processes:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert latents(place, "killed") == latents(place, "runs")
    shutil.rmtree(place / "killed")
