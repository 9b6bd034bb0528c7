"""Profiles: display name, avatar, time zone and whatever else users say about themselves.

A field is a name and any JSON value. The display name and the avatar are copied into the user's `m.room.member` events
in all joined rooms; that is the work of the `propagate` port, in the background: of changes that come faster than it
can follow, it sees the newest. Profiles of other servers' users come through the `remote` port.

Spec: client-server API, "Profiles" and `m.profile_fields`; appendices, "Common Namespaced Identifier Grammar".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from homeserver.config import Profiles as ProfilesConfig
from homeserver.errors import (
    BadJson,
    GuestForbidden,
    InvalidParam,
    KeyTooLarge,
    NotAllowed,
    NotFound,
    ProfileTooLarge,
    UserSuspended,
)
from homeserver.model.canonical_json import check_strict
from homeserver.model.ids import ServerName, UserID
from homeserver.runtime.tasks import Tasks
from storage import accounts as accounts_storage
from storage import profiles as storage
from storage.accounts import AccountRow
from storage.database import Database
from storage.transaction import Transaction

from .sessions import Requester

DISPLAY_NAME: Final = "displayname"
AVATAR_URL: Final = "avatar_url"
TIME_ZONE: Final = "m.tz"
MEMBER_FIELDS: Final = (DISPLAY_NAME, AVATAR_URL)
"""The fields that are copied into member events."""

MAX_PROFILE_BYTES: Final = 65_536
MAX_KEY_BYTES: Final = 255
# LIMIT: both go into every member event of the user, which has 65,536 bytes for all.
MAX_DISPLAY_NAME_CHARACTERS: Final = 256
MAX_AVATAR_URL_CHARACTERS: Final = 1000

_KEY: Final = re.compile(r"[a-z][a-z0-9_.\-]*")

Propagate = Callable[[Requester, Mapping[str, str]], Awaitable[None]]
"""Puts the member fields (those that are set) into the user's member events; called with all of them."""
RemoteProfiles = Callable[[UserID, str | None], Awaitable[Mapping[str, Any]]]
"""Asks the user's server for the whole profile or one field; NotFound, RemoteError."""


class Profiles:
    """Reads and changes profiles."""

    def __init__(
        self,
        database: Database,
        tasks: Tasks,
        *,
        server_name: ServerName,
        config: ProfilesConfig,
        propagate: Propagate,
        remote: RemoteProfiles | None = None,
    ) -> None:
        self._database = database
        self._tasks = tasks
        self._server_name = server_name
        self._config = config
        self._propagate = propagate
        self._remote = remote
        # Users whose change is being propagated; True when there was another one since.
        self._propagating: dict[int, bool] = {}

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get(self, user_id: UserID) -> dict[str, Any]:
        """Return the whole profile of any user; may be empty. NotFound when there is no such user."""
        if user_id.server_name != self._server_name:
            return dict(await self._ask(user_id, None))
        found = await self._database.read(lambda tx: _read(tx, user_id))
        if found is None:
            raise NotFound("Profile not found")
        return {field: orjson.loads(value) for field, value in found.items()}

    async def get_field(self, user_id: UserID, field: str) -> Any:
        """Return one field of any user's profile; NotFound."""
        check_key(field)
        if user_id.server_name != self._server_name:
            answer = await self._ask(user_id, field)
            if field not in answer:
                raise NotFound("The profile has no such field")
            return answer[field]
        found = await self._database.read(lambda tx: _read(tx, user_id))
        if found is None or field not in found:
            raise NotFound("The profile has no such field")
        return orjson.loads(found[field])

    async def member_fields(self, user_nids: Iterable[int]) -> dict[int, dict[str, str]]:
        """Return `displayname` and `avatar_url`, those that are set, of local users: what their member events carry."""
        nids = list(user_nids)
        found = await self._database.read(lambda tx: storage.get_fields(tx, nids, MEMBER_FIELDS))
        return {nid: _texts(fields) for nid, fields in found.items()}

    async def _ask(self, user_id: UserID, field: str | None) -> Mapping[str, Any]:
        if self._remote is None:
            raise NotFound("Profile not found")
        return await self._remote(user_id, field)

    # -- changing ----------------------------------------------------------------------------------------------------

    async def set_field(
        self, requester: Requester, user_id: UserID, field: str, value: Any, *, propagate: bool = True
    ) -> None:
        """Set one field of the requester's own profile, or anybody's on this server for an administrator.

        An empty display name or avatar, or a null one, takes it away.
        """
        check_key(field)
        account = await self._authorize(requester, user_id, field)
        if field in MEMBER_FIELDS and (value is None or value == ""):
            # COMPAT: clients clear these two so, since there was no other way before v1.16.
            await self._delete(requester, account, field, propagate)
            return
        _check_value(field, value)
        encoded = orjson.dumps(value)
        await self._database.write(lambda tx: _set_within_size(tx, account.user_nid, field, encoded))
        if propagate and field in MEMBER_FIELDS:
            self._start_propagation(requester, account)

    async def delete_field(self, requester: Requester, user_id: UserID, field: str, *, propagate: bool = True) -> None:
        """Delete one field; nothing happens when it is not there."""
        check_key(field)
        account = await self._authorize(requester, user_id, field)
        await self._delete(requester, account, field, propagate)

    async def _delete(self, requester: Requester, account: AccountRow, field: str, propagate: bool) -> None:
        is_deleted = await self._database.write(lambda tx: storage.delete_field(tx, account.user_nid, field))
        if is_deleted and propagate and field in MEMBER_FIELDS:
            self._start_propagation(requester, account)

    async def _authorize(self, requester: Requester, user_id: UserID, field: str) -> AccountRow:
        if requester.user_id != user_id and not requester.is_admin:
            raise NotAllowed("You cannot change the profile of somebody else")
        if requester.is_guest and field != DISPLAY_NAME:
            # Spec: client-server API, "Guest Access": "Guest users may only modify their display name".
            raise GuestForbidden("Guests may change only their display name")
        if requester.is_suspended:
            raise UserSuspended("You cannot perform this action while suspended")
        if not requester.is_admin and (
            (field == DISPLAY_NAME and not self._config.allow_displayname_changes)
            or (field == AVATAR_URL and not self._config.allow_avatar_changes)
        ):
            raise NotAllowed("Changing this field is disabled on this server")
        account = None
        if user_id.server_name == self._server_name:
            account = await self._database.read(lambda tx: accounts_storage.find_account(tx, user_id))
        if account is None:
            raise NotFound("There is no such user on this server")
        return account

    # -- into the rooms ----------------------------------------------------------------------------------------------

    def _start_propagation(self, requester: Requester, account: AccountRow) -> None:
        if account.user_nid in self._propagating:
            self._propagating[account.user_nid] = True
            return
        self._propagating[account.user_nid] = False
        if account.user_id != requester.user_id:
            # The member events are the user's own, whoever has changed the profile.
            requester = Requester(UserID(account.user_id), account.user_nid)
        self._tasks.start(f"profile of {account.user_id}", self._run_propagation(requester))

    async def _run_propagation(self, requester: Requester) -> None:
        user_nid = requester.user_nid
        try:
            while True:
                self._propagating[user_nid] = False
                fields = await self.member_fields([user_nid])
                await self._propagate(requester, fields.get(user_nid, {}))
                if not self._propagating[user_nid]:
                    return
        finally:
            self._propagating.pop(user_nid, None)


