"""Reports can be read by what reads them, whatever a server has said."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from sytest_scenarios.journal import KEPT_AT_EACH_END, Exchange, Journal, Step, cut
from sytest_scenarios.reports import Report
from sytest_scenarios.reports.html import write_html
from sytest_scenarios.reports.junit import write_junit
from sytest_scenarios.reports.tap import write_tap
from sytest_scenarios.reports.terminal import Terminal
from sytest_scenarios.runner import Outcome, Result
from sytest_scenarios.story import Story

NASTY = "<script>alert(1)</script>\x00\x1b[31m\ud800 ]]> & \"'\n# ok"


async def _tell(_: Any) -> None: ...


def _report() -> Report:
    journal = Journal()
    journal.add(Step(NASTY, 0))
    journal.add(Exchange("Alice", "GET", "http://x/", "{}", 0, 200, NASTY, 0.1))
    results = [
        Result(
            Story(f"story {outcome.value} {NASTY}", _tell, "area", f"area/module.{outcome.name}", "the spec"),
            outcome,
            "" if outcome is Outcome.PASSED else NASTY,
            0.5,
            journal if outcome is Outcome.FAILED else None,
        )
        for outcome in Outcome
    ]
    return Report(f"a server {NASTY}", "7", results, 3.0)


def test_junit_is_xml_and_counts() -> None:
    out = io.StringIO()
    write_junit(_report(), out)
    (suite,) = ElementTree.fromstring(out.getvalue().encode())
    counts = [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]
    assert ["8", "1", "1", "3"] == counts


def test_tap_has_a_line_for_each_story() -> None:
    out = io.StringIO()
    write_tap(_report(), out)
    lines = out.getvalue().splitlines()
    assert "1..8" == lines[1]
    assert 8 == sum(line.startswith(("ok ", "not ok ")) for line in lines)


def test_page_holds_no_script_and_asks_for_nothing() -> None:
    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[str, dict[str, str | None]]] = []

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            self.seen.append((tag, dict(attrs)))

    out = io.StringIO()
    write_html(_report(), out)
    tags = Tags()
    tags.feed(out.getvalue())
    assert {"script", "link", "img", "iframe", "table"}.isdisjoint({tag for tag, _ in tags.seen})
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags.seen
    assert not [attributes for _, attributes in tags.seen if "src" in attributes or "href" in attributes]
    assert out.getvalue().encode() and "\x1b" not in out.getvalue()


def test_page_lets_choose_by_outcome_and_area_and_says_how_to_tell_a_story_again() -> None:
    out = io.StringIO()
    write_html(_report(), out)
    page = out.getvalue()
    for outcome in Outcome:
        kind = outcome.value.replace(" ", "-")
        assert f'id="o-{kind}" checked' in page and f'<label for="o-{kind}"' in page
        assert f"#o-{kind}:not(:checked) ~ main .{kind}" in page and f'class="{kind} in0"' in page.replace("story ", "")
    assert "<label for=a0>area <small>8</small></label>" in page
    assert "sennit-scenarios --seed 7 -k area/module.FAILED" in page


@pytest.mark.parametrize("verbose", [False, True])
def test_terminal_gets_no_escapes_of_a_server(verbose: bool) -> None:
    out = io.StringIO()
    terminal = Terminal(out, 8, verbose=verbose)
    report = _report()
    terminal.begin(report.title, "7")
    for each in report.results:
        terminal.result(each)
    terminal.end(report)
    assert "\x1b" not in out.getvalue() and "\x00" not in out.getvalue()
    assert "1 failed" in out.getvalue()


def test_journal_keeps_both_ends() -> None:
    journal = Journal()
    for number in range(1000):
        journal.add(Step(str(number), 0))
    kept = [each.text for each in journal if isinstance(each, Step)]
    assert ("0", "999", 2 * KEPT_AT_EACH_END + 1) == (kept[0], kept[-1], len(kept))


def test_a_long_body_is_cut() -> None:
    assert cut(b"x" * 100_000).endswith("… (100000 bytes)")
    assert "b'\\xff'" == cut(b"\xff")
