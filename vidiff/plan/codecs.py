"""Which codec suits frames of a size: one table; and which others a trial on the clips themselves compares with it."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CodecChoice:
    """A codec, and why.

    Args:
        factor: by which an autoencoder shrinks frames; 1 for none, where the model is trained on pixels.
        channels: of its latents.
        patch: side of the squares of pixels that the model takes at once.
        kl: weight of the autoencoder's bottleneck.
        moving: share of its loss that is over what moves.
        why: a sentence, for the recipe.
        tried: what a trial on the clips found, a line for each autoencoder; empty where none was made.
    """

    factor: int
    channels: int
    patch: int
    kl: float
    moving: float
    why: str
    tried: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.factor}x, {self.channels} channels"

    @property
    def shrinks(self) -> int:
        """By how much the network's input is smaller than the frames."""
        return self.factor * self.patch


# Largest side in pixels -> the codec. Of what moves at 64 px in eight Atari games, an autoencoder of 4x kept 96 % with
# 16 channels and its loss mostly over what moves, 82 % with 8 and a plain loss; one of 8x kept 33 %.
# Pixels in patches lose nothing, but at that size were learned far slower.
CODECS = {
    32: CodecChoice(1, 3, 4, 0.0, 0.0, "frames this small are diffused as they are, in patches of 4x4 pixels"),
    64: CodecChoice(
        4,
        16,
        2,
        1e-5,
        0.8,
        "4x with 16 channels, as in the recipe small: of small things that move, 8x keeps less than half",
    ),
    128: CodecChoice(4, 8, 1, 1e-5, 0.0, "4x with 8 channels: on film 4 keep a quarter of the detail, 16 nearly all"),
    1 << 30: CodecChoice(8, 8, 1, 1e-5, 0.0, "8x with 8 channels, as in the recipe ucf_vae, without its discriminator"),
}


def choose_codec(size: int) -> CodecChoice:
    """The codec for frames of `size` pixels a side."""
    return CODECS[min(side for side in CODECS if size <= side)]


def candidates(size: int) -> list[CodecChoice]:
    """The autoencoders that are worth a trial for frames of `size` pixels a side; none where frames are diffused as
    they are.

    That of the table comes first, then the same at 4x and 8x, with other numbers of channels; at 4x the latents of
    frames above 128 px would cost the model more than they are worth.
    """
    first = choose_codec(size)
    if first.factor == 1:
        return []
    kinds = [(4, 16), (4, 8), (8, 16)] if size <= 64 else [(4, 8), (4, 16), (8, 16)] if size <= 128 else LARGE
    return [
        first,
        *(
            replace(first, factor=f, channels=c, patch=max(1, first.shrinks // f))
            for f, c in kinds
            if (f, c) != (first.factor, first.channels)
        ),
    ]


LARGE = [(8, 8), (8, 4), (8, 16)]
