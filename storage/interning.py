"""Interned identifiers: user IDs and state keys as integers inside the database.

The mapping never changes once made, so it is kept in memory (bounded) and asked for without I/O when warm. A new
identifier has its number once its row is on disk, never before: whatever refers to a number can be read back. Who asks
for an identifier that is being written waits for the same row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import select, tuple_
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.model.event import StateKey

from .database import Database
from .positions import Sequence as NumberSequence
from .tables.identity import user_ids
from .tables.rooms import state_keys
from .transaction import Transaction, chunks

MAX_CACHED: Final = 200_000
# LIMIT: names that are remembered not to exist.
MAX_ABSENT: Final = 5_000

Name = TypeVar("Name", str, StateKey)


class _InternJob:
    """Rows of new identifiers; written before the other jobs of their batch."""

    __slots__ = ("failed", "keys", "users")
    rank = 0

    def __init__(self, users: list[tuple[int, str]], keys: list[tuple[int, StateKey]]) -> None:
        self.users = users
        self.keys = keys
        self.failed = False

    @staticmethod
    def run_all(tx: Transaction, jobs: Sequence[_InternJob]) -> Sequence[None]:
        tx.insert_many(user_ids, ("user_nid", "user_id"), [row for job in jobs for row in job.users])
        keys = [(nid, *key) for job in jobs for nid, key in job.keys]
        tx.insert_many(state_keys, ("key_nid", "type", "state_key"), keys)
        return [None] * len(jobs)

    @staticmethod
    def is_stored(tx: Transaction, job: _InternJob) -> bool:
        """Tell whether the rows are there: their numbers are used for nothing else."""
        if job.users:
            return bool(_users_by_nid(tx, [job.users[0][0]]))
        return bool(_keys_by_nid(tx, [job.keys[0][0]]))


class _Mapping(Generic[Name]):
    """One kind of identifier: what is in memory of it, and what is being written."""

    __slots__ = ("_absent", "_by_name", "_by_nid", "_database", "_job", "_numbers", "_writing", "names", "nids")

    def __init__(
        self,
        database: Database,
        numbers: NumberSequence,
        by_name: Callable[[Transaction, list[Name]], list[tuple[int, Name]]],
        by_nid: Callable[[Transaction, list[int]], list[tuple[int, Name]]],
        job: Callable[[list[tuple[int, Name]]], _InternJob],
    ) -> None:
        self._database = database
        self._numbers = numbers
        self._by_name: Callable[[Transaction, list[Name]], list[tuple[int, Name]]] = by_name
        self._by_nid: Callable[[Transaction, list[int]], list[tuple[int, Name]]] = by_nid
        self._job: Callable[[list[tuple[int, Name]]], _InternJob] = job
        self.nids: dict[Name, int] = {}
        self.names: dict[int, Name] = {}
        self._writing: dict[Name, list[Deferred[int]]] = {}
        # What was looked for and is not there: nobody but us makes any.
        self._absent: dict[Name, None] = {}

    async def make(self, wanted: Iterable[Name]) -> dict[Name, int]:
        found, missing = self._split(wanted)
        if not missing:
            return found
        unread = [name for name in missing if name not in self._absent]
        if unread:
            found.update(await self._read(unread))
        new: list[tuple[int, Name]] = []
        waiting: dict[Name, Deferred[int]] = {}
        for name in missing:
            if name in found:
                continue
            # Somebody else may have made it while this was read.
            nid = self.nids.get(name)
            if nid is not None:
                found[name] = nid
                continue
            if name not in self._writing:
                new.append((self._numbers.next(), name))
                self._writing[name] = []
                self._absent.pop(name, None)
            waiting[name] = Deferred()
            self._writing[name].append(waiting[name])
        if new:
            written: Any = self._database.submit(self._job(new))
            # Not awaited: whoever asked may go away, others may wait for the same.
            written.addCallbacks(self._written, self._failed, callbackArgs=(new,), errbackArgs=(new,))
        fault: BaseException | None = None
        for name, nid_later in waiting.items():
            try:
                found[name] = await nid_later
            except Exception as each:  # all are awaited, so that no failure is left over
                fault = each
        if fault is not None:
            raise fault
        return found

    async def find(self, wanted: Iterable[Name]) -> dict[Name, int]:
        found, missing = self._split(wanted)
        unread = [name for name in missing if name not in self._absent]
        if unread:
            found.update(await self._read(unread))
        return found

    async def names_of(self, wanted: Iterable[int]) -> dict[int, Name]:
        found: dict[int, Name] = {}
        missing: list[int] = []
        for nid in wanted:
            name = self.names.get(nid)
            if name is None:
                missing.append(nid)
            else:
                found[nid] = name
        if missing:
            for nid, name in await self._database.read(lambda tx: self._by_nid(tx, missing)):
                found[nid] = name
                self._remember(nid, name)
        return found

    def _split(self, wanted: Iterable[Name]) -> tuple[dict[Name, int], list[Name]]:
        found: dict[Name, int] = {}
        missing: dict[Name, None] = {}
        for name in wanted:
            nid = self.nids.get(name)
            if nid is None:
                missing[name] = None
            else:
                found[name] = nid
        return found, list(missing)

    async def _read(self, names: list[Name]) -> dict[Name, int]:
        found: dict[Name, int] = {}
        for nid, name in await self._database.read(lambda tx: self._by_name(tx, names)):
            found[name] = nid
            self._remember(nid, name)
        for name in names:
            # It may have been made while this was read.
            if name not in found and name not in self.nids and name not in self._writing:
                self._absent[name] = None
        while len(self._absent) > MAX_ABSENT:
            del self._absent[next(iter(self._absent))]
        return found

    def _written(self, _result: Any, new: list[tuple[int, Name]]) -> None:
        for nid, name in new:
            self._remember(nid, name)
            for waiter in self._writing.pop(name):
                waiter.callback(nid)

    def _failed(self, failure: Failure, new: list[tuple[int, Name]]) -> None:
        for _, name in new:
            for waiter in self._writing.pop(name):
                waiter.errback(failure)

    def _remember(self, nid: int, name: Name) -> None:
        if len(self.nids) >= MAX_CACHED:
            for old in list(islice(self.nids, MAX_CACHED // 8 + 1)):
                self.names.pop(self.nids.pop(old), None)
        self._absent.pop(name, None)
        self.nids[name] = nid
        self.names[nid] = name


class Interner:
    """Gives every user ID and every (type, state_key) its number, and back."""

    def __init__(self, database: Database, numbers: NumberSequence) -> None:
        self._users: _Mapping[str] = _Mapping(
            database, numbers, _users_by_name, _users_by_nid, lambda rows: _InternJob(rows, [])
        )
        self._keys: _Mapping[StateKey] = _Mapping(
            database, numbers, _keys_by_name, _keys_by_nid, lambda rows: _InternJob([], rows)
        )
        # What is in memory.
        self.known_user: Callable[[str], int | None] = self._users.nids.get
        self.known_key: Callable[[StateKey], int | None] = self._keys.nids.get
        self.known_user_id: Callable[[int], str | None] = self._users.names.get
        self.known_key_name: Callable[[int], StateKey | None] = self._keys.names.get

    # -- numbers for identifiers, made where missing -----------------------------------------------------------------

    async def user(self, user_id: str) -> int:
        """Return the number of a user ID, a new one if it has none."""
        found = self.known_user(user_id)
        return found if found is not None else (await self.users([user_id]))[user_id]

    async def users(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the numbers of user IDs, new ones where there are none."""
        return await self._users.make(str(name) for name in wanted)

    async def keys(self, wanted: Iterable[StateKey]) -> dict[StateKey, int]:
        """Return the numbers of state keys, new ones where there are none."""
        return await self._keys.make(wanted)

    # -- look-ups that make nothing ----------------------------------------------------------------------------------

    async def find_users(self, wanted: Iterable[str]) -> dict[str, int]:
        """Return the numbers of those user IDs that have one."""
        return await self._users.find(str(name) for name in wanted)

    async def find_keys(self, wanted: Iterable[StateKey]) -> dict[StateKey, int]:
        """Return the numbers of those state keys that have one."""
        return await self._keys.find(wanted)

    async def user_names(self, wanted: Iterable[int]) -> dict[int, str]:
        """Return the user IDs of numbers; an unknown number is left out."""
        return await self._users.names_of(wanted)

    async def key_names(self, wanted: Iterable[int]) -> dict[int, StateKey]:
        """Return the (type, state_key) of numbers; an unknown number is left out."""
        return await self._keys.names_of(wanted)