def check_key(field: str) -> None:
    """Raise KeyTooLarge or InvalidParam unless a profile field may be called so."""
    if len(field.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise KeyTooLarge(f"The name of a profile field has at most {MAX_KEY_BYTES} bytes")
    if not _KEY.fullmatch(field):
        raise InvalidParam("Invalid name of a profile field")


def _check_value(field: str, value: Any) -> None:
    if field == DISPLAY_NAME:
        _check_text(field, value, MAX_DISPLAY_NAME_CHARACTERS)
    elif field == AVATAR_URL:
        _check_text(field, value, MAX_AVATAR_URL_CHARACTERS)
        server_name, slash, media_id = value[6:].partition("/")
        if not value.startswith("mxc://") or not (server_name and slash and media_id):
            raise InvalidParam("The avatar must be an mxc:// URI")
    elif field == TIME_ZONE:
        _check_text(field, value, MAX_KEY_BYTES)
    # Other servers ask for profiles, and what they are answered is canonical JSON.
    check_strict(value)


def _check_text(field: str, value: Any, length: int) -> None:
    if type(value) is not str:
        raise BadJson(f"'{field}' must be a string")
    if len(value) > length:
        raise InvalidParam(f"'{field}' is longer than {length} characters")


def _read(tx: Transaction, user_id: UserID) -> dict[str, bytes] | None:
    account = accounts_storage.find_account(tx, user_id)
    return None if account is None else storage.get_profile(tx, account.user_nid)


def _set_within_size(tx: Transaction, user_nid: int, field: str, value: bytes) -> None:
    fields = storage.get_profile(tx, user_nid)
    fields[field] = value
    # Spec: "the total profile MUST be under 64 KiB": braces, and for each field quotes, colon and comma.
    size = 2 + sum(len(name) + 4 + len(text) for name, text in fields.items())
    if size >= MAX_PROFILE_BYTES:
        raise ProfileTooLarge("The profile would be larger than 64 KiB")
    storage.set_field(tx, user_nid, field, value)


def _texts(fields: Mapping[str, bytes]) -> dict[str, str]:
    values = {field: orjson.loads(value) for field, value in fields.items()}
    return {field: value for field, value in values.items() if isinstance(value, str)}
