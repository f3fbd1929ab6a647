"""A trained run, ready to use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidiff.data.actions.read import actions_in
from vidiff.diffusion import known
from vidiff.diffusion.condition import Condition
from vidiff.draw import edit
from vidiff.draw.long import Clean, check_whole_latents
from vidiff.draw.stream import Stream
from vidiff.pipeline.drawing import Drawing, told_among
from vidiff.pipeline.facts import sides, size_of
from vidiff.pipeline.given import GivenClip
from vidiff.pipeline.hub import folder_of
from vidiff.pipeline.model import Actions, Labels, Texts, load_model
from vidiff.pipeline.pieces import Pieces, Upscales
from vidiff.pipeline.run import read_config
from vidiff.pipeline.world import World
from vidiff.pixels import check_video
from vidiff.store.place import place_of


class Pipeline(Drawing, Upscales):
    """Generates, extends, edits and enlarges clips with a trained model."""

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path,
        device: str | torch.device = "auto",
        weights: str = "ema",
        classifier: str | Path | None = None,
        revision: str | None = None,
    ) -> Pipeline:
        """Load a run's folder, which holds all that is needed, or a run that `vidiff push` put on the hub.

        Args:
            run: such as "runs/ucf"; or a name on the Hugging Face hub, such as "ada/bouncing-shapes".
            device: "auto", "cpu", "cuda", ...
            weights: "ema"; "model" for those that the optimizer left; "best" for the average that `train.keep_best`
                kept; or a file that `vidiff ema` wrote, an average of another width.
            classifier: a classifier's run, such as "runs/shapes_classifier", whose gradient then guides to a label; the
                model itself is not told it.
            revision: of a name on the hub: a branch, a tag or a commit; by default the newest.

        Raises:
            ValueError: if a folder is no trained run, or a file in it is damaged; for a classifier of other latents or
                labels; as `vidiff.pipeline.hub.fetch`.
        """
        run = folder_of(run, revision)
        config = read_config(run)
        return cls(load_model(run, config, device, weights, classifier), config.sampling, device)

    def read_clip(self, path: str | Path, size: int | tuple[int, int] | None = None) -> Tensor:
        """A video or picture as the methods that take one want it: `(3, f, h, w)` at the model's rate.

        It is of `size` (h, w), or one number for a square; by default the model's of the nearest aspect. See
        `vidiff.pipeline.given.GivenClip`.
        """
        with GivenClip(path, self.facts, sides(size)) as clip:
            return clip.read()

    def read_actions(self, path: str | Path) -> np.ndarray:
        """A file of actions, .npy, .csv or .jsonl, as the methods that take any want them: `(n, a)`.

        Raises:
            ValueError: a model without actions; a file that cannot be read as such.
        """
        if self.facts.actions is None:
            raise ValueError(f"{path} is given as actions, but this model was trained without (data.actions)")
        return actions_in(place_of(path), self.facts.actions)

    def read_control(
        self, path: str | Path, frames: int | None = None, size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """A video as `control`, which shows the model what is to go with it: `(3, frames, h, w)` at its rate.

        Args:
            frames: how many of its first are wanted; by default all.
            size: as of `read_clip`.

        Raises:
            ValueError: a model without a control; a video of fewer frames, or that cannot be read.
        """
        if not self.facts.control:
            raise ValueError(f"{path} is given as control, but this model was trained without (data.control)")
        with GivenClip(path, self.facts, sides(size)) as clip:
            if frames is not None and frames > clip.frames:
                raise ValueError(f"{path} has {clip.frames} frames, but the result has {frames}: ask for fewer")
            return clip.read(None if frames is None else range(frames))

    def generate(self, frames: int | None = None, label: Labels = None, count: int = 1, **options: Any) -> Tensor:
        """Draw clips.

        Args:
            frames: how many; by default as many as the model was trained on at this size. More are made by extension.
            label: one for all clips, or one for each; by default none is asked for.
            count: how many clips.
            options: `text`, `size`, and others of `stream`.

        Returns:
            `(count, 3, frames, height, width)` in [-1, 1].

        Raises:
            ValueError: for an unknown label or word (the nearest are named), a size that the model was not trained on,
                or an option out of range.
        """
        return torch.cat(list(self.stream(frames, label, count, **options)), dim=2)

    def extend(
        self, clip: Tensor, frames: int, label: Labels = None, *, backwards: bool = False, **options: Any
    ) -> Tensor:
        """Continue a clip, into its future or its past.

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)` in [-1, 1], of the model's size.
            frames: of the result, the given ones included.
            label: what the clip shows, where that is known.
            backwards: the new frames come before the clip.
            options: as for `stream`.

        Returns:
            `(b, 3, frames, h, w)` in [-1, 1]; the first f frames, or backwards the last, are those given, bit for bit.

        Raises:
            ValueError: for a clip of another size, or as long as the result; as for `generate`.
        """
        clip = self.facts.check_clip(clip)
        new = [part.to(clip) for part in self.stream(frames, label, clip=clip, backwards=backwards, **options)]
        return torch.cat([*new[::-1], clip] if backwards else [clip, *new], dim=2)

    def animate(self, image: Tensor, frames: int | None = None, label: Labels = None, **options: Any) -> Tensor:
        """Image to video: `image`, `(3, h, w)` or `(b, 3, h, w)` in [-1, 1], is frame 0, bit for bit.

        Args:
            frames: of the result; by default as many as the model was trained on.
            options: as for `stream`.

        Returns:
            `(b, 3, frames, h, w)`.

        Raises:
            ValueError: as for `extend`.
        """
        clip = self.facts.check_picture(image)
        frames = self.facts.window(size_of(clip)) if frames is None else frames
        return self.extend(clip, frames, label, **options)

    def interpolate(self, first: Tensor, last: Tensor, between: int, label: Labels = None, **options: Any) -> Tensor:
        """Join two clips, or pictures, by `between` new frames; more than fit one window are drawn window by window.

        Args:
            first, last: `(b, 3, f, h, w)`, `(3, f, h, w)` or a picture `(3, h, w)`, each with an f of its own.
            options: as for `stream`, with `context` frames of each looked at, by default as many as fit beside the new
                ones, and a quarter of a window where these take several.

        Returns:
            `(b, 3, f + between + f, h, w)`, the given frames bit for bit.

        Raises:
            ValueError: sizes that differ; no new frames; as for `generate`.
        """
        self.facts.check_ahead("join clips")
        first, last = self.facts.check_ends(first, last)
        if options.get("context") is None:
            window = self.facts.window(size_of(first))
            fits = (window - between) // 2 if between <= window - 2 else window // 4
            options["context"] = self.codec.fewer(max(1, min(self.sampling.context, fits)))
        draw, context, condition = self._asked(first, first.shape[2] + between + last.shape[2], label, **options)
        new = edit.interpolate(draw, self.codec, first, last, between, context, condition)
        return torch.cat([first, *(part.to(first) for part in new), last.to(first.device)], dim=2)

    def loop(self, clip: Tensor, between: int | None = None, label: Labels = None, **options: Any) -> Tensor:
        """Add `between` frames to a clip, by default half a window, so that its end leads to its beginning.

        Returns:
            `(b, 3, f + between, h, w)`, the first f frames bit for bit those of `clip`; it is to be played round.

        Raises:
            ValueError: as for `interpolate`.
        """
        clip = self.facts.check_clip(clip)
        between = self.facts.window(size_of(clip)) // 2 if between is None else between
        return self.interpolate(clip, clip, between, label, **options)[:, :, : -clip.shape[2]]

    def inpaint(self, clip: Tensor, mask: Tensor, label: Labels = None, **options: Any) -> Tensor:
        """Make new content wherever `mask` is true; every other pixel comes back bit for bit.

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)`, of any length; what it holds under the mask is not looked at.
            mask: bool `(1 or b, 1, 1 or f, h, w)`.
            options: as for `stream`.

        Raises:
            ValueError: a mask of another size or type; as for `extend`.
        """
        clip = self.facts.check_clip(clip)
        draw, context, condition = self._asked(clip, clip.shape[2], label, **options)
        return torch.cat(list(edit.inpaint(draw, self.codec, clip, mask, context, condition)), dim=2)

    def outpaint(self, clip: Tensor, box: tuple[int, int, int, int], label: Labels = None, **options: Any) -> Tensor:
        """`inpaint` everything but a box: rows top to bottom, columns left to right, ends excluded.

        Args:
            box: top, left, bottom, right, in pixels.

        Raises:
            ValueError: a box that is empty or leaves the frame; as for `inpaint`.
        """
        top, left, bottom, right = box
        height, width = size_of(self.facts.check_clip(clip))
        kept = known.box(height, width, top=top, left=left, bottom=bottom, right=right)
        return self.inpaint(clip, ~kept, label, **options)

    def edit(
        self,
        clip: Tensor,
        strength: float,
        label: Labels = None,
        *,
        inversion: int = 0,
        source_label: Labels = None,
        source_text: Texts = None,
        **options: Any,
    ) -> Tensor:
        """Noise a clip to the diffusion time `strength` and draw it anew from there, as `label` (SDEdit).

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)`, of any length.
            strength: 0 returns the clip through the codec, 1 keeps nothing of it, unless its noise is found.
            inversion: evaluations, a step, by which the noise is found from which the model makes the clip by DDIM, in
                place of new noise: then what `label` and `text` do not change stays. 0 draws new noise.
            source_label, source_text: what the clip shows, as the inversion is told.
            options: as for `stream`.

        Raises:
            ValueError: a strength outside [0, 1]; an inversion below 0, or with another sampler than DDIM asked for; as
                for `extend`.
        """
        clip = self.facts.check_clip(clip)
        if not inversion and (source_label is not None or source_text is not None):
            raise ValueError("what the clip shows is told to its inversion alone: give inversion as well, such as 10")
        if inversion and options.get("sampler") not in (None, "ddim"):
            raise ValueError(
                f"sampler is {options['sampler']}, but inversion is of DDIM, which then draws too: leave out sampler"
            )
        draw, context, condition = self._asked(clip, clip.shape[2], label, **options)
        shows: Condition | None = None
        if inversion:
            beside = {"control": condition.control, "action": condition.action}
            shows = replace(self.condition(source_label, len(clip), source_text), **beside)
        made = edit.edit(draw, self.codec, clip, strength, context, condition, shows, inversion)
        return torch.cat(list(made), dim=2)

    def invert(self, clip: Tensor, label: Labels = None, *, inversion: int = 10, **options: Any) -> Tensor:
        """Draw a clip again from the noise that DDIM inversion finds for it: what the model cannot tell is lost.

        Args:
            clip: `(b, 3, f, h, w)` or `(3, f, h, w)`, of any length.
            label: what it shows, where that is known; so may `options` have `text`.
            inversion: evaluations, a step, by which its noise is found.
            options: as for `stream`; guidance is 1, unless given.

        Returns:
            like `clip`: as the codec returns that (`reconstruct`), as far as the inversion has converged.

        Raises:
            ValueError: as for `edit`; no inversion.
        """
        if inversion < 1:
            raise ValueError(f"inversion is {inversion}; give 1 or more evaluations a step: 10 are usual")
        if options.get("guidance") is None:
            options["guidance"] = 1.0
        text = options.get("text")
        return self.edit(clip, 1.0, label, inversion=inversion, source_label=label, source_text=text, **options)

    def double(self, clip: Tensor, label: Labels = None, **options: Any) -> Tensor:
        """Double the frame rate: a new frame between every two of a clip of any length.

        Returns:
            `(b, 3, 2 f - 1, h, w)`; every other frame is the clip's, bit for bit.

        Raises:
            ValueError: a clip of one frame; as for `extend`.
        """
        self.facts.check_ahead("make frames between others")
        clip = self.facts.check_clip(clip)
        draw, context, condition = self._asked(clip, 2 * clip.shape[2] - 1, label, **options)
        return torch.cat(list(edit.double(draw, self.codec, clip, context, condition)), dim=2)

    @torch.no_grad()
    def upscale_stream(
        self,
        parts: Iterable[Tensor],
        label: Labels = None,
        count: int = 1,
        *,
        text: Texts = None,
        level: float | None = None,
        context: int | None = None,
        **options: Any,
    ) -> Iterator[Tensor]:
        """`upscale` of clips that come piece by piece, in memory that does not grow with their length.

        Args:
            parts: `(count, 3, n, h, w)`, such as another model's `stream` yields; n may vary.
            label, text: what the clips show, where the model has labels or text.
            level: the time to which the given clips are noised, which hides flaws that real clips do not have; by
                default the run's own.
            context: made frames that are known to each further window.
            options: `steps`, `sampler`, `grid`, `seed`, `guidance`, `history`, `lag` and `progress`, as for `stream`.

        Yields:
            `(count, 3, n, size, size)` in [-1, 1], as many frames in sum over n.
        """
        assert self.facts.small  # raises for a run that enlarges nothing
        factor, detail, level = self.facts.enlarges, self.detail, self.facts.level(level)
        assert detail is not None  # as in every run with a factor
        clips = (self.facts.check_clip(part, factor) for part in parts)
        first = next(clips, None)
        if first is None:
            return
        height, width = size_of(first)
        window = self.facts.window((factor * height, factor * width))
        draw, context = self._draw(window, **options), self._context(context, window, window)
        condition = self.model.condition(label, count, text).to(self.device)
        yield from edit.upscale(draw, self.codec, chain([first], clips), factor, detail, level, context, condition)

    @torch.no_grad()
    def stream(
        self,
        frames: int | None = None,
        label: Labels = None,
        count: int = 1,
        *,
        size: int | tuple[int, int] | None = None,
        clip: Tensor | None = None,
        backwards: bool = False,
        context: int | None = None,
        strategy: str | dict[str, Any] | None = None,
        **options: Any,
    ) -> Pieces:
        """`generate` and `extend` piece by piece, in memory that does not grow with `frames`.

        With the strategy "stream", for models with `unet.causal`, a piece is a few frames, and what is asked for may
        change while it runs: `pieces.set(text="a blue circle")`.

        Args:
            size: height and width in pixels, or one number for a square, one of those in `buckets`; by default that of
                `control`, or of the first.
            clip: to be continued, `(b, 3, f, h, w)`; its frames count in `frames` and are not yielded.
            backwards: continue it into its past; the latest pieces come first.
            context: frames on which each further window looks back.
            strategy: of `vidiff.draw.long.STRATEGIES`, by which a video longer than a window goes on: a name such as
                "rolling", or a name with options: `{"name": "noisy", "level": 0.02}`; by default the run's own.
            options: `text`, what to show, in words: one for all clips, or one for each; by default none is asked for.
                `actions`, what leads to each frame, for a model that was trained with `data.actions`: `(frames, a)`
                numbers, or `(count, frames, a)`, or names where there is one dimension, such as ["LEFT", None, "FIRE"];
                None is not known, as all are by default; where a clip is continued, those of the new frames are enough.
                `control`, another video of what is shown, for a model that was trained with `data.control`: `(3,
                frames, h, w)` for all clips, or `(count, 3, frames, h, w)`, those of a clip that is continued included;
                by default it is not known.

                `guidance`, scale of classifier-free guidance, where 1 is the plain model; `steps`, times at which the
                sampler asks the model; `sampler`, a name such as "ddim", or a name with options: `{"name": "ddim",
                "eta": 1.0}`; `grid` of its times, of `vidiff.diffusion.grid.Grid`, a kind such as "karras", or a kind
                with options: `{"kind": "karras", "rho": 5}`; `seed` of all noise, since the same seed gives the same
                clip; `history`, scale of guidance on the frames that are continued, label and text at once, which takes
                the place of `guidance` there (by default the run's own, unless `guidance` is given); `lag`, steps by
                which each new frame follows the one before, where 0 draws all of a window at once; `progress`, to show
                a bar; `classifier_scale`, of the classifier's gradient where one was loaded (by default the
                classifier's own; 0 tells the model the label after all); and those of `vidiff.draw.guide.Guide`, that
                change guidance: `interval`, `rescale`, `apg`, `threshold`, `history_level`, `separate`,
                `text_guidance`, `action_guidance`, `control_guidance`, `convention`.

        Returns:
            an iterator over `(b, 3, n, h, w)` in [-1, 1].
        """
        told, asked_size = told_among(options), sides(size)
        control = told.get("control")
        if control is not None and clip is None:
            asked_size = asked_size or size_of(control)
            frames = control.shape[-3] if frames is None else frames
        if clip is not None:
            clip = self.facts.check_clip(clip)
            if asked_size is not None and asked_size != size_of(clip):
                raise ValueError(f"size is {asked_size}, but the clip has {size_of(clip)}: leave out size")
        window = self.facts.window(asked_size if clip is None else size_of(clip))
        context = self._context(context, 2 if clip is not None else frames or 1, window)
        how = self._strategy(strategy, options.get("history"))
        if backwards:
            self.facts.check_ahead("continue a clip into its past")
        if self.codec.temporal > 1:
            check_whole_latents(self.codec.temporal, how, backwards)
        draw = self._draw(window, **options)
        if clip is None:
            new = window if frames is None else frames
            if new < 1 or count < 1:
                raise ValueError(f"frames is {new} and count is {count}; give 1 or more of both")
            past = torch.zeros(count, 3, 0, *(asked_size or self.buckets[0].size))
        else:
            if frames is None or frames <= clip.shape[2]:
                raise ValueError(f"frames is {frames}, the clip has {clip.shape[2]} already: ask for more, all told")
            past, new = clip, frames - clip.shape[2]

        def pieces(asked: Callable[[], Condition]) -> Iterator[Tensor]:
            if isinstance(how, Stream):
                return edit.stream(draw, self.codec, past, new, context, asked, how)
            if self.codec.temporal > 1 and backwards:
                return edit.rewind(draw, self.codec, past, new, context, asked())
            if self.codec.temporal > 1 and isinstance(how, Clean):
                return edit.causal(draw, self.codec, past, new, context, asked(), how)
            if self.codec.temporal > 1:
                return edit.stream(draw, self.codec, past, new, context, asked, how)
            if clip is None:
                return edit.generate(draw, self.codec, new, size_of(past), context, asked(), count, how)
            return edit.extend(draw, self.codec, past, new, context, asked(), backwards, how)

        def ask(**asked: Any) -> Condition:
            shape = past.shape[2] + new, past.shape[2]
            return self.condition(count=len(past), frames=shape, size=size_of(past), backwards=backwards, **asked)

        return Pieces(ask, {"label": label, **told}, pieces, isinstance(how, Stream))

    def world(self, clip: Tensor, actions: Actions = None, **options: Any) -> World:
        """A clip that goes on by a frame for each action: `world.step("LEFT")`. Arguments are those of `World`."""
        return World(self, clip, actions, **options)

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """What the codec makes of `(b, 3, f, h, w)`: the best that any model on its latents can look like."""
        check_video(video, "video", one=False)
        return self.codec.decode(self.codec.encode(video.to(self.codec.shift)).mean).to(video)
