"""How a command ends: what is said of an error or of Ctrl-C, and the exit code; the same for all commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from errno import ENOSPC
from io import TextIOWrapper


def exit_code(
    work: Callable[[argparse.Namespace], None], options: argparse.Namespace, stopped: str = "nothing was written"
) -> int:
    """Does the work of a command, and tells an error in one line on stderr, without a traceback.

    Args:
        work: what the command does once its options are read.
        options: what it was called with.
        stopped: what Ctrl-C leaves behind, said after "stopped; ".

    Returns:
        0, also after SIGTERM, by vidiff.engine.guard.Interrupted; 2 after what a user can mend (a `ValueError`, files,
        memory, standard output, a training that diverged); 130 after Ctrl-C.
    """
    from vidiff.engine.guard import unwinding
    from vidiff.engine.loop import Diverged

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names and labels that its encoding lacks are no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        with unwinding(stopped):
            work(options)
            sys.stdout.flush()
    except (ValueError, OverflowError, OSError, Diverged, MemoryError, RuntimeError, TypeError) as error:
        if isinstance(error, RuntimeError) and not isinstance(error, Diverged) and not wants_memory(error):
            raise
        if isinstance(error, TypeError) and not too_large(error):
            raise
        told = one_line(error)
        if getattr(options, "data", None):  # given as an option here, where a config has a key
            told = told.replace("data.root", "--data")
        print(f"error: {told}", file=sys.stderr)
        drop_output()
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130
    return 0


def wants_memory(error: Exception) -> bool:
    """Whether torch says that there is no memory for a tensor, which on a CPU is an error like any other."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        type(error) is RuntimeError and bool(re.search("can't allocate memory|Storage size calculation", str(error)))
    )


def too_large(error: Exception) -> bool:
    """Whether torch says that a whole number is larger than any that it counts with."""
    return "Overflow when unpacking" in str(error)


def one_line(error: Exception) -> str:
    """What an error says, and what it is where that says too little."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        return "standard output was closed before all was said; what was written to files is there"
    if isinstance(error, MemoryError) or wants_memory(error):
        return f"there is too little memory for this, {' '.join(str(error).split()) or 'all is used'}; ask for less"
    if too_large(error):
        return "a whole number that was given is larger than any that can be counted with; give a smaller one"
    if isinstance(error, OSError) and error.errno == ENOSPC and error.filename is None:
        return f"{error.strerror}, on standard output or in a file; make room, and run the same command again"
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def drop_output() -> None:
    """What standard output cannot take is not tried again as the process ends, which would be told a second time."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
