"""docs/speed.md: what stands between its marks is made of the figures that were measured, and its pictures too."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vidiff.store.files import write_whole

from .timing import figures_of, spread

PAGE, FIGURES = Path("docs/speed.md"), Path("docs/speed.json")
RATIOS, CURVES = "speed_ratios.png", "speed_quality.png"  # beside the page
MARK = re.compile(r"(<!-- measured: (\w+) -->\n).*?(<!-- end -->)", re.S)
QUIET = 0.05  # of the cores, that others may take
Found = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(found: Found) -> str:
    """Where and when it was measured, in a line."""
    known = found["machine"]
    versions = known["versions"]
    line = f"{known['processor']}, {found['threads']} of {known['cpus']} cores, {known['cpu_capability']}"
    line += f", {found['rounds']} rounds; " if "rounds" in found else "; "
    line += (
        f"vidiff {versions.get('vidiff', '')}, torch {versions['torch']}; {known['date']}, {known['seconds']:.0f} s."
    )
    others = known["others"]
    if others is not None and others > QUIET:
        line += f" **Other work took {others:.0%} of the cores meanwhile**: only ratios of what ran by turns tell much."
    return line


def passes(found: Found) -> str:
    """Of training steps or forward passes."""
    rows = []
    for row in found["rows"]:
        shape, precision = "x".join(map(str, row["shape"])), row["precision"]
        for name, label in (("ours", "vidiff"), ("theirs", row["peer"])):
            side, own = row[name], name == "ours"
            rows.append(
                [
                    f"{label}: {side['settings']}",
                    f"{side['parameters'] / 1e6:.1f} M",
                    shape,
                    f"{side['clips_per_second']:.2f}",
                    f"{side['flops'] / 1e9:.0f}",
                    f"{side['share']:.0%}",
                    f"**{spread(row['ratio'])}**" if own else "",
                    f"{spread(row['ratio_chosen'])}, {precision}" if own else "",
                ]
            )
    head = ["network", "parameters", "input", "clips/s", "GFLOP", "of the matrix rate", "ratio, fp32", "as it chooses"]
    rates = found["rates"]
    text = (
        f"Products of matrices reach {rates['fp32'] / 1e9:.0f} GFLOP/s in fp32 and {rates['bf16'] / 1e9:.0f} in bf16 "
        f"here, copies {rates['copy'] / 1e9:.1f} GB/s.\n\n{table(head, rows)}"
    )
    if found["kind"] == "train":
        moved = "; ".join(
            f"{'x'.join(map(str, r['shape']))} beside {r['peer']}: {r['ours']['bytes'] / 1e9:.1f} GB, "
            f"{r['ours']['bandwidth']:.2f}"
            for r in found["rows"]
        )
        text += (
            "\n\nWhat the operations of vidiff's two passes read and write, and that a second over the rate of copies "
            f"(more than 1 where caches hold it): {moved}."
        )
    return text


def train(found: Found) -> str:
    text = f"![Ratios of the training steps and forward passes, with their spread]({RATIOS})\n\n{passes(found)}"
    if "memory" in found:
        mib = [
            [r["peer"], *(f"{r[k] / 2**20:.0f} MiB" for k in ("theirs", "ours")), f"{r['ratio']:.2f}"]
            for r in found["memory"]
        ]
        text += f"\n\n{table(['peak memory of a step', 'its own', 'of vidiff', 'ratio'], mib)}"
    return text


def forward(found: Found) -> str:
    frames = found["frames"]
    rows = [[r["kind"], *(f"{x:.2f}" for x in r["ratios"]), *(f"{x:.2f}" for x in r["flops"])] for r in frames]
    lengths = frames[0]["frames"]
    head = ["time of a frame, over that of 16", *map(str, lengths), *(f"FLOPs, {f}" for f in lengths)]
    return f"{passes(found)}\n\n{table(head, rows)}"


def attention(found: Found) -> str:
    rows = [
        [
            f"over {r['axis']}, {r['sequences'][0]} of {r['sequences'][1]} tokens: {r['name']}",
            f"{1000 * r['seconds']:.1f}",
            spread(r["ratio"]),
            f"{r['share']:.0%}",
        ]
        for r in found["rows"]
    ]
    return table([f"{found['width']} channels, both passes", "ms", "times vidiff's", "of the matrix rate"], rows)


def sample(found: Found) -> str:
    rows = [
        [r["sampler"], f"{r['seconds']:.2f}", f"{r['share']['median']:.1%}", f"{r['share']['min']:.1%}"]
        for r in found["rows"]
    ]
    shares = table(["sampler", "s a window", "in the network", "at least"], rows)
    return f"{shares}\n\n`{found['config']}`, {found['steps']} steps."


def guidance(found: Found) -> str:
    rows = [[r["name"], spread(r["ratio"]), f"{r['clips']:.2f}"] for r in found["rows"]]
    sides = "; ".join(f"{name} {spread(each)}" for name, each in found["passes"].items())
    costs = table(["guidance", "times a plain draw", "times the clips seen"], rows)
    line = f"`{found['config']}`, {found['steps']} steps. A pass guided on a label takes, over a plain one: {sides}."
    return f"{costs}\n\n{line}"


def extend(found: Found) -> str:
    ratios, mib = found["ratio"], [each / 2**20 for each in found["peak"]]
    return (
        f"{found['windows']} windows of `{found['config']}`: peak memory {mib[0]:.0f} MiB after the first, "
        f"{mib[-1]:.0f} MiB after all, **{ratios['peak']:.3f} times** (without what was held before, "
        f"{ratios['grown']:.3f}); a later window takes {found['later']:.2f} times as long as the first."
    )


def ablation(found: Found) -> str:
    rows = [
        [r["name"], " ".join(f"`{c}`" for c in r["changes"]), f"{1000 * r['seconds']:.0f}", spread(r["ratio"])]
        for r in found["rows"]
    ]
    return table([f"a step of {found['batch']} clips", "changes", "ms", "times the recipe"], rows)


def load(found: Found) -> str:
    tables = []
    for alone, says in ((False, "as it comes"), (True, "all threads on one core")):
        rows = [row for row in found["rows"] if row["one_core"] == alone]
        cells = [
            [f"{row['file']}, read at {row['size']}", f"{row['readers']['pyav']['clips_per_core_second']:.1f}"]
            + [spread(reader["ratio"]) for reader in row["readers"].values()]
            for row in rows
        ]
        tables.append(
            table([f"times pyav's work, {says}", "pyav's clips a second of a core", *rows[0]["readers"]], cells)
        )
    return "\n\n".join(tables)


def latents(found: Found) -> str:
    cached, rows = found["decoding"], []
    for each in found["copying"]:
        rows.append([f"{each['kib']} KiB", f"{each['dataset']:.2f}", f"{each['memcpy']:.2f}", f"{each['ratio']:.2f}"])
    line = f"Decoded {cached['decoded']:.1f} clips/s, from the cache {cached['cached']:,.0f}: "
    line += f"{cached['ratio']:,.0f} times as many."
    return line + "\n\n" + table(["a clip", "data set, GB/s", "memcpy, GB/s", "ratio"], rows)


def stream(found: Found) -> str:
    rows = [[r["name"], f"{1000 * r['seconds']:.1f}"] for r in found["rows"]]
    return table(["strategy", "ms a frame"], rows)


def quality(found: Found) -> str:
    rows = []
    for run in found["runs"]:
        reached = "not reached" if run["minutes"] is None else f"{run['minutes']:.2f}"
        share = "" if run["share"] is None else f"**{run['share']:.2f}**"
        ends = [told for side in ("theirs", "ours") for told in ended(run.get(side))]
        rows.append([str(run["seed"]), *ends, reached if "ours" in run else "", share])
    head = ["seed", "the peer's error", "minutes", "steps", "vidiff's error", "minutes", "steps"]
    head += ["vidiff at the peer's error, minutes", "of the peer's"]
    peer, first = found["peer"], found["runs"][0]
    tried = [f"{t['rate']:g}, {t['batch']}: {t['error']:.4f} ({t['steps']} steps)" for t in peer["trials"]]
    latent = "latents of a trained autoencoder" if found["codec"] else "frames of an eighth of the size"
    own = "not measured"  # of `--sides theirs`
    if "ours" in first:
        own = f"{first['ours']['parameters'] / 1e6:.1f} million, `{found['config']}` with batches of {found['batch']} "
        own += f"and {', '.join(f'`{change}`' for change in found['changes'])}"
    return (
        f"![Held-out error against minutes of training]({CURVES})\n\n{table(head, rows)}\n\n"
        f"{latent.capitalize()}, {found['minutes']:g} minutes for each side at most. The peer: "
        f"{first['theirs']['parameters'] / 1e6:.1f} million parameters, rate {peer['rate']:g}, batches of "
        f"{peer['batch']}. vidiff: {own}. The peer's rates and batches that were tried, with their errors after a "
        f"tenth of the time: {'; '.join(tried)}."
    )


def ended(side: Found | None) -> list[str]:
    """The error of a side at its end, its minutes and its steps, as they are printed."""
    if side is None:
        return ["not measured", "", ""]
    minutes, error = side["curve"][-1]
    return [f"{error:.4f}", f"{minutes:.1f}", str(side["steps"])]


SECTIONS: dict[str, Callable[[Found], str]] = {
    "train": train,
    "forward": forward,
    "attention": attention,
    "sample": sample,
    "guidance": guidance,
    "extend": extend,
    "ablation": ablation,
    "load": load,
    "latents": latents,
    "stream": stream,
    "play": lambda found: table(["part", "ms of processor time"], [[k, f"{v:.1f}"] for k, v in found["ms"].items()]),
    "quality": quality,
}


def filled(page: str, figures: dict[str, Found]) -> str:
    """The page with what was measured between its marks. Raises ValueError for a mark of nothing that is measured."""

    def fill(match: re.Match[str]) -> str:
        name = match[2]
        if name not in SECTIONS:
            raise ValueError(f"the page has a mark for {name!r}; {', '.join(SECTIONS)} are measured")
        found = figures.get(name)
        text = "*Not measured yet.*" if found is None else f"{SECTIONS[name](found)}\n\n{machine(found)}"
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return MARK.sub(fill, page)


def draw_ratios(figures: dict[str, Found], out: Path) -> None:
    """Bars of how many times as long each peer takes, with their spread."""
    from matplotlib import pyplot

    bars = [
        (f"{row['peer']}\n{'x'.join(map(str, row['shape']))}, {kind}", row[key], f"C{number}")
        for kind in ("train", "forward")
        for row in figures.get(kind, {}).get("rows", [])
        for number, key in enumerate(("ratio", "ratio_chosen"))
        if number == 0 or row["precision"] != "fp32"
    ]
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(bars) + 1), layout="constrained")
    for place, (_, ratio, colour) in enumerate(reversed(bars)):
        middle = ratio["median"]
        axes.barh(place, middle, xerr=[[middle - ratio["min"]], [ratio["max"] - middle]], color=colour)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in reversed(bars)], fontsize=7)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as long as vidiff (blue: fp32; orange: in the precision that vidiff chooses)")
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def draw_curves(found: Found, out: Path) -> None:
    """Held-out errors of both sides against minutes, a line for each seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for number, run in enumerate(found["runs"]):
        for side, label, colour in (("ours", "vidiff", "C0"), ("theirs", "video-diffusion-pytorch", "C1")):
            if side in run:
                axes.plot(*zip(*run[side]["curve"], strict=True), color=colour, label=None if number else label)
    axes.set(
        xlabel="minutes of training, of processor time for each thread",
        ylabel="error of the noise, held-out clips",
        yscale="log",
    )
    axes.legend()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def write(args: argparse.Namespace) -> None:
    """Fills the page and draws its pictures."""
    import matplotlib

    matplotlib.use("Agg")
    if not args.json.exists():
        raise ValueError(
            f"{args.json} is not there: `python tools/benchmark.py all --json {args.json}` measures what it has"
        )
    figures = figures_of(args.json)
    write_whole(args.page, filled(args.page.read_text(encoding="utf-8"), figures))
    if "train" in figures:
        draw_ratios(figures, args.page.with_name(RATIOS))
    if "quality" in figures:
        draw_curves(figures["quality"], args.page.with_name(CURVES))
    print(f"{args.page}: {', '.join(name for name in SECTIONS if name in figures)}")


def options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", type=Path, default=FIGURES, help="file of figures")
    command.add_argument("--page", type=Path, default=PAGE, help="the page; its pictures lie beside it")
