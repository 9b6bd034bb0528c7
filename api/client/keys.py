"""Keys for end-to-end encryption: of devices, for one message each, and of users.

Spec: client-server API, "End-to-End Encryption": "Key management API", "Cross-signing".
"""

from __future__ import annotations

from typing import Any, Final

from homeserver.errors import InvalidParam
from homeserver.feed.feed import Feed
from homeserver.feed.streams.device_lists import DeviceListsStream
from homeserver.model.tokens import StreamToken
from homeserver.users.cross_signing import CrossSigning
from homeserver.users.device_keys import DeviceKeys
from homeserver.users.interactive_auth import PASSWORD, InteractiveAuth, Operation
from homeserver.users.one_time_keys import OneTimeKeys
from homeserver.users.sessions import Requester
from homeserver.web.params import optional_int
from homeserver.web.request import WebRequest
from homeserver.web.router import Route, expand_prefixes

from ..auth import Access

# Spec: "10 seconds is the recommended default."
_DEFAULT_TIMEOUT_MS: Final = 10_000
_MAX_TIMEOUT_MS: Final = 60_000
# LIMIT: a thousand one-time keys with their signatures.
_MAX_UPLOAD_BYTES: Final = 2 * 1024**2


class KeysApi:
    """`/keys/…`."""

    def __init__(
        self,
        device_keys: DeviceKeys,
        one_time_keys: OneTimeKeys,
        cross_signing: CrossSigning,
        interactive_auth: InteractiveAuth,
        feed: Feed,
        stream: DeviceListsStream,
    ) -> None:
        self._device_keys = device_keys
        self._one_time_keys = one_time_keys
        self._cross_signing = cross_signing
        self._interactive_auth = interactive_auth
        self._feed = feed
        self._stream = stream

    def routes(self) -> list[Route]:
        """Return the routes."""
        prefix = "/_matrix/client/v3/keys"
        routes = [
            Route("POST", f"{prefix}/upload", self.post_upload, auth=Access.GUESTS, max_body_bytes=_MAX_UPLOAD_BYTES),
            Route("POST", f"{prefix}/query", self.post_query, auth=Access.GUESTS),
            Route("POST", f"{prefix}/claim", self.post_claim, auth=Access.GUESTS),
            Route("GET", f"{prefix}/changes", self.get_changes, auth=Access.USERS),
        ]
        signing = [
            Route("POST", f"{prefix}/device_signing/upload", self.post_device_signing, auth=Access.USERS),
            Route("POST", f"{prefix}/signatures/upload", self.post_signatures, auth=Access.USERS),
        ]
        return [
            *(each for route in routes for each in expand_prefixes(route)),
            # MSC1756, by which clients of before v1.1 call them.
            *(each for route in signing for each in expand_prefixes(route, "unstable")),
        ]

    async def post_upload(self, request: WebRequest) -> dict[str, Any]:
        """Store keys of the device that asks."""
        return {"one_time_key_counts": await self._device_keys.upload(request.requester, request.json())}

    async def post_query(self, request: WebRequest) -> dict[str, Any]:
        """Keys of users and their devices."""
        body = request.json()
        return await self._device_keys.query(request.requester, body, timeout_s=_timeout_s(body))

    async def post_claim(self, request: WebRequest) -> dict[str, Any]:
        """Keys for one message each."""
        body = request.json()
        return await self._one_time_keys.claim(body, timeout_s=_timeout_s(body))

    async def get_changes(self, request: WebRequest) -> dict[str, Any]:
        """Whose devices have changed between two tokens."""
        requester: Requester = request.requester
        after = StreamToken.parse(request.require_query("from")).position
        upto = StreamToken.parse(request.require_query("to")).position
        if after > upto:
            raise InvalidParam("'from' is later than 'to'")
        user = await self._feed.user(requester.user_id, requester.user_nid)
        watermark = self._feed.watermark
        changes = await self._stream.between(user, min(after, watermark), min(upto, watermark))
        return {"changed": list(changes.changed), "left": list(changes.left)}

    async def post_device_signing(self, request: WebRequest) -> dict[str, Any]:
        """Store cross-signing keys of the user."""
        requester: Requester = request.requester
        body = request.json()
        while True:
            uploaded = await self._cross_signing.read_upload(requester, body)
            # Spec: no user-interactive authentication "when used by an application service".
            if uploaded.needs_proof and requester.appservice is None:
                operation = Operation("POST /keys/device_signing/upload", requester, body)
                await self._interactive_auth.require(operation, [(PASSWORD,)], body.get("auth"))
            if await self._cross_signing.store(requester, uploaded):
                return {}

    async def post_signatures(self, request: WebRequest) -> dict[str, Any]:
        """Store signatures over keys."""
        return {"failures": await self._cross_signing.sign(request.requester, request.json())}


def _timeout_s(body: dict[str, Any]) -> float:
    timeout_ms = optional_int(body, "timeout", _DEFAULT_TIMEOUT_MS, 0)
    return min(timeout_ms or _DEFAULT_TIMEOUT_MS, _MAX_TIMEOUT_MS) / 1000
