"""Continue held-out clips of a run by every strategy, and compare what becomes of them: a table, a page, pictures."""

from __future__ import annotations

import argparse
import json

from vidiff.cli.command import exit_code
from vidiff.cli.options import STRATEGIES, Parser, Whole, add_device, add_latest, number, seed, steps, tilde

SHOWN = (8, 32, 64, 128, 256, 512, 1000)  # frames in the pictures, the first of a video being 1
PROTOCOL = {  # fields of vidiff.evaluate.long.LongProtocol: what each is by default, and what it means
    "clips": (24, "held-out clips, evenly chosen"),
    "given": (8, "frames that each begins with"),
    "frames": (256, "that each has in the end"),
    "chunk": (32, "frames of a stretch, by which drift is measured"),
    "batch": (8, "clips drawn at once"),
    "seed": (0, "same seed, same frames"),
    "steps": (None, "of the sampler; by default the run's own"),
    "context": (None, "frames on which each window looks back; by default the run's own"),
}
BOUNDS = {"seed": seed, "steps": steps, "chunk": Whole(2)}  # of others, 1 or more


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, epilog="example: vidiff compare --run runs/shapes --strategies clean noisy --clips 8"
    )
    add_latest(parser)
    parser.add_argument("--data", type=tilde, help="held-out clips; by default of the data that the run was trained on")
    parser.add_argument(
        "--strategies",
        nargs="+",
        help=f"of {', '.join(STRATEGIES)}, or with options: '{{name: noisy, level: 0.02}}'; by default all",
    )
    parser.add_argument(
        "--history",
        type=scale,
        nargs="+",
        help="scales of guidance on what is continued, or none; by default the run's, and none",
    )
    parser.add_argument(
        "--others", type=tilde, nargs="+", metavar="RUN", default=[], help="more runs, by which the same clips go on"
    )
    for name, (usual, help) in PROTOCOL.items():
        default = "" if usual is None else f" (default: {usual})"
        parser.add_argument(f"--{name}", type=BOUNDS.get(name, Whole()), default=usual, help=help + default)
    parser.add_argument("--out", type=tilde, help="folder for all results; by default compare_extend/ in the run's")
    add_device(parser)
    return parser.parse_args(arguments)


def scale(text: str) -> float | None:
    """A number, or none. Raises ValueError for anything else, of which argparse tells."""
    return None if text == "none" else number(text)


def continue_clips(options: argparse.Namespace) -> None:
    import torch
    from torch.nn.functional import pad

    from vidiff.data.index import other_data
    from vidiff.evaluate.comparison import comparison_page, markdown
    from vidiff.evaluate.long import GAP, PICTURED, LongProtocol, compare_ways, held_out, ways
    from vidiff.pipeline.pipeline import Pipeline
    from vidiff.pipeline.run import latest_run, read_config, runs_of
    from vidiff.store.files import check_writable, write_whole
    from vidiff.video.reader import read_image
    from vidiff.video.writer import write_image

    protocol = LongProtocol(**{name: getattr(options, name) for name in PROTOCOL})
    run = options.run or latest_run()
    names = [each.name for each in (run, *options.others)]
    if alike := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two of the runs are called {alike[0]}: results go by the names of runs, so give others")
    pipelines = {each: Pipeline.from_pretrained(each, options.device) for each in (run, *options.others)}
    every = {each: ways(pipeline, options.strategies, options.history) for each, pipeline in pipelines.items()}
    config = read_config(run)
    data = config.data
    data = data if options.data is None else other_data(data, options.data)
    clips = held_out(pipelines[run], data, protocol, runs_of(run, config))
    for other, pipeline in pipelines.items():
        if pipeline.size != clips.side:
            raise ValueError(f"{other} makes frames of {pipeline.size}, {run} of {clips.side}: they share no clips")
    out = options.out or run / "compare_extend"
    check_writable(out, folder=True)
    show = sorted({min(frame, protocol.frames) - 1 for frame in SHOWN})
    results, pictures = [], {}
    for each, pipeline in pipelines.items():
        origin = f"{each}, {(each / 'checkpoints' / 'latest').read_text().strip()}"
        folder = out if each == run else out / each.name
        folder.mkdir(parents=True, exist_ok=True)
        for result, picture in compare_ways(
            pipeline, clips, every[each], protocol, show, folder, origin, real=each == run
        ):
            if options.others and result["way"] is not None:
                result = result | {"name": f"{each.name}: {result['name']}"}
            results.append(result)
            pictures[result["name"]] = picture
    origin = ", ".join(map(str, pipelines))
    frames = ", ".join(str(frame + 1) for frame in show)
    about = f"{len(clips.files)} held-out clips, continued from {protocol.given} to {protocol.frames} frames; {origin}"
    caption = f"Frames {frames} of {min(PICTURED, len(clips.files))} clips side by side."
    shown = {name: file.read_bytes() for name, file in pictures.items()}
    write_whole(out / "comparison.json", json.dumps(results, indent=2) + "\n")
    write_whole(out / "comparison.md", markdown(results))
    write_whole(out / "comparison.html", comparison_page("Long videos", about, results, shown, caption))
    strips = [pad(read_image(file), (0, 0, 0, GAP), value=1.0) for file in pictures.values()]
    write_image(out / "comparison.png", torch.cat(strips, dim=1))
    print(markdown(results))
    print(f"{out / 'comparison.html'}; pictures, from top to bottom: {', '.join(pictures)}")


def main(arguments: list[str] | None = None) -> int:
    return exit_code(continue_clips, parse(arguments), "what is there is kept, and the same command goes on from it")
