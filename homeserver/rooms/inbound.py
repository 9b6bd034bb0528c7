"""The one gate: events of other servers come in as bytes and leave as `CheckedEvent`, or not at all.

Every inlet passes here: transactions, answers to requests of ours, handshakes. Each event goes through the same steps,
in this order: how long it is, whether it is JSON, the format of the room version, whether it is of the room that was
expected, whose signatures it needs, and whether they are good. Nothing else makes an event of what another server sent.

What fails is left out (`Refused`), one by one; it never takes the others with it. The keys for all events are asked for
in one call. A few events are checked at once; many in worker threads, a slice at a time and two slices at once, so that
a room of a hundred thousand members does not stop the server that joins it.

Of the same key twice in an object the last one counts, for the hash, for the rules and for what is stored: all of them
see one parsed value.

Spec: server-server API, "Checks performed on receipt of a PDU", 1 to 3; client-server API, "Size limits".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeVar

import orjson

from homeserver.errors import BadIdentifier, BadJson
from homeserver.model.canonical_json import parse_exactly
from homeserver.model.event import MAX_PDU_BYTES
from homeserver.model.event_format import room_id_of
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.receipt_of_events import CheckedEvent, Dropped, Received, check_received, read_received
from homeserver.model.room_versions import RoomVersion
from homeserver.model.server_keys import MAX_TS, ServerKey, ServerKeys
from homeserver.ports import PDU, KeySource
from homeserver.runtime.gathering import gather
from homeserver.runtime.threads import Worker

from .door import Identity

# Spec: "Validating hashes and signatures on received events": a policy server's key is in the state of the room, and is
# none of those that its server publishes.
POLICY_KEY_ID: Final = "ed25519:policy_server"
# LIMIT: bytes of an event as it was sent. The spec limits its canonical form; escapes of other encoders make up to
# three times as many bytes of the same text, and `unsigned` comes on top.
MAX_RAW_BYTES: Final = 4 * MAX_PDU_BYTES
# LIMIT: events in one call; the state of the largest rooms there are has fewer.
MAX_EVENTS: Final = 500_000
# Up to so many are checked at once, and so many are a slice of work in a thread.
FEW: Final = 8
SLICE: Final = 40
# Slices of one call that are worked on at the same time; the other threads are for others.
_AT_ONCE: Final = 2

_NO_KEYS: Final[Mapping[str, ServerKeys]] = MappingProxyType({})

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Refused(Dropped):
    """An event that is left out; `event_id` is there where it can be told."""

    def __init__(self, reason: str, event_id: EventID | None = None) -> None:
        super().__init__(reason)
        self.event_id = event_id


class Inbound:
    """Checks what other servers send, with keys that it has fetched."""

    def __init__(self, keys: KeySource | None, threads: Worker, identity: Identity) -> None:
        self._keys = keys
        self._threads = threads
        self._server_name = str(identity.server_name)
        own = ServerKey(identity.key.verify_key, MAX_TS)
        self._own = ServerKeys(self._server_name, MappingProxyType({identity.key.key_id: own}), MAX_TS, 0)

    async def check(self, version: RoomVersion, room_id: RoomID, pdus: Sequence[PDU]) -> list[CheckedEvent | Dropped]:
        """Return what became of each event, in the order of `pdus`; those that are left out are `Refused`.

        They are of that room, and have the format of that version. Never raises for what an event has in it.
        """
        return await self.verify(await self.read(version, room_id, pdus))

    async def read(self, version: RoomVersion, room_id: RoomID, pdus: Sequence[PDU]) -> list[Received | Refused]:
        """Do the first half of `check`, all but the signatures: nobody knows yet whose events these are."""
        received = await self._each(pdus[:MAX_EVENTS], lambda pdu: _read(version, room_id, pdu))
        received.extend(Refused("too many events at once") for _ in pdus[MAX_EVENTS:])
        return received

    async def verify(self, received: Sequence[Received | Refused]) -> list[CheckedEvent | Dropped]:
        """Do the second half of `check`; what `read` left out stays left out."""
        keys = await self._keys_for(received)
        return await self._each(received, lambda each: _check(each, keys))

    async def check_one(self, version: RoomVersion, room_id: RoomID, pdu: PDU) -> CheckedEvent:
        """Return the event; raise Dropped if it is left out."""
        outcome = (await self.check(version, room_id, [pdu]))[0]
        if isinstance(outcome, Dropped):
            raise outcome
        return outcome

    async def _keys_for(self, received: Sequence[Received | Refused]) -> Mapping[str, ServerKeys]:
        """Return what is known of the keys of all servers that these events need signatures of."""
        wanted: dict[str, int] = {}
        key_ids: dict[str, set[str]] = {}
        for each in received:
            if isinstance(each, Refused):
                continue
            # Spec: rooms/v5, "Signing key validity period": versions before do not ask when a key was valid.
            at_ts = each.wire["origin_server_ts"] if each.version.enforces_key_validity else 0
            for server_name, signed in each.signatures_needed.items():
                offered = signed - {POLICY_KEY_ID}
                # Who has not signed is not worth asking.
                if not offered or (server_name == self._server_name and offered & self._own.keys.keys()):
                    continue
                wanted[server_name] = max(at_ts, wanted.get(server_name, 0))
                key_ids.setdefault(server_name, set()).update(offered)
        found = _NO_KEYS
        if wanted and self._keys is not None:
            found = await self._keys.keys_of(
                wanted, key_ids={server_name: frozenset(ids) for server_name, ids in key_ids.items()}
            )
        older = found.get(self._server_name)
        own = self._own if older is None else older.merged(self._own)
        return {**found, self._server_name: own}

    async def _each(self, items: Sequence[Item], step: Callable[[Item], Outcome]) -> list[Outcome]:
        """Return the outcome of each item, in their order; many are worked on in threads."""
        if len(items) <= FEW:
            return [step(item) for item in items]
        outcomes: list[list[Outcome]] = [[] for _ in range(0, len(items), SLICE)]
        numbers = iter(range(len(outcomes)))

        async def work(numbers: Iterator[int]) -> None:
            for number in numbers:
                part = items[number * SLICE : (number + 1) * SLICE]
                outcomes[number] = await self._threads.run(_all, step, part)

        await gather(work(numbers) for _ in range(_AT_ONCE))
        return [outcome for part in outcomes for outcome in part]


def _all(step: Callable[[Item], Outcome], items: Sequence[Item]) -> list[Outcome]:
    return [step(item) for item in items]


def _read(version: RoomVersion, room_id: RoomID, pdu: PDU) -> Received | Refused:
    if len(pdu) > MAX_RAW_BYTES:
        return Refused(f"an event must not be over {MAX_RAW_BYTES} bytes as it is sent")
    try:
        received = read_received(version, _parse(version, pdu))
    except BadJson as fault:
        return Refused(fault.message)
    except Dropped as fault:
        return Refused(str(fault))
    if room_id_of(version, received.wire, received.event_id) != room_id:
        return Refused("the event is of another room", received.event_id)
    return received


def _parse(version: RoomVersion, pdu: PDU) -> object:
    if version.strict_canonical_json:
        # There, what the fast parser makes a float of is no part of an event anyway.
        try:
            return orjson.loads(pdu)
        except ValueError:
            # It also refuses integers over the greatest double, which `unsigned` may have.
            return parse_exactly(pdu)
    return parse_exactly(pdu)


def _check(received: Received | Refused, keys: Mapping[str, ServerKeys]) -> CheckedEvent | Dropped:
    if isinstance(received, Refused):
        return received
    try:
        return check_received(received, keys)
    except Dropped as fault:
        return Refused(str(fault), received.event_id)


def peek_member(pdu: PDU) -> UserID | None:
    """Return whose membership an event says to be about, before anything is known of it; None for another event.

    It tells whom to look up, and nothing else.
    """
    if len(pdu) > MAX_RAW_BYTES:
        return None
    try:
        wire = orjson.loads(pdu)
    except ValueError:
        return None
    if not isinstance(wire, dict) or wire.get("type") != "m.room.member" or not isinstance(wire.get("state_key"), str):
        return None
    try:
        return UserID.parse(wire["state_key"])
    except BadIdentifier:
        return None
