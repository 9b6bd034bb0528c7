"""A good object made bad, in every place in turn."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

# One of each kind of what can be wrong; see `inputs.WRONG_VALUES` for more of each.
WRONG: tuple[Any, ...] = (
    None,
    True,
    1.5,
    2**53,
    "\x00\ud800",
    "x" * 70_000,
    [],
    [None, {}],
    {},
    {"": {"a:b": [1]}},
)
# Names that no object should have for a user, a device or a key.
NAMES: tuple[str, ...] = ("", "\x00", "x" * 300, "*", "no colon", "@:", "a:")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the paths to everything in an object."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from places(inner, (*path, name))


def mutations(value: dict[str, Any], wrong: Sequence[Any] = WRONG) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return (what was done, the object with that done): a wrong value, or another name, in each place, or nothing."""
    for path in places(value):
        shown = "/".join(map(str, path))
        for index, bad in enumerate(wrong):
            changed, holder = _at(value, path)
            holder[path[-1]] = bad
            yield f"{shown} = wrong {index}", changed
        if not isinstance(path[-1], str):
            continue
        changed, holder = _at(value, path)
        del holder[path[-1]]
        yield f"no {shown}", changed
        if len(path) > 1:
            for index, name in enumerate(NAMES):
                changed, holder = _at(value, path)
                holder[name] = holder.pop(path[-1])
                yield f"{shown} named {index}", changed


def _at(value: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    changed = copy.deepcopy(value)
    holder = changed
    for name in path[:-1]:
        holder = holder[name]
    return changed, holder
