"""Times the pure rules: auth checks with the state in memory, making an event, and checking a received one.

    python tools/bench_rules.py

Prints microseconds for one call each, the best of several rounds; the targets are those for one core of a small server.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))

from homeserver.model.auth.rules import check_state_dependent
from homeserver.model.compose import GraphPlace, compose
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.hashing import reference_hashes
from homeserver.model.ids import RoomID, UserID
from homeserver.model.judgement import Judged, judge_remote
from homeserver.model.receipt_of_events import check_received, read_received, trust_own
from homeserver.model.room_versions import ROOM_VERSIONS, RoomVersion
from homeserver.model.server_keys import build_server_keys, parse_server_keys
from homeserver.model.signing import generate_signing_key

SERVER = "a.example"
ALICE, BOB = UserID(f"@alice:{SERVER}"), UserID(f"@bob:{SERVER}")
KEY = generate_signing_key(b"b" * 32, "bench")
ROUNDS, CALLS = 7, 2_000
NOW_MS = 1_700_000_000_000
MEMBERS = 1_000


class Room:
    """A room of a version with its first events, all in memory."""

    def __init__(self, version: RoomVersion) -> None:
        self.version = version
        self.room_id = None if version.room_id_is_create_hash else RoomID(f"!bench:{SERVER}")
        self.state: dict[StateKey, Event] = {}
        self.last: Event | None = None
        content: dict[str, object] = {"room_version": version.identifier}
        if version.creator_in_content:
            content["creator"] = ALICE
        self.create = self.add("m.room.create", content, "")
        self.room_id = self.create.room_id
        self.add("m.room.member", {"membership": "join"}, ALICE)
        users = {f"@user{number}:{SERVER}": 1 for number in range(MEMBERS)}
        if not version.privileged_creators:
            users[ALICE] = 100
        self.add("m.room.power_levels", {"users": users}, "")
        self.add("m.room.join_rules", {"join_rule": "public"}, "")

    def place(self, *keys: StateKey) -> GraphPlace:
        """Return the place after the last event, with the state of these keys cited."""
        prev = () if self.last is None else (self.last,)
        auth = tuple(self.state[key] for key in keys if key in self.state)
        return GraphPlace(
            prev_event_ids=tuple(event.event_id for event in prev),
            auth_event_ids=tuple(event.event_id for event in auth),
            depth=1,
            reference_hashes=reference_hashes(self.version, (*prev, *auth)),
        )

    def keys(self, *more: StateKey) -> tuple[StateKey, ...]:
        """Return the keys that an event of Alice's cites."""
        keys: tuple[StateKey, ...] = (("m.room.power_levels", ""), ("m.room.member", ALICE), *more)
        return keys if self.version.create_is_implicit_auth_event else (("m.room.create", ""), *keys)

    def make(self, template: EventTemplate, place: GraphPlace) -> Event:
        """Compose an event."""
        return compose(
            self.version,
            template,
            room_id=None if template.type == "m.room.create" and self.room_id is None else self.room_id,
            place=place,
            server_name=SERVER,
            key=KEY,
            now_ms=NOW_MS,
        )

    def add(self, event_type: str, content: dict[str, object], state_key: str) -> Event:
        """Compose a state event of Alice's and put it into the state."""
        template = EventTemplate(event_type, content, ALICE, state_key)
        self.last = self.state[event_type, state_key] = self.make(template, self.place(*self.keys()))
        return self.last


def best_us(call: Callable[[], object]) -> float:
    """Return the microseconds of one call in the best round."""
    best = float("inf")
    for _ in range(ROUNDS):
        begin = perf_counter()
        for _ in range(CALLS):
            call()
        best = min(best, perf_counter() - begin)
    return best / CALLS * 1e6


def bench(version: RoomVersion) -> dict[str, float]:
    """Return the figures of one room version."""
    room = Room(version)
    message = EventTemplate("m.room.message", {"msgtype": "m.text", "body": "hello, " * 10}, ALICE)
    place = room.place(*room.keys())
    said = room.make(message, place)
    joined = room.make(EventTemplate("m.room.member", {"membership": "join"}, BOB, BOB), place)
    keys = {SERVER: parse_server_keys(build_server_keys(SERVER, [KEY], {}, NOW_MS + 1_000_000), SERVER, NOW_MS)}
    auth = [event for event in room.state.values() if event.event_id in said.auth_event_ids]
    auth.sort(key=lambda event: said.auth_event_ids.index(event.event_id))
    own = trust_own(said)

    def judged() -> Judged:
        return judge_remote(
            version,
            own,
            auth_events=auth,
            rejected_ids=(),
            state_before=room.state,
            current_state=room.state,
            create=room.create,
        )

    assert judged().reason is None, judged().reason
    wire = dict(said.wire)
    return {
        "auth check of a message (<= 25)": best_us(
            lambda: check_state_dependent(version, said, room.state, room.create)
        ),
        "auth check of a join (<= 25)": best_us(
            lambda: check_state_dependent(version, joined, room.state, room.create)
        ),
        "judge_remote of a message": best_us(judged),
        "compose of a message (<= 150)": best_us(lambda: room.make(message, place)),
        "check of a received message": best_us(lambda: check_received(read_received(version, wire), keys)),
    }


def main() -> None:
    """Print the table."""
    for identifier in ("1", "5", "6", "10", "11", "12"):
        for name, figure in bench(ROOM_VERSIONS[identifier]).items():
            print(f"room version {identifier:>2}  {name:<34} {figure:8.1f} us")


if __name__ == "__main__":
    main()
