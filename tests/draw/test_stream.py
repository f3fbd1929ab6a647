"""Streams: frame by frame, with what the network made of finished frames kept, is the whole window without a cache."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from vidiff.diffusion import known
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.denoise import Denoiser
from vidiff.diffusion.grid import Grid
from vidiff.diffusion.known import Known
from vidiff.diffusion.schedule import Cosine
from vidiff.draw import stream
from vidiff.draw.guide import Guide
from vidiff.draw.long import Clean
from vidiff.draw.stream import Recall, Stream
from vidiff.draw.window import Backwards, Draw
from vidiff.nn.cache import Cache
from vidiff.nn.classifier import Classifier, ClassifierConfig
from vidiff.nn.unet import UNet, UNetConfig
from vidiff.sample import SAMPLERS, build_sampler

SHAPE = UNetConfig(
    channels=2,
    width=8,
    multipliers=[1, 2],
    blocks=[1, 1],
    spatial_attention=[0],
    temporal_attention=[0],
    joint_attention=[1],
    head_dim=4,
    labels=3,
    text_dim=6,
    words=5,
    causal=True,
)
ASKED = Condition(torch.tensor([0, 2]), torch.tensor([[1, 2], [3, 4]]))
OTHER = Condition(torch.tensor([1, 1]), torch.tensor([[4, 4], [0, 2]]))
OPTIONS: dict[str, dict[str, float]] = {"rk45": {"tolerance": 0.3}, "langevin": {"iterations": 2}}
PAST = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(3))


@functools.cache
def network() -> UNet:
    """One in which every part matters: what starts at zero is drawn, too."""
    torch.manual_seed(0)
    made = UNet(SHAPE).eval().requires_grad_(False)
    for parameter in made.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    return made


def drawing(sampler: str = "ddim", window: int = 8, steps: int = 4, seed: int = 0, **options: object) -> Draw:
    draw = Draw(
        Denoiser(network(), Cosine(), "v"),
        build_sampler(sampler, **OPTIONS.get(sampler, {})),
        steps,
        1.0,
        window,
        torch.Generator().manual_seed(seed),
        grid=Grid(kind="log_snr", ends=(-4.0, 4.0)),
    )
    return replace(draw, **options)  # type: ignore[arg-type]


def drawn(
    strategy: Stream, draw: Draw, frames: int = 5, context: int = 4, past: Tensor = PAST, condition: Condition = ASKED
) -> Tensor:
    return torch.cat(list(strategy(draw, past, frames, context, condition)), dim=2)


class Whole(Recall):
    """The same without a cache: at each call the network looks at all frames from the first on, at their clocks."""

    def __init__(self, network: nn.Module, cache: Cache) -> None:
        super().__init__(network, cache)
        self.window = cache.window
        self.finished = list[tuple[Tensor, Tensor]]()  # what was shown, and its clock, of each window
        self.shown: tuple[Tensor, Tensor] | None = None

    def begin(self, given: int) -> None:
        if self.shown is not None:
            self.finished.append(self.shown)
        self.given, self.shown = given, None

    def forget(self) -> None:
        self.finished, self.shown = [], None

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition) -> Tensor:
        if self.given and (self.shown is None or len(self.shown[0]) < len(x)):
            self.shown = x[:, :, : self.given], log_snr[:, :, : self.given]
        parts = [(a[: len(x)], b[: len(x)]) for a, b in self.finished] + [(x, log_snr)]
        video, clock = (torch.cat(part, dim=2) for part in zip(*parts, strict=True))
        return self.network(video, clock, condition, Cache(self.window))[:, :, -x.shape[2] :]


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """To be called where, from there on, streams are to be drawn without a cache."""
    return lambda: monkeypatch.setattr(stream, "Recall", Whole)


def both(whole: Callable[[], object], draw: Callable[[], Tensor]) -> Tensor:
    """Draw with the cache and without, and compare."""
    with_cache = draw()
    whole()
    without = draw()
    assert without.isfinite().all() and without.std() > 0.1
    torch.testing.assert_close(with_cache, without, atol=1e-5, rtol=0)
    return with_cache


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_stream_is_the_whole_window_with_every_sampler(whole: Callable[[], object], sampler: str) -> None:
    """With guidance on label, text and history at once, and a window that is shorter than the video."""
    both(whole, lambda: drawn(Stream(), drawing(sampler, steps=2 + (sampler != "rk45"), guidance=1.5, history=2.0)))


@pytest.mark.parametrize("past", [0, 1, 3])
@pytest.mark.parametrize(("chunk", "context"), [(1, 1), (1, 7), (2, 3), (3, 5), (5, 2)])
def test_a_stream_is_the_whole_window_whatever_its_pieces(
    whole: Callable[[], object], chunk: int, context: int, past: int
) -> None:
    found = both(whole, lambda: drawn(Stream(chunk), drawing(history=2.0, guidance=1.5), 7, context, PAST[:, :, :past]))
    assert found.shape[2] == 7


GUIDES = {
    "nothing": {},
    "label": {"guidance": 2.0},
    "history": {"history": 2.0},
    "each by its own scale": {"guidance": 2.0, "history": 1.4, "guide": Guide(separate=True, text_guidance=1.7)},
    "the null branch alone": {"guidance": 0.0},
    "history that is noised": {"history": 2.0, "guide": Guide(history_level=0.4)},
    "in an interval, of some steps": {"history": 2.0, "guide": Guide(interval=[0.2, 0.8])},
    "rescaled, projected and thresholded": {
        "history": 2.0,
        "guide": Guide(rescale=0.7, apg={"eta": 0.5, "momentum": -0.3}, threshold={"floor": 0.5, "percentile": 90}),
    },
    "with a lag": {"history": 2.0, "lag": 1},
}


@pytest.mark.parametrize("how", GUIDES)
def test_each_branch_of_guidance_reads_a_record_of_its_own(whole: Callable[[], object], how: str) -> None:
    found = both(whole, lambda: drawn(Stream(2), drawing(**GUIDES[how]), 6))
    if how != "nothing":
        assert not torch.isclose(found, drawn(Stream(2), drawing(), 6), atol=1e-3).all()


def test_a_classifier_guides_a_stream_as_it_guides_windows(whole: Callable[[], object]) -> None:
    torch.manual_seed(1)
    judge = Classifier(ClassifierConfig(2, 3, 8, [1], [1], [0], 4)).eval()
    for parameter in judge.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    guided = both(whole, lambda: drawn(Stream(2), drawing(guidance=1.5, classifier=judge, classifier_scale=3.0), 4))
    assert not torch.isclose(guided, drawn(Stream(2), drawing(guidance=1.5), 4), atol=1e-3).all()


def test_half_precision_keeps_a_stream_near_what_it_is() -> None:
    half = drawn(Stream(2), drawing(history=2.0, dtype=torch.bfloat16), 6)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, drawn(Stream(2), drawing(history=2.0), 6), atol=0.1, rtol=0)


def test_finished_frames_are_kept_at_the_clock_at_which_they_are_shown(whole: Callable[[], object]) -> None:
    noisy = both(whole, lambda: drawn(Stream(1, level=0.2), drawing(history=2.0), 6))
    assert not torch.isclose(noisy, drawn(Stream(1), drawing(history=2.0), 6), atol=1e-3).all()


def test_a_stream_is_what_windows_draw_that_know_all_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """So `Known` and the sampler are told what they are told of a window, and the network has the whole of it."""
    noises = torch.randn(20, 2, 2, 2, 4, 4, generator=torch.Generator().manual_seed(5))

    def new_noise() -> Callable[..., Tensor]:
        """Of the two last frames, the same in each window's turn; known frames need none."""
        turns = iter(noises)

        def draw_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
            return torch.cat([torch.zeros_like(like[:, :, :-2]), next(turns)], dim=2)

        return draw_noise

    modules = [f"vidiff.{name}.draw_noise" for name in ("draw.window", "sample.ancestral", "diffusion.known")]
    noise = new_noise()
    for name in modules:
        monkeypatch.setattr(name, noise)
    found = drawn(Stream(2), drawing("ddpm", window=16), 8, context=14)

    noise, whole = new_noise(), PAST
    for name in modules:
        monkeypatch.setattr(name, noise)
    for _ in range(4):
        frames = torch.cat([whole, torch.zeros(2, 2, 2, 4, 4)], dim=2)
        whole = drawing("ddpm")(frames, known.first_frames(frames.shape[2], whole.shape[2]), ASKED)
    torch.testing.assert_close(found, whole[:, :, 3:], atol=1e-5, rtol=0)


