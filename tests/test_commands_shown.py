"""Every command that README.md and docs/ show is run, at a size that a test can afford.

A page may only show what the table below knows: how it is made small, or, where it is too dear or is not ours, what of
it is checked. All commands share a folder, and each is run once, after those that it needs.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from shown import PAGES, architecture, blocks, commands, installs, nothing, parses, recipe, understood
from workplace import ROOT, Part, Run, Workplace

from vidiff.cli.make.demo import parse as parse_demo
from vidiff.metrics.features import Features
from vidiff.recipe.load import load
from vidiff.video.reader import read_video

TRAIN = "python -m vidiff.train configs/{}.yaml".format
SHAPES, LONG, CAUSAL, GUIDED, STUDENT, TEXT, SR, MINE, UCF, REAL = map(
    TRAIN,
    (
        *("shapes", "shapes_long", "shapes_causal", "shapes_guided", "shapes_student", "shapes_text", "shapes_sr"),
        *("mine", "ucf", "real_vae"),
    ),
)
CLASSIFIER, UNLABELLED = TRAIN("shapes_classifier"), TRAIN("shapes_unlabelled")
TEXTURE = TRAIN("texture_sr128"), TRAIN("texture_sr256")
BOTH = "--run runs/texture_sr128 --upscale runs/texture_sr256"
ROLLOUT = f"{CAUSAL} name=shapes_rollout loss.rollout=0.5"
STREAMS = "python tools/compare_extend.py --run runs/shapes_causal --others runs/shapes_rollout"
LIST = "python tools/list_real.py --out data/real.jsonl"
FILMS = "python tools/list_real.py --out data/films.jsonl --debian data/films"
MOTION = "python tools/make_network.py motion --data data/shapes --out networks/motion"
AVERAGE = "python tools/ema.py runs/mine --width 0.08"
PUSH = "vidiff push runs/shapes ada/bouncing-shapes --license cc-by-4.0"
TARS = [f"tar --sort=name -cf shards/{split}/000.tar -C data/shapes/{split} ." for split in ("train", "test")]
NEW = (
    "name=new device=cpu batch=2 unet.width=32 sampling.steps=2 train.steps=2 train.validate_every=2 "
    "train.sample_every=2 train.precision=fp32 codec.override.name=new_vae codec.override.batch=2 "
    "codec.override.vae.width=8 codec.override.data.workers=0 codec.override.train.steps=2 "
    "codec.override.train.precision=fp32 codec.least=0"
)
GAMES = (
    "vidiff record asteroids breakout enduro freeway ms_pacman pong seaquest space_invaders "
    "--out data/games --episodes 60 --held-out 8 --frames 24 --size 128"
)
WORLD = "vidiff record breakout --out data/breakout --episodes 400 --held-out 48 --size 128"
DOOM = "vidiff record VizdoomHealthGathering-v1 --out data/doom --episodes 400 --held-out 48 --hold 2 --size 128"
FEW = "--episodes 1 --held-out 1 --frames 12 --start 1 --processes 1"
DEMO = {"generated": 16, "extended": 40}  # frames of what it makes
TWO = {"--nproc-per-node 8": "--nproc-per-node 2"}
CONFIGS = {"configs/": f"{ROOT}/configs/"}  # the true ones: planning follows shapes alone
drawn = partial(Run, (SHAPES,), latest="shapes")
edited = partial(drawn, leaves={"edited.mp4": 0})
planned = partial(Run, instead=CONFIGS)
installed = Part("changes the machine", installs)

SHOWN: dict[str, Run | Part] = {
    # README.md: first steps
    "make demo": Part("half an hour", recipe),
    "make test": Part("the tests", recipe),
    "vidiff app runs/shapes": Part("serves until it is stopped; tests/app", understood),
    # docs/sharing.md: what would be sent, and drawn with it; tests/share sends it
    PUSH: Run((SHAPES,), add="--out shared", leaves={"shared/README.md": 0, "shared/vidiff.json": 0}),
    "vidiff generate --run ada/bouncing-shapes --label red_square": Run(
        (PUSH,), instead={"ada/bouncing-shapes": "shared"}, leaves={"clip.mp4": 16}
    ),
    "make docs": Part("builds the site; tests/test_site.py", recipe),
    "make bench": Part("minutes of timing, and installs a peer; tests/tools/test_benchmark.py", recipe),
    "python3 -m venv .venv": Part("Python's own", nothing),
    ". .venv/bin/activate": Part("Python's own", nothing),
    "pip install -e . -c constraints.txt": installed,
    SHAPES: Run(leaves={"runs/shapes/report.html": 0, "runs/shapes/checkpoints/latest": 0}),
    "python tools/generate.py --frames 16 --count 12 --out clips.mp4": drawn(leaves={"clips.mp4": 16}),
    "pip install .": installed,
    "vidiff --help": Run(),
    "vidiff train shapes": Run((SHAPES,), instead={"shapes": "configs/shapes.yaml"}),
    "vidiff train shapes --show": Run(),  # of the recipe that the package brings
    "vidiff generate --frames 16": drawn(leaves={"clip.mp4": 16}),
    # README.md: your own clips
    f"{MINE} --dry-run": Run(),
    MINE: Run((f"{MINE} --dry-run",), leaves={"runs/mine/report.html": 0}),
    "torchrun --nproc-per-node 8 -m vidiff.train configs/mine.yaml": Run(add="name=two", instead=TWO, slow=True),
    f"{MINE} train.optim.lr=1e-4 batch=32": Run((MINE,), add="batch=4 name=changed", slow=True),
    "python tools/doctor.py data/mine": Run(leaves={"runs/index/mine/doctor.html": 0}),
    "python tools/encode.py configs/mine.yaml": Run((MINE,)),
    "python tools/plan.py configs/ucf.yaml --gpus 8 --gpu h100 --price 2.50": planned(),
    # the demo, as make runs it, and docs/expect.md
    "python -m vidiff demo": Part("half an hour", lambda words: parse_demo(words[4:])),
    "vidiff demo": Part("half an hour", lambda words: parse_demo(words[2:])),
    "vidiff demo --small": Run(leaves={f"runs/shapes_small/demo/{name}.mp4": n for name, n in DEMO.items()}),
    "vidiff record breakout pong --out data/games --size 128": Run(
        add="--episodes 1 --held-out 0 --frames 4 --start 3 --processes 1",
        leaves={"data/games/train/pong/0000.mp4": 4, "data/games/train/breakout/0000.actions.npy": 0},
    ),
    # docs/worlds.md
    "python tools/picture_play.py http://127.0.0.1:7861/ --keys Space:4 ArrowRight:30 ArrowLeft:30 ArrowRight:12 "
    "--out docs/play.png": Part("needs a page that is served", parses),
    "vidiff play runs/breakout_student --beside --seed 3": Part("serves until it is stopped; tests/play", understood),
    "vidiff play runs/breakout": Part("serves until it is stopped; tests/play", understood),
    WORLD: Run(
        add="--episodes 2 --held-out 1 --frames 14 --start 1 --processes 1",
        leaves={"data/breakout/test/0000.mp4": 14},
    ),
    "vidiff train breakout": Run(
        (WORLD,), instead={"train breakout": "train configs/breakout.yaml"}, leaves={"runs/breakout/data.json": 0}
    ),
    "vidiff extend clip.mp4 --frames 24 --actions moves.csv": Run(
        ("vidiff train breakout",),
        instead={"clip.mp4": "data/breakout/test/0000.mp4"},
        latest="breakout",
        leaves={"extended.mp4": 24},
    ),
    "vidiff evaluate --run runs/breakout --follow": Run(
        ("vidiff train breakout",),
        add="--starts 2 --given 1 --new 5",
        leaves={"runs/breakout/follow.json": 0, "runs/breakout/follow.html": 0, "runs/breakout/follow.gif": 6},
        slow=True,
    ),
    "vidiff evaluate --run runs/breakout --follow --starts 4 --new 24 --json worlds_breakout.json": Run(
        ("vidiff train breakout",),
        instead={"--starts 4 --new 24": "--starts 2 --given 1 --new 5"},
        leaves={"worlds_breakout.json": 0, "worlds_breakout.gif": 6},
        slow=True,
    ),
    DOOM: Run(add=f"{FEW} --policy random", leaves={"data/doom/train/0000.mp4": 12}, slow=True),
    "vidiff train doom": Run((DOOM,), instead={"train doom": "train configs/doom.yaml"}, slow=True),
    "vidiff evaluate --run runs/doom --follow": Run(
        ("vidiff train doom",), add="--starts 2 --given 1 --new 5", leaves={"runs/doom/follow.gif": 6}, slow=True
    ),
    "vidiff evaluate --run runs/doom --follow --starts 4 --json worlds_doom.json": Run(
        ("vidiff train doom",), instead={"--starts 4": "--starts 2 --given 1 --new 5"}, slow=True
    ),
    # docs/codec.md: eight games
    GAMES: Run(add=FEW, instead={"data/games": "data/eight"}, leaves={"data/eight/train/asteroids/0000.mp4": 12}),
    "vidiff train small data.root=data/games": Run(
        (GAMES,),
        instead={"train small": "train configs/small.yaml", "data/games": "data/eight"},
        leaves={"runs/small/codec-kept.json": 0},
    ),
    "vidiff evaluate --run runs/small --network efficientnet --predict 8": Run(
        ("vidiff train small data.root=data/games",), add="--clips 8 --steps 1"
    ),
    "vidiff new mine --data data/mine": Run(leaves={"mine.yaml": 0, "mine_vae.yaml": 0}),
    "vidiff train mine": Run(("vidiff new mine --data data/mine",), add=NEW, leaves={"runs/new/report.html": 0}),
    # docs/expect.md, worlds.md: what follows
    "vidiff generate --run runs/mine --count 4 --out mine.mp4": Run((MINE,), leaves={"mine.mp4": 0}),
    "vidiff extend clip.mp4 --run runs/mine --frames 64": Run((MINE,), leaves={"extended.mp4": 64}, slow=True),
    **dict.fromkeys(
        ("vidiff play runs/mine", "vidiff play runs/cart"), Part("serves until it is stopped; tests/play", understood)
    ),
    "vidiff new cart --data data/cart": Part("wants the clips that the page records; tests/plan", understood),
    "vidiff train cart": Part("as any recipe that vidiff new writes", understood),
    # docs/architecture.md
    "python tools/architecture.py": Part("writes into docs", architecture),
    "python tools/generate.py --frames 16 --guidance 2 --out clip.mp4": drawn(leaves={"clip.mp4": 16}),
    # README.md: use what you trained
    "python tools/generate.py --frames 16": drawn(leaves={"clip.mp4": 16}),
    "python tools/generate.py --label red_square --guidance 2 --count 4 --seed 7 --out squares.gif": drawn(
        leaves={"squares.gif": 16}
    ),
    "python tools/generate.py --frames 128 --out long.mp4": drawn(leaves={"long.mp4": 128}),
    "python tools/extend.py clip.mp4 --frames 640": drawn(leaves={"extended.mp4": 640}, slow=True),
    "python tools/evaluate.py --run runs/shapes --oracle shapes --json scores.json": drawn(
        leaves={"scores.json": 0, "runs/shapes/scores.json": 0}, slow=True
    ),
    "python tools/evaluate.py --run runs/shapes --oracle shapes": drawn(slow=True),
    # docs/use.md: edit
    "python tools/edit.py animate picture.png --label red_square": edited(),
    "python tools/edit.py rewind clip.mp4 --frames 64": edited(leaves={"edited.mp4": 64}),
    "python tools/edit.py interpolate a.mp4 b.mp4 --between 8": edited(),
    "python tools/edit.py loop clip.mp4": edited(),
    "python tools/edit.py inpaint clip.mp4 --box 16,16,48,48": edited(),
    "python tools/edit.py outpaint clip.mp4 --box 16,16,48,48": edited(),
    "python tools/edit.py restyle clip.mp4 --strength 0.3 --label blue_disc": edited(),
    "python tools/edit.py restyle clip.mp4 --strength 1 --inversion 10 --label blue_disc": edited(),
    "python tools/edit.py invert clip.mp4 --label red_disc": edited(),
    "python tools/edit.py double clip.mp4": edited(),
    "python tools/evaluate.py --run runs/shapes_long --editing": Run((LONG,)),
    # docs/use.md: words, long videos, enlarging
    TEXT: Run(),
    "python tools/generate.py --run runs/shapes_text --text 'a red square moves left'": Run((TEXT,)),
    "python tools/evaluate.py --run runs/shapes_text": Run((TEXT,), slow=True),
    "python tools/extend.py clip.mp4 --frames 640 --strategy rolling": Run((LONG,), latest="shapes_long", slow=True),
    "python tools/compare_extend.py --run runs/shapes_long": Run((LONG,), add="--clips 2 --frames 40", slow=True),
    SR: Run(),
    "python tools/generate.py --run runs/shapes --upscale runs/shapes_sr": Run((SHAPES, SR)),
    "python tools/edit.py upscale clip.mp4 --run runs/shapes_sr": Run((SR,)),
    TEXTURE[0]: Run(slow=True),
    TEXTURE[1]: Run(TEXTURE[:1], slow=True),
    f"python tools/edit.py upscale clip.mp4 {BOTH}": Run(TEXTURE, slow=True),
    f"python tools/evaluate.py {BOTH} --few 1 4 12 --starts 12 --new 2 --network efficientnet": Run(
        TEXTURE, add="--starts 2", leaves={"runs/texture_sr128/few_steps.json": 0}, slow=True
    ),
    # docs/use.md: guidance
    CLASSIFIER: Run((SHAPES,)),
    LONG: Run((SHAPES,)),
    UNLABELLED: Run((LONG,)),
    "python tools/generate.py --run runs/shapes_unlabelled --classifier runs/shapes_classifier --label red_square": Run(
        (UNLABELLED, CLASSIFIER)
    ),
    "python tools/evaluate.py --run runs/shapes_unlabelled --classifier runs/shapes_classifier": Run(
        (UNLABELLED, CLASSIFIER), leaves={"runs/shapes_classifier/scores.json": 0}, slow=True
    ),
    # docs/recipes.md, use.md, measuring.md: codecs, averages, preferences, scores
    LIST: Run(leaves={"data/real.jsonl": 0}),
    FILMS: Part("downloads 190 MB; tests/tools/test_list_real.py", parses),
    "vidiff train film": Run(
        (LIST,),
        add="data.root=data/real.jsonl",
        instead={"train film": "train configs/film.yaml"},
        leaves={"runs/film/report.html": 0},
    ),
    "vidiff evaluate --run runs/film --few 1 15 --starts 7 --new 8": Run(
        ("vidiff train film",),
        instead={"--few 1 15 --starts 7 --new 8": "--few 1 2 --starts 2 --new 2"},
        leaves={"runs/film/few_steps.json": 0},
    ),
    REAL: Run((LIST,)),
    "python tools/codec.py runs/real_vae --data data/real.jsonl": Run((REAL,)),
    AVERAGE: Run((MINE,), leaves={"runs/mine/ema/width-0.080.safetensors": 0}),
    "python tools/generate.py --run runs/mine --weights runs/mine/ema/width-0.080.safetensors": Run((AVERAGE,)),
    "python tools/study.py --a runs/shapes --b runs/shapes_long": Run(
        (LONG,), add="--pairs 4 --checks 2 --results", leaves={"studies/shapes-shapes_long/results.html": 0}
    ),  # without serving the page, which tests/study does
    MOTION: Run((SHAPES,), add="--steps 20", leaves={"networks/motion/network.json": 0}, slow=True),
    "python tools/evaluate.py --run runs/shapes --network networks/motion": Run((MOTION,), slow=True),
    # docs/use.md: completion; tests/cli/test_main.py asks for some
    "pip install 'vidiff[completion]'": installed,
    "eval '$(register-python-argcomplete vidiff)'": Part("changes the shell", nothing),
    # Makefile, as `make` runs it
    "python tools/benchmark.py train": Part("needs the peer", parses),
    # docs/
    "python tools/codec.py runs/shapes --data data/shapes --clips 48 --network networks/transnetv2": Run(
        (SHAPES, MOTION), add="--clips 4", instead={"transnetv2": "motion"}, slow=True
    ),  # with the small network that this folder has
    # docs/real_video.md
    "python tools/evaluate.py --run runs/ucf --network networks/i3d --frames 16 --stride 1 --clips 2048": Part(
        "needs I3D's file", parses
    ),
    "python tools/codec.py runs/ucf --data data/ucf101 --network efficientnet": Part("needs a trained ucf", parses),
    "mkdir -p shards/train shards/test": Run(),
    **{tar: Run(("mkdir -p shards/train shards/test", SHAPES)) for tar in TARS},
    "python tools/doctor.py shards": Run(tuple(TARS)),
    "python tools/doctor.py http://127.0.0.1:8765/data/shapes": Run((SHAPES,)),
    "python tools/doctor.py 'http://127.0.0.1:8765/shards/train/{000..000}.tar'": Run(tuple(TARS)),
    "python tools/doctor.py list.csv": Run(),
    "python tools/doctor.py ROOT": Part("a pattern of the others", parses),
    **dict.fromkeys(("pip install s3fs", "pip install gcsfs", "pip install scikit-video"), installed),
    **dict.fromkeys(
        (
            f"pip install 'vidiff[{name}]'"
            for name in (
                *("app", "diffusers", "games", "hub", "parquet", "perceptual", "play", "remote", "tensorboard"),
                *("games,play", "study", "text", "torchcodec", "triton"),
            )
        ),
        installed,
    ),
    "apt-get install ffmpeg": Part("changes the machine", nothing),
    "torchrun --nproc-per-node 8 --max-restarts 3 -m vidiff.train configs/ucf.yaml": Run(
        add="name=restarted", instead=TWO, slow=True
    ),
    f"{SHAPES} 'train.log=[tensorboard]'": Run((SHAPES,), add="name=logged"),
    "tensorboard --logdir runs": Run((f"{SHAPES} 'train.log=[tensorboard]'",), add="--inspect", slow=True),  # and ends
    f"{UCF} data.decoder=auto": Run(add="name=auto", slow=True),
    "python tools/benchmark.py load": Part("minutes of timing", parses),
    # docs/long.md: streams
    CAUSAL: Run((SHAPES,)),
    f"{CAUSAL} start=runs/shapes_long 'data.stride=[1,4]' data.least_stride=0.6": Part(
        "as the recipe alone, above, from another run", understood
    ),
    "python tools/extend.py clip.mp4 --frames 1000 --run runs/shapes_causal": Run(
        (CAUSAL,), add="--steps 2", leaves={"extended.mp4": 1000}, slow=True
    ),
    "python tools/compare_extend.py --run runs/shapes_causal --clips 12 --batch 12 --steps 9 --history 2.5 none "
    "--strategies stream": Run((CAUSAL,), add="--clips 2 --steps 2 --frames 24 --out streamed", slow=True),
    "python tools/compare_extend.py --run runs/shapes --clips 12 --batch 12 --steps 9 --history 2.5 none "
    "--strategies clean": (drawn(add="--clips 2 --steps 2 --frames 24 --out windowed", slow=True)),
    ROLLOUT: Run((SHAPES,), slow=True),
    f"{STREAMS} --clips 12 --batch 12 --steps 9 --history none --strategies stream": Run(
        (CAUSAL, ROLLOUT), add="--clips 2 --steps 2 --frames 24 --out both", slow=True
    ),
    f"{STREAMS} --clips 4 --batch 4 --steps 9 --history none --strategies stream --frames 1000 --chunk 50": Run(
        (CAUSAL, ROLLOUT), add="--clips 2 --steps 2 --frames 60 --out far", slow=True
    ),
    # docs/gpu.md
    "vidiff selftest": Part("tests/selftest runs it on a CPU", understood),
    "vidiff selftest --device cuda --minutes 8 --json selftest.json": Part(
        "wants a GPU; tests/selftest runs it on a CPU", understood
    ),
    # docs/few_steps.md
    GUIDED: Run((SHAPES,)),
    STUDENT: Run((GUIDED,)),
    "python tools/generate.py --run runs/shapes_guided --label red_square --guidance 2": Run(
        (GUIDED,), leaves={"clip.mp4": 16}
    ),
    "vidiff evaluate --run runs/shapes --few 18 9 5 --students runs/shapes_guided runs/shapes_student": Run(
        (STUDENT,), add="--few 2 1 --starts 12 --given 2 --new 2", leaves={"runs/shapes/few_steps.json": 0}
    ),
    "vidiff evaluate --run runs/shapes --few 18 9 --seed 500": Part("as the command above", understood),
    "vidiff evaluate --run runs/shapes_guided --few 9 6 5 4 --seed 500": Part("as the command above", understood),
    "vidiff evaluate --run runs/shapes_student --few 2 1 --seed 500": Part("as the command above", understood),
    "vidiff evaluate --run runs/shapes --few 18 9 5 --sampler unipc --grid '{kind: logistic, half: -4.86}' "
    "--seed 500": Part("as the command above", understood),
    "vidiff evaluate --run runs/breakout --few 8 2 1 --students runs/breakout_student --new 4": Run(
        ("vidiff train breakout",),
        add="--few 2 1 --starts 2 --given 1",
        instead={"breakout_student": "breakout"},
        leaves={"runs/breakout/few_steps.json": 0},
        slow=True,
    ),
    **dict.fromkeys(
        (
            "python tools/benchmark.py all --json docs/speed.json",
            "python tools/benchmark.py quality --minutes 10 --codec runs/shapes_vae --json docs/speed.json",
            "python tools/benchmark.py ablation --compile",
            *(f"python tools/benchmark.py {name}" for name in ("stream", "play", "page")),
        ),
        Part("minutes of timing; tests/tools/test_benchmark.py", parses),
    ),
    "python tools/compare_extend.py --run runs/shapes_long --clips 12 --batch 12 --steps 11 --strategies clean noisy "
    "rolling keyframes '{name: replace, resample: 2}' reconstruct": Run(
        (LONG,), add="--clips 2 --steps 2 --frames 40 --out compared", slow=True
    ),
    "python tools/compare_samplers.py": Run(
        add="--seeds 10 --dimensions 1 --schedules linear --evaluations 8", leaves={}
    ),
    "python tools/plot_theory.py": Run(add="--most 20 --out w2.png", leaves={"w2.png": 0}),
    "python tools/plan.py configs/ucf.yaml --gpu 4090 --json plan.json": planned(leaves={"plan.json": 0}, slow=True),
    "python tools/plan.py configs/shapes.yaml --gpu cpu": planned(slow=True),
    UCF: Run(slow=True),
    "torchrun --nproc-per-node 8 -m vidiff.train configs/ucf.yaml": Run(add="name=several", instead=TWO, slow=True),
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id ucf --rdzv-endpoint node0:29500 "
    "-m vidiff.train configs/ucf.yaml train.parallel=hsdp": Run(
        add="name=nodes", instead={**TWO, "--nnodes 2": "--nnodes 1", "node0:29500": "localhost:0"}, slow=True
    ),
    "python -m vidiff.train": Part("the name of the command", nothing),
    "vidiff evaluate": Part("the name of the command", nothing),
}
PAGE = [command for page in PAGES for command in commands(page)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("reader"), SHOWN)


def test_the_table_holds_what_is_shown_and_nothing_else() -> None:
    shown = {*PAGE, *recipe(["make", "demo"]), *recipe(["make", "bench"])}
    assert shown - SHOWN.keys() == set(), "say in SHOWN how these are run"
    assert SHOWN.keys() - shown == set(), "nothing shows these any more"


def marked(command: str) -> object:
    row = SHOWN[command]
    return pytest.param(command, marks=[pytest.mark.slow] if isinstance(row, Run) and row.slow else [])


@pytest.mark.parametrize("command", [marked(command) for command in SHOWN])
def test_a_command_runs_as_shown(command: str, place: Workplace) -> None:
    row = SHOWN[command]
    if isinstance(row, Part):
        row.check(shlex.split(command))
    else:
        place.run(command)


def test_python_of_the_readme(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(SHAPES)
    monkeypatch.chdir(place.folder)
    (block,) = blocks("README.md", "python")
    names: dict[str, torch.Tensor] = {}
    exec(block, names)
    assert names["clip"].shape == (1, 3, 16, 64, 64) and names["longer"].shape == (1, 3, 64, 64, 64)
    assert torch.equal(names["longer"][:, :, :16], names["clip"])
    assert read_video("longer.mp4").shape == (3, 64, 64, 64)


def test_python_of_the_page_on_worlds(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run("vidiff train breakout")
    monkeypatch.chdir(place.folder)
    _, block = blocks("docs/worlds.md", "python")
    names: dict[str, Any] = {}
    exec(block, names)
    assert str(names["pipe"].facts.actions) in block and names["longer"].shape == (1, 3, 24, 64, 64)
    assert names["world"].frames == 0 and names["other"].frames == 2


def test_python_of_the_page_on_long_videos(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run(CAUSAL)
    monkeypatch.chdir(place.folder)
    (block,) = blocks("docs/long.md", "python")
    names: dict[str, object] = {}
    exec(block, names)
    assert names["number"] == 23 and names["piece"].shape == (1, 3, 1, 64, 64)  # type: ignore[attr-defined]


def test_python_of_the_codec_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the package that it needs, and for its weights."""

    class Distance(torch.nn.Module):
        def __init__(self, net: str) -> None:
            super().__init__()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).square().mean((1, 2, 3))

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Distance))
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("docs/codec.md", "python")
    exec(block, {})
    network = Features.load("networks/lpips")
    assert network.module(torch.zeros(2, 3, 64, 64), torch.ones(2, 3, 64, 64)).tolist() == [1, 1]


