"""Sessions: from an access token to who is asking, logging in and out, refreshing.

A `Requester` is what a request carries from the edge inwards. The answer for a token is kept in memory under the token
itself, so that a warm request costs one look-up in a dictionary; whatever changes the answer (logging out, a new
password, deactivation, an administrator's lock) forgets it again, after the commit and before the change is
acknowledged. Tokens are stored as their sha256 only.

When a device was last seen is gathered in memory and written at most once a minute for each device.

Spec: client-server API, "Using access tokens", "Relationship between access tokens and devices", "Refreshing access
tokens", "Soft logout".
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from homeserver.config import Sessions as SessionsConfig
from homeserver.errors import InvalidParam, UnknownToken, UserDeactivated, UserLocked
from homeserver.model.ids import UserID
from homeserver.runtime.clock import Clock
from homeserver.runtime.tasks import Tasks
from storage import devices as storage
from storage.accounts import AccountRow
from storage.database import Database
from storage.devices import SessionRow
from storage.positions import Sequence as NumberSequence
from storage.transaction import Transaction

# LIMIT: about 1 KB each.
MAX_CACHED: Final = 50_000
LAST_SEEN_INTERVAL_S: Final = 60.0
MAX_DEVICE_ID_CHARACTERS: Final = 255
MAX_DEVICE_NAME_CHARACTERS: Final = 100
MAX_TOKEN_CHARACTERS: Final = 512
# LIMIT: more devices than anybody has; each costs keys, queues and device list updates.
MAX_DEVICES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Requester:
    """Who is asking: a local user, with the device and the rights of the access token.

    `appservice` is the ID of the application service that acts as the user, or None; then there is no `token_hash`.
    `device_id` and `device_nid` are None for tokens without a device. Times are milliseconds since the epoch.
    """

    user_id: UserID
    user_nid: int
    device_id: str | None = None
    device_nid: int | None = None
    is_guest: bool = False
    is_admin: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    is_shadow_banned: bool = False
    appservice: str | None = None
    token_hash: bytes | None = None
    expires_ts: int | None = None


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """What a client is given when it logs in or refreshes; the only place where whole tokens are."""

    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None


@dataclass(frozen=True, slots=True)
class Login:
    """A fresh session; `is_new_device` is False when the device existed."""

    user_id: UserID
    user_nid: int
    device_id: str
    device_nid: int
    is_new_device: bool
    tokens: IssuedTokens


class Sessions:
    """Issues, recognizes and forgets tokens."""

    def __init__(
        self, database: Database, numbers: NumberSequence, clock: Clock, tasks: Tasks, config: SessionsConfig
    ) -> None:
        self._database = database
        self._numbers = numbers
        self._clock = clock
        self._tasks = tasks
        self._config = config
        self._known: dict[str, Requester] = {}
        self._tokens_of: dict[int, set[str]] = {}
        # Counts what was forgotten: an answer that was read before is not kept.
        self._forgettings = 0
        self._forgotten: list[Callable[[int], None]] = []
        self._taken_over: list[Callable[[int, int], None]] = []
        self._seen: dict[int, tuple[int, str | None, str | None]] = {}

    def start(self) -> None:
        """Begin to write down now and then when devices were last seen."""
        self._tasks.every("last seen", LAST_SEEN_INTERVAL_S, self.write_last_seen)

    async def stop(self) -> None:
        """Write down what was gathered; the owner of the tasks stops them."""
        await self.write_last_seen()

    # -- recognizing -------------------------------------------------------------------------------------------------

    def known_requester(self, token: str) -> Requester | None:
        """Return who a token stands for if it is in memory and has not expired; no I/O."""
        requester = self._known.get(token)
        if requester is not None and requester.expires_ts is not None and requester.expires_ts <= self._clock.now_ms():
            return None
        return requester

    async def requester_for(self, token: str) -> Requester:
        """Return who a token stands for; `is_locked` is left to the caller to judge.

        Raises UnknownToken (soft where the session can be taken up again), UserDeactivated.
        """
        requester = self.known_requester(token)
        if requester is not None:
            return requester
        token_hash = hash_token(token)
        before = self._forgettings
        row = await self._database.read(lambda tx: storage.find_session(tx, token_hash))
        if row is None:
            raise UnknownToken("Unrecognised access token")
        if row.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        if row.expires_ts is not None and row.expires_ts <= self._clock.now_ms():
            raise UnknownToken("The access token has expired", soft_logout=True)
        if row.replaces_hash is not None:
            await self._revoke_refreshed(row.user_nid, row.replaces_hash)
            before = self._forgettings
            row = await self._database.read(lambda tx: storage.find_session(tx, token_hash))
            if row is None:
                raise UnknownToken("Unrecognised access token")
        requester = _requester(row, token_hash)
        if before == self._forgettings:
            self._remember(token, requester)
        return requester

    def is_current(self, requester: Requester) -> bool:
        """Tell whether a requester is for certain what its token stands for now; no I/O."""
        tokens = self._tokens_of.get(requester.user_nid, ())
        return any(self._known.get(token) is requester for token in tokens)

    async def check_lives(self, requester: Requester) -> None:
        """Raise if the session of somebody who was recognized a while ago is over: UnknownToken, UserLocked.

        A device whose access token has been refreshed or has expired meanwhile is still logged in.
        """
        await self.renewed(requester)

    async def renewed(self, requester: Requester) -> Requester:
        """Return a requester with the rights of now; raises like `check_lives`."""
        rights = await self._database.read(
            lambda tx: storage.find_rights(tx, requester.user_nid, requester.device_nid, requester.token_hash)
        )
        if rights is None:
            raise UnknownToken("This session has been logged out")
        if rights.is_locked:
            raise UserLocked("This account has been locked")
        return replace(
            requester,
            is_admin=rights.is_admin,
            is_guest=rights.is_guest,
            is_locked=False,
            is_suspended=rights.is_suspended,
            is_shadow_banned=rights.is_shadow_banned,
        )

    async def _revoke_refreshed(self, user_nid: int, refresh_hash: bytes) -> None:
        # Spec: "The old refresh token remains valid until the new access token or refresh token is used".
        await self._database.write(lambda tx: storage.revoke_refreshed(tx, user_nid, refresh_hash))
        self.forget_user(user_nid)

    def _remember(self, token: str, requester: Requester) -> None:
        if len(self._known) >= MAX_CACHED:
            oldest = next(iter(self._known))
            self._forget_token(oldest, self._known[oldest].user_nid)
        self._known[token] = requester
        self._tokens_of.setdefault(requester.user_nid, set()).add(token)

    def _forget_token(self, token: str, user_nid: int) -> None:
        self._known.pop(token, None)
        tokens = self._tokens_of.get(user_nid)
        if tokens is not None:
            tokens.discard(token)
            if not tokens:
                del self._tokens_of[user_nid]

    def forget_user(self, user_nid: int) -> None:
        """Forget what is known of a user's tokens, after a commit that changed it."""
        self._forgettings += 1
        for token in self._tokens_of.pop(user_nid, ()):
            self._known.pop(token, None)
        for listener in self._forgotten:
            listener(user_nid)

    def when_forgotten(self, listener: Callable[[int], None]) -> None:
        """Call `listener(user_nid)` whenever what is known of a user's rights has to be read anew."""
        self._forgotten.append(listener)

    def when_taken_over(self, listener: Callable[[int, int], None]) -> None:
        """Call `listener(user_nid, device_nid)` whenever a new login on a device has ended its old tokens."""
        self._taken_over.append(listener)

    # -- last seen ---------------------------------------------------------------------------------------------------

    def is_noted(self, requester: Requester) -> bool:
        """Tell whether the requester's device has been noted since the last writing; once is enough."""
        return requester.device_nid in self._seen or requester.device_nid is None

    def note_seen(self, requester: Requester, address: str | None, user_agent: str | None) -> None:
        """Note that a device has just made a request; cheap, written down later."""
        if requester.device_nid is not None:
            self._seen[requester.device_nid] = (self._clock.now_ms(), address, user_agent)

    def last_seen(self, device_nid: int) -> tuple[int, str | None] | None:
        """Return (milliseconds, address) of a device's last request if that is not written down yet."""
        found = self._seen.get(device_nid)
        return None if found is None else found[:2]

    def last_connection(self, device_nid: int) -> tuple[int, str | None, str | None] | None:
        """Return the same with the user agent."""
        return self._seen.get(device_nid)

    async def write_last_seen(self) -> None:
        """Write down what was gathered."""
        if not self._seen:
            return
        seen, self._seen = self._seen, {}
        rows = [(nid, ts, _cut(address, 64), _cut(user_agent, 255)) for nid, (ts, address, user_agent) in seen.items()]
        await self._database.write(lambda tx: storage.set_last_seen(tx, rows))

    # -- logging in --------------------------------------------------------------------------------------------------

    async def log_in(
        self,
        account: AccountRow,
        *,
        device_id: str | None = None,
        display_name: str | None = None,
        with_refresh_token: bool = False,
    ) -> Login:
        """Give an account a session on a new device, or on the one that it names; that one's old tokens end.

        Raises UserDeactivated, UserLocked, InvalidParam for a device ID or a name that cannot be stored.
        """
        if account.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        if account.is_locked:
            raise UserLocked("This account has been locked")
        if device_id is not None:
            check_device_id(device_id)
        check_device_name(display_name)
        wanted = device_id if device_id is not None else _new_device_id()
        device_nid = self._numbers.next()
        issue = self._new_tokens(with_refresh_token)
        found_nid = await self._database.write(
            lambda tx: _log_in(tx, account.user_nid, device_nid, wanted, display_name, issue)
        )
        self.forget_user(account.user_nid)
        if found_nid != device_nid:
            for listener in self._taken_over:
                listener(account.user_nid, found_nid)
        return Login(
            user_id=UserID(account.user_id),
            user_nid=account.user_nid,
            device_id=wanted,
            device_nid=found_nid,
            is_new_device=found_nid == device_nid,
            tokens=issue.tokens,
        )

    async def create_device(self, user_nid: int, device_id: str, display_name: str | None) -> bool:
        """Give a user a device without a session; False when there is one of this ID already. InvalidParam."""
        check_device_id(device_id)
        check_device_name(display_name)
        device_nid = self._numbers.next()
        return await self._database.write(lambda tx: _create_device(tx, user_nid, device_nid, device_id, display_name))

    async def refresh(self, refresh_token: str) -> IssuedTokens:
        """Exchange a refresh token for a new pair of tokens.

        The old pair stays valid until one of the new tokens is used. Raises UnknownToken: a soft logout where the
        device is still there, and none where the token is unknown or was used up.
        """
        refresh_hash = hash_token(refresh_token)
        issue = self._new_tokens(with_refresh_token=True)
        now_ms = issue.now_ms

        def write(tx: Transaction) -> tuple[int, IssuedTokens]:
            row = storage.find_refresh_token(tx, refresh_hash)
            if row is None:
                raise UnknownToken("The refresh token is not known or was used already")
            if row.is_deactivated:
                raise UnknownToken("This account has been deactivated")
            if row.is_locked:
                raise UserLocked("This account has been locked")
            if row.expires_ts is not None and row.expires_ts <= now_ms:
                raise UnknownToken("The refresh token has expired", soft_logout=True)
            if row.session_expires_ts is not None and row.session_expires_ts <= now_ms:
                raise UnknownToken("The session has expired", soft_logout=True)
            if row.replaces_hash is not None:
                storage.revoke_refreshed(tx, row.user_nid, row.replaces_hash)
            storage.delete_unused_successors(tx, row.user_nid, refresh_hash)
            bounded = issue.bounded_by(row.session_expires_ts)
            bounded.store(tx, row.user_nid, row.device_nid, replaces_hash=refresh_hash)
            return row.user_nid, bounded.tokens

        user_nid, tokens = await self._database.write(write)
        self.forget_user(user_nid)
        return tokens

    async def log_out_token(self, requester: Requester) -> None:
        """End a session that has no device; those with one end with their device (see `devices`)."""
        token_hash = requester.token_hash
        if token_hash is not None:
            await self._database.write(lambda tx: storage.delete_access_token(tx, token_hash))
            self.forget_user(requester.user_nid)

    def _new_tokens(self, with_refresh_token: bool) -> _Issue:
        config = self._config
        now_ms = self._clock.now_ms()
        life_ms = config.refreshable_access_token_lifetime_ms if with_refresh_token else config.access_token_lifetime_ms
        refresh_life_ms = config.refresh_token_lifetime_ms
        return _Issue(
            now_ms=now_ms,
            access_token=f"sat_{secrets.token_urlsafe(30)}",
            refresh_token=f"srt_{secrets.token_urlsafe(30)}" if with_refresh_token else None,
            expires_ts=None if life_ms is None else now_ms + life_ms,
            refresh_expires_ts=None if refresh_life_ms is None else now_ms + refresh_life_ms,
        )


