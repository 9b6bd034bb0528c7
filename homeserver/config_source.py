"""Where a setting stands in its file, and how a mistake in it is told.

`tomllib` reads TOML but forgets the lines; `toml_key_lines` finds them again by scanning the text a second time,
which may assume that the text is valid.  A mistake is a `Finding` (where, and a sentence); findings with lines make
a `ConfigError`, whose text is what an operator reads.  Also here: sizes ("50M"), durations ("1h") and the search for
the key that was probably meant.  Nothing here knows any setting by name.
"""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from homeserver.errors import Misconfigured

# A place in a configuration: names of keys and positions in lists, such as ("listeners", 0, "port").
Location = tuple[str | int, ...]

# LIMIT: a configuration is written by hand; anything larger is the wrong file.
MAX_FILE_BYTES = 1024 * 1024

_SIZE = re.compile(r"([0-9]+)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_DURATION = re.compile(r"([0-9]+)\s*(ms|s|m|h|d|w|y)?")
_DURATION_FACTORS = {
    None: 1,
    "ms": 1,
    "s": 1000,
    "m": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
    "y": 31_536_000_000,
}
# A larger number of bytes or milliseconds is a slip of the hand, and would not fit into a database column.
_MAX_AMOUNT = 2**62


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake: the place in the settings, and what is wrong there."""

    location: Location
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one key of one file; `line` counts from 1 and is None where there is no file."""

    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}"


class ConfigError(Misconfigured):
    """A configuration cannot be used; `problems` holds every mistake found, in the order of lines."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        count = len(self.problems)
        head = f"{source}: {count} mistakes" if count > 1 else f"{source}: one mistake"
        super().__init__("\n".join([head, *(f"  {problem}" for problem in self.problems)]))


def dotted(location: Sequence[str | int]) -> str:
    """Return a location as an operator writes it: `listeners[0].port`; the first of a list has the number 0."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def line_of(lines: Mapping[Location, int], location: Location) -> int | None:
    """Return the line of a location, or of the nearest thing around it that has one."""
    for length in range(len(location), 0, -1):
        line = lines.get(location[:length])
        if line is not None:
            return line
    return None


def nearest(wrong: str, valid: Iterable[str]) -> str | None:
    """Return the valid key that was probably meant, or None."""
    matches = difflib.get_close_matches(wrong.lower(), list(valid), n=1, cutoff=0.6)
    return matches[0] if matches else None


def parse_size(value: object) -> int:
    """Return a number of bytes from `52428800` or "50M" (K, M, G and T are powers of 1024); else ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_AMOUNT:
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) and len(value) < 40 else None
    amount = int(match[1]) * _SIZE_FACTORS[match[2].upper()] if match else -1
    if not 0 <= amount <= _MAX_AMOUNT:
        raise ValueError('expected a size, as a number of bytes or like "50M"')
    return amount


def parse_duration_ms(value: object) -> int:
    """Return milliseconds from `3600000` or "1h" (ms, s, m, h, d, w, y); else ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_AMOUNT:
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) and len(value) < 40 else None
    amount = int(match[1]) * _DURATION_FACTORS[match[2]] if match else -1
    if not 0 <= amount <= _MAX_AMOUNT:
        raise ValueError('expected a duration, as a number of milliseconds or like "1h"')
    return amount


def toml_key_lines(text: str) -> dict[Location, int]:
    """Return the line of every key, table and list item in a valid TOML text."""
    return _TomlScan(text).lines


class _TomlScan:
    """One pass over a TOML text that `tomllib` has accepted."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._last_item: dict[Location, int] = {}
        self.lines: dict[Location, int] = {}
        self._document()

    def _document(self) -> None:
        table: Location = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._position):
                self._position += 2
                array = self._inside_arrays(self._key_path())
                self._last_item[array] = self._last_item.get(array, -1) + 1
                self._note(array)
                table = (*array, self._last_item[array])
                self._note(table)
                self._position += 2
            elif self._text[self._position] == "[":
                self._position += 1
                table = self._inside_arrays(self._key_path())
                self._note(table)
                self._position += 1
            else:
                self._pair(table)

    def _inside_arrays(self, names: Sequence[str]) -> Location:
        """Return where a table header points to: names of arrays mean their newest item."""
        location: Location = ()
        for index, name in enumerate(names):
            location = (*location, name)
            if location in self._last_item and index < len(names) - 1:
                location = (*location, self._last_item[location])
        return location

    def _note(self, location: Location) -> None:
        for length in range(1, len(location) + 1):
            self.lines.setdefault(location[:length], bisect.bisect_left(self._newlines, self._position) + 1)

    def _skip_blank(self, extra: str = "") -> bool:
        """Move past white space, comments and `extra` characters; tell whether anything is left."""
        text, end = self._text, len(self._text)
        while self._position < end:
            character = text[self._position]
            if character == "#":
                newline = text.find("\n", self._position)
                self._position = end if newline < 0 else newline
            elif character in " \t\r\n" or character in extra:
                self._position += 1
            else:
                return True
        return False

    def _key_path(self) -> list[str]:
        names: list[str] = []
        while self._skip_blank(extra="."):
            character = self._text[self._position]
            if character in "\"'":
                names.append(self._quoted()[1:-1])
                continue
            match = re.compile(r"[A-Za-z0-9_-]+").match(self._text, self._position)
            if match is None:
                break
            names.append(match[0])
            self._position = match.end()
        return names

    def _pair(self, table: Location) -> None:
        location = table
        for name in self._key_path():
            location = (*location, name)
            self._note(location)
        self._skip_blank(extra="=")
        self._value(location)

    def _value(self, location: Location) -> None:
        character = self._text[self._position : self._position + 1]
        if character in ('"', "'"):
            self._quoted()
        elif character == "[":
            self._position += 1
            index = 0
            while self._skip_blank(extra=",") and self._text[self._position] != "]":
                self._note((*location, index))
                self._value((*location, index))
                index += 1
            self._position += 1
        elif character == "{":
            self._position += 1
            while self._skip_blank(extra=",") and self._text[self._position] != "}":
                self._pair(location)
            self._position += 1
        else:
            match = re.compile(r"[^,\]}#\n]*").match(self._text, self._position)
            self._position = match.end() if match is not None and match.end() > self._position else self._position + 1

    def _quoted(self) -> str:
        """Move past a string of any of the four kinds and return it with its outermost quotes."""
        start = self._position
        quote = self._text[start]
        long = self._text.startswith(quote * 3, start)
        closing = quote * 3 if long else quote
        position = start + len(closing)
        while position < len(self._text) and not self._text.startswith(closing, position):
            position += 2 if quote == '"' and self._text[position] == "\\" else 1
        position += len(closing)
        # Up to two more quotes may stand directly before the closing three.
        while long and position < len(self._text) and self._text[position] == quote:
            position += 1
        self._position = position
        return self._text[start:position]