# What a frame costs


class Counting(nn.Module):
    """A network that counts the frames of clips that it looks at, call by call."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.calls = list[tuple[int, int]]()

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition, cache: Cache | None = None) -> Tensor:
        self.calls.append((len(x), x.shape[2]))
        return network()(x, log_snr, condition, cache)


@pytest.mark.parametrize("chunk", [1, 3])
def test_each_finished_frame_is_looked_at_once_however_many_steps_there_are(chunk: int) -> None:
    counting = Counting()
    draw = replace(drawing(steps=4, history=2.0), denoiser=Denoiser(counting, Cosine(), "v"))
    drawn(Stream(chunk), draw, 2 * chunk)
    assert counting.calls == [(4, 3 + chunk), *[(4, chunk)] * 3, (4, 2 * chunk), *[(4, chunk)] * 3]


def test_a_stream_holds_as_much_at_frame_50_as_at_frame_2000() -> None:
    def held() -> int:
        """Bytes of all tensors that are alive."""
        tensors = [x.untyped_storage() for x in gc.get_objects() if type(x) is Tensor]
        return sum({x.data_ptr(): x.nbytes() for x in tensors}.values())

    small = UNet(UNetConfig(2, 4, [1], [1], [], [], [0], 4, labels=3, causal=True)).requires_grad_(False)
    draw = replace(drawing(window=40, steps=1, guidance=1.5), denoiser=Denoiser(small, Cosine(), "v"))
    pieces = Stream(25, sinks=2)(draw, torch.randn(1, 2, 10, 2, 2), 10**6, 8, Condition(torch.tensor([1])))
    count, sizes = 0, dict[int, int]()
    while count < 2000:
        count += next(pieces).shape[2]
        if count in (50, 2000):
            gc.collect()
            sizes[count] = held()
    assert sizes[2000] == sizes[50] > 0


# What is asked for may change


def test_another_condition_looks_anew_at_what_is_looked_back_on() -> None:
    """From there on it is a stream that begins with those frames, and with the noise that has been drawn so far."""
    asked, parts, draw = [ASKED], [], drawing(history=2.0)
    pieces = Stream(2).run(draw, PAST, 12, 4, lambda: asked[-1])
    for part in pieces:
        parts.append(part)
        if len(parts) == 3:
            asked.append(OTHER)
            generator = torch.Generator()
            generator.set_state(draw.generator.get_state())
    found = torch.cat(parts, dim=2)
    plain = drawn(Stream(2), drawing(history=2.0), 12)
    assert torch.equal(found[:, :, :6], plain[:, :, :6])
    begun = replace(drawing(history=2.0), generator=generator)
    wanted = drawn(Stream(2), begun, 6, past=found[:, :, 2:6], condition=OTHER)
    assert torch.equal(found[:, :, 6:], wanted)
    assert not torch.isclose(found[:, :, 6:], plain[:, :, 6:], atol=1e-3).all()


def test_what_there_was_no_branch_for_may_be_asked_for() -> None:
    """Guidance on a text begins where a text is first asked for."""
    asked = [Condition(torch.tensor([0, 2])), ASKED, Condition()]
    counting = Counting()
    draw = replace(drawing(guidance=2.0, steps=1), denoiser=Denoiser(counting, Cosine(), "v"))
    draw = replace(draw, guide=Guide(text_guidance=3.0))
    pieces = Stream(1).run(draw, PAST, 9, 4, lambda: asked[0])
    for count in (2, 2, 2):
        for _ in range(count):
            assert next(pieces).isfinite().all()
        asked.pop(0) if len(asked) > 1 else None
    assert counting.calls == [
        *[(4, 4), (4, 2)],  # the label and none
        *[(6, 5), (6, 2)],  # both, one, none
        *[(2, 5), (2, 2)],
    ]


class Numbered(nn.Module):
    """A network that keeps a note of which frames it is shown: their low resolution holds their numbers."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[tuple[list[float], list[float]]]()

    def forward(self, x: Tensor, log_snr: Tensor, condition: Condition, cache: Cache | None = None) -> Tensor:
        assert condition.lowres is not None
        self.seen.append((x[0, 0, :, 0, 0].tolist(), condition.lowres[0, 0, :, 0, 0].tolist()))
        return torch.zeros_like(x)


