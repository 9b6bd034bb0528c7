"""Text of other people, made fit for a terminal and for lines of ours.

Whatever comes from a server, names, bodies, topics, IDs and the texts of errors, passes here before it is shown. A
terminal takes control characters for orders: it can be made to change its title, move the cursor, answer as if the
user had typed. Directional overrides let a text read as something else, a line break in a name forges a line of
somebody else's, hidden characters make two names look alike, and a thousand accents on one letter paint over the
lines above. The results hold none of that: no character of the categories Cc, Cs, Zl and Zp, no directional controls,
and at most `MAX_MARKS` combining marks in a row.

Bounded: texts are cut before they are looked at.
"""

from __future__ import annotations

import unicodedata
from typing import Final

MAX_NAME: Final = 64
MAX_LINE: Final = 400
MAX_BODY: Final = 20_000
MAX_LINES: Final = 60
MAX_MARKS: Final = 3

_UNKNOWN: Final = "\N{REPLACEMENT CHARACTER}"
_ELLIPSIS: Final = "…"
# Format characters that a text may need: these shape letters and emoji, and move nothing.
_JOINERS: Final = frozenset("\u200c\u200d")
# Letters by category, and yet nothing is seen of them.
_BLANKS: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
# An emoji in text or colour; harmless, and no accent.
_VARIATION_SELECTORS: Final = frozenset("\ufe0e\ufe0f")


def one_line(text: object, limit: int = MAX_LINE) -> str:
    """Return `text` on one line of at most `limit` characters, with single spaces; "" if it is no string."""
    if not isinstance(text, str):
        return ""
    # What is dropped makes room, but nobody may make us look at a megabyte for it.
    clean = " ".join(_clean(text[: 4 * limit]).split())
    if len(clean) > limit:
        return clean[: limit - 1].rstrip() + _ELLIPSIS
    return clean + (_ELLIPSIS if len(text) > 4 * limit else "")


def name(text: object, otherwise: str) -> str:
    """Return what somebody calls themselves or a room, without anything hidden; `otherwise` where nothing is left."""
    clean = one_line(text, MAX_NAME)
    shown = "".join(character for character in clean if character not in _JOINERS)
    if all(character in _BLANKS or character.isspace() or unicodedata.combining(character) for character in shown):
        return one_line(otherwise, 255)
    return shown


def look(text: str) -> str:
    """Return what two names have in common that look the same, or nearly."""
    return unicodedata.normalize("NFKC", text).casefold()


def lines(text: object) -> list[str]:
    """Return `text` as one line or more, without blank ones at the end; at most `MAX_LINES`."""
    if not isinstance(text, str):
        return [""]
    cut = text[:MAX_BODY].replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n")
    raw = cut.rstrip("\n").split("\n", MAX_LINES)
    clean = [_clean(line.replace("\t", "    ")).rstrip() for line in raw[:MAX_LINES]]
    if len(raw) > MAX_LINES or len(text) > MAX_BODY:
        clean.append(_ELLIPSIS)
    return clean


def _clean(text: str) -> str:
    """Return `text` without what orders, hides or overpaints; a line break becomes a space."""
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if category in ("Mn", "Me") and character not in _VARIATION_SELECTORS:
            marks += 1
            if marks > MAX_MARKS:
                continue
        else:
            marks = 0
        if category == "Cc":
            kept.append(_control(character))
        elif category in ("Cs", "Co"):
            kept.append(_UNKNOWN)
        elif category in ("Zl", "Zp"):
            kept.append(" ")
        elif category != "Cf" or character in _JOINERS:
            kept.append(character)
    return "".join(kept)


def _control(character: str) -> str:
    """Return a sign that stands for a control character: ESC is seen as ␛."""
    if character in "\t\n\v\f\r":
        return " "
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else _UNKNOWN
