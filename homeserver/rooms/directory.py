"""The room directory: aliases of this server, and which rooms it lists.

Spec: client-server API, "Room aliases", "Published room directory".
"""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from homeserver.errors import AliasInUse, NotFound
from homeserver.model.ids import RoomAlias, RoomID, UserID
from homeserver.runtime.clock import Clock
from storage.store import Store
from storage.tables.rooms import room_aliases, rooms
from storage.transaction import Transaction


class Directory:
    """Local aliases and the list of published rooms."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def find(self, alias: RoomAlias) -> RoomID | None:
        """Return the room that a local alias points to, or None."""
        found = await self._store.database.read(
            lambda tx: tx.scalar(
                select(rooms.c.room_id)
                .join(room_aliases, room_aliases.c.room_nid == rooms.c.room_nid)
                .where(room_aliases.c.alias == str(alias))
            )
        )
        return RoomID(found) if found is not None else None

    async def resolve(self, alias: RoomAlias) -> RoomID:
        """Return the room that an alias points to, or raise NotFound."""
        found = await self.find(alias)
        if found is None:
            raise NotFound(f"The room alias {alias} does not exist")
        return found

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
