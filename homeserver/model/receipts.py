"""Read receipts and read markers: which are valid, which replaces which, and how clients see them.

A receipt says that a user has read up to an event: everywhere in the room (unthreaded), in the main timeline, or in one
thread.  For each user, receipt type and thread there is one receipt, and it only moves forwards.

Spec: client-server API, "Receipts", "Threaded read receipts", "Read and unread markers".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import BadIdentifier, BadJson, InvalidParam

from .canonical_json import JsonObject
from .ids import EventID, UserID

READ: Final = "m.read"
READ_PRIVATE: Final = "m.read.private"
FULLY_READ: Final = "m.fully_read"
"""Not a receipt: the read marker, kept as room account data, which the receipts endpoint can set as well."""

RECEIPT_TYPES: Final = (READ, READ_PRIVATE, FULLY_READ)

MAIN_THREAD: Final = "main"


@dataclass(frozen=True, slots=True)
class Receipt:
    """One receipt.  `thread_id` is None if it is unthreaded, `main`, or the event ID of the root of a thread.

    `position` is that of the event in the room's timeline, or None if the event is not known here (yet).
    """

    user_id: UserID
    receipt_type: str
    event_id: EventID
    thread_id: str | None
    ts: int
    position: int | None


@dataclass(frozen=True, slots=True)
class ReadMarkers:
    """What a request to move several markers at once asks for; None where a marker is to stay."""

    fully_read: EventID | None
    read: EventID | None
    read_private: EventID | None


def check_receipt_type(text: str) -> str:
    """Return `text` as a type that clients may send, or raise `InvalidParam`."""
    if text not in RECEIPT_TYPES:
        raise InvalidParam("the receipt type must be m.read, m.read.private or m.fully_read")
    return text


def parse_thread_id(body: Any, receipt_type: str) -> str | None:
    """Return the thread that the body of a receipt request names, or None for an unthreaded receipt.

    Raises `BadJson` if the body is no object, else `InvalidParam`.

    Spec: data/api/client-server/receipts, the 400 answer.
    """
    if not isinstance(body, dict):
        raise BadJson("the body must be an object")
    if "thread_id" not in body:
        return None
    thread_id = body["thread_id"]
    if receipt_type == FULLY_READ:
        raise InvalidParam("thread_id is not possible for m.fully_read")
    if not isinstance(thread_id, str) or not thread_id:
        raise InvalidParam("thread_id field must be a non-empty string")
    return thread_id if thread_id == MAIN_THREAD else _event_id(thread_id, "thread_id")


def read_thread_id(data: Mapping[str, Any]) -> str | None:
    """Return the thread of a receipt that another server sent; what is no thread ID is read as unthreaded."""
    try:
        return parse_thread_id(dict(data), READ)
    except InvalidParam:
        return None


def check_event_in_thread(thread_id: str | None, event_id: EventID, thread_of_event: EventID | None) -> None:
    """Raise `InvalidParam` unless a receipt for `event_id` may be under `thread_id`.

    `thread_of_event` is the root of the thread that the event is in, None for the main timeline.  The root of a
    thread is in the main timeline, but is related to its thread and accepted in both.
    """
    if thread_id is None:
        return
    if thread_id == MAIN_THREAD:
        is_related = thread_of_event is None
    else:
        is_related = thread_id in (thread_of_event, event_id)
    if not is_related:
        raise InvalidParam("event_id is not related to the given thread_id")


def parse_read_markers(body: Any) -> ReadMarkers:
    """Return what the body of a read markers request asks for; raises `BadJson` or `InvalidParam`.

    Spec: data/api/client-server/read_markers.
    """
    if not isinstance(body, dict):
        raise BadJson("the body must be an object")
    markers = {key: _event_id(body[key], key) for key in RECEIPT_TYPES if body.get(key) is not None}
    return ReadMarkers(markers.get(FULLY_READ), markers.get(READ), markers.get(READ_PRIVATE))


def supersedes(new: Receipt, old: Receipt | None) -> bool:
    """Tell whether `new` takes the place of `old`, the receipt of the same user, type and thread.

    A receipt never moves back.  One for an event that is not known here is taken to be ahead, since what this server
    has not seen is most often newer.
    """
    if old is None or new.position is None or old.position is None:
        return old is None or new.event_id != old.event_id
    return new.position > old.position


def read_position(receipts: Iterable[Receipt], thread_id: str = MAIN_THREAD) -> int | None:
    """Return the position up to which one user has read a thread, or None; `receipts` are that user's in the room.

    Spec: client-server API, "Marking notifications as read": of `m.read` and `m.read.private` the one more ahead; an
    unthreaded receipt counts for every thread.
    """
    return max(
        (
            receipt.position
            for receipt in receipts
            if receipt.position is not None and (receipt.thread_id is None or receipt.thread_id == thread_id)
        ),
        default=None,
    )


def render_receipts(receipts: Iterable[Receipt], viewer: str) -> list[JsonObject]:
    """Return the contents of the `m.receipt` events that tell `viewer` of receipts in one room; may be empty.

    One for each thread, unthreaded receipts first: a content has no room for two receipts of one user and type for
    the same event.  Private receipts of others are left out.

    Spec: client-server API, "Receipts", "Server behaviour", "Private read receipts".
    """
    contents: dict[str | None, JsonObject] = {}
    for receipt in receipts:
        # Spec: client-server API, "Private read receipts": MUST NOT be sent to any other user.
        if receipt.receipt_type == READ_PRIVATE and receipt.user_id != viewer:
            continue
        data: JsonObject = {"ts": receipt.ts}
        if receipt.thread_id is not None:
            data["thread_id"] = receipt.thread_id
        by_type = contents.setdefault(receipt.thread_id, {}).setdefault(receipt.event_id, {})
        by_type.setdefault(receipt.receipt_type, {})[receipt.user_id] = data
    return [contents[thread_id] for thread_id in sorted(contents, key=lambda each: (each is not None, each or ""))]


def _event_id(value: Any, name: str) -> EventID:
    try:
        return EventID.parse(value)
    except BadIdentifier as fault:
        raise InvalidParam(f"{name} must be an event ID") from fault
