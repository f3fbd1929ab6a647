"""What a clip is asked to be: label, text, low-resolution video, frame stride. Every field is optional."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

NO_LABEL = -1


@dataclass(frozen=True)
class Condition:
    """
    Args:
        label: `(b,)` int64; -1 is no label.
        text: `(b, n, d)` token embeddings, or `(b, n)` int64 numbers of words, which the network embeds.
        text_mask: `(b, n)` bool, true where a token counts; all of them where it is not given. A row without
            any is a sample without text.
        lowres: `(b, c, f, h, w)`, already upsampled to the size of `x`.
        lowres_log_snr: `(b,)`, clamped log-SNR of the noise in `lowres`; without noise where it is not given.
        stride: `(b,)` int64, source frames per clip frame.
    """

    label: Tensor | None = None
    text: Tensor | None = None
    text_mask: Tensor | None = None
    lowres: Tensor | None = None
    lowres_log_snr: Tensor | None = None
    stride: Tensor | None = None

    @property
    def asked(self) -> bool:
        """Whether any sample has a label or text: else `null` would change nothing."""
        label = self.label is not None and bool((self.label != NO_LABEL).any())
        return label or (self.text is not None and (self.text_mask is None or bool(self.text_mask.any())))

    def drop(self, probability: float | Tensor, generator: torch.Generator | None = None) -> Condition:
        """Drop label and text together, each sample on its own coin (Ho & Salimans 2022, algorithm 1).

        `lowres`, its noise and `stride` stay: they say which clip is meant, not what it should show.

        Args:
            probability: for all samples, or `(b,)`, one for each.

        Raises:
            ValueError: a probability outside [0, 1].
        """
        chance = torch.as_tensor(probability, dtype=torch.float32)
        if not isinstance(probability, Tensor) and not 0.0 <= probability <= 1.0:
            raise ValueError(f"drop probability {probability} is outside [0, 1]")
        content = self.label if self.label is not None else self.text
        if content is None or (not isinstance(probability, Tensor) and probability == 0.0):
            return self
        device = content.device if generator is None else generator.device
        coin = torch.rand(content.shape[0], generator=generator, device=device)
        return self._without((coin < chance.to(device)).to(content.device))

    def null(self) -> Condition:
        """Every sample's label and text dropped: the unconditional branch of guidance."""
        content = self.label if self.label is not None else self.text
        if content is None:
            return self
        return self._without(torch.ones(content.shape[0], dtype=torch.bool, device=content.device))

    def _without(self, dropped: Tensor) -> Condition:
        label, mask = self.label, self._mask()
        if label is not None:
            label = label.masked_fill(dropped, NO_LABEL)
        if mask is not None:
            mask = mask & ~dropped[:, None]
        return replace(self, label=label, text_mask=mask)

    def cat(self, *others: Condition) -> Condition:
        """Stack along the batch. Raises ValueError where one has a field that another lacks."""
        stacked = {}
        for field in fields(self):
            parts = [getattr(condition, field.name) for condition in (self, *others)]
            if field.name == "text_mask" and any(part is not None for part in parts):
                parts = [condition._mask() for condition in (self, *others)]
            given = [part for part in parts if part is not None]
            if given and len(given) < len(parts):
                raise ValueError(f"cannot stack conditions: only {len(given)} of {len(parts)} have {field.name!r}")
            stacked[field.name] = torch.cat(given) if given else None
        return Condition(**stacked)

    def _mask(self) -> Tensor | None:
        if self.text is None or self.text_mask is not None:
            return self.text_mask
        return torch.ones(self.text.shape[:2], dtype=torch.bool, device=self.text.device)

    def to(self, device: torch.device | str) -> Condition:
        return self._map(lambda value: value.to(device))

    def repeat(self, count: int) -> Condition:
        """Each sample `count` times in a row: `(b, ...) -> (b * count, ...)`."""
        return self._map(lambda value: value.repeat_interleave(count, dim=0))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """Some of the samples."""
        return self._map(lambda value: value[rows])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return Condition(**{name: None if value is None else change(value) for name, value in values.items()})
