"""What an event is, before and after it exists.

`EventTemplate` is a wish: what someone wants to say in a room. `Event` is the fact: hashed, signed, with its place in
the graph. Both are immutable; nothing here reads a clock, a key or a database.

Events that came over federation become `Event` only through `event_format`; our own only through `compose`.

Spec: client-server API, "Room event format"; server-server API, "PDUs"; room versions, "Event format".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, cast

import orjson

from .ids import EventID, RoomID, UserID

T = TypeVar("T")

# Spec: client-server API, "Size limits".
MAX_PDU_BYTES: Final = 65_536
MAX_KEY_BYTES: Final = 255
# Larger events are not kept as bytes.
MAX_PACKED_BYTES: Final = 4_096

StateKey = tuple[str, str]
"""(event type, state_key)."""


@dataclass(frozen=True, slots=True)
class EventTemplate:
    """What someone wants to send: no place in the graph yet, nothing signed.

    `state_key` is None for a message event. `redacts` is the target of a redaction.
    `origin_server_ts` is set only by those who may backdate.
    """

    type: str
    content: Mapping[str, Any]
    sender: UserID
    state_key: str | None = None
    redacts: EventID | None = None
    origin_server_ts: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """An event with its ID, its place in the graph and its signed wire form.

    `wire` is the whole PDU as it is hashed and signed (with `hashes` and `signatures`, without `unsigned`); treat it as
    frozen, and do not ask twice (see `pack`). `prev_event_ids` and `auth_event_ids` keep the order of the wire. `depth`
    and `origin_server_ts` are what the sender claimed and decide nothing.
    """

    event_id: EventID
    room_id: RoomID
    type: str
    sender: UserID
    content: Mapping[str, Any]
    state_key: str | None
    depth: int
    origin_server_ts: int
    prev_event_ids: tuple[EventID, ...]
    auth_event_ids: tuple[EventID, ...]
    wire: Mapping[str, Any]
    # Which of the two the room version means by `redacts`: the sender could write both.
    redacts_in_content: bool = True
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    @property
    def membership(self) -> str | None:
        """`content.membership` of an `m.room.member` event where it is text, else None."""
        if self.type != "m.room.member":
            return None
        value = self.content.get("membership")
        return value if isinstance(value, str) else None

    @property
    def redacts(self) -> EventID | None:
        """The event that this redaction names: in `content` from room version 11, at the top level before."""
        target = (self.content if self.redacts_in_content else self.wire).get("redacts")
        return EventID(target) if isinstance(target, str) else None

    def pack(self, encoded: bytes) -> None:
        """Keep `wire` as the JSON that it is stored as, for a third of the memory; it is parsed when asked for.

        `encoded` is what `orjson` reads back as the same value: not of room versions with looser JSON. Large events are
        left as they are: nearly all of them is text that `content` has in memory anyway.
        """
        if len(encoded) <= MAX_PACKED_BYTES:
            _WIRE.__set__(self, encoded)

    def typed(self, parse: Callable[[Event], T]) -> T:
        """Return `parse(self)`, remembered: for readers of content that are asked for the same event again."""
        try:
            value: T = self._memo[parse]
        except KeyError:
            value = self._memo[parse] = parse(self)
        return value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and other.event_id == self.event_id

    def __hash__(self) -> int:
        return hash(self.event_id)


# The slot behind `Event.wire`, which holds a mapping or the JSON of it.
_WIRE: Final[Any] = Event.__dict__["wire"]


def _wire(event: Event) -> Mapping[str, Any]:
    held: Mapping[str, Any] | bytes = _WIRE.__get__(event)
    if type(held) is bytes:
        parsed: Mapping[str, Any] = orjson.loads(held)
        return parsed
    return cast("Mapping[str, Any]", held)


Event.wire = property(_wire, _WIRE.__set__)  # type: ignore[assignment, misc]

StateMap = Mapping[StateKey, Event]
