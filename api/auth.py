"""From a request's access token to its requester, and whether that one may use the endpoint.

A route says what it wants by its `auth`: an `Access`, or None for an endpoint that looks at no token. A token that is
known in memory is answered without waiting for anything.

Spec: client-server API, "Using access tokens", "Account locking", "Guest Access".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum

from homeserver.errors import GuestForbidden, MissingToken, NotAllowed, UserLocked, UserSuspended
from homeserver.users.sessions import MAX_TOKEN_CHARACTERS, Requester, Sessions
from homeserver.web.request import WebRequest
from homeserver.web.router import Route


class Access(Enum):
    """Who may use an endpoint."""

    USERS = "users"
    """Users with an account of their own."""
    GUESTS = "guests"
    """Users and guests."""
    OPTIONAL = "optional"
    """Anybody; a token that is given must be valid."""
    LOGOUT = "logout"
    """Users, also locked ones. Spec: locked accounts may log out."""
    ADMINS = "admins"
    """Administrators of this server."""


AppserviceRequester = Callable[[str, WebRequest], Awaitable[Requester | None]]
"""Asks whether a token is an application service's, and whom it acts as; None: it is not. May raise MatrixErrors."""


class Authenticator:
    """The `authenticate` step of a door."""

    def __init__(self, sessions: Sessions, *, appservice_requester: AppserviceRequester | None = None) -> None:
        self._sessions = sessions
        self._appservice_requester = appservice_requester

    def authenticate(self, request: WebRequest, route: Route) -> Requester | Awaitable[Requester | None] | None:
        """Return the requester, at once where the token is known, None where there need not be one.

        Raises MissingToken, UnknownToken, UserLocked, GuestForbidden, NotAllowed.
        """
        access: Access = route.auth
        if request.requester is not None:
            # Known by the connection that it came on.
            self._admit(request.requester, access, request)
            requester: Requester | None = request.requester
            return requester
        token = token_of(request)
        if token is None:
            if access is Access.OPTIONAL:
                return None
            raise MissingToken("Missing access token")
        requester = self._sessions.known_requester(token)
        if requester is None:
            return self._look_up(request, access, token)
        self._admit(requester, access, request)
        return requester

    async def _look_up(self, request: WebRequest, access: Access, token: str) -> Requester:
        requester: Requester | None = None
        if self._appservice_requester is not None:
            requester = await self._appservice_requester(token, request)
        if requester is None:
            requester = await self._sessions.requester_for(token[: MAX_TOKEN_CHARACTERS + 1])
        self._admit(requester, access, request)
        return requester

    def readmit(self, request: WebRequest, route: Route) -> Awaitable[None] | None:
        """Raise, at once or later, if the requester has been logged out, locked or deactivated since `authenticate`."""
        requester: Requester = request.requester
        token = token_of(request)
        if token is not None and self._sessions.known_requester(token) is requester:
            return None
        return self._sessions.check_lives(requester)

    def _admit(self, requester: Requester, access: Access, request: WebRequest) -> None:
        if requester.is_locked and access is not Access.LOGOUT:
            raise UserLocked("This account has been locked")
        if requester.is_guest and (access is Access.USERS or access is Access.LOGOUT or access is Access.ADMINS):
            raise GuestForbidden("Guests may not do this")
        if access is Access.ADMINS and not requester.is_admin:
            raise NotAllowed("You are not a server admin")
        if not self._sessions.is_noted(requester):
            self._sessions.note_seen(requester, request.client_ip, request.header("User-Agent"))


def token_of(request: WebRequest) -> str | None:
    """Return the access token of a request, or None; it may be anything."""
    header = request.headers.get("Authorization")
    if header is not None:
        if header[:7] == "Bearer " or header[:7].lower() == "bearer ":
            return header[7:].strip()
        raise MissingToken("The Authorization header has no bearer token")
    # COMPAT: the query parameter is deprecated since v1.11; clients in use still send it.
    return request.query("access_token") if request.raw_query else None


def refuse_suspended(requester: Requester) -> None:
    """Raise UserSuspended for a suspended account: for the endpoints that the spec recommends to forbid.

    Spec: client-server API, "Account suspension".
    """
    if requester.is_suspended:
        raise UserSuspended("You cannot perform this action while suspended")
