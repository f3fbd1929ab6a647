"""Whatever senseless value a key is set to, it is refused in one line that names the key as it is typed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from vidiff.cli.make.doctor import main as doctor
from vidiff.cli.make.new import main as new
from vidiff.data.control.pair import control_index
from vidiff.data.index import Index
from vidiff.data.root import copies_of, root_of
from vidiff.recipe.kinds import KINDS, LatentRun
from vidiff.recipe.load import build_config, load, load_codec_config, recipes
from vidiff.recipe.slots import ConfigError, build_grid, build_sampler
from vidiff.recipe.unread import refuse_unread
from vidiff.recipe.values import check_value
from vidiff.store.error import DataError
from vidiff.train import main
from vidiff.training.indexes import make_pictures

PLAIN: dict[str, dict[str, Any]] = {  # beside kind, name and data
    "vae": {},
    "diffusion": {"codec": {"name": "identity"}},
    "classifier": {"codec": {"name": "identity"}},
    "student": {"codec": {"name": "identity"}, "start": "runs/teacher"},
}
SENSELESS: dict[Any, list[Any]] = {
    int: ["hello", 0.5, [1], {"a": 1}, True],
    float: ["hello", [1], {"a": 1}, True],
    bool: ["hello", 7, -3, 0.5, [1], {"a": 1}],
    str: [[1], {"a": 1}],
    list: ["hello", 7, 0.5, [[1]], [{"a": 1}], [None], {"a": 1}],
    tuple: ["hello", 7, [1], [1, "x"], [1, None], {"a": 1}],
    dict: ["hello", 7, [1]],
}
ANY_SIGN = {  # scales that may go against what they guide to, a log-SNR, and what only names a beginning
    *(f"sampling.{name}" for name in ("guidance", "history", "text_guidance", "action_guidance", "control_guidance")),
    *("sampling.grid.half", "train.seed"),
}
SHARES = {  # probabilities, fractions, and times, which are from 0 to 1 as well
    "vae": "loss.moving loss.shifted data.max_broken data.least_stride data.images_share data.jitter train.ema "
    "train.optim.momentum train.optim.floor",
    "diffusion": "codec.least lowres.noise lowres.level unet.dropout loss.drop loss.drop_known loss.drop_action "
    "loss.drop_control loss.rollout loss.rollout_time loss.tasks.noise loss.tasks.forget loss.tasks.rising "
    "loss.tasks.slope sampling.rescale sampling.history_level",
    "classifier": "classifier.dropout loss.smoothing",
    "student": "loss.pace loss.drop_known",
}


def leaves(of: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Each key of a dataclass, and its type."""
    for field in fields(of):
        hint = get_type_hints(of)[field.name]
        if is_dataclass(hint):
            yield from leaves(hint, f"{before}{field.name}.")
        else:
            yield f"{before}{field.name}", hint


def types_of(hint: Any) -> set[Any]:
    """The plain types of which a value may be one."""
    parts = get_args(hint) if type(None) in get_args(hint) else (hint,)
    return {get_origin(part) or part for part in parts}


def given(kind: str, key: str, value: Any) -> dict[str, Any]:
    """A config of a kind in which a key has a value."""
    config: dict[str, Any] = {"kind": kind, "name": "a", "data": {"root": "z"}}
    part = config = config | {name: dict(of) if isinstance(of, dict) else of for name, of in PLAIN[kind].items()}
    *above, last = key.split(".")
    for name in above:
        part = part.setdefault(name, {})
    part[last] = value
    return config


