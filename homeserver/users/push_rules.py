"""Push rules of users: reading them, and the door through which they change.

A change is read, made and written in one transaction; then it is told to the user's devices as account data
`m.push_rules`, and what the user has not read is counted anew.

Spec: client-server API, "Push Rules".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from homeserver.errors import TooLarge
from homeserver.feed.changes import store_change
from homeserver.feed.feed import Feed
from homeserver.feed.streams.account_data import AccountDataStream, encode_rules
from homeserver.model.account_data import PUSH_RULES
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import RoomID
from homeserver.model.push_rules import edit
from homeserver.model.push_rules.base import Kind, StoredRules
from storage.account_data import GLOBAL
from storage.push_rules import load_rules, store_rules
from storage.store import Store
from storage.transaction import Transaction

from .sessions import Requester

Change = Callable[[StoredRules], StoredRules]


class Forgetter(Protocol):
    """Who keeps what follows from a user's rules; `homeserver.feed.unread.Unread`."""

    def forget(self, user_id: str) -> None: ...


class PushRules:
    """Reads and changes push rules."""

    def __init__(self, store: Store, feed: Feed, *, stream: AccountDataStream, unread: Forgetter) -> None:
        self._store = store
        self._feed = feed
        self._stream = stream
        self._unread = unread

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get_all(self, requester: Requester) -> JsonObject:
        """Return all rules of the requester as clients see them: the value of `global`."""
        return edit.render_rules(requester.user_id, await self._load(requester))

    async def get(self, requester: Requester, kind: Kind, rule_id: str) -> JsonObject:
        """Return one rule as clients see it; raises NotFound."""
        return edit.get_rule(requester.user_id, await self._load(requester), kind, rule_id)

    async def _load(self, requester: Requester) -> StoredRules:
        return await self._store.database.read(lambda tx: load_rules(tx, requester.user_nid))

    # -- changing ----------------------------------------------------------------------------------------------------

    async def put(
        self,
        requester: Requester,
        kind: Kind,
        rule_id: str,
        body: Any,
        *,
        before: str | None = None,
        after: str | None = None,
    ) -> None:
        """Make or replace one of the requester's own rules; raises as `edit.put_rule` does."""
        await self._change(
            requester, lambda stored: edit.put_rule(stored, kind, rule_id, body, before=before, after=after)
        )

    async def delete(self, requester: Requester, kind: Kind, rule_id: str) -> None:
        """Delete one of the requester's own rules; raises NotFound."""
        await self._change(requester, lambda stored: edit.delete_rule(stored, kind, rule_id))

    async def set_enabled(self, requester: Requester, kind: Kind, rule_id: str, body: Any) -> None:
        """Switch a rule, predefined or not; raises as `edit.set_enabled` does."""
        await self._change(requester, lambda stored: edit.set_enabled(stored, kind, rule_id, body))

    async def set_actions(self, requester: Requester, kind: Kind, rule_id: str, body: Any) -> None:
        """Replace the actions of a rule, predefined or not; raises as `edit.set_actions` does."""
        await self._change(requester, lambda stored: edit.set_actions(stored, kind, rule_id, body))

    async def copy_room(self, requester: Requester, old_id: RoomID, new_id: RoomID) -> None:
        """Make rules that are for one room for another one too; raises TooLarge."""
        if edit.copy_room_rules(stored := await self._load(requester), old_id, new_id) != stored:
            await self._change(requester, lambda stored: edit.copy_room_rules(stored, old_id, new_id))

    async def _change(self, requester: Requester, change: Change) -> None:
        user_id, user_nid = requester.user_id, requester.user_nid

        def write(tx: Transaction, position: int) -> bytes | None:
            before = load_rules(tx, user_nid)
            after = change(before)
            if after == before:
                return None
            encoded = orjson.dumps(after.to_json())
            if len(encoded) > edit.MAX_STORED_BYTES:
                raise TooLarge(f"the push rules of a user may take at most {edit.MAX_STORED_BYTES} bytes")
            store_rules(tx, user_nid, encoded, position)
            return encode_rules(edit.render_rules(user_id, after))

        def publish(position: int, content: bytes | None) -> None:
            if content is None:
                return
            self._unread.forget(user_id)
            self._stream.publish(user_nid, user_id, GLOBAL, PUSH_RULES, content, position)
            self._feed.touch_user(user_id, position)

        await store_change(
            self._store.positions,
            lambda position: self._store.database.write(lambda tx: write(tx, position)),
            publish,
        )
