"""The stream of account data: each user's own, global and in rooms, tags, read markers and push rules among it.

In memory are the newest contents of those who changed some lately, within a byte budget; one floor for all users. The
users whom somebody ignores are kept here as well, because whoever shows events asks for them each time.

Spec: client-server API, "Client Config", "Ignoring Users", "Push Rules: Events".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from homeserver.feed.feed import UserFeed
from homeserver.model.account_data import IGNORED_USER_LIST, PUSH_RULES, read_ignored_users
from homeserver.model.ids import RoomID
from homeserver.model.push_rules.edit import render_rules
from storage.account_data import GLOBAL, AccountDataRow, find_content, load_global, load_in_rooms
from storage.push_rules import find_rules_position, load_rules
from storage.store import Store
from storage.transaction import Transaction

from .protocol import StreamItem

# LIMIT: bytes of account data in memory over all users.
MAX_RECENT_BYTES: Final = 16 * 1024**2
# LIMIT: users whose lists of ignored users are in memory, and how many users those lists name together.
MAX_LISTS: Final = 20_000
MAX_IGNORED: Final = 200_000
_OVERHEAD_BYTES: Final = 400

_Key = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class _Change:
    room_nid: int
    position: int
    item: StreamItem


class AccountDataStream:
    """Takes changes in, gives their owner what changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._floor: int | None = None
        self._size = 0
        self._recent: dict[_Key, _Change] = {}
        # user -> (room, type) -> the newest change, in order of position.
        self._users: dict[int, dict[tuple[int, str], _Change]] = {}
        self._ignored: dict[int, frozenset[str]] = {}
        self._ignored_count = 0
        # Counts the changes of lists: one that was read before a change is not kept.
        self._list_changes = 0

    @property
    def floor(self) -> int:
        """The position over which all changes are in memory."""
        if self._floor is None:
            self._floor = self._store.positions.watermark
        return self._floor

    # -- in ----------------------------------------------------------------------------------------------------------

    def publish(
        self, user_nid: int, user_id: str, room_nid: int, data_type: str, content: bytes, position: int
    ) -> None:
        """Take in content that was stored (JSON); `room_nid` is `GLOBAL` or a room. Called in order of positions."""
        if self._floor is None:
            self._floor = position - 1
        change = _Change(room_nid, position, _item(data_type, content))
        key = (user_nid, room_nid, data_type)
        old = self._recent.pop(key, None)
        if old is not None:
            self._size -= _size_of(old)
        self._recent[key] = change
        self._size += _size_of(change)
        own = self._users.setdefault(user_nid, {})
        own.pop((room_nid, data_type), None)
        own[room_nid, data_type] = change
        while self._size > MAX_RECENT_BYTES and len(self._recent) > 1:
            self._forget_oldest()
        if data_type == IGNORED_USER_LIST and room_nid == GLOBAL:
            self._list_changes += 1
            self._keep_ignored(user_nid, frozenset(read_ignored_users(orjson.loads(content), user_id)))

    def _forget_oldest(self) -> None:
        key = next(iter(self._recent))
        gone = self._recent.pop(key)
        self._size -= _size_of(gone)
        self._floor = gone.position
        own = self._users[key[0]]
        del own[key[1:]]
        if not own:
            del self._users[key[0]]

    # -- out ---------------------------------------------------------------------------------------------------------

    async def in_rooms(
        self, user: UserFeed, room_nids: Mapping[int, RoomID], after: int | None, upto: int
    ) -> Mapping[int, Sequence[StreamItem]]:
        """Return the user's account data of those rooms that have any; see `RoomStream`."""
        result: dict[int, list[StreamItem]] = {}
        if after is not None and after >= self.floor:
            for change in self._changes(user.user_nid, after, upto):
                if change.room_nid in room_nids:
                    result.setdefault(change.room_nid, []).append(change.item)
            return result
        user_nid = user.user_nid
        rows = await self._store.database.read(
            lambda tx: load_in_rooms(tx, user_nid, room_nids, after=after, upto=upto)
        )
        for row in rows:
            result.setdefault(row.room_nid, []).append(_item(row.type, row.content))
        return result

    async def of_user(self, user: UserFeed, after: int | None, upto: int) -> Sequence[StreamItem]:
        """Return the user's global account data; see `UserStream`.

        The push rules are always among what there is, since everybody has some.
        """
        if after is not None and after >= self.floor:
            changes = self._changes(user.user_nid, after, upto)
            return [change.item for change in changes if change.room_nid == GLOBAL] if changes else ()
        user_nid, user_id = user.user_nid, str(user.user_id)
        rows, rules = await self._store.database.read(lambda tx: _load_global(tx, user_nid, user_id, after, upto))
        items = [_item(row.type, row.content) for row in rows]
        if rules is not None:
            items.append(_item(PUSH_RULES, rules))
        return items

    async def ignored_users(self, user: UserFeed) -> frozenset[str]:
        """Return the users whom this one ignores, from memory where they were asked for before."""
        ignored = self._ignored.get(user.user_nid)
        if ignored is not None:
            return ignored
        user_nid, changes = user.user_nid, self._list_changes
        content = await self._store.database.read(lambda tx: find_content(tx, user_nid, GLOBAL, IGNORED_USER_LIST))
        if changes != self._list_changes:
            known = self._ignored.get(user_nid)
            if known is not None:
                return known
        ignored = frozenset(read_ignored_users(_object(content), user.user_id))
        if changes == self._list_changes:
            self._keep_ignored(user_nid, ignored)
        return ignored

    def _changes(self, user_nid: int, after: int, upto: int) -> Sequence[_Change]:
        own = self._users.get(user_nid)
        if own is None:
            return ()
        found: list[_Change] = []
        for change in reversed(own.values()):
            if change.position <= after:
                break
            if change.position <= upto:
                found.append(change)
        found.reverse()
        return found

    def _keep_ignored(self, user_nid: int, ignored: frozenset[str]) -> None:
        lists = self._ignored
        self._ignored_count -= len(lists.pop(user_nid, ()))
        lists[user_nid] = ignored
        self._ignored_count += len(ignored)
        while len(lists) > 1 and (len(lists) > MAX_LISTS or self._ignored_count > MAX_IGNORED):
            self._ignored_count -= len(lists.pop(next(iter(lists))))


def _load_global(
    tx: Transaction, user_nid: int, user_id: str, after: int | None, upto: int
) -> tuple[list[AccountDataRow], bytes | None]:
    rows = load_global(tx, user_nid, after=after, upto=upto)
    if after is not None:
        changed = find_rules_position(tx, user_nid)
        if changed is None or not after < changed <= upto:
            return rows, None
    return rows, encode_rules(render_rules(user_id, load_rules(tx, user_nid)))


def encode_rules(rendered: Mapping[str, Any]) -> bytes:
    """Return the content of `m.push_rules`. Spec: client-server API, `m.push_rules`."""
    return orjson.dumps({"global": rendered})


def _item(data_type: str, content: bytes) -> StreamItem:
    return StreamItem(data_type, None, b'{"type":' + orjson.dumps(data_type) + b',"content":' + content + b"}")


def _object(content: bytes | None) -> dict[str, Any] | None:
    value = orjson.loads(content) if content is not None else None
    return value if isinstance(value, dict) else None


def _size_of(change: _Change) -> int:
    return len(change.item.encoded) + _OVERHEAD_BYTES