@pytest.mark.parametrize("sinks", [0, 2])
def test_frames_are_told_what_is_theirs_and_the_first_are_kept(sinks: int) -> None:
    numbers = torch.arange(20.0).view(1, 1, -1, 1, 1).expand(1, 1, 20, 2, 2)
    asked = [Condition(lowres=numbers)]
    noted = Numbered()
    draw = replace(drawing(steps=1), denoiser=Denoiser(noted, Cosine(), "x0"))
    pieces = Stream(2, sinks=sinks).run(draw, 100 + numbers[:, :, :5], 12, 3, lambda: asked[-1])
    for _ in range(3):
        next(pieces)
    asked.append(Condition(label=torch.tensor([1]), lowres=numbers))
    next(pieces)
    begun = [2.0, 3.0, 4.0] if not sinks else [0.0, 1.0, 2.0, 3.0, 4.0]
    old = [begun, [5.0, 6.0], [7.0, 8.0], [*begun[:sinks], 8.0, 9.0, 10.0]]
    new = [[n, n + 1.0] for n in (5.0, 7.0, 9.0, 11.0)]
    pairs = list(zip(old, new, strict=True))  # at once, but for sinks, before which frames come by themselves
    wanted = [told for pair in pairs for told in pair] if sinks else [one + other for one, other in pairs]
    assert [told for _, told in noted.seen] == wanted
    first, last = noted.seen[0][0], noted.seen[6 if sinks else 3][0]
    assert first[: len(begun)] == [100 + n for n in begun]
    assert last[: sinks + 3] == [*(100 + n for n in begun[:sinks]), 0.0, 0.0, 0.0], "given frames, and drawn ones"
    asked.append(Condition(label=asked[-1].label, lowres=numbers.clone()))
    next(pieces)
    seen = noted.seen[8 if sinks else 4][1]
    assert seen[:2] == [11.0, 12.0], "the same once more is no change"