@dataclass(frozen=True, slots=True)
class _Issue:
    """Tokens about to be stored."""

    now_ms: int
    access_token: str
    refresh_token: str | None
    expires_ts: int | None
    refresh_expires_ts: int | None
    session_expires_ts: int | None = None

    def bounded_by(self, session_expires_ts: int | None) -> _Issue:
        if session_expires_ts is None:
            return self
        ends = [ts for ts in (self.expires_ts, session_expires_ts) if ts is not None]
        return _Issue(
            self.now_ms,
            self.access_token,
            self.refresh_token,
            min(ends),
            self.refresh_expires_ts,
            session_expires_ts,
        )

    @property
    def tokens(self) -> IssuedTokens:
        life_ms = None if self.expires_ts is None else self.expires_ts - self.now_ms
        return IssuedTokens(self.access_token, self.refresh_token, life_ms)

    def store(self, tx: Transaction, user_nid: int, device_nid: int, *, replaces_hash: bytes | None = None) -> None:
        refresh_hash: bytes | None = None
        if self.refresh_token is not None:
            refresh_hash = hash_token(self.refresh_token)
            storage.create_refresh_token(
                tx,
                token_hash=refresh_hash,
                user_nid=user_nid,
                device_nid=device_nid,
                created_ts=self.now_ms,
                expires_ts=self.refresh_expires_ts,
                session_expires_ts=self.session_expires_ts,
                replaces_hash=replaces_hash,
            )
        storage.create_access_token(
            tx,
            token_hash=hash_token(self.access_token),
            user_nid=user_nid,
            device_nid=device_nid,
            created_ts=self.now_ms,
            expires_ts=self.expires_ts,
            refresh_hash=refresh_hash,
            replaces_hash=replaces_hash,
        )


