"""What a run has found, and how it is told: on the terminal, as TAP, as JUnit XML, and as a page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..runner import Outcome, Result


@dataclass(frozen=True, slots=True)
class Report:
    """All results of one run."""

    title: str
    """Which server was judged."""
    seed: str
    results: Sequence[Result]
    took_s: float
    began_at: float = 0
    """Seconds since 1970."""
    command: str = "sennit-scenarios"
    """How the run was started, without the choice of stories."""

    def counts(self) -> dict[Outcome, int]:
        """Return how many stories ended how, without those that none did."""
        found = Counter(each.outcome for each in self.results)
        return {outcome: found[outcome] for outcome in Outcome if found[outcome]}

    def again(self, name: str) -> str:
        """Return the command that tells a story again as it was told."""
        return f"{self.command} --seed {shlex.quote(self.seed)} -k {shlex.quote(name)}"

    def summary(self) -> str:
        """Return the counts in a line."""
        said = ", ".join(f"{number} {outcome.value}" for outcome, number in self.counts().items())
        count = len(self.results)
        return f"{count} {'story' if count == 1 else 'stories'}: {said or 'none'} ({self.took_s:.1f} s)"


def plain(text: str) -> str:
    """Return text that can be written and does nothing to who shows it: a server may say anything."""
    return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)
