"""What a clip is asked to be: label, text, actions, another video, frame stride. Every field is optional.

All that is done to conditions is written once, over the fields. Each says of itself in its metadata: "asks", the name
that guidance has for it, if it says what a clip should show, with the "null" that asks for nothing; "apart", where it
is dropped and guided on by itself, and not with all the others; "frames", the axis along which frames lie; "slots",
that along which lies what belongs to a frame because those before it are left out; "video", that it is a video, which
the network is shown beside the noisy clip; and "of", the field that it tells something of, with what it is, "whole",
where it is not given. So a new field is a line here, and where the network reads it; a new video is read already.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -1
CLEAN = 20.0  # clamped log-SNR of what has no noise; its negative is that of noise alone


def _every_token(text: Tensor) -> Tensor:
    return torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)


def _clean(video: Tensor) -> Tensor:
    return video.new_full(video.shape[:1], CLEAN, dtype=torch.float32)


@dataclass(frozen=True)
class Condition:
    """The conditions of a batch: what its clips should show, and which clips are meant.

    Args:
        label: `(b,)` int64; -1 is no label.
        text: `(b, n, d)` token embeddings, or `(b, n)` int64 numbers of words, which the network embeds.
        text_mask: `(b, n)` bool, true where a token counts; all of them where it is not given. A row without
            any is a sample without text.
        lowres: `(b, c, f, h, w)`, already upsampled to the size of `x`.
        lowres_log_snr: `(b,)`, clamped log-SNR of the noise in `lowres`; without noise where it is not given.
        control: `(b, c, f, h, w)`, another video of what `x` is to show, frame by frame: its depth, its edges, another
            camera; all 0 where it is not known.
        control_log_snr: `(b,)`, the same of `control`; of noise alone, -20, where that is not known.
        stride: `(b,)` int64, source frames per clip frame.
        guidance: `(b,)`, the scale of guidance, for a student into which it was distilled; 1 is the plain model.
        action: `(b, f, k, w)`, what was done between each frame and the one before, the last first, where several
            things were, and each as `ActionSpace` encodes it; all 0 where it is not known.
    """

    label: Tensor | None = field(default=None, metadata={"asks": "label", "null": NO_LABEL})
    text: Tensor | None = None
    text_mask: Tensor | None = field(
        default=None, metadata={"asks": "text", "null": False, "of": "text", "whole": _every_token}
    )
    lowres: Tensor | None = field(default=None, metadata={"frames": 2, "video": True})
    lowres_log_snr: Tensor | None = field(default=None, metadata={"of": "lowres", "whole": _clean})
    stride: Tensor | None = None
    guidance: Tensor | None = None
    action: Tensor | None = field(
        default=None, metadata={"asks": "action", "null": 0.0, "apart": True, "frames": 1, "slots": 2}
    )
    control: Tensor | None = field(
        default=None, metadata={"asks": "control", "null": 0.0, "apart": True, "frames": 2, "video": True}
    )
    control_log_snr: Tensor | None = field(
        default=None, metadata={"asks": "control", "null": -CLEAN, "apart": True, "of": "control", "whole": _clean}
    )

    def drop(
        self,
        probability: float | Tensor,
        generator: torch.Generator | None = None,
        names: Sequence[str] | None = None,
    ) -> Condition:
        """Drop what is asked for, label and text together, each sample on its own coin (Ho & Salimans 2022, algorithm
        1). The other fields stay: they say which clip is meant, not what it should show.

        Args:
            probability: for all samples, or `(b,)`, one for each.
            names: what to drop, of `ASKED`; by default all of `TOGETHER`.

        Raises:
            ValueError: a probability outside [0, 1].
        """
        chance = torch.as_tensor(probability, dtype=torch.float32)
        if not isinstance(probability, Tensor) and not 0.0 <= probability <= 1.0:
            raise ValueError(f"drop probability {probability} is outside [0, 1]")
        names = TOGETHER if names is None else names
        asked = next((value for one, value in self._given() if one.metadata.get("asks") in names), None)
        if asked is None or (not isinstance(probability, Tensor) and probability == 0.0):
            return self
        device = asked.device if generator is None else generator.device
        coin = torch.rand(asked.shape[0], generator=generator, device=device)
        return self.without(*names, samples=(coin < chance.to(device)).to(asked.device))

    def null(self) -> Condition:
        """The condition that asks for nothing of `TOGETHER`: the unconditional branch of guidance."""
        return self.without(*TOGETHER)

    def without(self, *names: str, samples: Tensor | None = None) -> Condition:
        """The condition that does not ask for any of `names`, which are of `ASKED`.

        Args:
            samples: bool `(b,)`, those that no longer ask for it; by default all.
        """
        changed = {}
        for one, value in self._given():
            if one.metadata.get("asks") in names:
                gone = torch.ones(len(value), dtype=torch.bool, device=value.device) if samples is None else samples
                gone = gone.view(-1, *[1] * (value.ndim - 1))
                changed[one.name] = value.masked_fill(gone, one.metadata["null"])
        return replace(self, **changed) if changed else self

    def asks(self, name: str) -> bool:
        """Whether any sample asks for `name`, one of `ASKED`."""
        parts = [(one, value) for one, value in self._given() if one.metadata.get("asks") == name]
        return any(bool(value.ne(one.metadata["null"]).any()) for one, value in parts)

    def same(self, other: Condition) -> bool:
        """Whether the other has the same fields: of frames equal to the bit, else the very same tensors, whose content
        is not looked at, for which a GPU would have to be waited for."""
        for one in fields(self):
            a, b = getattr(self, one.name), getattr(other, one.name)
            framed = a is not None and b is not None and "frames" in one.metadata
            if a is not b and not (framed and torch.equal(a, b)):
                return False
        return True

    def cat(self, *others: Condition) -> Condition:
        """Stack along the batch. Raises ValueError where one has a field that another lacks."""
        conditions = (self, *others)
        there = {one.name for one in fields(self) if any(getattr(each, one.name) is not None for each in conditions)}
        given = [{one.name: value for one, value in condition._given(there)} for condition in conditions]
        for name in {name: None for values in given for name in values}:
            count = sum(name in values for values in given)
            if count < len(given):
                raise ValueError(f"cannot stack conditions: only {count} of {len(given)} have {name!r}")
        return type(self)(**{name: torch.cat([values[name] for values in given]) for name in given[0]})

    def to(self, device: torch.device | str) -> Condition:
        return self._map(lambda value, _: value.to(device))

    def repeat(self, count: int) -> Condition:
        """Each sample `count` times in a row: `(b, ...) -> (b * count, ...)`."""
        return self._map(lambda value, _: value.repeat_interleave(count, dim=0))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """Some of the samples."""
        return self._map(lambda value, _: value[rows])

    def at(self, frames: Sequence[int], spans: int | Sequence[int] = 1) -> Condition:
        """Some of the frames, such as a window's. Beyond the ends of a field, its first or its last frame goes on.

        Args:
            spans: by how many frames each follows the one before it: what led to those between leads to it. One number
                below 0 where the fields run backwards in time.
        """
        way = -1 if isinstance(spans, int) and spans < 0 else 1
        spans = abs(spans) if isinstance(spans, int) else spans
        most = spans if isinstance(spans, int) else max(spans)

        def chosen(value: Tensor, one: Field[Any]) -> Tensor:
            axis = one.metadata.get("frames")
            if axis is None:
                return value
            index = torch.tensor([*frames], device=value.device)
            parts, last = [value.index_select(axis, index.clamp(0, value.shape[axis] - 1))], value.shape[axis] - 1
            for back in range(1, most if "slots" in one.metadata else 1):
                before = index - way * back
                there = (before >= 0) & (torch.tensor(spans, device=value.device) > back)
                there = there & (before <= last) if way < 0 else there
                part = value.index_select(axis, before.clamp(0, last))
                shape = [-1 if dim == axis else 1 for dim in range(value.ndim)]
                parts.append(torch.where(there.view(shape), part, 0.0))
            return torch.cat(parts, dim=one.metadata["slots"]) if len(parts) > 1 else parts[0]

        return self._map(chosen) if any("frames" in one.metadata for one, _ in self._given()) else self

    def shown(self, name: str, like: Tensor) -> Tensor:
        """One of `VIDEOS`, `(b, c, f, h, w)` as `like` is; 0 for one that is not known.

        Raises:
            ValueError: none where one must be known; one of another shape.
        """
        video: Tensor | None = getattr(self, name)
        if video is None and name not in ASKED:
            raise ValueError(f"this model enlarges clips, and condition.{name} is missing: use `upscale`")
        if video is not None and video.shape != like.shape:
            raise ValueError(
                f"condition.{name} is {tuple(video.shape)}; expected {tuple(like.shape)}: that of the clip"
            )
        return torch.zeros_like(like) if video is None else video

    def noise_of(self, name: str, like: Tensor) -> Tensor:
        """The log-SNR of one of `VIDEOS`, `(b,)` where `like` is `(b, ...)`; one that is not known is noise alone."""
        log_snr: Tensor | None = getattr(self, f"{name}_log_snr")
        if log_snr is None:
            there = getattr(self, name) is not None or name not in ASKED
            log_snr = like.new_full(like.shape[:1], CLEAN if there else -CLEAN, dtype=torch.float32)
        return log_snr

    def _given(self, whole: Collection[str] | None = None) -> Iterator[tuple[Field[Any], Tensor]]:
        """The fields that are there, and those of `whole`, by default all, that tell something of these."""
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and "of" in one.metadata and (whole is None or one.name in whole):
                told_of = getattr(self, one.metadata["of"])
                value = None if told_of is None else one.metadata["whole"](told_of)
            if value is not None:
                yield one, value

    def _map(self, change: Callable[[Tensor, Field[Any]], Tensor]) -> Condition:
        """`change(value, field)` of each field."""
        values = {one.name: change(value, one) for one, value in self._given(whole=())}
        return type(self)(**values)


ASKED = tuple(  # what guidance can drop
    dict.fromkeys(one.metadata["asks"] for one in fields(Condition) if "asks" in one.metadata)
)
APART = tuple(  # and what of it is dropped and guided on by itself
    dict.fromkeys(one.metadata["asks"] for one in fields(Condition) if "apart" in one.metadata)
)
TOGETHER = tuple(name for name in ASKED if name not in APART)  # or at once with others
VIDEOS = tuple(one.name for one in fields(Condition) if "video" in one.metadata)  # what the network is shown
