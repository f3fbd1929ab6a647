"""Videos without end: every strategy goes on from where it is, forgets what it need not know, and says what it cannot.

What a model makes of its neighbours is here a line, or a Gaussian, so that what a strategy must draw is known exactly.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser, Estimate
from vidiff.diffusion.exact import ExactNetwork, Mixture
from vidiff.diffusion.grid import Grid, time_grid
from vidiff.diffusion.process import expand_time
from vidiff.diffusion.schedule import Cosine
from vidiff.draw.guide import Guide
from vidiff.draw.long import STRATEGIES, Clean, Keyframes, Noisy, Reconstruct, Replace, Rolling
from vidiff.draw.strategy import Strategy
from vidiff.draw.window import Backwards, Draw
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.sample import build_sampler, start

STEP = 0.01
STRIDE = Condition(stride=torch.tensor([2, 2]))  # the least that the model was trained on


class Line:
    """Estimates whole frames on straight lines between known ones, and beyond those in steps of `STEP` a frame.

    It goes by what it is told: which frames are known by the clock, how far they are apart by the stride. `seen` holds
    both for each call.
    """

    schedule = Cosine()

    def __init__(self, level: float = 0.0) -> None:
        self.level = level
        self.seen: list[tuple[list[int], int]] = []

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        clock = expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])[0, 0, :, 0, 0]
        known = (clock == self.level).nonzero().flatten().tolist()
        stride = 1 if condition.stride is None else int(condition.stride[0]) // 2
        self.seen.append((known, stride))
        frames = []
        for i in range(x.shape[2]):
            before, after = [k for k in known if k <= i], [k for k in known if k >= i]
            if before and after:
                left, right = before[-1], after[0]
                frames.append(torch.lerp(x[:, :, left], x[:, :, right], (i - left) / max(right - left, 1)))
            else:
                near = before[-1] if before else after[0] if after else 0
                begin = x[:, :, near] if known else torch.zeros_like(x[:, :, 0])
                frames.append(begin + STEP * stride * (i - near))
        return Estimate(torch.stack(frames, dim=2))


class Linear(torch.nn.Module):
    """A network with a memory of its neighbours, its clock and its stride, to tell seeds and strategies apart."""

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        stride = 0.0 if condition.stride is None else condition.stride.view(-1, 1, 1, 1, 1).to(x)
        return 0.3 * x + 0.1 * x.mean(2, keepdim=True) + 0.05 * stride + 0.01 * log_snr


class Together:
    """The exact denoiser of two frames, one number each, that are Gaussian with a correlation; any clock."""

    schedule = Cosine()

    def __init__(self, correlation: float) -> None:
        self.covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)

    def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
        clock = expand_time(t, x).expand(len(x), 1, 2, 1, 1)[0].flatten()
        alpha, sigma = (part.diag() for part in self.schedule(clock.double()))
        gain = self.covariance @ alpha @ torch.linalg.inv(alpha @ self.covariance @ alpha + sigma**2)
        return Estimate(torch.einsum("ij,bcjhw->bcihw", gain.to(x), x))


@functools.cache
def looking_back() -> UNet:
    """A causal network, of which every part matters."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(3, 4, [1], [1], [], [], [0], 4, causal=True)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


def model(name: str) -> Denoiser:
    """A model that a strategy is for."""
    return Denoiser(looking_back() if STRATEGIES[name].causal else Linear(), Cosine(), "v")


def drawing(window: int, denoiser=None, seed: int = 0, sampler: str = "ddim", steps: int = 3) -> Draw:
    denoiser = denoiser or Denoiser(Linear(), Cosine(), "v")
    generator = torch.Generator().manual_seed(seed)
    return Draw(denoiser, build_sampler(sampler), steps + 1, 1.0, window, generator, grid=Grid(kind="log_snr"))


def along(frames: int, start: float = 0.0) -> Tensor:
    return STEP * (start + torch.arange(float(frames))).view(1, 1, -1, 1, 1).expand(2, 3, frames, 4, 4)


def made(strategy: Strategy, draw: Draw, past: Tensor, frames: int, context: int, condition=STRIDE) -> Tensor:
    return torch.cat(list(strategy(draw, past, frames, context, condition)), dim=2)


@pytest.mark.parametrize("frames", [1, 8, 21])
@pytest.mark.parametrize("given", [0, 1, 12])
@pytest.mark.parametrize("strategy", [Clean(), Keyframes(2), Keyframes(3), Rolling(), Rolling(2)])
def test_the_line_goes_on_over_every_seam(strategy: Strategy, given: int, frames: int) -> None:
    """So no frame is lost, doubled, out of order or taken from elsewhere, and key frames are told their stride."""
    past = along(given)
    parts = list(strategy(drawing(8, Line()), past, frames, 3, STRIDE))
    assert all(1 <= part.shape[2] <= 8 for part in parts)
    torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(given + frames))


