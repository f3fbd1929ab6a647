from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

from vidiff.diffusion.condition import ASKED, TOGETHER, Condition


def full(count: int = 4) -> Condition:
    return Condition(
        label=torch.arange(count),
        text=torch.randn(count, 5, 2),
        text_mask=torch.arange(5).expand(count, 5) < torch.arange(1, count + 1)[:, None],
        lowres=torch.randn(count, 3, 2, 4, 4),
        lowres_log_snr=torch.arange(float(count)),
        stride=torch.full((count,), 2),
        action=torch.randn(count, 3, 2, 5),
        control=torch.randn(count, 3, 2, 4, 4),
    )


def test_each_sample_is_dropped_on_its_own() -> None:
    condition = Condition(label=torch.zeros(20_000, dtype=torch.int64))
    dropped = condition.drop(0.1, torch.Generator().manual_seed(0)).label == -1
    assert abs(float(dropped.float().mean()) - 0.1) < 0.007  # 3 standard deviations
    batches = dropped.view(-1, 10).sum(1)  # binomial(10, 0.1), not all or nothing
    assert abs(float(((batches > 0) & (batches < 10)).float().mean()) - (1 - 0.9**10)) < 0.033


def test_label_and_text_are_dropped_together_and_the_rest_stays() -> None:
    condition = full(200)
    dropped = condition.drop(0.5, torch.Generator().manual_seed(0))
    gone = dropped.label == -1
    assert 0 < int(gone.sum()) < 200
    assert torch.equal(dropped.text_mask.any(1), ~gone)
    assert torch.equal(dropped.label[~gone], condition.label[~gone])
    assert torch.equal(dropped.text_mask[~gone], condition.text_mask[~gone])
    assert dropped.lowres is condition.lowres and dropped.stride is condition.stride
    assert dropped.lowres_log_snr is condition.lowres_log_snr


def test_actions_are_dropped_by_themselves() -> None:
    condition = full(200)
    dropped = condition.drop(0.5, torch.Generator().manual_seed(0), names=("action",))
    gone = (dropped.action == 0).flatten(1).all(1)
    assert 70 < int(gone.sum()) < 130 and dropped.label is condition.label and dropped.text_mask is condition.text_mask
    assert torch.equal(dropped.action[~gone], condition.action[~gone])
    assert condition.drop(0.5, torch.Generator().manual_seed(0)).action is condition.action


def test_a_control_that_is_dropped_is_noise_alone() -> None:
    condition = full(200)
    dropped = condition.drop(0.5, torch.Generator().manual_seed(0), names=("control",))
    gone = dropped.control_log_snr == -20
    assert 70 < int(gone.sum()) < 130 and (dropped.control_log_snr[~gone] == 20).all()
    assert not dropped.control[gone].any() and torch.equal(dropped.control[~gone], condition.control[~gone])
    assert dropped.lowres is condition.lowres and dropped.action is condition.action
    both = condition.cat(condition.without("control"))
    assert both.control_log_snr.tolist() == [20.0] * 200 + [-20.0] * 200


def test_a_video_that_may_be_unknown_is_noise_alone_and_another_must_be_there() -> None:
    like, condition = torch.randn(2, 3, 2, 4, 4), Condition(lowres=torch.ones(2, 3, 2, 4, 4))
    assert not condition.shown("control", like).any() and condition.noise_of("control", like).tolist() == [-20, -20]
    assert condition.shown("lowres", like) is condition.lowres and condition.noise_of("lowres", like).tolist() == [
        20,
        20,
    ]
    with pytest.raises(ValueError, match=r"condition\.lowres is missing: use `upscale`"):
        Condition().shown("lowres", like)
    with pytest.raises(ValueError, match=r"condition\.control is \(2, 3, 2, 4, 4\); expected \(2, 3, 2, 8, 8\)"):
        Condition(control=like).shown("control", torch.zeros(2, 3, 2, 8, 8))


def test_what_led_to_frames_that_are_left_out_leads_to_the_next() -> None:
    """Each of six frames has an action of its own, one to six."""
    condition = Condition(action=torch.arange(1.0, 7).view(1, 6, 1, 1))
    assert condition.at([0, 2, 4], 2).action.flatten(2).tolist() == [[[1, 0], [3, 2], [5, 4]]]
    assert condition.at([1, 4], [1, 3]).action.flatten(2).tolist() == [[[2, 0, 0], [5, 4, 3]]]
    assert condition.at([4, 5]).at([1]).action.tolist() == condition.at([5]).action.tolist() == [[[[6]]]]


