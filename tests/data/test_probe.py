from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path
from types import FrameType

import av
import numpy as np
import pytest
from indexes import clip_at
from videos import look, run, write_numbered

from vidiff.data.clip import Clip
from vidiff.data.probe import fingerprint, probe, probe_all
from vidiff.store.place import place_of
from vidiff.video.reader import VideoReader


def test_facts_of_a_file(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "clip.mp4", 9, height=32, width=48, fps=12)
    clip = clip_at(path, "clip.mp4", 3)
    assert probe(clip) == clip.with_facts([9, 12.0, 32, 48, fingerprint(clip.place), "decord", [], [], []])


def test_another_encoding_of_the_same_size_has_another_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(300_000))
    before = fingerprint(place_of(path))
    for place in (0, 299_999):
        content = bytearray(300_000)
        content[place] = 1
        path.write_bytes(content)
        assert fingerprint(place_of(path)) != before
    path.write_bytes(bytes(299_999))
    assert fingerprint(place_of(path)) != before


@pytest.mark.faults
def test_the_last_frame_is_looked_at(tmp_path: Path) -> None:
    """Its table in front, a file that lost its end opens, and its beginning decodes."""
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=8, options={"x264-params": "keyint=10"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for frame in np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with VideoReader(path) as reader:
        assert reader.read(range(10)).shape == (3, 10, 64, 64)
    assert "damaged or truncated" in str(probe(clip_at(path)))


@pytest.mark.faults
def test_a_decoder_that_crashes_or_hangs_costs_one_file(tmp_path: Path) -> None:
    names = ["a", "crash", "b", "hang", "c", "d"]
    clips = [clip_at(write_numbered(tmp_path / f"{name}.mp4", 3)) for name in names]
    list(probe_all(clips[:1]))  # processes start at once from here on, so patience is for the file
    found = {Path(clip.name): outcome for clip, outcome in probe_all(clips, processes=2, patience=3, look=look)}
    assert found[tmp_path / "crash.mp4"] == "its decoder crashed (exit code -11)"
    assert found[tmp_path / "hang.mp4"] == "its decoder gave no answer within 3 s"
    assert {path.stem: outcome.frames for path, outcome in found.items() if isinstance(outcome, Clip)} == {
        name: 3 for name in "abcd"
    }


@pytest.mark.faults
def test_an_interrupt_ends_the_search_at_once(tmp_path: Path) -> None:
    clips = [clip_at(write_numbered(tmp_path / f"{name}.mp4", 3)) for name in ("a", "hang")]
    before = set(active_children())
    search = probe_all(clips, look=look)
    assert next(search)[0] == clips[0]
    started = set(active_children()) - before
    assert started
    os.kill(next(iter(started)).pid or 0, signal.SIGINT)  # as Ctrl-C does to the whole process group
    main = threading.get_ident()

    def interrupt() -> None:
        """As the main thread waits for the other file."""
        while not (tmp_path / "hang.begun").exists() or not waits_in(sys._current_frames()[main]):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(search)
    thread.join()
    for process in started:
        process.join(30)  # killed, if not yet gone
    assert not any(process.is_alive() for process in started)


def waits_in(frame: FrameType | None) -> bool:
    """Whether a stack is that of `ask_all`, as it waits."""
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "ask_all" in names and "wait" in names


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_search_leaves_no_process(tmp_path: Path) -> None:
    code = """
        import sys
        from multiprocessing import active_children
        from indexes import clip_at
        from videos import look
        from vidiff.data.probe import probe_all
        for path, _ in probe_all([clip_at(p) for p in sys.argv[1:]], look=look):
            print(*(child.pid for child in active_children()), flush=True)
    """
    process = run(code, *(write_numbered(tmp_path / f"{name}.mp4", 3) for name in ("a", "hang")))
    assert process.stdout is not None
    children = process.stdout.readline().split()
    assert children
    process.kill()
    process.wait()
    began = time.monotonic()
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < began + 100
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [0, -1])
def test_without_a_process_nothing_can_be_opened(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ValueError, match=f"workers is {workers}: give 1 or more"):
        next(probe_all([], workers))
