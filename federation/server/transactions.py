"""What other servers send: transactions of events and EDUs.

A transaction is answered once everything of it is on disk, or was refused for good. One that comes again, because its
sender lost the answer, gets the first answer, or waits with the first for it; what it says this time is not looked at.
The transactions of one server are worked on one after the other, as it sends them, the rooms of one side by side.

Events stay the bytes that came, to the one gate (`rooms.receipt`): only which room they name is looked at here. One
that names none goes nowhere, as no rule could be told for it.

Spec: server-server API, "Transactions", "PDUs", "Checks performed on receipt of a PDU".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import orjson
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from homeserver.errors import (
    BadIdentifier,
    BadJson,
    HomeserverError,
    InternalFault,
    InvalidParam,
    LimitExceeded,
    MatrixError,
)
from homeserver.model.canonical_json import JsonObject
from homeserver.model.ids import EventID, RoomID
from homeserver.ports import PDU
from homeserver.runtime.lanes import Lanes
from homeserver.web.request import WebRequest
from homeserver.web.response import HandlerResult, Response
from homeserver.web.router import Route

from .auth import Signed
from .edus import EduInlet

logger = logging.getLogger(__name__)

# Spec: "Transactions": "they can have at most 50 PDUs and 100 EDUs".
MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
# LIMIT: how often in a row a server is told to come again because of a fault of ours, and servers remembered for it.
MAX_FAILURES: Final = 3
MAX_FAILING: Final = 1_000
_MESSAGES: Final = "m.direct_to_device"
# LIMIT: rooms of one transaction that are worked on at once.
MAX_ROOMS_AT_ONCE: Final = 5
# LIMIT: answers that are remembered: of all servers, and of one.
MAX_REMEMBERED_BYTES: Final = 16 * 1024**2
MAX_REMEMBERED_OF_ORIGIN: Final = 200
MAX_TXN_ID_CHARACTERS: Final = 255
_OVERHEAD_BYTES: Final = 200


class EventInlet(Protocol):
    """The gate for events; `homeserver.rooms.receipt.Receipt`."""

    async def receive(
        self, origin: str, room_id: RoomID, pdus: Sequence[PDU], *, relay: bool = False
    ) -> Mapping[EventID, str | None]:
        """Return by event ID None, or what to tell the sender of what is wrong with it."""
        ...


class _Envelope(msgspec.Struct):
    pdus: list[msgspec.Raw] | None = None


class _Head(msgspec.Struct):
    room_id: str


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)
_HEAD: Final = msgspec.json.Decoder(_Head)
_Key = tuple[str, str]


class TransactionsApi:
    """The endpoint that other servers send to."""

    def __init__(self, receipt: EventInlet, edus: EduInlet) -> None:
        self._receipt = receipt
        self._edus = edus
        self._answers = _Answers()
        self._failures = _Failures()
        self._running: dict[_Key, list[Deferred[bytes]]] = {}
        # One transaction of a server at a time; nobody in a room's lane ever waits for this.
        self._turns: Lanes[str] = Lanes()

    def routes(self, signed: Signed) -> list[Route]:
        """Return the route."""
        return [
            signed.route(
                "PUT",
                "/_matrix/federation/v1/send/{txnId}",
                self.put_send,
                max_body_bytes=signed.max_transaction_bytes,
            )
        ]

    async def put_send(self, request: WebRequest, origin: str, content: JsonObject | None) -> HandlerResult:
        """Take in a transaction. Spec: `PUT /_matrix/federation/v1/send/{txnId}`."""
        txn_id = request.args["txnId"]
        if len(txn_id) > MAX_TXN_ID_CHARACTERS:
            raise InvalidParam(f"a transaction ID has at most {MAX_TXN_ID_CHARACTERS} characters")
        body = await self.receive(origin, txn_id, request.body_bytes(), content or {})
        return Response(200, body)

    async def receive(self, origin: str, txn_id: str, raw: bytes, content: JsonObject) -> bytes:
        """Take in a transaction, `content` being what `raw` says, and return the answer in JSON.

        Raises BadJson where the whole of it is not well-formed, LimitExceeded for a server that sends too much at once,
        InternalFault for trouble of our own: then the sender comes again.
        """
        key = (origin, txn_id)
        answer = self._answers.find(key)
        if answer is not None:
            return answer
        waiting = self._running.get(key)
        if waiting is not None:
            other: Deferred[bytes] = Deferred()
            waiting.append(other)
            return await other
        waiting = self._running[key] = []
        try:
            pdus, edus = cut_pdus(raw), cut_edus(content)
            async with self._turns.enter(origin):
                answer = await self._work(key, pdus, edus)
        except BaseException as fault:
            del self._running[key]
            for each in waiting:
                each.errback(fault)
            raise
        del self._running[key]
        self._answers.add(key, answer)
        for each in waiting:
            each.callback(answer)
        return answer

    async def _work(self, key: _Key, pdus: Sequence[PDU], edus: Sequence[JsonObject]) -> bytes:
        origin = key[0]
        results: dict[str, JsonObject] = {}
        faults: list[InternalFault | LimitExceeded] = []

        async def take_in(room_id: RoomID, of_room: Sequence[PDU]) -> None:
            try:
                found = await self._receipt.receive(origin, room_id, of_room)
            except CancelledError:
                raise
            except (InternalFault, LimitExceeded) as fault:
                faults.append(fault)
            except MatrixError as refusal:
                logger.info("Events of %s in %s were refused: %s", origin, room_id, refusal)
            except HomeserverError as fault:
                logger.warning("Events of %s in %s could not be taken in: %s", origin, room_id, fault)
            except Exception:  # what one room stumbles over must not keep the others from their events
                logger.exception("Events of %s in %s failed", origin, room_id)
                if self._failures.may_come_again(key):
                    faults.append(InternalFault("events of a transaction could not be taken in"))
            else:
                for event_id, error in found.items():
                    results[str(event_id)] = {} if error is None else {"error": error}

        # The keys that events are encrypted with come this way: nobody has to see an event that cannot be read yet.
        # Messages that come again, with what failed, are known by their IDs.
        messages = [edu for edu in edus if edu.get("edu_type") == _MESSAGES]
        await self._edus.receive(origin, messages)
        by_room = _by_room(pdus)
        await _side_by_side((take_in(*item) for item in by_room.items()), len(by_room))
        if faults:
            # Answered, it would be lost.
            raise faults[0]
        await self._edus.receive(origin, [edu for edu in edus if edu.get("edu_type") != _MESSAGES])
        return orjson.dumps({"pdus": results})


def cut_pdus(raw: bytes) -> list[PDU]:
    """Return the events of a transaction as they came; raise BadJson for something else, or too many."""
    try:
        pdus = _ENVELOPE.decode(raw).pdus or []
    except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
        raise BadJson("'pdus' must be an array") from fault
    if len(pdus) > MAX_PDUS:
        raise BadJson(f"a transaction has at most {MAX_PDUS} PDUs")
    return [bytes(each) for each in pdus]


def cut_edus(content: JsonObject) -> list[JsonObject]:
    """Return the EDUs of a transaction, without what is no object; raise BadJson for no array, or too many."""
    edus = content.get("edus")
    if edus is None:
        return []
    if not isinstance(edus, list):
        raise BadJson("'edus' must be an array")
    if len(edus) > MAX_EDUS:
        raise BadJson(f"a transaction has at most {MAX_EDUS} EDUs")
    return [each for each in edus if isinstance(each, dict)]


def _by_room(pdus: Sequence[PDU]) -> dict[RoomID, list[PDU]]:
    """Return the events by the room that they name, in their order; those that name none are dropped.

    Spec: "Checks performed on receipt of a PDU", 1: "a `room_id` may also be required on the event in order to
    determine the room version to check the event against".
    """
    rooms: dict[RoomID, list[PDU]] = {}
    for pdu in pdus:
        try:
            room_id = RoomID.parse(_HEAD.decode(pdu).room_id)
        except (msgspec.MsgspecError, BadIdentifier, RecursionError, ValueError):
            continue
        rooms.setdefault(room_id, []).append(pdu)
    return rooms


async def _side_by_side(works: Iterator[Awaitable[None]], count: int) -> None:
    """Do all of it, at most `MAX_ROOMS_AT_ONCE` at once; none of it raises but when cancelled."""
    if count == 1:
        await next(works)
        return

    async def turn() -> None:
        for work in works:
            await work

    if count:
        turns = [Deferred.fromCoroutine(turn()) for _ in range(min(count, MAX_ROOMS_AT_ONCE))]
        await DeferredList(turns, fireOnOneErrback=True, consumeErrors=True)


class _Failures:
    """Counts how often a server's transactions failed by a fault of ours: it comes again, but not for ever."""

    def __init__(self) -> None:
        self._counts: OrderedDict[str, int] = OrderedDict()

    def may_come_again(self, key: _Key) -> bool:
        """Count a failure; tell whether the sender is to be told of it, so that it tries once more."""
        count = self._counts.pop(key[0], 0) + 1
        self._counts[key[0]] = count % (MAX_FAILURES + 1)
        while len(self._counts) > MAX_FAILING:
            self._counts.popitem(last=False)
        return count <= MAX_FAILURES


