from __future__ import annotations

from pathlib import Path

import pytest

from vidiff.engine import record


@pytest.mark.parametrize(("seconds", "wanted"), [(0.0, [1, 2, 3, 4, 5, 6, 6]), (30.0, [6])])
def test_the_report_is_written_as_the_run_goes(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, wanted: list[int]
) -> None:
    """At logged steps once some time has passed, and in the end."""
    written: list[int] = []

    def write(run: Path, title: str) -> None:
        written.append(len((run / "metrics.jsonl").read_text().splitlines()))

    monkeypatch.setattr(record, "write_report", write)
    monkeypatch.setattr(record, "REFRESH", seconds)
    tiny.train(tmp_path, pause=0.02)  # 20 times what the fake report takes, and more
    assert written == wanted
