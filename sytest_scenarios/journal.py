"""What was done in a story, and what was asked and answered: kept in order, for the report of a failure.

Bounded: of a long story the beginning and the end are kept, and of a long body the beginning.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from .hiding import hide

KEPT_AT_EACH_END: Final = 100
KEPT_OF_A_BODY: Final = 4000
# Where many stories have failed, so much is kept of a body.
KEPT_WHERE_MANY_FAIL: Final = 200


@dataclass(slots=True)
class Step:
    """What somebody does, in words."""

    text: str
    at_s: float

    def __post_init__(self) -> None:
        """Keep no secrets."""
        self.text = hide(self.text)


@dataclass(slots=True)
class Exchange:
    """A request and what came of it."""

    who: str
    method: str
    url: str
    asked: str
    at_s: float
    status: int | None = None
    answered: str = ""
    took_s: float | None = None
    trouble: str = ""

    def __post_init__(self) -> None:
        """Keep no secrets."""
        self.url, self.asked, self.answered = hide(self.url), hide(self.asked), hide(self.answered)

    def __str__(self) -> str:
        """Return a line about it."""
        outcome = self.trouble or (f"{self.status}" if self.status else "no answer yet")
        return f"{self.who}: {self.method} {self.url}: {outcome}"


@dataclass(slots=True)
class Journal:
    """The course of one story."""

    first: list[Step | Exchange] = field(default_factory=list)
    last: deque[Step | Exchange] = field(default_factory=lambda: deque(maxlen=KEPT_AT_EACH_END))
    left_out: int = 0
    time_factor: float = 1
    """Multiplies how long it is waited for something to come."""
    under_way: list[Exchange] = field(default_factory=list)
    waited_s: float = 0
    """How long it was waited because the server wants fewer requests: no time limit counts that."""
    limited: int = 0
    """How many requests were refused for their rate, and not made again."""
    waiting: int = 0
    """How many wait for that now."""

    def patience_ends(self, within_s: float) -> float:
        """Return when something has to be there, on the monotonic clock; `waited_s` of then has to be added."""
        return time.monotonic() + within_s * self.time_factor - self.waited_s

    @contextmanager
    def wait(self) -> Iterator[None]:
        """What is done inside is waiting because the server has refused a request for its rate."""
        began = time.monotonic()
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1
            self.waited_s += time.monotonic() - began

    def add(self, entry: Step | Exchange) -> None:
        """Note what happens."""
        if len(self.first) < KEPT_AT_EACH_END:
            self.first.append(entry)
            return
        self.left_out += len(self.last) == KEPT_AT_EACH_END
        self.last.append(entry)

    def __iter__(self) -> Iterator[Step | Exchange]:
        """Return what is kept, in order."""
        yield from self.first
        if self.left_out:
            yield Step(f"… {self.left_out} steps and requests left out …", 0)
        yield from self.last

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return sum(_size(each) for each in (*self.first, *self.last))

    def shorten(self) -> None:
        """Keep less of the bodies."""
        for each in (*self.first, *self.last):
            if isinstance(each, Exchange):
                each.asked, each.answered = _beginning(each.asked), _beginning(each.answered)

    def where(self) -> str:
        """Say where the story stands."""
        if self.under_way:
            asked = ", ".join(f"{each.method} {each.url} of {each.who}" for each in self.under_way[:3])
            steps = (each.text for each in (*reversed(self.last), *reversed(self.first)) if isinstance(each, Step))
            step = next(steps, "")
            return f"no answer yet to {asked}" + (f"; the last step: {step}" if step else "")
        last: Step | Exchange | None = self.last[-1] if self.last else self.first[-1] if self.first else None
        if last is None:
            return "nothing done yet"
        return f"the last thing done: {last.text if isinstance(last, Step) else last}"


def _size(entry: Step | Exchange) -> int:
    # A text takes up to four bytes a character.
    texts = (entry.text,) if isinstance(entry, Step) else (entry.asked, entry.answered, entry.url)
    return 300 + sum(2 * len(each) for each in texts)


def _beginning(text: str) -> str:
    return text if len(text) <= KEPT_WHERE_MANY_FAIL + 30 else f"{text[:KEPT_WHERE_MANY_FAIL]}… (shortened)"


def cut(body: bytes | str) -> str:
    """Return as much of a body as is kept, without secrets."""
    size = len(body)
    text = body[:KEPT_OF_A_BODY]
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8", "strict" if size <= KEPT_OF_A_BODY else "ignore")
        except UnicodeDecodeError:
            text = repr(text)
    text = hide(text)
    return text if size <= KEPT_OF_A_BODY else f"{text}… ({size} bytes)"
