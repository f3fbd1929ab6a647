"""What is said where something cannot be used."""

from __future__ import annotations

import importlib

import pytest

from vidiff.store.error import absent


def test_a_library_that_is_not_there_is_told_apart_from_one_that_does_not_load() -> None:
    with pytest.raises(ImportError) as gone:
        importlib.import_module("no_such_library.part")
    assert str(absent(gone.value, "app")) == "no_such_library is not installed; run: pip install 'vidiff[app]'"
    with pytest.raises(ImportError) as broken:
        exec("from json.decoder import no_such_name", {})
    said = str(absent(broken.value, "play"))
    assert said.startswith("json does not load (cannot import name 'no_such_name' from 'json.decoder'")
    assert said.endswith("run: pip install -U 'vidiff[play]'") and "\n" not in said


def test_a_part_of_vidiff_that_is_missing_is_not_called_a_library() -> None:
    for statement in ("import vidiff.no_such_part", "from vidiff.pixels import no_such_name"):
        with pytest.raises(ImportError) as own:
            exec(statement, {})
        with pytest.raises(ImportError, match="vidiff"):
            absent(own.value, "app")
