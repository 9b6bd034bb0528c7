"""OpenID: a token that says to another service which user its bearer is, and is good for nothing else.

A user asks for one and gives it to, say, an identity server or a widget, which asks this server whose it is.

Spec: client-server API, "OpenID"; server-server API, "OpenID".
"""

from __future__ import annotations

import secrets
from typing import Final

from homeserver.errors import UnknownToken
from homeserver.model.ids import UserID
from homeserver.runtime.clock import Clock
from storage import openid as storage
from storage.database import Database

from .sessions import MAX_TOKEN_CHARACTERS, hash_token

LIFETIME_S: Final = 3600
# LIMIT: tokens of one user at a time; the oldest goes for another one.
MAX_TOKENS: Final = 100


class OpenID:
    """Issues and recognizes tokens."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def request_token(self, user_nid: int) -> str:
        """Return a new token of a user, which lasts `LIFETIME_S`."""
        token = secrets.token_urlsafe(32)
        now_ms = self._clock.now_ms()
        expires_ts = now_ms + LIFETIME_S * 1000
        await self._database.write(
            lambda tx: storage.add_token(tx, hash_token(token), user_nid, expires_ts, now_ms, MAX_TOKENS)
        )
        return token

    async def user_of(self, token: str) -> UserID:
        """Return whose token this is; raise UnknownToken for any that is not good."""
        owner = None
        if len(token) <= MAX_TOKEN_CHARACTERS:
            now_ms = self._clock.now_ms()
            owner = await self._database.read(lambda tx: storage.find_owner(tx, hash_token(token), now_ms))
        if owner is None:
            raise UnknownToken("Access token unknown or expired")
        return UserID(owner)