@pytest.mark.parametrize("strategy", [Clean(), Noisy(), Keyframes(2)])
def test_the_line_goes_on_backwards(strategy: Strategy) -> None:
    draw = Backwards(**vars(drawing(8, Line(level=getattr(strategy, "level", 0.0)))))
    past = along(12).flip(2)
    parts = list(strategy(draw, past, 9, 3, STRIDE))
    if isinstance(strategy, Noisy):
        assert torch.cat(parts, dim=2).shape[2] == 9
    else:
        torch.testing.assert_close(torch.cat([past, *parts], dim=2), along(21, -9).flip(2))


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_seed_decides_and_pieces_do_not_depend_on_the_length(name: str) -> None:
    strategy, past = STRATEGIES[name](), torch.randn(2, 3, 5, 4, 4)
    first = made(strategy, drawing(6, model(name), seed=1), past, 13, 2)
    torch.manual_seed(99)
    assert torch.equal(first, made(strategy, drawing(6, model(name), seed=1), past, 13, 2))
    assert torch.equal(first[:, :, :7], made(strategy, drawing(6, model(name), seed=1), past, 7, 2))
    assert not torch.isclose(first, made(strategy, drawing(6, model(name), seed=2), past, 13, 2)).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_only_what_is_within_reach_is_looked_at(name: str) -> None:
    strategy, past = STRATEGIES[name](), torch.randn(2, 3, 20, 4, 4)
    reach, other = strategy.reach(3), past.clone()
    other[:, :, : 20 - reach] = 77.0
    wanted = made(strategy, drawing(6, model(name)), past, 9, 3)
    assert torch.equal(made(strategy, drawing(6, model(name)), other, 9, 3), wanted)
    assert torch.equal(made(strategy, drawing(6, model(name)), past[:, :, 20 - reach :], 9, 3), wanted)
    other[:, :, 20 - reach] = 77.0
    assert not torch.equal(made(strategy, drawing(6, model(name)), other, 9, 3), wanted)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_more_is_held_however_long_the_video_is(name: str) -> None:
    """Bytes of all tensors that are alive whenever a piece has come."""

    def held() -> int:
        tensors = [x.untyped_storage() for x in gc.get_objects() if type(x) is Tensor]
        return sum({x.data_ptr(): x.nbytes() for x in tensors}.values())

    strategy = STRATEGIES[name]()
    pieces = strategy(
        drawing(6, model(name), steps=1), torch.randn(1, 3, 30, 8, 8), 10**6, 3, Condition(stride=torch.tensor([1]))
    )
    count, most = 0, {36: 0, 96: 0}  # bytes, at most, within 12 frames
    while count < 108:
        piece = next(pieces)
        count += piece.shape[2]
        for begin in most:
            if begin < count <= begin + 12:
                most[begin] = max(most[begin], held() - piece.untyped_storage().nbytes())
        del piece
    assert 0 < most[96] <= most[36]


def test_context_that_leaves_no_room_is_refused_by_all() -> None:
    for name, make in STRATEGIES.items():
        with pytest.raises(ValueError, match="context is 6; windows of 6 frames then have no room"):
            made(make(), drawing(6, model(name)), along(3), 9, 6)


# Noised context


def test_a_level_of_0_is_clean_bit_for_bit() -> None:
    past = torch.randn(2, 3, 4, 4, 4)
    wanted = made(Clean(), drawing(6), past, 15, 3)
    assert torch.equal(made(Noisy(0.0), drawing(6), past, 15, 3), wanted)
    assert not torch.isclose(made(Noisy(0.1), drawing(6), past, 15, 3), wanted).any()


def test_context_is_shown_at_its_level_with_that_much_noise() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            seen.append((x, expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])))
            return super().__call__(x, t, condition)

    past = torch.randn(2, 3, 3, 64, 64)
    made(Noisy(0.2), drawing(6, Spy()), past, 3, 3)
    alpha, sigma = Cosine()(torch.tensor(0.2))
    for x, clock in seen:
        assert (clock[:, :, :3] == 0.2).all() and not (clock[:, :, 3:] == 0.2).any()
        assert float((x[:, :, :3] - alpha * past).std() / sigma) == pytest.approx(1.0, abs=0.02)
    assert all(torch.equal(x[:, :, :3], seen[0][0][:, :, :3]) for x, _ in seen), "one noise a window"


# A model that never saw a part known: the frame given is 1.5 and the correlation 0.9, so the next has a mean of 1.35


def next_of(strategy: Strategy, sampler: str = "ddpm", steps: int = 16) -> Tensor:
    past = torch.full((2000, 1, 1, 1, 1), 1.5)
    return made(strategy, drawing(2, Together(0.9), sampler=sampler, steps=steps), past, 1, 1, Condition()).flatten()


