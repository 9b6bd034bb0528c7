"""How often clients may do what: the sections of the configuration, and by whom each is counted.

A route names one `Limit` that is checked before its handler. Where the key is known only later (a room, an account),
the handler calls `check_key`. Users of an application service that is not rate limited, and users whom an administrator
has exempted, are never limited; being an administrator exempts nobody.

Spec: client-server API, "Rate limiting".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Final

from homeserver.config import Limits, RateLimit
from homeserver.errors import LimitExceeded
from homeserver.users.sessions import Requester
from homeserver.web.ratelimit import Bucket, RateLimits
from homeserver.web.request import WebRequest
from homeserver.web.router import Route


class Limit(Enum):
    """A rate of the configuration, by its name there."""

    MESSAGE = "message"
    REGISTRATION = "registration"
    REGISTRATION_TOKEN_VALIDITY = "registration_token_validity"
    LOGIN_ADDRESS = "login_address"
    LOGIN_ACCOUNT = "login_account"
    LOGIN_FAILED = "login_failed"
    ADMIN_REDACTION = "admin_redaction"
    JOINS_LOCAL = "joins_local"
    JOINS_REMOTE = "joins_remote"
    JOINS_PER_ROOM = "joins_per_room"
    INVITES_PER_ROOM = "invites_per_room"
    INVITES_PER_USER = "invites_per_user"
    INVITES_PER_ISSUER = "invites_per_issuer"
    THIRD_PARTY_INVITES = "third_party_invites"
    THIRD_PARTY_VALIDATION = "third_party_validation"
    ROOM_CREATION = "room_creation"
    MEDIA_CREATE = "media_create"
    REMOTE_MEDIA = "remote_media"
    PRESENCE = "presence"
    REPORTS = "reports"
    USER_DIRECTORY = "user_directory"
    PROBING = "probing"
    """Requests that only look or begin something, by address or user; as fast as accounts may be made, and more."""

    # An enum's own hash hashes the name anew each time.
    __hash__ = object.__hash__


# LIMIT: more than any client asks; it bounds what one address can make the server remember or tell.
_PROBING_PER_SECOND: Final = 5.0
_PROBING_BURST: Final = 50.0
# An account takes two requests, or a few more.
_PROBES_PER_REGISTRATION: Final = 4.0


class ClientRates:
    """The `limit` step of the client door, and the same for handlers."""

    def __init__(
        self, levels: RateLimits, config: Limits, *, is_exempt: Callable[[Requester], bool] = lambda requester: False
    ) -> None:
        """`is_exempt` tells of whom nothing is counted: application services and users with an override."""
        self._levels = levels
        self._is_exempt = is_exempt
        registration = config.registration
        self._buckets: dict[Limit, Bucket] = {
            Limit.PROBING: Bucket(
                max(_PROBING_PER_SECOND, _PROBES_PER_REGISTRATION * registration.per_second),
                max(_PROBING_BURST, _PROBES_PER_REGISTRATION * registration.burst_count),
            )
        }
        for limit in Limit:
            if limit is not Limit.PROBING:
                rate: RateLimit | None = getattr(config, limit.value)
                self._buckets[limit] = _bucket(config.message if rate is None else rate)
        if config.admin_redaction is None:
            # Not a bucket of its own: redactions then count as messages.
            self._buckets[Limit.ADMIN_REDACTION] = self._buckets[Limit.MESSAGE]

    def limit(self, request: WebRequest, route: Route) -> LimitExceeded | None:
        """Count the request for its route's limit: by user where there is one, else by address."""
        requester: Requester | None = request.requester
        limit: Limit = route.limit
        if requester is None:
            return self._levels.check(request.client_ip, self._buckets[limit])
        if self._is_exempt(requester):
            return None
        return self._levels.check(requester.user_nid, self._buckets[limit])

    def check_user(self, limit: Limit, requester: Requester) -> None:
        """Count one action of a user; raise LimitExceeded."""
        self.check_key(limit, requester.user_nid, requester)

    def check_address(self, limit: Limit, request: WebRequest) -> None:
        """Count one action of an address; raise LimitExceeded."""
        self.check_key(limit, request.client_ip)

    def check_key(self, limit: Limit, key: Hashable, requester: Requester | None = None) -> None:
        """Count one action for anything else (a room, an account); raise LimitExceeded."""
        if requester is not None and self._is_exempt(requester):
            return
        refusal = self._levels.check(key, self._buckets[limit])
        if refusal is not None:
            raise refusal

    def give_back(self, limit: Limit, key: Hashable) -> None:
        """Take back one action that was counted."""
        self._levels.check(key, self._buckets[limit], cost=-1.0)

    @property
    def password_attempts(self) -> PasswordAttempts:
        """The bound on guessing, for `Credentials`."""
        return PasswordAttempts(self)


class PasswordAttempts:
    """Failed logins by account; implements `homeserver.users.credentials.AttemptLimit`."""

    def __init__(self, rates: ClientRates) -> None:
        self._rates = rates

    def attempt(self, account: str) -> None:
        self._rates.check_key(Limit.LOGIN_FAILED, account)

    def succeeded(self, account: str) -> None:
        self._rates.give_back(Limit.LOGIN_FAILED, account)


def _bucket(rate: RateLimit) -> Bucket:
    return Bucket(rate.per_second, float(rate.burst_count))
