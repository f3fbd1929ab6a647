"""Where a model's weights lie: whole on every process, or in shards."""

from __future__ import annotations

from torch import nn

from vidiff.engine.model import Model
from vidiff.engine.options import TrainOptions
from vidiff.engine.parallel import Group
from vidiff.engine.precision import Precision


def spread(objective: nn.Module, group: Group, options: TrainOptions, precision: Precision) -> Model:
    """The objective among the processes of `group`, as `options.parallel` says.

    Raises ValueError where processes do not divide into groups of `options.shards`.
    """
    if group.world == 1 or options.parallel == "ddp":
        return Model(objective, group)
    from vidiff.engine.shards import Shards, make_mesh  # takes a second, which the other ways need not

    return Shards(objective, group, make_mesh(group, options), precision)
