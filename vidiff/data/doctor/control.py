"""What the doctor tells of the videos beside the clips of a data set: who lacks one, and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from vidiff.data.clip import Clip
from vidiff.data.control.pair import FAULTS, Beside, Unpaired, matched
from vidiff.data.doctor.record import Record
from vidiff.data.find import Stock
from vidiff.data.probe import probe_all
from vidiff.video.reader import Manner

NAMED = 3  # clips of each fault that the lines name; the page names all


@dataclass
class ControlFacts:
    """What was found.

    Args:
        where: the folder of the videos, as it was named.
        clips: how many were looked at.
        faults: of each of FAULTS, what is wrong with the video beside a clip.
    """

    where: str
    clips: int
    faults: dict[str, list[str]] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """How many can be trained on."""
        sound = self.clips - sum(map(len, self.faults.values()))
        return f"a video beside {sound} of {self.clips} clips can be trained on (data.control={self.where})"

    @property
    def lines(self) -> list[str]:
        """What is told of them, in plain words."""
        lines = [self.told]
        for fault, found in self.faults.items():
            lines.append(f"  {len(found):6}  {FAULTS[fault][0]}: {FAULTS[fault][1]}")
            lines += [f"          {says}" for says in found[:NAMED]]
            lines += [f"          and {len(found) - NAMED} more"] if len(found) > NAMED else []
        return lines


def look_at_control(
    stock: Stock, records: Sequence[Record], beside: Beside, where: str, processes: int = 2, patience: float = 60.0
) -> ControlFacts:
    """Looks into the videos beside all clips of a data set that can be read, at their own rates.

    Args:
        records: what is known of the clips.
        where: how `beside` was named.
        processes, patience: as of `vidiff.data.probe.probe_all`.
    """
    known = {record.name: record for record in records if record.readable}
    clips = [clip.with_facts(known[clip.name].facts) for clip in stock.clips if clip.name in known]
    facts, pairs = ControlFacts(where, len(clips)), dict[str, tuple[Clip, Clip]]()
    for clip in clips:
        try:
            found = beside.of(clip)
            pairs[found.name] = clip, found
        except Unpaired as error:
            facts.faults.setdefault(error.fault, []).append(str(error))
    with closing(probe_all([found for _, found in pairs.values()], processes, patience)) as outcomes:
        for found, outcome in outcomes:
            clip, _ = pairs[found.name]
            try:
                for part in clip.sound:
                    matched(part, found, outcome, replace(Manner(), part=part.part))
            except Unpaired as error:
                facts.faults.setdefault(error.fault, []).append(str(error))
    facts.faults = {fault: sorted(found) for fault, found in sorted(facts.faults.items())}
    return facts