def test_what_led_to_frames_is_found_backwards_too() -> None:
    """The same three frames of six, of fields that run from the last to the first."""
    forwards, order = Condition(action=torch.arange(1.0, 7).view(1, 6, 1, 1)), range(5, -1, -1)
    led = forwards.at([1, 3, 5], 2).action
    found = forwards.at(order).at([0, 2, 4], -2).action
    assert led is not None and found is not None and torch.equal(found, led.flip(1))
    assert forwards.at(order).at([5], -3).action.flatten().tolist() == [1, 0, 0]


def test_dropping_repeats_with_its_generator() -> None:
    first, second = (full(50).drop(0.5, torch.Generator().manual_seed(3)).label for _ in range(2))
    assert torch.equal(first, second)


def test_drop_at_its_ends() -> None:
    condition = full()
    assert condition.drop(0.0) is condition
    assert (condition.drop(1.0).label == -1).all() and not condition.drop(1.0).text_mask.any()
    null = condition.null()
    assert (null.label == -1).all() and not null.text_mask.any() and null.lowres is condition.lowres
    assert Condition().null() == Condition().drop(0.5) == Condition()
    assert (condition.label >= 0).all()  # the given condition is as it was


def test_text_without_a_mask_is_masked_when_dropped() -> None:
    null = Condition(text=torch.randn(2, 3, 4)).null()
    assert null.text_mask.shape == (2, 3) and not null.text_mask.any()


def test_cat_repeat_and_rows() -> None:
    condition = full()
    both = condition.cat(condition.null())
    assert both.label.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert both.stride.shape == (8,) and both.lowres.shape[0] == 8
    assert both.lowres_log_snr.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert condition[1:3].lowres_log_snr.tolist() == [1, 2]
    assert condition.repeat(2).lowres_log_snr.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert condition[1:3].label.tolist() == [1, 2]
    assert condition[torch.tensor([3, 0])].label.tolist() == [3, 0]
    assert condition.repeat(2).label.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(condition.repeat(2).text[5], condition.text[2])
    assert condition.to("cpu").text_mask.dtype == torch.bool
    plain = Condition(text=torch.randn(1, 5, 2))
    assert plain.cat(Condition(text=plain.text, text_mask=torch.zeros(1, 5).bool())).text_mask.any(1).tolist() == [
        True,
        False,
    ]


def test_a_name_is_asked_for_while_any_sample_asks_for_it() -> None:
    condition = full()
    assert ASKED == ("label", "text", "action", "control") and all(condition.asks(name) for name in ASKED)
    assert not any(condition.without(*ASKED).asks(name) or Condition().asks(name) for name in ASKED)
    assert not any(condition.null().asks(name) for name in TOGETHER) and condition.null().asks("action")
    silent = condition.without("text")
    assert silent.asks("label") and not silent.asks("text") and silent.label is condition.label
    assert condition.without("label", samples=torch.arange(4) < 3).label.tolist() == [-1, -1, -1, 3]
    assert not condition.without("label", samples=torch.arange(4) < 3)[:3].asks("label")
    assert Condition(text=torch.randn(2, 3, 4)).asks("text")  # without a mask all of it counts


def test_frames_are_chosen_where_a_field_has_any() -> None:
    condition = full()
    window = condition.at(range(-1, 4))
    assert torch.equal(window.lowres, condition.lowres[:, :, [0, 0, 1, 1, 1]])
    assert torch.equal(condition.at(range(1, -1, -1)).lowres, condition.lowres.flip(2))
    assert window.label is condition.label and window.text is condition.text and window.stride is condition.stride


def test_a_new_field_is_dropped_stacked_and_cut_as_it_says_of_itself() -> None:
    """Nothing but its metadata tells the methods of it."""

    @dataclass(frozen=True)
    class Acted(Condition):
        actions: torch.Tensor | None = field(default=None, metadata={"asks": "actions", "null": 0.0, "frames": 1})

    condition = Acted(label=torch.tensor([1, 2]), actions=1.0 + torch.arange(12.0).view(2, 3, 2))
    assert condition.asks("actions") and not condition.without("actions").asks("actions")
    assert condition.without("actions").label is condition.label
    dropped = condition.without("actions", samples=torch.tensor([True, False]))
    assert not dropped.actions[0].any() and torch.equal(dropped.actions[1], condition.actions[1])
    assert torch.equal(condition.at(range(1, 4)).actions, condition.actions[:, [1, 2, 2]])
    assert torch.equal(condition.cat(dropped).actions, torch.cat([condition.actions, dropped.actions]))
    assert torch.equal(condition.repeat(2)[1:3].actions, condition.actions)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"drop probability 1\.5"):
        full().drop(1.5)
    with pytest.raises(ValueError, match="only 1 of 2 have 'stride'"):
        Condition(label=torch.zeros(1)).cat(Condition(label=torch.zeros(1), stride=torch.ones(1)))
