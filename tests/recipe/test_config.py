"""From YAML and command line to a checked config, and what is said of one that cannot be used."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from vidiff.diffusion.grid import Grid
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import ClassifierRun, DiffusionRun, LatentRun, StudentRun, VAERun
from vidiff.recipe.load import build_config, dump, load, load_codec_config, load_resolved, recipes
from vidiff.recipe.slots import ConfigError, build_sampler
from vidiff.sample import DDIM

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = CONFIGS / "shapes.yaml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def complaint(*overrides: str, path: Path = SHAPES) -> str:
    with pytest.raises(ConfigError) as caught:
        config = load(path, overrides)
        if isinstance(config, LatentRun):
            load_codec_config(config, path.parent)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_load_and_survive_a_round_trip(path: Path) -> None:
    config = load(path)
    kinds = {"vae": VAERun, "classifier": ClassifierRun, "student": StudentRun, "guided": StudentRun}
    assert type(config) is kinds.get(path.stem.rpartition("_")[2], DiffusionRun)
    again = build_config(OmegaConf.create(dump(config)), "dump")
    assert again == config and dump(again) == dump(config)
    if isinstance(config, LatentRun) and config.codec.name == "vae":
        vae = load_codec_config(config, CONFIGS)
        own = config.codec.override.get("name", Path(config.codec.config).stem)
        assert vae.runs == config.runs and vae.name == own
        if not config.codec.own_data:
            assert (vae.data.root, vae.data.layout) == (config.data.root, config.data.layout)


def test_the_smaller_ucf_of_the_recipes_comment_loads() -> None:
    line = next(line for line in (CONFIGS / "ucf.yaml").read_text().splitlines() if "data.size=128" in line)
    config = load(CONFIGS / "ucf.yaml", line.partition("configs/ucf.yaml ")[2].split())
    assert isinstance(config, DiffusionRun)
    assert (config.data.size, config.name, config.schedule) == (128, "ucf128", {"name": "cosine", "shift": 1})
    assert load_codec_config(config, CONFIGS).data.size == 128


def test_the_command_line_goes_over_the_file_and_the_file_over_its_base(tmp_path: Path) -> None:
    write(
        tmp_path / "a.yaml", "kind: vae\nname: a\nbatch: 3\ndata: {root: x, frames: 7, size: 32}\ntrain: {steps: 5}\n"
    )
    write(tmp_path / "deep/b.yaml", "base: ../a.yaml\nname: b\ndata: {frames: 8}\n")
    c = write(tmp_path / "c.yaml", "base: deep/b.yaml\ntrain: {steps: 6}\n")
    config = load(c, ["train.steps=9", "train.optim.lr=1e-3"])
    assert (config.name, config.batch, config.data.root, config.data.frames) == ("b", 3, "x", 8)
    assert (config.train.steps, config.train.optim.lr) == (9, 1e-3)
    assert config.folder == Path("runs/b")


def test_the_codecs_config_of_a_base_is_found_from_anywhere(tmp_path: Path) -> None:
    write(tmp_path / "configs/vae.yaml", "kind: vae\nname: mine\ndata: {root: z, size: 32}\n")
    text = "kind: diffusion\nname: a\ndata: {root: z, size: 32}\ncodec: {config: vae.yaml}\n"
    write(tmp_path / "configs/a.yaml", text)
    child = write(tmp_path / "elsewhere/b.yaml", "base: ../configs/a.yaml\nname: b\n")
    config = load(child, ["codec.override.train.steps=3", "runs=there"])
    assert isinstance(config, DiffusionRun)
    vae = load_codec_config(config, child.parent)
    assert (vae.name, vae.train.steps, vae.runs) == ("mine", 3, "there")


def test_a_codec_of_its_own_data_serves_several_models() -> None:
    changes = ["data.root=elsewhere", "codec.own_data=true", "runs=there"]
    config = load(SHAPES, changes)
    assert isinstance(config, DiffusionRun)
    vae = load_codec_config(config, CONFIGS)
    assert (vae.data.root, vae.runs) == ("data/shapes", "there")


def test_a_codec_reads_the_clips_of_its_model_as_the_model_does() -> None:
    """All that says which clips there are and how they are read: the decoder and its patience, too."""
    changes: dict[str, object] = {
        "root": "elsewhere",
        "remote_cache_gb": 3.0,
        "layout": "flat",
        "shapes": {"size": 128},
        "captions": "csv",
        "split": "a",
        "test_split": "b",
        "fold": 2,
        "camera": "observation.images.top",
        "fps": 4.0,
        "limit": 7,
        "max_broken": 0.5,
        "decoder": "pyav",
        "patience": 9.0,
        "background": "black",
        "deinterlace": True,
        "tonemap": True,
    }
    config = load(SHAPES, [f"data.{key}={value}".replace("'", "") for key, value in changes.items()])
    assert isinstance(config, DiffusionRun)
    found = load_codec_config(config, CONFIGS).data
    assert config.data.source == found.source == changes
    assert (found.frames, found.size) == (load(CONFIGS / "shapes_vae.yaml").data.frames, 64), "what it sees is its own"


def test_the_shapes_set_has_its_own_options() -> None:
    assert load(SHAPES, ["data.shapes={size: 128}"]).data.shapes == {"size": 128}
    assert "its keys are size, frames" in complaint("data.shapes={colour: 3}")
    assert "give an even number of pixels" in complaint("data.shapes={size: 33}")


def test_an_adaptive_schedule_needs_the_bound_and_a_clip_to_see() -> None:
    sees = ["lowres.factor=2", "schedule.name=adaptive"]
    assert "needs objective=bound" in complaint(*sees)
    assert "set lowres.factor" in complaint("schedule.name=adaptive", "objective=bound")
    assert load(SHAPES, [*sees, "objective=bound"]).schedule["name"] == "adaptive"


def test_a_slot_takes_a_name_and_options() -> None:
    changes = ["schedule={name: flow, shift: 3}", "sampling.sampler={name: ddim, eta: 0.5}"]
    config = load(SHAPES, [*changes, "sampling.grid={kind: karras, ends: [-8, 6], rho: 5}"])
    assert isinstance(config, DiffusionRun)
    assert config.sampling.grid == Grid(kind="karras", ends=[-8.0, 6.0], rho=5.0)
    denoiser = build_denoiser(config)
    assert denoiser.schedule.shift == 3 and type(denoiser.schedule).__name__ == "Flow"
    sampler = build_sampler(config.sampling.sampler)
    assert isinstance(sampler, DDIM) and vars(sampler) == vars(DDIM(eta=0.5))
    other = load(SHAPES, ["schedule={shift: 3}"])  # what a slot does not name stays
    assert isinstance(other, DiffusionRun) and other.schedule == {"name": "cosine", "shift": 3}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "loss.tasks.last=0.1",
            "loss.tasks.last is 0.1, but a model of unet.causal=true does not see known frames that",
        ),
        ("loss.tasks.ends=0.2", "set loss.tasks.ends=0"),
        ("sampling.strategy.name=keyframes", "sampling.strategy is keyframes, which draws frames by what comes after"),
    ],
)
def test_a_causal_model_is_asked_for_nothing_that_looks_ahead(change: str, said: str) -> None:
    load(SHAPES, [change])
    with pytest.raises(ConfigError) as caught:
        load(SHAPES, ["unet.causal=true", change])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        # keys
        ("trian.steps=3", ["trian", "train"]),
        ("train.step=3", ["train.step", "steps"]),
        ("unet.widht=3", ["unet.widht", "width"]),
        # types
        ("batch=many", ["batch", "many"]),
        ("train.steps=1e5", ["train.steps is 100000.0; expected a whole number, such as train.steps=1000"]),
        ("data=5", ["data is 5, but it has keys of its own: give such as data."]),
        ("data.stride=4", ["data.stride is 4; expected a list, such as data.stride=[1, 1]"]),
        ("unet.multipliers=[1, big]", ["unet.multipliers", "big"]),
        ("train.precision=fp8", ["train.precision", "fp8"]),
        ("data.root", ["data.root"]),
        ("sampling.strategy={name: clen}", ["unknown sampling.strategy 'clen'", "clean, keyframes"]),
        ("sampling.strategy={name: noisy, level: 1}", ["level is 1; give 0"]),
        ("sampling.sampler=ddim", ["sampling.sampler is 'ddim'", "give such as sampling.sampler.name=ddim"]),
        ("data.frames: 3", ["data.frames: 3"]),
        # super-resolution
        ("lowres.factor=1", ["lowres.factor is 1; give 2 or more", "data.size, which is 64"]),
        ("lowres.factor=3", ["lowres.factor is 3", "divides data.size"]),
        ("lowres.factor=-2", ["lowres.factor is -2"]),
        ("lowres.noise=1.5", ["lowres.noise is 1.5; give a time from 0 to 1"]),
        ("lowres={noise: 0.1, level: 0.2}", ["lowres.level is 0.2; give 0 to 0.1"]),
        ("unet.patch=0", ["unet.patch is 0; give 1 or more"]),
        ("unet.patch=3", ["patches of the U-Net by 3", "give a multiple of"]),
        # choices
        ("kind=gan", ["kind is 'gan'; choose vae, diffusion, classifier"]),
        ("schedule.name=cosin", ["cosin", "cosine", "linear"]),
        ("schedule.shft=2", ["schedule", "shft"]),
        ("sampling.sampler.name=ddmi", ["ddmi", "ddim"]),
        ("sampling.sampler={name: dpmpp_2m, etta: 1}", ["dpmpp_2m does not take these options"]),
        ("prediction=w", ["unknown prediction 'w'", "eps, flow, score, v, x0"]),
        ("loss.distance=l3", ["loss.distance 'l3'", "huber, l1, l2"]),
        ("loss.weighting=snr", ["loss.weighting 'snr'", "min_snr", "simple"]),
        ("loss.times=all", ["loss.times 'all'", "stratified, uniform"]),
        ("codec.name=vqgan", ["codec.name is 'vqgan'; choose vae, diffusers or identity"]),
        ("codec.name=diffusers", ["codec.path is missing: name the folder of an autoencoder"]),
        ("codec.path=here", ["codec.path is here, but codec.name is vae: set codec.name=diffusers"]),
        ("data.decoder=opencv", ["data.decoder is 'opencv'; choose auto, pyav, decord, torchcodec"]),
        ("data.layout=tree", ["data.layout is 'tree'", "folders, ucf101, flat"]),
        ("unet.modulation=batch", ["unet.modulation is 'batch'"]),
        # numbers
        ("batch=0", ["batch is 0; give 1 or more"]),
        ("train.accumulate=7", ["batch is ", "train.accumulate=7"]),
        ("train.steps=0", ["train.steps is 0"]),
        ("data.stride=[3, 2]", ["data.stride is [3, 2]"]),
        ("data.workers=-1", ["data.workers is -1"]),
        ("data.workers=100000", ["data.workers is 100000; give 0 to 1024"]),
        ("data.fps=-8", ["data.fps is -8", "give a positive number, or 0"]),
        ("data.seconds=2", ["data.seconds is 2", "set data.fps as well"]),
        ("data.max_broken=5", ["data.max_broken is 5"]),
        ("loss.drop=2", ["loss.drop is 2"]),
        ("loss.tasks.first=-1", ["tasks.first is -1"]),
        ("sampling.steps=0", ["sampling.steps is 0"]),
        ("sampling.grid.kind=even", ["unknown sampling.grid.kind 'even'", "karras, leading, linspace, log_snr"]),
        ("sampling.grid.sigma=1", ["sampling.grid.sigma"]),
        ("sampling.grid.ends=[3]", ["ends is [3.0]; give log-SNR of the first time"]),
        ("sampling.grid.rho=3", ["rho is 3.0, but a grid of kind logistic has none"]),
        ("sampling.rescale=1.5", ["rescale = 1.5 is outside [0, 1]"]),
        ("sampling.interval=[0.2]", ["interval is [0.2]; give two times"]),
        ("sampling.interval=[0.8,0.2]", ["interval = (0.8, 0.2) must satisfy"]),
        ("sampling.interval=often", ["sampling.interval"]),
        ("sampling.apg={etta: 0}", ["apg does not take 'etta'; it takes eta, radius, momentum"]),
        ("sampling.apg={momentum: 1}", ["apg: momentum = 1.0"]),
        ("sampling.threshold={percentile: 99}", ["threshold is {'percentile': 99.0}; it needs a floor"]),
        ("sampling.history_level=2", ["history_level = 2.0 is outside [0, 1]"]),
        ("sampling.convention=w", ["unknown sampling.convention 'w'; choose one of cfg, ho"]),
        ("unet.blocks=[1]", ["unet.blocks has 1 numbers, unet.multipliers 2"]),
        # that do not go together
        ("sampling.context=999", ["sampling.context is 999; give 1 to ", "less than data.frames"]),
        ("data.size=60", ["data.size is 60", "shrinks by 8", "give a multiple of "]),
        ("data.size=72", ["data.size is 72", "give a multiple of "]),
        ("codec.override={data: {frames: 5}, vae: {temporal: 2}}", ["data.frames is 16", "give 15 or 17"]),
        ("codec.override.vae.temporal=2", ["data.frames is 4", "give 3 or 5"]),
        ("codec.override.vae.temporal=3", ["vae.temporal is 3; choose 1, 2, 4, 8"]),
        ("codec.override.vae.patch=3", ["data.size is 64", "shrinks by "]),
        ("codec.override.vae.pach=3", ["vae.pach", "patch"]),
        ("codec.config=''", ["codec.config is missing"]),
        ("codec.tile=-1", ["codec.tile is -1; give 64 pixels or more, or 0"]),
        ("codec.tile=32", ["codec.tile is 32; give 64 pixels or more, or 0"]),
        ("codec.config=none.yaml", ["no such config", "none.yaml"]),
        ("codec.config=shapes.yaml", ["is of kind diffusion; an autoencoder's is vae"]),
    ],
)
def test_a_mistake_is_named_with_what_is_expected(override: str, said: list[str]) -> None:
    message = complaint(override)
    for part in said:
        assert part in message
    assert "Traceback" not in message and "omegaconf" not in message.lower()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("classifier.widht=3", ["classifier.widht", "width"]),
        ("classifier.width=0", ["classifier.width is 0"]),
        ("classifier.blocks=[1]", ["classifier.blocks is [1]"]),
        ("classifier.spatial_attention=[2]", ["names level 2"]),
        ("loss.smoothing=1", ["loss.smoothing is 1"]),
        ("loss.times=all", ["loss.times 'all'", "stratified, uniform"]),
        ("loss.tasks.first=-1", ["tasks.first is -1"]),
        ("scale=0", ["scale is 0.0; give a positive number"]),
        ("schedule.name=learned", ["no loss of a classifier trains it"]),
        ("schedule.name=adaptive", ["schedule is adaptive", "no loss of a classifier trains it"]),
        ("codec.name=vqgan", ["codec.name is 'vqgan'"]),
        ("data.size=72", ["data.size is 72", "give a multiple of 16"]),
        ("sampling.steps=3", ["sampling"]),
    ],
)
def test_a_classifier_s_mistake_is_named(override: str, said: list[str]) -> None:
    message = complaint(override, path=CONFIGS / "shapes_classifier.yaml")
    for part in said:
        assert part in message


def test_pixels_must_halve_as_well() -> None:
    assert "a multiple of 8" in complaint("codec.name=identity", "unet.multipliers=[1,1,1,1]", "data.size=36",
                                          "unet.blocks=[1,1,1,1]", "sampling.context=4")  # fmt: skip


def test_a_missing_slot_name_is_asked_for(tmp_path: Path) -> None:
    text = "kind: diffusion\nname: a\ndata: {root: z}\ncodec: {name: identity}\nsampling: {sampler: {name: null}}\n"
    assert "sampling.sampler needs a name; choose ddpm, ddim" in complaint(path=write(tmp_path / "a.yaml", text))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: a.yaml\n", "is its own base"),
        ("base: sub/../../{name}/a.yaml\n", "is its own base"),
        ("base: gone.yaml\n", "no such config"),
        ("kind: vae\nname: a\n", "data.root is not set"),
        ("name: a\n", "kind is None; choose vae, diffusion, classifier"),
        ("kind: [vae]\n", "choose vae, diffusion, classifier"),
        ("- 1\n", "is not a YAML mapping"),
        ("kind: 'vae\n", "is not a YAML mapping"),
        ("", "kind is None"),
        ("kind: vae\nkind: vae\n", "is not a YAML mapping"),
        ("kind: vae\nname: ${nothing}\ndata: {root: z}\n", "nothing"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sub").mkdir()
    path = write(tmp_path / "a.yaml", text.format(name=tmp_path.name) if "{name}" in text else text)
    message = complaint(path=path)
    assert said in message and ".yaml" in message


def test_two_files_that_are_each_others_base(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    message = complaint(path=write(tmp_path / "b.yaml", "base: a.yaml\n"))
    assert "b.yaml is its own base, through b.yaml and a.yaml" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unet=8", "unet is 8, but it has keys of its own: give such as unet."),
        ("data=[3]", "data is [3], but it has keys of its own: give such as data."),
        ("train.optim=[1]", "train.optim is [1], but it has keys of its own: give such as train.optim."),
        ("loss.tasks=2", "loss.tasks is 2, but it has keys of its own: give such as loss.tasks.generate=..."),
        ("sampling.sampler=dimm", "give such as sampling.sampler.name=dimm"),
        ("schedule=cosine", "give such as schedule.name=cosine"),
        ("unet.multipliers=x", "unet.multipliers is 'x'; expected a list, such as unet.multipliers=["),
        ("train.optim.betas={a: 1}", "train.optim.betas is {'a': 1}; expected a list, such as train.optim.betas=["),
        ("codec.override=3", "codec.override is 3, but it has keys of its own"),
    ],
)
def test_a_value_in_place_of_keys_or_a_list_is_named_with_the_way_out(change: str, said: str) -> None:
    assert said in complaint(change)


def test_a_recipe_that_comes_with_vidiff_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sorted(recipes()) == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert load("ucf") == load("ucf.yaml") == load(CONFIGS / "ucf.yaml")
    mine = write(tmp_path / "mine.yaml", "base: shapes.yaml\nname: mine\n")
    config = load(mine, ["batch=4"])
    assert isinstance(config, DiffusionRun) and (config.name, config.batch) == ("mine", 4)
    assert load_codec_config(config, tmp_path) == load_codec_config(load("shapes"), CONFIGS)  # type: ignore[arg-type]
    write(tmp_path / "shapes.yaml", "base: ucf\nname: own\n")  # a file that is there comes first
    assert load("shapes.yaml").name == "own" and load(mine).data.root == load("ucf").data.root
    assert load("shapes").name == "own"  # with or without its ending, as what vidiff new writes is called


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("configs/ucf.yaml", "no such config: configs/ucf.yaml; did you mean the recipe ucf?"),
        ("../ucf", "no such config: ../ucf; did you mean the recipe ucf?"),
        ("ufc", "no such config: ufc; the recipes that come with vidiff are breakout"),
        ("", "no such config: .; the recipes that come with vidiff are"),
    ],
)
def test_a_config_that_is_not_there_is_answered_by_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(said)


def test_missing_files_folders_and_binaries_are_named(tmp_path: Path) -> None:
    assert "no such config" in complaint(path=tmp_path / "none.yaml")
    assert "no such config" in complaint(path=tmp_path)
    (tmp_path / "b.yaml").write_bytes(bytes(range(256)))
    assert "is not a YAML mapping" in complaint(path=tmp_path / "b.yaml")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["data.frames=17"], "sampling.context is 8; .*: give 7 or 9"),
        (["data.frames=17", "data.stride=[1, 2]"], r"data.stride is \[1, 2\], .* data.stride=\[1,1\]"),
        (["data.buckets=[{frames: 17}, {frames: 12}]"], r"data.buckets has 12 frames of 64x64, .*: give 11 or 13"),
        (["data.buckets=[{frames: 17}]"], "sampling.context is 8; .*: give 7 or 9"),
        (["data.frames=17", "lowres.factor=2"], r"lowres.factor is 2, .* or lowres.factor=0"),
        (["data.frames=17", "sampling.strategy.name=keyframes"], r"or sampling.strategy.name=clean"),
    ],
)
def test_latents_of_several_frames_need_clips_that_make_whole_ones(changes: list[str], said: str) -> None:
    codec = ["codec.override={data: {frames: 5}, vae: {temporal: 2}}"]
    config = load(SHAPES, [*codec, *changes])
    assert isinstance(config, DiffusionRun)
    with pytest.raises(ConfigError, match=said):
        load_codec_config(config, CONFIGS)
    config = load(SHAPES, [*codec, "data.frames=17", "sampling.context=9"])
    assert isinstance(config, DiffusionRun)
    assert load_codec_config(config, CONFIGS).vae.temporal == 2


def test_a_classifier_needs_latents_of_single_frames() -> None:
    changes = ["codec.override={data: {frames: 5}, vae: {temporal: 2}}", "data.frames=17"]
    config = load(CONFIGS / "shapes_classifier.yaml", changes)
    assert isinstance(config, ClassifierRun)
    with pytest.raises(ConfigError, match=r"kind is classifier, which does not go with vae\.temporal=2"):
        load_codec_config(config, CONFIGS)


def test_a_length_in_seconds_becomes_frames() -> None:
    config = load(CONFIGS / "shapes.yaml", ["data.fps=8", "data.seconds=1.9"])
    assert config.data.frames == 15 and load(CONFIGS / "shapes.yaml").data.frames == 16
    assert "at data.fps=8.0 is less than a frame" in complaint("data.fps=8", "data.seconds=0.05")


def test_a_run_keeps_the_grid_of_its_time(tmp_path: Path) -> None:
    config = load(SHAPES, ["sampling.steps=12", "sampling.grid.kind=karras"])
    now = write(tmp_path / "now.yaml", dump(config))
    assert load_resolved(now) == config, "what a run kept decides"
    kept = OmegaConf.create(dump(config))
    del kept.sampling["grid"]
    before = load_resolved(write(tmp_path / "before.yaml", OmegaConf.to_yaml(kept)))
    assert isinstance(before, DiffusionRun) and before.sampling.grid == Grid(kind="log_snr")
    assert before.sampling.steps == 13, "steps were counted between the times"


@pytest.mark.parametrize(("told", "half"), [(None, None), (16, -math.log(16) / 1.7)])
def test_a_run_whose_grid_was_told_dimensions_keeps_its_bell(tmp_path: Path, told: int | None, half: float) -> None:
    kept = OmegaConf.create(dump(load(SHAPES, ["sampling.grid.kind=logistic"])))
    del kept.sampling.grid["half"]
    kept.sampling.grid.dimensions = told
    before = load_resolved(write(tmp_path / "before.yaml", OmegaConf.to_yaml(kept)))
    assert isinstance(before, DiffusionRun) and before.sampling.grid.half == (half and pytest.approx(half))


@pytest.mark.parametrize("recipe", ["shapes_vae", "shapes", "shapes_classifier", "shapes_student"])
def test_every_number_is_finite(recipe: str) -> None:
    config = load(CONFIGS / f"{recipe}.yaml")

    def numbers(of: Any, key: str = "") -> Iterator[str]:
        for field in fields(of):
            value, name = getattr(of, field.name), f"{key}{field.name}"
            if is_dataclass(value):
                yield from numbers(value, f"{name}.")
            elif isinstance(value, float):
                yield name

    found = list(numbers(config))
    assert len(found) > 20 and "train.optim.lr" in found and "train.optim.weight_decay" in found
    given = OmegaConf.structured(config)
    for key, number in zip(found, cycle([math.nan, math.inf, -math.inf]), strict=False):
        wrong = given.copy()
        OmegaConf.update(wrong, key, number)
        with pytest.raises(ConfigError, match=rf"{re.escape(key)} is (-?inf|nan); give a finite number"):
            build_config(wrong, recipe)
    with pytest.raises(ConfigError, match=r"train\.ema_widths\[1\] is inf; give a finite number"):
        load(CONFIGS / f"{recipe}.yaml", ["train.ema_widths=[0.1,.inf]"])
