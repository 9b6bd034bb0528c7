"""Making an account: names, who may, with which proof, and guests.

There are four ways in: open registration (the dummy stage), a registration token, the operator (shared secret, command
line, administrator API), and as a guest. A registration token with `makes_admin` is the first run's: it works where
registration is closed, once, and its holder becomes the first administrator.

New user names are mapped to lower case, and only from ASCII: no other letter is folded into one of ours.

Spec: client-server API, "Account registration", "Token-authenticated registration", "Guest Access"; appendices, "User
Identifiers".
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Callable
from typing import Final

from homeserver.config import Registration as RegistrationConfig
from homeserver.errors import BadIdentifier, Exclusive, InvalidParam, InvalidUsername, NotAllowed, UserInUse
from homeserver.model.ids import ServerName, UserID, is_opaque_id
from homeserver.runtime.clock import Clock
from storage import accounts as storage
from storage.accounts import AccountRow, RegistrationTokenRow
from storage.database import Database

from .accounts import Accounts
from .interactive_auth import DUMMY, REGISTRATION_TOKEN

MAX_TOKEN_CHARACTERS: Final = 64
_ATTEMPTS: Final = 5


class Registration:
    """Judges who may make an account, and makes it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        accounts: Accounts,
        *,
        server_name: ServerName,
        config: RegistrationConfig,
        is_exclusive: Callable[[UserID], bool] = lambda user_id: False,
    ) -> None:
        """`is_exclusive` tells whether a user ID is in a namespace that an application service has for itself."""
        self._database = database
        self._clock = clock
        self._accounts = accounts
        self._server_name = server_name
        self._config = config
        self._is_exclusive = is_exclusive
        # The only makers and users of such tokens are here, so memory knows.
        self._has_admin_token = False

    async def start(self) -> None:
        """Learn whether the first run's token is still to be used."""
        now_ms = self._clock.now_ms()
        self._has_admin_token = bool(await self._database.read(lambda tx: storage.count_open_admin_tokens(tx, now_ms)))

    @property
    def is_enabled(self) -> bool:
        """Whether clients may make accounts, if need be with a token."""
        return self._config.enabled or self._has_admin_token

    @property
    def hides_names_in_use(self) -> bool:
        """Whether it is kept from strangers that a name is taken, until they have authenticated."""
        return self._config.hide_names_in_use

    def flows(self) -> list[tuple[str, ...]]:
        """Return the flows of user-interactive authentication for a registration; NotAllowed where there are none."""
        flows: list[tuple[str, ...]] = []
        if self._config.enabled and not self._config.requires_token:
            flows.append((DUMMY,))
        if self._has_admin_token or (self._config.enabled and self._config.requires_token):
            flows.append((REGISTRATION_TOKEN,))
        if not flows:
            raise NotAllowed("Registration is disabled")
        return flows

    def user_id_for(self, username: str) -> UserID:
        """Return the user ID that this user name would get; InvalidUsername, Exclusive."""
        # str.lower would also make "k" of the Kelvin sign, and somebody else of its bearer.
        localpart = username.lower() if username.isascii() else username
        try:
            user_id = UserID.of(localpart, self._server_name)
        except BadIdentifier as fault:
            raise InvalidUsername(fault.message) from fault
        # Spec: application service API, "Server admin style permissions"; whatever else is against it.
        if self._is_exclusive(user_id):
            raise Exclusive("This user name is reserved by an application service")
        # COMPAT(synapse): names beginning with an underscore are left to bridges, numbers to guests.
        if localpart.startswith("_"):
            raise InvalidUsername("A user name may not begin with _")
        if localpart.isdigit():
            raise InvalidUsername("Numeric user names are reserved for guests")
        return user_id

    async def check_available(self, username: str) -> UserID:
        """Return the user ID for a name that nobody has; InvalidUsername, Exclusive, UserInUse."""
        user_id = self.user_id_for(username)
        if await self._accounts.has(user_id):
            raise UserInUse("User ID already taken")
        return user_id

    async def register(
        self,
        username: str | None,
        password_hash: str | None,
        *,
        is_admin: bool = False,
        display_name: str | None = None,
        registration_token: str | None = None,
    ) -> AccountRow:
        """Make an account; without a user name one is made up.

        The display name is the localpart unless one is given.
        """
        if username is None:
            return await self._register_somebody(password_hash, registration_token)
        user_id = self.user_id_for(username)
        account = await self._accounts.create(
            user_id,
            password_hash=password_hash,
            is_admin=is_admin,
            # COMPAT(synapse): a new user is called by the localpart.
            display_name=user_id.localpart if display_name is None else display_name,
            registration_token=registration_token,
        )
        await self._used(registration_token)
        return account

    async def register_guest(self) -> AccountRow:
        """Make a guest account; NotAllowed where there are none."""
        if not self._config.guest_access:
            raise NotAllowed("Guest access is disabled")
        return await self._create_with_random_name(string.digits, is_guest=True)

    async def _register_somebody(self, password_hash: str | None, registration_token: str | None) -> AccountRow:
        account = await self._create_with_random_name(
            string.ascii_lowercase, password_hash=password_hash, registration_token=registration_token
        )
        await self._used(registration_token)
        return account

    async def _create_with_random_name(
        self,
        alphabet: str,
        *,
        is_guest: bool = False,
        password_hash: str | None = None,
        registration_token: str | None = None,
    ) -> AccountRow:
        for _ in range(_ATTEMPTS):
            localpart = "".join(secrets.choice(alphabet) for _ in range(16))
            try:
                return await self._accounts.create(
                    UserID.of(localpart, self._server_name),
                    password_hash=password_hash,
                    is_guest=is_guest,
                    registration_token=registration_token,
                )
            except UserInUse:
                continue
        raise UserInUse("No free user name was found")

    # -- registration tokens -----------------------------------------------------------------------------------------

    async def create_token(
        self,
        token: str | None = None,
        *,
        uses_allowed: int | None = None,
        expires_ts: int | None = None,
        life_ms: int | None = None,
        makes_admin: bool = False,
    ) -> str:
        """Make a registration token and return it; InvalidParam for a name that is taken or against the grammar.

        Its end is given as a time or as a life from now on. One with `makes_admin` is for a single use.
        """
        if life_ms is not None:
            expires_ts = self._clock.now_ms() + life_ms
        if token is not None and (len(token) > MAX_TOKEN_CHARACTERS or not is_opaque_id(token)):
            raise InvalidParam("A registration token is 1 to 64 of the characters A-Z, a-z, 0-9, - and _")
        name = token if token is not None else secrets.token_urlsafe(15)
        row = RegistrationTokenRow(name, 1 if makes_admin else uses_allowed, 0, expires_ts, makes_admin)
        if not await self._database.write(lambda tx: storage.create_registration_token(tx, row)):
            raise InvalidParam("There is a registration token of this name already")
        if makes_admin:
            await self.start()
        return name

    async def delete_token(self, token: str) -> bool:
        """Delete a registration token; False when there is none."""
        is_deleted = await self._database.write(lambda tx: storage.delete_registration_token(tx, token))
        await self.start()
        return is_deleted

    async def is_token_valid(self, token: str) -> bool:
        """Tell whether an account may be made with this registration token now."""
        if len(token) > MAX_TOKEN_CHARACTERS or not is_opaque_id(token):
            return False
        row = await self._database.read(lambda tx: storage.find_registration_token(tx, token))
        if row is None or not row.is_valid(self._clock.now_ms()):
            return False
        return row.makes_admin or self._config.enabled

    async def _used(self, registration_token: str | None) -> None:
        if registration_token is not None and self._has_admin_token:
            await self.start()
