"""How a story says what it expects; and the sentence of a story that failed.

    check_equal("hello", message["content"]["body"], "the text that Bob reads")
    check(bob.user_id in members, "Bob is a member", came=members)
    with refused(403, "M_FORBIDDEN", what="Bob's message to a room that he is not in"):
        await bob.say(room, "let me in")

Every failure is one `Failed`: what was expected, and what came instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from .hiding import hide

LONGEST_SHOWN: Final = 600


class Failed(Exception):
    """The world is not as the story expects it."""

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}; got {came}")
        self.expected = expected
        self.came = came


class Refused(Failed):
    """The server answered a request of a story with an error."""

    def __init__(self, expected: str, came: str, *, status: int, errcode: str | None, body: Any) -> None:
        super().__init__(expected, came)
        self.status = status
        self.errcode = errcode
        self.body = body


class Skipped(Exception):
    """The story cannot be told here; the text is the reason."""


def check(condition: object, expected: str, *, came: object) -> None:
    """Fail unless the condition holds; `expected` is a sentence without "expected"."""
    if not condition:
        raise Failed(expected, shown(came))


def check_equal(expected: object, came: object, what: str) -> None:
    """Fail unless both are the same; `what` names the thing."""
    if expected != came:
        raise Failed(f"{what} to be {shown(expected)}", shown(came))


@contextmanager
def refused(*reasons: int | str, what: str) -> Iterator[None]:
    """Expect the requests inside to be refused, with one of these statuses and one of these errcodes (none: any).

    `refused(403, "M_FORBIDDEN", what=…)`, `refused(400, 404, what=…)`. On the stream, which has no statuses, only the
    errcode is looked at. Only the first refusal is seen: put one request inside. A refusal for its rate, or because the
    server does not know the endpoint, is none unless its errcode is among the reasons.
    """
    statuses = [each for each in reasons if isinstance(each, int)]
    errcodes = [each for each in reasons if isinstance(each, str)]
    wanted = f"{what} to be refused" + (f" with {_either(reasons)}" if reasons else "")
    try:
        yield
    except Refused as refusal:
        if refusal.errcode == "M_LIMIT_EXCEEDED" and refusal.errcode not in errcodes and 429 not in statuses:
            raise
        unserved = refusal.status in (404, 405) and refusal.errcode == "M_UNRECOGNIZED" and not errcodes
        wrong_status = statuses and refusal.status and refusal.status not in statuses
        if wrong_status or (errcodes and refusal.errcode not in errcodes) or refusal.status >= 500 or unserved:
            raise Failed(wanted, refusal.came) from None
    else:
        raise Failed(wanted, "success")


def _either(reasons: Sequence[int | str]) -> str:
    kinds = ([str(each) for each in reasons if isinstance(each, kind)] for kind in (int, str))
    return " ".join(" or ".join(each) for each in kinds if each)


def shown(value: object) -> str:
    """Return a value as a report shows it: JSON if it is, without secrets, and not too long."""
    if isinstance(value, str | int | float | list | dict | tuple | bool) or value is None:
        try:
            text = json.dumps(value, ensure_ascii=False)
        except (TypeError, ValueError):
            text = repr(value)
    else:
        text = repr(value)
    text = hide(text)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({len(text)} characters)"
