"""What the checks have found, as text for a terminal or as JSON.

A finding names the check that made it, and is good, a warning (it works, but look at it) or a fault; the last two say
in one sentence each what is wrong and what to do. What other servers have written is in the texts, so nothing of it
reaches a terminal as it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

from homeserver.model.graph_drawing import plain

MAX_CHARACTERS: Final = 600
_DAY_MS: Final = 24 * 3_600_000


class Level(StrEnum):
    """How good or bad a finding is."""

    GOOD = "good"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found; `remedy` is what to do, and empty where all is well."""

    check: str
    level: Level
    text: str
    remedy: str = ""


_MARKS: Final = {Level.GOOD: "good   ", Level.WARNING: "WARNING", Level.FAULT: "FAULT  "}


class Findings:
    """The findings about one server, in the order of the checks."""

    def __init__(self, server_name: str) -> None:
        self.server_name = server_name
        self.all: list[Finding] = []

    def good(self, check: str, text: str) -> None:
        """Add something that is as it should be."""
        self._add(check, Level.GOOD, text, "")

    def warn(self, check: str, text: str, remedy: str) -> None:
        """Add something that works and still deserves a look."""
        self._add(check, Level.WARNING, text, remedy)

    def fault(self, check: str, text: str, remedy: str) -> None:
        """Add something that does not work."""
        self._add(check, Level.FAULT, text, remedy)

    def count(self, level: Level) -> int:
        """Return how many findings are of this level."""
        return sum(finding.level is level for finding in self.all)

    def of(self, check: str) -> list[Finding]:
        """Return the findings of one check."""
        return [finding for finding in self.all if finding.check == check]

    def lines(self) -> Iterator[str]:
        """Give the report for people: a line for each finding, below it what to do, and a summary."""
        yield f"{plain(self.server_name, 255)}, as other servers see it"
        for finding in self.all:
            yield f"  {_MARKS[finding.level]} {finding.check}: {finding.text}"
            if finding.remedy:
                yield f"          -> {finding.remedy}"
        faults, warnings = self.count(Level.FAULT), self.count(Level.WARNING)
        yield f"{_counted(faults, 'fault')}, {_counted(warnings, 'warning')}"

    def to_json(self) -> str:
        """Return the same for programs."""
        return json.dumps(
            {
                "server_name": self.server_name,
                "faults": self.count(Level.FAULT),
                "warnings": self.count(Level.WARNING),
                "findings": [asdict(finding) for finding in self.all],
            },
            indent=2,
        )

    def _add(self, check: str, level: Level, text: str, remedy: str) -> None:
        self.all.append(Finding(check, level, plain(text, MAX_CHARACTERS), plain(remedy, MAX_CHARACTERS)))


def duration(ms: int) -> str:
    """Return a length of time as people say it."""
    if ms >= 2 * _DAY_MS:
        return f"{ms // _DAY_MS} days"
    return f"{ms // 3_600_000} h" if ms >= 2 * 3_600_000 else f"{max(0, ms) // 60_000} min"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
