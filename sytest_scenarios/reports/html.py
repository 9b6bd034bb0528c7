"""One page that holds everything: the counts, the stories by area, and of what failed each step, request and answer.

It needs nothing from elsewhere, has no script, and is read on a phone as well: text wraps, and there are no tables.
All that a server said is escaped.
"""

from __future__ import annotations

import json
from html import escape as escape_html
from itertools import groupby
from typing import Final, TextIO

from ..journal import Exchange, Step
from ..runner import Outcome, Result
from . import Report, plain

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --bad: #c22; --good: #283; --odd: #a70; }
body { font: 16px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1em; max-width: 60em; overflow-wrap: anywhere; }
h1 { font-size: 1.3em; } h2 { font-size: 1.1em; margin: 1.5em 0 .3em; }
.counts { display: flex; flex-wrap: wrap; gap: .5em; padding: 0; list-style: none; }
.counts li { border: 1px solid var(--line); border-radius: .5em; padding: .2em .6em; }
details, .story { border-top: 1px solid var(--line); padding: .35em 0; }
summary { cursor: pointer; } .story { padding-left: 1.1em; }
.said, .small { font-size: .9em; opacity: .85; margin: .2em 0 .2em 1.1em; }
.failed > summary .word, li.failed { color: var(--bad); font-weight: 600; }
.passed .word { color: var(--good); }
.not-yet .word, .flaky .word, .differs .word, .passed-unexpectedly .word { color: var(--odd); }
ol { padding-left: 1.2em; } li.exchange { list-style: none; border-left: 3px solid var(--line); padding-left: .6em; }
li.exchange.bad { border-color: var(--bad); } code, pre { font: 13px/1.4 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2em 0; max-height: 20em; overflow: auto; }
"""


def write_html(report: Report, out: TextIO) -> None:
    """Write the results as a page."""
    title = _escape(f"Scenarios: {report.title}")
    out.write(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body><h1>{title}</h1>\n"
        f"<p>{_escape(report.summary())}; seed <code>{_escape(report.seed)}</code></p>\n<ul class=counts>"
    )
    for outcome, number in report.counts().items():
        out.write(f'<li class="{_class(outcome)}">{number} {outcome.value}</li>')
    out.write("</ul>\n")
    failed = [each for each in report.results if each.outcome is Outcome.FAILED]
    if failed:
        out.write("<h2>What failed</h2>\n")
        for each in failed:
            _story(each, out, is_open=len(failed) == 1)
    rest = sorted(
        (each for each in report.results if each.outcome is not Outcome.FAILED), key=lambda each: each.story.area
    )
    for area, group in groupby(rest, key=lambda each: each.story.area):
        out.write(f"<h2>{_escape(area)}</h2>\n")
        for each in group:
            _story(each, out)
    out.write("</body></html>\n")


def _story(result: Result, out: TextIO, *, is_open: bool = False) -> None:
    story = result.story
    took = f" <span class=small>{result.took_s:.1f} s</span>"
    head = f"<span class=word>{result.outcome.value}</span> {_escape(story.title)}{took}"
    kind = _class(result.outcome)
    about = f"<p class=small>{_escape(story.name)}; shows {_escape(story.shows)}</p>"
    if result.sentence:
        about += f"<p class=said>{_escape(result.sentence)}</p>"
    if result.where:
        about += f"<p class=small><code>{_escape(result.where)}</code></p>"
    if result.journal is None and not result.sentence:
        out.write(f'<div class="story {kind}">{head}{about}</div>\n')
        return
    out.write(f'<details class="{kind}"{" open" if is_open else ""}><summary>{head}</summary>{about}<ol>\n')
    for entry in result.journal or ():
        out.write(f"<li>{_escape(entry.text)}</li>\n" if isinstance(entry, Step) else _exchange(entry))
    out.write("</ol></details>\n")


def _exchange(exchange: Exchange) -> str:
    bad = bool(exchange.trouble) or (exchange.status or 0) >= 400
    outcome = exchange.trouble or exchange.status or "no answer yet"
    took = "" if exchange.took_s is None else f", {exchange.took_s * 1000:.0f} ms"
    told = f"<code>{_escape(f'{exchange.method} {exchange.url}')}</code> → <b>{_escape(str(outcome))}</b>{took}"
    bodies = "".join(f"<pre>{_escape(_pretty(body))}</pre>" for body in (exchange.asked, exchange.answered) if body)
    head = f"{_escape(exchange.who)}: {told}"
    inner = f"<details><summary>{head}</summary>{bodies}</details>" if bodies else head
    return f'<li class="exchange{" bad" if bad else ""}">{inner}</li>\n'


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=1, ensure_ascii=False)
    except (ValueError, RecursionError):
        return body


def _class(outcome: Outcome) -> str:
    return outcome.value.replace(" ", "-")


def _escape(text: str) -> str:
    """Return text as the page holds it."""
    return escape_html(plain(text))
