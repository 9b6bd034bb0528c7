"""Random rooms with forks: people who join, leave, rise, fall, ban and rename on several branches at once.

What happens is drawn from a seed, so that a failure can be told by its number.  Every event is one that a server would
accept: it has the format of the room version, its auth events are selected from the state before it, and that state
allows it.  Branches are merged now and then by an event with several prev events; the state before such an event is the
resolved one.

Hashes and IDs are the true ones.  Signatures are made only where keys are given.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.needed import needed_state
from homeserver.model.auth.rules import check_state_dependent
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import event_id_of, reference_hash, with_content_hash
from homeserver.model.ids import EventID, UserID, server_name_of
from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import EventIDScheme, RoomVersion
from homeserver.model.signing import SigningKey, sign_event

ALICE: Final = UserID("@alice:a.example")
USERS: Final[tuple[UserID, ...]] = (
    ALICE,
    UserID("@anna:a.example"),
    UserID("@bob:b.example"),
    UserID("@bill:b.example"),
    UserID("@carol:c.example"),
    UserID("@dave:d.example"),
)
START_MS: Final = 1_700_000_000_000

KeyOf = Callable[[str], SigningKey]
"""From the name of a server to its key."""

_State = Mapping[StateKey, EventID]
_Wish = tuple[str, UserID, "str | None", dict[str, Any]]
# How often an event that the state does not allow is drawn again before something that is always allowed is taken.
_ATTEMPTS: Final = 30


@dataclass(slots=True)
class RandomRoom:
    """A room as a server that has all of it would know it."""

    version: RoomVersion
    # In topological order; the create event is the first.
    events: list[Event] = field(default_factory=list)
    by_id: dict[EventID, Event] = field(default_factory=dict)
    # The state after each event.
    states: dict[EventID, _State] = field(default_factory=dict)
    # The last events of the branches; none is an ancestor of another.
    tips: list[EventID] = field(default_factory=list)

    @property
    def create(self) -> Event:
        return self.events[0]


def random_room(
    seed: int, version: RoomVersion, *, events: int, branches: int, key: KeyOf | None = None
) -> list[Event]:
    """Return the events of a random room in topological order: as many as asked for, and at least three."""
    return build_random_room(seed, version, events=events, branches=branches, key=key).events


def build_random_room(
    seed: int, version: RoomVersion, *, events: int, branches: int, key: KeyOf | None = None
) -> RandomRoom:
    """Return a random room with its states; with `key`, each event is signed by every server that has to."""
    builder = _Builder(random.Random(seed), version, key, f"r{seed}")
    builder.open()
    while len(builder.room.events) < events:
        builder.step(branches)
    return builder.room


class _Builder:
    def __init__(self, draw: random.Random, version: RoomVersion, key: KeyOf | None, name: str) -> None:
        self.room = RandomRoom(version)
        self.version = version
        self._draw = draw
        self._key = key
        self._name = name
        self._now_ms = START_MS
        self._hashes: dict[EventID, str] = {}
        self._first_join = EventID("")

    def open(self) -> None:
        content: dict[str, Any] = {"room_version": self.version.identifier}
        if self.version.creator_in_content:
            content["creator"] = ALICE
        if self.version.privileged_creators and self._draw.random() < 0.3:
            content["additional_creators"] = [USERS[1]]
        create = self._add(("m.room.create", ALICE, "", content), ())
        assert create is not None
        join = self._add(("m.room.member", ALICE, ALICE, {"membership": "join"}), (create,))
        assert join is not None
        self._first_join = join
        if self._draw.random() < 0.9:
            levels: dict[str, Any] = {"users": {} if self.version.privileged_creators else {ALICE: 100}}
            self._add(("m.room.power_levels", ALICE, "", levels), tuple(self.room.tips))
        rule = self._draw.choice(["public", "public", "public", "invite", self._join_rule()])
        self._add(("m.room.join_rules", ALICE, "", {"join_rule": rule}), tuple(self.room.tips))

    def step(self, branches: int) -> None:
        """Add one event: on a branch, on a new branch, or to merge some."""
        draw, tips = self._draw, self.room.tips
        chance = draw.random()
        parents: tuple[EventID, ...] = (draw.choice(tips),)
        if chance < 0.15 and len(tips) < branches:
            parents = (draw.choice(self.room.events[1:]).event_id,)
        elif chance > 0.9 and len(tips) > 1:
            parents = tuple(sorted(draw.sample(tips, draw.randint(2, min(len(tips), 5)))))
        state = self._state_before(parents)
        for _ in range(_ATTEMPTS):
            if self._add(self._wish(state), parents, state) is not None:
                return
        message: _Wish = ("m.room.message", ALICE, None, {"msgtype": "m.text", "body": str(len(self.room.events))})
        assert self._add(message, (self._first_join,)) is not None

    # -- what happens --

    def _wish(self, state: _State) -> _Wish:
        draw = self._draw
        sender, other = draw.choice(USERS), draw.choice(USERS)
        kind = draw.choice(_KINDS)
        if kind == "topic" or kind == "name":
            return (f"m.room.{kind}", sender, "", {kind: f"{kind} {draw.randint(0, 999)}"})
        if kind == "message":
            return ("m.room.message", sender, None, {"msgtype": "m.text", "body": str(draw.randint(0, 999))})
        if kind == "own":
            return ("org.example.own", sender, other, {"number": draw.randint(0, 9)})
        if kind == "rules":
            return ("m.room.join_rules", sender, "", {"join_rule": self._join_rule()})
        if kind == "power":
            return ("m.room.power_levels", sender, "", self._power_levels(state, other))
        if kind in ("join", "knock"):
            return ("m.room.member", sender, sender, self._joining(kind, other))
        return ("m.room.member", sender, other, {"membership": kind})

    def _joining(self, membership: str, other: UserID) -> dict[str, Any]:
        content: dict[str, Any] = {"membership": membership, "displayname": f"name {self._draw.randint(0, 99)}"}
        if membership == "join" and self.version.restricted_joins and self._draw.random() < 0.5:
            content["join_authorised_via_users_server"] = other
        return content

    def _join_rule(self) -> str:
        rules = ["public", "invite"]
        rules += ["knock"] * self.version.knocking + ["restricted"] * self.version.restricted_joins
        rules += ["knock_restricted"] * self.version.knock_restricted_joins
        return self._draw.choice(rules)

    def _power_levels(self, state: _State, other: UserID) -> dict[str, Any]:
        draw = self._draw
        event_id = state.get(("m.room.power_levels", ""))
        old = {"users": {ALICE: 100}} if event_id is None else self.room.by_id[event_id].content
        new = {name: dict(value) if isinstance(value, dict) else value for name, value in old.items()}
        level = draw.choice((0, 10, 50, 50, 75, 100))
        change = draw.random()
        if change < 0.7:
            new["users"][other] = level
        elif change < 0.85:
            new["events"] = {**new.get("events", {}), draw.choice(("m.room.topic", "m.room.name")): level}
        else:
            new[draw.choice(("ban", "kick", "invite", "state_default", "events_default", "users_default"))] = level
        if not self.version.integer_power_levels and draw.random() < 0.1:
            new["users"][other] = f" {level} "
        return new

    # -- how it becomes an event --

    def _state_before(self, parents: Sequence[EventID]) -> _State:
        if not parents:
            return {}
        states = [self.room.states[parent] for parent in parents]
        if len(states) == 1:
            return states[0]
        return resolve_states(self.version, states, self.room.by_id, create=self.room.create)

    def _add(self, wish: _Wish, parents: tuple[EventID, ...], state: _State | None = None) -> EventID | None:
        """Add the event if the state allows it, and return its ID; else None."""
        room, version = self.room, self.version
        event_type, sender, state_key, content = wish
        before = self._state_before(parents) if state is None else state
        needed = needed_state(version, type=event_type, sender=sender, state_key=state_key, content=content)
        auth_ids = tuple(event_id for key in needed if (event_id := before.get(key)) is not None)
        event = self._event(wish, parents, auth_ids)
        view = {key: room.by_id[event_id] for key in needed if (event_id := before.get(key)) is not None}
        try:
            check_state_dependent(version, event, view, room.events[0] if room.events else event)
        except AuthRuleBroken:
            return None
        if self._key is not None:
            event = self._signed(event, self._key)
        room.events.append(event)
        room.by_id[event.event_id] = event
        room.states[event.event_id] = (
            before if state_key is None else {**before, (event_type, state_key): event.event_id}
        )
        room.tips = [tip for tip in room.tips if tip not in parents] + [event.event_id]
        return event.event_id

    def _event(self, wish: _Wish, parents: tuple[EventID, ...], auth_ids: tuple[EventID, ...]) -> Event:
        version = self.version
        event_type, sender, state_key, content = wish
        # Clocks that go wrong sometimes, and stand still often enough for ties.
        self._now_ms += self._draw.choice((0, 0, 1, 1000))
        skew = self._draw.choice((0, 0, 0, -5000, 5000))
        wire: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "content": content,
            "origin_server_ts": self._now_ms + skew,
            "depth": 1 + max((self.room.by_id[parent].depth for parent in parents), default=0),
            "prev_events": self._references(parents),
            "auth_events": self._references(auth_ids),
        }
        if state_key is not None:
            wire["state_key"] = state_key
        if not version.room_id_is_create_hash:
            wire["room_id"] = f"!{self._name}:a.example"
        elif self.room.events:
            wire["room_id"] = self.room.create.room_id
        if version.event_id_scheme is EventIDScheme.CHOSEN:
            wire["event_id"] = f"${self._draw.randrange(16**8):08x}{len(self.room.events)}:{server_name_of(sender)}"
        wire = {**with_content_hash(wire), "signatures": {}}
        return event_from_wire(version, wire)

    def _references(self, event_ids: Sequence[EventID]) -> list[Any]:
        if not self.version.references_carry_hashes:
            return list(event_ids)
        return [[event_id, {"sha256": self._hash_of(event_id)}] for event_id in event_ids]

    def _hash_of(self, event_id: EventID) -> str:
        if event_id not in self._hashes:
            self._hashes[event_id] = reference_hash(self.version, self.room.by_id[event_id].wire)
        return self._hashes[event_id]

    def _signed(self, event: Event, key: KeyOf) -> Event:
        servers = [server_name_of(event.sender)]
        authoriser = event.content.get("join_authorised_via_users_server")
        if authoriser is not None:
            servers.append(server_name_of(authoriser))
        wire = event.wire
        for server_name in dict.fromkeys(servers):
            wire = sign_event(self.version, wire, server_name, key(server_name))
        assert event.event_id == event_id_of(self.version, wire)
        return event_from_wire(self.version, wire)


# Memberships by their names; the rest is spelled out in `_wish`.
_KINDS: Final = (
    *("join",) * 3,
    *("power",) * 5,
    *("topic",) * 4,
    *("name", "message", "own", "rules", "invite", "knock"),
    *("leave", "leave", "ban", "ban"),
)
