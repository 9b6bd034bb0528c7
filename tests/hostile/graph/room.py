"""A room of servers that sign, as the first inlet sees it: PDUs go in as JSON, a verdict comes out.

`Graph.take` is the way of every event of another server through the pure functions: format, ID, signatures, hash, auth
rules.  Its answer is one of a few words; anything else, an exception or a second of processor time, fails the test.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pytest

from homeserver.model.event import Event, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.hashing import with_content_hash
from homeserver.model.judgement import judge_remote
from homeserver.model.receipt_of_events import Dropped, check_received, read_received
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.model.signing import SigningKey, generate_signing_key, sign_event
from tests.support.selection import versions

ALICE, BOB, CAROL, MALLORY = "@alice:a.example", "@bob:b.example", "@carol:c.example", "@mallory:evil.example"
SERVERS = ("a.example", "b.example", "c.example", "evil.example")
NOW = 1_000_000
VALID_UNTIL = 2_000_000
MAX_SECONDS = 1.0

VERSIONS = pytest.mark.parametrize("version", versions(KNOWN_ROOM_VERSIONS.values(), "1", "6", "12"))

KEYS: Mapping[str, SigningKey] = {
    server: generate_signing_key(bytes([number]) * 32, "1") for number, server in enumerate(SERVERS, 1)
}
KNOWN_KEYS: Mapping[str, ServerKeys] = {
    server: ServerKeys(
        server,
        MappingProxyType({key.key_id: ServerKey(key.verify_key, VALID_UNTIL)}),
        VALID_UNTIL,
        NOW,
    )
    for server, key in KEYS.items()
}


def server_of(user_id: str) -> str:
    return user_id.partition(":")[2]


class Graph:
    """Alice's public room with Bob and Mallory in it; `state` and `events` hold what was accepted."""

    def __init__(self, version: RoomVersion, **creation: Any) -> None:
        self.version = version
        self.events: dict[str, Event] = {}
        self.rejected: set[str] = set()
        self.state: dict[StateKey, Event] = {}
        self.room_id = "!room:a.example"
        self.tip: str | None = None
        content = {"room_version": version.identifier, **creation}
        if version.creator_in_content:
            content["creator"] = ALICE
        self.create = self._build(self.wire("m.room.create", ALICE, content, "", prev=[], auth=[]))
        if version.room_id_is_create_hash:
            self.room_id = self.create.room_id
        self._keep(self.create)
        for user_id in (ALICE, BOB, MALLORY):
            if user_id == BOB:
                self.add("m.room.join_rules", ALICE, {"join_rule": "public"}, "")
            self.add("m.room.member", user_id, {"membership": "join"}, user_id)
        users = {} if version.privileged_creators else {ALICE: 100}
        self.add("m.room.power_levels", ALICE, {"users": {**users, BOB: 50}, "invite": 50}, "")

    def wire(
        self,
        event_type: str,
        sender: str,
        content: Any,
        state_key: str | None = None,
        *,
        prev: Sequence[str] | None = None,
        auth: Sequence[str] | None = None,
        signed_by: Sequence[str] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        """Return a PDU in place at the tip, hashed and signed by the sender's server; None in `changes` leaves out."""
        if prev is None:
            prev = [self.tip] if self.tip else []
        if auth is None:
            auth = [self.state[key].event_id for key in self._auth_keys(event_type, sender, content, state_key)]
        wire: dict[str, Any] = {
            "type": event_type,
            "sender": sender,
            "room_id": self.room_id,
            "content": content,
            "depth": len(self.events) + 1,
            "origin_server_ts": NOW,
            "prev_events": self._references(prev),
            "auth_events": self._references(auth),
        }
        if state_key is not None:
            wire["state_key"] = state_key
        if event_type == "m.room.create" and self.version.room_id_is_create_hash:
            del wire["room_id"]
        if self.version.references_carry_hashes:
            wire["event_id"] = f"$e{len(self.events)}:{server_of(sender)}"
        for name, value in changes.items():
            wire[name] = value
        return self.sign(wire, *((server_of(sender),) if signed_by is None else signed_by))

    def sign(self, wire: dict[str, Any], *servers: str) -> dict[str, Any]:
        """Return the PDU hashed and signed by these servers."""
        wire = with_content_hash({**wire, "signatures": {}}, self.version)
        for server in servers:
            wire = sign_event(self.version, wire, server, KEYS[server])
        return wire

    def take(self, wire: object, keys: Mapping[str, ServerKeys] = KNOWN_KEYS, *, keep: bool = False) -> str:
        """Return what becomes of a PDU: dropped, or the verdict, with "redacted " before it if its hash did not fit."""
        # Not to be measured: what the garbage collector has to do in a process that has run thousands of tests.
        gc.disable()
        begin = time.thread_time()
        try:
            return self._take(wire, keys, keep)
        finally:
            gc.enable()
            assert time.thread_time() - begin < MAX_SECONDS

    def add(self, event_type: str, sender: str, content: Any, state_key: str | None = None, **changes: Any) -> Event:
        """Take an event that must be accepted, and make it the tip."""
        wire = self.wire(event_type, sender, content, state_key, **changes)
        assert "accepted" == self.take(wire, keep=True), (event_type, content)
        return self.events[self.tip or ""]

    def _take(self, wire: object, keys: Mapping[str, ServerKeys], keep: bool) -> str:
        try:
            checked = check_received(read_received(self.version, wire), keys)
        except Dropped:
            return "dropped"
        event = checked.event
        cited = [self.events[event_id] for event_id in event.auth_event_ids if event_id in self.events]
        judged = judge_remote(
            self.version,
            checked,
            auth_events=cited,
            rejected_ids=self.rejected,
            state_before=self.state,
            current_state=self.state,
            create=self.create,
        )
        if keep:
            self._keep(event, is_accepted=judged.verdict.value == "accepted")
        return ("redacted " if checked.was_redacted else "") + judged.verdict.value

    def _keep(self, event: Event, *, is_accepted: bool = True) -> None:
        self.events[event.event_id] = event
        if not is_accepted:
            self.rejected.add(event.event_id)
            return
        self.tip = event.event_id
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event

    def _build(self, wire: dict[str, Any]) -> Event:
        return event_from_wire(self.version, wire)

    def _auth_keys(self, event_type: str, sender: str, content: Any, state_key: str | None) -> list[StateKey]:
        keys: list[StateKey] = [("m.room.power_levels", ""), ("m.room.member", sender)]
        if not self.version.create_is_implicit_auth_event:
            keys.insert(0, ("m.room.create", ""))
        if event_type == "m.room.member" and isinstance(content, dict):
            keys.append(("m.room.member", state_key or ""))
            if content.get("membership") in ("join", "invite", "knock"):
                keys.append(("m.room.join_rules", ""))
        return [key for key in dict.fromkeys(keys) if key in self.state]

    def _references(self, event_ids: Sequence[str]) -> list[Any]:
        if self.version.references_carry_hashes:
            return [[event_id, {"sha256": "A" * 43}] for event_id in event_ids]
        return list(event_ids)
