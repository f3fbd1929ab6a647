"""What a codec keeps of held-out clips, told before a model is trained on its latents."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.codec.codec import Codec, Identity
from vidiff.data.clips import make_loader
from vidiff.data.index import Index
from vidiff.data.order import Order
from vidiff.engine.parallel import processes
from vidiff.metrics.codec import detail, strip
from vidiff.metrics.motion import moving_energy, share_kept
from vidiff.metrics.prediction import psnr
from vidiff.recipe.kinds import LatentRun, RunConfig
from vidiff.recipe.slots import ConfigError
from vidiff.store.files import write_whole
from vidiff.store.plain import read_json
from vidiff.training.datasets import clip_dataset
from vidiff.video.writer import write_image

FILE, PICTURE = "codec-kept.json", "codec-worst.png"
CLIPS, BATCH = 48, 4
SHOWN = 6  # frames of the worst clip


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
    """

    psnr: float
    detail: float | None
    moving: float | None
    share: float
    clips: int
    classes: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"PSNR {self.psnr:.1f} dB"]
        parts += [] if self.detail is None else [f"{round(100 * self.detail)}% of the detail"]
        if self.moving is not None:
            parts.append(f"{round(100 * self.moving)}% of what moves ({self.share:.1%} of the pixels)")
        if len(self.classes) > 1:
            worst = min(self.classes, key=self.classes.__getitem__)
            parts.append(f"least in {worst}, {round(100 * self.classes[worst])}%")
        return ", ".join(parts)


def check_kept(config: LatentRun, codec: Codec, held_out: Index) -> Kept | None:
    """Measure what a codec keeps of held-out clips, and keep that, with a picture of the worst, in the run's folder.

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
        return kept
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
    return Kept(**{field.name: known[field.name] for field in fields(Kept)})


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