def test_settings_of_the_codec_page_go_with_its_recipe(tmp_path: Path) -> None:
    tuned, sharper = blocks("docs/codec.md", "yaml")
    (tmp_path / "sharper.yaml").write_text(f"base: {ROOT}/configs/real_vae.yaml\n{sharper}")
    assert load(tmp_path / "sharper.yaml").loss.adversarial == 0.5
    (tmp_path / "tuned.yaml").write_text(tuned)
    config = load(tmp_path / "tuned.yaml")
    assert (config.kind, config.start, config.data.frames) == ("vae", "FOLDER", 1)


def test_the_script_for_slurm_starts_what_the_page_shows(tmp_path: Path) -> None:
    """With stand-ins for Slurm's commands: srun says what it would start."""
    (script,) = [block for block in blocks("docs/training.md", "sh") if block.startswith("#!")]
    for name, says in (("scontrol", "printf 'node0\\nnode1\\n'"), ("srun", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[0-1]", "SLURM_NNODES": "2", "SLURM_JOB_ID": "ucf"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=script, env=environment, capture_output=True, text=True, check=True)
    (by_hand,) = [command for command in commands("docs/training.md") if "--nnodes" in command]
    assert done.stdout.split()[1:] == shlex.split(by_hand) and done.stdout.startswith("--kill-on-bad-exit=1 ")
