"""Drawings of a room's graph, as text and as Graphviz source."""

from __future__ import annotations


def plain(text: str, limit: int) -> str:
    """Return `text` as one line of printable characters, at most `limit` of them."""
    shown = text if text.isprintable() else "".join(c if c.isprintable() else f"\\u{{{ord(c):x}}}" for c in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
