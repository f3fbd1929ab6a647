"""A run in its folder: what is kept there, what damages it, which is the latest, and how another begins with it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pipelines import LABELS, VAE, clip, config, denoiser

from vidiff.codec.codec import Codec, Identity, VAECodec
from vidiff.codec.files import load_codec, save_codec
from vidiff.data.buckets import Bucket
from vidiff.data.options import DataConfig
from vidiff.engine import checkpoint
from vidiff.pipeline import run as run_module
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import drawn_in, find_runs, latest_run, read_config, runs_of
from vidiff.recipe.kinds import DiffusionRun, VAERun
from vidiff.recipe.load import dump
from vidiff.training.start import start_denoiser


def save(folder: Path, of: DiffusionRun | None = None, seed: int = 0) -> Path:
    """The files of a trained run."""
    of = of or config()
    folder.mkdir(parents=True)
    (folder / "resolved.yaml").write_text(dump(of))
    (folder / "data.json").write_text(json.dumps({"labels": LABELS, "fps": 6.0}))
    save_codec(folder / "codec", VAECodec(VAE))
    weights = {f"denoiser.{key}": value for key, value in denoiser(of, seed).state_dict().items()}
    ema = {f"denoiser.{key}": value for key, value in denoiser(of, seed + 1).state_dict().items()}
    weights["weighting.body"] = torch.zeros(2)  # as an objective with parameters of its own has
    checkpoint.save(folder / "checkpoints", 1, weights, ema, {})
    return folder


def test_a_folder_holds_all_that_is_needed(tmp_path: Path) -> None:
    run = save(tmp_path / "run")
    pipe = Pipeline.from_pretrained(run, "cpu")
    assert (pipe.frames, pipe.size, pipe.labels, pipe.fps, pipe.stride) == (6, 8, LABELS, 6.0, None)
    assert pipe.sampling == config().sampling
    of = config()
    facts = Facts((Bucket(6, 8, 8),), LABELS, 6.0)
    assert pipe.facts == facts and Facts.load(run, of) == facts
    expected = Pipeline(TrainedModel(denoiser(of, 1), load_codec(run / "codec"), facts), of.sampling, "cpu")
    assert torch.equal(pipe.generate(label="dog", count=2), expected.generate(label="dog", count=2))
    plain = Pipeline.from_pretrained(run, "cpu", weights="model")
    assert torch.equal(next(plain.denoiser.parameters()), next(denoiser(of, 0).parameters()))
    assert not any(p.requires_grad for p in (*pipe.denoiser.parameters(), *pipe.codec.parameters()))


def test_a_strided_run_remembers_its_stride(tmp_path: Path) -> None:
    assert Pipeline.from_pretrained(save(tmp_path / "run", config(stride=4)), "cpu").stride == 1


def test_the_codec_is_kept_with_its_statistics(tmp_path: Path) -> None:
    codec = VAECodec(VAE)
    codec.set_statistics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    save_codec(tmp_path, codec)
    found, video = load_codec(tmp_path), clip(2)
    assert torch.equal(found.encode(video).mean, codec.encode(video).mean)
    save_codec(tmp_path, Identity())
    assert isinstance(load_codec(tmp_path), Identity)


def test_a_folder_that_is_no_trained_run_is_told_what_it_lacks(tmp_path: Path) -> None:
    def said(run: Path) -> str:
        with pytest.raises(ValueError) as caught:
            Pipeline.from_pretrained(run, "cpu")
        return str(caught.value)

    assert "is not a trained run" in said(tmp_path / "none")
    for number, (missing, message) in enumerate(
        {"data.json": "no checkpoint yet", "checkpoints": "no checkpoint yet", "codec": "holds no codec"}.items()
    ):
        run = save(tmp_path / str(number))
        (run / missing).rename(tmp_path / f"{number}.gone")
        assert message in said(run)
    vae = tmp_path / "vae"
    vae.mkdir()
    (vae / "resolved.yaml").write_text(dump(VAERun("vae", "vae", data=DataConfig("nowhere"))))
    assert "is a run of kind vae" in said(vae)


def test_damage_is_named(tmp_path: Path) -> None:
    def said(run: Path) -> str:
        with pytest.raises(ValueError) as caught:
            Pipeline.from_pretrained(run, "cpu")
        return str(caught.value)

    run = save(tmp_path / "a")
    (run / "codec" / "codec.safetensors").write_bytes(b"not it")
    assert "codec.safetensors is damaged" in said(run)
    run = save(tmp_path / "b")
    (run / "resolved.yaml").write_text("kind: [")
    assert "resolved.yaml is not a YAML mapping" in said(run)
    run = save(tmp_path / "c")
    (run / "resolved.yaml").write_text(dump(replace(config(), unet=replace(config().unet, width=8))))
    assert "does not fit the run's resolved.yaml" in said(run)
    run = save(tmp_path / "d")
    weights = next(run.glob("checkpoints/step-*/ema.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match=r"ema.safetensors is not what its manifest says"):
        assert "none of the 1 checkpoints" in said(run)


def test_the_latest_run_is_the_one_trained_last(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained run in .*: train one first, for instance by vidiff train shapes"):
        latest_run(tmp_path)
    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        latest = save(tmp_path / name) / "checkpoints" / "latest"
        os.utime(latest, (latest.stat().st_mtime - age,) * 2)
    (tmp_path / "codec" / "checkpoints").mkdir(parents=True)
    (tmp_path / "codec" / "checkpoints" / "latest").write_text("step-0000001")  # an autoencoder's: no data.json
    assert latest_run(tmp_path) == tmp_path / "new"
    assert read_config(latest_run(tmp_path)).unet.labels == 3


def test_a_run_with_a_slash_in_its_name_is_the_latest_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for age, name in ((30, "cats"), (20, "cats/deep/er"), (10, "dogs/one"), (0, "latents/none")):
        latest = save(tmp_path / "runs" / name) / "checkpoints" / "latest"
        os.utime(latest, (latest.stat().st_mtime - age,) * 2)
    (tmp_path / "runs" / "dogs" / "round").symlink_to(tmp_path / "runs")
    assert latest_run(tmp_path / "runs") == tmp_path / "runs" / "dogs" / "one"
    monkeypatch.chdir(tmp_path)
    assert sorted(map(str, find_runs(Path("runs")))) == ["runs/cats", "runs/cats/deep/er", "runs/dogs/one"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(tmp_path / "runs" / "dogs")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "one").symlink_to(tmp_path / "runs" / "dogs" / "one")
    assert latest_run("linked") == Path("linked/one")
    named = config()
    for name, run, folder in (
        ("one", "runs/one", "runs"),
        ("dogs/one", "runs/dogs/one", "runs"),
        ("a/b/c", "x/y/a/b/c", "x/y"),
        ("dogs/one", "dogs/one", "."),
        ("dogs/one", "copied/here", "copied"),
        ("/abs/olute", "/abs/olute", "/abs"),
    ):
        named.name = name
        assert runs_of(Path(run), named) == Path(folder), name


def test_a_run_begins_with_the_weights_of_another(tmp_path: Path) -> None:
    source = save(tmp_path / "run")
    codec, strided = VAECodec(VAE), config(stride=4)
    codec.load_state_dict(load_codec(source / "codec").state_dict())
    strided.start = str(source)
    new = denoiser(strided, 7)
    start_denoiser(strided, codec, Facts.of(strided, LABELS, 8.0), new)
    averaged = denoiser(config(), 1).state_dict()
    assert all(torch.equal(new.state_dict()[key], value) for key, value in averaged.items())
    assert set(new.state_dict()) > set(averaged), "the stride's embedding begins anew"

    def said(of: DiffusionRun, with_codec: Codec) -> str:
        with pytest.raises(ValueError) as caught:
            start_denoiser(of, with_codec, Facts.of(of, LABELS, 8.0), denoiser(of, 7))
        return str(caught.value)

    torch.nn.init.ones_(next(codec.network.parameters()))
    assert "of another codec" in said(strided, codec)
    own, wider = load_codec(source / "codec"), config()
    wider.unet, wider.start = replace(wider.unet, width=8), str(source)
    assert "has another network" in said(wider, own)
    plain = config()
    plain.start = str(save(tmp_path / "strided", config(stride=4)))
    assert "has weights that this model lacks, such as" in said(plain, load_codec(tmp_path / "strided" / "codec"))
    plain.start = str(tmp_path / "none")
    assert "is not a trained run" in said(plain, own)
    (source / "checkpoints" / "latest").unlink()
    shutil.rmtree(next((source / "checkpoints").glob("step-*")))
    assert "has no checkpoint yet: train it first" in said(strided, own)


def test_samples_on_the_way_are_drawn_in_the_precision_of_a_gpu_s_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "gpu_precision", lambda: "bf16")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert [drawn_in(asked, gpu) for asked in ("auto", "fp16", "fp32")] == ["bf16", "fp16", "fp32"]
    assert {drawn_in(asked, cpu) for asked in ("auto", "bf16", "fp32")} == {"fp32"}
