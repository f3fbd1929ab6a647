"""Small U-Nets whose every part matters, and what they read."""

from __future__ import annotations

import torch

from vidiff.nn.unet import UNet, UNetConfig

SMALL = UNetConfig(channels=2, width=8, multipliers=[1, 2], blocks=[1, 2], head_dim=4)


def build(config: UNetConfig) -> UNet:
    """A network in which every part matters: what starts at zero is drawn, too."""
    network = UNet(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def inputs(config: UNetConfig, frames: int = 3, height: int = 4, width: int = 6, batch: int = 2):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, config.channels, frames, height, width, generator=generator)
    clock = torch.randn(batch, 1, frames, height, width, generator=generator)
    return x, clock
