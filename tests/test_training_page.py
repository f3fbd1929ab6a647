"""docs/training.md: what it tells to type is valid, and what it names is there."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import yaml

from vidiff.engine.options import TrainOptions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_scripts_are_bash() -> None:
    assert len(blocks("sh")) == 4
    for script in blocks("sh"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_manifests_are_yaml_that_train() -> None:
    found = [yaml.safe_load(block) for block in blocks("yaml")]
    assert [each["kind"] for each in found] == ["Job", "PyTorchJob"]
    replicas = found[1]["spec"]["pytorchReplicaSpecs"]
    pods = [found[0]["spec"]["template"], replicas["Master"]["template"], replicas["Worker"]["template"]]
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["command"][0] == "torchrun" and "vidiff.train" in container["command"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_keys_and_files_are_there() -> None:
    keys = set(re.findall(r"train\.([a-z_]+)", PAGE)) - {"sh"}
    assert {"parallel", "shards", "accumulate", "compile", "check_memory", "precision"} <= keys
    assert keys <= {field.name for field in dataclasses.fields(TrainOptions)}
    for file in re.findall(r"(?:configs|tools)/\w+\.\w+", PAGE):
        assert (ROOT / file).is_file(), file
