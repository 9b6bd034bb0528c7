"""Telling in which entries a stored state differs from the one that follows from the events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from homeserver.model.ids import EventID

from .report import RoomFindings
from .resolving import Resolver
from .states import State

# LIMIT: entries that are told one by one.
MAX_ENTRIES: Final = 10


def tell_state(
    resolver: Resolver, found: RoomFindings, event_id: str | None, aspect: str, expected: State, stored: State
) -> None:
    """Note the entries in which a stored state differs, the first few one by one."""
    differing = sorted(expected.differences(stored), key=lambda entry: entry[0])
    names = resolver.names([key_nid for key_nid, _, _ in differing[:MAX_ENTRIES]])
    for key_nid, here, there in differing[:MAX_ENTRIES]:
        kind, state_key = names.get(key_nid, ("state key without a name", str(key_nid)))
        ids = resolver.ids([nid for nid in (here, there) if nid])
        found.differs(event_id, f"{aspect}, {kind!r} {state_key!r}", _naming(ids, here), _naming(ids, there))
    if len(differing) > MAX_ENTRIES:
        found.differs(event_id, aspect, f"{len(expected.entries)} entries", f"{len(differing)} of them otherwise")


def _naming(ids: Mapping[int, EventID], nid: int | None) -> str:
    return "nothing" if nid is None else ids.get(nid, f"event number {nid}")
