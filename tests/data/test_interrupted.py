"""Ctrl-C while processes that decode are started: no traceback, and nobody is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """\
import os, signal, sys, time
from multiprocessing import forkserver, get_context

from vidiff.data.workers import DecodingProcesses, Helper, Loader

ONE, GROUP = (lambda: os.kill(os.getpid(), signal.SIGINT)), (lambda: os.killpg(0, signal.SIGINT))
connect = forkserver.connect_to_new_process


def begin(send):
    def connected(fds):
        ends = connect(fds)  # the process is forked, or will be, and waits to be told what it is to do
        forkserver.connect_to_new_process = connect
        while not handles_interrupts(forkserver._forkserver._forkserver_pid):
            time.sleep(0.001)
        send()
        return ends

    forkserver.connect_to_new_process = connected


def handles_interrupts(pid):
    # Python has begun in the process, and would raise KeyboardInterrupt, or ignores it by now
    with open(f"/proc/{pid}/status") as file:
        facts = dict(line.split(":") for line in file)
    return (int(facts["SigCgt"], 16) | int(facts["SigIgn"], 16)) & 1 << signal.SIGINT - 1


def loader():
    iter(Loader([0, 1], num_workers=2, multiprocessing_context=DecodingProcesses()))


def blocked_in(pipe):
    pipe.send(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


if __name__ == "__main__":
    for start in (lambda: Helper(len), loader):
        for send in (GROUP, ONE, GROUP):  # the server itself is only being started at the first
            begin(send)
            try:
                start()
            except KeyboardInterrupt:
                print("interrupted")
    for context in (DecodingProcesses(), get_context("forkserver")):
        here, there = context.Pipe()
        process = context.Process(target=blocked_in, args=(there,))
        process.start()
        print(sorted(signal.Signals(number).name for number in here.recv()))
        process.join()
"""


@pytest.mark.faults
def test_while_processes_start(tmp_path: Path) -> None:
    """The signal comes in the middle of the start, to the process alone and to its group, as from a terminal."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, start_new_session=True
    )  # whose end is that of all that write to its pipes
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["interrupted"] * 6 + ["['SIGINT', 'SIGTERM']", "[]"]
