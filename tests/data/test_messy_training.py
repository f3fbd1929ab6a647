"""From a messy folder to a trained model, by the commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from messy import WAYS, write_broken, write_clip, write_uncommon
from trainings import DIFFUSION, ROOT, VAE, run
from videos import numbered

from vidiff.report.log import read_metrics
from vidiff.video.reader import read_video
from vidiff.video.writer import write_video


@pytest.mark.slow
@pytest.mark.faults
def test_a_messy_folder_is_trained_on(tmp_path: Path) -> None:
    data = tmp_path / "data"
    whole = write_clip(data / "a" / "whole.mp4").read_bytes()
    for number in range(28):
        write_clip(data / "ab"[number % 2] / f"{number:02d}.mp4", number)
    write_uncommon(data / "b")
    write_video(data / "b" / "moving.gif", numbered(9))
    write_video(f"{data}/a/pictures/", numbered(9))
    broken = [way for way in WAYS if way != "hang"]
    for way in broken:
        write_broken(data / "a" / f"{way.replace(' ', '-')}.mp4", way, whole)
    for name in ("vae", "tiny"):
        (tmp_path / f"{name}.yaml").write_text({"vae": VAE, "tiny": DIFFUSION}[name])

    refused = run(tmp_path, "-m", "vidiff.train", "tiny.yaml", code=2)
    assert "cannot be read, more than data.max_broken=0.0 allows" in refused
    said = run(tmp_path, str(ROOT / "tools" / "doctor.py"), "data")
    assert f"{28 + 1 + 5 + 2 + len(broken)} files: {28 + 1 + 5 + 2} readable" in said
    said = run(tmp_path, "-m", "vidiff.train", "tiny.yaml")
    held_out = {way for way in broken if f"left out a/{way.replace(' ', '-')}.mp4: " not in said}
    assert not held_out
    assert "a file that runs/index/quarantine.txt lists, such as a/" in said
    assert read_metrics(tmp_path / "runs" / "tiny" / "metrics.jsonl")[-1]["step"] == 2
    assert read_video(tmp_path / "runs" / "tiny" / "samples" / "step-0000002.mp4").isfinite().all()
