"""Making an account from a client.

Spec: client-server API, "Account registration", "Token-authenticated registration", "Guest Access".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.errors import InvalidParam, MatrixError, MissingParam, NotAllowed, UserInUse
from homeserver.users.accounts import Account, Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.interactive_auth import REGISTRATION_TOKEN, InteractiveAuth, Operation
from homeserver.users.registration import Registration
from homeserver.users.sessions import Requester, Sessions, check_device_id, check_device_name
from homeserver.web.params import optional_bool, optional_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..appservices import APPLICATION_SERVICE, AppserviceAccess
from ..ratelimit import ClientRates, Limit
from .login import login_answer

_TEXTS: Final = ("username", "password", "device_id", "initial_device_display_name", "guest_access_token")
_SWITCHES: Final = ("inhibit_login", "refresh_token")


class Register:
    """`/register`, `/register/available` and the validity of registration tokens."""

    def __init__(
        self,
        registration: Registration,
        accounts: Accounts,
        credentials: Credentials,
        sessions: Sessions,
        interactive_auth: InteractiveAuth,
        rates: ClientRates,
        *,
        appservices: AppserviceAccess | None = None,
    ) -> None:
        self._registration = registration
        self._accounts = accounts
        self._credentials = credentials
        self._sessions = sessions
        self._interactive_auth = interactive_auth
        self._rates = rates
        self._appservices = appservices

    def routes(self) -> list[Route]:
        """Return the routes."""
        routes = [
            Route("POST", "/_matrix/client/v3/register", self.post_register),
            Route("GET", "/_matrix/client/v3/register/available", self.get_available, limit=Limit.PROBING),
        ]
        validity = Route(
            "GET",
            "/_matrix/client/v1/register/m.login.registration_token/validity",
            self.get_token_validity,
            limit=Limit.REGISTRATION_TOKEN_VALIDITY,
        )
        return [*(each for route in routes for each in expand_prefixes(route)), validity]

    async def post_register(self, request: WebRequest) -> dict[str, Any]:
        """Make an account, and log in unless that is inhibited."""
        services = self._appservices
        if services is None or services.find_service(request) is None:
            self._rates.check_address(Limit.PROBING, request)
        kind = request.query("kind")
        if kind == "guest":
            return await self._register_guest(request)
        if kind not in (None, "user"):
            raise InvalidParam("'kind' is neither user nor guest")
        body = request.json()
        wishes = _wishes(body)
        if services is not None and body.get("type") == APPLICATION_SERVICE:
            return await self._register_for_service(services, request, wishes)
        flows = self._registration.flows()
        if body.get("auth") is not None:
            # Each proof is an account or a guess at a registration token.
            self._rates.check_address(Limit.REGISTRATION, request)
        # Spec: "Homeservers MUST perform the relevant checks … before performing User-Interactive Authentication".
        guest = await self._check(wishes)
        proof = await self._interactive_auth.require(
            Operation("POST /register", None, None), flows, body.get("auth"), keep=wishes
        )
        if wishes != proof.kept:
            # What an earlier request of the session has said was checked then, and the name may be taken by now.
            wishes = dict(proof.kept)
            guest = await self._check(wishes)
        password = wishes.get("password")
        if password is None:
            raise MissingParam("'password' is missing")
        account = await self._make(guest, wishes, password, proof.results.get(REGISTRATION_TOKEN))
        return await self._answer(account, wishes)

    async def get_available(self, request: WebRequest) -> dict[str, Any]:
        """Tell whether a user name could be registered."""
        if not self._registration.is_enabled:
            raise NotAllowed("Registration is disabled")
        username = request.require_query("username")
        if self._registration.hides_names_in_use:
            self._registration.user_id_for(username)
        else:
            await self._registration.check_available(username)
        return {"available": True}

    async def get_token_validity(self, request: WebRequest) -> dict[str, Any]:
        """Tell whether a registration token could be used now."""
        if not self._registration.is_enabled:
            raise NotAllowed("Registration is not enabled on this homeserver.")
        return {"valid": await self._registration.is_token_valid(request.require_query("token"))}

    async def register_by_operator(
        self, username: str, password: str, *, is_admin: bool, display_name: str | None, inhibit_login: bool
    ) -> dict[str, Any]:
        """Make an account without a proof, log in, and return the answer to a client: for those who have a secret."""
        await self._registration.check_available(username)
        account = await self._registration.register(
            username, await self._credentials.hash(password), is_admin=is_admin, display_name=display_name
        )
        if inhibit_login:
            return _without_login(account)
        return login_answer(await self._sessions.log_in(account))

    async def _register_for_service(
        self, services: AppserviceAccess, request: WebRequest, wishes: Mapping[str, Any]
    ) -> dict[str, Any]:
        # Spec: application service API, "Server admin style permissions".
        service = services.get_service(request)
        services.check_sessions(service, inhibit_login=wishes.get("inhibit_login", False))
        username = wishes.get("username")
        if username is None:
            raise MissingParam("'username' is missing")
        if wishes.get("device_id") is not None:
            check_device_id(wishes["device_id"])
        check_device_name(wishes.get("initial_device_display_name"))
        return await self._answer(await services.register(service, username), wishes)

    async def _answer(self, account: Account, wishes: Mapping[str, Any]) -> dict[str, Any]:
        if wishes.get("inhibit_login"):
            return _without_login(account)
        login = await self._sessions.log_in(
            account,
            device_id=wishes.get("device_id"),
            display_name=wishes.get("initial_device_display_name"),
            with_refresh_token=wishes.get("refresh_token", False),
        )
        return login_answer(login)

    async def _register_guest(self, request: WebRequest) -> dict[str, Any]:
        self._rates.check_address(Limit.REGISTRATION, request)
        # Spec: all parameters but the device's display name are ignored.
        display_name = optional_str(request.json_or_empty(), "initial_device_display_name")
        check_device_name(display_name)
        account = await self._registration.register_guest()
        return login_answer(await self._sessions.log_in(account, display_name=display_name))

    async def _check(self, wishes: Mapping[str, Any]) -> Requester | None:
        """Raise unless an account of these wishes can be made; return the guest whose account is to be upgraded."""
        password, device_id = wishes.get("password"), wishes.get("device_id")
        if password is not None:
            self._credentials.check_policy(password)
        if device_id is not None:
            check_device_id(device_id)
        check_device_name(wishes.get("initial_device_display_name"))
        username = wishes.get("username")
        guest_token = wishes.get("guest_access_token")
        if guest_token is not None:
            return await self._guest(guest_token, username)
        if username is not None:
            if self._registration.hides_names_in_use:
                self._registration.user_id_for(username)
            else:
                await self._registration.check_available(username)
        return None

    async def _guest(self, guest_token: str, username: str | None) -> Requester:
        try:
            guest = await self._sessions.requester_for(guest_token)
        except MatrixError as fault:
            raise NotAllowed("The guest access token is not valid") from fault
        # Spec: "required to specify the username parameter to the value of the local part of their username".
        if not guest.is_guest or username != guest.user_id.localpart:
            raise UserInUse("The guest access token is not this user's")
        return guest

    async def _make(
        self, guest: Requester | None, wishes: Mapping[str, Any], password: str, registration_token: str | None
    ) -> Account:
        password_hash = await self._credentials.hash(password)
        if guest is not None:
            await self._accounts.upgrade_guest(guest.user_nid, password_hash)
            return await self._accounts.get(guest.user_id)
        return await self._registration.register(
            wishes.get("username"), password_hash, registration_token=registration_token
        )


def _without_login(account: Account) -> dict[str, Any]:
    return {"user_id": account.user_id, "home_server": account.user_id.partition(":")[2]}


def _wishes(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of a registration that are given."""
    wishes: dict[str, Any] = {}
    for key in _TEXTS:
        value = optional_str(body, key)
        if value is not None:
            wishes[key] = value
    for key in _SWITCHES:
        if body.get(key) is not None:
            wishes[key] = optional_bool(body, key)
    return wishes
