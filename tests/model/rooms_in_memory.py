"""Rooms that are nothing but a dict of state: enough for the pure rules, with events that nobody signed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from homeserver.errors import AuthRuleBroken
from homeserver.model.auth.numbering import rule_number
from homeserver.model.auth.rules import check_state_dependent
from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import V10, V11, V12, RoomVersion

ALICE = UserID("@alice:a.example")
BOB = UserID("@bob:b.example")
CAROL = UserID("@carol:c.example")
DAVE = UserID("@dave:d.example")
OLD_ROOM_ID = RoomID("!room:a.example")

VERSIONS = pytest.mark.parametrize("version", [V10, V11, V12], ids=lambda version: version.identifier)

_numbers = itertools.count(1)


class StateRoom:
    """A room of Alice's with only its create event and her in it; `state` is what the rules are shown."""

    def __init__(self, version: RoomVersion, **creation: Any) -> None:
        self.version = version
        content: dict[str, Any] = {"room_version": version.identifier, **creation}
        if version.creator_in_content:
            content.setdefault("creator", ALICE)
        create_id = EventID(f"$create{next(_numbers)}")
        self.room_id = RoomID(f"!{create_id[1:]}") if version.room_id_is_create_hash else OLD_ROOM_ID
        wire = {} if version.room_id_is_create_hash else {"room_id": self.room_id}
        self.create = self._build("m.room.create", ALICE, "", content, prev=(), event_id=create_id, wire=wire)
        self.state: dict[StateKey, Event] = {("m.room.create", ""): self.create}
        self.set_member(ALICE, "join")

    def event(
        self,
        event_type: str,
        sender: UserID,
        content: Mapping[str, Any],
        state_key: str | None = None,
        *,
        prev: Sequence[str] = ("$prev",),
        room_id: str | None = None,
        wire: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Event:
        """Return a new event that is not in the state."""
        return self._build(
            event_type, sender, state_key, content, prev=prev, wire=wire or {}, room_id=room_id, event_id=event_id
        )

    def member(self, sender: UserID, target: str, membership: Any, **content: Any) -> Event:
        """Return a new membership event."""
        return self.event("m.room.member", sender, {"membership": membership, **content}, target)

    def set_state(self, event_type: str, content: Mapping[str, Any], state_key: str = "", by: UserID = ALICE) -> Event:
        """Put an event into the state, allowed or not."""
        event = self.state[event_type, state_key] = self.event(event_type, by, content, state_key)
        return event

    def set_member(self, user_id: UserID, membership: str | None) -> None:
        """Make a user what `membership` says; None leaves them without an event."""
        if membership is not None:
            self.set_state("m.room.member", {"membership": membership}, user_id, by=user_id)

    def set_join_rule(self, rule: Any) -> None:
        """Set the join rule."""
        self.set_state("m.room.join_rules", {"join_rule": rule})

    def set_power(self, users: Mapping[str, Any] | None = None, **content: Any) -> None:
        """Set the power levels; Alice has 100 where creators are not above all."""
        if not self.version.privileged_creators:
            users = {ALICE: 100, **(users or {})}
        self.set_state("m.room.power_levels", {"users": dict(users or {}), **content})

    def _build(
        self,
        event_type: str,
        sender: UserID,
        state_key: str | None,
        content: Mapping[str, Any],
        *,
        prev: Sequence[str],
        wire: Mapping[str, Any],
        event_id: str | None = None,
        room_id: str | None = None,
    ) -> Event:
        return Event(
            event_id=EventID(event_id or f"$event{next(_numbers)}"),
            room_id=RoomID(room_id or self.room_id),
            type=event_type,
            sender=sender,
            content=content,
            state_key=state_key,
            depth=1,
            origin_server_ts=1,
            prev_event_ids=tuple(EventID(event) for event in prev),
            auth_event_ids=(),
            wire=wire,
        )


def broken_rule(room: StateRoom, event: Event) -> str | None:
    """Return the number of the rule that refuses the event, or None where it is allowed."""
    try:
        check_state_dependent(room.version, event, room.state, room.create)
    except AuthRuleBroken as broken:
        return broken.rule
    return None


def expected_rule(version: RoomVersion, rule: str | None) -> str | None:
    """Return the number in the version's own text of a rule of room version 12."""
    return None if rule is None else rule_number(version, rule)
