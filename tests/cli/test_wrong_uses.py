"""Forty wrong uses of each command: one line on stderr that says what to do, exit code 2, and nothing is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from careless import fill, parsers
from messy import write_clip

from vidiff.cli import COMMANDS, main, module_of
from vidiff.cli.options import Whole, number
from vidiff.engine.guard import Interrupted

CONFIG_FILE = """\
kind: diffusion
name: new
device: cpu
batch: 2
data: {root: data, size: 16, frames: 4, workers: 0}
codec: {name: identity}
unet: {width: 8, multipliers: [1, 2], blocks: [1, 1], head_dim: 8}
sampling: {context: 2, steps: 1}
train: {steps: 1, precision: fp32}
"""
GOOD = {  # of each command, what it wants at least
    "train": ["tiny.yaml"],
    "generate": [],
    "extend": ["clip.mp4", "--frames", "9"],
    "edit": ["animate", "clip.mp4"],
    "app": ["runs/tiny"],
    "play": ["runs/tiny"],
    "push": ["runs/tiny", "ada/tiny", "--out", "shared"],
    "new": ["other", "--data", "data"],
    "demo": ["--small"],
    "record": ["CartPole-v1", "--out", "recorded"],
    "doctor": ["data"],
    "encode": ["tiny.yaml"],
    "plan": ["tiny.yaml"],
    "evaluate": [],
    "compare": [],
    "surprise": ["clip.mp4"],
    "codec": ["runs/tiny", "--data", "data"],
    "ema": ["runs/tiny", "--width", "0.1"],
    "study": ["--a", "runs/tiny", "--b", "folder"],
    "selftest": [],
}
RUN = [
    (["--run", "none"], "none is not a trained run"),
    (["--run", "notes.txt"], "not a trained run"),
    (["--run", ""], "not a trained run"),
    (["--run", "folder"], "not a trained run"),
    (["--device", "tpu"], "no such device: 'tpu'"),
    (["--device", "cuda:99"], "cuda"),
]
OUT = [
    (["--out", "clip.avi"], "cannot write .avi files; use .mp4"),
    (["--out", "folder"], "folder"),
    (["--out", "folder/"], "holds notes.txt, not only frames"),
    (["--out", "notes.txt/clip.mp4"], "notes.txt is a file; choose another folder"),
    (["--out", f"{'x' * 300}.mp4"], "cannot be written, file name too long"),
    (["--out", "/proc/clip.mp4"], "/proc/clip.mp4: cannot be written"),
    *((["--fps", rate], f"--fps: {rate} is out of range; give 0.002") for rate in ("0", "-1", "1e9", "1e-9")),
    (["--fps", "60", "--out", "x.gif"], "fps is 60.0; give 0.002 to 50 frames per second"),
    (["--fps", "nan"], "argument --fps: invalid number value: 'nan'"),
    (["--fps", "inf"], "argument --fps: invalid number value: 'inf'"),
]
DRAW = [
    (["--sampler", "dimm"], "unknown sampling.sampler 'dimm'; choose one of"),
    (["--label", "dgo"], "no label 'dgo'; the nearest of 2 are dog"),
    (["--rescale", "2"], "rescale = 2.0 is outside [0, 1]"),
    (["--guidance", "nan"], "argument --guidance: invalid number value: 'nan'"),
    (["--seed", str(2**63)], f"--seed: {2**63} is out of range; give 0 to {2**63 - 1}"),
    *((["--apg", f"eta={value}"], "all finite") for value in ("nan", "inf", "x")),
    (["--threshold", "floor=5,percentile=nan"], "all finite"),
]
FILES = [
    (["--out", "notes.txt"], "notes.txt: is a file; choose a folder name"),
    (["--out", "notes.txt/new"], "notes.txt is a file; choose another folder"),
    (["--out", "/proc/new"], "/proc/new: cannot be written"),
]
CONFIG = [
    (["unet.widht=8"], "widht"),
    (["nonsense=1"], "nonsense"),
    (["data.size=large"], "data.size"),
    (["batch=0"], "batch"),
    (["batch=-1"], "batch"),
    (["batch=1.5"], "batch"),
    (["train.steps=many"], "train.steps"),
    (["kind=film"], "kind"),
    (["data.fps=-1"], "fps"),
    (["train.optim.lr=fast"], "lr"),
    (["=8"], "=8"),
    (["data"], "data"),
    (["unet=8"], "unet is 8, but it has keys of its own: give such as unet."),
    (["sampling.sampler=dimm"], "give such as sampling.sampler.name=dimm"),
    (["data.frames=0"], "frames"),
    (["data.frames=many"], "data.frames"),
    (["data.size=0"], "size"),
    (["data.size=-8"], "size"),
    (["data.workers=-1"], "workers"),
    (["data.layout=maze"], "maze"),
    (["train.optim=8"], "train.optim is 8, but it has keys of its own: give such as train.optim.name="),
    (["train.precision=fp8"], "fp8"),
    (["train.optim.warmup=long"], "warmup"),
    (["codec=8"], "codec is 8, but it has keys of its own: give such as codec.name="),
    (["codec.name=none"], "none"),
    (["unet.width=0"], "width"),
    (["unet.multipliers=1"], "multipliers"),
    (["train.steps=-1"], "steps"),
    (["sampling.steps=0"], "steps"),
    (["data={root: data"], "data"),
]
ORACLES = (["--network", "efficientnet"], ["--few", "2"], ["--follow"])
WRONG: dict[str, list[tuple[list[str], str]]] = {
    "train": [*CONFIG, (["device=tpu"], "tpu")],
    "encode": [
        *CONFIG,
        (["data.root=none"], "none"),
        (["--shard", "2/2"], "is no part: give i/n"),
        (["--shard", "1"], "is no part: give i/n"),
    ],
    "plan": [
        *CONFIG,
        *((["--" + name, "0"], f"--{name} is 0") for name in ("memory", "mfu", "price")),
        *((["--" + name, "-1"], f"--{name} is -1") for name in ("memory", "mfu", "price")),
        (["--mfu", "2"], "give a part of 1"),
        (["--json", "folder"], "folder: is a folder; choose a file name"),
        (["--json", "notes.txt/x.json"], "notes.txt is a file"),
        (["--json", "/proc/x.json"], "cannot be written"),
    ],
    "generate": [
        *RUN,
        *OUT,
        *DRAW,
        *((["--size", size], "give sides of 1 to 16384 pixels") for size in ("0x0", "0x8", "8x16385")),
        (["--count", "30000000"], "--count is 30000000: a grid of 5478 x 5478 clips is larger than the 16384 pixels"),
        (["--size", "9x9"], "9"),
        (["--upscale", "none"], "none is not a trained run"),
        (["--strategy", "x"], "unknown sampling.strategy 'x'"),
    ],
    "extend": [*RUN, *OUT, *DRAW, (["--given", "9"], "--given is 9"), (["--context", "9"], "context is 9")],
    "edit": [*RUN, *OUT, *DRAW],
    "app": [
        *(
            (["--port", port], f"--port: {port} is out of range; give 0 to 65535")
            for port in ("65536", "99999", "1000000", "-80")
        ),
        *((["--port", port], "invalid int") for port in ("1.5", "", "http")),
        *((["--token", token], "fewer than 8 characters") for token in ("", "a", "1234567", "short")),
        *((["--device", device], device) for device in ("tpu", "cuda", "cuda:99", "gpu")),
        *((["--host", host], f"cannot listen on {host}") for host in ("192.0.2.1", "198.51.100.7", "203.0.113.1")),
    ],
    "play": [
        ([], "runs/tiny learned no actions, so there is nothing to press: train on clips with actions"),
        (["--beside"], "learned no actions"),
        (["--data", "none"], "learned no actions"),
        *FILES,
        *((["--token", token], "fewer than 8 characters") for token in ("", "a", "1234567")),
        *((["--device", device], device) for device in ("tpu", "cuda:99", "gpu")),
        (["--scale", "65"], "--scale: 65 is out of range; give 0 to 64"),
        (["--seed", str(1 << 31)], f"--seed: {1 << 31} is out of range; give 0 to {(1 << 31) - 1}"),
    ],
    "push": [
        *FILES,
        (["--out", "folder"], "--out folder: it is not empty; give a new folder"),
        (["--private"], "with --out nothing is sent"),
        (["--weights", "none"], "choose ema, model, best"),
        (["--weights", "none.safetensors"], "none.safetensors"),
        (["--weights", "best"], "knows of no best one"),
    ],
    "demo": [
        *(
            (["--device", device], "no such device")
            for device in ["tpu", "gpu", "CUDA", "cpu0", "cuda0", "0", "1", "auto:0", "all", "none", "h100"]
        ),
        *(
            (["--device", device], "no such device")
            for device in ("cuda:x", "cuda:-1", "cuda:", "cpu:x", "Auto", " ", "")
        ),
        *(
            (["--device", device], "on which vidiff does not run")
            for device in ["mps", "xpu", "hpu", "meta", "vulkan", "xla", "ipu"]
        ),
        *((["--device", device], "cuda") for device in ("cuda:99", "cuda:100")),
        *(([word], "unrecognized arguments") for word in ("small", "shapes", "train", "--run", "--steps", "--out=x")),
    ],
    "record": [
        (["--processes", "-3"], "--processes: -3 is out of range; give 0 to 1024"),
        *(([f"--{name}", "x"], "invalid int") for name in ("frames", "hold", "size", "episodes", "held-out")),
        *((["--size", size], "even numbers of pixels") for size in ("9", "33")),
        *((["--policy", policy], "choose random, sticky, or a file") for policy in ("best", "", "model.pt")),
        *((["--policy", policy], "cannot be read as actions") for policy in ("none.npy", "none.csv")),
        (["--episodes", "0", "--held-out", "0"], "ask for at least one"),
        *((["--out", out], "notes.txt") for out in ("notes.txt", "notes.txt/new")),
    ],
    "new": [
        (["--data", "empty"], "no videos in empty"),
        (["--data", "none"], "no folder none"),
        (["--data", "notes.txt"], "notes.txt"),
        (["--data", "none.csv"], "none.csv"),
        (["--data", "none-{0..3}.tar"], "none-"),
        *(
            (["--" + name, value], f"argument --{name}: {value} is out of range; give a number above 0, up to 100000")
            for name in ("hours", "trial")
            for value in ("0.0", "-1.0", "1e300")
        ),
        *((["--hours", hours], "invalid number value") for hours in ("nan", "inf", "one", "1h", "")),
        *((["--size", size], "invalid int value") for size in ("64x64", "1.5", "large", "")),
        *((["--size", size], f"--size is {size}; for frames of about this size") for size in ("30", "33", "65", "129")),
        *((["--gpu", gpu], "invalid choice") for gpu in ("H100", "gtx", "0", "")),
    ],
    "doctor": [*FILES, *((["--" + name, "0"], f"--{name} is 0") for name in ("patience", "remote-cache-gb"))],
    "evaluate": [
        *RUN,
        (["--frames", "9"], "needs a --network"),
        (["--network", "none"], "none"),
        (["--students", "runs/tiny"], "--students needs --few"),
        (["--new", "4"], "--new needs --follow or --few"),
        *((["--oracle", "shapes", *by], f"--oracle is not read with {by[0]}") for by in ORACLES),
        ([], "cat, dog; --network efficientnet, or numbers of steps such as --few 8, score clips of any kind"),
        (["--made", "folder", "--network", "none", "--steps", "2"], "--steps is of a run that draws clips"),
        *(
            (["--network", "none", *more], f"{more[0]} needs --predict")
            for more in (["--tries", "2"], ["--lpips", "x"])
        ),
        (["--few", "2", "--sampler", "x"], "unknown sampling.sampler 'x'"),
        (["--few", "2", "--steps", "2"], "--steps does not go with --few"),
        (["--few", "2", "--follow"], "--follow: not allowed with argument --few"),
        (["--few", "2", "--students", "none"], "none is not a trained run"),
    ],
    "compare": [*RUN, (["--frames", "8"], "frames is 8; give 9 or more"), (["--strategies", "x"], "unknown")],
    "surprise": [
        *RUN,
        (["--out", "clip.xyz"], "give a name that ends in .png"),
        (["--out", "folder"], "give a name that ends in .png"),
        (["--out", "notes.txt/x.png"], "notes.txt is a file"),
        (["--label", "dgo"], "no label 'dgo'"),
    ],
    "codec": [*FILES, (["--split", "none"], "none"), (["--network", "none"], "none"), (["--json", "folder"], "folder")],
    "ema": [
        *((["--out", name], "give a name that ends in .safetensors") for name in ("x", "folder", ".", "x.safetensor")),
        *((["--step", step], "snapshots") for step in ("0", "1")),
        (["--out", "/proc/x.safetensors"], "cannot be written"),
        (["--out", f"{'x' * 300}.safetensors"], "cannot be written, file name too long"),
        (["--out", "clip.mp4/new/x.safetensors"], "clip.mp4 is a file"),
        (["--out", "x.pt"], "give a name that ends in .safetensors"),
        (["--out", "notes.txt/x.safetensors"], "notes.txt is a file"),
        ([], "snapshots"),
        (["--step", "7"], "snapshots"),
    ],
    "study": [
        (["--out", "notes.txt"], "is a file; choose a folder name"),
        (["--fps", "0"], "--fps: 0 is out of range"),
    ],
    "selftest": [
        *(
            (["--device", name], "no such device")
            for name in ("tpu", "gpu", "", "CPU", "cuda:x", "cuda:-2", "0", "auto:0")
        ),
        *((["--device", name], "device is") for name in ("mps", "meta", "xpu", "cuda:99", "cuda:7", "vulkan")),
        *((["--minutes", some], f"{some} is out of range") for some in ("0", "-1", "-0.5", "0.0", "-1000", "1e300")),
        *((["--minutes", some], "invalid number") for some in ("nan", "inf", "ten", "8m", "1,5", "", "0:08")),
        *((["--json", file], "") for file in ("folder", ".", "/proc/x.json", "notes.txt/x.json", f"{'x' * 300}.json")),
        *(([word], "unrecognized arguments") for word in ("all", "attention", "runs/tiny", "--quick", "--gpu")),
    ],
}
NOT_ON_THE_HUB = (
    *("tiny", "a/b/c", "../tiny", "", "ada/", "/tiny", "ada/ti ny", "ada\\tiny", "https://huggingface.co/ada/tiny"),
    *("ä/tiny", ".ada/tiny", "ada/.tiny", "ada//tiny", "ada/tiny\n"),
)
INSTEAD: dict[str, list[tuple[list[str], str]]] = {  # of what the command wants
    "extend": [
        ([], "required: clip"),
        (["clip.mp4"], "required: --frames"),
        (["none.mp4", "--frames", "9"], "none.mp4: no such file"),
        (["folder", "--frames", "9"], "folder: is a folder"),
        (["notes.txt", "--frames", "9"], "notes.txt: not a "),
        (["clip.mp4", "--frames", "5"], "but 5 are given already"),
    ],
    "edit": [
        ([], "required"),
        (["anmate", "clip.mp4"], "invalid choice: 'anmate'"),
        (["animate"], "required: input"),
        (["animate", "none.png"], "none.png"),
        (["animate", "folder"], "folder"),
        (["inpaint", "clip.mp4"], "one of the arguments --box --mask is required"),
        (["inpaint", "clip.mp4", "--box", "1,2"], "give top,left,bottom,right"),
        (["restyle", "clip.mp4"], "required: --strength"),
    ],
    "app": [
        ([name], "is not a trained run")
        for name in ("none", "notes.txt", "folder", "clip.mp4", "", "data", "empty", "~")
    ],
    "play": [
        ([name], "is not a trained run")
        for name in ("none", "notes.txt", "folder", "clip.mp4", "", "data", "empty", "~")
    ],
    "push": [
        ([], "required: run, name"),
        (["runs/tiny"], "required: name"),
        *((["runs/tiny", name], "is no name on the hub: give owner/name") for name in NOT_ON_THE_HUB),
        *(([run, "ada/tiny"], "is not a trained run") for run in ("none", "notes.txt", "folder", "")),
    ],
    "doctor": [([], "required: data"), (["none"], "none"), (["notes.txt"], "notes.txt"), (["empty"], "empty")],
    "train": [
        ([], "required: config"),
        (["none.yaml"], "none.yaml"),
        (["folder"], "folder"),
        (["clip.mp4"], "clip.mp4"),
    ],
    "encode": [([], "required: config"), (["none.yaml"], "none.yaml"), (["folder"], "folder")],
    "plan": [([], "required: config"), (["none.yaml"], "none.yaml"), (["folder"], "folder")],
    "surprise": [([], "required: clip"), (["none.mp4"], "none.mp4"), (["notes.txt"], "notes.txt")],
    "codec": [
        ([], "required: run, --data"),
        (["none", "--data", "data"], "none"),
        (["runs/tiny", "--data", "no"], "no"),
    ],
    "ema": [
        ([], "required: run, --width"),
        (["none", "--width", "0.1"], "none"),
        (["runs/tiny"], "required: --width"),
        *(([run, "--width", "0.1"], "is not a trained run's folder") for run in ("notes.txt", "clip.mp4", "runs/tin")),
        *((["runs/tiny", "--width", width], "invalid number") for width in ("nan", "inf", "wide", "0,1", "")),
        *((["folder", "--width", width], "an EMA's width is") for width in ("0", "-1", "2")),
    ],
    "new": [
        ([], "required: name, --data"),
        (["other"], "required: --data"),
        (["--data", "data"], "required: name"),
        (["tiny", "--data", "data"], "tiny.yaml is there already: give another name, or --force"),
        (["tiny.yaml", "--data", "data"], "tiny.yaml is there already"),
        (["tiny", "--force", "--data", "empty"], "no videos in empty"),
        (["a/b", "--data", "data"], "name is a/b; give one without a folder"),
        (["/other", "--data", "data"], "give one without a folder"),
        (["..", "--data", "data"], "it leads out of the folder of runs"),
        ([".", "--data", "data"], "it names no folder"),
        (["", "--data", "data"], "it names no folder"),
        (["index", "--data", "data"], "index is where runs keep what they share"),
        (["x" * 201, "--data", "data"], "200 bytes"),
    ],
    "study": [
        ([], "give --a and --b"),
        (["--a", "runs/tiny"], "give --a and --b"),
        (["--out", "folder"], "folder"),
        *(
            (["--out", "folder", *words], f"{words[0]} is of a study that is made")
            for words in (["--pairs", "5"], ["--frames", "8"], ["--text"], ["--real", "folder"], ["--seed", "3"])
        ),
    ],
}


def mistyped(command: str) -> Iterator[tuple[list[str], str]]:
    """Each option with a letter too many, without its value, and with one of another kind."""
    known = GOOD[command]
    seen = set()
    for parser in parsers(command):
        if len(parsers(command)) > 1 and parser.prog.split()[-1] != known[0]:
            continue
        for action in parser._actions:
            name = action.option_strings[-1] if action.option_strings else ""
            if not name or name == "--help" or name in seen:
                continue
            seen.add(name)
            yield [*known, f"{name}x", "1"], f"unrecognized arguments: {name}x"
            if action.nargs == 0:
                yield [*known, f"{name}=1"], f"argument {name}: ignored explicit argument '1'"
                continue
            yield [*known, name], f"argument {name}: expected"
            if isinstance(action.type, Whole):
                least, most = action.type.least, action.type.most
                for wrong in (str(least - 1), "9" * 25):
                    yield [*known, name, wrong], f"argument {name}: {wrong} is out of range; give {least} to {most};"
            if isinstance(action.type, Whole) or action.type is number:
                yield (
                    [*known, name, *["many"] * (action.nargs if isinstance(action.nargs, int) else 1)],
                    f"argument {name}: invalid",
                )
            if action.choices:
                yield [*known, name, "nonsense"], f"argument {name}: invalid choice: 'nonsense'"
    for word in ("--", "-x", "--no-such-option", "one too many"):
        if command not in ("train", "encode", "plan") or word.startswith("--no") or word == "-x":
            yield [*known, word] if word != "--" else [*known, "--", "--more", "and"], "unrecognized arguments"
    for given in ("--help=1", "--hlep"):
        yield [*known, given], given.split("=")[0]


def uses(command: str) -> list[tuple[list[str], str]]:
    here = [([*GOOD[command], *more], said) for more, said in WRONG[command]]
    return [*here, *INSTEAD.get(command, []), *mistyped(command)]


USES = [(command, words, said) for command in COMMANDS for words, said in uses(command)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("place")
    fill(place)
    (place / "tiny.yaml").write_text(CONFIG_FILE)
    (place / "empty").mkdir()
    for name in ("cat/0", "cat/1", "dog/0", "dog/1"):
        write_clip(place / "data" / f"{name}.mp4", frames=4, height=16, width=16)
    return place


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def call(command: str, *words: str) -> int:
    try:
        return main([command, *words])
    except SystemExit as end:
        return int(end.code or 0)


def files(place: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("command", "words", "said"), USES, ids=[f"{c} {' '.join(w)[-60:]}" for c, w, _ in USES])
def test_one_line_says_what_to_do(
    command: str, words: list[str], said: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, folders = files(place), {path for path in place.rglob("*") if path.is_dir()}
    assert call(command, *words) == 2
    _, told = capfd.readouterr()
    (line,) = [line for line in told.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    assert line.startswith("error: ") and said in line, line
    assert files(place) == before and {path for path in place.rglob("*") if path.is_dir()} == folders


def test_there_are_forty_of_each() -> None:
    counts = {command: len({tuple(words) for name, words, _ in USES if name == command}) for command in COMMANDS}
    assert min(counts.values()) >= 40, counts


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["CartPole-v1", "CartPole-v1"], "the same environment twice"),
        (["NoSuch-v0"], "knows no environment 'NoSuch-v0'"),
        (["brekout"], "is it breakout"),
    ],
)
def test_environments_are_named(
    names: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("record", *names, "--out", "recorded") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and complaint in line


@pytest.mark.parametrize("command", COMMANDS)
def test_interrupted(command: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """130 after Ctrl-C, 0 after a scheduler's SIGTERM, and one line that says what there is."""
    module = module_of(command)
    work = {
        "compare": "continue_clips",
        "codec": "score",
        "doctor": "examine",
        "surprise": "plot",
        "ema": "average",
        "push": "share",
        "record": "write",
    }

    def stopped(number: int) -> None:
        monkeypatch.setattr(module, work.get(command, command), lambda options: os.kill(os.getpid(), number))

    stopped(signal.SIGINT)
    assert call(command, *GOOD[command]) == 130
    (line,) = capfd.readouterr().err.split("\n")[1:-1]
    assert line.startswith("stopped; ")
    stopped(signal.SIGTERM)
    with pytest.raises(Interrupted) as end:
        main([command, *GOOD[command]])
    assert end.value.code == 0
    assert capfd.readouterr().err == f"\nSIGTERM: {line}\n"
