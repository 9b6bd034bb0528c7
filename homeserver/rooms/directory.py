"""The room directory: aliases of this server, and which rooms it lists.

What the directory says is here; who may change it is in `publishing`. An alias is looked up on this server only,
unless a port for other servers' aliases is given.

Spec: client-server API, "Room aliases", "Published room directory", `m.room.canonical_alias`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from homeserver.errors import AliasInUse, BadAlias, BadIdentifier, InvalidParam, NotFound
from homeserver.model.content.naming import MAX_ALT_ALIASES
from homeserver.model.folding import fold
from homeserver.model.ids import RoomAlias, RoomID, ServerName, UserID
from homeserver.runtime.clock import Clock
from storage import directory as storage
from storage.directory import PublishedRoom, RoomSearch
from storage.store import Store
from storage.tables.rooms import room_aliases, rooms
from storage.transaction import Transaction

RemoteAliases = Callable[[RoomAlias], Awaitable[tuple[RoomID, tuple[ServerName, ...]] | None]]
"""Asks another server for the room of its alias, and which servers are in it; None where there is none."""

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 500
MAX_TERM_CHARACTERS: Final = 500
MAX_ROOM_TYPES: Final = 50

_PLACE: Final = re.compile(r"([np])([0-9]{1,15})\.([0-9]{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class RoomPage:
    """A page of published rooms; the tokens are None where there is nothing further."""

    rooms: tuple[PublishedRoom, ...]
    next_batch: str | None
    prev_batch: str | None
    total: int

    def to_wire(self) -> dict[str, Any]:
        """Return the page as the answer of both APIs.

        Spec: client-server API, "PublishedRoomsChunk".
        """
        chunk = []
        for room in self.rooms:
            entry: dict[str, Any] = {
                "room_id": room.room_id,
                "num_joined_members": room.joined_members,
                "world_readable": room.history_visibility == "world_readable",
                "guest_can_join": room.guest_access == "can_join",
                # Spec: "When not present, the room is assumed to be `public`"; a room without the event is not.
                "join_rule": room.join_rule or "invite",
            }
            for key, value in (
                ("name", room.name),
                ("topic", room.topic),
                ("canonical_alias", room.canonical_alias),
                ("avatar_url", room.avatar_url),
                ("room_type", room.room_type),
            ):
                if value is not None:
                    entry[key] = value
            chunk.append(entry)
        answer: dict[str, Any] = {"chunk": chunk, "total_room_count_estimate": self.total}
        if self.next_batch is not None:
            answer["next_batch"] = self.next_batch
        if self.prev_batch is not None:
            answer["prev_batch"] = self.prev_batch
        return answer


class Directory:
    """Local aliases and the list of published rooms."""

    def __init__(self, store: Store, clock: Clock, *, remote: RemoteAliases | None = None) -> None:
        self._store = store
        self._clock = clock
        self._remote = remote

    # -- aliases -----------------------------------------------------------------------------------------------------

    async def find(self, alias: RoomAlias) -> RoomID | None:
        """Return the room that a local alias points to, or None."""
        return (await self.find_all([alias])).get(alias)

    async def find_all(self, aliases: Iterable[RoomAlias]) -> dict[RoomAlias, RoomID]:
        """Return the rooms that local aliases point to; those that do not exist are left out."""
        wanted = [str(alias) for alias in aliases]
        found = await self._store.database.read(lambda tx: storage.find_aliases(tx, wanted))
        return {RoomAlias(alias): RoomID(room_id) for alias, room_id in found.items()}

    async def resolve(self, alias: RoomAlias) -> RoomID:
        """Return the room that an alias points to, or raise NotFound."""
        return (await self.resolve_with_servers(alias))[0]

    async def resolve_with_servers(self, alias: RoomAlias) -> tuple[RoomID, tuple[ServerName, ...]]:
        """Return the room that an alias points to and other servers that are in it, or raise NotFound."""
        found = await self.find(alias)
        if found is not None:
            return found, ()
        answer = await self._remote(alias) if self._remote is not None else None
        if answer is None:
            raise NotFound(f"The room alias {alias} does not exist")
        return answer

    async def add_alias(self, alias: RoomAlias, room_nid: int, creator: UserID) -> None:
        """Make an alias; raise AliasInUse if it exists."""
        creator_nid = await self._store.interner.user(creator)
        now_ms = self._clock.now_ms()

        def insert(tx: Transaction) -> None:
            tx.execute(
                room_aliases.insert().values(
                    alias=str(alias), room_nid=room_nid, creator_nid=creator_nid, created_ts=now_ms
                )
            )

        try:
            await self._store.database.write(insert)
        except IntegrityError as fault:
            raise AliasInUse(f"The room alias {alias} exists already") from fault

    async def remove_alias(self, alias: RoomAlias) -> None:
        """Remove an alias, if it exists."""
        await self._store.database.write(
            lambda tx: tx.execute(delete(room_aliases).where(room_aliases.c.alias == str(alias)))
        )

    async def creator_of(self, alias: RoomAlias) -> UserID | None:
        """Return who made an alias, or None if it does not exist."""
        creator_nid = await self._store.database.read(
            lambda tx: tx.scalar(select(room_aliases.c.creator_nid).where(room_aliases.c.alias == str(alias)))
        )
        if creator_nid is None:
            return None
        name = (await self._store.interner.user_names([creator_nid])).get(creator_nid)
        return UserID(name) if name is not None else None

    async def aliases_of(self, room_nid: int) -> list[RoomAlias]:
        """Return the local aliases of a room, oldest first."""
        rows = await self._store.database.read(
            lambda tx: tx.all(
                select(room_aliases.c.alias)
                .where(room_aliases.c.room_nid == room_nid)
                .order_by(room_aliases.c.created_ts, room_aliases.c.alias)
            )
        )
        return [RoomAlias(row[0]) for row in rows]

    async def move(self, old_nid: int, new_nid: int, *, made_before_ms: int | None = None) -> None:
        """Have all aliases of one room point to another, which takes its place in the list of rooms as well.

        With `made_before_ms`, only the aliases that were made before then. Doing it again changes nothing.
        """
        moved = [room_aliases.c.room_nid == old_nid]
        if made_before_ms is not None:
            moved.append(room_aliases.c.created_ts <= made_before_ms)

        def write(tx: Transaction) -> None:
            tx.execute(update(room_aliases).where(*moved).values(room_nid=new_nid))
            if tx.scalar(select(rooms.c.is_published).where(rooms.c.room_nid == old_nid)):
                for room_nid, is_published in ((old_nid, False), (new_nid, True)):
                    tx.execute(update(rooms).where(rooms.c.room_nid == room_nid).values(is_published=is_published))

        await self._store.database.write(write)

    async def check_canonical_alias(
        self, content: Mapping[str, Any], previous_content: Mapping[str, Any] | None, room_id: RoomID
    ) -> None:
        """Raise InvalidParam or BadAlias unless every alias that is new in the content points to the room.

        `previous_content` is that of the room's present `m.room.canonical_alias`; what stands there already is not
        looked at again.

        Spec: PUT /rooms/{roomId}/state/{eventType}/{stateKey}, on `m.room.canonical_alias`.
        """
        known = _aliases_in(previous_content or {})
        wanted: dict[RoomAlias, None] = {}
        for text in _checked_aliases(content):
            if text not in known:
                try:
                    wanted[RoomAlias.parse(text)] = None
                except BadIdentifier as fault:
                    raise InvalidParam(f"{text[:300]!r} is not a room alias") from fault
        if not wanted:
            return
        found = await self.find_all(wanted)
        for alias in wanted:
            target = found.get(alias)
            if target is None and self._remote is not None:
                answer = await self._remote(alias)
                target = answer[0] if answer is not None else None
            if target != room_id:
                raise BadAlias(f"The alias {alias} does not point to this room")

    # -- the list of rooms -------------------------------------------------------------------------------------------

    async def publish(self, room_nid: int, is_published: bool) -> None:
        """List a room in the directory, or take it out."""
        await self._store.database.write(
            lambda tx: tx.execute(update(rooms).where(rooms.c.room_nid == room_nid).values(is_published=is_published))
        )

    async def is_published(self, room_nid: int) -> bool:
        """Tell whether a room is listed."""
        return bool(
            await self._store.database.read(
                lambda tx: tx.scalar(select(rooms.c.is_published).where(rooms.c.room_nid == room_nid))
            )
        )

    async def page(
        self,
        *,
        term: str | None = None,
        room_types: tuple[str | None, ...] | None = None,
        is_federated: bool = False,
        since: str | None = None,
        limit: int | None = None,
    ) -> RoomPage:
        """Return a page of the published rooms, those with most members first.

        `is_federated` leaves out rooms that other servers cannot join. A limit of None or 0 leaves the size to us.
        InvalidParam for a `since` that is no token of ours, or for a term or types that are too many.
        """
        if term is not None and len(term) > MAX_TERM_CHARACTERS:
            raise InvalidParam(f"a search term has at most {MAX_TERM_CHARACTERS} characters")
        if room_types is not None and len(room_types) > MAX_ROOM_TYPES:
            raise InvalidParam(f"there may be at most {MAX_ROOM_TYPES} room types")
        backwards, at = _parse_place(since)
        wanted = RoomSearch(fold(term.strip(), MAX_TERM_CHARACTERS) if term else None, room_types, is_federated)
        size = min(limit or DEFAULT_PAGE, MAX_PAGE)

        def read(tx: Transaction) -> tuple[list[PublishedRoom], int]:
            # LIMIT: all published rooms are looked at to sort them; a server has thousands of them, not millions.
            found = storage.list_published(tx, wanted, limit=size + 1, at=at, backwards=backwards)
            return found, storage.count_published(tx, wanted)

        found, total = await self._store.database.read(read)
        has_more = len(found) > size
        if has_more:
            found = found[1:] if backwards else found[:size]
        has_next = at is not None if backwards else has_more
        has_previous = has_more if backwards else at is not None
        next_batch = prev_batch = None
        if has_next and (found or at):
            # Without rooms in between, the place itself belongs to the other direction again.
            next_batch = _place("n", found[-1]) if found else _near("n", at, -1)
        if has_previous and (found or at):
            prev_batch = _place("p", found[0]) if found else _near("p", at, +1)
        return RoomPage(tuple(found), next_batch, prev_batch, total)


def _place(direction: str, room: PublishedRoom) -> str:
    return f"{direction}{room.joined_members}.{room.room_nid}"


def _near(direction: str, at: tuple[int, int] | None, step: int) -> str | None:
    return f"{direction}{at[0]}.{max(0, at[1] + step)}" if at is not None else None


def _parse_place(token: str | None) -> tuple[bool, tuple[int, int] | None]:
    if token is None or token == "":
        return False, None
    match = _PLACE.fullmatch(token)
    if match is None:
        raise InvalidParam("'since' is not a token of this server")
    return match[1] == "p", (int(match[2]), int(match[3]))


def _aliases_in(content: Mapping[str, Any]) -> set[str]:
    others = content.get("alt_aliases")
    found = {text for text in others if isinstance(text, str)} if isinstance(others, list) else set()
    alias = content.get("alias")
    if isinstance(alias, str):
        found.add(alias)
    return found


def _checked_aliases(content: Mapping[str, Any]) -> list[str]:
    alias, others = content.get("alias"), content.get("alt_aliases")
    found: list[str] = []
    # Spec: `m.room.canonical_alias`, `alias`: "If not present, null, or empty": there is none.
    if alias is not None and not isinstance(alias, str):
        raise InvalidParam("'alias' must be a string")
    if alias:
        found.append(alias)
    if others is not None:
        if not isinstance(others, list) or not all(isinstance(text, str) for text in others):
            raise InvalidParam("'alt_aliases' must be an array of strings")
        if len(others) > MAX_ALT_ALIASES:
            raise InvalidParam(f"'alt_aliases' has more than {MAX_ALT_ALIASES} entries")
        found.extend(others)
    return found
