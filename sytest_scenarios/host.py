"""A homeserver that is judged: where it is, what it says of itself, how accounts are made, and its process.

Accounts are made by the shared secret of the server if we know it (`POST /_synapse/admin/v1/register`, which Sennit
serves too), else by `POST /register` with the stages that need nobody: dummy, terms, and a registration token if we
were given one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.defer import DeferredLock

from .actors import Server, User
from .asking import LONGEST_RATE_LIMIT_OF_OTHERS_S, LONGEST_RATE_LIMITS_S, ask, sleep, text, unhurried
from .discovery import PATH as WELL_KNOWN
from .discovery import discover, with_scheme
from .expect import Failed, Skipped, shown
from .features import FEATURES
from .http import Answer, NoAnswer, Web, said_of
from .journal import Journal

if TYPE_CHECKING:
    from .launching import Process

SHARED_SECRET_PATH: Final = "/_synapse/admin/v1/register"
WAY_TO_AN_ACCOUNT: Final = "a way to make an account (open registration, --registration-token or --admin-secret)"
_NUMBERS: Final = count(1)


class Owned(Protocol):
    """A process that the suite has started."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def kill(self) -> None: ...


class Host:
    """One homeserver of a run, common to all stories."""

    def __init__(
        self,
        url: str,
        web: Web,
        *,
        admin_secret: str | None = None,
        registration_token: str | None = None,
        process: Process | None = None,
        implementation: str = "",
        database: str | None = None,
    ) -> None:
        self.url = with_scheme(url)
        self.web = web
        self.admin_secret = admin_secret
        self.registration_token = registration_token
        self.process = process
        self.implementation = implementation
        self.database = database
        self.server_name = ""
        self.version = ""
        self.versions: list[str] = []
        self.unstable_features: Mapping[str, Any] = {}
        # Names differ from those of earlier runs against the same server.
        self._run = secrets.token_hex(3)
        self._missing: dict[str, str | NoAnswer | None] = {}
        self._probing: dict[str, DeferredLock] = defaultdict(DeferredLock)
        self.waiting = DeferredLock()

    async def look(self) -> None:
        """Ask what it is; Failed if it is no homeserver, and does not tell where there is one."""
        try:
            found = await self._ask_versions()
        except NoAnswer as silence:
            raise self._no_homeserver(silence.came) from None
        except Failed as failure:
            came = failure.came
            try:
                base = None if self.process else await discover(self.web, self.url, patience_s=self._glance_s)
            except Failed as other:
                raise self._no_homeserver(f"{came}, and at {WELL_KNOWN} {other.came}") from None
            if base is None or base == self.url:
                raise self._no_homeserver(came) from None
            self.url = base
            try:
                found = await self._ask_versions()
            except Failed as other:
                raise self._no_homeserver(other.came) from None
        versions = found["versions"]
        self.versions = versions
        unstable = found.get("unstable_features")
        self.unstable_features = unstable if isinstance(unstable, dict) else {}
        try:
            found = (
                await self.ask("GET", "/_matrix/federation/v1/version", patience_s=min(5.0, self.web.patience_s))
            ).good()
            about = found.get("server", {})
            self.version = f"{about.get('name', '')} {about.get('version', '')}".strip()
            self.implementation = self.implementation or str(about.get("name", "")).casefold()
        except (Failed, AttributeError):
            pass  # it has no federation on this port, and need not say
        if any(each.startswith("org.sennit.") for each in self.unstable_features):
            self.implementation = self.implementation or "sennit"

    @property
    def _glance_s(self) -> float:
        return min(10.0, self.web.patience_s)

    async def _ask_versions(self) -> dict[str, Any]:
        found = (await self.ask("GET", "/_matrix/client/versions", patience_s=self._glance_s)).good()
        versions = found.get("versions")
        if not isinstance(versions, list) or not all(isinstance(each, str) for each in versions):
            raise Failed("a list of versions", shown(found))
        return found

    def _no_homeserver(self, came: str) -> Failed:
        return Failed(f"a Matrix homeserver at {self.url}", f"at /_matrix/client/versions {came}")

    async def ask(self, method: str, path: str, body: Any = None, **how: Any) -> Answer:
        """Ask it something outside of any story."""
        journal = Journal()
        return await unhurried(
            self, journal, lambda: ask(self.web, journal, "the suite", self.url, method, path, body, **how)
        )

    async def missing(self, feature: str) -> str | None:
        """Return why a feature is not there; None if it is. It is probed once; NoAnswer if that got none."""
        await self._probing[feature].acquire()
        try:
            if feature not in self._missing:
                try:
                    self._missing[feature] = await FEATURES[feature](self)
                except NoAnswer as silence:
                    self._missing[feature] = silence
                except Failed as failure:
                    self._missing[feature] = f"could not be probed: {failure}"
                except (LookupError, TypeError, AttributeError, ValueError) as error:
                    self._missing[feature] = f"could not be probed: an answer of another form ({said_of(error)})"
            found = self._missing[feature]
        finally:
            self._probing[feature].release()
        if isinstance(found, NoAnswer):
            raise NoAnswer(f"{found.expected} (to learn whether the server has: {feature})", found.came)
        return found

    async def new_user(self, server: Server, name: str, *, admin: bool = False) -> User:
        """Make an account for a story, whose name begins with `name`, and log in. An admin needs the shared secret."""
        localpart = f"{name.lower()}-{self._run}{next(_NUMBERS)}"
        password = secrets.token_urlsafe(12)
        if self.admin_secret:
            found = await self._by_secret(server, name, localpart, password, admin=admin)
        elif admin:
            raise Skipped("needs the shared secret of the server (--admin-secret)")
        else:
            found = await self._by_registration(server, name, localpart, password)
        user_id = text(found, "user_id")
        self.server_name = self.server_name or user_id.partition(":")[2]
        return User(name, server, user_id, password, text(found, "access_token"), text(found, "device_id"))

    async def start(self) -> None:
        """Start the process again."""
        await self._owned().start()

    async def stop(self) -> None:
        """Stop the process as an operator does."""
        await self._owned().stop()

    async def kill(self) -> None:
        """Kill the process."""
        await self._owned().kill()

    def _owned(self) -> Owned:
        if self.process is None:
            raise RuntimeError("the story stops a server that is not its own: it must need OWN_SERVER")
        return self.process

    async def _by_secret(
        self, server: Server, name: str, localpart: str, password: str, *, admin: bool
    ) -> dict[str, Any]:
        nonce = text((await _patiently(server, "GET", SHARED_SECRET_PATH, None, name)).good(), "nonce")
        assert self.admin_secret is not None
        said = "\0".join((nonce, localpart, password, "admin" if admin else "notadmin"))
        mac = hmac.new(self.admin_secret.encode(), said.encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": localpart, "password": password, "admin": admin, "mac": mac}
        return (await _patiently(server, "POST", SHARED_SECRET_PATH, body, name)).good()

    async def _by_registration(self, server: Server, name: str, localpart: str, password: str) -> dict[str, Any]:
        body: dict[str, Any] = {"username": localpart, "password": password, "auth": {"type": "m.login.dummy"}}
        answer = await _patiently(server, "POST", "/register", body, name)
        for _ in range(4):
            if answer.status != 401:
                break
            body["auth"] = self._next_stage(answer)
            answer = await _patiently(server, "POST", "/register", body, name)
        return answer.good()

    def _next_stage(self, answer: Answer) -> dict[str, Any]:
        """Return what answers the next stage of user-interactive authentication; Failed if we have nothing for it."""
        ours: dict[str, dict[str, Any]] = {"m.login.dummy": {}, "m.login.terms": {}}
        if self.registration_token:
            ours["m.login.registration_token"] = {"token": self.registration_token}
        found = answer.json if isinstance(answer.json, dict) else {}
        done = set(found.get("completed") or [])
        for flow in found.get("flows") or []:
            stages = flow.get("stages") if isinstance(flow, dict) else None
            left = [each for each in stages or [] if each not in done]
            if left and all(each in ours for each in left):
                return {"type": left[0], "session": found.get("session"), **ours[left[0]]}
        raise Failed(
            WAY_TO_AN_ACCOUNT,
            shown(json.loads(answer.body) if found else answer.body.decode("utf-8", "replace")),
        )


async def _patiently(server: Server, method: str, path: str, body: Any, name: str) -> Answer:
    """Ask, and wait where the server wants fewer accounts a second."""
    answer = await server.request(method, path, body, who=name)
    if answer.status != 429:
        return answer
    server.journal.limited -= 1
    with server.journal.wait():
        # One story at a time waits, in the order in which they came.
        await server.host.waiting.acquire()
        ends = time.monotonic() + LONGEST_RATE_LIMITS_S
        try:
            while True:
                answer = await server.request(method, path, body, who=name)
                wait_s = answer.retry_after_s
                if wait_s is None or wait_s > LONGEST_RATE_LIMIT_OF_OTHERS_S or time.monotonic() > ends:
                    return answer
                server.journal.limited -= 1
                await sleep(wait_s)
        finally:
            server.host.waiting.release()
