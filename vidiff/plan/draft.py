"""A recipe for a folder of clips and a machine: the largest model that gets steps enough, and what it will take."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from vidiff.plan.codecs import CodecChoice
from vidiff.plan.footage import Footage
from vidiff.plan.plan import Deployment, Planner
from vidiff.plan.shape import Machine, Shape, choose_shape
from vidiff.plan.text import codec_text, model_text
from vidiff.recipe.kinds import VAERun
from vidiff.recipe.load import load

PASSES = 400  # over all windows, after which there is nothing new to learn
CODEC_SHARE = 0.25  # of the time, for the autoencoder


@dataclass(frozen=True)
class Draft:
    """Two recipes, as text: of the model, and of its autoencoder where it has one. With what each will take."""

    model: str
    codec: str | None
    shape: Shape
    plans: list[Deployment]


def draft(
    name: str,
    footage: Footage,
    machine: Machine,
    hours: float | None = None,
    size: int | None = None,
    codec: CodecChoice | None = None,
) -> Draft:
    """Recipes for a folder and a machine, in which the largest model is trained that gets steps enough in the time.

    Args:
        name: of the run; the autoencoder's is `name`_vae.
        hours: that training may take, about; by default 1 on a CPU and 8 on a GPU.
        size: of the frames, in place of that which suits.
        codec: in place of that which the table has for the size.

    Raises:
        ValueError: as `choose_shape`; nothing fits into the memory.
    """
    shape = choose_shape(footage, machine, size, codec)
    seconds = 3600 * (hours or (8 if machine.gpu else 1))
    with TemporaryDirectory() as there:
        folder = Path(there)
        coder, text = None, None
        if shape.codec.factor > 1:
            coder = plan_codec(name, footage, machine, shape, CODEC_SHARE * seconds, folder)
            seconds, text = (1 - CODEC_SHARE) * seconds, codec_text(name, footage, machine, shape, coder)
            (folder / f"{name}_vae.yaml").write_text(text, encoding="utf-8")
        model = plan_model(name, footage, machine, shape, seconds, folder)
        plans = [model, *([coder] if coder else [])]
        whole = model_text(name, footage, machine, shape, plans)
        for file, content in ((f"{name}.yaml", whole), *([(f"{name}_vae.yaml", text)] if text else [])):
            (folder / file).write_text(content, encoding="utf-8")
            load(folder / file).check_name()
    return Draft(whole, text, shape, plans)


def plan_model(name: str, footage: Footage, machine: Machine, shape: Shape, seconds: float, folder: Path) -> Deployment:
    """The largest model of a few that fits, and makes steps enough in the time; else the smallest that fits."""
    widths, enough = ([256, 192, 128], 20_000) if machine.gpu else ([96, 64, 32], 1500)
    if footage.few:
        widths = widths[-2:]
    reasons, chosen = list[str](), None
    for width in widths:
        file = folder / f"{name}.yaml"
        file.write_text(model_text(name, footage, machine, shape, [], width), encoding="utf-8")
        try:
            chosen = planned(file, machine)
        except ValueError as error:
            reasons.append(str(error))
            continue
        if seconds / chosen.seconds >= enough:
            break
    if chosen is None:
        raise ValueError(reasons[-1])
    most = 200_000 if machine.gpu else 20_000
    return with_steps(chosen, seconds, 1000, min(most, PASSES * shape.windows // chosen.config.batch))


def plan_codec(name: str, footage: Footage, machine: Machine, shape: Shape, seconds: float, folder: Path) -> Deployment:
    """The autoencoder, with as many steps as the time has, within what helps."""
    file = folder / f"{name}_vae.yaml"
    file.write_text(codec_text(name, footage, machine, shape, None), encoding="utf-8")
    chosen = planned(file, machine)
    most = 100_000 if machine.gpu else 2000
    return with_steps(chosen, seconds, 300, min(most, PASSES * shape.windows // chosen.config.batch))


def codec_config(name: str, footage: Footage, machine: Machine, shape: Shape) -> VAERun:
    """The autoencoder's recipe, as a training takes it, before its steps are planned."""
    with TemporaryDirectory() as there:
        file = Path(there) / f"{name}_vae.yaml"
        file.write_text(codec_text(name, footage, machine, shape, None), encoding="utf-8")
        config = load(file)
    assert isinstance(config, VAERun)
    return config


def planned(file: Path, machine: Machine) -> Deployment:
    """A recipe as it is, or changed so that it fits. Raises ValueError where nothing does."""
    planner = Planner(load(file), file.parent, machine.device, 1)
    given = planner.given()
    return given if given is not None and given.fits else planner.proposal()


def with_steps(plan: Deployment, seconds: float, least: int, most: int) -> Deployment:
    """The same with as many steps as the time has, two digits of them, within bounds."""
    steps = min(max(seconds / plan.seconds, least), max(most, least))
    digits = 10 ** (math.floor(math.log10(steps)) - 1)
    return replace(plan, steps=int(steps // digits * digits))
