"""What the denoiser is trained for: clock, noise, target, weight, loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, prediction_scale, target
from vidiff.diffusion.process import add_noise
from vidiff.objective.task import Tasks, draw_known
from vidiff.objective.weighting import TIMES, WEIGHTINGS

DISTANCES = {
    "l2": lambda found, wanted: (found - wanted).square(),
    "l1": lambda found, wanted: (found - wanted).abs(),
    "huber": lambda found, wanted: F.huber_loss(found, wanted, reduction="none"),
}


@dataclass
class DiffusionLoss:
    """Options of the diffusion loss."""

    distance: str = "l2"  # or l1, huber
    weighting: str = "simple"  # or min_snr
    times: str = "stratified"  # or uniform
    drop: float = 0.1  # probability that a sample's label is dropped, for classifier-free guidance
    drop_known: float = 0.5  # the same where frames are known, so that a clip can be extended without a label
    tasks: Tasks = field(default_factory=Tasks)


class DiffusionObjective(nn.Module):
    """Denoising loss over the unknown voxels of each clip (Ho et al. 2020, algorithm 1, with a clock a voxel)."""

    def __init__(self, denoiser: Denoiser, loss: DiffusionLoss) -> None:
        super().__init__()
        self.denoiser, self.options = denoiser, loss
        self.distance = choose("loss distance", loss.distance, DISTANCES)
        self.weighting = choose("loss weighting", loss.weighting, WEIGHTINGS)
        self.times = choose("time distribution", loss.times, TIMES)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Args:
            batch: latents as "mean" and "std" `(b, c, f, h, w)`, of which one is drawn, or pixels as "video"
                `(b, 3, f, h, w)`; "label" and "stride" `(b,)` where there are.

        Returns:
            "loss", and its mean over each task and over each quarter of the time axis (NaN where none was drawn).
        """
        x0 = batch["video"] if "video" in batch else batch["mean"] + batch["std"] * torch.randn_like(batch["mean"])
        known, level, task = draw_known(self.options.tasks, len(x0), x0.shape[2], x0.device)
        drop = torch.where(task == 0, self.options.drop, self.options.drop_known)  # b
        condition = Condition(label=batch.get("label"), stride=batch.get("stride")).drop(drop)
        t = self.times(len(x0), x0.device)
        clock = torch.where(known, level, t.view(-1, 1, 1, 1, 1))  # b 1 f 1 1

        eps = torch.randn_like(x0)
        schedule = self.denoiser.schedule
        output, _ = self.denoiser.output(add_noise(schedule, x0, eps, clock), clock, condition)
        wanted = target(self.denoiser.prediction, schedule, x0, eps, clock)
        weight = self.weighting(schedule.log_snr(clock), prediction_scale(self.denoiser.prediction, schedule, clock))
        weight = weight * ~known

        error = self.distance(output.float(), wanted).mean(dim=(1, 3, 4), keepdim=True) * weight  # b 1 f 1 1
        counted = (~known).expand_as(error).flatten(1).sum(1)  # b, at least 1
        each = error.flatten(1).sum(1)  # b
        result = {"loss": each.sum() / counted.sum()}
        with torch.no_grad():
            each = each / counted
            for number, name in enumerate(Tasks.NAMES):
                result[f"loss/{name}"] = each[task == number].mean()
            for quarter in range(4):
                result[f"loss/t{quarter}"] = each[(t * 4).long().clamp(max=3) == quarter].mean()
        return result
