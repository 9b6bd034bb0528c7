"""Logging in, refreshing, logging out.

Spec: client-server API, "Login", "Refreshing access tokens", "Logout" (the legacy API).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.errors import BadRequest, InvalidParam, MissingParam, NotAllowed
from homeserver.users.credentials import Credentials, parse_user
from homeserver.users.devices import Devices
from homeserver.users.interactive_auth import PASSWORD
from homeserver.users.sessions import IssuedTokens, Requester, Sessions
from homeserver.users.sessions import Login as LoginResult
from homeserver.web.params import optional_bool, optional_object, optional_str, require_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..appservices import APPLICATION_SERVICE, AppserviceAccess
from ..auth import Access
from ..ratelimit import ClientRates, Limit


def login_answer(login: LoginResult) -> dict[str, Any]:
    """Return what a client is told about its new session."""
    return {
        "user_id": login.user_id,
        "device_id": login.device_id,
        # Deprecated, and still read by some.
        "home_server": login.user_id.server_name,
        **token_answer(login.tokens),
    }


def token_answer(tokens: IssuedTokens) -> dict[str, Any]:
    """Return the tokens in the form of the answers to login, register and refresh."""
    answer: dict[str, Any] = {"access_token": tokens.access_token}
    if tokens.refresh_token is not None:
        answer["refresh_token"] = tokens.refresh_token
    if tokens.expires_in_ms is not None:
        answer["expires_in_ms"] = tokens.expires_in_ms
    return answer


class Login:
    """`/login`, `/refresh`, `/logout`, `/logout/all`."""

    def __init__(
        self,
        credentials: Credentials,
        sessions: Sessions,
        devices: Devices,
        rates: ClientRates,
        *,
        has_passwords: bool,
        well_known: Mapping[str, Any] | None = None,
        appservices: AppserviceAccess | None = None,
    ) -> None:
        self._credentials = credentials
        self._sessions = sessions
        self._devices = devices
        self._rates = rates
        self._has_passwords = has_passwords
        self._well_known = well_known
        self._appservices = appservices

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3"
        routes = [
            Route("GET", f"{prefix}/login", self.get_login),
            Route("POST", f"{prefix}/login", self.post_login),
            Route("POST", f"{prefix}/refresh", self.post_refresh, limit=Limit.PROBING),
            Route("POST", f"{prefix}/logout", self.post_logout, auth=Access.LOGOUT),
            Route("POST", f"{prefix}/logout/all", self.post_logout_all, auth=Access.LOGOUT),
        ]
        return [each for route in routes for each in expand_prefixes(route)]

    async def get_login(self, request: WebRequest) -> dict[str, Any]:
        """The ways of logging in."""
        flows = [{"type": PASSWORD}] if self._has_passwords else []
        if self._appservices is not None and self._appservices.has_services:
            flows.append({"type": APPLICATION_SERVICE})
        return {"flows": flows}

    async def post_login(self, request: WebRequest) -> dict[str, Any]:
        """Log in with a password, or as an application service's user."""
        services = self._appservices
        service = None if services is None else services.find_service(request)
        if service is None or service.is_rate_limited:
            self._rates.check_address(Limit.LOGIN_ADDRESS, request)
        body = request.json()
        kind = require_str(body, "type")
        is_service = services is not None and kind == APPLICATION_SERVICE
        if not is_service and (kind != PASSWORD or not self._has_passwords):
            raise BadRequest("Bad login type.")
        device_id = optional_str(body, "device_id")
        display_name = optional_str(body, "initial_device_display_name")
        with_refresh_token = optional_bool(body, "refresh_token")
        if services is not None and is_service:
            service = services.get_service(request)
            services.check_sessions(service)
            account = await services.account_for_login(service, _user_of(body))
        else:
            account = await self._credentials.check(_user_of(body), require_str(body, "password"))
            self._rates.check_key(Limit.LOGIN_ACCOUNT, account.user_id)
        login = await self._sessions.log_in(
            account, device_id=device_id, display_name=display_name, with_refresh_token=with_refresh_token
        )
        answer = login_answer(login)
        if self._well_known is not None:
            answer["well_known"] = dict(self._well_known)
        return answer

    async def post_refresh(self, request: WebRequest) -> dict[str, Any]:
        """Exchange a refresh token for new tokens."""
        return token_answer(await self._sessions.refresh(require_str(request.json(), "refresh_token")))

    async def post_logout(self, request: WebRequest) -> dict[str, Any]:
        """End this session and its device."""
        await self._devices.log_out(request.requester)
        return {}

    async def post_logout_all(self, request: WebRequest) -> dict[str, Any]:
        """End all sessions of the user and delete all devices."""
        requester: Requester = request.requester
        await self._devices.delete_all(requester.user_id, requester.user_nid)
        return {}


def _user_of(body: Mapping[str, Any]) -> str:
    """Return the user that a login names, in any of the forms that there have been.

    Spec: client-server API, "Identifier types": an address that is not known is a 403; none is known here.
    """
    identifier = optional_object(body, "identifier")
    if identifier is None:
        user = optional_str(body, "user")
        if user is not None:
            return user
        if optional_str(body, "address") is not None:
            raise NotAllowed("Only users of this server can be identified")
        raise MissingParam("'identifier' is missing")
    kind = optional_str(identifier, "type")
    if kind in ("m.id.thirdparty", "m.id.phone") or (kind is None and "address" in identifier):
        raise NotAllowed("Only users of this server can be identified")
    if kind != "m.id.user":
        raise InvalidParam("Unknown type of identifier")
    named = parse_user(identifier)
    return require_str(identifier, "user") if named is None else named
