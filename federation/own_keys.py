"""The keys of this server: those that it signs with, those that it once signed with, and the list that it publishes.

Several keys may be in use at once: all of them sign the list, the first signs events and requests. A key that is no
longer used stays in the list as an old one, so that what it signed is still believed; the operator says until when.

The list is made anew when half of its validity is over, so that nobody gets one that is about to end.

Spec: server-server API, "Publishing Keys".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from homeserver.model.server_keys import MAX_TS, ServerKey, ServerKeys, build_server_keys
from homeserver.model.signing import SigningKey, VerifyKey
from homeserver.runtime.clock import Clock

# Spec: `GET /_matrix/key/v2/server`: "Originating servers should avoid returning responses that expire in less than an
# hour".
LEAST_VALIDITY_MS: Final = 3_600_000


class OwnKeys:
    """Our keys. `old_keys`: key ID -> the public key and when it was last used."""

    def __init__(
        self,
        server_name: str,
        keys: Sequence[SigningKey],
        old_keys: Mapping[str, tuple[VerifyKey, int]],
        *,
        clock: Clock,
        refresh_interval_ms: int,
    ) -> None:
        """`refresh_interval_ms` is for how long a published list is valid."""
        self.server_name = server_name
        self.keys = tuple(keys)
        self._old_keys = dict(old_keys)
        self._clock = clock
        self._interval_ms = refresh_interval_ms
        self._published: Mapping[str, Any] = {}
        self._renew_ts = 0
        known = {key.key_id: ServerKey(key.verify_key, MAX_TS) for key in self.keys}
        for key_id, (key, expired_ts) in self._old_keys.items():
            known.setdefault(key_id, ServerKey(key, expired_ts, expired_ts))
        # To ourselves our keys are always valid: nobody else can say when they are not.
        self.known: Final = ServerKeys(server_name, MappingProxyType(known), MAX_TS, 0)

    @property
    def signing(self) -> SigningKey:
        """The key that signs events and requests."""
        return self.keys[0]

    def published(self) -> Mapping[str, Any]:
        """Return the signed list as it is published; the same object until it is made anew."""
        now = self._clock.now_ms()
        # A clock that was set back must not leave a list that ends too far ahead.
        if not self._renew_ts - self._interval_ms <= now < self._renew_ts:
            self._published = MappingProxyType(
                build_server_keys(self.server_name, self.keys, self._old_keys, now + self._interval_ms)
            )
            lasts_ms = min(self._interval_ms // 2, max(0, self._interval_ms - LEAST_VALIDITY_MS))
            self._renew_ts = now + lasts_ms
        return self._published
