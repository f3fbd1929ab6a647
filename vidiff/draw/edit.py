"""Generating, extending and editing clips: every task is a mask over the sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from vidiff.codec.codec import Codec
from vidiff.diffusion.cascade import enlarge, with_lowres
from vidiff.diffusion.condition import Condition
from vidiff.diffusion.known import end_frames, first_frames, last_frames
from vidiff.draw.long import Clean
from vidiff.draw.masks import TRUE, check_pixels, encode_around, join
from vidiff.draw.strategy import Strategy, final
from vidiff.draw.stream import Stream
from vidiff.draw.window import Backwards, Draw, Source, Window, draw_after, spans, windows

CLEAN = Clean()


def generate(
    draw: Draw,
    codec: Codec,
    frames: int,
    size: tuple[int, int],
    context: int,
    condition: Condition,
    count: int,
    strategy: Strategy = CLEAN,
) -> Iterator[Tensor]:
    """Draw `count` clips of `frames` frames and `size` (height, width) pixels; past a window, as `strategy` goes on.

    Yields:
        `(count, 3, n, height, width)` in [-1, 1], `frames` in sum over n.
    """
    height, width = size[0] // codec.factor, size[1] // codec.factor
    past = torch.zeros(count, codec.channels, 0, height, width, device=codec.shift.device)
    for z in strategy(draw, past, frames, context, condition):
        yield codec.decode(z)


def extend(
    draw: Draw,
    codec: Codec,
    clip: Tensor,
    frames: int,
    context: int,
    condition: Condition,
    backwards: bool = False,
    strategy: Strategy = CLEAN,
) -> Iterator[Tensor]:
    """Continue `clip` `(b, 3, p, h, w)` in [-1, 1] by `frames` new frames, as `strategy` goes on.

    Only the last frames of `clip` are looked at, `context` of them unless the strategy reaches further back; of one
    frame, this is image to video.

    Args:
        condition: of frames, where it has any, those of the whole result, in the order of time.
        backwards: continue it into its past, from its first frames.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n; backwards, the latest come first.
    """
    reach, total = strategy.reach(context), clip.shape[2] + frames
    past = codec.encode((clip[:, :, :reach] if backwards else final(clip, reach)).to(codec.shift)).mean
    if not backwards:
        condition = condition.at(range(clip.shape[2] - past.shape[2], total))
        for z in strategy(draw, past, frames, context, condition):
            yield codec.decode(z)
        return
    condition = condition.at(range(frames + past.shape[2] - 1, -1, -1))
    for z in strategy(Backwards(**vars(draw)), past.flip(2), frames, context, condition):
        yield codec.decode(z.flip(2))


def causal(
    draw: Draw,
    codec: Codec,
    past: Tensor,
    frames: int,
    context: int,
    condition: Condition,
    strategy: Clean = CLEAN,
) -> Iterator[Tensor]:
    """Generate or continue clips with a codec that makes one latent of several frames, as `strategy` draws windows.

    Each window is a clip of its own to the codec, as in training: what it continues is encoded anew.

    Args:
        past: `(b, 3, p, h, w)` in [-1, 1]; p may be 0.
        frames: how many new ones are wanted.
        context: frames on which each window looks back, 1 + unit * n; where the past has fewer, as many of them as
            make whole latents.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n.
    """
    past, draw = past.to(codec.shift), strategy.prepared(draw)
    nothing = past.new_zeros(len(past), codec.channels, 0, past.shape[3] // codec.factor, past.shape[4] // codec.factor)
    size = 1 + codec.temporal * (draw.window - 1)
    for window in windows(size, past.shape[2] + frames, context, past.shape[2], unit=codec.unit):
        known = codec.encode(final(past, window.known)).mean if window.known else nothing
        latents = draw.window if window.known else codec.latents_of(window.new)
        z = draw_after(draw, known, latents, of_latents(condition, codec, window.first, latents))
        new = codec.decode(z)[:, :, window.known : window.known + window.new]
        past = final(torch.cat([past, new], dim=2), context)
        yield new


def rewind(draw: Draw, codec: Codec, clip: Tensor, frames: int, context: int, condition: Condition) -> Iterator[Tensor]:
    """Continue `clip` `(b, 3, p, h, w)` into its past with a codec that makes one latent of several frames.

    The codec looks back in time, so that the given frames' latents depend on those that are made: they are known as far
    as they are sure (`encode_around`).

    Args:
        condition: of frames, where it has any, those of the whole result.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n; the latest come first.
    """
    ahead, size = clip[:, :, :context], 1 + codec.temporal * (draw.window - 1)
    while frames > 0:
        new, given = size - ahead.shape[2], ahead.shape[2]
        part = torch.cat([ahead.new_zeros(*ahead.shape[:2], new, *ahead.shape[3:]), ahead], dim=2)
        told = condition.at(range(frames - new, frames + given))
        (whole,) = inpaint(draw, codec, part, last_frames(size, given).logical_not(), context, told)
        made = whole[:, :, max(new - frames, 0) : new]
        frames, ahead = frames - made.shape[2], whole[:, :, max(new - frames, 0) :][:, :, :context]
        yield made


def stream(
    draw: Draw,
    codec: Codec,
    past: Tensor,
    frames: int,
    context: int,
    asked: Callable[[], Condition],
    strategy: Strategy,
) -> Iterator[Tensor]:
    """Generate or continue clips latent by latent, by `Stream` or, where a latent holds several frames, by `Rolling`.

    What is made is decoded as it comes, and never encoded anew.

    Args:
        past: `(b, 3, p, h, w)` in [-1, 1]; p may be 0.
        frames: how many new ones are wanted.
        context: frames on which each looks back, 1 + temporal * n.
        asked: the condition that now holds, of frames, where it has any, those of the whole result.

    Yields:
        the new frames, `(b, 3, n, h, w)`, `frames` in sum over n.
    """
    past, unit, decode = past.to(codec.shift), codec.temporal, codec.decoder()
    context = 1 + (context - 1) // unit  # latents
    given = min(past.shape[2], 1 + unit * (strategy.reach(context) - 1))
    given -= (given - 1) % unit if given else 0  # frames that make whole latents
    known = past.new_zeros(len(past), codec.channels, 0, past.shape[3] // codec.factor, past.shape[4] // codec.factor)
    if given:
        known = codec.encode(final(past, given)).mean
        if unit > 1:
            decode(known)  # for what it then keeps of them
    latents, done = ceil(frames / unit) if given else 1 + ceil((frames - 1) / unit), 0
    first = past.shape[2] - given  # the frame of the first latent that is looked back on

    now: Condition | None = None
    shown = Condition()

    def told() -> Condition:
        nonlocal now, shown
        if (wanted := asked()) is not now:
            now, shown = wanted, of_latents(wanted, codec, first, known.shape[2] + latents)
        return shown

    ask, begin = (asked, first) if unit == 1 else (told, 0)
    if isinstance(strategy, Stream):
        made = strategy.run(draw, known, latents, context, ask, begin)
    else:
        made = strategy(draw, known, latents, context, ask())
    for z in made:
        new = decode(z)[:, :, : frames - done]
        done += new.shape[2]
        yield new


def of_latents(condition: Condition, codec: Codec, first: int, latents: int) -> Condition:
    """The condition of some latents, of that of frames: what led to any of a latent's frames leads to it, and a control
    of pixels, as it is where a latent holds several frames, is encoded as a clip of its own, as in training.

    Args:
        first: the frame of the first latent; each further one is of `temporal` frames.
    """
    spans = [1] + [codec.temporal] * (latents - 1)
    told = condition.at([first + codec.temporal * n for n in range(latents)], spans)
    if condition.control is None or codec.temporal == 1:
        return told
    pixels = Condition(control=condition.control).at(range(first, first + sum(spans))).control
    assert pixels is not None
    return replace(told, control=codec.encode(pixels).mean)


def inpaint(
    draw: Draw, codec: Codec, clip: Tensor, mask: Tensor, context: int, condition: Condition
) -> Iterator[Tensor]:
    """Make new content wherever `mask` is true, and leave every other pixel as it is, bit for bit.

    Latents of new pixels are drawn anew with the rest known (Lugmayr et al. 2022, RePaint, with a trained clock in
    place of replacement); then the known pixels are put back. Those around, which the codec makes of both, are known as
    far as they are sure, and drawn anew from there on. What the clip holds under the mask is not looked at.

    A clip longer than a window is drawn window by window, each knowing `context` frames of the one before and, where
    known frames follow what it makes, some of these. Where nothing is known this is the strategy `Clean`. The last
    window may reach past the end; what is made there is dropped.

    Args:
        clip: `(b, 3, f, h, w)` in [-1, 1].
        mask: bool, in pixels: `(1 or b, 1, 1 or f, h, w)`; 1 for h and w means whole frames.
        context: made frames that are known to the next window.

    Yields:
        `(b, 3, n, h, w)`, f in sum over n. Memory beyond the clip's own does not grow with f.

    Raises:
        ValueError: a mask of another size or type; a context that fills a window.
    """
    check_pixels(mask, clip)
    total, apart = clip.shape[2], codec.temporal == 1
    mask = mask.to(clip.device).expand(-1, -1, total, -1, -1)
    kept = (~mask).flatten(3).all(3).all(1).all(0).tolist()
    if all(kept):
        yield clip
        return
    size = 1 + codec.temporal * (draw.window - 1)  # frames that are seen at once
    past = clip[:, :, :0].to(codec.shift)  # the last frames: their latents, or where one holds several, their pixels
    for window in spans(kept, size, context, codec.unit, context + 2 * (codec.temporal - 1)):
        given, count = window.known, window.known + window.new
        here, added = slice(window.first, window.first + size), slice(window.begin, window.end)
        part, new = clip[:, :, added], mask[:, :, added]
        shown, hidden = clip[:, :, here].to(codec.shift), mask[:, :, here].to(codec.shift.device)
        if not apart:  # a window is a clip of its own to the codec, as in training
            short = (0, 0, 0, 0, 0, (1 - shown.shape[2]) % codec.unit)
            shown = F.pad(torch.cat([final(past, given), shown[:, :, given:]], dim=2), short)
            hidden = F.pad(hidden.index_fill(2, torch.arange(given, device=hidden.device), False), short, value=True)
        z, doubt = encode_around(codec, shown, hidden)
        if apart and given:
            z[:, :, :given], doubt[:, :, :given] = final(past, given), 0.0
        if new.any():
            if bool(doubt.isfinite().any()):
                short = (0, 0, 0, 0, 0, draw.window - z.shape[2])
                z, doubt = F.pad(z, short), F.pad(doubt, short, value=torch.inf)
            z = _drawn(draw, z, doubt, of_latents(condition, codec, window.first, z.shape[2]))
            made = codec.decode(z[:, :, given:count]) if apart else codec.decode(z)[:, :, given:count]
            part = join(made, part, new)
        past = final(z[:, :, :count] if apart else torch.cat([past, part.to(past)], dim=2), context)
        yield part


def _drawn(draw: Draw, z: Tensor, doubt: Tensor, condition: Condition) -> Tensor:
    """A window drawn where `z` is in doubt, as `encode_around` has both."""
    known, z = doubt == 0, z.contiguous()  # in the memory order of what is drawn from nothing
    there = known if bool(known.any()) else None
    if bool((doubt.isfinite() & ~known).any()):
        return draw(z, there, condition, doubt=doubt)
    return draw(z, there, condition)


def interpolate(
    draw: Draw, codec: Codec, first: Tensor, last: Tensor, between: int, context: int, condition: Condition
) -> Iterator[Tensor]:
    """Make `between` frames that lead from `first` to `last`, each `(b, 3, f, h, w)` in [-1, 1] with an f of its own.

    Of both, the nearest `context` frames are looked at; `condition` is, where it is of frames, of all of them and the
    new ones. With one clip as `first` and `last`, the new frames lead from its end to its beginning: a loop. More
    frames than fit a window are drawn window by window, of which the last leads to `last`.

    Yields:
        `(b, 3, n, h, w)`, `between` in sum over n.

    Raises:
        ValueError: no new frames; a context that fills a window.
    """
    if between < 1:
        raise ValueError(f"between is {between}; give 1 or more new frames")
    given, unit = first.shape[2], codec.temporal
    first = final(first, context)
    rest = (1 - first.shape[2] - between) % unit  # frames of `last` that share a latent with new ones
    last = last[:, :, : rest + max(context - 1, unit) if unit > 1 else context].to(first)
    ends = first.shape[2], last.shape[2]
    clip = torch.cat([first, first.new_zeros(*first.shape[:2], between, *first.shape[3:]), last], dim=2)
    condition = condition.at(range(given - ends[0], given + between + ends[1]))
    begin, end, done = ends[0], ends[0] + between, 0
    for part in inpaint(draw, codec, clip, ~end_frames(clip.shape[2], *ends), context, condition):
        new = part[:, :, max(begin - done, 0) : max(end - done, 0)]
        done += part.shape[2]
        if new.shape[2]:
            yield new


def double(draw: Draw, codec: Codec, clip: Tensor, context: int, condition: Condition) -> Iterator[Tensor]:
    """Make a new frame between every two of `clip` `(b, 3, f, h, w)` in [-1, 1], window by window.

    Where one latent holds several frames, none but the first is free of new ones. They begin as the means of the frames
    around them, and are in doubt by as much as the latents change where they are those before them instead.

    Yields:
        `(b, 3, n, h, w)`, 2 f - 1 in sum over n; every other frame is the clip's, bit for bit.

    Raises:
        ValueError: a clip of one frame.
    """
    if clip.shape[2] < 2:
        raise ValueError("the clip has 1 frame, with nothing between it and the next: give 2 or more")
    twice = clip.repeat_interleave(2, dim=2)[:, :, :-1]
    odd = (torch.arange(twice.shape[2]) % 2 == 1).view(1, 1, -1, 1, 1)
    if codec.temporal == 1:
        return inpaint(draw, codec, twice, odd, context, condition)
    even, odd = torch.arange(0, twice.shape[2], 2), odd.to(clip.device)
    between = twice.index_copy(2, even[1:].to(clip.device) - 1, (clip[:, :, 1:] + clip[:, :, :-1]) / 2)

    def make(part: Tensor, window: Window, known: Tensor | None, told: Condition) -> Tensor:
        here = slice(window.begin, window.first + part.shape[2])
        z, repeated = codec.encode(part).mean, twice[:, :, here].to(part)
        short = part.shape[2] - window.known - repeated.shape[2]
        repeated = torch.cat([part[:, :, : window.known], repeated, part[:, :, part.shape[2] - short :]], dim=2)
        doubt = (codec.encode(repeated).mean - z).square().mean(1, keepdim=True).sqrt().amax((3, 4), keepdim=True)
        doubt = torch.where(doubt < 1, doubt.clamp(min=TRUE), torch.inf)
        return draw(z, known, told, doubt=doubt)

    return _joined(_over_clips(draw, codec, between, context, condition, make), twice, odd)


def _joined(parts: Iterator[Tensor], clip: Tensor, new: Tensor) -> Iterator[Tensor]:
    """What was made, piece by piece, with the frames of `clip` that are not `new`."""
    done = 0
    for part in parts:
        here = slice(done, done + part.shape[2])
        yield torch.where(new[:, :, here], part.to(clip), clip[:, :, here])
        done += part.shape[2]


def _over_clips(
    draw: Draw,
    codec: Codec,
    clip: Tensor,
    context: int,
    condition: Condition,
    make: Callable[[Tensor, Window, Tensor | None, Condition], Tensor],
) -> Iterator[Tensor]:
    """Change a clip window by window, each a clip of its own to the codec, as in training; for `temporal` above 1.

    Args:
        make: frames of a window, made ones first, and which latents these are -> its new latents.

    Yields:
        `(b, 3, n, h, w)`, as many frames as `clip` in sum over n.
    """
    size, total = 1 + codec.temporal * (draw.window - 1), clip.shape[2]
    past = clip[:, :, :0].to(codec.shift)
    for window in windows(size, total, context, unit=codec.unit):
        part = torch.cat([final(past, window.known), clip[:, :, window.begin : window.end].to(past)], dim=2)
        count = part.shape[2]
        part = torch.cat([part, part[:, :, -1:].expand(-1, -1, (1 - count) % codec.unit, -1, -1)], dim=2)
        latents, given = 1 + (part.shape[2] - 1) // codec.temporal, 1 + (window.known - 1) // codec.temporal
        known = first_frames(latents, given) if window.known else None
        z = make(part, window, known, of_latents(condition, codec, window.first, latents))
        new = codec.decode(z)[:, :, window.known : count]
        past = final(torch.cat([past, new], dim=2), context)
        yield new.to(clip)


def edit(
    draw: Draw,
    codec: Codec,
    clip: Tensor,
    strength: float,
    context: int,
    condition: Condition,
    shows: Condition | None = None,
    iterations: int = 0,
) -> Iterator[Tensor]:
    """Noise `clip` to the diffusion time `strength` and draw it from there (Meng et al. 2022, SDEdit, section 3).

    With `iterations` the noise is not drawn but found: that from which the plain model, told what the clip `shows`,
    makes it by DDIM (Song et al. 2020, section 4.3). So what `condition` does not change stays as it is.

    A clip longer than a window is drawn window by window; the last of them moves back to end with the clip.

    Args:
        clip: `(b, 3, f, h, w)` in [-1, 1].
        strength: 0 is the clip, as the codec returns it; 1 keeps nothing of it. What lies between depends on the
            schedule.
        context: made frames that are known to the next window.
        shows: what the clip shows now; by default nothing is said of it.
        iterations: evaluations of the model by which a step is inverted; 0 draws new noise.

    Yields:
        `(b, 3, n, h, w)`, f in sum over n.

    Raises:
        ValueError: a strength outside [0, 1]; fewer than no iterations; a context that fills a window.
    """
    if iterations < 0:
        raise ValueError(f"inversion is {iterations}; give 0, which draws new noise, or more: 10 are usual")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength is {strength}; give 0, which keeps the clip, to 1, which keeps nothing of it")
    shows = Condition() if shows is None else shows
    if codec.temporal > 1:
        was = clip.to(codec.shift)

        def make(part: Tensor, window: Window, known: Tensor | None, told: Condition) -> Tensor:
            z = codec.encode(part).mean
            if not iterations:
                return draw(z, known, told, strength)
            own = was[:, :, window.first : window.end]
            own = torch.cat([own, part[:, :, own.shape[2] :]], dim=2)
            said = of_latents(shows, codec, window.first, z.shape[2])
            return draw.again(z, known, told, strength, Source(codec.encode(own).mean, said, iterations))

        yield from _over_clips(draw, codec, clip, context, condition, make)
        return
    z = codec.encode(clip.to(codec.shift)).mean
    given = z.clone()
    for window in windows(draw.window, z.shape[2], context, back=True):
        here = slice(window.first, window.end)
        known = first_frames(window.known + window.new, window.known) if window.known else None
        frames, asked = z[:, :, here].contiguous(), condition.at(range(window.first, window.end))
        if iterations:
            source = Source(given[:, :, here].contiguous(), shows.at(range(window.first, window.end)), iterations)
            z[:, :, here] = draw.again(frames, known, asked, strength, source)
        else:
            z[:, :, here] = draw(frames, known, asked, strength)
        yield codec.decode(z[:, :, window.begin : window.end]).to(clip)


def upscale(
    draw: Draw,
    codec: Codec,
    parts: Iterable[Tensor],
    factor: int,
    detail: Tensor,
    level: float,
    context: int,
    condition: Condition,
) -> Iterator[Tensor]:
    """Enlarge a clip that comes piece by piece (Ho et al. 2022, cascaded diffusion models, section 2).

    The model makes what the bicubically enlarged clip lacks, in latents (Li et al. 2022, SRDiff, section 3.2), window
    by window; each further window knows the detail of the `context` frames before it. How the clip is cut into pieces
    makes no difference, and memory does not grow with its length. The last window moves back to end with the clip.

    Args:
        parts: `(b, 3, n, h, w)` in [-1, 1].
        factor: by which height and width grow.
        detail: `(c,)`, the scale of what the model makes, as it was trained.
        level: the time to which the low-resolution latents are noised, and of which the model is told.
        context: made frames that are known to the next window.

    Yields:
        `(b, 3, n, factor * h, factor * w)` in [-1, 1], as many frames in sum over n.

    Raises:
        ValueError: a level outside [0, 1]; a context that fills a window.
    """
    if not 0.0 <= level <= 1.0:
        raise ValueError(f"level is {level}; give 0, which shows the clip as it is, to 1, which shows only noise")
    scale, noisy = detail.view(-1, 1, 1, 1), torch.tensor([level], device=detail.device)
    pieces = (piece for part in parts for piece in part.split(draw.window, dim=2))
    latents = (codec.encode(enlarge(piece.to(codec.shift), factor)).mean for piece in pieces)
    low = next(latents, None)  # of the enlarged clip, as far as they are still needed
    if low is None:
        return
    added, dropped = low[:, :, :0], 0  # the detail of the first of them, and the number of frames that are not kept

    def read_to(count: int) -> int:
        """Frames that are there once `count` are, or the clip ends."""
        nonlocal low
        assert low is not None
        while dropped + low.shape[2] < count and (more := next(latents, None)) is not None:
            low = torch.cat([low, more], dim=2)
        return dropped + low.shape[2]

    for window in windows(draw.window, read_to, context, back=True):
        shown, known = low[:, :, window.first - dropped : window.end - dropped], added[:, :, window.first - dropped :]
        asked = condition.at(range(window.first, window.end))
        asked = with_lowres(asked, shown, draw.denoiser.schedule, noisy.expand(len(low)), draw.generator)
        new = draw_after(draw, known, shown.shape[2], asked)[:, :, window.known :]
        yield codec.decode(shown[:, :, window.known :] + scale * new)
        added = torch.cat([added, new], dim=2)
        old = max(added.shape[2] - draw.window, 0)
        low, added, dropped = low[:, :, old:], added[:, :, old:], dropped + old