def hash_token(token: str) -> bytes:
    """Return what is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def check_device_id(device_id: str) -> None:
    """Raise InvalidParam unless a client may name its device so."""
    if not device_id or len(device_id) > MAX_DEVICE_ID_CHARACTERS:
        raise InvalidParam(f"A device ID has 1 to {MAX_DEVICE_ID_CHARACTERS} characters")
    _check_text(device_id, "device ID")


def check_device_name(display_name: str | None) -> None:
    """Raise InvalidParam unless a device may be called so."""
    if display_name is not None:
        if len(display_name) > MAX_DEVICE_NAME_CHARACTERS:
            raise InvalidParam(f"The name of a device has at most {MAX_DEVICE_NAME_CHARACTERS} characters")
        _check_text(display_name, "name of a device")


def _check_text(text: str, kind: str) -> None:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidParam(f"The {kind} has characters that are not allowed")


def _requester(row: SessionRow, token_hash: bytes) -> Requester:
    return Requester(
        user_id=UserID(row.user_id),
        user_nid=row.user_nid,
        device_id=row.device_id,
        device_nid=row.device_nid,
        is_guest=row.is_guest,
        is_admin=row.is_admin,
        is_locked=row.is_locked,
        is_suspended=row.is_suspended,
        is_shadow_banned=row.is_shadow_banned,
        token_hash=token_hash,
        expires_ts=row.expires_ts,
    )


def _log_in(
    tx: Transaction, user_nid: int, new_nid: int, device_id: str, display_name: str | None, issue: _Issue
) -> int:
    device = storage.find_device(tx, user_nid, device_id)
    if device is not None:
        # Spec: "the server will invalidate any access and refresh tokens previously assigned to that device".
        storage.delete_tokens_of_device(tx, device.device_nid)
        device_nid = device.device_nid
    else:
        _check_room_for_device(tx, user_nid)
        device_nid = new_nid
        storage.create_device(tx, device_nid=new_nid, user_nid=user_nid, device_id=device_id, display_name=display_name)
    issue.store(tx, user_nid, device_nid)
    return device_nid


def _create_device(tx: Transaction, user_nid: int, device_nid: int, device_id: str, display_name: str | None) -> bool:
    if storage.find_device(tx, user_nid, device_id) is not None:
        return False
    _check_room_for_device(tx, user_nid)
    storage.create_device(tx, device_nid=device_nid, user_nid=user_nid, device_id=device_id, display_name=display_name)
    return True


def _check_room_for_device(tx: Transaction, user_nid: int) -> None:
    if storage.count_devices(tx, user_nid, MAX_DEVICES) >= MAX_DEVICES:
        raise InvalidParam(f"A user has at most {MAX_DEVICES} devices; delete one first")


def _new_device_id() -> str:
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(10))


def _cut(text: str | None, length: int) -> str | None:
    return None if text is None else text[:length]


def device_ids_from(values: Iterable[object]) -> list[str]:
    """Return a client's list of device IDs without repeats, or raise InvalidParam."""
    found: dict[str, None] = {}
    for value in values:
        if not isinstance(value, str):
            raise InvalidParam("Device IDs are text")
        found[value] = None
    return list(found)
