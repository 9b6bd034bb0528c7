"""The terminal: a line for each story as it ends, then what failed, and the counts."""

from __future__ import annotations

from typing import Final, TextIO

from ..journal import Step
from ..runner import Outcome, Result
from . import Report, plain

SIGNS: Final = {
    Outcome.PASSED: ("✓", "32"),
    Outcome.FAILED: ("✗", "31"),
    Outcome.FLAKY: ("≈", "33"),
    Outcome.SKIPPED: ("-", "90"),
    Outcome.NOT_YET: ("…", "36"),
    Outcome.UNEXPECTED: ("!", "33"),
    Outcome.DIFFERS: ("≠", "33"),
    Outcome.NOT_TOLD: ("·", "31"),
}
_TOLD_AT_ONCE: Final = 300


class Terminal:
    """Writes as the run goes on."""

    def __init__(self, out: TextIO, total: int, *, verbose: bool = False) -> None:
        self._out = out
        self._total = total
        self._verbose = verbose
        self._done = 0
        self._ended_early = False
        self._interrupted = False
        self._colors = out.isatty()

    def begin(self, title: str, seed: str) -> None:
        """Say what is judged."""
        self._line(f"{plain(title)}; seed {seed}")

    def interrupted(self) -> None:
        """Say that the run is broken off; what ends after that has not ended by itself."""
        if not self._interrupted:
            self._line(f"\nInterrupted: {self._done} of {self._total} were told.")
        self._interrupted = True

    def result(self, result: Result) -> None:
        """Say how a story ended; of those that are not told, the first speaks for all."""
        if self._interrupted:
            return
        self._done += 1
        if result.outcome is Outcome.NOT_TOLD:
            if not self._ended_early:
                self._line(f"{self._paint('Ended early', '31')}: {plain(result.sentence)}")
            self._ended_early = True
            return
        sign, color = SIGNS[result.outcome]
        width = len(str(self._total))
        place = f"[{self._done:>{width}}/{self._total}]"
        story = result.story
        told = f"{place} {self._paint(sign, color)} {story.area}: {plain(story.title)} ({result.took_s:.1f} s)"
        if result.sentence and result.outcome is not Outcome.PASSED:
            told += f"\n{' ' * (len(place) + 3)}{result.outcome.value}: {plain(result.sentence)[:_TOLD_AT_ONCE]}"
        self._line(told)

    def end(self, report: Report) -> None:
        """Say what failed, and the counts."""
        for each in report.results:
            if each.outcome is Outcome.FAILED:
                self._line(f"\n{self._paint('FAILED', '31')} {each.story.name}: {plain(each.story.title)}")
                self._line(f"  shows {each.story.shows}")
                self._line(f"  {plain(each.sentence)}")
                if each.where:
                    self._line(f"  at {each.where}")
                if self._verbose:
                    self._steps(each)
        if any(each.outcome is Outcome.FAILED for each in report.results):
            self._line(f"\nOne of them again: {report.again('NAME')} -v")
        for reason in {each.sentence for each in report.results if each.outcome is Outcome.NOT_TOLD}:
            self._line(f"\n{self._paint('NOT ALL WERE TOLD', '31')}: {plain(reason)}")
        self._line(f"\n{report.summary()}; seed {report.seed}")

    def _steps(self, result: Result) -> None:
        for entry in result.journal or ():
            if isinstance(entry, Step):
                self._line(f"    {plain(entry.text)}")
                continue
            self._line(f"      {plain(str(entry))}")
            for body in filter(None, (entry.asked, entry.answered)):
                self._line(f"        {plain(body)[:500]}")

    def _paint(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self._colors else text

    def _line(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()
