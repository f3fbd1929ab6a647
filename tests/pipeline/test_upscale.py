"""Super-resolution: windows that join, a clip in any pieces, the noise that is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pipelines import DETAIL as OF_DETAIL
from pipelines import enlarging, save
from torch import Tensor

from vidiff.codec.codec import Codec, Identity, VAECodec
from vidiff.diffusion.cascade import enlarge, shrink
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.edit import upscale
from vidiff.draw.window import Draw
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.pipeline import Pipeline
from vidiff.pipeline.run import latest_run
from vidiff.sample import build_sampler

DETAIL = torch.tensor(OF_DETAIL)


def clip(frames: int, side: int = 4, batch: int = 2) -> Tensor:
    return 1.6 * torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(frames)) - 0.8


class Recalls:
    """Looks up what the low resolution is of, and estimates the detail that it lacks."""

    schedule = Cosine()

    def __init__(self, truth: Tensor, scale: Tensor = DETAIL) -> None:
        self.low = enlarge(shrink(truth, 2), 2)
        self.detail = (truth - self.low) / scale.view(-1, 1, 1, 1)
        self.windows: list[tuple[int, int, int]] = []  # first frame, number of frames, of which known

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        assert condition.lowres is not None
        begin = int((self.low[0] - condition.lowres[0, :, :1]).abs().amax((0, 2, 3)).argmin())
        clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])
        window = begin, x.shape[2], int((clock[0, 0, :, 0, 0] == 0).sum())
        if window not in self.windows:
            self.windows.append(window)
        return Estimate(self.detail[:, :, begin : begin + x.shape[2]])


class Alone(torch.nn.Module):
    """A network to tell seeds, frames, low resolutions and their noise apart."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        assert condition.lowres is not None and condition.lowres_log_snr is not None
        noise = condition.lowres_log_snr.view(-1, 1, 1, 1, 1)
        return 0.3 * x + 0.1 * x.mean(2, keepdim=True) + 0.2 * condition.lowres + 0.01 * noise


def drawing(window: int, denoiser=None, seed: int = 0) -> Draw:
    denoiser = denoiser or Denoiser(Alone(), Cosine(), "v")
    generator = torch.Generator().manual_seed(seed)
    return Draw(denoiser, build_sampler("ddim"), 3, 1.0, window, generator, replace=True)


def run(draw: Draw, parts: list[Tensor], context: int = 2, level: float = 0.0, codec: Codec | None = None) -> Tensor:
    made = upscale(draw, codec or Identity(), parts, 2, DETAIL, level, context, Condition())
    return torch.cat(list(made), dim=2)


@pytest.mark.parametrize(
    ("frames", "windows"),
    [
        (3, [(0, 3, 0)]),
        (5, [(0, 5, 0)]),
        (6, [(0, 5, 0), (1, 5, 4)]),  # the last window moves back
        (8, [(0, 5, 0), (3, 5, 2)]),
        (12, [(0, 5, 0), (3, 5, 2), (6, 5, 2), (7, 5, 4)]),
    ],
)
def test_a_network_that_knows_the_truth_gives_it_back(frames: int, windows: list[tuple[int, int, int]]) -> None:
    truth = clip(frames, 8)
    network = Recalls(truth)
    made = run(drawing(5, network), [shrink(truth, 2)])
    torch.testing.assert_close(made, truth, atol=1e-6, rtol=0)
    assert network.windows == windows


def test_an_untrained_network_gives_the_bicubic_clip() -> None:
    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            return torch.zeros_like(x)

    given = clip(7)
    made = run(drawing(4, Denoiser(Nothing(), Cosine(), "x0")), [given])
    assert torch.equal(made, enlarge(given, 2))


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_how_a_clip_is_cut_makes_no_difference(level: float) -> None:
    given = clip(13)
    whole = run(drawing(5), [given], level=level)
    assert whole.shape == (2, 3, 13, 8, 8)
    for cut in ([1] * 13, [4, 9], [5, 3, 5], [12, 1]):
        assert torch.equal(whole, run(drawing(5), list(given.split(cut, dim=2)), level=level)), cut
    assert not torch.equal(whole, run(drawing(5, seed=1), [given], level=level))


def test_each_window_knows_the_detail_that_the_last_one_made() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(Draw):
        def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition, strength: float = 1.0) -> Tensor:
            made = super().__call__(frames, known, condition, strength)
            if known is not None:
                seen.append((frames, known.expand(1, 1, frames.shape[2], 1, 1)))
                assert torch.equal(made.where(known, frames), frames), "known frames come back bit for bit"
            seen.append((made, torch.ones(1, 1, made.shape[2], 1, 1, dtype=torch.bool)))
            return made

    run(Watched(**vars(drawing(5))), [clip(11)])
    assert [window.shape[2] for window, _ in seen] == [5] * 5
    for (before, _), (given, known) in zip(seen[:-1:2], seen[1::2], strict=True):
        count = int(known.sum())
        assert count == 2 and torch.equal(given[:, :, :count], before[:, :, -count:])


def test_the_level_reaches_the_network() -> None:
    told: list[Condition] = []

    class Listens(Alone):
        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            told.append(condition)
            return super().forward(x, log_snr, condition)

    given = clip(4)
    for level in (0.0, 0.25):
        run(drawing(4, Denoiser(Listens(), Cosine(), "v")), [given], level=level)
        first = told[0]
        assert torch.equal(first.lowres_log_snr, Cosine().log_snr(torch.full((2,), level)))
        assert torch.equal(first.lowres, enlarge(given, 2)) == (level == 0)
        assert all(torch.equal(each.lowres, first.lowres) for each in told), "noised once for a window"
        told.clear()


