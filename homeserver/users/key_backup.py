"""Backups of room keys, encrypted by clients for themselves: versions, and which of two keys is kept.

Spec: client-server API, "Server-side key backups".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from homeserver.errors import BadJson, InvalidParam, NotFound, TooLarge, WrongRoomKeysVersion
from homeserver.model.canonical_json import MAX_INTEGER, JsonObject
from storage import key_backup as storage
from storage.database import Database
from storage.key_backup import BackupRow, RoomKey, Worth
from storage.transaction import Transaction

# LIMIT: of one key's encrypted data, and of a backup's own.
MAX_SESSION_BYTES: Final = 65_536
MAX_AUTH_DATA_BYTES: Final = 65_536
MAX_ID_BYTES: Final = 255
# LIMIT: keys in one backup and backups of one user that are not deleted: more than anybody makes.
MAX_KEYS: Final = 1_000_000
MAX_BACKUPS: Final = 20


class KeyBackups:
    """Reads and writes backups."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def erase(self, tx: Transaction, user_nid: int) -> None:
        """Delete the backups of a user; an `AccountEraser`."""
        storage.delete_backups_of(tx, user_nid)

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
                storage.delete_keys(tx, user_nid, wanted)
                storage.update_backup(tx, user_nid, wanted, {"is_deleted": True, "auth_data": b"{}", "count": 0})

        await self._database.write(write)

    # -- keys --------------------------------------------------------------------------------------------------------

    async def put_keys(self, user_nid: int, version: str, keys: Iterable[RoomKey]) -> JsonObject:
        """Store keys, each where it is better than what is there; return count and etag.

        Raises WrongRoomKeysVersion unless it is the newest version, NotFound where there is none.
        """
        offered = {(key.room_id, key.session_id): key for key in keys}
        wanted = _version(version)

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

    async def get_keys(
        self, user_nid: int, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> dict[str, dict[str, JsonObject]]:
        """Return keys by room and session, all of them or of one room, or one; NotFound for an unknown backup."""
        wanted = _version(version)

        def read(tx: Transaction) -> list[RoomKey]:
            row = storage.find_backup(tx, user_nid, wanted)
            if row is None or row.is_deleted:
                raise NotFound("Unknown backup version")
            return storage.load_keys(tx, user_nid, wanted, room_id, session_id)

        found: dict[str, dict[str, JsonObject]] = {}
        for key in await self._database.read(read):
            found.setdefault(key.room_id, {})[key.session_id] = {
                "first_message_index": key.first_message_index,
                "forwarded_count": key.forwarded_count,
                "is_verified": key.is_verified,
                "session_data": orjson.Fragment(key.session_data),
            }
        return found

    async def delete_keys(
        self, user_nid: int, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> JsonObject:
        """Delete keys, all of them or of one room, or one; return count and etag. NotFound for an unknown backup."""
        wanted = _version(version)

        def write(tx: Transaction) -> tuple[int, int]:
            row = storage.find_backup(tx, user_nid, wanted)
            if row is None or row.is_deleted:
                raise NotFound("Unknown backup version")
            gone = storage.delete_keys(tx, user_nid, wanted, room_id, session_id)
            if not gone:
                return row.key_count, row.etag
            values = {"count": row.key_count - gone, "etag": row.etag + 1}
            storage.update_backup(tx, user_nid, wanted, values)
            return values["count"], values["etag"]

        return _count(*await self._database.write(write))


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


def _is_better(new: RoomKey, old: Worth) -> bool:
    # Spec: "Server-side key backups": verified ones first, then the lower index, then the lower count.
    if new.is_verified != old.is_verified:
        return new.is_verified
    if new.first_message_index != old.first_message_index:
        return new.first_message_index < old.first_message_index
    return new.forwarded_count < old.forwarded_count


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
