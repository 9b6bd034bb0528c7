"""Glob matching that takes linear time whatever the pattern and the text.

`*` stands for zero or more characters, `?` for exactly one.  A pattern is cut at its stars into segments of fixed
length; taking the earliest place for each segment in turn is enough, so nothing is ever tried twice.  Segments without
`?` are found by `str.find`; those with one by a bit-parallel scan (a shift and a mask for each character).

No regular expressions: a backtracking engine takes exponential time on patterns such as `*a*a*a*a*b`.

Case-insensitive means: both sides in `str.lower` form.  Callers on a hot path lower their text once and compile the
lowered pattern without `ignore_case`.

Spec: appendices, "Glob-style matching"; client-server API, "Push Rules" (word boundaries).
"""

from __future__ import annotations

import string
import sys
from collections.abc import Callable, Iterator
from typing import Final

Matcher = Callable[[str], bool]

# Spec: client-server API, "Push Rules": a word boundary is the start or end of the value or any character not in these.
_WORD_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "_")

# LIMIT: words are looked for in the first 8,192 characters of a text only, and a stretch with `?` between two stars is
# found in no longer text, which bounds the work of one pattern on one event to a few milliseconds in the worst case.
MAX_SEARCHED_CHARACTERS: Final = 8_192


def glob_match(
    pattern: str, text: str, *, ignore_case: bool = False, words: bool = False, question_mark: bool = True
) -> bool:
    """Tell whether `text` matches `pattern`; see `compile_glob` for the options."""
    return compile_glob(pattern, ignore_case=ignore_case, words=words, question_mark=question_mark)(text)


def compile_glob(
    pattern: str, *, ignore_case: bool = False, words: bool = False, question_mark: bool = True
) -> Matcher:
    """Return a function that tells whether a text matches `pattern`.

    With `words` it is enough that a part of the text matches which starts and ends at a word boundary; otherwise the
    whole text must.  With `question_mark=False` a `?` is an ordinary character.
    """
    if ignore_case:
        pattern = pattern.lower()
    matcher = _compile_words(pattern, question_mark) if words else _compile_whole(pattern, question_mark)
    if ignore_case:
        return lambda text: matcher(text.lower())
    return matcher


def has_wildcards(pattern: str) -> bool:
    """Tell whether `pattern` can match anything but itself."""
    return "*" in pattern or "?" in pattern


def contains_words(words: str, text: str) -> bool:
    """Tell whether `words`, taken literally, stand in `text` with a word boundary at both ends."""
    text = text[:MAX_SEARCHED_CHARACTERS]
    length = len(words)
    place = text.find(words)
    while place >= 0:
        if _is_boundary(text, place) and _is_boundary(text, place + length):
            return True
        place = text.find(words, place + 1)
    return False


class _Segment:
    """A stretch of a pattern without stars: matches texts of one length only."""

    __slots__ = ("_goal", "_masks", "_pieces", "_text", "_wild", "length")

    def __init__(self, text: str, question_mark: bool) -> None:
        self.length = len(text)
        self._text = text if not (question_mark and "?" in text) else None
        self._pieces: list[tuple[int, str]] = []
        self._masks: dict[str, int] = {}
        self._wild = 0
        self._goal = 1 << max(0, self.length - 1)
        if self._text is None:
            start = 0
            for piece in text.split("?"):
                if piece:
                    self._pieces.append((start, piece))
                start += len(piece) + 1
            self._wild = sum(1 << i for i, character in enumerate(text) if character == "?")
            for i, character in enumerate(text):
                if character != "?":
                    self._masks[character] = self._masks.get(character, self._wild) | 1 << i

    @property
    def is_wild(self) -> bool:
        """Whether the segment holds a `?`."""
        return self._text is None

    def is_at(self, text: str, place: int) -> bool:
        """Tell whether the segment matches at `place`."""
        if self._text is not None:
            return text.startswith(self._text, place)
        if place + self.length > len(text):
            return False
        return all(text.startswith(piece, place + offset) for offset, piece in self._pieces)

    def may_be_in(self, text: str) -> bool:
        """Tell quickly of most texts that the segment is nowhere in them."""
        if self._text is not None:
            return self._text in text
        return all(piece in text for _, piece in self._pieces)

    def find(self, text: str, start: int) -> int:
        """Return the first place from `start` on where the segment matches, or -1."""
        if self._text is not None:
            return text.find(self._text, start)
        return next(self._scan(text, start), -1)

    def places(self, text: str, start: int) -> Iterator[int]:
        """Give every place from `start` on where the segment matches, in order."""
        if self._text is None:
            yield from self._scan(text, start)
            return
        place = text.find(self._text, start)
        while place >= 0:
            yield place
            place = text.find(self._text, place + 1)

    def _scan(self, text: str, start: int) -> Iterator[int]:
        state, goal, wild, mask_of = 0, self._goal, self._wild, self._masks.get
        for end in range(start, len(text)):
            state = (state << 1 | 1) & mask_of(text[end], wild)
            if state & goal:
                yield end - self.length + 1


def _compile_whole(pattern: str, question_mark: bool) -> Matcher:
    parts = pattern.split("*")
    if len(parts) == 1:
        if not question_mark or "?" not in pattern:
            return lambda text: text == pattern
        only = _Segment(pattern, question_mark)
        return lambda text: len(text) == only.length and only.is_at(text, 0)
    if not any(parts):
        return lambda text: True
    first, last = _Segment(parts[0], question_mark), _Segment(parts[-1], question_mark)
    middle = tuple(_Segment(part, question_mark) for part in parts[1:-1] if part)
    shortest = first.length + last.length
    longest = MAX_SEARCHED_CHARACTERS if any(segment.is_wild for segment in middle) else sys.maxsize

    def matches(text: str) -> bool:
        end = len(text) - last.length
        if not shortest <= len(text) <= longest or not first.is_at(text, 0) or not last.is_at(text, end):
            return False
        place = first.length
        for segment in middle:
            place = segment.find(text, place)
            if place < 0:
                return False
            place += segment.length
        return place <= end

    return matches


def _compile_words(pattern: str, question_mark: bool) -> Matcher:
    parts = pattern.split("*")
    if len(parts) == 1 and not (question_mark and "?" in pattern):
        return lambda text: contains_words(pattern, text)
    segments = tuple(_Segment(part, question_mark) for part in parts)
    first, last = segments[0], segments[-1]
    middle = tuple(segment for segment in segments[1:-1] if segment.length)

    def matches(text: str) -> bool:
        text = text[:MAX_SEARCHED_CHARACTERS]
        for segment in segments:
            if not segment.may_be_in(text):
                return False
        if len(segments) == 1:
            return any(
                _is_boundary(text, place) and _is_boundary(text, place + first.length)
                for place in first.places(text, 0)
            )
        # An empty first segment is at the start of the text, an empty last one at its end: both are boundaries.
        place = next((place for place in first.places(text, 0) if _is_boundary(text, place)), -1)
        if place < 0:
            return False
        place += first.length
        for segment in middle:
            place = segment.find(text, place)
            if place < 0:
                return False
            place += segment.length
        if not last.length:
            return True
        return any(_is_boundary(text, end + last.length) for end in last.places(text, place))

    return matches


def _is_boundary(text: str, place: int) -> bool:
    """Tell whether no word goes on across `place`."""
    return (
        place == 0
        or place == len(text)
        or text[place - 1] not in _WORD_CHARACTERS
        or text[place] not in _WORD_CHARACTERS
    )