def test_memory_holds_a_window_and_not_the_clip() -> None:
    read = 0

    def parts():
        nonlocal read
        for _ in range(1000):
            read += 2
            yield clip(2)

    made = upscale(drawing(5), Identity(), parts(), 2, DETAIL, 0.0, 2, Condition())
    for written in (5, 8, 11):
        next(made)
        assert read <= written + 4


def test_a_codec_that_shrinks_works_on_its_latents() -> None:
    torch.manual_seed(0)
    codec = VAECodec(VAEConfig(channels=3, width=4, multipliers=[1, 1], patch=2)).eval()
    codec.set_statistics(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 0.5]))
    given = clip(6, 8)
    made = run(drawing(4), [given], codec=codec)
    assert made.shape == (2, 3, 6, 16, 16)

    class Nothing(torch.nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            return torch.zeros_like(x)

    plain = run(drawing(6, Denoiser(Nothing(), Cosine(), "x0")), [given], codec=codec)
    torch.testing.assert_close(plain, codec.decode(codec.encode(enlarge(given, 2)).mean), atol=1e-6, rtol=0)
    assert not torch.equal(made, plain)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="context is 5; windows of 5 frames"):
        run(drawing(5), [clip(3)], context=5)
    with pytest.raises(ValueError, match=r"level is 1\.5; give 0"):
        run(drawing(5), [clip(3)], level=1.5)


# The pipeline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    save(runs / "base", enlarging(factor=0, patch=2))
    save(runs / "sr", enlarging(patch=2))
    return runs


@pytest.fixture(scope="module")
def pipe(runs: Path) -> Pipeline:
    return Pipeline.from_pretrained(runs / "sr", "cpu")


def test_the_same_seed_gives_the_same_bytes_and_each_option_counts(pipe: Pipeline) -> None:
    given = clip(7, 8)
    first = pipe.upscale(given, seed=3)
    assert first.shape == (2, 3, 7, 16, 16) and first.abs().max() <= 1
    torch.manual_seed(9)
    assert torch.equal(first, pipe.upscale(given, seed=3))
    assert torch.equal(first, pipe.upscale(given, seed=3, level=0.1, steps=2, sampler="ddim", context=2))
    streamed = torch.cat(list(pipe.upscale_stream(given.split(3, dim=2), count=2, seed=3)), dim=2)
    assert torch.equal(first, streamed)
    for change in ({"seed": 4}, {"steps": 3}, {"level": 0.0}, {"level": 0.3}, {"context": 1}, {"sampler": "heun"}):
        assert not torch.equal(first, pipe.upscale(given, **{"seed": 3, **change})), change
    assert pipe.upscale(given[0], seed=3).shape == (1, 3, 7, 16, 16)
    assert (pipe.settings(level=0.2)["level"], pipe.settings()["level"]) == (0.2, 0.1)


def test_a_cascade_may_have_any_number_of_stages(pipe: Pipeline, tmp_path: Path) -> None:
    larger = Pipeline.from_pretrained(save(tmp_path / "larger", enlarging(32, patch=2)), "cpu")
    given = clip(6, 8)
    stream = larger.upscale_stream(pipe.upscale_stream([given], count=2, seed=1), count=2, seed=1)
    made = torch.cat(list(stream), dim=2)
    assert made.shape == (2, 3, 6, 32, 32)
    assert torch.equal(made, larger.upscale(pipe.upscale(given, seed=1), seed=1))


def test_the_scale_of_the_detail_comes_with_the_run(pipe: Pipeline) -> None:
    assert torch.equal(pipe.detail, DETAIL) and pipe.facts.enlarges == 2 and pipe.facts.small == 8
    given, whole = clip(4, 8), pipe.detail
    bicubic = enlarge(given, 2)
    try:
        pipe.detail = torch.zeros(3)
        assert torch.equal(pipe.upscale(given), bicubic), "detail of no size leaves the bicubic clip"
    finally:
        pipe.detail = whole
    assert not torch.equal(pipe.upscale(given), bicubic)


def test_other_tasks_are_refused_with_what_to_do(pipe: Pipeline) -> None:
    large = clip(3, 16)
    tasks = [
        lambda: pipe.generate(),
        lambda: pipe.extend(large, 6),
        lambda: pipe.edit(large, 0.5),
        lambda: pipe.double(large),
        lambda: pipe.inpaint(large, torch.ones(1, 1, 1, 16, 16, dtype=torch.bool)),
        lambda: pipe.interpolate(large, large, 1),
    ]
    for task in tasks:
        with pytest.raises(ValueError, match=r"this run enlarges clips of 8 px to 16 px .* use `upscale`"):
            task()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": clip(3, 16)}, r"clip is \(2, 3, 3, 16, 16\); expected \(b, 3, f, 8, 8\)"),
        ({"level": 0.5}, r"level is 0\.5; give 0 to 0\.3"),
        ({"level": -0.1}, r"level is -0\.1"),
        ({"context": 4}, "context is 4; give 1 to 3"),
        ({"label": "cat"}, "trained without labels"),
    ],
)
def test_what_cannot_be_enlarged_is_named(pipe: Pipeline, options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pipe.upscale(**{"clip": clip(3, 8), **options})


def test_a_run_that_makes_clips_enlarges_none(runs: Path) -> None:
    with pytest.raises(ValueError, match=r"this run makes clips and enlarges none: .* lowres\.factor"):
        Pipeline.from_pretrained(runs / "base", "cpu").upscale(clip(3, 8))


def test_the_latest_run_is_one_of_its_kind(runs: Path, tmp_path: Path) -> None:
    assert latest_run(runs) == runs / "base" and latest_run(runs, enlarges=True) == runs / "sr"
    with pytest.raises(ValueError, match=r"no trained run that enlarges clips in .*vidiff train shapes_sr"):
        latest_run(tmp_path, enlarges=True)