class _Answers:
    """The answers to the transactions of lately; the oldest go first, of all and of one server."""

    def __init__(self) -> None:
        self._by_origin: OrderedDict[str, OrderedDict[str, bytes]] = OrderedDict()
        self._bytes = 0

    def find(self, key: _Key) -> bytes | None:
        """Return an answer that was given, or None."""
        of_origin = self._by_origin.get(key[0])
        return None if of_origin is None else of_origin.get(key[1])

    def add(self, key: _Key, answer: bytes) -> None:
        """Remember an answer."""
        of_origin = self._by_origin.setdefault(key[0], OrderedDict())
        self._by_origin.move_to_end(key[0])
        of_origin[key[1]] = answer
        self._bytes += len(answer) + _OVERHEAD_BYTES
        if len(of_origin) > MAX_REMEMBERED_OF_ORIGIN:
            self._drop(of_origin)
        while self._bytes > MAX_REMEMBERED_BYTES:
            oldest = next(iter(self._by_origin))
            self._drop(self._by_origin[oldest])
            if not self._by_origin[oldest]:
                del self._by_origin[oldest]

    def _drop(self, of_origin: OrderedDict[str, bytes]) -> None:
        _, answer = of_origin.popitem(last=False)
        self._bytes -= len(answer) + _OVERHEAD_BYTES
