"""Application services at the client door: whom they act as, the users they make, and asking them for what is missing.

A request with a service's token acts as the service's sender, or as the user that the query names, if that one is the
service's. Who that is stays in memory until something about the user changes, as with ordinary tokens.

Spec: application service API, "Identity assertion", "Server admin style permissions", "Pinging", "Querying".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.appservices.client import AppserviceClient
from homeserver.appservices.registry import Appservice, Registry
from homeserver.appservices.sender import AppserviceSender
from homeserver.errors import (
    AppserviceLoginUnsupported,
    BadIdentifier,
    Exclusive,
    InvalidUsername,
    MissingToken,
    NotAllowed,
    UnknownDevice,
    UnknownToken,
    UserDeactivated,
    UserInUse,
)
from homeserver.model.ids import UserID
from homeserver.users.accounts import Account, Accounts
from homeserver.users.devices import Devices
from homeserver.users.sessions import Requester, Sessions
from homeserver.web.params import optional_str
from homeserver.web.request import WebRequest
from homeserver.web.router import Route

from .auth import Access, token_of

APPLICATION_SERVICE: Final = "m.login.application_service"
# LIMIT: users of all services that are known in memory, about 500 bytes each.
MAX_CACHED: Final = 50_000

_Key = tuple[str, str, str | None]


class AppserviceAccess:
    """What services may do that nobody else may."""

    def __init__(self, registry: Registry, accounts: Accounts, sessions: Sessions, devices: Devices) -> None:
        self._registry = registry
        self._accounts = accounts
        self._sessions = sessions
        self._devices = devices
        self._known: dict[_Key, Requester] = {}
        self._keys_of: dict[int, set[_Key]] = {}
        # Counts what was forgotten: an answer that was read before is not kept.
        self._forgettings = 0
        sessions.when_forgotten(self._forget)

    @property
    def has_services(self) -> bool:
        """Whether there are any application services."""
        return len(self._registry) > 0

    # -- acting as a user --------------------------------------------------------------------------------------------

    async def requester(self, token: str, request: WebRequest) -> Requester | None:
        """Return whom a service's request acts as; None where the token is not a service's.

        Raises NotAllowed for a user who is not the service's or does not exist, UnknownDevice, UserDeactivated.
        """
        service = self._registry.find_by_token(token)
        if service is None:
            return None
        user_id: str = service.sender
        device_id: str | None = None
        if request.raw_query:
            user_id = request.query("user_id") or user_id
            # MSC3202: the name of the parameter before v1.17.
            device_id = request.query("device_id") or request.query("org.matrix.msc3202.device_id") or None
        key = (service.id, user_id, device_id)
        known = self._known.get(key)
        return known if known is not None else await self._look_up(service, key)

    async def _look_up(self, service: Appservice, key: _Key) -> Requester:
        _, user_id, device_id = key
        if not service.is_user(user_id):
            raise NotAllowed("The application service cannot act as this user")
        before = self._forgettings
        account = await self._accounts.find(user_id)
        if account is None and user_id == service.sender:
            account = await self._make_sender(service)
        if account is None:
            raise NotAllowed("The application service has not registered this user")
        if account.is_deactivated:
            raise UserDeactivated("This account has been deactivated")
        device_nid = None
        if device_id is not None:
            device_nid = await self._devices.find_nid(account.user_nid, device_id)
            if device_nid is None:
                raise UnknownDevice("The user has no such device")
        requester = Requester(
            user_id=UserID(account.user_id),
            user_nid=account.user_nid,
            device_id=device_id,
            device_nid=device_nid,
            is_admin=account.is_admin,
            is_locked=account.is_locked,
            is_suspended=account.is_suspended,
            is_shadow_banned=account.is_shadow_banned,
            appservice=service.id,
        )
        if before == self._forgettings:
            self._remember(key, requester)
        return requester

    async def _make_sender(self, service: Appservice) -> Account:
        try:
            return await self._accounts.create(service.sender, appservice=service.id)
        except UserInUse:
            return await self._accounts.get(service.sender)

    def _remember(self, key: _Key, requester: Requester) -> None:
        if len(self._known) >= MAX_CACHED:
            self._known.clear()
            self._keys_of.clear()
        self._known[key] = requester
        self._keys_of.setdefault(requester.user_nid, set()).add(key)

    def _forget(self, user_nid: int) -> None:
        self._forgettings += 1
        for key in self._keys_of.pop(user_nid, ()):
            self._known.pop(key, None)

    # -- making users, logging them in -------------------------------------------------------------------------------

    def find_service(self, request: WebRequest) -> Appservice | None:
        """Return the service whose token a request has, or None; raises nothing."""
        if not self.has_services:
            return None
        try:
            token = token_of(request)
        except MissingToken:
            return None
        return None if token is None else self._registry.find_by_token(token)

    def get_service(self, request: WebRequest) -> Appservice:
        """Return the service whose token a request has; MissingToken, UnknownToken."""
        token = token_of(request)
        if token is None:
            raise MissingToken("Missing access token")
        service = self._registry.find_by_token(token)
        if service is None:
            raise UnknownToken("This is not the token of an application service")
        return service

    def check_sessions(self, service: Appservice, *, inhibit_login: bool = False) -> None:
        """Raise AppserviceLoginUnsupported for a service that has said to do without sessions, and asks for one."""
        if service.manages_devices and not inhibit_login:
            raise AppserviceLoginUnsupported("The application service must act as its users without logging in")

    async def register(self, service: Appservice, username: str) -> Account:
        """Make a user for a service; InvalidUsername, Exclusive, UserInUse.

        Spec: "Server admin style permissions": no password, no captcha.
        """
        try:
            user_id = UserID.of(username, service.sender.server_name)
        except BadIdentifier as fault:
            raise InvalidUsername(fault.message) from fault
        self._check_own(service, user_id)
        # COMPAT(synapse): a new user is called by the localpart.
        return await self._accounts.create(user_id, appservice=service.id, display_name=user_id.localpart)

    async def account_for_login(self, service: Appservice, user: str) -> Account:
        """Return the account that a service logs in to; Exclusive, NotAllowed."""
        user_id = user if user.startswith("@") else f"@{user}:{service.sender.server_name}"
        self._check_own(service, user_id)
        account = await self._accounts.find(user_id)
        if account is None and user_id == service.sender:
            account = await self._make_sender(service)
        if account is None:
            raise NotAllowed("The application service has not registered this user")
        return account

    def _check_own(self, service: Appservice, user_id: str) -> None:
        if not service.is_user(user_id):
            raise Exclusive("This user is not in a namespace of the application service")
        if user_id != service.sender and self._registry.is_exclusive_user(user_id, but=service.id):
            raise Exclusive("This user is in the namespace of another application service")

    def check_alias(self, alias: str, requester: Requester) -> bool:
        """Raise Exclusive where the requester may not make or remove this alias, because of namespaces.

        True where the alias is in a namespace of the service that asks.
        """
        if not self.has_services:
            return False
        if self._registry.is_exclusive_alias(alias, requester.appservice):
            raise Exclusive("This alias is reserved by an application service, or not by this one")
        return requester.appservice is not None


class AppservicePing:
    """`/appservice/{appserviceId}/ping`."""

    def __init__(self, registry: Registry, client: AppserviceClient, sender: AppserviceSender) -> None:
        self._registry = registry
        self._client = client
        self._sender = sender

    def routes(self) -> list[Route]:
        """Return the routes."""
        path = "/_matrix/client/v1/appservice/{appserviceId}/ping"
        return [Route("POST", path, self.post_ping, auth=Access.USERS)]

    async def post_ping(self, request: WebRequest) -> dict[str, Any]:
        """Ask the service whether this server reaches it."""
        requester: Requester = request.requester
        service = self._registry.find(request.args["appserviceId"])
        if service is None or requester.appservice != service.id:
            raise NotAllowed("Provided access token is not the appservice's as_token")
        transaction_id = optional_str(request.json_or_empty(), "transaction_id")
        duration_ms = await self._client.ping(service, transaction_id)
        # It is there: what waits for it need wait no longer.
        self._sender.retry_now(service.id)
        return {"duration_ms": duration_ms}
