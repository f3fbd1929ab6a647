"""The same clips in a folder, in tars, and elsewhere: the commands make the same model of them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from messy import BREAK, write_clip
from server import serving
from tars import pack
from trainings import DIFFUSION, ROOT, VAE, run

from vidiff.report.log import read_metrics


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]


@pytest.mark.slow
def test_every_source_trains_the_same_model(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 6), ("test", 3)):
        for n in range(count):
            write_clip(data / split / "ab"[2 * n // count] / f"{n}.mp4", n)
        files = sorted((data / split).rglob("*.mp4"))
        parts: dict[str, bytes | str | object] = {p.relative_to(data / split).as_posix(): p.read_bytes() for p in files}
        pack(tmp_path / "tars" / split / "0.tar", parts)  # type: ignore[arg-type]
    for name in ("vae", "tiny"):
        (tmp_path / f"{name}.yaml").write_text({"vae": VAE, "tiny": DIFFUSION}[name])
    with serving(tmp_path) as server:
        roots = {"folder": "data", "tars": "tars", "far": f"{server.url}/data", "far_tars": f"{server.url}/tars"}
        for name, root in roots.items():
            run(tmp_path, "-m", "vidiff.train", "tiny.yaml", f"data.root={root}", f"runs=runs_{name}")
    found = {name: losses(tmp_path / f"runs_{name}" / "tiny") for name in roots}
    assert len(found["folder"]) == 2 and all(each == found["folder"] for each in found.values()), found


@pytest.mark.slow
@pytest.mark.faults
def test_the_doctor_reads_every_source(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4").read_bytes()
    parts = {f"{n}.mp4": whole for n in range(3)} | {"cut.mp4": BREAK["truncated"](whole)}
    tar = pack(tmp_path / "data" / "0.tar", dict(parts))
    tool = str(ROOT / "tools" / "doctor.py")
    with serving(tmp_path / "data") as server:
        for root in ("data", "data/{0..0}.tar", f"{server.url}/0.tar"):
            said = run(tmp_path, tool, root)
            assert "4 files: 3 readable" in said and "1  truncated: download it again" in said
            assert f"next: vidiff train CONFIG data.root={shlex.quote(root)}" in said
        said = run(tmp_path, tool, server.url.replace("//", "//me:hush@") + "/gone", code=2)
        assert "error: " in said and "hush" not in said
        said = run(tmp_path, tool, "s3://bucket/clips", code=2)
        assert "error: s3://bucket/clips cannot be opened by what is installed: pip install s3fs" in said
    entries = (tmp_path / "runs" / "index" / "quarantine.txt").read_text()
    assert f"{tar}/cut.mp4\ttruncated: " in entries and "/0.tar/cut.mp4\ttruncated: " in entries.replace(f"{tar}", "")