def test_a_clock_of_its_own_draws_from_the_conditional() -> None:
    found = next_of(Clean(), "dpmpp_2m")
    assert found.mean().item() == pytest.approx(1.35, abs=0.02)
    assert found.std().item() == pytest.approx(0.19**0.5, abs=0.02)


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "unipc"])
def test_replacement_comes_to_the_conditional_by_resampling(sampler: str) -> None:
    """Alone it is far off, since early steps do not see what is given: each number of turns is nearer than the last."""
    error = [abs(next_of(Replace(count), sampler).mean().item() - 1.35) for count in (1, 4, 20)]
    assert error[0] > 0.4 and error[1] < 0.6 * error[0] and error[2] < 0.06


def test_reconstruction_guidance_comes_nearer_than_replacement() -> None:
    plain, none, guided = (next_of(s, "ddim").mean().item() for s in (Replace(1), Reconstruct(0.0), Reconstruct(3.0)))
    assert none == plain
    assert 1.35 - plain > 0.4 and abs(guided - 1.35) < 0.5 * (1.35 - plain)


def test_models_that_never_saw_the_past_clean_are_not_guided_on_it() -> None:
    past = torch.randn(2, 3, 3, 4, 4)
    for strategy in (Replace(2), Reconstruct(1.0)):
        wanted = made(strategy, drawing(6), past, 5, 3)
        assert not strategy.guides
        assert torch.equal(made(strategy, replace(drawing(6), history=3.0), past, 5, 3), wanted)
    for strategy in (Clean(), Noisy(), Keyframes(2), Rolling()):
        wanted = made(strategy, drawing(6), past, 5, 3)
        assert strategy.guides
        assert not torch.isclose(made(strategy, replace(drawing(6), history=3.0), past, 5, 3), wanted).all()


# Key frames


def test_key_frames_come_first_and_every_other_frame_knows_both_ends() -> None:
    line = Line()
    made(Keyframes(3), drawing(10, line), along(8), 24, 4)
    drawn = list(dict.fromkeys((tuple(known), stride) for known, stride in line.seen))
    assert drawn == [
        ((0, 1, 2), 3),  # three of eight frames are three apart
        ((0, 1, 2, 3, 6, 9), 1),  # four frames of context, and two keys
        ((0, 1, 2, 3, 6), 1),  # the seventh key alone
        ((0, 1, 2, 3), 3),  # by now there are as many keys as context asks for
    ]


def test_key_frames_are_returned_as_they_were_drawn() -> None:
    keys: list[Tensor] = []

    class Spy(Draw):
        def __call__(self, frames: Tensor, known: Tensor | None, condition: Condition, strength: float = 1.0) -> Tensor:
            window = super().__call__(frames, known, condition, strength)
            assert condition.stride is not None
            if int(condition.stride[0]) == 8:
                keys.append(window[:, :, int(known.sum()) :])  # type: ignore[union-attr]
            return window

    found = made(Keyframes(4), Spy(**vars(drawing(6))), torch.randn(2, 3, 9, 4, 4), 28, 2)
    assert torch.equal(found[:, :, 3::4], torch.cat(keys, dim=2)[:, :, :7])


