"""The loss of a classifier of noised clips."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.diffusion.choice import choose
from vidiff.diffusion.process import add_noise
from vidiff.diffusion.schedule import Schedule
from vidiff.objective.latents import Batch, condition_of, draw_clips, normalised
from vidiff.objective.task import Tasks, draw_clock, draw_known
from vidiff.objective.weighting import TIMES


@dataclass
class ClassifierLoss:
    """Options of the classifier's loss."""

    times: str = "stratified"  # or uniform, logit_normal, log_normal
    smoothing: float = 0.0  # share of the target that goes to all labels alike
    tasks: Tasks = field(default_factory=Tasks)  # which frames are known, and how clocks rise, as for a diffusion model

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"loss.smoothing is {self.smoothing}; give a share from 0 to less than 1, such as 0.1")


class ClassifierObjective(nn.Module):
    """Cross-entropy of the label, given a clip that is noised as a diffusion model sees it (Dhariwal & Nichol 2021,
    section 4): at every time, with known frames, and with a clock of each frame's own. Each frame counts alike.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, loss: ClassifierLoss) -> None:
        super().__init__()
        self.network, self.schedule, self.options = network, schedule, loss  # the network: as `Classifier`
        self.times = choose("time distribution", loss.times, TIMES)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch, which has a label for each clip.

        The network is told all that came with the clips but the label.

        Returns:
            "loss"; "accuracy", the share of clips whose label has the largest log-probability, all frames together; and
            "accuracy/t0" to "accuracy/t3", the same in each quarter of the time axis among clips of which nothing is
            known, since what is known tells the label at any time (NaN where none was drawn).
        """
        batch = normalised(batch)
        label, x0 = batch.pop("label"), draw_clips(batch)
        drawn = draw_known(self.options.tasks, x0.shape, x0.device)

        def times(count: int) -> Tensor:
            return self.times(count, x0.device, self.schedule)

        t = times(len(x0))
        clock, _ = draw_clock(self.options.tasks, t, drawn, times)  # b 1 f 1 1, or b 1 f h w
        x_t = add_noise(self.schedule, x0, torch.randn_like(x0), clock)
        alpha, sigma = self.schedule(clock)
        log_snr = self.schedule.log_snr(clock).expand(-1, 1, *x0.shape[2:])  # b 1 f h w
        logits = self.network(x_t / (alpha**2 + sigma**2).sqrt(), log_snr, condition_of(batch))
        wanted = label[:, None].expand(logits.shape[:2])  # b f
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), label_smoothing=self.options.smoothing)
        with torch.no_grad():
            right = (logits.log_softmax(-1).sum(1).argmax(1) == label).float()  # b
            result = {"loss": loss, "accuracy": right.mean()}
            for quarter in range(4):
                chosen = (drawn.task == Tasks.NAMES.index("generate")) & ((t * 4).long().clamp(max=3) == quarter)
                # and not right[chosen], for whose size the program would wait
                result[f"accuracy/t{quarter}"] = right.where(chosen, 0.0).sum() / chosen.sum()
        return result
