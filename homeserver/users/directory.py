"""The user directory: finding people by the beginnings of their names.

Whoever shares a room with the searcher, or is in a room that everybody may join or read, is found; locked and
deactivated users are not. How it is kept bounded is in `storage.user_directory`; here the finds are ranked.

Spec: client-server API, "User directory".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from homeserver.config import UserDirectory as UserDirectoryConfig
from homeserver.errors import InvalidParam
from homeserver.model.folding import fold
from homeserver.model.ids import ServerName, UserID
from storage import user_directory as storage
from storage.database import Database
from storage.interning import Interner
from storage.profiles import get_fields
from storage.transaction import Transaction

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50
MAX_TERM_CHARACTERS: Final = 256


@dataclass(frozen=True, slots=True)
class FoundUser:
    """A user as the directory shows it."""

    user_id: UserID
    display_name: str | None
    avatar_url: str | None


class UserDirectory:
    """Searches for users."""

    def __init__(
        self, database: Database, interner: Interner, *, server_name: ServerName, config: UserDirectoryConfig
    ) -> None:
        self._database = database
        self._interner = interner
        self._server_name = server_name
        self._config = config

    async def search(self, searcher_nid: int, term: str, limit: int) -> tuple[list[FoundUser], bool]:
        """Return at most `limit` users, the best first, and whether there were more; InvalidParam for a long term."""
        if len(term) > MAX_TERM_CHARACTERS:
            raise InvalidParam(f"a search term has at most {MAX_TERM_CHARACTERS} characters")
        folded = fold(term.strip(), MAX_TERM_CHARACTERS)
        server = ""
        if folded.startswith("@"):
            # A user ID, or its beginning: what stands behind the colon is compared, not searched for.
            folded, _, server = folded[1:].partition(":")
        if not folded or not self._config.enabled or limit <= 0:
            return [], False
        everybody = self._config.search_all_users

        def read(tx: Transaction) -> tuple[list[int], dict[int, dict[str, bytes]]]:
            nids = storage.search(tx, folded, searcher_nid=None if everybody else searcher_nid, among=storage.MAX_FOUND)
            return nids, get_fields(tx, nids, ("displayname", "avatar_url"))

        nids, fields = await self._database.read(read)
        names = await self._interner.user_names(nids)
        found = [_found(UserID(names[nid]), fields.get(nid, {})) for nid in nids if nid in names]
        if server:
            found = [user for user in found if user.user_id.server_name.lower().startswith(server)]
        found.sort(key=lambda user: self._rank(user, folded))
        return found[:limit], len(found) > limit

    def _rank(self, user: FoundUser, folded: str) -> tuple[int, int, int, str]:
        # Spec: `results`: "Ordered by rank and then whether or not profile info is available".
        localpart = fold(user.user_id.localpart, MAX_TERM_CHARACTERS)
        name = fold(user.display_name or "", MAX_TERM_CHARACTERS)
        if folded in (localpart, name):
            match = 0
        elif name.startswith(folded):
            match = 1
        elif localpart.startswith(folded):
            match = 2
        else:
            match = 3
        is_preferred = self._config.prefer_local_users and user.user_id.server_name == self._server_name
        profile = (user.display_name is None) + (user.avatar_url is None)
        return (match, 0 if is_preferred else 1, profile, user.user_id)


def _found(user_id: UserID, fields: dict[str, bytes]) -> FoundUser:
    texts = {field: orjson.loads(value) for field, value in fields.items()}
    name, avatar = texts.get("displayname"), texts.get("avatar_url")
    return FoundUser(user_id, name if isinstance(name, str) else None, avatar if isinstance(avatar, str) else None)
