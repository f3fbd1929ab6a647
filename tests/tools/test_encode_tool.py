"""`tools/encode.py` on a tiny autoencoder and tiny clips; in processes of its own where that matters."""

from __future__ import annotations

import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from prepared import prepare_latents

from vidiff.data.latents.shard import turn
from vidiff.recipe.kinds import DiffusionRun
from vidiff.recipe.load import load
from vidiff.store.error import DataError
from vidiff.store.files import claimed
from vidiff.store.plain import read_json
from vidiff.train import main as train
from vidiff.training.datasets import latent_dataset

ROOT = Path(__file__).parents[2]
MAIN = runpy.run_path(str(ROOT / "tools/encode.py"))["main"]
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
codec: {config: vae.yaml, least: 0}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {context: 3}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configs, clips, an autoencoder (in `clean`), and a cache that nothing has disturbed (in `runs`)."""
    place = tmp_path_factory.mktemp("place")
    (place / "vae.yaml").write_text(VAE)
    (place / "tiny.yaml").write_text(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert train(["vae.yaml"]) == 0
        shutil.copytree("runs", "clean")
        assert MAIN(["tiny.yaml"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command, in this process: what it says. It must end with `code`."""

    def called(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert MAIN(list(arguments)) == code
        return "".join(capsys.readouterr())

    return called


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


def latents(place: Path, runs: str) -> dict[str, bytes]:
    folder = place / runs / "latents"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mistakes(call: Callable[..., str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        MAIN(["tiny.yaml", "--shard", "2/2"])
    for argument, said in [
        ("runs=untrained", "the autoencoder in untrained/tiny_vae is not trained: run vidiff train vae.yaml"),
        ("data.crops=0", "data.crops is 0; give 1 or more"),
        ("data.shard_mb=0", "data.shard_mb is 0.0; give megabytes above 0, such as 64"),
        ("data.latent_dtype=float32", "data.latent_dtype is 'float32'; choose float16, bfloat16"),
    ]:
        assert said in call("tiny.yaml", argument, code=2)
    assert "error: a run of kind vae has no latents" in call("vae.yaml", code=2)


def test_parts_by_the_command_are_what_one_process_makes(place: Path, call: Callable[..., str]) -> None:
    shutil.copytree("clean", "parts")
    said = call("tiny.yaml", "runs=parts", "--shard", "1/2", "--split", "train")
    assert "train (video): 4 of 8 shards in parts/latents/" in said and "the others are still to come" in said
    call("tiny.yaml", "runs=parts", "--shard", "0/2")
    said = call("tiny.yaml", "runs=parts", "--shard", "1/2")
    assert said.count("complete") == 2
    assert latents(place, "parts") == latents(place, "runs")


def test_a_cache_that_another_config_made_is_named(call: Callable[..., str]) -> None:
    shutil.copytree("runs", "other")
    options = ("tiny.yaml", "runs=other", "data.flip=true", "--split", "test")
    said = call(*options)
    assert "was made with data.flip=False" in said and "remove it if no run needs it" in said
    assert "was made" not in call(*options), "once"


def test_a_training_reads_caches_elsewhere(place: Path, call: Callable[..., str]) -> None:
    shutil.copytree("clean", "reader")
    url = f"data.latents=file://{place}/runs/latents"
    found = load("tiny.yaml", ["runs=reader", url])
    assert isinstance(found, DiffusionRun)
    prepared = prepare_latents(found, Path())
    batch = latent_dataset(found, prepared.index, prepared.seen, prepared.seen).__getitems__([(0, 1), (1, 2)])
    assert not Path("reader/latents").exists() and list(Path("reader/remote/copies").iterdir())
    own = load("tiny.yaml")
    assert isinstance(own, DiffusionRun)
    prepared = prepare_latents(own, Path())
    expected = latent_dataset(own, prepared.index, prepared.seen, prepared.seen).__getitems__([(0, 1), (1, 2)])
    assert all(torch.equal(batch[name], expected[name]) for name in expected)
    said = call("tiny.yaml", "runs=reader", url, code=2)
    assert "/runs/latents, where caches are read: give a folder to make them in" in said
    with pytest.raises(DataError, match=r"file://.* is not a finished latent cache: copy one there"):
        prepare_latents(load("tiny.yaml", ["runs=reader", url, "data.flip=true"]), Path())


def test_flipped_bits_are_mended_before_a_training(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree("runs", "flipped")
    found = load("tiny.yaml", ["runs=flipped"])
    assert isinstance(found, DiffusionRun)
    (shard, *_) = sorted(Path("flipped/latents").glob("*/latents-00003.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    prepare_latents(found, Path())
    assert f"{shard} is missing or damaged: it is made again" in capsys.readouterr().out
    assert latents(place, "flipped") == latents(place, "runs")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_leaves_nothing_half_made(place: Path, number: int, code: int) -> None:
    stopped = place / f"stopped{code}"
    shutil.copytree(place / "clean", stopped)
    with ExitStack() as held:  # another process is at the last part of each cache, so this one cannot be done too soon
        for cache in place.glob("runs/latents/*/index.json"):
            last = stopped / "latents" / cache.parent.name / read_json(cache)["shards"][-1]["file"]
            assert held.enter_context(claimed(turn(last)))
        process = start(place, "tiny.yaml", f"runs=stopped{code}")
        until = time.monotonic() + 300
        while not list(stopped.glob("latents/*/latents-*.safetensors")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        process.send_signal(number)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == code and "Traceback" not in said, said
    assert "stopped; the same command goes on from what is finished" in said
    assert not [name for name in latents(place, f"stopped{code}") if name.endswith((".partial", "index.json"))]


@pytest.mark.slow
def test_all_processes_of_torchrun_encode(place: Path) -> None:
    shutil.copytree(place / "clean", place / "many")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = run(place, *torchrun, str(ROOT / "tools/encode.py"), "tiny.yaml", "runs=many")
    assert said.count("complete") == 2, "one of them tells"
    assert latents(place, "many") == latents(place, "runs")


@pytest.mark.slow
def test_all_processes_of_a_training_encode_and_mend(place: Path) -> None:
    shutil.copytree(place / "clean", place / "trained")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vidiff.train")
    command = (*torchrun, "tiny.yaml", "runs=trained", "train.steps=1", "train.precision=fp32")
    run(place, *command)
    whole = latents(place, "runs")
    assert latents(place, "trained") == whole
    damaged = next(name for name in whole if name.endswith("00002.safetensors"))
    (place / "trained/latents" / damaged).write_bytes(bytes(len(whole[damaged])))
    assert run(place, *command).count("is missing or damaged: it is made again") == 1
    assert latents(place, "trained") == whole


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
