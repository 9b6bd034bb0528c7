"""The graph of a room's events: orders, ends, gaps and chains, as functions of nothing but the edges.

Edges go from an event to its parents: its prev events (the room's history) or its auth events (what allows it).
`prev_graph` and `auth_graph` make the one or the other of events; the functions take any mapping from an ID to the IDs
of its parents.  A parent that is no key of the mapping is *missing*: it is a gap, and no edge.

All walks are loops over what was given, each edge once.  Circles, which cannot be made of hashes but can be claimed by
whoever chooses IDs, are cut and never followed.  Results do not depend on the order of the input.

Spec: server-server API, "PDUs" and "Backfilling and retrieving missing events"; rooms/v2, "Definitions" (auth chain).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

from .event import Event
from .ids import EventID

Parents = Mapping[EventID, Sequence[EventID]]
"""From an event to its parents."""

Rank = Callable[[EventID], Any]
"""From an event to what it is sorted by; unequal for unequal events."""


class EventView(Protocol):
    """The events of a room by ID, asked for one by one; a dict is one, and so is what loads them when asked."""

    def get(self, event_id: EventID, /) -> Event | None:
        """Return the event, or None if it is missing."""
        ...


def prev_graph(events: Iterable[Event]) -> dict[EventID, tuple[EventID, ...]]:
    """Return the graph of prev events."""
    return {event.event_id: event.prev_event_ids for event in events}


def auth_graph(events: Iterable[Event]) -> dict[EventID, tuple[EventID, ...]]:
    """Return the graph of auth events."""
    return {event.event_id: event.auth_event_ids for event in events}


def topological_order(events: Iterable[Event]) -> list[Event]:
    """Return the events with every prev event before its children; by depth, then ID, where that is free."""
    by_id = {event.event_id: event for event in events}

    def rank(event_id: EventID) -> tuple[int, str]:
        return by_id[event_id].depth, event_id

    return [by_id[event_id] for event_id in sort_topologically(prev_graph(by_id.values()), rank)]


def sort_topologically(parents: Parents, rank: Rank = str) -> list[EventID]:
    """Return all IDs, parents first; of all such orders the lexicographically smallest by `rank`.

    Kahn's algorithm.  Where only events of circles and their descendants are left, the smallest of them is taken.
    """
    waiting: dict[EventID, int] = {}
    children: dict[EventID, list[EventID]] = {}
    for event_id, its_parents in parents.items():
        known = {parent for parent in its_parents if parent in parents}
        waiting[event_id] = len(known)
        for parent in known:
            children.setdefault(parent, []).append(event_id)
    ready = [(rank(event_id), event_id) for event_id, count in waiting.items() if not count]
    heapify(ready)
    # Sorted once, and only where a circle stops the heap.
    stuck: list[tuple[Any, EventID]] | None = None
    order: list[EventID] = []
    while len(order) < len(waiting):
        if not ready:
            if stuck is None:
                stuck = sorted(
                    ((rank(event_id), event_id) for event_id, count in waiting.items() if count > 0), reverse=True
                )
            ready.append(stuck.pop())
        event_id = heappop(ready)[1]
        if waiting[event_id] < 0:
            continue
        waiting[event_id] = -1
        order.append(event_id)
        for child in children.get(event_id, ()):
            if waiting[child] > 0:
                waiting[child] -= 1
                if not waiting[child]:
                    heappush(ready, (rank(child), child))
    return order


def forward_extremities(parents: Parents, not_counted: Container[EventID] = ()) -> frozenset[EventID]:
    """Return the events without descendants; those in `not_counted`, rejected or soft-failed, are neither the one nor
    the other, but an event that cites one of them descends from what that one cites.

    Spec: server-server API, "Soft failure" and "Rejection".
    """
    counted = [event_id for event_id in parents if event_id not in not_counted]
    cited: set[EventID] = set()
    pending = [parent for event_id in counted for parent in parents[event_id]]
    while pending:
        event_id = pending.pop()
        if event_id not in cited:
            cited.add(event_id)
            if event_id in not_counted:
                pending.extend(parents.get(event_id, ()))
    return frozenset(event_id for event_id in counted if event_id not in cited)


def gaps(parents: Parents) -> dict[EventID, frozenset[EventID]]:
    """Return the missing events, each with those that cite it."""
    found: dict[EventID, set[EventID]] = {}
    for event_id, its_parents in parents.items():
        for parent in its_parents:
            if parent not in parents:
                found.setdefault(parent, set()).add(event_id)
    return {missing: frozenset(citing) for missing, citing in sorted(found.items())}


def depths(parents: Parents) -> dict[EventID, int]:
    """Return the length of the longest way back from each event: 1 for those without known parents."""
    found: dict[EventID, int] = {}
    for event_id in sort_topologically(parents):
        found[event_id] = 1 + max((found.get(parent, 0) for parent in parents[event_id]), default=0)
    return found


def ancestors(
    start: Iterable[EventID], parents_of: Callable[[EventID], Iterable[EventID]], stop: Container[EventID] = ()
) -> set[EventID]:
    """Return what is reached from `start` by one edge or more; events in `stop` are not reached nor passed."""
    found: set[EventID] = set()
    pending = list(start)
    while pending:
        for parent in parents_of(pending.pop()):
            if parent not in found and parent not in stop:
                found.add(parent)
                pending.append(parent)
    return found


def auth_chain(start: Iterable[EventID], events: EventView) -> set[EventID]:
    """Return the auth chains of the events together, as far as `events` has them.

    Spec: rooms/v2, "Definitions", "Auth chain".
    """
    return {event_id for event_id in ancestors(start, auth_parents(events)) if events.get(event_id) is not None}


def auth_chain_difference(sets: Sequence[Collection[EventID]], events: EventView) -> frozenset[EventID]:
    """Return the events that are in, or in the auth chain of, some of the sets, but not of all.

    An event counts as part of its own chain here.  COMPAT(synapse): by the letter of rooms/v2, "Auth difference", it
    does not, so that an event which is in all states could be in the difference; all servers in use do it so.
    """
    if len(sets) < 2:
        return frozenset()
    parents_of = auth_parents(events)
    common = set(sets[0]).intersection(*sets[1:])
    common |= ancestors(common, parents_of)
    counts: dict[EventID, int] = {}
    for event_ids in sets:
        own = {event_id for event_id in event_ids if event_id not in common}
        for event_id in own | ancestors(own, parents_of, stop=common):
            counts[event_id] = counts.get(event_id, 0) + 1
    return frozenset(
        event_id for event_id, count in counts.items() if count < len(sets) and events.get(event_id) is not None
    )


def auth_parents(events: EventView) -> Callable[[EventID], tuple[EventID, ...]]:
    """Return the function from an event to its auth events, to none where it is missing."""

    def parents_of(event_id: EventID) -> tuple[EventID, ...]:
        event = events.get(event_id)
        return () if event is None else event.auth_event_ids

    return parents_of
