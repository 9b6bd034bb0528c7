"""What whoever runs the server does with accounts: the command line, the first run, an embedding application.

Users are named by localpart or user ID. Password policy is the operator's own, so it is not applied to the operator.
"""

from __future__ import annotations

from collections.abc import Sequence

from homeserver.errors import InvalidParam, NotFound
from homeserver.model.ids import ServerName, UserID

from .accounts import Account, Accounts
from .credentials import MAX_PASSWORD_CHARACTERS, Credentials
from .device_overview import DeviceLine
from .devices import Devices
from .registration import Registration
from .sessions import device_ids_from


class OperatorAccounts:
    """Makes, changes and lists accounts; refusals are MatrixErrors."""

    def __init__(
        self,
        accounts: Accounts,
        credentials: Credentials,
        registration: Registration,
        devices: Devices,
        *,
        server_name: ServerName,
    ) -> None:
        self._accounts = accounts
        self._devices = devices
        self._credentials = credentials
        self._registration = registration
        self._server_name = server_name

    async def has_any(self) -> bool:
        """Tell whether anybody was ever registered."""
        return await self._accounts.has_any()

    async def first_user_id(self) -> str | None:
        """Return one of the user IDs of this server, None when there is none."""
        found = await self._accounts.list_accounts(limit=1)
        return found[0].user_id if found else None

    async def create(
        self, localpart: str, password: str, *, admin: bool = False, display_name: str | None = None
    ) -> str:
        """Make an account and return its user ID; InvalidUsername, Exclusive, UserInUse, InvalidParam."""
        await self._registration.check_available(localpart)
        password_hash = await self._hash(password)
        account = await self._registration.register(localpart, password_hash, is_admin=admin, display_name=display_name)
        return account.user_id

    async def set_password(self, localpart: str, password: str) -> None:
        """Replace a password and log out all devices; NotFound."""
        account = await self._get(localpart)
        if account.is_deactivated:
            raise InvalidParam("The account is deactivated")
        password_hash = await self._hash(password)
        await self._accounts.set_password_hash(
            UserID(account.user_id), account.user_nid, password_hash, logout_devices=True, except_device=None
        )

    async def deactivate(self, localpart: str, *, erase: bool = False) -> None:
        """Close an account for good; NotFound."""
        account = await self._get(localpart)
        await self._accounts.deactivate(UserID(account.user_id), account.user_nid, erase=erase)

    async def list_accounts(self) -> list[Account]:
        """Return all accounts in the order of their user IDs."""
        found: list[Account] = []
        while True:
            page = await self._accounts.list_accounts(after=found[-1].user_id if found else "", limit=500)
            found.extend(page)
            if len(page) < 500:
                return found

    async def list_devices(self, localpart: str) -> list[DeviceLine]:
        """Return a user's devices, oldest first; NotFound."""
        account = await self._get(localpart)
        return await self._devices.list_lines(UserID(account.user_id), account.user_nid)

    async def remove_devices(self, localpart: str, device_ids: Sequence[str]) -> None:
        """Delete devices of a user and end their sessions; NotFound, also where one of them does not exist."""
        account = await self._get(localpart)
        user_id, wanted = UserID(account.user_id), device_ids_from(device_ids)
        known = {line.device_id for line in await self._devices.list_lines(user_id, account.user_nid)}
        missing = [device_id for device_id in wanted if device_id not in known]
        if missing:
            raise NotFound(f"There is no device {missing[0]}; nothing was removed")
        await self._devices.delete(user_id, account.user_nid, wanted)

    async def create_token(self, uses: int) -> str:
        """Return a new registration token that is good for so many accounts."""
        if uses < 1:
            raise InvalidParam("A registration token is for at least one account")
        return await self._registration.create_token(uses_allowed=uses)

    async def create_first_admin_token(self) -> str:
        """Return a new registration token whose holder becomes an administrator; it works once, within a day."""
        return await self._registration.create_token(makes_admin=True, life_ms=86_400_000)

    async def _get(self, localpart: str) -> Account:
        user_id = localpart if localpart.startswith("@") else f"@{localpart}:{self._server_name}"
        return await self._accounts.get(user_id)

    async def _hash(self, password: str) -> str:
        if not password or len(password) > MAX_PASSWORD_CHARACTERS or "\x00" in password:
            raise InvalidParam(f"A password has 1 to {MAX_PASSWORD_CHARACTERS} characters")
        return await self._credentials.hash(password)
