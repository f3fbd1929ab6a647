"""A discriminator of patches: whether each part of a frame is real."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidiff.nn.blocks import channels_last, normalise


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches of single frames (PatchGAN; Isola et al. 2017, section 3.2.2 and appendix 6.1.2).

    Convolutions of 4x4 pixels that halve the frame `levels` times, and two more. With three levels a score sees 70x70
    pixels. Voxels are layer-normed over their channels in place of batch norm, so that no score depends on what else is
    in the batch.

    Args:
        width: channels after the first convolution; each level doubles them, up to 8 times as many.
        levels: convolutions that halve height and width.
    """

    def __init__(self, width: int = 64, levels: int = 3) -> None:
        super().__init__()
        if width < 1 or levels < 1:
            raise ValueError(f"a discriminator of width {width} and {levels} levels; give 1 or more of each")
        self.levels = levels
        widths = [3, *(width * min(2**level, 8) for level in range(levels + 1))]
        self.conv = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2 if level < levels else 1, padding=1)
            for level, (before, after) in enumerate(pairwise(widths))
        )
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(after)) for after in widths[2:])
        self.out = nn.Conv2d(widths[-1], 1, 4, padding=1)
        for layer in (*self.conv, self.out):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.normal_(layer.weight, std=0.02)  # as Isola et al., appendix 6.2
            nn.init.zeros_(layer.bias)
        channels_last(self)

    @property
    def least(self) -> int:
        """Pixels that a frame needs at least on each side."""
        return 3 * 2**self.levels

    def forward(self, frames: Tensor) -> Tensor:
        """Frames `(n, 3, h, w)` in [-1, 1] to scores `(n, 1, h', w')`, high for what looks real.

        Raises:
            ValueError: frames smaller than `least`.
        """
        height, width = frames.shape[-2:]
        if min(height, width) < self.least:
            raise ValueError(
                f"frames are {height}x{width}, but a discriminator of {self.levels} levels needs {self.least} pixels "
                "a side: take larger frames or fewer levels"
            )
        x = frames.contiguous(memory_format=torch.channels_last)
        for level, conv in enumerate(self.conv):
            x = conv(x)  # n width * 2 ** level h / 2 ** (level + 1) w / 2 ** (level + 1)
            if level:
                x = normalise(x, "film", self.scale[level - 1].to(x.dtype))
            x = F.leaky_relu(x, 0.2)
        return self.out(x).float()  # n 1 h' w'
