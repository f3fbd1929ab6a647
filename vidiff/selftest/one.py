"""python -m vidiff.selftest.one NAME ANSWER PLACE: makes one check, and writes what it finds as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from vidiff.selftest.check import Check, Place, find
from vidiff.selftest.clips import decoding, sampling
from vidiff.selftest.parts import attention, casts, compiled, fused, memory, products
from vidiff.selftest.runs import deterministic, resume, training, two_processes
from vidiff.store.files import write_whole

CHECKS: dict[str, Check] = {
    "attention": attention,
    "fused": fused,
    "casts": casts,
    "products": products,
    "memory": memory,
    "training": training,
    "resume": resume,
    "deterministic": deterministic,
    "processes": two_processes,
    "sampling": sampling,
    "decoding": decoding,
    "compile": compiled,  # last, since it may take minutes
}


def main(name: str, answer: str, place: str) -> None:
    given = json.loads(place)
    finding = find(name, CHECKS[name], Place(Path(given["folder"]), given["device"], given["quick"]))
    write_whole(Path(answer), json.dumps(asdict(finding)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
