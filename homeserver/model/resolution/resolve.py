"""The entry to state resolution: the algorithm of the room version is chosen here and nowhere else.

Spec: rooms/v1, rooms/v2 and rooms/v12, "State resolution".
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from ..event import Event, StateKey
from ..ids import EventID
from ..room_versions import RoomVersion, StateResolution
from .conflicts import Conflict, complete_conflict, separate
from .v1 import resolve_v1
from .v2 import resolve_v2


def resolve(
    version: RoomVersion,
    conflict: Conflict,
    events: Mapping[EventID, Event],
    *,
    create: Event,
    rejected: Container[EventID] = (),
) -> dict[StateKey, EventID]:
    """Return the changes that make the resolved state of the unconflicted one, sorted by key.

    No key of them is in `conflict.unconflicted`.  A key of `conflict.conflicted` that is missing in them has no value
    in the resolved state.  They may have keys of neither: an event of the auth difference whose key no state has.

    `events` is asked by `.get` only: for the events of the conflict and their auth events, for those of the
    unconflicted state that the rules look at, and for older power levels events.  What it lacks does not exist.
    Events of `rejected` count like others where they are in the conflict, but allow nothing to those that cite them.
    Pure; may run in a worker thread.
    """
    if version.state_resolution is StateResolution.V1:
        resolved = resolve_v1(version, conflict, events, create)
    else:
        resolved = resolve_v2(version, conflict, events, create, rejected)
    # Spec: rooms/v2, "Algorithm", 5: what is undisputed wins.
    unconflicted = conflict.unconflicted
    return {key: resolved[key].event_id for key in sorted(resolved) if unconflicted.get(key) is None}


def resolve_states(
    version: RoomVersion,
    state_sets: Sequence[Mapping[StateKey, EventID]],
    events: Mapping[EventID, Event],
    *,
    create: Event,
    rejected: Container[EventID] = (),
) -> dict[StateKey, EventID]:
    """Return the resolved state, whole, of states that are in memory; of none, an empty one.

    `events` and `rejected` are as for `resolve`; here `events` is also asked for the whole auth chains.
    """
    unconflicted, conflicted = separate(state_sets)
    if not conflicted:
        return unconflicted
    conflict = complete_conflict(version, state_sets, unconflicted, conflicted, events)
    return unconflicted | resolve(version, conflict, events, create=create, rejected=rejected)
