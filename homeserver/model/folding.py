"""Text as it is searched: the same for letters of any case and for composed and decomposed forms.

Databases fold differently (SQLite knows ASCII only), so what is searched is folded here, once, and stored; a search
folds its term in the same way and the database compares bytes.

Spec: client-server API, "Published room directory" and "User directory" (both search case-insensitively).
"""

from __future__ import annotations

import unicodedata
from typing import Final

# LIMIT: words of one text beyond these are not found; each is a row of an index.
MAX_WORDS: Final = 16
MAX_WORD_CHARACTERS: Final = 60

# Separators, punctuation, control characters. Symbols and emoji are parts of words: some names have nothing else.
_BETWEEN_WORDS: Final = frozenset("ZPC")


def fold(text: str, max_characters: int) -> str:
    """Return the folded form of a text, at most so many characters; what is cut off is not found."""
    # Folding may make a text longer, by a bounded factor; so it is cut before and after.
    if text.isascii():
        folded = text[:max_characters].lower()
    else:
        composed = unicodedata.normalize("NFKC", text[:max_characters].encode("utf-8", "replace").decode())
        folded = unicodedata.normalize("NFKC", composed.casefold())[:max_characters]
    # SQLite ends a text at NUL in some functions and not in others.
    return folded.replace("\x00", "\ufffd")


def words_of(folded: str) -> list[str]:
    """Return the words of a folded text, each once, in order."""
    words: dict[str, None] = {}
    current: list[str] = []
    for character in [*folded, " "]:
        if unicodedata.category(character)[0] not in _BETWEEN_WORDS:
            current.append(character)
        elif current:
            words["".join(current[:MAX_WORD_CHARACTERS])] = None
            if len(words) == MAX_WORDS:
                break
            current = []
    return list(words)
