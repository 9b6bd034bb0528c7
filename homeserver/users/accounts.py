"""Accounts of this server: made, looked up, changed, and closed for good.

Deactivation takes the password, the devices and the tokens in one transaction and leaves a note that the user has yet
to be taken out of the rooms; that goes on in the background through the `leave_rooms` port and is taken up again after
a restart. What else is of no use without a device (keys of the user, backups of keys) is deleted by `erasers`, in the
same transaction.

Spec: client-server API, "Account deactivation", "Password management".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import orjson

from homeserver.errors import Conflict, NotAllowed, NotFound, UserInUse
from homeserver.model.ids import UserID
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage import accounts as storage
from storage import devices as devices_storage
from storage import profiles as profiles_storage
from storage.accounts import AccountRow
from storage.database import Database
from storage.devices import DeviceRow
from storage.interning import Interner
from storage.transaction import Transaction

from .devices import Devices
from .sessions import Sessions

Account: TypeAlias = AccountRow
"""One account of this server, for those above who may not name the storage."""

AccountEraser = Callable[[Transaction, int], None]
"""Deletes what belongs to an account that is closed: called with (transaction, user_nid)."""


class Accounts:
    """The accounts of this server."""

    def __init__(
        self,
        database: Database,
        interner: Interner,
        clock: Clock,
        tasks: Tasks,
        sessions: Sessions,
        devices: Devices,
        *,
        leave_rooms: Callable[[UserID], Awaitable[None]],
        erasers: Sequence[AccountEraser] = (),
        registered: Callable[[UserID], None] = lambda user_id: None,
        deactivated: Callable[[UserID], None] = lambda user_id: None,
    ) -> None:
        """`leave_rooms` takes a user out of all rooms and may be called again for one who has left some.

        `registered` and `deactivated` are told after the commit.
        """
        self._database = database
        self._interner = interner
        self._clock = clock
        self._tasks = tasks
        self._sessions = sessions
        self._devices = devices
        self._leave_rooms = leave_rooms
        self._erasers = tuple(erasers)
        self._registered = registered
        self._deactivated = deactivated

    async def start(self) -> None:
        """Go on with the deactivations that the last run left unfinished."""
        for user_nid, user_id in await self._database.read(storage.list_leaving):
            self._tasks.start(f"leave rooms of {user_id}", self._leave(user_nid, UserID(user_id)))

    # -- looking up --------------------------------------------------------------------------------------------------

    async def find(self, user_id: str) -> AccountRow | None:
        """Return the account of exactly this user ID, or None."""
        return await self._database.read(lambda tx: storage.find_account(tx, user_id))

    async def get(self, user_id: str) -> AccountRow:
        """Return the account of exactly this user ID; NotFound."""
        found = await self.find(user_id)
        if found is None:
            raise NotFound("There is no such user on this server")
        return found

    async def has(self, user_id: str) -> bool:
        """Tell whether a user ID is taken, by a deactivated user too."""
        return await self._database.read(lambda tx: storage.has_account(tx, user_id))

    async def has_any(self) -> bool:
        """Tell whether anybody was ever registered; False before the first run is over."""
        return await self._database.read(storage.has_accounts)

    async def list_accounts(self, *, after: str = "", limit: int = 100) -> list[AccountRow]:
        """Return accounts in the order of their user IDs, those after `after`."""
        return await self._database.read(lambda tx: storage.list_accounts(tx, after=after, limit=limit))

    # -- making and changing -----------------------------------------------------------------------------------------

    async def create(
        self,
        user_id: UserID,
        *,
        password_hash: str | None = None,
        is_admin: bool = False,
        is_guest: bool = False,
        appservice: str | None = None,
        display_name: str | None = None,
        registration_token: str | None = None,
    ) -> AccountRow:
        """Make an account, using up one use of `registration_token` where one is given; its holder may become admin.

        Raises UserInUse; NotAllowed when the registration token is not valid any more.
        """
        if await self.has(user_id):
            raise UserInUse("User ID already taken")
        user_nid = await self._interner.user(user_id)
        now_ms = self._clock.now_ms()
        name = None if display_name is None else orjson.dumps(display_name)

        def write(tx: Transaction) -> AccountRow:
            makes_admin = is_admin
            if registration_token is not None:
                token = storage.use_registration_token(tx, registration_token, now_ms)
                if token is None:
                    raise NotAllowed("The registration token is not valid any more")
                makes_admin = makes_admin or token.makes_admin
            is_created = storage.create_account(
                tx,
                user_nid=user_nid,
                user_id=user_id,
                password_hash=password_hash,
                is_admin=makes_admin,
                is_guest=is_guest,
                created_ts=now_ms,
                appservice=appservice,
            )
            if not is_created:
                raise UserInUse("User ID already taken")
            if name is not None:
                profiles_storage.set_field(tx, user_nid, "displayname", name)
            return _must_find(tx, user_id)

        account = await self._database.write(write)
        self._registered(user_id)
        return account

    async def upgrade_guest(self, user_nid: int, password_hash: str | None) -> None:
        """Make a full account of a guest's; Conflict when it is not a guest's any more.

        Spec: client-server API, "Guest Access".
        """
        if not await self._database.write(lambda tx: storage.set_upgraded(tx, user_nid, password_hash)):
            raise Conflict("This is not a guest account")
        self._sessions.forget_user(user_nid)

    async def set_password_hash(
        self, user_id: UserID, user_nid: int, password_hash: str, *, logout_devices: bool, except_device: int | None
    ) -> None:
        """Replace a password; with `logout_devices` all devices but one are deleted, with their tokens."""

        def write(tx: Transaction) -> list[DeviceRow]:
            storage.set_password_hash(tx, user_nid, password_hash)
            if not logout_devices:
                return []
            rows = self._devices.delete_in(tx, user_nid, lambda row: row.device_nid == except_device)
            devices_storage.delete_tokens_of_user(tx, user_nid, except_device=except_device)
            return rows

        self._devices.deleted(user_id, user_nid, await self._database.write(write))

    async def set_flags(
        self,
        user_nid: int,
        *,
        is_admin: bool | None = None,
        is_locked: bool | None = None,
        is_suspended: bool | None = None,
        is_shadow_banned: bool | None = None,
    ) -> None:
        """Set those flags of an account that are given."""
        await self._database.write(
            lambda tx: storage.set_flags(
                tx,
                user_nid,
                is_admin=is_admin,
                is_locked=is_locked,
                is_suspended=is_suspended,
                is_shadow_banned=is_shadow_banned,
            )
        )
        self._sessions.forget_user(user_nid)

    # -- closing -----------------------------------------------------------------------------------------------------

    async def deactivate(self, user_id: UserID, user_nid: int, *, erase: bool) -> None:
        """Close an account for good; leaving the rooms goes on in the background."""

        def write(tx: Transaction) -> list[DeviceRow]:
            storage.set_deactivated(tx, user_nid, is_erased=erase)
            rows = self._devices.delete_in(tx, user_nid, lambda row: False)
            devices_storage.delete_tokens_of_user(tx, user_nid)
            for eraser in self._erasers:
                eraser(tx, user_nid)
            if erase:
                # Spec: "The server should additionally erase any non-event data associated with the user".
                profiles_storage.delete_profile(tx, user_nid)
            return rows

        self._devices.deleted(user_id, user_nid, await self._database.write(write))
        self._deactivated(user_id)
        self._tasks.start(f"leave rooms of {user_id}", self._leave(user_nid, user_id))

    async def _leave(self, user_nid: int, user_id: UserID) -> None:
        await self._leave_rooms(user_id)
        await self._database.write(lambda tx: storage.set_rooms_left(tx, user_nid))


def _must_find(tx: Transaction, user_id: str) -> AccountRow:
    found = storage.find_account(tx, user_id)
    if found is None:
        raise NotFound("There is no such user on this server")
    return found