def test_what_is_asked_of_frames_to_come_changes_nothing_of_those_that_were() -> None:
    """Their low resolution is known later than they are drawn: nothing is looked at anew, and each is told its own."""
    numbers = torch.arange(20.0).view(1, 1, -1, 1, 1).expand(1, 1, 20, 2, 2)
    noted = Numbered()
    draw = replace(drawing(steps=1), denoiser=Denoiser(noted, Cosine(), "x0"))
    going = Stream(1).begin(draw, 100 + numbers[:, :, :3], 3)
    for number in range(3, 8):
        going.next(Condition(lowres=numbers[:, :, : number + 1]).at)
    wanted = [[0.0, 1.0, 2.0, 3.0], [3.0, 4.0], [4.0, 5.0], [5.0, 6.0], [6.0, 7.0]]
    assert [told for _, told in noted.seen] == wanted


# Mistakes


def test_what_is_no_stream_is_refused() -> None:
    ahead = UNet(replace(SHAPE, causal=False))
    asked: list[tuple[Callable[[], Iterator[Tensor]], str]] = [
        (
            lambda: Stream()(replace(drawing(), denoiser=Denoiser(ahead, Cosine(), "v")), PAST, 4, 3, ASKED),
            r"strategy is stream, for networks that look back alone, .* unet\.causal=true, as `vidiff train shapes_cau",
        ),
        (lambda: Stream()(Backwards(**vars(drawing())), PAST, 4, 3, ASKED), "goes forwards in time alone"),
        (lambda: Stream(3)(drawing(), PAST, 4, 6, ASKED), "chunk is 3, context 6 and sinks 0, .* sees 8 frames"),
        (lambda: Stream(1, sinks=3)(drawing(), PAST, 4, 5, ASKED), "sinks 3, .* give fewer of one of them"),
    ]
    for draw, said in asked:
        with pytest.raises(ValueError, match=said):
            next(draw())
    for options, said in (
        ({"chunk": 0}, "chunk is 0; give 1 or more frames"),
        ({"sinks": -1}, "sinks is -1; give 0, or the first frames"),
        ({"level": 1.0}, "level is 1.0; give 0"),
    ):
        with pytest.raises(ValueError, match=said):
            Stream(**options)  # type: ignore[arg-type]


def test_a_causal_network_is_drawn_in_windows_too() -> None:
    """By any strategy but those that look ahead; the last chunk may be cut."""
    found = torch.cat(list(Clean()(drawing(), PAST, 7, 3, ASKED)), dim=2)
    assert found.shape == (2, 2, 7, 4, 4) and found.isfinite().all()
    assert drawn(Stream(3), drawing(), 7).shape == (2, 2, 7, 4, 4)
    assert torch.equal(drawn(Stream(3), drawing(), 7)[:, :, :4], drawn(Stream(3), drawing(), 4))
    shown = partial(Known, level=0.0)
    assert torch.equal(drawn(Stream(3), replace(drawing(), show=shown), 7), drawn(Stream(3), drawing(), 7))
