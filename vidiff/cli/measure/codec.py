"""Measure what a codec loses of held-out clips, what its latents are like, and the ceiling that it puts on a score."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vidiff.cli.command import exit_code
from vidiff.cli.options import Parser, Whole, add_device, seed, side, tilde

if TYPE_CHECKING:
    from vidiff.data.options import DataConfig
    from vidiff.engine.parallel import Group
    from vidiff.training.windows import Windows


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(
        description=__doc__, epilog="example: vidiff codec runs/shapes --data data/shapes --network networks/motion"
    )
    parser.add_argument("run", type=tilde, help="a trained run's folder: of a model, or of an autoencoder")
    parser.add_argument("--data", type=tilde, required=True, help="the data set: a folder, or a .csv or .jsonl list")
    parser.add_argument("--split", help="of the data set; by default the one that the run holds out, or test")
    parser.add_argument("--clips", type=Whole(), help="how many; by default as many as there are")
    parser.add_argument("--frames", type=Whole(), default=16, help="of a clip (default: 16)")
    parser.add_argument("--stride", type=Whole(), help="source frames per clip frame; by default the run's least, or 1")
    parser.add_argument("--size", type=side, help="of the frames, in pixels; by default the run's, or 64")
    parser.add_argument("--seed", type=seed, default=0, help="of samples of latents, and of resampling (default: 0)")
    parser.add_argument("--network", type=tilde, help="for the ceiling: a feature network's folder, or efficientnet")
    parser.add_argument("--out", type=tilde, help="folder for picture and card (default: RUN/codec-scores)")
    parser.add_argument("--json", type=tilde, help="file to write all numbers to")
    add_device(parser)
    return parser.parse_args(arguments)


def score(options: argparse.Namespace) -> None:
    from vidiff.engine.parallel import processes

    with processes(options.device) as group:
        score_in(group, options)


def score_in(group: Group, options: argparse.Namespace) -> None:
    from vidiff.data.index import other_data
    from vidiff.data.options import DataConfig
    from vidiff.evaluate.card import FILE, MADE, Card, card_lines, measured, protocol_of, write_card
    from vidiff.evaluate.codec import ceiling, open_codec, score_codec, views_around
    from vidiff.metrics.codec import codec_lines, strip
    from vidiff.metrics.features import Features
    from vidiff.recipe.load import load
    from vidiff.store.files import check_writable, write_whole
    from vidiff.video.writer import write_image

    out = options.out or options.run / "codec-scores"
    codec = open_codec(options.run)
    check_writable(out, folder=True)
    if options.json:
        check_writable(options.json)
    network = Features.load(options.network, group.device) if options.network else None
    own = options.run / "resolved.yaml"
    data = load(own).data if own.is_file() else DataConfig(size=64)
    data = replace(other_data(data, options.data), limit=0)  # the codec has seen files as its run reads them
    options.size = data.size if options.size is None else options.size
    options.stride = data.stride[0] if options.stride is None else options.stride
    options.split = options.split or data.test_split
    clips = windows(options, group, data, options.split, options.clips)
    scores, views = score_codec(codec, clips, group, options.seed, network)
    train = None
    if network and options.split != data.split:
        with suppress(ValueError):  # no such split, or too few clips: the card says that the floor is left out
            train = windows(options, group, data, data.split, len(clips))
    known = views_around(codec, train, group, network) if network and train else None
    if not group.main:
        return
    picture = out / "real-decoded-error.png"
    write_image(picture, strip(views["shown real"], views["shown decoded"]))
    report = [
        f"{options.run}: {len(clips)} clips of {options.frames} frames of {options.size} pixels",
        *codec_lines(scores),
    ]
    if network:
        result = ceiling(network, views, known, options.seed)
        protocol = protocol_of(network, clips, options.data.resolve().name, options.split, options.seed)
        how = {**dict.fromkeys(MADE), "source": f"real clips after the codec of {options.run}"}
        card = Card(protocol, how, measured(str(group.device), group.world), result.values, result.left_out)
        write_card(out / FILE, card)
        scores["ceiling"] = {"scores": result.values, "left out": result.left_out}
        report += [
            "",
            f"ceiling, real clips after the codec against themselves ({out / FILE})",
            *card_lines(card),
        ]
    if options.json:
        write_whole(options.json, json.dumps({"run": str(options.run), "clips": len(clips), **scores}, indent=1) + "\n")
    print("\n".join([*report, "", str(picture)]))


def windows(options: argparse.Namespace, group: Group, data: DataConfig, split: str, count: int | None) -> Windows:
    """Of a split of the data set; one process looks for the files."""
    from vidiff.data.index import index_of
    from vidiff.training.windows import choose_windows

    index = group.share(index_of(data, Path("runs"), split) if group.main else None)
    assert index is not None  # the main process shares it
    return choose_windows(index, options.frames, options.size, options.stride, count)


def main(arguments: list[str] | None = None) -> int:
    return exit_code(score, parse(arguments), "no scores were written")