def _users_by_name(tx: Transaction, names: list[str]) -> list[tuple[int, str]]:
    query = select(user_ids.c.user_nid, user_ids.c.user_id)
    if len(names) == 1:
        return [(row[0], row[1]) for row in tx.all(query.where(user_ids.c.user_id == names[0]))]
    return [(row[0], row[1]) for part in chunks(names) for row in tx.all(query.where(user_ids.c.user_id.in_(part)))]


def _users_by_nid(tx: Transaction, nids: list[int]) -> list[tuple[int, str]]:
    query = select(user_ids.c.user_nid, user_ids.c.user_id)
    return [(row[0], row[1]) for part in chunks(nids) for row in tx.all(query.where(user_ids.c.user_nid.in_(part)))]


def find_key_nids(tx: Transaction, names: Iterable[StateKey]) -> dict[StateKey, int]:
    """Return the numbers of those state keys that have one, from within a transaction."""
    return {name: nid for part in chunks(names) for nid, name in _keys_by_name(tx, part)}


def _keys_by_name(tx: Transaction, names: list[StateKey]) -> list[tuple[int, StateKey]]:
    query = select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key)
    if len(names) == 1:
        kind, state_key = names[0]
        one = query.where(state_keys.c.type == kind, state_keys.c.state_key == state_key)
        return [(row[0], (row[1], row[2])) for row in tx.all(one)]
    pair = tuple_(state_keys.c.type, state_keys.c.state_key)
    return [(row[0], (row[1], row[2])) for part in chunks(names) for row in tx.all(query.where(pair.in_(part)))]


def _keys_by_nid(tx: Transaction, nids: list[int]) -> list[tuple[int, StateKey]]:
    query = select(state_keys.c.key_nid, state_keys.c.type, state_keys.c.state_key)
    return [
        (row[0], (row[1], row[2]))
        for part in chunks(nids)
        for row in tx.all(query.where(state_keys.c.key_nid.in_(part)))
    ]
