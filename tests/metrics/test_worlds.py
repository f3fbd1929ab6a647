"""What frames of a world tell: places against the emulator's own memory, turns and actions where they are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vidiff.metrics.worlds.inverse import accuracy, learn
from vidiff.metrics.worlds.places import breakout
from vidiff.metrics.worlds.turning import sideways

PADDLE_X, BALL_X, BALL_Y = 72, 99, 101  # bytes of Breakout's memory


def test_paddle_and_ball_are_where_the_emulator_s_memory_has_them() -> None:
    """Frames show the last two of the emulator's own, of which the memory is that of the last."""
    pytest.importorskip("ale_py")
    from vidiff.record.environment import shrink
    from vidiff.record.record import Recording, play

    for number in range(2):
        episode = play(Recording("breakout", frames=48, start=20), "test", number)
        video = torch.stack([shrink(frame, (128, 128))[:, 0] for frame in episode.frames], 1)
        video = interpolate(video.transpose(0, 1), 64, mode="area").transpose(0, 1)[None]
        places = breakout(video)
        memory = torch.from_numpy(episode.states.astype(np.float64))
        left = memory[:, PADDLE_X] - 47
        middle = (left.clamp(8, 152) + (left + 16).clamp(8, 152)) / 2 * 64 / 160  # of what the walls leave of it
        off = (places["paddle"][0, :, 0] - middle).abs()
        assert off.max() < 2 and off.median() < 0.6
        x, y = (memory[:, BALL_X] - 48) * 64 / 160, (memory[:, BALL_Y] + 12) * 64 / 210
        ball = places["ball"][0]
        found = ~ball.isnan().any(1)
        assert not found[(memory[:, BALL_Y] == 0) | (memory[:, BALL_Y] > 180)].any()  # not in play, or below
        in_field = (memory[:, BALL_Y] > 90) & (memory[:, BALL_Y] < 170)
        assert found[in_field].double().mean() > 0.93 and in_field.sum() > 20  # one just served is not drawn yet
        assert (ball[found, 0] - x[found]).abs().max() < 1 and (ball[found, 1] - y[found]).abs().max() < 1.5


def test_places_of_what_is_drawn_and_of_nothing() -> None:
    video = torch.full((1, 3, 2, 128, 128), -1.0)
    assert all(place.isnan().all() for place in breakout(video).values())
    video[:, 0, 0, 115:118, 60:72] = 0.57  # (200, 72, 72) is what the game draws
    video[:, 1:, 0, 115:118, 60:72] = -0.44
    video[:, 0, 1, 80:83, 30:32] = 0.57
    video[:, 1:, 1, 80:83, 30:32] = -0.44
    places = breakout(video)
    assert places["paddle"][0, 0, 0] == pytest.approx(33) and places["paddle"][0, 1].isnan().all()
    assert places["ball"][0, 1].tolist() == pytest.approx([15.5, 40.75]) and places["ball"][0, 0].isnan().all()


def test_turns_are_told_to_the_pixel_whatever_stands_still() -> None:
    scene = interpolate(torch.rand(1, 3, 8, 60, generator=torch.Generator().manual_seed(0)), (64, 480)) * 2 - 1
    starts = [200, 193, 181, 181, 199]
    video = torch.stack([scene[0, :, :, start : start + 64] for start in starts], 1)[None]
    video[..., 52:, :] = scene[..., None, :12, :64]  # a bar of figures
    assert sideways(video)[0].tolist() == [7, 12, 0, -18]


@pytest.mark.parametrize(("number", "way"), [(3, 1), (2, -1)])
def test_turns_of_a_real_view(number: int, way: int) -> None:
    """Doom begins to turn slowly, by 1 or 2 of 64 pixels a frame, and comes to 4; walking turns nothing."""
    pytest.importorskip("vizdoom")
    from vidiff.record.environment import shrink
    from vidiff.record.record import Recording, branch

    recording = Recording("VizdoomHealthGathering-v1", frames=16, hold=2, start=20)

    def seen(action: int) -> Tensor:
        frames = branch(recording, "test", 0, 4, np.full((8, 1), float(action))).frames[3:]
        return sideways(torch.stack([shrink(frame, (64, 64))[:, 0] for frame in frames], 1)[None])[0] * way

    turned = seen(number)
    assert (turned >= 1).all() and (turned[4:] >= 3).all() and turned.max() <= 5
    assert seen(1).abs().mean() < 1


def moved(clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """A square that goes by 2 pixels left, right, or stays, as it is told."""
    draw = torch.Generator().manual_seed(seed)
    told = torch.randint(3, (clips, 12), generator=draw)
    video = torch.full((clips, 3, 12, 16, 16), -1.0)
    for clip, actions in zip(video, told, strict=True):
        place = 6
        for frame, action in enumerate(actions.tolist()):
            step = (0, -2, 2)[action] if frame else 0
            place = (place + step) % 16
            clip[:, frame, 6:10, [(place + i) % 16 for i in range(4)]] = 1
    return video, told[..., None]


def test_inverse_dynamics_finds_what_moved_a_square() -> None:
    network = learn(*moved(24, 0), [3], steps=150)
    video, told = moved(12, 1)
    found = accuracy(network.read(video), told[:, 1:-1])
    assert found["accuracy"] >= 0.95 and found["balanced"] >= 0.95 and found["commonest"] < 0.5
    still = accuracy(network.read(video[:, :, :1].expand(-1, -1, 12, -1, -1)), told[:, 1:-1])
    assert still["accuracy"] < 0.5  # where nothing moves, nothing can be read
    assert torch.equal(learn(*moved(24, 0), [3], steps=3).head.weight, learn(*moved(24, 0), [3], steps=3).head.weight)


def test_accuracy_of_frequent_and_of_rare_actions() -> None:
    told = torch.tensor([[0, 0, 0, 1, -1]]).T
    found = accuracy(torch.tensor([[0, 0, 0, 0, 2]]).T, told)
    assert found == {"accuracy": 0.75, "balanced": 0.5, "commonest": 0.75}
    with pytest.raises(ValueError, match="no frame between two others has a known action"):
        learn(torch.zeros(1, 3, 3, 16, 16), torch.full((1, 3, 1), -1), [2])
    with pytest.raises(ValueError, match="an action is read from 3 frames or more"):
        learn(*moved(2, 0), [3], steps=1).read(torch.zeros(1, 3, 2, 16, 16))
