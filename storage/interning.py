"""Interned identifiers: user IDs and state keys as integers inside the database.

The mapping never changes once made, so it is kept in memory (bounded) and asked for without I/O when warm. Numbers
for new identifiers are handed out at once; their rows are queued before anything that refers to them, and the writer
keeps that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import select, tuple_

from homeserver.model.event import StateKey

from .database import Database
from .positions import Sequence as NumberSequence
from .tables.identity import user_ids
from .tables.rooms import state_keys
from .transaction import Transaction, chunks

MAX_CACHED: Final = 200_000


class _InternJob:
    """Rows of new identifiers; written before the other jobs of their batch."""

    __slots__ = ("failed", "keys", "users")
    rank = 0

    def __init__(self, users: list[tuple[int, str]], keys: list[tuple[int, str, str]]) -> None:
        self.users = users
        self.keys = keys
        self.failed = False

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[_InternJob]) -> Sequence[None]:
        tx.insert_many(user_ids, ("user_nid", "user_id"), [row for job in jobs for row in job.users])
        tx.insert_many(state_keys, ("key_nid", "type", "state_key"), [row for job in jobs for row in job.keys])
        return [None] * len(jobs)


class Interner:
    """Gives every user ID and every (type, state_key) its number, and back."""

    def __init__(self, database: Database, numbers: NumberSequence) -> None:
        self._database = database
        self._numbers = numbers
        self._users: dict[str, int] = {}
        self._user_ids: dict[int, str] = {}
        self._keys: dict[StateKey, int] = {}
        self._key_names: dict[int, StateKey] = {}

    # -- what is in memory -------------------------------------------------------------------------------------------

    def known_user(self, user_id: str) -> int | None:
        """Return the number of a user ID if it is in memory."""
        return self._users.get(user_id)

    def known_key(self, key: StateKey) -> int | None:
        """Return the number of a state key if it is in memory."""
        return self._keys.get(key)

    def known_user_id(self, user_nid: int) -> str | None:
        return self._user_ids.get(user_nid)

    def known_key_name(self, key_nid: int) -> StateKey | None:
        return self._key_names.get(key_nid)

    # -- numbers for identifiers, made where missing -----------------------------------------------------------------

    async def user(self, user_id: str) -> int:
        """Return the number of a user ID, a new one if it has none."""
        found = self._users.get(user_id)
        return found if found is not None else (await self.users([user_id]))[user_id]

    async def users(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the numbers of user IDs, new ones where there are none."""
        names = [str(name) for name in wanted]
        missing = [name for name in names if name not in self._users]
        if missing:
            await self.find_users(missing)
            new = [(self._numbers.next(), name) for name in dict.fromkeys(missing) if name not in self._users]
            if new:
                for nid, name in new:
                    self._remember_user(nid, name)
                await self._write(_InternJob(new, []))
        return {name: self._users[name] for name in names}

    async def keys(self, wanted: Iterable[StateKey]) -> dict[StateKey, int]:
        """Return the numbers of state keys, new ones where there are none."""
        names = list(wanted)
        missing = [key for key in names if key not in self._keys]
        if missing:
            await self.find_keys(missing)
            new = [(self._numbers.next(), *key) for key in dict.fromkeys(missing) if key not in self._keys]
            if new:
                for nid, kind, state_key in new:
                    self._remember_key(nid, (kind, state_key))
                await self._write(_InternJob([], new))
        return {key: self._keys[key] for key in names}

    async def _write(self, job: _InternJob) -> None:
        try:
            await self._database.submit(job)
        except BaseException:
            # The numbers were never stored: nobody may go on using them.
            for nid, name in job.users:
                self._users.pop(name, None)
                self._user_ids.pop(nid, None)
            for nid, kind, state_key in job.keys:
                self._keys.pop((kind, state_key), None)
                self._key_names.pop(nid, None)
            raise

    # -- look-ups that make nothing ----------------------------------------------------------------------------------

    async def find_users(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those user IDs that have one."""
        names = [str(name) for name in wanted]
        missing = [name for name in names if name not in self._users]
        if missing:
            rows = await self._database.read(lambda tx: _users_by_name(tx, missing))
            for nid, name in rows:
                self._remember_user(nid, name)
        return {name: self._users[name] for name in names if name in self._users}

    async def find_keys(self, wanted: Iterable[StateKey]) -> dict[StateKey, int]:
        """Return the numbers of those state keys that have one."""
        names = list(wanted)
        missing = [key for key in names if key not in self._keys]
        if missing:
            rows = await self._database.read(lambda tx: _keys_by_name(tx, missing))
            for nid, kind, state_key in rows:
                self._remember_key(nid, (kind, state_key))
        return {key: self._keys[key] for key in names if key in self._keys}

    async def user_names(self, wanted: Iterable[int]) -> dict[int, str]:
        """Return the user IDs of numbers; an unknown number is left out."""
        nids = list(wanted)
        missing = [nid for nid in nids if nid not in self._user_ids]
        if missing:
            for nid, name in await self._database.read(lambda tx: _users_by_nid(tx, missing)):
                self._remember_user(nid, name)
        return {nid: self._user_ids[nid] for nid in nids if nid in self._user_ids}

    async def key_names(self, wanted: Iterable[int]) -> dict[int, StateKey]:
        """Return the (type, state_key) of numbers; an unknown number is left out."""
        nids = list(wanted)
        missing = [nid for nid in nids if nid not in self._key_names]
        if missing:
            for nid, kind, state_key in await self._database.read(lambda tx: _keys_by_nid(tx, missing)):
                self._remember_key(nid, (kind, state_key))
        return {nid: self._key_names[nid] for nid in nids if nid in self._key_names}

    def _remember_user(self, nid: int, name: str) -> None:
        if len(self._users) >= MAX_CACHED:
            self._users.clear()
            self._user_ids.clear()
        self._users[name] = nid
        self._user_ids[nid] = name

    def _remember_key(self, nid: int, key: StateKey) -> None:
        if len(self._keys) >= MAX_CACHED:
            self._keys.clear()
            self._key_names.clear()
        self._keys[key] = nid
        self._key_names[nid] = key


def _users_by_name(tx: Transaction, names: list[str]) -> list[Any]:
    query = select(user_ids.c.user_nid, user_ids.c.user_id)
    return [row for part in chunks(names) for row in tx.all(query.where(user_ids.c.user_id.in_(part)))]


def _users_by_nid(tx: Transaction, nids: list[int]) -> list[Any]:
    query = select(user_ids.c.user_nid, user_ids.c.user_id)
    return [row for part in chunks(nids) for row in tx.all(query.where(user_ids.c.user_nid.in_(part)))]


def _keys_by_name(tx: Transaction, names: list[StateKey]) -> list[Any]:
    query = select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key)
    pair = tuple_(state_keys.c.type, state_keys.c.state_key)
    return [row for part in chunks(names) for row in tx.all(query.where(pair.in_(part)))]


def _keys_by_nid(tx: Transaction, nids: list[int]) -> list[Any]:
    query = select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key)
    return [row for part in chunks(nids) for row in tx.all(query.where(state_keys.c.key_nid.in_(part)))]
