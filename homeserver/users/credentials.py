"""Passwords: what a new one must look like, how it is kept, and whether one given is right.

Passwords are kept as bcrypt hashes, normalized to NFKC first. bcrypt reads 72 bytes and no more, so a longer password
goes through SHA-512 before; the prefix `sha512:` on the stored hash says that it did, and a hash without it (made
elsewhere) is compared as bcrypt always has been: by the first 72 bytes.

Hashing takes a good part of a second of CPU by design. It runs in worker threads, few at a time, and too many waiting
are refused, so that guessing passwords slows down neither the reactor nor the database. A user who does not exist
costs as much as one who does. Failures are counted for each account through the `AttemptLimit` port.
"""

from __future__ import annotations

import hashlib
import unicodedata
from base64 import b64encode
from typing import Final, Protocol

import bcrypt

from homeserver.config import PasswordPolicy
from homeserver.errors import InvalidParam, NotAllowed, WeakPassword
from homeserver.model.ids import ServerName, UserID
from homeserver.runtime.slots import Slots
from homeserver.runtime.threads import Worker
from storage import accounts as accounts_storage
from storage.accounts import AccountRow
from storage.database import Database

# LIMIT: long enough for any passphrase, short enough that normalizing it costs nothing.
MAX_PASSWORD_CHARACTERS: Final = 512
MAX_WAITING: Final = 200
_BCRYPT_BYTES: Final = 72
_LONG: Final = "sha512:"


class AttemptLimit(Protocol):
    """Bounds how often passwords may be guessed, by account."""

    def attempt(self, account: str) -> None:
        """Count an attempt before it is judged, so that none is free while another runs; raise LimitExceeded."""
        ...

    def succeeded(self, account: str) -> None:
        """Take the attempt back: only failures count."""
        ...


class NoAttemptLimit:
    """Guessing is not bounded: for tests and for tools of the operator."""

    def attempt(self, account: str) -> None:
        pass

    def succeeded(self, account: str) -> None:
        pass


class WrongPassword(NotAllowed):
    """User and password do not fit together; which of them is wrong is not told."""

    def __init__(self) -> None:
        super().__init__("Invalid username or password")


class Credentials:
    """Hashes and checks passwords."""

    def __init__(
        self,
        database: Database,
        threads: Worker,
        *,
        server_name: ServerName,
        policy: PasswordPolicy,
        bcrypt_rounds: int,
        attempts: AttemptLimit,
        slots: int = 2,
    ) -> None:
        self._database = database
        self._threads = threads
        self._server_name = server_name
        self._policy = policy
        self._rounds = bcrypt_rounds
        self._attempts = attempts
        self._slots = Slots(slots, most_waiting=MAX_WAITING)
        # A hash that nothing hashes to, as dear to compare with as a real one.
        self._dummy_hash = f"$2b${bcrypt_rounds:02d}${'.' * 53}"

    def check_policy(self, password: str) -> None:
        """Raise unless this may be somebody's new password: WeakPassword, or InvalidParam where it is no text for one.

        Spec: client-server API, "Other error codes", M_WEAK_PASSWORD.
        """
        if not password or len(password) > MAX_PASSWORD_CHARACTERS or not _is_encodable(password) or "\x00" in password:
            raise InvalidParam(f"A password has 1 to {MAX_PASSWORD_CHARACTERS} characters")
        policy = self._policy
        if len(password) < policy.minimum_length:
            raise WeakPassword(f"The password must be at least {policy.minimum_length} characters long")
        if policy.require_digit and not any(character.isdigit() for character in password):
            raise WeakPassword("The password must include at least one digit")
        if policy.require_symbol and all(character.isalnum() for character in password):
            raise WeakPassword("The password must include at least one symbol")
        if policy.require_uppercase and not any(character.isupper() for character in password):
            raise WeakPassword("The password must include at least one upper-case letter")
        if policy.require_lowercase and not any(character.islower() for character in password):
            raise WeakPassword("The password must include at least one lower-case letter")

    async def hash(self, password: str) -> str:
        """Return what is stored for a password; LimitExceeded when the server is busy with others."""
        return await self._slots.run(lambda: self._threads.run(_hash, password, self._rounds))

    async def check(self, user: str, password: str) -> AccountRow:
        """Return the account of `user` (a user ID, or the localpart of one of ours) if the password is right.

        Raises WrongPassword, also for accounts that do not exist, are deactivated or have no password; LimitExceeded.
        """
        names = self._candidates(user)
        # The name as it is matched, so that spelling it differently gives no further attempts.
        counted = names[-1] if names else user[:255]
        self._attempts.attempt(counted)
        found: AccountRow | None = None
        if names:
            rows = await self._database.read(lambda tx: accounts_storage.find_accounts(tx, names))
            found = next((rows[name] for name in names if name in rows), None)
        stored = found.password_hash if found is not None and not found.is_deactivated else None
        is_right = await self._slots.run(lambda: self._threads.run(_is_right, password, stored or self._dummy_hash))
        if found is None or stored is None or not is_right:
            raise WrongPassword
        self._attempts.succeeded(counted)
        return found

    def _candidates(self, user: str) -> tuple[str, ...]:
        """Return the user IDs that are meant, best first: as written, then in lower case.

        Spec: appendices, "User Identifiers": it should be possible to reach `@user:server` as `@USER:server`.
        """
        if len(user) > 255 or not _is_encodable(user) or "\x00" in user:
            return ()
        if user.startswith("@"):
            localpart, colon, server_name = user[1:].partition(":")
            if not colon or server_name.lower() != self._server_name.lower():
                return ()
        else:
            localpart = user
        # Only ASCII has a lower case here: "K" (the Kelvin sign) is nobody's "k".
        names = (localpart, localpart.lower()) if localpart.isascii() else (localpart,)
        return tuple(dict.fromkeys(f"@{name}:{self._server_name}" for name in names))


def parse_user(identifier: object) -> str | None:
    """Return the user that an `m.id.user` identifier object names, else None.

    Spec: client-server API, "Identifier types".
    """
    if isinstance(identifier, dict) and identifier.get("type") == "m.id.user":
        user = identifier.get("user")
        if isinstance(user, str):
            return user
    return None


def is_same_user(user: str, user_id: UserID) -> bool:
    """Tell whether what a client wrote as a user (ID or localpart, in any case) names `user_id`."""
    if len(user) > 255:
        return False
    written = user if user.startswith("@") else f"@{user}:{user_id.server_name}"
    return written == user_id or (written.isascii() and written.lower() == user_id.lower())


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _hash(password: str, rounds: int) -> str:
    secret = unicodedata.normalize("NFKC", password).encode()
    if len(secret) > _BCRYPT_BYTES:
        return _LONG + bcrypt.hashpw(_shortened(secret), bcrypt.gensalt(rounds)).decode()
    return bcrypt.hashpw(secret, bcrypt.gensalt(rounds)).decode()


def _is_right(password: str, stored: str) -> bool:
    if len(password) > MAX_PASSWORD_CHARACTERS or not _is_encodable(password):
        # Nobody's password, told without the cost of comparing; that says nothing about the user.
        return False
    secret = unicodedata.normalize("NFKC", password).encode()
    if stored.startswith(_LONG):
        secret, stored = _shortened(secret), stored[len(_LONG) :]
    try:
        return bcrypt.checkpw(secret[:_BCRYPT_BYTES], stored.encode())
    except ValueError:
        # What is stored is not a hash of ours: nothing fits it.
        return False


def _shortened(secret: bytes) -> bytes:
    return b64encode(hashlib.sha512(secret).digest())[:_BCRYPT_BYTES]
