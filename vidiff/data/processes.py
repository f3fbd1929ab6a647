"""Where processes that decode come from."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def decoding_processes() -> ForkServerContext:
    """A context whose processes are forked from a server that has loaded the decoder and never used it.

    So a process starts at once and shares the memory of what is loaded. A fork of the training itself would do neither
    well: decoders hang where a file was open, and CUDA cannot be used again.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vidiff.video.reader"])
    return context