@pytest.mark.parametrize("backwards", [False, True])
def test_key_frames_are_told_what_led_to_those_between(backwards: bool) -> None:
    """Into the past too it is what was done before each; nothing is known of what was before the first."""
    told: list[Tensor] = []

    class Told(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            assert condition.action is not None
            told.append(condition.action[0, ..., 0])
            return super().__call__(x, t, condition)

    action = torch.arange(1.0, 14).view(1, 13, 1, 1).expand(2, -1, -1, -1)  # of the first frame 1, and so on
    draw = drawing(6, Told())
    draw = Backwards(**vars(draw)) if backwards else draw
    condition = replace(STRIDE, action=action.flip(1) if backwards else action)
    made(Keyframes(2), draw, along(5), 8, 2, condition)
    keys = torch.arange(1.0, 12, 2) if backwards else torch.arange(3.0, 14, 2)
    assert torch.equal(told[0], torch.stack([keys, keys - 1], dim=1))


def test_key_frames_need_a_model_of_strides() -> None:
    none, told = Condition(), Condition(stride=torch.tensor([2, 2]))
    for condition, draw, said in (
        (none, drawing(6), r"knows of one stride alone: train it with data.stride=\[1,4\], or choose another"),
        (told, replace(drawing(6), longest=6), "stride is 4, which is 8 source frames, .* trained up to 6: give less"),
        (told, replace(drawing(4), longest=8), "stride is 4; a window of 4 frames must hold more than that"),
    ):
        with pytest.raises(ValueError, match=said):
            made(Keyframes(4), draw, along(3), 9, 2, condition)
    assert made(Keyframes(4), replace(drawing(6), longest=8), along(3), 9, 2, told).shape[2] == 9


# A rolling window


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize(("window", "context", "steps"), [(6, 2, 7), (5, 3, 4), (4, 3, 3)])
def test_independent_frames_are_drawn_as_if_each_were_alone(
    sampler: str, window: int, context: int, steps: int
) -> None:
    """Each goes along the whole grid, from its own noise, with its own history of steps."""
    data = Mixture(torch.tensor([-0.7, 0.4]).view(2, 1, 1, 1, 1).expand(2, 3, 1, 4, 4), torch.tensor([0.3, 0.5]))

    class Apart(torch.nn.Module):
        """Every frame as a sample of its own."""

        def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
            batch, exact = len(x), ExactNetwork(data, Cosine(), "v")
            x, log_snr = (part.transpose(1, 2).flatten(0, 1)[:, :, None] for part in (x, log_snr))  # (b f) c 1 h w
            return exact(x, log_snr, Condition())[:, :, 0].unflatten(0, (batch, -1)).transpose(1, 2)

    draw = drawing(window, Denoiser(Apart(), Cosine(), "v"), sampler=sampler, steps=steps)
    found = made(Rolling(), draw, torch.randn(2, 3, context, 4, 4), 9, context)

    moving, generator = window - context, torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 3, moving, 4, 4, generator=generator)]
    noise += [torch.randn(2, 3, 1, 4, 4, generator=generator) for _ in range(9 - moving)]
    alone = torch.cat(noise, dim=2)
    times = time_grid(Cosine(), moving * -(-(steps + 1) // moving) - 1)
    assert steps <= len(times) - 1 < steps + moving
    wanted = [draw.sampler(draw.denoiser, start(Cosine(), x, times), Condition(), times) for x in alone.split(1, 2)]
    torch.testing.assert_close(found, torch.cat(wanted, dim=2), atol=2e-5, rtol=0)


def test_clocks_rise_along_a_rolling_window_and_each_frame_goes_through_all_of_them() -> None:
    clocks: list[Tensor] = []

    class Spy(Line):
        def __call__(self, x: Tensor, t: float | Tensor, condition: Condition) -> Estimate:
            clocks.append(expand_time(t, x).expand(x.shape[0], 1, *x.shape[2:])[0, 0, :, 0, 0])
            return super().__call__(x, t, condition)

    made(Rolling(), drawing(6, Spy(), steps=7), along(4), 5, 2)
    times = time_grid(Cosine(), 7)  # 4 frames on their way, 2 steps apart
    assert len(clocks) == 8 + 4 * 2  # warm-up to the first, then two evaluations for each
    assert all((clock[:2] == 0).all() and (clock[2:].diff() >= 0).all() for clock in clocks)
    rolled = [clock[2:] for clock in clocks[7::2]]
    assert all(torch.equal(clock, times[[7, 5, 3, 1]]) for clock in rolled), "each time that a frame has come"
    fifth = [*(clock[5] for clock in clocks[8:10]), *(clock[4] for clock in clocks[10:12]), clocks[12][3]]
    assert torch.equal(torch.stack(fifth), times[[0, 1, 2, 3, 4]])


@pytest.mark.parametrize("given", [1, 2])
def test_a_short_past_grows_until_it_is_the_context(given: int) -> None:
    line = Line()
    made(Rolling(), drawing(6, line, steps=3), along(given), 6, 3)
    assert sorted({len(known) for known, _ in line.seen}) == [*range(given, 4)]


def test_what_a_rolling_window_cannot_do_is_said() -> None:
    for strategy, draw, said in (
        (Rolling(), Backwards(**vars(drawing(6))), "goes forwards in time alone"),
        (Rolling(), replace(drawing(6), lag=2), "lag is 2, but a rolling window is one lag without end: set lag=0"),
        (Rolling(6), drawing(6), "moving is 6; give less than 6"),
        (
            Rolling(),
            replace(drawing(6), guide=Guide(apg={"momentum": -0.5})),
            "momentum of apg is -0.5, but a rolling",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            made(strategy, draw, along(3), 9, 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noisy(-0.1), "level is -0.1; give 0"),
        (lambda: Noisy(1.0), "level is 1.0; give 0"),
        (lambda: Noisy(float("nan")), "level is nan"),
        (lambda: Replace(0), "resample is 0; give 1"),
        (lambda: Replace(1.5), "resample is 1.5; give 1"),  # type: ignore[arg-type]
        (lambda: Reconstruct(-1.0), "weight is -1.0; give 0"),
        (lambda: Keyframes(1), "stride is 1; give 2 or more"),
        (lambda: Rolling(0), "moving is 0; give 1 or more"),
    ],
)
def test_an_option_out_of_range_is_named(make: Callable[[], Strategy], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
