"""Score a trained run; for super-resolution, against bicubic. The oracle reads colour, shape and place of objects."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vidiff import score_upscaling
from vidiff.data.shapes import LABELS, read_clips
from vidiff.data.video import read_video, sheet, write_image, write_video
from vidiff.engine.report import write_report
from vidiff.evaluate.protocol import ShapesProtocol, score_extension, score_generation, score_real
from vidiff.evaluate.upscaling import UpscalingProtocol
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run, read_config


def save(scores: dict[str, Any], run: Path, asked: Path | None) -> None:
    """Keep the scores in the run's folder, where its report shows them, and where they are asked for; print them."""
    for path in {run / "scores.json", asked or run / "scores.json"}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(scores, indent=2) + "\n")
    write_report(run)
    for part, values in scores.items():
        if part in ("protocol", "sampling", "run"):
            continue
        print(part)
        for key, value in values.items():
            if not isinstance(value, list):
                print(f"  {key:24}{value:.3f}" if isinstance(value, float) else f"  {key:24}{value}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--oracle", choices=["shapes"], default="shapes", help="what reads the clips")
    parser.add_argument("--data", type=Path, help="the shapes set; by default the one that the run was trained on")
    parser.add_argument("--json", type=Path, help="file for the scores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    options = parser.parse_args(arguments)
    protocol = ShapesProtocol()
    try:
        run = options.run or latest_run()
        pipeline = Pipeline.from_pretrained(run, options.device)
        if pipeline.lowres.factor:
            save(score_upscaling.score_run(run, pipeline, options.data, UpscalingProtocol()), run, options.json)
            return 0
        if set(pipeline.labels) != set(LABELS):
            found = f"its labels are {', '.join(pipeline.labels[:3])}, ..." if pipeline.labels else "it has no labels"
            raise ValueError(f"{run} was not trained on the shapes set: {found}; name another with --run")
        root = options.data or Path(read_config(run).data.root)
        truth = {path: clip for path, clip in read_clips(root).items() if path.parts[-3] == "test"}
        files = [path for label in LABELS for path in sorted(truth) if truth[path].label == label]
        wrong = [path for path in files if truth[path].side != pipeline.size]
        if wrong or not files:
            found = f"{wrong[0]} has {truth[wrong[0]].side}" if wrong else "there are none"
            raise ValueError(f"held-out clips in {root} must have frames of {pipeline.size} px, as {run}: {found}")
        length = protocol.frames
        real = torch.stack([read_video(path, range(length)) for path in files])
        paths = torch.stack([truth[path].path(length) for path in files])
        labels = torch.tensor([LABELS.index(truth[path].label) for path in files])

        decoded = torch.cat([pipeline.reconstruct(part[:, :, : pipeline.frames]) for part in real.split(8)])
        scores = {"protocol": asdict(protocol), "sampling": pipeline.settings(), "run": str(run)}
        scores["real"] = score_real(real[:, :, : pipeline.frames], decoded, labels)
        folder = run / "samples"
        scores["generation"], made = score_generation(
            lambda names, seed: pipeline.generate(label=names, count=len(names), seed=seed, progress=True).cpu(),
            LABELS,
            protocol,
        )
        for name, count in (("extension", protocol.extended), ("extension_untold", protocol.untold)):
            every = max(len(files) // count, 1)
            chosen = range(every // 2, len(files), every)
            scores[name], longer = score_extension(
                lambda given, names, frames, seed: pipeline.extend(
                    given, frames, names, seed=seed, progress=True
                ).cpu(),
                real[chosen],
                [LABELS[i] for i in labels[chosen]] if name == "extension" else None,
                paths[chosen],
                protocol,
            )
            write_video(folder / f"evaluated-{name}.mp4", longer, fps=pipeline.fps)
            rows = [sheet(clip[:, ::2]) for clip in longer[::4]]
            write_image(folder / f"evaluated-{name}.png", torch.cat(rows, dim=1))
        write_video(folder / "evaluated-generated.mp4", made, fps=pipeline.fps)
        write_image(folder / "evaluated-generated.png", torch.cat([sheet(clip) for clip in made[:12]], dim=1))
        save(scores, run, options.json)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; no scores were written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
