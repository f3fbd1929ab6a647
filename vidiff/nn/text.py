"""Text inside the network: tokens that every block is told the mean of, and cross-attention that reads each of them."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.diffusion.condition import Condition
from vidiff.nn.attention import attention
from vidiff.nn.blocks import fit_heads, layer_norm, normalise
from vidiff.nn.embed import sinusoidal

Tokens = tuple[Tensor, Tensor]  # (b, n, d) and which of them count, bool (b, n)


class TextInput(nn.Module):
    """A sample's text as tokens that cross-attention can always read: a learned null token comes first.

    Args:
        dim: of a token.
        words: size of the vocabulary where text comes as numbers of words, whose embeddings are trained here, with
            sinusoidal positions; 0 where it comes embedded.
        out: width of the pooled text.
    """

    def __init__(self, dim: int, words: int, out: int) -> None:
        super().__init__()
        self.dim, self.words = dim, words
        self.embed = nn.Embedding(words, dim) if words else None
        self.null = nn.Parameter(torch.randn(dim))
        self.scale = nn.Parameter(torch.ones(dim))
        self.pool = nn.Sequential(nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, condition: Condition, batch: int) -> tuple[Tokens, Tensor]:
        """Embed the text of each sample.

        Args:
            condition: its text is read; a sample without any, or a condition without, has the null token alone.
            batch: number of samples.

        Returns:
            tokens `(b, 1 + n, dim)` and which of them count, bool `(b, 1 + n)`; the mean of those that are text, or
            the null token where none is, projected: `(b, out)`.

        Raises:
            ValueError: embeddings where word numbers are expected, or of another width; a number that is no word's.
        """
        null = self.null.expand(batch, 1, self.dim)  # b 1 dim
        always = torch.ones(batch, 1, dtype=torch.bool, device=null.device)
        if condition.text is None:
            return (null, always), self.pool(null[:, 0])
        tokens = self._tokens(condition.text)  # b n dim
        mask = always.expand(tokens.shape[:2]) if condition.text_mask is None else condition.text_mask  # b n
        tokens = tokens.masked_fill(~mask[..., None], 0.0)
        count = mask.sum(1, keepdim=True)  # b 1
        pooled = torch.where(count > 0, tokens.sum(1) / count.clamp(min=1), self.null)  # b dim
        return (torch.cat([null, tokens], dim=1), torch.cat([always, mask], dim=1)), self.pool(pooled)

    def _tokens(self, text: Tensor) -> Tensor:
        """Normed tokens, `(b, n, dim)`."""
        if self.embed is None:
            if text.ndim != 3 or text.shape[2] != self.dim:
                raise ValueError(f"text is {tuple(text.shape)}; this model reads embeddings (b, n, {self.dim})")
            return layer_norm(text.to(self.scale), self.scale)
        if text.ndim != 2 or text.is_floating_point():
            raise ValueError(f"text is {tuple(text.shape)} of {text.dtype}; this model reads numbers of words, (b, n)")
        if text.device.type == "cpu" and not bool(((text >= 0) & (text < self.words)).all()):
            raise ValueError(f"text {text.tolist()} names words outside 0 to {self.words - 1}")
        positions = sinusoidal(torch.arange(text.shape[1], device=text.device), self.dim)  # n dim
        return layer_norm(self.embed(text) + positions, self.scale)


class CrossAttention(nn.Module):
    """Every voxel reads the text of its clip (Rombach et al. 2022, section 3.3).

    Queries and keys are normed, as in `vidiff.nn.blocks.Attention`.
    """

    def __init__(self, channels: int, text: int, head_dim: int, backend: str = "auto") -> None:
        super().__init__()
        self.head_dim, self.backend = fit_heads(channels, head_dim), backend
        self.scale = nn.Parameter(torch.ones(channels))
        self.sharpness = nn.Parameter(torch.ones(self.head_dim))
        self.query = nn.Conv2d(channels, channels, 1)
        self.key_value = nn.Conv1d(text, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor, frames: int) -> Tensor:
        """x: `(b f) c h w`; tokens: `(b, n, d)`; mask: bool `(b, n)`, with one true in each row at least."""
        height, width = x.shape[2:]
        h = normalise(x, "film", self.scale.to(x.dtype))
        q = rearrange(self.query(h), "(b f) (n d) h w -> b (f h w) n d", f=frames, d=self.head_dim)
        kv = self.key_value(tokens.to(x.dtype).mT)  # b 2c n
        k, v = rearrange(kv, "b (k n d) m -> k b m n d", k=2, d=self.head_dim)
        q, k = (layer_norm(part.float(), self.sharpness).to(h.dtype) for part in (q, k))
        h = attention(q, k, v.to(h.dtype), self.backend, mask)  # b (f h w) n d
        h = rearrange(h, "b (f h w) n d -> (b f) (n d) h w", f=frames, h=height, w=width)
        return x + self.out(h.contiguous(memory_format=torch.channels_last))
