"""Every task and sampler on a GPU: nothing mixes devices, and a step of an ODE waits for nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from absent import GPU, AbsentGpu
from small import pipeline, small
from torch import Tensor

from vidiff.pipeline.pipeline import Pipeline
from vidiff.sample import SAMPLERS

WAITING = {"rk45", "unipc", "deis"}  # the first reads its own error, the others where the clock stands


@pytest.mark.parametrize("sampler", sorted(SAMPLERS.keys() - WAITING))
def test_a_sampler_s_step_waits_for_nothing(gpu: AbsentGpu, sampler: str) -> None:
    pipe = pipeline(small("shapes_long"))
    waits = []
    for steps in (2, 3):
        gpu.reset()
        gpu.truth = True  # where it is asked whether latents are finite
        pipe.generate(label="a", guidance=2.0, steps=steps, sampler=sampler)
        assert not gpu.mixed, gpu.mixed
        assert not gpu.complex, gpu.complex
        waits.append(gpu.waits)
    assert waits[1] == waits[0], waits[1] - waits[0]


Task = Callable[[Pipeline, Tensor], object]
TASKS: dict[str, Task] = {
    "extend": lambda pipe, clip: pipe.extend(clip, 24, "a", context=4, steps=2),
    "extend on the GPU": lambda pipe, clip: pipe.extend(clip.to(GPU), 24, "a", context=4, steps=2),
    "extend backwards": lambda pipe, clip: pipe.extend(clip, 24, "a", context=4, steps=2, backwards=True),
    "history": lambda pipe, clip: pipe.extend(clip, 24, "a", context=4, steps=2, history=2.0),
    **{
        name: lambda pipe, clip, name=name: pipe.extend(clip, 24, "a", context=4, steps=2, strategy=name)
        for name in ("noisy", "replace", "reconstruct", "keyframes", "rolling")
    },
    "animate": lambda pipe, clip: pipe.animate(clip[:, :, 0], label="a", steps=2),
    "interpolate": lambda pipe, clip: pipe.interpolate(clip[:, :, :4], clip[:, :, :4], 8, "a", steps=2),
    "loop": lambda pipe, clip: pipe.loop(clip, label="a", steps=2),
    "inpaint": lambda pipe, clip: pipe.inpaint(clip, box(clip), "a", steps=2),
    "edit": lambda pipe, clip: pipe.edit(clip, strength=0.5, label="a", steps=4),
    "double": lambda pipe, clip: pipe.double(clip, label="a", steps=2),
    "lag": lambda pipe, clip: pipe.generate(label="a", steps=2, lag=1),
    "projected": lambda pipe, clip: pipe.generate(label="a", steps=2, guidance=2.0, apg={"eta": 0.0, "radius": 5.0}),
    "interval": lambda pipe, clip: pipe.generate(label="a", steps=2, guidance=2.0, interval=[0.2, 0.8]),
    "rescaled": lambda pipe, clip: pipe.generate(label="a", steps=2, guidance=2.0, rescale=0.7),
    "reconstruct a clip": lambda pipe, clip: pipe.reconstruct(clip),
    "a draw of the codec": lambda pipe, clip: pipe.codec.encode(clip.to(GPU)).sample(torch.Generator()),
}


def box(clip: Tensor) -> Tensor:
    mask = torch.zeros(1, 1, *clip.shape[2:], dtype=torch.bool)
    mask[..., 16:48, 16:48] = True
    return mask


@pytest.mark.parametrize("task", TASKS)
def test_a_task_mixes_no_devices(gpu: AbsentGpu, task: str) -> None:
    config = small("shapes_long")
    pipe = pipeline(config)
    clip = torch.zeros(1, 3, config.data.frames, config.data.size, config.data.size)
    gpu.reset()
    gpu.truth = True  # where a clip on the GPU is asked whether it is in range
    TASKS[task](pipe, clip)
    assert not gpu.mixed, gpu.mixed
    assert not gpu.complex, gpu.complex


@pytest.mark.parametrize("previous", [False, True])
def test_a_stream_mixes_no_devices_and_its_steps_wait_for_nothing(gpu: AbsentGpu, previous: bool) -> None:
    config = small("shapes_causal", "start=", f"unet.previous={str(previous).lower()}")
    pipe, waits = pipeline(config), []
    clip = torch.zeros(1, 3, pipe.frames, pipe.size, pipe.size)
    for steps in (2, 3):
        gpu.reset()
        gpu.truth = True
        strategy = {"name": "stream", "chunk": 2, "sinks": 1}
        pieces = pipe.stream(pipe.frames + 6, "a", clip=clip, context=4, steps=steps, history=2.0, strategy=strategy)
        next(pieces)
        pieces.set(label="b")
        list(pieces)
        assert not gpu.mixed, gpu.mixed
        assert not gpu.complex, gpu.complex
        waits.append(gpu.waits)
    assert waits[1] == waits[0], waits[1] - waits[0]
