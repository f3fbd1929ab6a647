"""See what works on this machine, and how fast: kernels, training, going on, several processes, drawing, decoding.

Each check runs in a process of its own and has the time that is left, so none can hide another. Nothing is kept but the
file of --json, which a bug report can carry: it names this machine and the versions of what is installed.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from vidiff.cli.command import exit_code
from vidiff.cli.options import Amount, Parser, add_device, tilde

if TYPE_CHECKING:
    from vidiff.selftest.check import Finding

QUICK = 3.0  # minutes below which networks are narrow: all is seen to work, and not how fast it is


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, epilog="example: vidiff selftest --minutes 8 --json selftest.json")
    add_device(parser)
    parser.add_argument(
        "--minutes",
        type=Amount(10_000),
        default=8.0,
        help="that it may take; below 3 it is not told how fast things are",
    )
    parser.add_argument("--json", type=tilde, metavar="FILE", help="write all that was seen there as well")
    return parser.parse_args(arguments)


def selftest(options: argparse.Namespace) -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tqdm import tqdm

    from vidiff.engine.parallel import choose_device
    from vidiff.selftest.check import Place, find_all
    from vidiff.selftest.machine import describe
    from vidiff.selftest.one import CHECKS
    from vidiff.store.files import check_writable, write_whole

    device = choose_device(options.device)
    if options.json:
        check_writable(options.json)
    machine = describe(device)
    print(f"{machine['device']}, torch {machine['versions']['torch']}, vidiff {machine['versions']['vidiff']}\n")
    findings: list[Finding] = []
    with TemporaryDirectory() as there, tqdm(total=len(CHECKS), unit="check", leave=False) as bar:
        place = Place(Path(there), options.device, options.minutes < QUICK)
        for finding in find_all([*CHECKS], place, options.minutes):
            bar.write(f"{finding.name:15}{finding.outcome:9}{finding.seconds:5.0f} s  {finding.line}")
            bar.update()
            findings.append(finding)
            if options.json:
                write_whole(options.json, json.dumps(report(machine, options, findings), indent=1) + "\n")
    options.failed = [finding.name for finding in findings if finding.outcome == "fails"]
    for finding in findings:
        if finding.outcome == "fails" and finding.error:
            print(f"\n{finding.name}: {finding.error}")
    count = sum(finding.outcome == "works" for finding in findings)
    print(f"\n{count} of {len(findings)} checks work" + f"; {', '.join(options.failed)} failed" * bool(options.failed))


def report(machine: dict[str, Any], options: argparse.Namespace, findings: list[Finding]) -> dict[str, Any]:
    """What --json writes, after each check anew."""
    asked = {"device": options.device, "minutes": options.minutes}
    return {"machine": machine, "asked": asked, "checks": [vars(finding) for finding in findings]}


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 where nothing failed, 1 where a check did, 2 for a user's mistake."""
    options = parse(arguments)
    options.failed = []
    return exit_code(selftest, options, "the file of --json has the checks that were made") or int(bool(options.failed))