def refused(kind: str, key: str, value: Any) -> str:
    try:
        refuse_unread(build_config(given(kind, key, value), "a.yaml"))
    except ConfigError as error:
        return str(error)
    return "it is taken"


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_of_another_type_is_named(kind: str) -> None:
    for key, hint in leaves(KINDS[kind]):
        taken = types_of(hint)
        of = next((type_ for type_ in taken if type_ in SENSELESS), None)
        for value in [*(["hello", 7, [1]] if of is None else SENSELESS[of]), *([] if type(None) in taken else [None])]:
            with pytest.raises(ValueError, match=rf"^{re.escape(key)}(\[0\])? (is|has) "):
                check_value("", given(kind, key, value), KINDS[kind])
                pytest.fail(f"{key} takes {value!r}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_out_of_range_is_named(kind: str) -> None:
    others = [] if kind == "diffusion" else [of for of in KINDS if of != kind]  # what that has need not be tried twice
    shared = {key for of in others for key, _ in leaves(KINDS[of]) if not key.startswith("loss.")}
    tried = [key for key, hint in leaves(KINDS[kind]) if types_of(hint) & {int, float} and key not in shared | ANY_SIGN]
    values = [(key, -1) for key in tried] + [(key, 1.5) for key in SHARES[kind].split()]
    for key, value in values:
        message = refused(kind, key, value)
        assert re.search(rf"(: | and ){re.escape(key)} ", message) and "\n" not in message, f"{key}={value}: {message}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("train.optim.betas=[0.9]", "train.optim.betas is [0.9]; expected 2 numbers, such as train.optim.betas=[0.9, "),
        ("train.optim.betas=[0.9, 1]", "train.optim.betas is (0.9, 1.0); both must be in [0, 1)"),
        ("data.buckets=[{size: 3}]", "data.buckets[0].size is 3; expected a list of whole numbers"),
        ("data.buckets=[{frames: 4, size: x}]", "data.buckets[0].size is 'x'; expected a list of whole numbers"),
        ("data.buckets=[{frmes: 4}]", "data.buckets[0] has 'frmes'; its keys are frames, size"),
        ("data.buckets=4", "data.buckets is 4; expected a list, such as data.buckets=[{frames: ..., size: ...}]"),
        ("data.shapes.size=33", "data.shapes.size is 33; give an even number of pixels"),
        ("data.flip=7", "data.flip is 7; expected true or false"),
        ("data.fold=4", "data.fold is 4; choose 1, 2 or 3"),
        ("sampling.interval=0.5", "sampling.interval is 0.5; expected a list of numbers, such as sampling.interval=["),
        ("sampling.interval=[0.8, 0.2]", "sampling.interval = (0.8, 0.2) must satisfy"),
        ("sampling.sampler={name: ddim, eta: x}", "sampling.sampler.eta is 'x'; expected a number, such as "),
        ("sampling.sampler={name: ddim, eta: 2}", "sampling.sampler.eta = 2 is outside [0, 1]"),
        ("sampling.sampler.name=[1]", "sampling.sampler needs a name; choose ddpm, "),
        ("sampling.strategy={name: noisy, level: x}", "sampling.strategy.level is 'x'; expected a number"),
        ("sampling.grid={kind: karras, rho: x}", "sampling.grid.rho is 'x'; expected a number, or null"),
        ("sampling.grid.kind=even", "unknown sampling.grid.kind 'even'; choose one of"),
        ("sampling.apg={eta: [1]}", "sampling.apg.eta is [1]; expected a number"),
        ("schedule.shift=x", "schedule.shift is 'x'; expected a number, such as schedule.shift=1.0"),
        ("schedule.shift=-1", "schedule.shift = -1 must be positive"),
        ("text=words", "text is 'words', but it has keys of its own: give such as text.name=words"),
        ("text.name=huggingface", "text.model is not set, but text.name=huggingface needs it: add text.model=..."),
        ("text={name: words, dim: x}", "text.dim is 'x'; expected a whole number, such as text.dim=128"),
        ("text={name: words, colour: 3}", "text: words does not take these options (colour): it takes dim, "),
        ("unet.head_dim=7", "unet.head_dim is 7 and unet.width 96: 96 channels do not divide into heads of 7"),
        ("unet=null", "unet is null, but it has keys of its own: give such as unet."),
        ("train.ema_widths=[1]", "train.ema_widths: an EMA's width is 1.0; give 0.01"),
        ("loss.tasks={generate: 0, first: 0, random: 0}", "loss.tasks: every weight is 0; give at least one of"),
        ("loss.tasks.first=-1", "loss.tasks.first is -1.0; it is a weight: give 0 or more"),
        ("codec.override={vae: {channels: x}}", "codec.override.vae.channels is 'x'; expected a whole number"),
        ("codec.override.loss.kl=-1", "codec.override.loss.kl is -1.0; give 0 (off) or more"),
        ("codec.override.vae.width=-2", "codec.override.vae.width is -2; give 1 or more"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(changes: str, said: str) -> None:
    path = recipes()["shapes"]
    with pytest.raises(ConfigError) as caught:
        config = load(path, [changes])
        assert isinstance(config, LatentRun)
        load_codec_config(config, path.parent)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_number_that_is_typed_as_no_other_reads_it_is_one_in_a_slot_too() -> None:
    config = load("shapes", ["schedule.shift=02", "sampling.sampler={name: unipc, order: 02}"])
    assert isinstance(config, LatentRun) and vars(build_sampler({"name": "unipc", "order": "02"}))["order"] == 2


def test_options_of_a_call_are_named_as_those_of_a_config() -> None:
    for build, slot, said in (
        (build_sampler, "{name: ddim, eta: x}", "sampling.sampler.eta is 'x'; expected a number"),
        (build_grid, "{kind: karras, rho: x}", "sampling.grid.rho is 'x'; expected a number, or null"),
        (build_grid, "{kind: karras, sigma: 3}", "it takes kind, ends, rho and half"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            build(slot)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("unet.labels=3", "unet.labels is 3, but data/shapes has 6 classes to learn: leave it out"),
        ("unet.channels=9", "unet.channels is 9, but latents of the codec have 8: leave it out"),
        ("unet.strided=true", "unet.strided is true, but data.stride=[1, 1] decides"),
        ("unet.actions=3", "unet.actions is 3, but data.actions=false"),
        ("unet.text_dim=8", "unet.text_dim is 8, but without text it is 0"),
        ("unet.lowres_channels=4", "unet.lowres_channels is 4, but lowres.factor=0"),
        ("unet.control_channels=4", "unet.control_channels is 4, but data.control=''"),
    ],
)
def test_what_codec_and_data_decide_is_not_set_to_something_else(change: str, said: str) -> None:
    config = load("shapes", [change])
    assert isinstance(config, LatentRun)
    with pytest.raises(ConfigError) as caught:
        config.resolve(8, 6)
    assert said in str(caught.value)


def test_what_codec_and_data_decide_may_be_set_to_that() -> None:
    config = load("shapes", ["unet.labels=6", "unet.channels=8"])
    assert isinstance(config, LatentRun)
    config.resolve(8, 6)
    assert (config.network.channels, config.network.labels) == (8, 6)
    config.forget()
    config.resolve(3, 2)
    assert (config.network.channels, config.network.labels) == (3, 2)
    with pytest.raises(ConfigError, match=r"unet.labels is 3, but conditional=false learns none"):
        load("shapes", ["unet.labels=3", "conditional=false"]).resolve(8, 6)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"unet.guided is true, but loss.guidance=\[1.0, 1.0\] decides"):
        changes = ["objective=reflow", "loss.guidance=[1,1]", "unet.guided=true"]
        load("shapes_student", changes).resolve(8, 6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["unet.guided=true"], "unet.guided is true, but only a student is told the scale of guidance: leave it out"),
        (["data.root="], "data.root is empty: give the folder of your videos"),
        (["data.root=' '"], "data.root is empty: give the folder of your videos"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_the_command_refuses_it_before_anything_is_made(
    changes: list[str],
    said: str,
    more: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shapes", *changes, *more]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))


def test_all_keys_are_shown_as_they_would_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["shapes", "batch=4", "--show"]) == 0
    shown = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    (tmp_path / "again.yaml").write_text(shown)
    assert load("again.yaml") == load("shapes", ["batch=4"])
    assert {key.rpartition(".")[2] for key, _ in leaves(KINDS["diffusion"])} <= set(re.findall(r"(\w+):", shown))


def test_where_data_are_is_asked_for_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for make, words, name in ((doctor, ["nowhere"], "data"), (new, ["cats", "--data", "nowhere"], "--data")):
        assert make(words) == 2
        assert f"no folder nowhere: set {name} to the folder with your videos" in capsys.readouterr().err
    config, index = load("shapes", ["data.images=nowhere"]), Index("z", [], [])
    with pytest.raises(DataError, match=r"no folder nowhere: set data\.images to the folder"):
        make_pictures(config, index)
    for control in ("nowhere", "nowhere/{00..01}.tar"):
        with pytest.raises(DataError, match=r"data\.control") as caught:
            control_index(index, load("shapes", [f"data.control={control}"]).data, tmp_path / "runs")
        assert "data.root" not in str(caught.value)
    with pytest.raises(DataError, match=r"^data\.root is empty: give the folder of your videos"):
        root_of("", copies_of(tmp_path / "runs"))
