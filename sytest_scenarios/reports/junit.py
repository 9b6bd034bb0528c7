"""JUnit XML, as CI servers read it: a test suite for each area."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TextIO
from xml.etree.ElementTree import Element, SubElement, tostring

from ..journal import Step
from ..runner import Outcome, Result
from . import Report

# XML 1.0 has no place for these, not even escaped.
_UNSPEAKABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(report: Report, out: TextIO) -> None:
    """Write the results as JUnit XML."""
    root = Element("testsuites", {"name": _clean(report.title), "time": f"{report.took_s:.3f}"})
    ordered = sorted(report.results, key=lambda each: each.story.area)
    for area, group in groupby(ordered, key=lambda each: each.story.area):
        results = list(group)
        suite = SubElement(
            root,
            "testsuite",
            {
                "name": area,
                "tests": str(len(results)),
                "failures": str(sum(each.outcome is Outcome.FAILED for each in results)),
                "errors": str(sum(each.outcome is Outcome.NOT_TOLD for each in results)),
                "skipped": str(sum(_is_skip(each) for each in results)),
                "time": f"{sum(each.took_s for each in results):.3f}",
            },
        )
        for each in results:
            _add(suite, each)
    out.write('<?xml version="1.0" encoding="utf-8"?>\n')
    out.write(tostring(root, encoding="unicode"))
    out.write("\n")


def _add(suite: Element, result: Result) -> None:
    story = result.story
    case = SubElement(
        suite,
        "testcase",
        {"classname": story.name.rpartition(".")[0], "name": _clean(story.title), "time": f"{result.took_s:.3f}"},
    )
    if result.outcome is Outcome.FAILED:
        failure = SubElement(case, "failure", {"message": _clean(result.sentence)})
        failure.text = _clean(f"shows {story.shows}\n{result.where}\n")
        SubElement(case, "system-out").text = _clean(_steps(result))
    elif result.outcome is Outcome.NOT_TOLD:
        SubElement(case, "error", {"message": _clean(f"{result.outcome.value}: {result.sentence}")})
    elif _is_skip(result):
        SubElement(case, "skipped", {"message": _clean(f"{result.outcome.value}: {result.sentence}")})
    elif result.sentence:
        SubElement(case, "system-out").text = _clean(f"{result.outcome.value}: {result.sentence}")


def _is_skip(result: Result) -> bool:
    return result.outcome in (Outcome.SKIPPED, Outcome.NOT_YET, Outcome.DIFFERS)


def _steps(result: Result) -> str:
    return "\n".join(each.text if isinstance(each, Step) else f"  {each}" for each in result.journal or ())


def _clean(text: str) -> str:
    return _UNSPEAKABLE.sub("�", text)
