"""A training of a real U-Net, small, for tests of processes that share it. Its loss is a function of the batch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.engine.loop import fit
from vidiff.engine.optim import Optim
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import processes
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.nn.vae import VAE, VAEConfig
from vidiff.objective.vae import VAELoss, VAEObjective

SHAPE: dict[str, Any] = dict(
    width=32,
    multipliers=[1, 1],
    blocks=[1, 1],
    spatial_convs=2,
    head_dim=16,
    temporal_attention=[0],
    joint_attention=[1],
)


class Blocky(nn.Module):
    """A U-Net that learns to undo a fixed map; a scalar, a frozen layer and a buffer besides."""

    def __init__(self, checkpoint: Iterable[int] = ()) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = UNet(UNetConfig(**SHAPE, checkpoint=list(checkpoint)))
            nn.init.normal_(self.network.leave.weight, std=0.05)  # else nothing but the last layer has a gradient
            self.frozen = nn.Conv3d(4, 4, 1).requires_grad_(False)
        self.gain = nn.Parameter(torch.tensor(1.0))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        x, clock = batch["x"], batch["clock"]
        if self.training:
            self.seen.fill_(1)
        found = self.gain * self.network(x, clock, Condition()).float()
        return {"loss": (found - self.frozen(x)).square().mean()}


def autoencoder() -> VAEObjective:
    """With a discriminator, whose weight is made of gradients that the loss takes itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loss = VAELoss(adversarial=0.5, discriminator_width=8, discriminator_levels=1)
        return VAEObjective(VAE(VAEConfig(width=8, multipliers=[1, 1], patch=1)), loss)


def sample(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {
        "x": torch.randn(4, 2, 4, 4, generator=generator),
        "clock": 4 * torch.randn(1, 2, 4, 4, generator=generator),
        "video": torch.rand(3, 2, 8, 8, generator=generator) * 2 - 1,
        "key": torch.tensor(number),
    }


def batches(start: int, size: int, rank: int, world: int) -> Iterable[dict[str, Tensor]]:
    """Without end; `size` samples at once over all processes, of which this process has its part."""
    share = size // world
    while True:
        mine = [sample(n) for n in range(start + rank * share, start + (rank + 1) * share)]
        yield {name: torch.stack([one[name] for one in mine]) for name in mine[0]}
        start += size


def train(
    run: Path,
    *,
    checkpoint: Iterable[int] = (),
    batch: int = 8,
    look: bool = False,
    frames: bool = False,
    **options: Any,
) -> None:
    """Trains a U-Net, or of `frames` an autoencoder."""
    settings = {"steps": 4, "precision": "fp32", "log_every": 1, "checkpoint_every": 2, "ema": 0.5, "ema_warmup": 1}
    optim = Optim(**{"lr": 0.01, "warmup": 2, "clip": 0.5, "eps": 1e-3} | options.pop("optim", {}))
    chosen = TrainOptions(**settings | options, optim=optim)
    objective = autoencoder() if frames else Blocky(checkpoint)
    fixed = next(iter(batches(10**6, 4, 0, 1)))
    file = run / "drawn.json"

    def validate(step: int) -> dict[str, float]:
        return {"val/loss": float(objective(fixed)["loss"])}

    def draw(step: int) -> None:  # as a sampler does: a part of the objective, and not its forward
        found = objective.network(fixed["x"], fixed["clock"], Condition())
        drawn = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(drawn | {str(step): found.double().square().sum().item()}))

    looking = {"validate": validate, "sample": draw} if look else {}
    if look:
        chosen.validate_every = chosen.sample_every = 2
    with processes("cpu") as group:
        part = batch // chosen.accumulate
        make = lambda start: batches(start, part, group.rank, group.world)  # noqa: E731
        fit(objective, make, batch, chosen, run, device="cpu", **looking)
        if group.main:
            torch.save(objective.state_dict(), run / "trained.pt")


def main(arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ.update(arguments.pop("environment", {}))
    run = Path(arguments.pop("run"))
    with open(f"{run}.out", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    if not arguments.pop("count", False):
        train(run, **arguments)
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(run, **arguments)
    sent = {event.key: event.count for event in profile.key_averages() if event.key.startswith("gloo:")}
    (run / f"sent-{os.environ['RANK']}.json").write_text(json.dumps(sent))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
