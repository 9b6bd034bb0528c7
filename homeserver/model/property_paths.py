"""Dot-separated property paths, such as `content.m\\.relates_to.rel_type`.

A path is a tuple of property names here; the text form exists only at the edge.

Spec: appendices, "Dot-separated property paths".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

PropertyPath = tuple[str, ...]


class _Absent:
    """The type of `ABSENT`: no such property, as opposed to one that is null."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


def split_path(text: str) -> PropertyPath:
    """Return the property names of a path; every text is one.

    A backslash takes the special meaning from a dot or a backslash behind it, and is an ordinary character elsewhere.
    """
    if "\\" not in text:
        return tuple(text.split("."))
    names: list[str] = []
    name: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == ".":
            names.append("".join(name))
            name = []
        elif character == "\\":
            following = next(characters, "")
            name.append(following if following and following in ".\\" else "\\" + following)
        else:
            name.append(character)
    names.append("".join(name))
    return tuple(names)


def join_path(path: PropertyPath) -> str:
    """Return the text of which `split_path` makes `path`."""
    return ".".join(name.replace("\\", "\\\\").replace(".", "\\.") for name in path)


def find_property(value: Any, path: PropertyPath) -> Any:
    """Return what `path` leads to in `value`, or `ABSENT`; only objects are entered, never arrays."""
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return ABSENT
        value = value[name]
    return value
