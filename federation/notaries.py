"""Notaries: servers that are trusted to say what the keys of others are.

A notary passes on lists that others have signed, and signs them itself. Its own keys are pinned in the configuration,
or taken from itself over TLS. It can be believed no further than that: what it says of a key that is known from its
owner changes nothing (see `ServerKeys.merged`), and nobody's list counts that is not signed by a key in it.

Spec: server-server API, "Querying Keys Through Another Server".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from homeserver.config import KeyServer
from homeserver.errors import Misconfigured
from homeserver.model.canonical_json import JsonObject
from homeserver.model.server_keys import MAX_LISTS, BadServerKeys, ServerKeys, check_notary, parse_server_keys
from homeserver.model.signing import BadKey, VerifyKey, is_key_id
from homeserver.runtime.backoff import Backoff
from homeserver.runtime.clock import Clock

# LIMIT: servers in one question; a notary may answer with several lists of each.
SERVERS_PER_QUESTION: Final = 40
# LIMIT: lists of one server in one answer.
LISTS_PER_SERVER: Final = 8
ANSWER_BYTES: Final = 4 * 1024**2
# A notary asks the servers itself before it answers.
TIMEOUT_S: Final = 20.0
_FIRST_WAIT_S: Final = 30.0
_MOST_WAIT_S: Final = 600.0


class KeyFetcher(Protocol):
    """Unsigned requests to other servers, by server name. Raises RemoteError."""

    async def get_json(self, server: str, path: str, *, max_bytes: int, timeout_s: float) -> Any:
        """Return the JSON that the server answers."""
        ...

    async def post_json(self, server: str, path: str, content: JsonObject, *, max_bytes: int, timeout_s: float) -> Any:
        """Return the JSON that the server answers."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of a server: one of these keys (any, if there are none) that was valid at that time."""

    at_ts: int
    key_ids: frozenset[str] = frozenset()

    def is_met_by(self, keys: ServerKeys | None) -> bool:
        """Tell whether what is known of the server's keys is enough."""
        if keys is None:
            return False
        if not self.key_ids:
            return self.at_ts <= keys.valid_until_ts
        return any(keys.key(key_id, self.at_ts) is not None for key_id in self.key_ids)


@dataclass(frozen=True, slots=True)
class Published:
    """A server's list: what it says, and itself as the server has signed it."""

    keys: ServerKeys
    wire: Mapping[str, Any]


class Notary:
    """One trusted key server, and how long to leave it alone after it failed."""

    def __init__(self, config: KeyServer, clock: Clock) -> None:
        self.name = str(config.server_name)
        self.needs_signature = not config.accept_keys_insecurely
        self.pinned = _pinned(config)
        self._clock = clock
        self._backoff = Backoff(_FIRST_WAIT_S, _MOST_WAIT_S)
        self._silent_until = 0.0

    @property
    def is_worth_asking(self) -> bool:
        """Whether it has not just failed."""
        return self._clock.monotonic() >= self._silent_until

    def failed(self) -> None:
        """Leave it alone for a while."""
        self._silent_until = self._clock.monotonic() + self._backoff.next_s()

    async def ask(
        self, fetcher: KeyFetcher, wanted: Mapping[str, Wanted], keys: Mapping[str, VerifyKey]
    ) -> list[Published]:
        """Return what it knows of these servers, at most `SERVERS_PER_QUESTION`; `keys` are its own.

        Raises RemoteError and BadServerKeys.
        """
        content: JsonObject = {
            "server_keys": {
                str(server): {key_id: {"minimum_valid_until_ts": each.at_ts} for key_id in sorted(each.key_ids)}
                for server, each in wanted.items()
            }
        }
        answer = await fetcher.post_json(
            self.name, "/_matrix/key/v2/query", content, max_bytes=ANSWER_BYTES, timeout_s=TIMEOUT_S
        )
        lists = answer.get("server_keys") if isinstance(answer, dict) else None
        if not isinstance(lists, list):
            raise BadServerKeys("the answer must have a list of `server_keys`")
        self._backoff.reset()
        return self._believed(lists[: LISTS_PER_SERVER * MAX_LISTS], wanted, keys)

    def _believed(
        self, lists: list[Any], wanted: Mapping[str, Wanted], keys: Mapping[str, VerifyKey]
    ) -> list[Published]:
        left = dict.fromkeys(wanted, LISTS_PER_SERVER)
        now = self._clock.now_ms()
        found = []
        for wire in lists:
            server = wire.get("server_name") if isinstance(wire, dict) else None
            # What nobody asked for costs no check of signatures.
            if not isinstance(server, str) or not left.get(server):
                continue
            left[server] -= 1
            try:
                if self.needs_signature:
                    check_notary(wire, self.name, keys)
                found.append(Published(parse_server_keys(wire, server, now), wire))
            except BadServerKeys:
                continue
        return found


def _pinned(config: KeyServer) -> Mapping[str, VerifyKey]:
    pinned = {}
    for key_id, text in config.verify_keys.items():
        try:
            if not is_key_id(key_id):
                raise BadKey("the ID of a key looks like ed25519:a1")
            pinned[key_id] = VerifyKey.parse(text)
        except BadKey as fault:
            raise Misconfigured(
                f"The key {key_id!r} of {config.server_name} under federation.trusted_key_servers is none: {fault}."
            ) from fault
    return pinned
