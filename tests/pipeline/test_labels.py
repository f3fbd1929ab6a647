"""Which class is meant by a name or a number."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from vidiff.pipeline.labels import class_number

NUMBERS = ["0", "1", "2", "3", "10", "11"]
PADDED = ["01", "02", "10"]
NAMES = ["cat", "dog", "caf\u00e9", "rock'n'roll", "slow motion", "hip-hop", "Dog"]


@pytest.mark.parametrize(
    ("label", "labels", "name"),
    [
        (2, NUMBERS, "2"),
        ("2", NUMBERS, "2"),
        (np.int64(2), NUMBERS, "2"),
        (torch.tensor(2), NUMBERS, "2"),
        ("02", NUMBERS, "2"),
        (10, NUMBERS, "10"),
        (11, sorted(NUMBERS), "11"),
        (10, PADDED, "10"),
        ("01", PADDED, "01"),
        (2, ["00", "01", "02"], "02"),
        (7, ["01", "07"], "07"),
        (1, NAMES, "dog"),
        ("1", NAMES, "dog"),
        (6, NAMES, "Dog"),
        ("Dog", NAMES, "Dog"),
        ("CAT", NAMES, "cat"),
        ("cafe\u0301", NAMES, "caf\u00e9"),
        ("Rock\u2019n\u2019Roll", NAMES, "rock'n'roll"),
        ("slow\u00a0motion", NAMES, "slow motion"),
        ("hip\u2010hop", NAMES, "hip-hop"),
        ("hip\u2013hop", NAMES, "hip-hop"),
        ("it's", ["it\u2019s", "cat"], "it\u2019s"),
    ],
)
def test_a_name_goes_before_a_number(label: object, labels: list[str], name: str) -> None:
    assert labels[class_number(label, labels)] == name  # type: ignore[arg-type]


def test_none_is_no_class() -> None:
    assert class_number(None, NUMBERS) == -1


@pytest.mark.parametrize(
    ("label", "labels", "said"),
    [
        (4, NUMBERS, "no class is called 4, and class number 4 is called '10': give a name"),
        ("5", NUMBERS, "no class is called '5', and class number 5 is called '11': give a name"),
        (1, PADDED, "label 1 may be the class '01' or class number 1, which is '02': give the name as it is written"),
        (0, ["2", "cat"], "no class is called 0, and class number 0 is called '2': give a name"),
        ("DOG", NAMES, "label 'DOG' may be the class 'dog' or the class 'Dog': give the name as it is written"),
        (6, NUMBERS, "no label 6; the nearest of 6 are"),
        (-1, NAMES, "no label -1; the nearest of 7 are"),
        (True, NAMES, "no label True; the nearest of 7 are"),
        (1.0, NAMES, "no label 1.0; the nearest of 7 are"),
        ("", NAMES, "no label ''; the nearest of 7 are"),
        ("hors", ["cat", "horse"], "no label 'hors'; the nearest of 2 are horse"),
    ],
)
def test_what_is_no_class_or_may_be_two_is_refused(label: object, labels: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        class_number(label, labels)  # type: ignore[arg-type]
