"""How a command ends: what is said of an error or of Ctrl-C, and the exit code; the same for all commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch

from vidiff.engine.loop import Diverged


def exit_code(
    work: Callable[[argparse.Namespace], None], options: argparse.Namespace, stopped: str = "nothing was written"
) -> int:
    """Does the work of a command, and tells an error in one line on stderr, without a traceback.

    Args:
        work: what the command does once its options are read.
        options: what it was called with.
        stopped: what Ctrl-C leaves behind, said after "stopped; ".

    Returns:
        0; 2 after what a user can mend (a `ValueError`, files, memory, a training that diverged); 130 after Ctrl-C.
    """
    try:
        work(options)
    except (ValueError, OSError, Diverged, torch.OutOfMemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped; {stopped}", file=sys.stderr)
        return 130
    return 0
