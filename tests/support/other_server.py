"""Another server in a room of ours: it makes events as it likes, and they arrive as bytes, signed and checked.

    other = OtherServer(door, store)
    await other.send(room, "@bob:b.example", "m.room.member", {"membership": "join"}, "@bob:b.example")

Each event is put at the end of the room's graph. What the room's rules say of it is for the door to find out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.model.auth.needed import needed_state
from homeserver.model.canonical_json import dump_exactly, parse_exactly
from homeserver.model.hashing import reference_hash, with_content_hash
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.receipt_of_events import CheckedEvent, check_received, read_received
from homeserver.model.room_versions import EventIDScheme, RoomVersion
from homeserver.model.server_keys import ServerKey, ServerKeys
from homeserver.model.signing import generate_signing_key, sign_event
from homeserver.rooms.door import RoomDoor
from storage.events import StoredEvent
from storage.store import Store

OTHER: Final = "b.example"
BOB: Final = UserID(f"@bob:{OTHER}")
_FOREVER_TS: Final = 2**63 - 1


class OtherServer:
    """Makes events of users of `b.example` and has the door receive them."""

    def __init__(self, door: RoomDoor, store: Store) -> None:
        self._door = door
        self._store = store
        self._key = generate_signing_key(b"\x02" * 32, "other")
        self._made = 0
        public = ServerKey(self._key.verify_key, _FOREVER_TS)
        self._keys = {OTHER: ServerKeys(OTHER, {self._key.key_id: public}, _FOREVER_TS, 0)}

    async def send(
        self,
        room_id: RoomID,
        sender: UserID,
        kind: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        **more: Any,
    ) -> StoredEvent:
        """Make an event at the end of the room and return it as it was taken in; `more` are further top-level keys."""
        checked = await self.event(room_id, sender, kind, content, state_key, **more)
        return await self._door.receive(room_id, checked)

    async def event(
        self,
        room_id: RoomID,
        sender: UserID,
        kind: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        **more: Any,
    ) -> CheckedEvent:
        """Make an event at the end of the room and return it as it comes out of the checks, its numbers as sent."""
        tip = await self._door.tip(room_id)
        version = tip.version
        needed = needed_state(version, type=kind, sender=sender, state_key=state_key, content=content)
        found = await self._door.state_events(room_id, needed)
        auth = [found[key].event.event_id for key in needed if key in found]
        self._made += 1
        wire: dict[str, Any] = {
            "type": kind,
            "sender": sender,
            "room_id": room_id,
            "content": content,
            "origin_server_ts": 1_700_000_000_000 + self._made,
            "depth": min(tip.depth + 1, version.max_integer),
            "prev_events": await self._references(version, tip.room_nid, [end.event_id for end in tip.extremities]),
            "auth_events": await self._references(version, tip.room_nid, auth),
            **more,
        }
        if state_key is not None:
            wire["state_key"] = state_key
        if version.event_id_scheme is EventIDScheme.CHOSEN:
            wire["event_id"] = f"${self._made}:{OTHER}"
        signed = sign_event(version, {**with_content_hash(wire, version), "signatures": {}}, OTHER, self._key)
        checked = check_received(read_received(version, parse_exactly(dump_exactly(signed))), self._keys)
        assert not checked.was_redacted
        return checked

    async def _references(self, version: RoomVersion, room_nid: int, event_ids: list[EventID]) -> list[Any]:
        if not version.references_carry_hashes:
            return list(event_ids)
        result = []
        for event_id in event_ids:
            stored = await self._store.events.get_by_id(room_nid, event_id)
            assert stored is not None
            result.append([event_id, {"sha256": reference_hash(version, stored.event.wire)}])
        return result
