"""TensorBoard, Weights & Biases and Trackio, each read back by its own means."""

from __future__ import annotations

import io
import json
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from vidiff.engine.options import TrainOptions
from vidiff.report import sinks
from vidiff.report.log import read_metrics
from vidiff.video.writer import write_video


def sampler(run: Path):
    """Writes two clips of 4 frames for a step."""

    def sample(step: int) -> None:
        for name in (f"step-{step:07d}", f"step-{step:07d}-extended"):
            clip = torch.linspace(-1, 1, 4)[None, None, :, None, None].expand(1, 3, 4, 16, 32)
            write_video(run / "samples" / f"{name}.mp4", clip, fps=4)

    return {"sample": sample, "validate": lambda step: {"val/loss": float("nan") if step == 2 else step / 2}}


def test_tensorboard(tiny, tmp_path: Path) -> None:
    """Every number of metrics.jsonl at its step, once, also where a run went on; samples as pictures that move."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = {"log": ["tensorboard"], "sample_every": 2, "validate_every": 2, "callbacks": sampler(tmp_path)}
    tiny.train(tmp_path, steps=5, checkpoint_every=2, **given)
    shutil.rmtree(tmp_path / "checkpoints" / "step-0000005")  # as a kill before that save leaves it
    tiny.train(tmp_path, steps=6, **given)
    found = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for name in ("loss", "lr", "grad_norm", "val/loss"):
        wanted = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
        events = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in events] == [step for step, _ in wanted], name
        assert [value for _, value in events] == pytest.approx([value for _, value in wanted], rel=1e-6)
    assert set(found.Tags()["images"]) == {"samples", "samples-extended"}
    first = found.Images("samples")[0]
    with Image.open(io.BytesIO(first.encoded_image_string)) as picture:
        assert (picture.format, picture.n_frames, picture.size) == ("GIF", 4, (32, 16))
    assert (first.step, first.width, first.height) == (2, 32, 16)


def records(data: bytes) -> Iterator[bytes]:
    """Of a .wandb file: seven bytes, then LevelDB's log, blocks of 32 KiB of pieces (checksum, length, kind)."""
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (1 << 15) - place % (1 << 15) < 7:
            place += -place % (1 << 15)
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        if place + 7 + length > len(data):  # not written to its end yet
            return
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole one, or its last piece
            yield whole
            whole = b""


def test_wandb_offline(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Read back from the file that it would send."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    from wandb.proto.wandb_internal_pb2 import Record

    given = {"log": ["wandb"], "sample_every": 2, "callbacks": sampler(tmp_path)}
    tiny.train(tmp_path, steps=4, **given)
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline, record = time.monotonic() + 60, Record()
    while not record.HasField("exit"):  # the package's own process writes the file, and may do so after the run's end
        assert time.monotonic() < deadline, "the record of the run's end never came"
        logged: dict[int, dict[str, object]] = {}
        for data in records(file.read_bytes()):
            record.ParseFromString(data)
            if record.HasField("history"):
                items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                logged.setdefault(int(items["_step"]), {}).update(items)
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert {step: items["loss"] for step, items in logged.items()} == pytest.approx(
        {line["step"]: line["loss"] for line in lines}
    )
    assert {step for step, items in logged.items() if any("samples" in key for key in items)} == {2, 4}
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/videos/*.mp4"))) == 4


def test_trackio_on_this_machine(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read back by the package, after a training that goes on where it was stopped."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "kept"))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = tmp_path / "run"
    for steps in (2, 4):
        tiny.train(run, steps=steps, log=["trackio"], sample_every=2, callbacks=sampler(run))
    (name,) = SQLiteStorage.get_runs("vidiff")
    assert name.startswith("tiny ") and trackio.__version__
    logged: dict[int, dict[str, object]] = {}
    for row in SQLiteStorage.get_logs("vidiff", name):
        logged.setdefault(int(row["step"]), {}).update(row)
    lines = [line for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
    assert {step: items["loss"] for step, items in logged.items() if "loss" in items} == pytest.approx(
        {line["step"]: line["loss"] for line in lines}
    )
    assert {step for step, items in logged.items() if any("samples" in key for key in items)} == {2, 4}
    assert len(list((tmp_path / "kept").rglob("*.mp4"))) == 4


def test_what_fails_outside_is_told_and_left(tiny, runs, tmp_path: Path, monkeypatch, capsys) -> None:
    class Broken:
        def __init__(self, run: Path, title: str, step: int) -> None:
            assert step == 0

        def metrics(self, step: int, values: object) -> None:
            raise RuntimeError("no more quota")

        def sample(self, step: int, file: Path) -> None:
            pytest.fail("called again")

        def close(self) -> None:
            pytest.fail("called again")

    monkeypatch.setitem(sinks.SINKS, "wandb", Broken)
    tiny.train(tmp_path / "run", log=["wandb"], sample_every=2, callbacks=sampler(tmp_path / "run"))
    assert capsys.readouterr().out.count("wandb failed (no more quota) and gets no more; training goes on") == 1
    tiny.train(tmp_path / "plain")
    runs.assert_same(tmp_path / "run", tmp_path / "plain")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"train.log has 'tensorbord'; choose tensorboard, wandb, trackio"):
        TrainOptions(log=["tensorbord"])
    with pytest.raises(ValueError, match="give each once"):
        TrainOptions(log=["wandb", "wandb"])
    with pytest.raises(ValueError, match=r"train.hang is -1; give 0 \(never\) or more seconds"):
        TrainOptions(hang=-1)
    with pytest.raises(ValueError, match=r"train.spike is nan; give 0 \(never\) or more deviations"):
        TrainOptions(spike=float("nan"))
