"""From a YAML file and a command line to checked dataclasses."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vidiff.recipe.kinds import KINDS, LatentRun, RunConfig, VAERun
from vidiff.recipe.slots import ConfigError
from vidiff.recipe.typed import SLOTS, as_typed, is_text, split_key, unquoted
from vidiff.recipe.typed import Path as Keys
from vidiff.recipe.values import check_value, hints_of, named
from vidiff.store.plain import LARGEST, check_yaml

MOST, MOST_SEED = 2**31 - 1, 2**63 - 1  # of whole numbers: what sizes and counts hold, and what torch takes as a seed


def recipes() -> dict[str, Path]:
    """The recipes that come with vidiff, by name: in a wheel within the package, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    folder = next(there for there in (package / "configs", package.parent / "configs") if there.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_config(path: str | Path) -> Path:
    """The file that is meant: one that is there, or else the recipe of this name that comes with vidiff.

    Args:
        path: a file, with or without its .yaml, or the name of a recipe, such as ucf or ucf.yaml.

    Raises:
        ConfigError: where there is neither.
    """
    path = Path(path)
    for file in (path, path.with_name(f"{path.name}.yaml") if path.name else path):
        if file.is_file():
            return file
    own = recipes()
    name = path.name.removesuffix(".yaml")
    if name in own and str(path) in (name, f"{name}.yaml"):
        return own[name]
    hint = f"; did you mean the recipe {name}?" if name in own else ""
    raise ConfigError(f"no such config: {path}{hint or '; the recipes that come with vidiff are ' + ', '.join(own)}")


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config.

    Args:
        path: a YAML file, as `find_config` takes it; its `base:` names a parent that it changes, relative to it, or
            else a recipe that comes with vidiff.
        overrides: `key=value`, as on the command line.

    Raises:
        ConfigError: for a file that is missing or no YAML, a key that is not there (the nearest is suggested), a
            value of the wrong type, and values that do not go together.
    """
    return build_config(_over(_read(Path(path)), _dotlist(overrides)), str(path))


def load_resolved(path: Path) -> RunConfig:
    """The config that a training kept, with what was the default in its time. Raises ConfigError as `load`.

    Runs of before there was a grid to choose were drawn at times even in log-SNR, and asked the model once more than
    they had steps. Grids that were told in how many numbers d the data vary are bells all the same: half of such data
    is known at a log-SNR of -log(d) / 1.7.
    """
    given = _read(path)
    sampling = given.get("sampling")
    if isinstance(sampling, DictConfig) and "grid" not in sampling and isinstance(sampling.get("steps"), int):
        given.sampling = OmegaConf.merge(sampling, {"grid": {"kind": "log_snr"}, "steps": sampling.steps + 1})
    grid = given.get("sampling", {}).get("grid")
    if isinstance(grid, DictConfig) and "dimensions" in grid:
        told = grid.pop("dimensions")
        grid.half = None if told is None else -math.log(told) / 1.7
    return build_config(given, str(path))


def changed(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """A copy of a config with changes to it, as `load` takes them. Raises ConfigError as `load`."""
    return build_config(_over(OmegaConf.structured(config), _dotlist(changes)), config.name)


def _dotlist(changes: Sequence[str]) -> DictConfig:
    """What `key=value` says, text as it is typed and anything else as YAML."""
    merged = OmegaConf.create()
    for change in changes:
        key, equals, value = change.partition("=")
        try:
            if not equals or not key:
                raise ValueError("without a key or a =")
            path = split_key(key)
            if is_text(path):
                OmegaConf.update(merged, key, unquoted(value))
            else:
                merged.merge_with_dotlist([change])
                for inner, typed in as_typed(value, path):
                    _put(merged, inner, typed)
        except (OmegaConfBaseException, yaml.YAMLError, RecursionError, ValueError) as error:
            raise ConfigError(f"cannot read {change[:200]!r}: expected key=value ({error})") from None
    return merged


def _put(config: DictConfig, path: Keys, text: str) -> None:
    """Set a value to what was typed. The path leads to it, since YAML has found it there."""
    holder: Any = config
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = text


def build_config(given: Any, source: str) -> RunConfig:
    """Turn a plain mapping into a checked config. Raises ConfigError; `source` names it in the message."""
    given = OmegaConf.create(given)
    kind = given.get("kind") if isinstance(given, DictConfig) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"{source}: kind is {kind!r}; choose {', '.join(KINDS)}")
    defaults = _defaults(kind)
    try:
        _check_kinds(given, defaults)
        check_value("", OmegaConf.to_container(given), KINDS[kind])
        merged = OmegaConf.merge(defaults, given)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise ConfigError(f"{missing[0]} is not set: add {missing[0]}=... to the command, or the key to the file")
        for key, value in _leaves(OmegaConf.to_container(merged)):
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{key} is {value}; give a finite number")
            if isinstance(value, int) and abs(value) > (most := MOST_SEED if key.endswith("seed") else MOST):
                raise ConfigError(f"{key} is {value}; give {most} at most")
        config = _object(cast(DictConfig, merged))
        config.check()
    except OmegaConfBaseException as error:
        raise ConfigError(f"{source}: {_reason(error, defaults)}") from None
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None
    return config


@cache
def _defaults(kind: str) -> DictConfig:
    """The config of a kind of run with nothing set. It is merged, which copies it, and never changed."""
    return OmegaConf.structured(KINDS[kind])


def _object(merged: DictConfig) -> Any:
    """The dataclass of a whole config. Raises ValueError for what one of its parts refuses, with the key of that."""
    try:
        return OmegaConf.to_object(merged)
    except ValueError:
        for key, part in _parts(merged):
            try:
                OmegaConf.to_object(part)
            except ValueError as error:
                names = hints_of(cast(type, OmegaConf.get_type(part)))
                raise ValueError(named(str(error), key, names)) from None
        raise


def _parts(config: DictConfig, before: str = "") -> Iterator[tuple[str, DictConfig]]:
    """The parts of a config that are dataclasses, each after those within it, by key."""
    for name in config:
        part = config._get_node(name)
        if isinstance(part, DictConfig) and is_dataclass(OmegaConf.get_type(part)):
            yield from _parts(part, f"{before}{name!s}.")
            yield f"{before}{name!s}", part


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config, each with its key as it is typed: "data.buckets[1].size"."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{key}[{number}]")
    else:
        yield key, value


def _over(below: DictConfig, *others: DictConfig) -> DictConfig:
    """Each config over those before it. Raises ConfigError as `_check_kinds`."""
    for above in others:
        _check_kinds(above, below)
        below = cast(DictConfig, OmegaConf.merge(below, above))
    return below


def _check_kinds(given: DictConfig, defaults: DictConfig, before: str = "") -> None:
    """Raises ConfigError for a value where there are keys, a list or keys for a value, or keys for a list."""
    for key, default in defaults.items_ex(resolve=False):
        value = given._get_node(key) if key in given else None
        if value is None or value._is_none() or value._is_interpolation() or not OmegaConf.is_config(default):
            continue
        if default._is_none() or not (isinstance(default, DictConfig) or default or isinstance(value, DictConfig)):
            continue  # a list of what no example is there for
        name = f"{before}{key!s}"
        shown = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value._value()
        if isinstance(default, DictConfig) and not isinstance(value, DictConfig):
            known = name in SLOTS or ("name" in default and not OmegaConf.is_struct(default))
            slot = known and isinstance(shown, str) and not is_dataclass(OmegaConf.get_type(default))
            way = f"{name}.name={shown}" if slot else f"{name}.{next(iter(default), 'KEY')!s}=..."
            raise ConfigError(f"{name} is {shown!r}, but it has keys of its own: give such as {way}")
        if not isinstance(default, DictConfig) and (isinstance(value, DictConfig) or not OmegaConf.is_config(value)):
            raise ConfigError(f"{name} is {shown!r}; expected a list, such as {name}={[*default]}")
        if isinstance(default, DictConfig) and isinstance(value, DictConfig):
            _check_kinds(value, default, f"{name}.")


def dump(config: RunConfig) -> str:
    """The config, every default filled in, as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def load_codec_config(config: LatentRun, folder: Path) -> VAERun:
    """The config that trains a model's autoencoder, in the same place, and on the same data unless
    `codec.own_data` is set: one autoencoder then serves several models. Or that by which `codec.run` was trained.

    Args:
        folder: of the model's own YAML, to which `codec.config` is relative.
    """
    shared: dict[str, Any] = {"runs": config.runs, "device": config.device}
    if config.codec.run:
        key, run = "codec.run", Path(config.codec.run).absolute()
        source = run / "resolved.yaml"
        if not source.is_file():
            raise ConfigError(f"codec.run is {config.codec.run}, which is no trained run: it has no resolved.yaml")
        changes: dict[str, Any] = shared | {"runs": str(run.parent), "name": run.name}  # wherever it is now
    else:
        key, source = "codec.config", _beside(folder, config.codec.config)
        changes = config.codec.override
        if not config.codec.own_data:
            shared["data"] = config.data.source
    try:
        codec = build_config(_over(_read(source), OmegaConf.create(shared), OmegaConf.create(changes)), str(source))
    except ConfigError as error:  # names keys as the autoencoder's own config has them
        for inner, _ in [] if config.codec.run else _leaves(changes):
            if re.search(rf"(^|: |unknown ){re.escape(inner)}\b", str(error)):
                raise ConfigError(str(error).replace(inner, f"codec.override.{inner}", 1)) from None
        raise
    if not isinstance(codec, VAERun):
        raise ConfigError(f"{key}: {source} is of kind {codec.kind}; an autoencoder's is vae")
    shape = codec.shape
    if shape.temporal > 1:
        config.check_temporal(shape)
    config.check_size(shape.factor)
    return codec


def _reason(error: OmegaConfBaseException, defaults: Any) -> str:
    """The key and what is wrong with it; its default shows what kind of value is expected."""
    key, message = error.full_key or "", str(error).splitlines()[0]
    default = OmegaConf.select(defaults, key, default=None) if key else None
    if OmegaConf.is_config(default):
        default = OmegaConf.to_container(default)
    return f"{key}: {message}".removeprefix(": ") + ("" if default is None else f"; the default is {default!r}")


def _beside(folder: Path, name: str) -> Path:
    """The config that another one in `folder` names: relative to it, or a recipe that comes with vidiff."""
    own = not (folder / name).is_file() and name.removesuffix(".yaml") in recipes()
    return find_config(name if own else folder / name)


def _read(path: Path) -> DictConfig:
    """A YAML file and its parents, merged. A parent's `codec.config` is made relative to the file itself."""
    path = find_config(path)
    folder, seen = path.parent, list[Path]()
    layers: list[Any] = []
    while True:
        if path.resolve() in seen:
            raise ConfigError(f"{path} is its own base, through {' and '.join(p.name for p in seen)}")
        seen.append(path.resolve())
        try:
            with path.open(encoding="utf-8") as file:
                text = check_yaml(file.read(LARGEST + 1))
            layer = OmegaConf.load(path)
        except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError) as error:
            raise ConfigError(f"{path} is not a YAML mapping: {str(error).splitlines()[0]}") from None
        if not isinstance(layer, DictConfig):
            raise ConfigError(f"{path} is not a YAML mapping of keys to values")
        for keys, typed in as_typed(text):
            _put(layer, keys, typed)
        base, codec = layer.pop("base", None), layer.get("codec")
        if layers and isinstance(codec, DictConfig) and codec.get("config"):
            codec.config = os.path.relpath(_beside(path.parent, codec.config), folder)
        layers.insert(0, layer)
        if base is None:
            break
        path = _beside(path.parent, str(base))
    return _over(*layers)
