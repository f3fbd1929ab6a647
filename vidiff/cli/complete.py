"""Completion in a shell, by argcomplete: of commands, options, and the names that an option may have.

The shell calls `vidiff` with what is typed so far in COMP_LINE. Its first word after `vidiff` says whose parser
answers, so no other is built, and nothing heavy is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from vidiff.cli.options import Parser


def command_typed(commands: Iterable[str]) -> str:
    """The command whose options the shell asks for. Ends the process with the commands where none is typed yet."""
    import argcomplete

    line, point = os.environ["COMP_LINE"], int(os.environ["COMP_POINT"])
    *_, words, _ = argcomplete.lexers.split_line(line, point)
    if len(words) < 2 or words[1] not in commands:
        parser = Parser(prog="vidiff")
        parser.add_argument("--version", action="store_true")
        parser.add_argument("command", choices=[*commands])
        argcomplete.autocomplete(parser)
    os.environ["_ARGCOMPLETE"] = "2"  # words before the first that is the parser's own: vidiff itself
    return words[1]
