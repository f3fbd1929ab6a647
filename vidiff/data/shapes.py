"""The shapes set: coloured shapes bounce around a plain frame. Drawn here, so nothing has to be downloaded.

A clip shows one shape in one colour (twelve labels) moving at constant velocity and reflected by the walls.
Positions and sizes are in pixels, `(x, y)` from the top left corner of the frame with y pointing down; the
pixel in column i covers [i, i + 1]. `size` is the radius of the disc with the object's area, so the three
shapes of one size weigh the same, and a position is the centre of mass.
"""

from __future__ import annotations

import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.metrics.objects import (
    BACKGROUND,
    COLOURS,
    LABELS,
    SHAPES,
    SQUARE_SIDE,
    TRIANGLE_INRADIUS,
    TRIANGLE_SIDE,
    coverage,
    rgb,
)
from vidiff.video.writer import write_video

SPLITS = ("train", "test")
DIRECTIONS = ("left", "right", "up", "down")

FPS = 16
CRF = 12  # little compression: a clip is 15 kB all the same
WOBBLE = math.radians(25)  # how far a straight path may turn from one of the four directions
TRAVEL = (15.0, 37.5)  # pixels that an object goes in a straight clip: 1 to 2.5 a frame in 16 frames
WAVES = 32  # of which a texture is the sum
FINEST = 2.4  # pixels, their shortest wavelength: shorter ones would not survive being sampled and moved
GRAIN = 0.15  # a texture's root mean square, where black and white are 2 apart
DRAWING = 1  # part of spec.json: raise it when the same options come to draw other clips

REACH = {  # how far from the centre: left and right, up, down
    "disc": (1.0, 1.0, 1.0),
    "square": (SQUARE_SIDE / 2,) * 3,
    "triangle": (TRIANGLE_SIDE / 2, 2 * TRIANGLE_INRADIUS, TRIANGLE_INRADIUS),
}


