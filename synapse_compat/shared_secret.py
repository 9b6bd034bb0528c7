"""`/_synapse/admin/v1/register`: making accounts with the server's shared secret, as Synapse's tools do.

A nonce is asked for, then the account, authorized by an HMAC-SHA1 over nonce, user name, password and whether it is to
be an administrator. A nonce is good for one use within a minute.

LIMIT: nonces live in memory, at most `MAX_NONCES`, the oldest giving way; a tool whose nonce is lost asks for another.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from homeserver.errors import BadRequest, InvalidParam, NotAllowed
from homeserver.web.params import optional_bool, optional_str, require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

NONCE_LIFE_MS: Final = 60_000
MAX_NONCES: Final = 1_000
_PATH: Final = "/_synapse/admin/v1/register"
_USER_TYPES: Final = (None, "bot", "support")


class Clock(Protocol):
    """What the time is."""

    def now_ms(self) -> int: ...


RegisterAndLogin = Callable[..., Awaitable[Mapping[str, Any]]]
"""Makes an account and logs in: called with (username, password, is_admin=, display_name=, inhibit_login=).

Returns the answer for the client; raises MatrixErrors.
"""


class SharedSecretRegistration:
    """The two halves of the call."""

    def __init__(
        self, clock: Clock, register_and_login: RegisterAndLogin, *, shared_secret: str | None, limit: object = None
    ) -> None:
        """`limit` is the rate limit of the nonces, in the form that the door's `limit` callback knows."""
        self._clock = clock
        self._register_and_login = register_and_login
        self._shared_secret = None if shared_secret is None else shared_secret.encode()
        self._limit = limit
        # By age, oldest first.
        self._nonces: dict[str, int] = {}

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("GET", _PATH, self.get_nonce, limit=self._limit),
            # Each nonce is good for one try, so that these are as few as those.
            Route("POST", _PATH, self.post_register),
        ]

    async def get_nonce(self, request: WebRequest) -> dict[str, Any]:
        """A nonce to compute the code with."""
        self._secret()
        now_ms = self._clock.now_ms()
        while self._nonces:
            oldest = next(iter(self._nonces))
            if self._nonces[oldest] > now_ms and len(self._nonces) < MAX_NONCES:
                break
            del self._nonces[oldest]
        nonce = secrets.token_hex(64)
        self._nonces[nonce] = now_ms + NONCE_LIFE_MS
        return {"nonce": nonce}

    async def post_register(self, request: WebRequest) -> dict[str, Any]:
        """Make the account."""
        secret = self._secret()
        body = request.json()
        nonce = require_str(body, "nonce")
        if self._nonces.get(nonce, 0) <= self._clock.now_ms():
            raise BadRequest("unrecognised nonce")
        # Used up whatever comes of it, so that nothing can be tried twice.
        del self._nonces[nonce]
        username, password = require_str(body, "username"), require_str(body, "password")
        is_admin = optional_bool(body, "admin")
        user_type = optional_str(body, "user_type")
        if user_type not in _USER_TYPES:
            raise InvalidParam("Invalid user type")
        for text in (username, password):
            if not text or len(text) > 512 or "\x00" in text:
                raise InvalidParam("Invalid username or password")
        given = require_str(body, "mac").lower()
        expected = registration_mac(secret, nonce, username, password, is_admin=is_admin, user_type=user_type)
        if not given.isascii() or not hmac.compare_digest(expected, given):
            raise NotAllowed("HMAC incorrect")
        answer = await self._register_and_login(
            username,
            password,
            is_admin=is_admin,
            display_name=optional_str(body, "displayname"),
            inhibit_login=optional_bool(body, "inhibit_login"),
        )
        return dict(answer)

    def _secret(self) -> bytes:
        if self._shared_secret is None:
            raise BadRequest("Shared secret registration is not enabled")
        return self._shared_secret


def registration_mac(
    secret: bytes, nonce: str, username: str, password: str, *, is_admin: bool, user_type: str | None = None
) -> str:
    """Return the code, in lower-case hexadecimal, that authorizes a registration."""
    parts = [nonce, username, password, "admin" if is_admin else "notadmin"]
    if user_type:
        parts.append(user_type)
    message = b"\x00".join(part.encode("utf-8", "surrogatepass") for part in parts)
    return hmac.new(secret, message, hashlib.sha1).hexdigest()
