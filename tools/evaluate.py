"""Score a trained run: by label, by text, or as super-resolution, as it was trained; or its editing, or its classifier.

The oracle reads colour, shape and place of objects.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from vidiff import score_editing, score_guidance, score_shapes, score_upscaling
from vidiff.engine.report import write_report
from vidiff.evaluate.protocol import ShapesProtocol
from vidiff.evaluate.upscaling import UpscalingProtocol
from vidiff.options import add_weights
from vidiff.pipeline import Pipeline
from vidiff.run import latest_run, read_config


def score(run: Path, pipeline: Pipeline, asked: argparse.Namespace) -> tuple[dict[str, Any], Path]:
    """The scores that are asked for, and where they belong."""
    if pipeline.lowres.factor:
        return score_upscaling.score_run(run, pipeline, asked.data, UpscalingProtocol()), run / "scores.json"
    if asked.editing:
        return score_editing.score_edits(run, pipeline, read_config(run), asked.data), run / "editing.json"
    if asked.classifier is not None:
        return score_guidance.score_run(run, pipeline, ShapesProtocol()), asked.classifier / "scores.json"
    return score_shapes.score_run(run, pipeline, asked.data), run / "scores.json"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run's folder; by default the latest in runs/")
    parser.add_argument("--oracle", choices=["shapes"], default="shapes", help="what reads the clips")
    parser.add_argument("--data", type=Path, help="the shapes set; by default the one that the run was trained on")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--editing", action="store_true", help="score inpainting, interpolation and loops instead")
    which.add_argument("--classifier", type=Path, help="a classifier's run: score how it guides the run to labels")
    parser.add_argument("--json", type=Path, help="file for the scores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    add_weights(parser)
    options = parser.parse_args(arguments)
    try:
        run = options.run or latest_run()
        if options.weights != "ema" and options.json is None:
            raise ValueError(
                f"weights is {options.weights}: name a file with --json, since scores.json is of the ema's"
            )
        pipeline = Pipeline.from_pretrained(run, options.device, options.weights, options.classifier)
        scores, own = score(run, pipeline, options)
        for path in {own, options.json or own} if options.weights == "ema" else {options.json}:  # the report shows own
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(scores, indent=2) + "\n")
        write_report(own.parent)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; no scores were written", file=sys.stderr)
        return 130
    for part, values in scores.items():
        if part == "run" or part.startswith(("protocol", "sampling")):
            continue
        print(part)
        for key, value in values.items():
            if not isinstance(value, list):
                print(f"  {key:24}{value:.3f}" if isinstance(value, float) else f"  {key:24}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
