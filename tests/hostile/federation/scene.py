"""A room of servers that sign, of which one is bad: it builds events, and says whatever it wants of them.

    scene = Scene("12", evil, honest)          a room that `evil` hosts; nobody of the server under test is in it yet
    wire = scene.wire("m.room.message", scene.low, {"body": "x"})
    event = scene.add("m.room.topic", scene.mallory, {"topic": "x"}, "")

`state`, `tip` and `by_id` hold what is in order. The people: `mallory` made the room, `low` is in it without any power,
`banned` may not be, `stranger` is not; all of `evil`. `carol` is in it and `dan` is not; both of `honest`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

from homeserver.model.auth.needed import needed_state
from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import event_id_of, reference_hash, with_content_hash
from homeserver.model.ids import EventID, RoomID, server_name_of
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS
from homeserver.model.signing import sign_event
from tests.support.played_server import PlayedServer

_NUMBERS = count(1)


class Scene:
    """The builder. `foreign_room` is one of the server under test, which has nothing to do with this."""

    alice: str
    nobody: str
    server_name: str
    foreign_room: str

    def __init__(self, version: str, evil: PlayedServer, honest: PlayedServer, *, room_id: str = "") -> None:
        """`room_id`: of a room that is there already, whose events are given with `learn`; else one is made."""
        self.version = KNOWN_ROOM_VERSIONS[version]
        self.evil, self.honest = evil, honest
        self.players = {evil.name: evil, honest.name: honest}
        self.by_id: dict[str, Event] = {}
        self.state: dict[StateKey, str] = {}
        self.tip: str = ""
        self.room_id: str = room_id
        self.mallory, self.low = evil.user("mallory"), evil.user("low")
        self.banned, self.stranger = evil.user("banned"), evil.user("stranger")
        self.carol, self.dan = honest.user("carol"), honest.user("dan")
        if not room_id:
            self._create()

    def _create(self) -> None:
        version = self.version
        self.room_id = f"!scene{next(_NUMBERS)}:{self.evil.name}"
        content: dict[str, Any] = {"room_version": version.identifier, "org.example.number": next(_NUMBERS)}
        if version.creator_in_content:
            content["creator"] = self.mallory
        create = self.add("m.room.create", self.mallory, content, "", prev=[], auth=[])
        self.room_id = str(create.room_id)
        self.add("m.room.member", self.mallory, {"membership": "join"}, self.mallory)
        users = {} if version.privileged_creators else {self.mallory: 100}
        self.add("m.room.power_levels", self.mallory, {"users": users}, "")
        self.add("m.room.join_rules", self.mallory, {"join_rule": "public"}, "")
        for user_id in (self.low, self.carol):
            self.add("m.room.member", user_id, {"membership": "join"}, user_id)
        self.add("m.room.member", self.mallory, {"membership": "ban"}, self.banned)

    @property
    def end(self) -> Event:
        """The event that others build on."""
        return self.by_id[self.tip]

    # -- events ------------------------------------------------------------------------------------------------------

    def wire(
        self,
        kind: str,
        sender: str,
        content: Any,
        state_key: str | None = None,
        *,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        signed_by: Iterable[str] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return a PDU at the end of the room, hashed and signed; None in `changes` leaves a field out."""
        prev = ([self.tip] if self.tip else []) if prev is None else prev
        if auth is None:
            keys = needed_state(self.version, type=kind, sender=sender, state_key=state_key, content=content)
            auth = [self.state[key] for key in keys if key in self.state]
        depths = [self.by_id[each].depth for each in prev if each in self.by_id]
        wire: dict[str, Any] = {
            "type": kind,
            "sender": sender,
            "room_id": self.room_id,
            "content": content,
            "depth": 1 + max(depths, default=0),
            "origin_server_ts": 1_700_000_000_000 + next(_NUMBERS),
            "prev_events": self.references(prev),
            "auth_events": self.references(auth),
        }
        if state_key is not None:
            wire["state_key"] = state_key
        if kind == "m.room.create" and self.version.room_id_is_create_hash:
            del wire["room_id"]
        if self.version.references_carry_hashes:
            wire["event_id"] = f"$e{next(_NUMBERS)}:{server_name_of(sender)}"
        for name, value in changes.items():
            wire[name] = value
            if value is None:
                del wire[name]
        return self.sign(wire, *([server_name_of(sender)] if signed_by is None else signed_by))

    def sign(self, wire: Mapping[str, Any], *servers: str) -> dict[str, Any]:
        """Return the PDU hashed and signed by these servers, as far as they are played here."""
        signed = with_content_hash({**wire, "signatures": {}}, self.version)
        for server in servers:
            if server in self.players:
                signed = sign_event(self.version, signed, server, self.players[server].key)
        return signed

    def add(self, kind: str, sender: str, content: Any, state_key: str | None = None, **changes: Any) -> Event:
        """Make an event and have it stand."""
        return self.keep(self.wire(kind, sender, content, state_key, **changes))

    def keep(self, wire: Mapping[str, Any], event_id: str | None = None) -> Event:
        """Have an event stand, at the end."""
        event = self.learn(wire, event_id)
        self.tip = str(event.event_id)
        if event.state_key is not None:
            self.state[event.type, event.state_key] = str(event.event_id)
        return event

    def learn(self, wire: Mapping[str, Any], event_id: str | None = None) -> Event:
        """Know an event."""
        plain = json.loads(json.dumps(dict(wire)))
        found = EventID(event_id) if event_id else None
        room_id = RoomID(self.room_id) if self.room_id and "room_id" in plain else None
        event = event_from_wire(self.version, plain, found, room_id)
        self.by_id[str(event.event_id)] = event
        return event

    def id_of(self, wire: Any) -> str:
        """Return the event ID of what may be no event."""
        try:
            return str(event_id_of(self.version, wire))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return self.unknown_id()
        except Exception:
            return self.unknown_id()

    def unknown_id(self) -> str:
        """Return an event ID that nobody knows."""
        number = f"{next(_NUMBERS):043d}"
        return f"${number}:{self.evil.name}" if self.version.references_carry_hashes else f"${number}"

    def references(self, event_ids: Iterable[str]) -> list[Any]:
        """Return `prev_events` or `auth_events`."""
        if not self.version.references_carry_hashes:
            return list(event_ids)
        hashes = {
            each: reference_hash(self.version, self.by_id[each].wire) if each in self.by_id else "A" * 43
            for each in event_ids
        }
        return [[each, {"sha256": hashes[each]}] for each in event_ids]

    # -- what a resident answers -------------------------------------------------------------------------------------

    def state_wires(self) -> list[dict[str, Any]]:
        """Return the state, as PDUs."""
        return [dict(self.by_id[each].wire) for each in self.state.values()]

    def chain(self, event_ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return what events rest on, as PDUs."""
        found: dict[str, dict[str, Any]] = {}
        waiting = [str(each) for event_id in event_ids for each in self.by_id[event_id].auth_event_ids]
        while waiting:
            event_id = waiting.pop()
            if event_id in self.by_id and event_id not in found:
                found[event_id] = dict(self.by_id[event_id].wire)
                waiting.extend(map(str, self.by_id[event_id].auth_event_ids))
        return list(found.values())

    def template(self, user_id: str, membership: str, **changes: Any) -> dict[str, Any]:
        """Return the body of make_join and its likes."""
        content = {"membership": membership}
        keys = needed_state(self.version, type="m.room.member", sender=user_id, state_key=user_id, content=content)
        event = {
            "type": "m.room.member",
            "room_id": self.room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": content,
            "depth": self.end.depth + 1,
            "origin_server_ts": 1,
            "prev_events": self.references([self.tip]),
            "auth_events": self.references([self.state[key] for key in keys if key in self.state]),
            **changes,
        }
        return {"room_version": self.version.identifier, "event": event}
