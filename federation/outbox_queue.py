"""What waits in memory for one other server, and how a transaction is made of it.

A queue holds events in order of their positions: first those that the server has missed (`backlog`, read from the
database), then those that came since. An event is encoded once, however many servers it goes to. EDUs that are worth
nothing later wait here as well; of two with one key the later is kept, receipts and presence are told together.

The body of a transaction is canonical JSON, so that what is signed is what is sent. An event has no `unsigned` on the
way: the only member that is specified, `age`, is known from `origin_server_ts`, and nobody vouches for it.

No I/O here, and nothing is read: see `federation.outbox`.

Spec: server-server API, "Transactions", "EDUs".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from homeserver.model.canonical_json import JsonObject, encode_canonical
from homeserver.runtime.backoff import Backoff

# Spec: "Transactions": "they can have at most 50 PDUs and 100 EDUs".
MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
# LIMIT: of the EDUs of one transaction together, and EDUs in memory for one server; the oldest go first.
MAX_EDU_BYTES: Final = 2 * 1024**2
MAX_WAITING_EDUS: Final = 1_000
# LIMIT: updates in one merged EDU.
MAX_MERGED: Final = 200
# LIMIT: events that are remembered as not taken, for one server.
MAX_REFUSED: Final = 100
RECEIPT: Final = "m.receipt"
PRESENCE: Final = "m.presence"


class Pdu:
    """An event on its way. `mark` is the position up to which the server has everything once it has this one."""

    __slots__ = ("body", "event_id", "mark", "refs")

    def __init__(self, event_id: str, body: bytes, mark: int | None) -> None:
        self.event_id = event_id
        self.body = body
        self.mark = mark
        # In how many queues it waits.
        self.refs = 0


class Edu:
    """An EDU that waits in memory, encoded when it is first sent."""

    __slots__ = ("_body", "content", "kind")

    def __init__(self, kind: str, content: JsonObject) -> None:
        self.kind = kind
        self.content = content
        self._body: bytes | None = None

    @property
    def body(self) -> bytes:
        """The whole EDU in canonical JSON; raises BadJson for what has none."""
        if self._body is None:
            self._body = encode_edu(self.kind, encode_canonical(self.content))
        return self._body


@dataclass(frozen=True, slots=True)
class DurableEdu:
    """An EDU that has a row, whole and in canonical JSON."""

    edu_nid: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction carries. `taken` are the EDUs of memory that `edus` was made of, by their keys."""

    pdus: tuple[Pdu, ...]
    durable: tuple[DurableEdu, ...]
    edus: tuple[bytes, ...]
    taken: tuple[tuple[object, Edu], ...]

    @property
    def items(self) -> int:
        """How many there are of all kinds."""
        return len(self.pdus) + len(self.durable) + len(self.edus)

    def encode(self, origin: str, now_ms: int) -> bytes:
        """Return the body of the transaction."""
        parts = [b"{"]
        edus = [each.body for each in self.durable]
        edus.extend(self.edus)
        if edus:
            parts += (b'"edus":[', b",".join(edus), b"],")
        # A server name has no character that JSON escapes.
        parts.append(b'"origin":"%s","origin_server_ts":%d,"pdus":[' % (origin.encode("ascii"), now_ms))
        parts += (b",".join([pdu.body for pdu in self.pdus]), b"]}")
        return b"".join(parts)


