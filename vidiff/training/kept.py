"""What a codec keeps of held-out clips, told before a model is trained on its latents."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec, Identity
from vidiff.data.clips import make_loader
from vidiff.data.index import Index
from vidiff.data.order import Order
from vidiff.engine.parallel import Group, processes
from vidiff.metrics.codec import detail, strip
from vidiff.metrics.features import Features
from vidiff.metrics.frechet import Statistics, frechet_distance
from vidiff.metrics.motion import moving_energy, share_kept
from vidiff.metrics.prediction import psnr
from vidiff.recipe.kinds import LatentRun, RunConfig
from vidiff.recipe.slots import ConfigError
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json
from vidiff.training.datasets import clip_dataset
from vidiff.training.windows import Windows, choose_windows, gathered
from vidiff.video.writer import write_image

FILE, PICTURE = "codec-kept.json", "codec-worst.png"
CLIPS, BATCH = 48, 4
SHOWN = 6  # frames of the worst clip
LOW = 1.5  # times the floor: where perfect latents score more, the codec is what limits a model


@dataclass(frozen=True)
class Ceiling:
    """The best Fréchet distance that a model on a codec's latents can reach, with the clips and the network of a score.

    Attributes:
        distance: its name, as an evaluation has it.
        network: SHA-256 of the network's file.
        asked: clips that the config asked for.
        clips: windows of each split.
        pairs: held-out clips after the codec, against themselves before it.
        floor: clips to train on, against held-out ones.
        after: clips to train on, after the codec, against held-out ones before it: what perfect latents would score.
    """

    distance: str
    network: str
    asked: int
    clips: int
    pairs: float
    floor: float
    after: float

    @property
    def low(self) -> bool:
        """Whether the codec costs more than half of what real clips differ by anyway."""
        return self.after > LOW * self.floor

    def __str__(self) -> str:
        return (
            f"{self.distance} of {self.clips} clips: {self.after:.4g} for latents without a fault, {self.floor:.4g} "
            f"for real clips, {self.pairs:.4g} between held-out clips before and after the codec"
        )


@dataclass(frozen=True)
class Kept:
    """What comes back of clips that go through a codec, by the means of their latents.

    Attributes:
        psnr: mean over all frames, in dB.
        detail: power of the upper half of the spatial frequencies, in that of the real clips; None where there is none.
        moving: share of the energy of what moves, as `vidiff.metrics.codec.frame_scores`; None where nothing moves.
        share: of the pixels that move.
        classes: `moving` by the name of a class.
        clips: how many were looked at.
        ceiling: where `codec.ceiling.network` asks for it.
    """

    psnr: float
    detail: float | None
    moving: float | None
    share: float
    clips: int
    classes: dict[str, float] = field(default_factory=dict)
    ceiling: Ceiling | None = None

    def __str__(self) -> str:
        parts = [f"PSNR {self.psnr:.1f} dB"]
        parts += [] if self.detail is None else [f"{round(100 * self.detail)}% of the detail"]
        if self.moving is not None:
            parts.append(f"{round(100 * self.moving)}% of what moves ({self.share:.1%} of the pixels)")
        if len(self.classes) > 1:
            worst = min(self.classes, key=self.classes.__getitem__)
            parts.append(f"least in {worst}, {round(100 * self.classes[worst])}%")
        if self.ceiling is not None:
            parts.append(f"ceiling {self.ceiling}")
        return ", ".join(parts)


def check_kept(
    config: LatentRun, codec: Codec, held_out: Index, index: Index, network: Features | None = None
) -> Kept | None:
    """Measure what a codec keeps of held-out clips, and keep that, with a picture of the worst, in the run's folder.

    Args:
        index: the clips to train on.
        network: by which the ceiling is told, as `codec.ceiling` asks for it.

    Returns:
        None for pixels, of which all is kept.

    Raises:
        ConfigError: it keeps less of what moves than `codec.least`, and no model has been trained on it here yet.
    """
    if isinstance(codec, Identity):
        return None
    folder = config.folder
    with processes(config.device) as group:
        kept = group.share(read_or_measure(config, codec, held_out, group.device) if group.main else None)
    assert kept is not None  # the main process shares it
    began = (folder / "checkpoints" / "latest").is_file()
    if began or not config.codec.least or kept.moving is None or kept.moving >= config.codec.least:
        return kept if network is None else with_ceiling(config, codec, (held_out, index), network, kept)
    ways = "take another codec"
    if config.codec.name == "vae":
        ways = (
            "let the autoencoder shrink less (vae.multipliers, vae.patch), give it more vae.channels, weigh what moves "
            "(loss.moving=0.8) or train it longer (train.steps), in its config or by codec.override with another name, "
            "as the recipe small_vae does; or do without one (codec.name=identity, with unet.patch=4)"
        )
    raise ConfigError(
        f"a model cannot learn what its latents do not hold: of {kept.clips} held-out clips the codec keeps {kept}, "
        f"and codec.least asks for {config.codec.least} of what moves; {ways}; {folder / PICTURE} shows the worst "
        "clip, and codec.least=0 goes on all the same"
    )


def read_kept(run: Path) -> Kept | None:
    """What was measured of the codec of a run; None where nothing was, as of pixels and of runs of earlier versions."""
    if not (run / FILE).is_file():
        return None
    known = read_json(run / FILE)
    kept = Kept(**{field.name: known[field.name] for field in fields(Kept) if field.name in known})
    return replace(kept, ceiling=Ceiling(**known["ceiling"])) if known.get("ceiling") else kept


def read_or_measure(config: LatentRun, codec: Codec, held_out: Index, device: torch.device) -> Kept:
    """What was measured before of the same codec and clips, or is measured now."""
    file = config.folder / FILE
    of = {"codec": codec.digest(), "held_out": held_out.digest}
    if file.is_file():
        before, known = read_json(file), read_kept(config.folder)
        if known and {key: before.get(key) for key in of} == of:
            return known
    kept, worst = measure(config, codec.to(device), held_out, device)
    config.folder.mkdir(parents=True, exist_ok=True)
    write_image(config.folder / PICTURE, worst)
    write_whole(file, json.dumps({**of, **asdict(kept)}, indent=1) + "\n")
    tqdm.write(f"{config.name}: the codec keeps, of {kept.clips} held-out clips: {kept}")
    return kept


def with_ceiling(config: LatentRun, codec: Codec, of: tuple[Index, Index], network: Features, kept: Kept) -> Kept:
    """What a codec keeps, with its ceiling as it was measured before by the same network and number, or is now.

    Args:
        of: held-out clips, and those to train on.

    Returns:
        `kept` as it is where the clips are too few or too short for a ceiling, which is told.

    Raises:
        ValueError: what the network does not take.
    """
    asked = config.codec.ceiling.clips
    if kept.ceiling is not None and (kept.ceiling.network, kept.ceiling.asked) == (network.sha256, asked):
        return kept
    try:
        windows = ceiling_windows(config, of)
    except ValueError as error:  # few clips are no reason not to train
        tqdm.write(f"{config.name}: the codec's ceiling is not measured: {error}")
        return kept
    with processes(config.device) as group:
        found = group.share(measure_ceiling(config, codec.to(group.device), windows, network.to(group.device), group))
        assert found is not None  # the main process shares it
        if group.main:
            file = config.folder / FILE
            write_whole(file, json.dumps({**read_json(file), "ceiling": asdict(found)}, indent=1) + "\n")
            tqdm.write(f"{config.name}: ceiling, {found}")
            if found.low:
                tqdm.write(
                    f"{config.name}: the ceiling is low: no model on these latents is expected to score below "
                    f"{found.after:.4g}, where real clips score {found.floor:.4g}. Train the autoencoder longer, or "
                    "with loss.perceptual and loss.adversarial, more vae.channels, or less shrinking"
                )
    return replace(kept, ceiling=found)


def check_ceiling(config: LatentRun, of: tuple[Index, Index], network: Features) -> None:
    """Before a codec is there: raises ValueError for clips that the network of its ceiling does not take.

    Args:
        of: held-out clips, and those to train on.
    """
    try:
        windows = ceiling_windows(config, of)
    except ValueError:  # which `with_ceiling` tells
        return
    network.check_frames(windows[0].frames)


def ceiling_windows(config: LatentRun, of: tuple[Index, Index]) -> list[Windows]:
    """Of held-out clips, and of those to train on, as many windows as `codec.ceiling.clips` asks for, or as there are.

    Raises:
        ValueError: fewer than two windows of either, or none.
    """
    data = config.data
    shape = data.plan()[0]
    how = (shape.frames, min(shape.height, shape.width), data.stride[0])
    held_out, training = (len(choose_windows(index, *how, lower="data.frames or data.stride")) for index in of)
    if min(held_out, training) < 2:
        raise ValueError(
            f"there are {held_out} held-out clips of {shape.frames} frames and {training} to train on, and a distance "
            "takes two of each at least"
        )
    count = min(config.codec.ceiling.clips, held_out, training)
    return [choose_windows(index, *how, count) for index in of]


def measure_ceiling(
    config: LatentRun, codec: Codec, of: list[Windows], network: Features, group: Group
) -> Ceiling | None:
    """Score clips that went through a codec as those will be scored that a model makes: the same windows, frames, least
    stride, size, network, and distance.

    Args:
        of: held-out windows, and as many to train on.

    Returns:
        None elsewhere than on the main process.

    Raises:
        ValueError: what the network does not take.
    """
    count = len(of[0])

    def through(windows: Windows, title: str) -> dict[str, Tensor]:
        def make(which: range) -> dict[str, Tensor]:
            video = windows.read(which)
            decoded = codec.decode(codec.encode(video.to(group.device)).mean).float().cpu()
            return {"real": network(video), "decoded": network(decoded)}

        return gathered(count, group, make, title)

    held_out, training = (through(w, f"ceiling, {t}") for w, t in zip(of, ("held out", "training"), strict=True))
    if not group.main:
        return None

    def distance(made: Tensor) -> float:
        return frechet_distance(Statistics.of(held_out["real"], "real"), Statistics.of(made, "made"))

    return Ceiling(
        network.called("frechet"),
        network.sha256,
        config.codec.ceiling.clips,
        count,
        *(distance(made) for made in (held_out["decoded"], training["real"], training["decoded"])),
    )


def measure(config: RunConfig, codec: Codec, held_out: Index, device: torch.device) -> tuple[Kept, Tensor]:
    """Send held-out clips, as the training sees them, through a codec.

    Returns:
        what is kept, and a picture of the clip of whose motion the least is: real frames, decoded ones, the error.
    """
    dataset = clip_dataset(config, held_out)
    indices = max(dataset.groups, key=len)
    keys = next(iter(Order([indices], min(CLIPS, max(BATCH, len(indices))), config.train.seed)))
    batches = [keys[i : i + BATCH] for i in range(0, len(keys), BATCH)]
    rows: dict[str, list[Tensor]] = {"psnr": [], "detail": [], "moving": [], "share": [], "label": []}
    worst: tuple[float, Tensor] = (2.0, torch.empty(0))
    for batch in make_loader(dataset, batches, min(config.data.workers, 1)):
        video = batch["video"]
        decoded = codec.decode(codec.encode(video.to(device)).mean).float().cpu()
        energy, share = moving_energy(video, decoded)
        for name, row in zip(
            rows, (psnr(decoded, video).mean(1), detail(video, decoded), energy, share, batch["label"]), strict=True
        ):
            rows[name].append(row)
        shares = (1 - energy[:, 0] / energy[:, 1]).nan_to_num(1.0)
        number = int(shares.argmin())
        if float(shares[number]) < worst[0]:
            frames = torch.linspace(0, video.shape[2] - 1, min(SHOWN, video.shape[2])).round().long()
            real, returned = (x[number, :, frames].transpose(0, 1)[:, :, None] for x in (video, decoded))
            worst = float(shares[number]), strip(real, returned)
    whole = {name: torch.cat(parts) for name, parts in rows.items()}
    fine, fine_real = whole["detail"].sum(0).tolist()
    classes = {}
    for number, name in enumerate(held_out.labels):
        if (part := share_kept(whole["moving"][whole["label"] == number])) is not None:
            classes[name] = part
    kept = Kept(
        float(whole["psnr"].mean()),
        fine / fine_real if fine_real else None,
        share_kept(whole["moving"]),
        float(whole["share"].mean()),
        len(whole["psnr"]),
        classes,
    )
    return kept, worst[1]
