"""Video to latent and back, in chunks that leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidiff.codec.codec import Codec, Gaussian, Identity, VAECodec
from vidiff.nn.vae import VAEConfig


def small() -> VAECodec:
    codec = VAECodec(VAEConfig(channels=3, width=4, multipliers=[1, 2], patch=2))
    codec.set_statistics(torch.tensor([0.5, -1.0, 0.0]), torch.tensor([2.0, 0.5, 1.0]))
    return codec


@pytest.mark.parametrize("chunk", [1, 3, 4, 5, 7])
def test_chunks_leave_no_trace(chunk: int) -> None:
    codec = small()
    video = torch.rand(2, 3, 5, 8, 12) * 2 - 1
    codec.chunk = 100
    whole = codec.encode(video)
    z = whole.mean + 1
    decoded = codec.decode(z)
    codec.chunk = chunk
    found = codec.encode(video)
    torch.testing.assert_close(found.mean, whole.mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.std, whole.std, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(codec.decode(z), decoded, atol=1e-6, rtol=1e-6)


def test_each_frame_lands_in_its_own_place() -> None:
    codec = small()
    video = torch.rand(2, 3, 5, 8, 12) * 2 - 1
    z = codec.encode(video).mean
    assert z.shape == (2, 3, 5, 2, 3)
    one = codec.encode(video[1:, :, 3:4]).mean
    torch.testing.assert_close(z[1:, :, 3:4], one, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(codec.decode(z)[1:, :, 3:4], codec.decode(one), atol=1e-6, rtol=1e-6)


def test_latents_leave_with_zero_mean_and_unit_variance() -> None:
    codec = VAECodec(VAEConfig(channels=3, width=4, multipliers=[1, 2], patch=2))
    video = torch.rand(4, 3, 8, 16, 16) * 2 - 1
    raw = codec.encode(video)
    drawn = raw.sample(torch.Generator().manual_seed(0))
    codec.set_statistics(drawn.mean((0, 2, 3, 4)), drawn.std((0, 2, 3, 4)))
    again = codec.encode(video).sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(again.mean((0, 2, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(again.std((0, 2, 3, 4)), torch.ones(3), atol=1e-5, rtol=0)
    assert codec.state_dict()["shift"].tolist() == codec.shift.tolist()  # kept with the weights


def test_statistics_are_undone_by_decoding() -> None:
    plain, normalised = small(), small()
    normalised.load_state_dict(plain.state_dict())
    plain.set_statistics(torch.zeros(3), torch.ones(3))
    video = torch.rand(1, 3, 2, 8, 8) * 2 - 1
    expected = plain.decode(plain.encode(video).mean)
    torch.testing.assert_close(normalised.decode(normalised.encode(video).mean), expected, atol=1e-6, rtol=1e-5)


def test_the_identity_is_the_identity() -> None:
    codec = Identity()
    video = torch.rand(2, 3, 20, 5, 7) * 2 - 1
    found = codec.encode(video)
    assert (codec.channels, codec.factor) == (3, 1)
    assert torch.equal(found.mean, video) and not found.std.any()
    assert torch.equal(codec.decode(video), video)


def test_decoding_stays_in_the_range_of_a_video() -> None:
    decoded = Identity().decode(torch.tensor([-3.0, -1.0, 0.25, 1.0, 9.0]).view(1, 1, 5, 1, 1).expand(1, 3, 5, 1, 1))
    assert decoded[0, 0, :, 0, 0].tolist() == [-1.0, -1.0, 0.25, 1.0, 1.0]


def test_a_gaussian_draws_what_its_generator_says() -> None:
    gaussian = Gaussian(torch.full((1, 1, 1, 100, 100), 3.0), torch.full((1, 1, 1, 100, 100), 0.5))
    first, second = (gaussian.sample(torch.Generator().manual_seed(1)) for _ in range(2))
    noise = torch.randn(1, 1, 1, 100, 100, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, second) and torch.equal(first, 3.0 + 0.5 * noise)


def test_a_size_that_does_not_divide_is_named() -> None:
    with pytest.raises(ValueError, match="frames are 8x10, but the codec shrinks them by 4"):
        small().encode(torch.zeros(1, 3, 2, 8, 10))


def test_no_more_frames_than_a_chunk_go_through_at_once() -> None:
    """So memory beyond input and output is the same for every length."""
    sizes: list[int] = []

    class Spy(Codec):
        def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
            sizes.append(len(frames))
            return frames, frames

        def decode_frames(self, z: Tensor) -> Tensor:
            sizes.append(len(z))
            return z

    codec = Spy(channels=3, factor=1, chunk=16)
    video = torch.rand(2, 3, 20, 2, 2) * 2 - 1
    codec.encode(video)
    assert torch.equal(codec.decode(video), video)
    assert sizes == 2 * [16, 16, 8]


def test_no_gradients_are_kept() -> None:
    codec = small()
    found = codec.encode(torch.zeros(1, 3, 1, 4, 4))
    assert not found.mean.requires_grad and not codec.decode(found.mean).requires_grad
