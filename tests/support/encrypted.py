"""Accounts, devices and their keys on a real database, in a line: what `parts_encryption` builds, without a transport.

world = await EncryptedServer.start(database_url)
alice = await world.log_in("alice")                      a Requester, on a device of her own
phone = await world.log_in("alice", "PHONE")
keys = await world.upload(alice, 5)
await world.send(alice, "t1", {phone.user_id: {"*": {"n": 1}}})
messages, since = await world.sync(phone, since)
await world.stop()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from sqlalchemy import func, select

from homeserver.config import Sessions as SessionsConfig
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import ServerName, UserID
from homeserver.parts_encryption import Encryption, build_encryption
from homeserver.users.accounts import Accounts
from homeserver.users.devices import Devices
from homeserver.users.sessions import Requester, Sessions
from storage.tables import all_tables
from storage.transaction import Transaction

from .encryption import Keys
from .rooms import SERVER, RoomServer


class NoOutbox:
    """A way to other servers that nobody takes."""

    def send(self, destinations: Iterable[str], kind: str, content: JsonObject, *, key: str | None = None) -> None: ...

    def wake(self, destinations: Iterable[str]) -> None: ...


class EncryptedServer:
    """The parts."""

    def __init__(self, server: RoomServer) -> None:
        self.server = server
        store = server.store
        self.database = store.database
        self.parts: Encryption = build_encryption(
            store,
            server.feed,
            server.clock,
            server.tasks,
            server_name=ServerName(SERVER),
            outbox=NoOutbox(),
            servers=None,
            tells_names=False,
        )
        self.sessions = Sessions(self.database, store.numbers, server.clock, server.tasks, SessionsConfig())
        self.devices = Devices(self.database, self.sessions, erasers=self.parts.erasers, observe=self.parts.observe)
        self.accounts = Accounts(
            self.database,
            store.interner,
            server.clock,
            server.tasks,
            self.sessions,
            self.devices,
            leave_rooms=self._leave_rooms,
            erasers=self.parts.account_erasers,
        )

    @classmethod
    async def start(cls, url: str) -> EncryptedServer:
        """Return a server that runs on the database."""
        return cls(await RoomServer.start(url))

    async def stop(self) -> None:
        """Write everything and close."""
        await self.server.stop()

    async def log_in(self, localpart: str, device_id: str | None = None) -> Requester:
        """Return somebody with an account, on a new device."""
        user_id = UserID(f"@{localpart}:{SERVER}")
        account = await self.accounts.find(user_id) or await self.accounts.create(user_id)
        login = await self.sessions.log_in(account, device_id=device_id, with_refresh_token=True)
        return Requester(user_id, account.user_nid, login.device_id, login.device_nid)

    async def upload(self, requester: Requester, count: int = 0, *, fallback: bool = False) -> Keys:
        """Upload the keys of a device, one-time keys, and a fallback key."""
        keys = Keys(requester.user_id, str(requester.device_id))
        body = {"device_keys": keys.device(), "one_time_keys": keys.one_time(count)}
        if fallback:
            body["fallback_keys"] = keys.one_time(1, fallback=True)
        await self.parts.device_keys.upload(requester, body)
        return keys

    async def claim(self, requester: Requester, algorithm: str = "signed_curve25519") -> list[str]:
        """Claim a key of a device; return its name, or nothing."""
        found = await self.parts.one_time_keys.claim_local({requester.user_id: {str(requester.device_id): algorithm}})
        return list(found.get(requester.user_id, {}).get(str(requester.device_id), ()))

    async def send(self, requester: Requester, txn_id: str, messages: Mapping[str, Mapping[str, Any]]) -> None:
        """Send messages to devices."""
        await self.parts.to_device.send(requester, "m.test", txn_id, messages)

    async def sync(self, requester: Requester, since: int | None = None) -> tuple[list[Any], int]:
        """Return the contents of the messages that a response tells, and its token; `since` acknowledges."""
        told = await self.parts.to_device_stream.take(requester.device_nid or 0, since)
        upto = self.server.feed.watermark
        return [orjson.loads(each)["content"] for each in told.upto(upto).messages], upto

    async def sizes(self) -> dict[str, int]:
        """Return how many rows each table has."""

        def read(tx: Transaction) -> dict[str, int]:
            tables = all_tables().sorted_tables
            return {table.name: tx.scalar(select(func.count()).select_from(table)) for table in tables}

        return await self.database.read(read)

    async def _leave_rooms(self, user_id: UserID) -> None:
        pass