@dataclass(slots=True, eq=False)
class Queue:
    """What one server has yet to be sent.

    While it `is_behind`, what it lacks is in the database; events that come then are put into `live` only while it
    `is_buffering`.
    """

    name: str
    backlog: deque[Pdu] = field(default_factory=deque)
    live: deque[Pdu] = field(default_factory=deque)
    live_bytes: int = 0
    edus: dict[object, Edu] = field(default_factory=dict)
    durable: deque[DurableEdu] = field(default_factory=deque)
    # Whether rows may wait that are not in `durable`.
    has_durable: bool = False
    is_behind: bool = False
    is_buffering: bool = False
    # Where the reading of what was missed has got to; see federation.catch_up.
    scan: Any = None
    # What was sent when the server fell behind: from there on, events are looked for.
    base: int | None = None
    is_running: bool = False
    is_waiting: bool = False
    # How many items a transaction may have while one that is not taken is searched for; None: no search.
    most_items: int | None = None
    suspect: object = None
    suspected: int = 0
    set_aside: int = 0
    # How long it is left alone after refusals, and until when.
    backoff: Backoff | None = None
    rests_until: float = 0.0
    # Events that were set aside, so that they do not come again with what was missed.
    refused: dict[str, None] = field(default_factory=dict)

    def add(self, pdu: Pdu) -> None:
        """Append an event that has just happened."""
        pdu.refs += 1
        self.live.append(pdu)
        self.live_bytes += len(pdu.body)

    def add_edu(self, key: object, edu: Edu) -> None:
        """Append an EDU; an earlier one of the same key goes."""
        self.edus.pop(key, None)
        self.edus[key] = edu
        if len(self.edus) > MAX_WAITING_EDUS:
            del self.edus[next(iter(self.edus))]

    def drop_live(self) -> list[Pdu]:
        """Forget the events that came lately, and return them: the database has them."""
        dropped = list(self.live)
        for pdu in dropped:
            pdu.refs -= 1
        self.live.clear()
        self.live_bytes = 0
        return dropped

    def fall_behind(self) -> list[Pdu]:
        """Forget all that the database has, and what is worth nothing later; return the events that were live."""
        self.is_behind = True
        self.is_buffering = False
        self.scan = None
        self.backlog.clear()
        self.durable.clear()
        self.has_durable = True
        self.edus.clear()
        return self.drop_live()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits, in memory or elsewhere."""
        return not (self.live or self.backlog or self.edus or self.durable or self.has_durable or self.is_behind)

    def take(self) -> Batch | None:
        """Return what the next transaction carries, or None; events and rows stay until they are `done`."""
        most = self.most_items
        pdus = tuple(self._next_pdus(MAX_PDUS if most is None else min(MAX_PDUS, most)))
        room = MAX_EDUS if most is None else min(MAX_EDUS, most - len(pdus))
        durable: list[DurableEdu] = []
        size = 0
        for each in self.durable:
            if len(durable) >= room or size > MAX_EDU_BYTES:
                break
            durable.append(each)
            size += len(each.body)
        edus: list[bytes] = []
        taken: list[tuple[object, Edu]] = []
        if room > len(durable) and size <= MAX_EDU_BYTES:
            edus, taken = self._take_edus(room - len(durable))
        if not (pdus or durable or edus):
            return None
        return Batch(pdus, tuple(durable), tuple(edus), tuple(taken))

    def done(self, batch: Batch) -> list[Pdu]:
        """Take away what has been sent; return the events that no queue holds any more."""
        released: list[Pdu] = []
        for pdu in batch.pdus:
            if self.backlog and self.backlog[0] is pdu:
                self.backlog.popleft()
            elif self.live and self.live[0] is pdu:
                self.live.popleft()
                self.live_bytes -= len(pdu.body)
                pdu.refs -= 1
                if not pdu.refs:
                    released.append(pdu)
        for _ in batch.durable:
            if self.durable:
                self.durable.popleft()
        return released

    def refuse(self, event_id: str) -> None:
        """Remember an event that the server does not take."""
        self.refused[event_id] = None
        if len(self.refused) > MAX_REFUSED:
            del self.refused[next(iter(self.refused))]

    def put_back(self, batch: Batch) -> None:
        """Let the EDUs of memory wait again, those that nothing newer has replaced."""
        newer = self.edus
        self.edus = {key: edu for key, edu in batch.taken if key not in newer}
        self.edus.update(newer)

    def _next_pdus(self, most: int) -> Iterable[Pdu]:
        # What was missed comes before what is new, and not with it: first the pass has to be through.
        source = self.backlog or (() if self.is_behind else self.live)
        for index, pdu in enumerate(source):
            if index >= most:
                break
            yield pdu

    def _take_edus(self, most: int) -> tuple[list[bytes], list[tuple[object, Edu]]]:
        merged = _Merged(most)
        taken: list[tuple[object, Edu]] = []
        for key, edu in self.edus.items():
            if not merged.add(edu):
                break
            taken.append((key, edu))
        for key, _ in taken:
            del self.edus[key]
        return merged.bodies(), taken


class _Merged:
    """EDUs of one transaction: receipts and presence are told together, in the place of the first of their kind."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[list[Edu]] = []
        self._open: dict[str, list[Edu]] = {}
        # (room, type, user) of the receipts in the open part: there is no place for a second one there.
        self._receipts: set[tuple[str, str, str]] = set()
        self._size = 0

    def add(self, edu: Edu) -> bool:
        """Add an EDU, or return False if there is no room left."""
        part = self._open.get(edu.kind)
        keys = _receipt_keys(edu.content) if edu.kind == RECEIPT else set()
        if part is not None and len(part) < MAX_MERGED and self._receipts.isdisjoint(keys):
            part.append(edu)
            self._receipts |= keys
            return True
        if len(self._parts) >= self._most or self._size > MAX_EDU_BYTES:
            return False
        self._size += 0 if edu.kind in (RECEIPT, PRESENCE) else len(edu.body)
        self._parts.append([edu])
        if edu.kind in (RECEIPT, PRESENCE):
            self._open[edu.kind] = self._parts[-1]
            if edu.kind == RECEIPT:
                self._receipts = keys
        return True

    def bodies(self) -> list[bytes]:
        """Return the EDUs, encoded."""
        return [part[0].body if len(part) == 1 else _merge(part) for part in self._parts]


def encode_edu(kind: str, content: bytes) -> bytes:
    """Return an EDU in canonical JSON, given its content in that form."""
    return b'{"content":%s,"edu_type":%s}' % (content, encode_canonical(kind))


def _merge(part: list[Edu]) -> bytes:
    kind = part[0].kind
    content: dict[str, Any] = {}
    if kind == PRESENCE:
        # The newest of each user.
        push = {update["user_id"]: update for edu in part for update in edu.content["push"]}
        content["push"] = list(push.values())
    else:
        for edu in part:
            for room_id, by_type in edu.content.items():
                for receipt_type, by_user in by_type.items():
                    content.setdefault(room_id, {}).setdefault(receipt_type, {}).update(by_user)
    return encode_edu(kind, encode_canonical(content))


def _receipt_keys(content: JsonObject) -> set[tuple[str, str, str]]:
    return {
        (room_id, receipt_type, user_id)
        for room_id, by_type in content.items()
        for receipt_type, by_user in by_type.items()
        for user_id in by_user
    }
