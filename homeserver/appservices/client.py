"""What this server asks of application services, over HTTP.

Every request carries the service's `hs_token`. Where the present path of an endpoint is not known to a service, the
path of old drafts is tried; which one worked is remembered for an hour.

Spec: application service API, "Homeserver -> Application Service API".
"""

from __future__ import annotations

import logging
from typing import Final
from urllib.parse import quote

import orjson

from homeserver.errors import AppserviceBadStatus, AppserviceSilent, AppserviceTimeout, AppserviceUnreachable, UrlNotSet
from homeserver.runtime.clock import Clock
from homeserver.runtime.outgoing import Answer, Outgoing, OutgoingFault, OutgoingTimeout

from .registry import Appservice, Registry

logger = logging.getLogger(__name__)

TRANSACTION_TIMEOUT_S: Final = 60.0
QUERY_TIMEOUT_S: Final = 20.0
PING_TIMEOUT_S: Final = 30.0
QUERY_ATTEMPTS: Final = 2
MAX_ANSWER_BYTES: Final = 65_536
MAX_SHOWN_BYTES: Final = 2_000
LEGACY_S: Final = 3600.0
_PREFIX: Final = "/_matrix/app/v1"
# Statuses that may mean that the path is not known.
_UNKNOWN_PATH: Final = frozenset({404, 405, 500, 501})


class AppserviceClient:
    """Speaks to application services."""

    def __init__(self, registry: Registry, outgoing: Outgoing, clock: Clock) -> None:
        self._registry = registry
        self._outgoing = outgoing
        self._clock = clock
        # (service, kind of endpoint) -> until when its old path is tried first.
        self._legacy: dict[tuple[str, str], float] = {}

    async def send_transaction(self, service: Appservice, txn_id: str, body: bytes) -> Answer:
        """Send a transaction; OutgoingFault. Whether it was taken is in the answer's status."""
        path = f"/transactions/{quote(txn_id, safe='')}"
        return await self._call(service, "PUT", "transactions", path, body, TRANSACTION_TIMEOUT_S)

    async def ping(self, service: Appservice, transaction_id: str | None) -> int:
        """Ask a service whether it is there; return how long that took in milliseconds.

        Raises UrlNotSet, AppserviceBadStatus, AppserviceUnreachable, AppserviceTimeout.
        """
        if service.url is None:
            raise UrlNotSet("The application service has no URL")
        body = orjson.dumps({} if transaction_id is None else {"transaction_id": transaction_id})
        started = self._clock.monotonic()
        try:
            answer = await self._request(service, "POST", f"{_PREFIX}/ping", body, PING_TIMEOUT_S)
        except OutgoingTimeout as fault:
            raise AppserviceTimeout("The application service did not answer in time") from fault
        except OutgoingFault as fault:
            raise AppserviceUnreachable(
                "The application service cannot be reached", detail=f"ping of {service.id}: {fault}"
            ) from fault
        if not answer.is_success:
            raise AppserviceBadStatus(answer.status, answer.body[:MAX_SHOWN_BYTES].decode("utf-8", "replace"))
        return max(0, round((self._clock.monotonic() - started) * 1000))

    async def query_user(self, user_id: str) -> bool:
        """Ask the services whose namespace a user is in; True once one says that it has made the user.

        Raises AppserviceSilent where none says so and one does not answer.
        """
        asked = [service for service in self._registry if service.url and service.is_user(user_id)]
        return await self._query(asked, "users", user_id)

    async def query_alias(self, alias: str) -> bool:
        """Ask the services whose namespace an alias is in; True once one says that it has made the room.

        Raises AppserviceSilent where none says so and one does not answer.
        """
        asked = [service for service in self._registry if service.url and service.is_alias(alias)]
        return await self._query(asked, "rooms", alias)

    # -- private -----------------------------------------------------------------------------------------------------

    async def _query(self, services: list[Appservice], kind: str, identifier: str) -> bool:
        path = f"/{kind}/{quote(identifier, safe='')}"
        silent = None
        for service in services:
            for attempt in range(QUERY_ATTEMPTS):
                try:
                    answer = await self._call(service, "GET", kind, path, None, QUERY_TIMEOUT_S)
                except OutgoingFault as fault:
                    logger.warning("Application service %s was asked for %s: %s", service.id, identifier, fault)
                    silent = service
                    if attempt + 1 < QUERY_ATTEMPTS:
                        await self._clock.sleep(0.5)
                    continue
                if answer.is_success:
                    return True
                break
        if silent is not None:
            # Spec: "Querying": "This should result in an HTTP status 408".
            raise AppserviceSilent("The application service that this name belongs to does not answer")
        return False

    async def _call(
        self, service: Appservice, method: str, kind: str, path: str, body: bytes | None, timeout_s: float
    ) -> Answer:
        """Call an endpoint by its present path, and by its old one where that is not known.

        Spec: "Legacy routes": "Homeservers should periodically try again for the newer endpoints".
        """
        key = (service.id, kind)
        now = self._clock.monotonic()
        # Spec: "Authorisation": the query parameter belongs to old versions.
        old = f"{path}?access_token={quote(service.hs_token, safe='')}"
        if self._legacy.get(key, 0.0) > now:
            answer = await self._request(service, method, old, body, timeout_s)
            if answer.is_success:
                return answer
            del self._legacy[key]
        answer = await self._request(service, method, _PREFIX + path, body, timeout_s)
        if answer.status not in _UNKNOWN_PATH:
            return answer
        fallback = await self._request(service, method, old, body, timeout_s)
        if fallback.is_success:
            self._legacy[key] = now + LEGACY_S
            return fallback
        return answer

    async def _request(
        self, service: Appservice, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> Answer:
        headers = {"Authorization": f"Bearer {service.hs_token}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return await self._outgoing.request(
            method,
            f"{service.url}{path}",
            headers=headers,
            body=body,
            timeout_s=timeout_s,
            max_bytes=MAX_ANSWER_BYTES,
            # The operator has registered the service: it may well be on this machine.
            is_trusted=True,
        )
