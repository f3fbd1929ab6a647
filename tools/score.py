"""Score made clips against real ones in the features of a network, with a card that says how.

A run makes its own clips, one for each real one, with its label. The same numbers come from one process and from
several (torchrun --nproc-per-node 2 tools/score.py ...), given as many threads each.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vidiff.data.index import build_index
from vidiff.data.root import name_of
from vidiff.engine.parallel import Group, processes
from vidiff.evaluate.card import MADE, Card, check_network, compare, lines, measured, read_card
from vidiff.evaluate.clip_score import ClipScore
from vidiff.evaluate.clips import Windows, choose_windows, gathered
from vidiff.evaluate.features import Features
from vidiff.evaluate.folder import index_folder
from vidiff.evaluate.made import Made
from vidiff.evaluate.measure import add_prediction, look, measure
from vidiff.evaluate.page import SHOWN, write_page
from vidiff.evaluate.prediction import predicted
from vidiff.evaluate.scores import nearest
from vidiff.pipeline import Pipeline


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made", type=Path, help="a trained run's folder, or a folder of clips, one a file")
    parser.add_argument("--real", required=True, help="the data set: a folder, a list, tars, or a URL of these")
    parser.add_argument("--network", type=Path, required=True, help="a network's folder; see tools/make_network.py")
    parser.add_argument("--split", default="test", help="of the data set (default: test)")
    parser.add_argument("--clips", type=int, help="real clips, and made ones; by default as many as there are")
    parser.add_argument("--frames", type=int, help="of a clip; by default the run's, or 16")
    parser.add_argument("--stride", type=int, default=1, help="source frames per clip frame (default: 1)")
    parser.add_argument("--size", type=int, help="of the frames, in pixels; by default the run's, or 64")
    parser.add_argument("--seed", type=int, default=0, help="of the made clips and of resampling (default: 0)")
    parser.add_argument("--guidance", type=float, help="by default the run's own")
    parser.add_argument("--steps", type=int, help="by default the run's own")
    parser.add_argument("--sampler", help="by default the run's own")
    parser.add_argument("--predict", type=int, metavar="GIVEN", help="also continue the real clips from so many frames")
    parser.add_argument("--tries", type=int, default=1, help="of each prediction; the best counts (default: 1)")
    parser.add_argument("--lpips", type=Path, help="a network of two pictures, for predictions")
    parser.add_argument("--clip", type=Path, help="a CLIP model's folder, to score clips against their labels")
    parser.add_argument("--against", type=Path, help="another card.json, to compare with")
    parser.add_argument("--out", type=Path, help="folder for card, scores and page (default: MADE/scores-NETWORK)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:0")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        with processes(options.device) as group:
            score(options, group)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; no scores were written", file=sys.stderr)
        return 130
    return 0


def score(options: argparse.Namespace, group: Group) -> None:
    other = read_card(options.against) if options.against else None
    network = Features.load(options.network, group.device)
    judge = ClipScore(options.clip, group.device) if options.clip else None
    similar = Features.load(options.lpips, group.device) if options.lpips else None
    run = Pipeline.from_pretrained(options.made, group.device) if (options.made / "resolved.yaml").is_file() else None
    if options.predict and not run:
        raise ValueError(f"{options.made} is no trained run, so it cannot continue clips: leave out --predict")
    frames, size = options.frames or (run.frames if run else 16), options.size or (run.size if run else 64)
    if run and size != run.size:
        raise ValueError(f"size is {size}, but {options.made} makes clips of {run.size} pixels")
    real = windows(options, group, options.split, frames, size, options.clips)
    count = len(real)
    try:
        known = windows(options, group, "train", frames, size, count) if options.split != "train" else None
    except ValueError:  # no such split, or too few clips: the card says that the floor is left out
        known = None
    names = [real.index.labels[n] if n >= 0 else None for n in real.labels.tolist()]
    source: Made | Windows
    if run:
        drawn = {name: getattr(options, name) for name in ("guidance", "steps", "sampler")}
        source = Made(run, names, frames, options.seed, drawn)
    else:
        index = group.share(index_folder(options.made, real.index.labels) if group.main else None)
        source = choose_windows(index, frames, size, options.stride, count)

    def seen(which: range, video: Tensor) -> dict[str, Tensor]:
        found = look(network, video) | {"shown": video[: max(0, SHOWN - which.start)]}
        captions = [str(name).replace("_", " ") for name in names[which.start : which.stop]]
        return found | ({"CLIP score": judge(video, captions)} if judge else {})

    truth = gathered(count, group, lambda which: seen(which, real.read(which)), "real")
    made = gathered(count, group, lambda which: seen(which, source.read(which)), "made")
    train = known and gathered(count, group, lambda which: look(network, known.read(which)), "training")
    coded = run and gathered(count, group, lambda which: look(network, run.reconstruct(real.read(which))), "codec")

    def continued(which: range) -> dict[str, Tensor]:
        assert isinstance(source, Made)
        return predicted(partial(source.extend, which), real.read(which), options.predict, options.tries, similar)

    future = gathered(count, group, continued, "prediction") if options.predict else {}
    if not group.main:
        return
    scores = measure(network, truth, made, train, coded, options.seed)
    if options.predict:
        add_prediction(scores, future, options.predict, options.tries)
    protocol = {
        "network": network.name,
        "network_sha256": network.sha256,
        "preprocessing": network.preprocessing,
        "data": name_of(options.real),
        "data_sha256": real.sha256,
        "split": options.split,
        "real_clips": count,
        "clips": count,
        "frames": frames,
        "stride": options.stride,
        "size": size,
        "seed": options.seed,
    }
    unknown = {**dict.fromkeys(MADE), "source": str(options.made)}
    how = source.how(str(options.made)) if isinstance(source, Made) else unknown
    card = Card(protocol, how, measured(str(group.device), group.world), scores.values, scores.left_out)
    comparison = compare(card, check_network(other, network.sha256)) if other else None
    out = options.out or options.made / f"scores-{network.name}"
    near = (nearest(made["features"][:SHOWN], train["features"])[1], known.read) if known else None
    page = write_page(out, card, truth["shown"], made["shown"], near, run.fps if run else 16.0, comparison)
    print("\n".join([*lines(card, comparison), str(page)]))


def windows(
    options: argparse.Namespace, group: Group, split: str, frames: int, size: int, count: int | None
) -> Windows:
    """Of a split of the data set; one process looks for the files."""
    index = group.share(build_index(options.real, split=split) if group.main else None)
    return choose_windows(index, frames, size, options.stride, count)


if __name__ == "__main__":
    sys.exit(main())
