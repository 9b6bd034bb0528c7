"""Account data: what clients keep on their server, tags and the fully read marker among it.

Content is stored as the client sent it. What the server owns (`m.fully_read`, `m.push_rules`) is read here like the
rest and set elsewhere.

Spec: client-server API, "Client Config", "Room Tagging", "Ignoring Users", "Fully read markers".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from homeserver.errors import NotFound, NotJoined, TooLarge
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed, UserFeed, UserRoom
from homeserver.feed.streams.account_data import AccountDataStream, encode_rules
from homeserver.feed.unread import Unread
from homeserver.model import account_data as model
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID
from homeserver.model.push_rules.edit import render_rules
from storage import account_data as storage
from storage.account_data import GLOBAL
from storage.push_rules import load_rules
from storage.store import Store
from storage.transaction import Transaction

from .sessions import Requester

MAX_CONTENT_BYTES: Final = 524_288
# LIMIT: of one user, over all rooms; an initial sync tells all of it.
MAX_PIECES: Final = 10_000
MAX_TOTAL_BYTES: Final = 16 * 1024**2

Change = Callable[[Transaction, bytes | None], bytes | None]
"""From the stored content to the new one; None leaves all as it is."""


class AccountData:
    """Reads and changes account data."""

    def __init__(self, store: Store, feed: Feed, *, stream: AccountDataStream, unread: Unread) -> None:
        self._store = store
        self._feed = feed
        self._stream = stream
        self._unread = unread

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, requester: Requester, data_type: str, room_id: RoomID | None = None) -> bytes:
        """Return the content of one type as JSON, global or of a room; raises NotFound."""
        user_id, user_nid = str(requester.user_id), requester.user_nid
        if room_id is None and data_type == model.PUSH_RULES:
            rules = await self._store.database.read(lambda tx: load_rules(tx, user_nid))
            return encode_rules(render_rules(user_id, rules))
        room_nid = GLOBAL
        if room_id is not None:
            place = await self._find_place(requester, room_id)
            if place is None:
                raise NotFound("Room account data not found.")
            room_nid = place.room_nid
        found = await self._store.database.read(lambda tx: storage.find_content(tx, user_nid, room_nid, data_type))
        if found is None:
            raise NotFound("Account data not found." if room_id is None else "Room account data not found.")
        return found

    async def tags(self, requester: Requester, room_id: RoomID) -> JsonObject:
        """Return the tags of a room by name; may be empty."""
        place = await self._find_place(requester, room_id)
        if place is None:
            return {}
        user_nid, room_nid = requester.user_nid, place.room_nid
        found = await self._store.database.read(lambda tx: storage.find_content(tx, user_nid, room_nid, model.TAG))
        return model.read_tags(_object(found))

    async def find_global(self, user_nid: int, data_type: str) -> JsonObject:
        """Return the content of a global type of any local user; empty if there is none."""
        found = await self._store.database.read(lambda tx: storage.find_content(tx, user_nid, GLOBAL, data_type))
        return _object(found) or {}

    async def ignored_users(self, user: UserFeed) -> frozenset[str]:
        """Return the users whom one ignores; from memory when warm."""
        return await self._stream.ignored_users(user)

    async def blocks_invites(self, user_nid: int) -> bool:
        """Tell whether a user takes no invites. Spec: "Invite permission"."""
        return (await self.find_global(user_nid, "m.invite_permission_config")).get("default_action") == "block"

    # -- changing ----------------------------------------------------------------------------------------------------

    async def set(self, requester: Requester, data_type: str, content: Any, room_id: RoomID | None = None) -> None:
        """Store content, global or for a room.

        Raises ServerOwned, InvalidParam, BadJson, TooLarge, and NotJoined for a room that is not the user's.
        """
        encoded = orjson.dumps(model.check_settable(data_type, content))
        place = None if room_id is None else await self._place(requester, room_id)
        await self._change(requester, place, data_type, lambda tx, old: encoded)

    async def set_tag(self, requester: Requester, room_id: RoomID, tag: str, body: Any) -> None:
        """Put a tag on a room; raises InvalidParam, BadJson, TooLarge, NotJoined."""
        model.check_tag_name(tag)
        model.check_tag(body)
        await self._change(
            requester,
            await self._place(requester, room_id),
            model.TAG,
            lambda tx, old: orjson.dumps(model.with_tag(_object(old), tag, body)),
        )

    async def delete_tag(self, requester: Requester, room_id: RoomID, tag: str) -> None:
        """Take a tag off a room; nothing happens when it is not there. Raises NotJoined."""
        place = await self._place(requester, room_id)

        def change(tx: Transaction, old: bytes | None) -> bytes | None:
            content = _object(old)
            return orjson.dumps(model.without_tag(content, tag)) if tag in model.read_tags(content) else None

        await self._change(requester, place, model.TAG, change)

    async def copy_tags(self, requester: Requester, old_id: RoomID, new_id: RoomID) -> None:
        """Put the tags of one room on another one, in which the user need not be yet; raises TooLarge.

        Where the user has had tags in the other room, it stays as it is: what was taken off does not come back.
        """
        tags = await self.tags(requester, old_id)
        if not tags:
            return
        new_nid = await self._store.database.read(lambda tx: storage.find_room_nid(tx, new_id))
        if new_nid is None:
            return

        def change(tx: Transaction, old: bytes | None) -> bytes | None:
            return orjson.dumps({"tags": tags}) if old is None else None

        await self._change_in(requester, new_nid, new_id, model.TAG, change)

    async def copy_direct(self, requester: Requester, old_id: RoomID, new_id: RoomID) -> None:
        """Make a room a direct chat like the one that it replaces."""
        present = await self.find_global(requester.user_nid, model.DIRECT)
        if model.with_direct_successor(present, old_id, new_id) is None:
            return

        def change(tx: Transaction, old: bytes | None) -> bytes | None:
            changed = model.with_direct_successor(_object(old), old_id, new_id)
            return None if changed is None else orjson.dumps(changed)

        await self._change(requester, None, model.DIRECT, change)

    async def set_fully_read(self, requester: Requester, place: UserRoom, event_id: str, event_position: int) -> None:
        """Move the fully read marker forwards to an event of the room at this position in its timeline."""
        room_nid = place.room_nid
        encoded = orjson.dumps({"event_id": event_id})

        def change(tx: Transaction, old: bytes | None) -> bytes | None:
            before = (_object(old) or {}).get("event_id")
            if isinstance(before, str):
                position = storage.find_event_position(tx, room_nid, before)
                if position is not None and position >= event_position:
                    return None
            return encoded

        await self._change(requester, place, model.FULLY_READ, change)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _find_place(self, requester: Requester, room_id: RoomID) -> UserRoom | None:
        user = await self._feed.user(requester.user_id, requester.user_nid)
        return user.rooms.get(room_id)

    async def _place(self, requester: Requester, room_id: RoomID) -> UserRoom:
        place = await self._find_place(requester, room_id)
        if place is None:
            raise NotJoined("You are not in the room")
        return place

    async def _change(self, requester: Requester, place: UserRoom | None, data_type: str, change: Change) -> None:
        room_nid, room_id = (GLOBAL, None) if place is None else (place.room_nid, place.room_id)
        await self._change_in(requester, room_nid, room_id, data_type, change)

    async def _change_in(
        self, requester: Requester, room_nid: int, room_id: RoomID | None, data_type: str, change: Change
    ) -> None:
        user_id, user_nid = requester.user_id, requester.user_nid

        def write(tx: Transaction, position: int) -> bytes | None:
            old = storage.find_content(tx, user_nid, room_nid, data_type)
            content = change(tx, old)
            if content is None or content == old:
                return None
            _check_size(tx, user_nid, old, content)
            storage.set_content(tx, user_nid, room_nid, data_type, content, position)
            return content

        def publish(position: int, content: bytes | None) -> None:
            if content is None:
                return
            self._stream.publish(user_nid, user_id, room_nid, data_type, content, position)
            if data_type == model.IGNORED_USER_LIST and room_id is None:
                self._unread.forget(user_id)
            self._feed.touch_user(user_id, position, room_id)

        await store_change(
            self._store.positions,
            lambda position: self._store.database.write(lambda tx: write(tx, position)),
            publish,
        )


def _check_size(tx: Transaction, user_nid: int, old: bytes | None, content: bytes) -> None:
    if len(content) > MAX_CONTENT_BYTES:
        raise TooLarge(f"account data of one type has at most {MAX_CONTENT_BYTES} bytes")
    growth = len(content) - (0 if old is None else len(old))
    # What does not grow is not measured: the read marker, which moves often, stays of one size.
    if old is not None and growth <= 0:
        return
    pieces, size = storage.measure(tx, user_nid)
    if size + growth > MAX_TOTAL_BYTES or (old is None and pieces >= MAX_PIECES):
        raise TooLarge("the account data of this user takes too much space")


def _object(content: bytes | None) -> dict[str, Any] | None:
    value = orjson.loads(content) if content is not None else None
    return value if isinstance(value, dict) else None
