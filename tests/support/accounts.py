"""Everything about accounts on a real database, behind a door without a socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from api.auth import Authenticator
from api.client.account import Account
from api.client.capabilities import Capabilities
from api.client.devices import Devices as DevicesApi
from api.client.login import Login
from api.client.profile import Profile
from api.client.register import Register
from api.client.versions import Versions
from api.client.wellknown import WellKnown
from api.client.whois import Whois
from api.ratelimit import ClientRates, Limit
from homeserver.config import Limits, PasswordPolicy, RateLimit
from homeserver.config import Profiles as ProfilesConfig
from homeserver.config import Registration as RegistrationConfig
from homeserver.config import Sessions as SessionsConfig
from homeserver.model.ids import ServerName, UserID
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.tasks import Tasks
from homeserver.runtime.threads import Threads
from homeserver.users.accounts import Accounts
from homeserver.users.credentials import Credentials
from homeserver.users.devices import Devices
from homeserver.users.interactive_auth import InteractiveAuth
from homeserver.users.operator import OperatorAccounts
from homeserver.users.profiles import Profiles
from homeserver.users.registration import Registration
from homeserver.users.sessions import Requester, Sessions
from homeserver.web.json_resource import JsonResource
from homeserver.web.ratelimit import RateLimits
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import Response
from homeserver.web.router import Router
from storage.database import Database
from storage.interning import Interner
from storage.positions import Sequence
from storage.schema import migrate
from synapse_compat.shared_secret import SharedSecretRegistration

SERVER = ServerName("example.org")
FREE = RateLimit(per_second=1000.0, burst_count=1000)
NO_LIMITS = Limits(
    registration=FREE, registration_token_validity=FREE, login_address=FREE, login_account=FREE, login_failed=FREE
)
OPEN = RegistrationConfig(enabled=True, without_verification=True, guest_access=True, bcrypt_rounds=4)


@dataclass
class Settings:
    """What a test may want otherwise."""

    registration: RegistrationConfig = OPEN
    sessions: SessionsConfig = field(default_factory=SessionsConfig)
    profiles: ProfilesConfig = field(default_factory=ProfilesConfig)
    limits: Limits = NO_LIMITS
    shared_secret: str | None = "s3cret"
    proof_life_ms: int = 0


class AccountServer:
    """The parts, started; `call` speaks to the door."""

    def __init__(self, url: str, settings: Settings | None = None) -> None:
        chosen = settings or Settings()
        self.is_stopped = False
        self.clock = ManualClock()
        self.tasks = Tasks(self.clock, "test")
        self.threads = Threads(reactor, 4)  # type: ignore[arg-type]
        self.database = Database(url, reactor=reactor, threads=self.threads)
        self.numbers = Sequence(self.database, "numbers", watch=lambda work: self.tasks.start("reserve", work))  # type: ignore[arg-type]
        self.interner = Interner(self.database, self.numbers)
        self.rates = ClientRates(RateLimits(self.clock), chosen.limits)
        self.left: list[UserID] = []
        self.propagated: list[tuple[str, Mapping[str, str]]] = []
        self.observed: list[object] = []
        self.hold_propagation: Deferred[None] | None = None
        registration = chosen.registration
        self.sessions = Sessions(self.database, self.numbers, self.clock, self.tasks, chosen.sessions)
        self.credentials = Credentials(
            self.database,
            self.threads,
            server_name=SERVER,
            policy=registration.password_policy,
            bcrypt_rounds=registration.bcrypt_rounds,
            attempts=self.rates.password_attempts,
        )
        self.devices = Devices(self.database, self.sessions, observe=self.observed.append)
        self.accounts = Accounts(
            self.database,
            self.interner,
            self.clock,
            self.tasks,
            self.sessions,
            self.devices,
            leave_rooms=self._leave_rooms,
        )
        self.registration = Registration(
            self.database, self.clock, self.accounts, server_name=SERVER, config=registration
        )
        self.interactive_auth = InteractiveAuth(
            self.clock,
            self.credentials,
            check_registration_token=self.registration.is_token_valid,
            proof_life_ms=chosen.proof_life_ms,
        )
        self.profiles = Profiles(
            self.database,
            self.tasks,
            server_name=SERVER,
            config=chosen.profiles,
            propagate=self._propagate,
        )
        self.operator = OperatorAccounts(
            self.accounts, self.credentials, self.registration, self.devices, server_name=SERVER
        )
        register = Register(
            self.registration, self.accounts, self.credentials, self.sessions, self.interactive_auth, self.rates
        )
        modules: list[Any] = [
            register,
            Login(self.credentials, self.sessions, self.devices, self.rates, has_passwords=True),
            Account(self.accounts, self.credentials, self.interactive_auth, has_passwords=True),
            DevicesApi(self.devices, self.interactive_auth),
            Whois(self.accounts, self.devices),
            Profile(self.profiles, chosen.profiles, self.rates, server_name=SERVER, shares_room=self._shares_room),
            Capabilities(
                default_room_version="12",
                room_versions={"11": True, "12": True},
                has_passwords=True,
                profiles=chosen.profiles,
            ),
            Versions(),
            WellKnown(client=None, support={"support_page": "https://example.org/help"}),
            SharedSecretRegistration(
                self.clock,
                register.register_by_operator,
                shared_secret=chosen.shared_secret,
                limit=Limit.PROBING,
            ),
        ]
        self.routes = [route for module in modules for route in module.routes()]
        authenticator = Authenticator(self.sessions)
        self.door = JsonResource(
            Router(self.routes),
            authenticate=authenticator.authenticate,
            limit=self.rates.limit,
            readmit=authenticator.readmit,
        )

    async def start(self) -> None:
        await self.database.start(migrate)
        await self.numbers.start()
        await self.registration.start()
        await self.accounts.start()
        self.sessions.start()

    async def stop(self) -> None:
        self.is_stopped = True
        await self.tasks.stop()
        await self.sessions.stop()
        await self.database.stop()
        await self.threads.stop()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        query: str = "",
        raw: bytes | None = None,
        ip: str = "192.0.2.1",
    ) -> tuple[int, dict[str, Any]]:
        """Send a request to the door and return status and JSON; a path without a slash is below /_matrix/client/v3."""
        headers = {"User-Agent": "test"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        request = WebRequest(
            method,
            path if path.startswith("/") else f"/_matrix/client/v3/{path}",
            query.encode(),
            Headers.of(headers),
            body=content,
            client_ip=ip,
        )
        answer = await self.door.respond(request)
        assert isinstance(answer, Response)
        return answer.status, json.loads(answer.body)

    async def register(self, username: str, password: str = "correct horse", **more: Any) -> dict[str, Any]:
        """Make an account through the door and return the answer."""
        body = {"username": username, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        status, answer = await self.call("POST", "register", body)
        assert 200 == status, answer
        return answer

    async def login(self, username: str, password: str = "correct horse", **more: Any) -> tuple[int, dict[str, Any]]:
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": username},
            "password": password,
            **more,
        }
        return await self.call("POST", "login", body)

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for work in the background, which the clock of the tests does not drive: ten seconds at most."""
        for _ in range(2000):
            if is_so():
                return
            await deferLater(reactor, 0.005)  # type: ignore[arg-type]
        raise AssertionError("it did not come to that")

    async def _leave_rooms(self, user_id: UserID) -> None:
        self.left.append(user_id)

    async def _propagate(self, requester: Requester, fields: Mapping[str, str]) -> None:
        self.propagated.append((requester.user_id, fields))
        if self.hold_propagation is not None:
            await self.hold_propagation

    async def _shares_room(self, requester: Requester, user_id: UserID) -> bool:
        return False


def password_proof(user: str, password: str, session: str | None = None) -> dict[str, Any]:
    proof: dict[str, Any] = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": user},
        "password": password,
    }
    if session is not None:
        proof["session"] = session
    return proof


def strict_policy() -> PasswordPolicy:
    return PasswordPolicy(
        minimum_length=8, require_digit=True, require_symbol=True, require_lowercase=True, require_uppercase=True
    )


MakeServer = Callable[..., Awaitable[AccountServer]]


@pytest_twisted.async_yield_fixture
async def make_server(database_url: str) -> AsyncIterator[MakeServer]:
    """Starts account servers on one database; `make_server()` or `make_server(Settings(...))`."""
    started: list[AccountServer] = []

    async def make(settings: Settings | None = None) -> AccountServer:
        server = AccountServer(database_url, settings)
        started.append(server)
        await server.start()
        return server

    yield make
    for server in started:
        if not server.is_stopped:
            await server.stop()
