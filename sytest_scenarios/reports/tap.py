"""TAP, version 13: a line for each story, and the sentence of what failed."""

from __future__ import annotations

import json
from typing import TextIO

from ..runner import Outcome
from . import Report, plain


def write_tap(report: Report, out: TextIO) -> None:
    """Write the results as TAP."""
    out.write(f"TAP version 13\n1..{len(report.results)}\n# {_line(report.title)}; seed {report.seed}\n")
    for number, each in enumerate(report.results, 1):
        good = each.outcome not in (Outcome.FAILED, Outcome.NOT_YET, Outcome.DIFFERS, Outcome.NOT_TOLD)
        directive = ""
        if each.outcome is Outcome.SKIPPED:
            directive = f" # SKIP {_line(each.sentence)}"
        elif each.outcome in (Outcome.NOT_YET, Outcome.UNEXPECTED, Outcome.DIFFERS):
            directive = f" # TODO {_line(each.sentence)}"
        told = _line(f"{each.story.name} {each.story.title}").replace("#", "\\#")
        out.write(f"{'ok' if good else 'not ok'} {number} - {told}{directive}\n")
        if each.outcome in (Outcome.FAILED, Outcome.FLAKY, Outcome.NOT_TOLD):
            # JSON is YAML too.
            out.write(f"  ---\n  message: {json.dumps(each.sentence)}\n")
            out.write(f"  at: {json.dumps(each.where)}\n  shows: {json.dumps(each.story.shows)}\n  ...\n")


def _line(text: str) -> str:
    return " ".join(plain(text).split())
