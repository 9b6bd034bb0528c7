"""Backups of room keys, encrypted by clients for themselves: versions, and which of two keys is kept.

A backup has at most `MAX_KEYS` keys, and `MAX_BACKUP_BYTES` of them; what would be more is refused with 413. A client
asks for all of it at once, so the answer is written to a file in a database thread, some keys at a time: a few on the
whole server at once, one for each user, and only so many bytes of them until they have been sent.

To weigh a backup means to look at all of its keys. So that is done when it is written to for the first time since the
start, and from then on what is added is counted, what is replaced too; where that comes to the bound, it is weighed
again.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, LimitExceeded, NotFound, TooLarge, WrongRoomKeysVersion
from homeserver.model.canonical_json import MAX_INTEGER, JsonObject
from homeserver.runtime.lanes import Lanes
from homeserver.runtime.slots import RETRY_AFTER_MS, Slots
from storage import key_backup as storage
from storage.database import Database
from storage.key_backup import BackupRow, LeftBackup, RoomKey, Worth
from storage.transaction import Transaction

# LIMIT: of one key's encrypted data, and of a backup's own.
MAX_SESSION_BYTES: Final = 65_536
MAX_AUTH_DATA_BYTES: Final = 65_536
MAX_ID_BYTES: Final = 255
# LIMIT: keys in one backup, their bytes, and backups of one user that are not deleted: more than anybody makes.
MAX_KEYS: Final = 500_000
MAX_BACKUP_BYTES: Final = 256 * 1024**2
MAX_BACKUPS: Final = 20
# LIMIT: answers that are written at once, those that wait, those of one user that wait or are being sent, and bytes
# that are being sent to all.
_WRITERS: Final = 2
_MOST_WAITING: Final = 500
_MOST_OF_A_USER: Final = 10
_MOST_SENT_BYTES: Final = 2 * 1024**3
# What is longer goes to disk.
_MEMORY_BYTES: Final = 1 << 18
# LIMIT: backups whose size is known.
_MOST_WEIGHED: Final = 10_000
# A backup that may be full is weighed again when so much was added that some of it may have replaced other keys.
_WEIGHED_AGAIN_BYTES: Final = 1 << 20
_SWEPT: Final = 100


@dataclass(frozen=True, slots=True)
class KeysFile:
    """JSON of `length` bytes in a file, to be read from its start and closed."""

    file: IO[bytes]
    length: int


@dataclass(slots=True)
class _Weight:
    size_bytes: int
    # Since it was weighed, and counted into it.
    added_bytes: int = 0


class KeyBackups:
    """Reads and writes backups."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writers = Slots(_WRITERS, most_waiting=_MOST_WAITING)
        self._turns: Lanes[int] = Lanes()
        # How many answers each user waits for or is being sent, and how many bytes are being sent.
        self._open: dict[int, int] = {}
        self._sent_bytes = 0
        # (user_nid, version) -> at least as much as the keys have.
        self._weights: dict[tuple[int, int], _Weight] = {}

    def erase(self, tx: Transaction, user_nid: int) -> None:
        """Delete the backups of a user; an `AccountEraser`. What is large is left for `sweep`."""
        storage.mark_deleted(tx, user_nid)
        storage.delete_small_backups(tx, user_nid)

    async def sweep(self) -> None:
        """Delete the keys of deleted backups, where a stop came in between, or whose account was closed."""
        while True:
            left = await self._database.read(lambda tx: storage.list_left(tx, _SWEPT))
            for each in left:
                await self._empty(each)
            if len(left) < _SWEPT:
                return

    async def _empty(self, left: LeftBackup) -> None:
        # Each batch is a write of its own: the writer works for all users.
        after: storage.Place | None = None

        def write(tx: Transaction) -> storage.Place | None:
            _, last = storage.delete_batch(tx, left.user_nid, left.version, after=after)
            if last is None:
                storage.set_all_deleted(tx, left)
            return last

        while (after := await self._database.write(write)) is not None:
            pass

    # -- versions ----------------------------------------------------------------------------------------------------

    async def create(self, user_nid: int, body: JsonObject) -> str:
        """Make a backup, the newest from now on, and return its version; raises BadJson, TooLarge."""
        algorithm, auth_data = _read_backup(body)

        def write(tx: Transaction) -> int:
            if storage.count_backups(tx, user_nid) >= MAX_BACKUPS:
                raise InvalidParam("There are too many backups: delete some")
            return storage.create_backup(tx, user_nid, algorithm, auth_data)

        return str(await self._database.write(write))

    async def get(self, user_nid: int, version: str | None = None) -> JsonObject:
        """Return what is known of a backup, without a version of the newest; NotFound."""
        wanted = None if version is None else _version(version)
        row = await self._database.read(lambda tx: storage.find_backup(tx, user_nid, wanted))
        if row is None or row.is_deleted:
            raise NotFound("No current backup version" if version is None else "Unknown backup version")
        return {
            "algorithm": row.algorithm,
            "auth_data": orjson.Fragment(row.auth_data),
            "version": str(row.version),
            **_count(row.key_count, row.etag),
        }

    async def update(self, user_nid: int, version: str, body: JsonObject) -> None:
        """Replace a backup's own data; raises NotFound, BadJson, InvalidParam for another algorithm or version."""
        algorithm, auth_data = _read_backup(body)
        if body.get("version") not in (None, version):
            raise InvalidParam("Version in body does not match")
        wanted = _version(version)

        def write(tx: Transaction) -> None:
            row = storage.find_backup(tx, user_nid, wanted)
            if row is None or row.is_deleted:
                raise NotFound("Unknown backup version")
            if row.algorithm != algorithm:
                raise InvalidParam("Algorithm does not match")
            storage.update_backup(tx, user_nid, wanted, {"auth_data": auth_data})

        await self._database.write(write)

    async def delete(self, user_nid: int, version: str) -> None:
        """Delete a backup with its keys; nothing happens where it was deleted before. NotFound."""
        wanted = _version(version)

        def write(tx: Transaction) -> None:
            row = storage.find_backup(tx, user_nid, wanted)
            if row is None:
                raise NotFound("Unknown backup version")
            if not row.is_deleted:
                storage.mark_deleted(tx, user_nid, wanted)

        await self._database.write(write)
        self._weights.pop((user_nid, wanted), None)
        await self._empty(LeftBackup(user_nid, wanted, is_closed=False))

    # -- keys --------------------------------------------------------------------------------------------------------

    async def put_keys(self, user_nid: int, version: str, keys: Iterable[RoomKey]) -> JsonObject:
        """Store keys, each where it is better than what is there; return count and etag.

        Raises WrongRoomKeysVersion unless it is the newest version, NotFound where there is none; TooLarge.
        """
        offered = {(key.room_id, key.session_id): key for key in keys}
        wanted = _version(version)
        await self._make_room(user_nid, wanted, sum(map(_size, offered.values())))

        def write(tx: Transaction) -> tuple[int, int]:
            row = _writable(tx, user_nid, wanted)
            present = storage.find_worths(tx, user_nid, wanted, offered)
            better = [key for name, key in offered.items() if name not in present or _is_better(key, present[name])]
            if not better:
                return row.key_count, row.etag
            count = row.key_count + sum((key.room_id, key.session_id) not in present for key in better)
            if count > MAX_KEYS:
                raise TooLarge("The backup has too many keys")
            storage.set_keys(tx, user_nid, wanted, better)
            storage.update_backup(tx, user_nid, wanted, {"count": count, "etag": row.etag + 1})
            return count, row.etag + 1

        return _count(*await self._database.write(write))

    async def _make_room(self, user_nid: int, version: int, size_bytes: int) -> None:
        """Count bytes that are about to be added; raises TooLarge."""
        name = user_nid, version
        weight = self._weights.get(name)
        is_full = weight is not None and weight.size_bytes + size_bytes > MAX_BACKUP_BYTES
        if weight is None or (is_full and weight.added_bytes >= _WEIGHED_AGAIN_BYTES):
            added_bytes = 0 if weight is None else weight.added_bytes
            measured = await self._database.read(lambda tx: storage.measure_keys(tx, user_nid, version))
            # What was added meanwhile may not have been seen.
            known = self._weights.get(name)
            meanwhile = 0 if known is None else known.added_bytes - added_bytes
            weight = self._weights[name] = _Weight(measured + max(0, meanwhile))
            while len(self._weights) > _MOST_WEIGHED:
                del self._weights[next(iter(self._weights))]
        if weight.size_bytes + size_bytes > MAX_BACKUP_BYTES:
            raise TooLarge("The backup is too large")
        weight.size_bytes += size_bytes
        weight.added_bytes += size_bytes

    async def get_key(self, user_nid: int, version: str, room_id: str, session_id: str) -> JsonObject:
        """Return one key; NotFound."""
        wanted = _version(version)

        def read(tx: Transaction) -> RoomKey:
            _existing(tx, user_nid, wanted)
            key = storage.find_key(tx, user_nid, wanted, room_id, session_id)
            if key is None:
                raise NotFound("No room_keys found")
            return key

        key = await self._database.read(read)
        return {
            "first_message_index": key.first_message_index,
            "forwarded_count": key.forwarded_count,
            "is_verified": key.is_verified,
            "session_data": orjson.Fragment(key.session_data),
        }

    async def get_keys(self, user_nid: int, version: str, room_id: str | None = None) -> KeysFile:
        """Return all keys, or those of one room, as `GET /room_keys/keys` answers; NotFound for an unknown backup.

        Raises LimitExceeded where too much is asked for at once.
        """
        wanted = _version(version)

        def read(tx: Transaction) -> KeysFile:
            _existing(tx, user_nid, wanted)
            found = _write_keys(storage.iterate_keys(tx, user_nid, wanted, room_id), room_id)
            # Where each statement sees a state of its own, it may have been deleted meanwhile: half of it is none.
            _existing(tx, user_nid, wanted)
            return found

        self._hold(user_nid, 0)
        try:
            async with self._turns.enter(user_nid):
                found = await self._writers.run(lambda: self._database.read(read))
        finally:
            self._release(user_nid, 0)
        # As long as it is being sent it counts.
        self._hold(user_nid, found.length)
        weakref.finalize(found.file, self._release, user_nid, found.length).atexit = False
        return found

    def _hold(self, user_nid: int, size_bytes: int) -> None:
        if self._open.get(user_nid, 0) >= _MOST_OF_A_USER or self._sent_bytes >= _MOST_SENT_BYTES:
            raise LimitExceeded(RETRY_AFTER_MS, "Wait for the answers to what you have asked")
        self._open[user_nid] = self._open.get(user_nid, 0) + 1
        self._sent_bytes += size_bytes

    def _release(self, user_nid: int, size_bytes: int) -> None:
        self._sent_bytes -= size_bytes
        left = self._open[user_nid] - 1
        if left:
            self._open[user_nid] = left
        else:
            del self._open[user_nid]

    async def delete_keys(
        self, user_nid: int, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> JsonObject:
        """Delete keys, all of them or of one room, or one; return count and etag. NotFound for an unknown backup."""
        wanted = _version(version)
        after: storage.Place | None = None

        def write(tx: Transaction) -> tuple[tuple[int, int], storage.Place | None]:
            row = _existing(tx, user_nid, wanted)
            last: storage.Place | None = None
            if room_id is not None and session_id is not None:
                gone = storage.delete_key(tx, user_nid, wanted, room_id, session_id)
            else:
                gone, last = storage.delete_batch(tx, user_nid, wanted, room_id, after)
            if not gone:
                return (row.key_count, row.etag), last
            values = {"count": row.key_count - gone, "etag": row.etag + 1}
            storage.update_backup(tx, user_nid, wanted, values)
            return (values["count"], values["etag"]), last

        while True:
            counted, after = await self._database.write(write)
            if after is None:
                break
        self._weights.pop((user_nid, wanted), None)
        return _count(*counted)


def read_room_key(room_id: str, session_id: str, value: Any) -> RoomKey:
    """Return a key of a body; raises BadJson, TooLarge."""
    if not isinstance(value, dict):
        raise BadJson("a backed up key must be an object")
    for identifier in (room_id, session_id):
        if not identifier or "\x00" in identifier or len(identifier.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
            raise BadJson("the ID of a room or session is not valid")
    numbers = []
    for name in ("first_message_index", "forwarded_count"):
        number = value.get(name)
        if type(number) is not int or not 0 <= number <= MAX_INTEGER:
            raise BadJson(f"'{name}' must be an integer that is not negative")
        numbers.append(number)
    is_verified, data = value.get("is_verified"), value.get("session_data")
    if type(is_verified) is not bool:
        raise BadJson("'is_verified' must be a boolean")
    if not isinstance(data, dict):
        raise BadJson("'session_data' must be an object")
    encoded = orjson.dumps(data)
    if len(encoded) > MAX_SESSION_BYTES:
        raise TooLarge(f"'session_data' has at most {MAX_SESSION_BYTES} bytes")
    return RoomKey(room_id, session_id, numbers[0], numbers[1], is_verified, encoded)


def read_sessions(room_id: str, value: Any) -> list[RoomKey]:
    """Return the keys of a body for one room."""
    sessions = value.get("sessions") if isinstance(value, Mapping) else None
    if not isinstance(sessions, dict):
        raise BadJson("'sessions' must be an object")
    return [read_room_key(room_id, session_id, each) for session_id, each in sessions.items()]


def read_rooms(value: Any) -> list[RoomKey]:
    """Return the keys of a body for several rooms."""
    rooms = value.get("rooms") if isinstance(value, Mapping) else None
    if not isinstance(rooms, dict):
        raise BadJson("'rooms' must be an object")
    return [key for room_id, each in rooms.items() for key in read_sessions(room_id, each)]


def _write_keys(keys: Iterable[RoomKey], room_id: str | None) -> KeysFile:
    """Write the answer of `GET /room_keys/keys`, or of one room's; of one room all keys are together."""
    file: IO[bytes] = SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115 (who sends it closes it)
    file.write(b'{"rooms":{' if room_id is None else b'{"sessions":{')
    # Which room's keys are being written; those of the one that was asked for need no name.
    room, separator = room_id, b""
    for key in keys:
        if key.room_id != room:
            file.write(b'%s%s:{"sessions":{' % (b"" if room is None else b"}},", orjson.dumps(key.room_id)))
            room, separator = key.room_id, b""
        is_verified = b"true" if key.is_verified else b"false"
        file.write(
            b'%s%s:{"first_message_index":%d,"forwarded_count":%d,"is_verified":%s,"session_data":'
            % (separator, orjson.dumps(key.session_id), key.first_message_index, key.forwarded_count, is_verified)
        )
        file.write(key.session_data)
        file.write(b"}")
        separator = b","
    file.write(b"}}}}" if room_id is None and room is not None else b"}}")
    length = file.tell()
    file.seek(0)
    return KeysFile(file, length)


def _size(key: RoomKey) -> int:
    return len(key.session_data) + len(key.room_id.encode()) + len(key.session_id.encode())


def _is_better(new: RoomKey, old: Worth) -> bool:
    # Spec: "Server-side key backups": verified ones first, then the lower index, then the lower count.
    if new.is_verified != old.is_verified:
        return new.is_verified
    if new.first_message_index != old.first_message_index:
        return new.first_message_index < old.first_message_index
    return new.forwarded_count < old.forwarded_count


def _existing(tx: Transaction, user_nid: int, version: int) -> BackupRow:
    row = storage.find_backup(tx, user_nid, version)
    if row is None or row.is_deleted:
        raise NotFound("Unknown backup version")
    return row


def _writable(tx: Transaction, user_nid: int, version: int) -> BackupRow:
    newest = storage.find_backup(tx, user_nid, None)
    if newest is None:
        raise NotFound("No current backup version")
    if newest.version != version:
        raise WrongRoomKeysVersion(str(newest.version))
    return newest


def _read_backup(body: JsonObject) -> tuple[str, bytes]:
    algorithm, auth_data = body.get("algorithm"), body.get("auth_data")
    if not isinstance(algorithm, str) or not 0 < len(algorithm) <= MAX_ID_BYTES:
        raise BadJson("'algorithm' must be a string")
    if not isinstance(auth_data, dict):
        raise BadJson("'auth_data' must be an object")
    encoded = orjson.dumps(auth_data)
    if len(encoded) > MAX_AUTH_DATA_BYTES:
        raise TooLarge(f"'auth_data' has at most {MAX_AUTH_DATA_BYTES} bytes")
    return algorithm, encoded


def _version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or (text != "0" and text.startswith("0")):
        raise NotFound("Unknown backup version")
    return int(text)


def _count(count: int, etag: int) -> JsonObject:
    return {"count": count, "etag": str(etag)}
