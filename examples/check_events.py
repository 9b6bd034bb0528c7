"""Judges the events of a room with Sennit's rules alone: no server, no database, no network, no Twisted.

    python examples/check_events.py ROOM_VERSION < events.json

Reads a JSON list of PDUs, in any order, and prints a line for each: its ID, its type, and whether the rules of the room
version allow it on top of the events that it names; then the state that the ends of the graph resolve to.
Signatures are not checked, for that takes the servers' keys, and neither are content hashes: see
homeserver.model.receipt_of_events. The events of a room of your own server, from its SQLite database:

    sqlite3 sennit.db "SELECT json_group_array(json(CAST(json AS TEXT))) FROM events WHERE room_nid = 1" > events.json
"""

from __future__ import annotations

import json
import sys

from homeserver.errors import MatrixError
from homeserver.model.canonical_json import parse_exactly
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import check_event_format, event_from_wire
from homeserver.model.graph import forward_extremities, prev_graph, topological_order
from homeserver.model.ids import EventID
from homeserver.model.judgement import Verdict, judge_remote
from homeserver.model.receipt_of_events import trust_own
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import ROOM_VERSIONS

State = dict[StateKey, EventID]


def main() -> None:
    if len(sys.argv) != 2 or sys.argv[1] not in ROOM_VERSIONS:
        sys.exit(f"usage: check_events.py ROOM_VERSION < events.json, with one of {', '.join(ROOM_VERSIONS)}")
    version = ROOM_VERSIONS[sys.argv[1]]
    events: list[Event] = []
    for wire in parse_exactly(sys.stdin.buffer.read()):
        try:
            check_event_format(version, wire)
            events.append(event_from_wire(version, wire))
        except MatrixError as fault:
            print(f"not an event: {fault.message}")
    by_id = {event.event_id: event for event in events}
    create = next((event for event in events if event.type == "m.room.create"), None)
    if create is None:
        sys.exit("There is no create event of that room version among them.")
    states: dict[EventID, State] = {}
    rejected: set[EventID] = set()
    for event in topological_order(events):
        before = resolve_states(
            version, [states[prev] for prev in event.prev_event_ids if prev in states], by_id, create=create
        )
        judged = judge_remote(
            version,
            trust_own(event),
            auth_events=[by_id[each] for each in event.auth_event_ids if each in by_id],
            rejected_ids=rejected,
            state_before={key: by_id[event_id] for key, event_id in before.items()},
            current_state=None,
            create=create,
        )
        print(event.event_id, event.type, judged.reason or "allowed")
        states[event.event_id] = before
        if judged.verdict is Verdict.REJECTED:
            rejected.add(event.event_id)
        elif event.state_key is not None:
            states[event.event_id] = {**before, (event.type, event.state_key): event.event_id}
    ends = forward_extremities(prev_graph(events), rejected)
    resolved = resolve_states(version, [states[end] for end in sorted(ends)], by_id, create=create)
    print(
        json.dumps(
            {f"{kind} {state_key}".strip(): event_id for (kind, state_key), event_id in resolved.items()}, indent=2
        )
    )


if __name__ == "__main__":
    main()
