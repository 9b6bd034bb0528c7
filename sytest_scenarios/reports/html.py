"""One page that holds everything: the counts, the stories by area, and of what failed each step, request and answer.

It needs nothing from elsewhere and has no script: the boxes by which outcomes and areas are chosen work by its style
alone. It is read on a phone as well: text wraps, and there are no tables. All that a server said is escaped.
"""

from __future__ import annotations

import json
import time
from html import escape as escape_html
from itertools import groupby
from typing import Final, TextIO

from ..journal import Exchange, Step
from ..runner import Outcome, Result
from . import Report, plain

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8885; --back: #8881; --bad: #c22; --good: #283; --odd: #960; }
@media (prefers-color-scheme: dark) { :root { --bad: #f77; --good: #6c8; --odd: #eb5; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1em; max-width: 62em; overflow-wrap: anywhere; }
h1 { font-size: 1.3em; line-height: 1.25; margin: .2em 0; } h2 { font-size: 1.1em; margin: 1.6em 0 .4em; }
p { margin: .4em 0; }
.choice { position: absolute; opacity: 0; pointer-events: none; }
.chips { display: flex; flex-wrap: wrap; gap: .4em; margin: .5em 0; }
.chips label { border: 1px solid var(--line); border-radius: 1em; padding: .25em .8em; cursor: pointer; opacity: .55; }
.chips label small { opacity: .75; }
details, .story { border-top: 1px solid var(--line); padding: .45em 0; }
summary { cursor: pointer; } .story { padding-left: 1.1em; }
.word { font-size: .85em; font-weight: 600; } .small { font-size: .85em; opacity: .8; }
.about { margin: .3em 0 .3em 1.1em; } .said { margin: .4em 0; white-space: pre-wrap; }
.failed .word, .not-told .word { color: var(--bad); } .passed .word { color: var(--good); }
.not-yet .word, .flaky .word, .differs .word, .passed-unexpectedly .word { color: var(--odd); }
ol { list-style: none; margin: .5em 0; padding: 0 0 0 .3em; } li { margin: .3em 0; }
li.exchange { border-left: 3px solid var(--line); padding-left: .6em; font-size: .92em; }
li.exchange details { border: 0; padding: 0; }
li.exchange.bad { border-color: var(--bad); } li.exchange.bad b { color: var(--bad); }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; background: var(--back); border-radius: .4em; padding: .5em; margin: .3em 0; }
pre { max-height: 22em; overflow: auto; }
footer { margin-top: 2em; border-top: 1px solid var(--line); padding-top: .5em; }
"""


def write_html(report: Report, out: TextIO) -> None:
    """Write the results as a page."""
    title = _escape(f"Scenarios: {report.title}")
    areas = sorted({each.story.area for each in report.results})
    began = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(report.began_at))
    out.write(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}{_choosing(report, areas)}</style></head>\n<body>\n"
    )
    for outcome in report.counts():
        out.write(f'<input class=choice type=checkbox id="o-{_class(outcome)}" checked>')
    for number in range(-1, len(areas)):
        out.write(f'<input class=choice type=radio name=area id="a{number}"{" checked" if number < 0 else ""}>')
    out.write(
        f"\n<header><h1>{title}</h1>\n<p>{_escape(report.summary())}; seed <code>{_escape(report.seed)}</code>; "
        f"<span class=small>{began}</span></p>\n<div class=chips>"
    )
    for outcome, number in report.counts().items():
        kind = _class(outcome)
        out.write(f'<label for="o-{kind}" class="{kind}"><span class=word>{number} {outcome.value}</span></label>')
    out.write("</div>\n<details><summary>Areas</summary><div class=chips><label for=a-1>all</label>")
    for number, area in enumerate(areas):
        count = sum(each.story.area == area for each in report.results)
        out.write(f"<label for=a{number}>{_escape(area)} <small>{count}</small></label>")
    out.write("</div></details>\n</header>\n<main>\n")
    failed = [each for each in report.results if each.outcome is Outcome.FAILED]
    if failed:
        places = {f"in{areas.index(each.story.area)}" for each in failed}
        out.write(f'<section class="{" ".join(sorted(places))}"><h2 class="failed">What failed</h2>\n')
        for each in failed:
            _story(report, each, areas, out, is_open=len(failed) == 1)
        out.write("</section>\n")
    rest = sorted(
        (each for each in report.results if each.outcome is not Outcome.FAILED), key=lambda each: each.story.area
    )
    for area, group in groupby(rest, key=lambda each: each.story.area):
        out.write(f'<section class="in{areas.index(area)}"><h2>{_escape(area)}</h2>\n')
        for each in group:
            _story(report, each, areas, out)
        out.write("</section>\n")
    again = _escape(report.again("NAME"))
    out.write(f"</main>\n<footer class=small>One story again: <code>{again}</code></footer>\n</body></html>\n")


def _choosing(report: Report, areas: list[str]) -> str:
    """Return the style by which a box hides what it stands for, and shows that it is chosen."""
    rules = [
        f"#o-{kind}:not(:checked) ~ main .{kind} {{ display: none; }} "
        f"#o-{kind}:checked ~ header [for=o-{kind}] {{ opacity: 1; background: var(--back); }} "
        f"#o-{kind}:focus-visible ~ header [for=o-{kind}] {{ outline: 2px solid; }}"
        for kind in map(_class, report.counts())
    ]
    for number in range(-1, len(areas)):
        chosen = f"#a{number}:checked ~ "
        rules.append(f"{chosen}header [for=a{number}] {{ opacity: 1; background: var(--back); }}")
        rules.append(f"#a{number}:focus-visible ~ header [for=a{number}] {{ outline: 2px solid; }}")
        if number >= 0:
            rules.append(f"{chosen}main :is(details, .story, section)[class*=in]:not(.in{number}) {{ display: none; }}")
    return "\n".join(rules)


def _story(report: Report, result: Result, areas: list[str], out: TextIO, *, is_open: bool = False) -> None:
    story = result.story
    took = f" <span class=small>{result.took_s:.1f} s</span>"
    head = f"<span class=word>{result.outcome.value}</span> {_escape(story.title)}{took}"
    kind = f"{_class(result.outcome)} in{areas.index(story.area)}"
    about = f"<p class=small>{_escape(story.name)}; shows {_escape(story.shows)}</p>"
    if result.sentence:
        about += f"<p class=said>{_escape(result.sentence)}</p>"
    if result.where:
        about += f"<p class=small><code>{_escape(result.where)}</code></p>"
    if result.outcome is Outcome.FAILED:
        about += f"<p class=small>Again: <code>{_escape(report.again(story.name))}</code></p>"
    about = f"<div class=about>{about}</div>"
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