@dataclass(frozen=True)
class ShapesSpec:
    """What set to draw. Object sizes (7 to 11) and speeds (1 to 4) are for 64 px and scale with `size`.

    Args:
        size: side of the square frame in pixels; even, since H.264 halves the chroma.
        frames: frames a clip.
        train: clips a label in the training split.
        test: clips a label in the held-out split.
        seed: a clip depends on (seed, split, label, number) alone.
        straight: 1 for objects that go left, right, up or down, within 25 degrees, and never reach a wall: 15 to 37.5
            px in a clip, whatever its length. Each label has the four directions in turn.
        held_out: for a straight set, pairs of label and direction that the training split leaves out, at most 24. Each
            label is left at least two directions, and each colour, shape and direction loses about as many.
        texture: cover object and background with a fine random texture each, which moves with what it lies on, and of
            which frames that are shrunk by so much show nothing; 0 for plain colours.

    Raises:
        ValueError: a field out of range.
    """

    size: int = 64
    frames: int = 64
    train: int = 64
    test: int = 8
    seed: int = 0
    straight: int = 0
    held_out: int = 0
    texture: int = 0

    def __post_init__(self) -> None:
        if self.size < 32 or self.size % 2:
            raise ValueError(f"size is {self.size}; give an even number of pixels from 32 on, such as 64")
        for name, least in (("frames", 1), ("train", 0), ("test", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give a whole number from {least} on")
        if self.train + self.test == 0:
            raise ValueError("train is 0, as test is; ask for at least one clip a label")
        if self.straight not in (0, 1):
            raise ValueError(f"straight is {self.straight}; give 1 for paths that reach no wall, else 0")
        if not 0 <= self.held_out <= (2 * len(LABELS) if self.straight else 0):
            raise ValueError(f"held_out is {self.held_out}; give 0 to {2 * len(LABELS)} with straight=1, else 0")
        if self.texture and self.texture < 2:
            raise ValueError(
                f"texture is {self.texture}; give the factor by which frames are shrunk for it to vanish, 2 or more, "
                "or 0 for none"
            )
        if self.straight and self.frames < 2:
            raise ValueError(f"frames is {self.frames}; a straight path needs 2 or more")

    def facts(self) -> dict[str, int]:
        """What spec.json tells of the set. Options that came later are left out where they are not used."""
        later = {"straight", "held_out", "texture"}
        return {name: value for name, value in asdict(self).items() if value or name not in later}

    def unseen(self) -> list[tuple[str, str]]:
        """(label, direction) of the pairs that the training split leaves out."""
        stream = np.random.default_rng((self.seed, len(SPLITS)))
        colours, shapes, courses = (stream.permutation(names).tolist() for names in (list(COLOURS), SHAPES, DIRECTIONS))
        found = []
        for i in range(self.held_out):  # i runs through all pairs of colour and shape, since 4 and 3 have no divisor
            again, place = divmod(i, len(LABELS))
            course = (place % len(colours) + place % len(shapes) + 2 * again) % len(courses)
            found.append((f"{colours[place % len(colours)]}_{shapes[place % len(shapes)]}", courses[course]))
        return found


class Texture:
    """Fine random texture: plane waves of random direction and phase, whose sum is nearly a Gaussian field.

    Wavelengths run from FINEST to 1.5 `factor` pixels, evenly in their logarithm: frames shrunk by `factor` have no
    place for waves shorter than 2 `factor`, so nothing of it can be told from these.
    """

    def __init__(self, factor: int, stream: np.random.Generator) -> None:
        length = np.exp(stream.uniform(math.log(FINEST), math.log(1.5 * factor), WAVES))
        angle, self.phase = stream.uniform(0, 2 * math.pi, (2, WAVES))
        self.across, self.down = (2 * math.pi / length * turned for turned in (np.cos(angle), np.sin(angle)))

    def __call__(self, centre: Tensor, side: int) -> Tensor:
        """Its values on frames of side `side` when its origin lies at `centre`, `(f, 2)`: `(f, side, side)` float32."""
        place = np.arange(side) + 0.5
        x, y = (place - centre.numpy()[:, i, None] for i in (0, 1))  # f side
        u = self.across * x[..., None]
        v = self.down * y[..., None] + self.phase  # f side waves
        rows = np.concatenate([np.cos(v), -np.sin(v)], -1)  # cos(u + v), as a product of rows and columns
        columns = np.concatenate([np.cos(u), np.sin(u)], -1)
        wave = torch.from_numpy(rows).float() @ torch.from_numpy(columns).float().mT
        return GRAIN * math.sqrt(2 / WAVES) * wave


@dataclass(frozen=True)
class ShapesClip:
    """One clip and the whole truth about it: everything else follows from these fields in closed form."""

    label: str
    size: float
    position: tuple[float, float]
    velocity: tuple[float, float]
    side: int
    texture: int = 0  # the factor of the two textures
    grain: int = 0  # the seed of the stream of which they are drawn

    def facts(self) -> dict[str, object]:
        """What captions.jsonl tells of the clip; of textures, where it has them."""
        return {name: value for name, value in asdict(self).items() if self.texture or name not in ("texture", "grain")}

    @property
    def speed(self) -> float:
        """Pixels per frame."""
        return math.hypot(*self.velocity)

    @property
    def caption(self) -> str:
        """Such as "a red square moves left": the direction is the larger component of the first velocity."""
        return caption(self.label, direction(*self.velocity))

    def path(self, frames: int) -> Tensor:
        """Centre in each frame, (frames, 2) float64: a straight line folded back at the walls."""
        low, high = _room(self.label, self.size, self.side)
        span = high - low
        travelled = self.position - low + np.arange(frames)[:, None] * np.array(self.velocity)
        return torch.from_numpy(low + span - np.abs(travelled % (2 * span) - span))

    def video(self, frames: int) -> Tensor:
        """The clip drawn, (3, frames, side, side) float32 in [-1, 1]."""
        colour, shape = self.label.split("_")
        path = self.path(frames)
        amount = coverage(shape, path, torch.full((frames,), self.size), self.side, self.side)
        background, foreground = rgb(BACKGROUND).view(3, 1, 1, 1), rgb(COLOURS[colour]).view(3, 1, 1, 1)
        if not self.texture:
            return background + (foreground - background) * amount
        stream = np.random.default_rng(self.grain)
        under, over = (Texture(self.texture, stream) for _ in range(2))
        background = background + under(torch.zeros(1, 2), self.side)  # 3 1 h w
        return torch.lerp(background, foreground + over(path, self.side), amount).clamp(-1, 1)


def caption(label: str, course: str) -> str:
    """Such as "a red square moves left", of "red_square" and "left"."""
    return f"a {label.replace('_', ' ')} moves {course}"


def direction(x: float, y: float) -> str:
    """One of DIRECTIONS: the larger component of a move of (x, y), where y points down."""
    return ("left" if x < 0 else "right") if abs(x) >= abs(y) else ("up" if y < 0 else "down")


def make_clip(spec: ShapesSpec, split: str, label: str, number: int) -> ShapesClip:
    """Clip `number` of a label and split, drawn from a random stream of its own."""
    stream = np.random.default_rng((spec.seed, SPLITS.index(split), LABELS.index(label), number))
    scale = spec.size / 64
    size = scale * stream.uniform(7, 11)
    if spec.straight:
        courses = [name for name in DIRECTIONS if split == "test" or (label, name) not in spec.unseen()]
        return _textured(spec, _straight(spec, label, size, courses[number % len(courses)], stream), stream)
    speed, angle = scale * stream.uniform(1, 4), stream.uniform(0, 2 * math.pi)
    low, high = _room(label, size, spec.size)
    x, y = stream.uniform(low, high).tolist()
    clip = ShapesClip(label, size, (x, y), (speed * math.cos(angle), speed * math.sin(angle)), spec.size)
    return _textured(spec, clip, stream)


def _textured(spec: ShapesSpec, clip: ShapesClip, stream: np.random.Generator) -> ShapesClip:
    if not spec.texture:
        return clip
    return replace(clip, texture=spec.texture, grain=int(stream.integers(2**31)))


def _straight(spec: ShapesSpec, label: str, size: float, course: str, stream: np.random.Generator) -> ShapesClip:
    """A clip whose object goes in a direction and reaches no wall: as far as drawn, or as there is room."""
    towards = {"left": math.pi, "right": 0.0, "up": -math.pi / 2, "down": math.pi / 2}[course]
    angle = towards + stream.uniform(-WOBBLE, WOBBLE)
    heading = np.array([math.cos(angle), math.sin(angle)])
    low, high = _room(label, size, spec.size)
    least, most = (spec.size / 64 * travel for travel in TRAVEL)
    move = heading * stream.uniform(least, min(most, float(np.min((high - low) / np.abs(heading)))))
    x, y = stream.uniform(low - np.minimum(move, 0), high - np.maximum(move, 0)).tolist()
    across, down = (move / (spec.frames - 1)).tolist()
    return ShapesClip(label, size, (x, y), (across, down), spec.size)


def make_shapes(out: str | Path, spec: ShapesSpec | None = None, *, force: bool = False, progress: bool = True) -> int:
    """Write a set as H.264 files `out/{train,test}/<label>/<number>.mp4`, the truth in `out/captions.jsonl`.

    A second run is a no-op: where `out/spec.json`, which is written last, tells of the same set, only files
    that are missing are written.

    Args:
        out: folder to write to; made if need be.
        spec: what to draw; the default set when None.
        force: replace a set with other options. Only files named as this function names them are deleted.
        progress: show a bar.

    Returns:
        How many video files were written.

    Raises:
        ValueError: `out` holds a set made with other options, and `force` is not given; or captions or clips that are
            of no set, which nothing replaces.
    """
    out, spec = Path(out), spec or ShapesSpec()
    marker, captions, begun = out / "spec.json", out / "captions.jsonl", out / ".begun"
    wanted = {"drawing": DRAWING, **spec.facts()}
    folders = [(split, label) for split in SPLITS for label in LABELS]
    clips = {
        f"{split}/{label}/{number:04d}.mp4": make_clip(spec, split, label, number)
        for split, label in folders
        for number in range(getattr(spec, split))
    }
    same = marker.exists() and _read_spec(marker) == wanted
    if marker.exists() and not same and not force:
        raise ValueError(
            f"{out} holds a shapes set made with {marker.read_text().strip()}, not {json.dumps(wanted)}; "
            "choose another folder, or replace the set with --force (force=True)"
        )
    drawn = [path for split, label in folders for path in (out / split / label).glob("*.mp4") if path.stem.isdigit()]
    if not (marker.exists() or begun.exists()) and (captions.exists() or drawn):
        raise ValueError(
            f"{out} has {captions.name if captions.exists() else drawn[0].relative_to(out)}, but is no shapes set: "
            "nothing there is touched. For clips of your own set data.layout=auto; for a shapes set name a new folder"
        )
    if force or not same:  # also what an interrupted run left
        out.mkdir(parents=True, exist_ok=True)
        begun.touch()  # from here on what lies there is of a set
        for path in (marker, captions, *drawn):
            path.unlink(missing_ok=True)

    def write(path: str) -> None:
        write_video(out / path, clips[path].video(spec.frames), FPS, crf=CRF)

    missing = [path for path in clips if not (out / path).exists()]
    bar = tqdm(total=len(missing), desc="shapes", unit="clip", disable=not (progress and missing))
    # Threads do: the encoder and torch work outside the interpreter's lock.
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(write, missing):
                bar.update()
        except BaseException:  # Ctrl-C above all: what has not begun is not drawn
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if missing or not captions.exists():
        lines = (
            {"path": path, "label": clip.label, "caption": clip.caption, "speed": clip.speed, **clip.facts()}
            for path, clip in clips.items()
        )
        _replace(captions, "".join(json.dumps(line) + "\n" for line in lines))
    if not same or force:
        _replace(marker, json.dumps(wanted) + "\n")
    begun.unlink(missing_ok=True)
    return len(missing)


def read_clips(folder: str | Path) -> dict[Path, ShapesClip]:
    """The truth about each file of a set that `make_shapes` wrote, from its captions.jsonl.

    Raises:
        ValueError: the folder has no captions.jsonl, or one of other clips.
    """
    captions = Path(folder) / "captions.jsonl"
    if not captions.exists():
        raise ValueError(f"no {captions}, which a shapes set has: `vidiff train shapes` makes one in data/shapes")
    found = {}
    for line in map(json.loads, captions.read_text().splitlines()):
        try:
            position, velocity = tuple(line["position"]), tuple(line["velocity"])
            found[Path(folder) / line["path"]] = ShapesClip(
                line["label"],
                line["size"],
                position,
                velocity,
                line["side"],
                line.get("texture", 0),
                line.get("grain", 0),
            )
        except LookupError as error:
            raise ValueError(f"{captions} is not of a shapes set: it has a line without {error}") from None
    return found


def _room(label: str, size: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest centre (x, y) that keep an object wholly inside a square frame."""
    across, up, down = (size * reach for reach in REACH[label.split("_")[1]])
    return np.array([across, up]), np.array([side - across, side - down])


def _read_spec(marker: Path) -> object:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        return None  # not one of ours: never the same set


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)
