"""Plot how unexpected each frame of a clip is to a trained run, in bits a latent number."""

from __future__ import annotations

import argparse
from pathlib import Path

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, add_device, add_latest, seed, steps, tilde

SUFFIXES = (".png", ".svg", ".pdf", ".jpg")  # of what matplotlib writes


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        epilog="example: vidiff surprise clip.mp4 --run runs/shapes --out surprise.png",
    )
    parser.add_argument("clip", type=tilde, help="a video file, as wide and high as the model's clips or larger")
    add_latest(parser)
    parser.add_argument("--label", help="what the clip shows, where the model has labels")
    parser.add_argument("--frames", type=Whole(), help="look at the first so many; by default at all")
    parser.add_argument("--context", type=Whole(), help="frames that each further window is given")
    parser.add_argument("--steps", type=steps, default=20, help="of the ODE's solver, at four evaluations each")
    parser.add_argument("--seed", type=seed, default=0, help="of the random probes")
    parser.add_argument("--out", type=tilde, default=Path("surprise.png"))
    add_device(parser)
    return parser.parse_args(arguments)


def plot(options: argparse.Namespace) -> None:
    import torch

    from vidiff.diffusion.grid import time_grid
    from vidiff.diffusion.likelihood import surprise
    from vidiff.pipeline.given import GivenClip
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run
    from vidiff.store.error import absent
    from vidiff.store.files import check_writable, draft_of

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise absent(error, "plot") from None
    if options.out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"--out is {options.out}; give a name that ends in {', '.join(SUFFIXES)}")
    check_writable(options.out)
    pipeline = Pipeline.from_pretrained(options.run or latest_run(), options.device)
    if pipeline.facts.student:
        raise ValueError("this run is a student of few steps, which knows of no likelihood: ask its teacher's run")
    if pipeline.codec.temporal > 1:
        raise ValueError("this run's codec makes one latent of several frames: nothing tells them apart")
    with GivenClip(options.clip, pipeline.facts) as clip:
        if clip.note:
            print(clip.note)
        count = clip.frames if options.frames is None else min(options.frames, clip.frames)
        video = clip.read(range(count))[None]  # 1 3 f h w
    bits = surprise(
        pipeline.denoiser,
        pipeline.codec.encode(video.to(pipeline.device)).mean,
        pipeline.condition(options.label, 1),
        time_grid(pipeline.denoiser.schedule, options.steps, dtype=torch.float64),
        window=pipeline.frames,
        context=pipeline.sampling.context if options.context is None else options.context,
        generator=torch.Generator().manual_seed(options.seed),
    )[0].tolist()
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(bits, marker=".")
    axes.set(xlabel="frame", ylabel="bits a latent number", title=options.clip.name)
    with draft_of(options.out) as draft:
        figure.savefig(draft, format=options.out.suffix.lower()[1:], dpi=120)
    most = max(range(len(bits)), key=bits.__getitem__)
    print(f"{options.out}: {len(bits)} frames, {sum(bits) / len(bits):.3f} bits a number; most at frame {most}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(plot, parse(arguments))
