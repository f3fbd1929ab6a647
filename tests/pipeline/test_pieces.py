"""Streams of a causal model, as a user has them: piece by piece, and what they are asked for changes on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import Codec, Identity, VAECodec
from vidiff.data.options import DataConfig
from vidiff.nn.unet import UNetConfig
from vidiff.nn.vae import VAEConfig
from vidiff.pipeline.facts import Facts
from vidiff.pipeline.model import TrainedModel
from vidiff.pipeline.pipeline import Pipeline
from vidiff.recipe.build import build_denoiser
from vidiff.recipe.kinds import CodecConfig, DiffusionRun, SamplingConfig
from vidiff.text import Words

LABELS = ("cat", "dog", "horse")
CLIP = torch.rand(2, 3, 5, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1


def build(codec: Codec | None = None, frames: int = 6) -> Pipeline:
    """A causal model of random weights, of labels, words and strides, that streams by default."""
    codec = codec or Identity()
    unet = UNetConfig(codec.channels, 4, [1, 2], [1, 1], [], [0], [1], 4, labels=3, strided=True, causal=True)
    unet.text_dim, unet.words = 6, 4
    sampling = SamplingConfig({"name": "ddim"}, steps=2, guidance=1.5, context=3, strategy={"name": "stream"})
    data = DataConfig("nowhere", size=8, frames=frames, stride=[1, 4])
    of = DiffusionRun("diffusion", "tiny", data=data, codec=CodecConfig("identity"), unet=unet, sampling=sampling)
    torch.manual_seed(0)
    denoiser = build_denoiser(of).eval().requires_grad_(False)
    for parameter in denoiser.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape))
    words = Words(6, vocabulary=["a", "blue", "red"], length=3)
    return Pipeline(TrainedModel(denoiser, codec, Facts.of(of, LABELS, 8.0), words), sampling, "cpu")


def joined(pieces: Iterable[Tensor], count: int = 10**6) -> Tensor:
    return torch.cat([piece for _, piece in zip(range(count), pieces, strict=False)], dim=2)


def test_a_piece_is_a_chunk_and_what_is_asked_for_may_change() -> None:
    pipe = build()
    plain = joined(pipe.stream(12, "cat", clip=CLIP, text="red"))
    pieces = pipe.stream(12, "cat", clip=CLIP, text="red")
    begun = joined(pieces, 3)
    assert begun.shape == (2, 3, 3, 8, 8) and torch.equal(begun, plain[:, :, :3])
    pieces.set(text="blue")
    rest = joined(pieces)
    assert rest.shape[2] == 4 and not torch.isclose(rest[:, :, 0], plain[:, :, 3], atol=1e-4).all()


@pytest.mark.parametrize(
    "changed", [{"label": "dog"}, {"label": ["dog", None]}, {"text": None}, {"stride": 3}, {"label": None, "text": "a"}]
)
def test_what_is_not_named_stays_and_all_may_change_at_once(changed: dict[str, object]) -> None:
    """Changed before the first piece, a stream is one that was asked for that from the first."""
    pipe, asked = build(), {"label": "cat", "text": "red", "stride": None}
    pieces = pipe.stream(7, "cat", clip=CLIP, text="red")
    pieces.set(**changed)
    found = joined(pieces)
    now = asked | changed
    if now["stride"] is None:
        assert torch.equal(found, joined(pipe.stream(7, now["label"], clip=CLIP, text=now["text"])))
    pieces = pipe.stream(7, "cat", clip=CLIP, text="red")
    pieces.set(**changed)
    pieces.set(**{name: asked[name] for name in changed})
    back = joined(pieces)
    assert torch.equal(back, joined(pipe.stream(7, "cat", clip=CLIP, text="red")))
    assert not torch.isclose(found, back, atol=1e-4).all()


def test_what_cannot_change_is_told_and_the_stream_goes_on() -> None:
    pipe = build()
    pieces = pipe.stream(9, "cat", clip=CLIP)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: pieces.set(label="cow"), "cow"),
        (lambda: pieces.set(stride=5), "stride is 5; this model was trained on 1 to 4, in source frames"),
        (
            lambda: pieces.set(guidance=2.0),
            "a stream does not take 'guidance'; it takes label, text, actions, control, stride",
        ),
        (lambda: pipe.stream(9, clip=CLIP, strategy="clean").set(label="dog"), "can change with strategy=stream alone"),
        (lambda: pipe.extend(CLIP, 9, strategy={"name": "stream", "chunk": 4}), "chunk is 4, context 3 and sinks 0"),
    ]
    for change, said in refused:
        with pytest.raises(ValueError, match=said):
            change()
    assert torch.equal(joined(pieces), joined(pipe.stream(9, "cat", clip=CLIP)))


def test_a_model_of_one_stride_is_told_none() -> None:
    pipe = build()
    facts = replace(pipe.facts, strides=(2, 2))
    assert facts.check_stride(2) is None is facts.check_stride()
    with pytest.raises(ValueError, match="stride is 1; this model was trained on 2 alone"):
        facts.check_stride(1)


# Codecs of clips


def temporal(tile: int = 0) -> VAECodec:
    torch.manual_seed(2)
    return VAECodec(VAEConfig(channels=3, width=4, multipliers=[1], patch=2, temporal=2), tile)


@pytest.mark.parametrize("codec", [temporal(), temporal(64), Identity()])
@pytest.mark.parametrize("cuts", [[1, 1, 1, 4], [3, 4], [7]])
def test_a_decoder_makes_of_pieces_what_the_codec_makes_of_the_whole(codec: Codec, cuts: list[int]) -> None:
    side = 96 // codec.factor
    z = 0.5 * torch.randn(2, 3, 7, side, 8, generator=torch.Generator().manual_seed(1))
    decode = codec.decoder()
    parts = [decode(part) for part in z.split(cuts, dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), codec.decode(z), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(codec.decoder()(z), codec.decode(z), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("given", [0, 1, 4, 5, 9])
@pytest.mark.parametrize("chunk", [1, 2])
def test_latents_of_several_frames_are_decoded_as_they_come(
    given: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that was drawn is encoded, and what comes out is what the codec makes of all latents at once."""
    codec = temporal()
    pipe, seen = build(codec, frames=13), list[Tensor]()
    decode = Codec.decode

    def spy(self: Codec, z: Tensor, streams: list | None = None) -> Tensor:
        seen.append(z)
        return decode(self, z, streams)

    monkeypatch.setattr(VAECodec, "decode", spy)
    clip = torch.rand(1, 3, given, 8, 8, generator=torch.Generator().manual_seed(5)) * 2 - 1
    strategy = {"name": "stream", "chunk": chunk}
    found = joined(pipe.stream(given + 8, "cat", clip=clip if given else None, strategy=strategy, context=5))
    assert found.shape == (1, 3, 8, 8, 8)
    latents = torch.cat(seen, dim=2)
    whole = decode(codec, latents)
    known = min(given - (given - 1) % 2, 5) if given else 0
    if given:
        torch.testing.assert_close(seen[0], codec.encode(clip[:, :, given - known :]).mean)
    torch.testing.assert_close(found, whole[:, :, known : known + 8], atol=2e-6, rtol=1e-5)
