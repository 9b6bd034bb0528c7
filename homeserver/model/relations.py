"""How events refer to each other, and what of that is bundled with the event referred to.

A relationship lies in the child's `content`, written by whoever sent it: what does not follow the schema is no
relationship.  Everything here looks at given events only; which children exist and which of them a user may see is
for the caller to find out, children by ignored users left out.

Spec: client-server API, "Forming relationships between events", "Event replacements", "Event annotations and
reactions", "Threading", "Reference relations".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from homeserver.errors import BadIdentifier, BadRequest

from .canonical_json import JsonObject
from .event import Event
from .ids import EventID

ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACE: Final = "m.replace"
THREAD: Final = "m.thread"

# Spec: client-server API, "Marking notifications as read": "a maximum of 3 hops to find a thread".
MAX_HOPS: Final = 3

# Spec: appendices, "Common Namespaced Identifier Grammar": at most 255 characters.
_MAX_REL_TYPE_CHARACTERS: Final = 255


@dataclass(frozen=True, slots=True)
class Relation:
    """What an event says about its parent.

    Either both `rel_type` and `event_id` are set, or, for a plain rich reply, neither.  `key` is set only where the
    relation has a text under `key`.
    """

    rel_type: str | None
    event_id: EventID | None
    key: str | None
    is_falling_back: bool
    in_reply_to: EventID | None


class Annotation(NamedTuple):
    """What makes two annotations of one sender the same."""

    event_id: EventID
    event_type: str
    key: str


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """What is bundled with the root of a thread.

    `latest_event` is the client form of the last event of the thread, with its own bundle.  Events of users whom the
    reader ignores count nowhere.
    """

    latest_event: Mapping[str, Any]
    count: int
    current_user_participated: bool


def read_relation(content: Mapping[str, Any]) -> Relation | None:
    """Return the relationship that the content of an event forms, or None.

    Spec: client-server API, "Forming relationships": what does not match the schema is "simply ignored".
    """
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return None
    # Spec: client-server API, "Rich replies": beside another relation, or alone without `rel_type` and `event_id`.
    reply = relates_to.get("m.in_reply_to")
    in_reply_to = _event_id(reply.get("event_id")) if isinstance(reply, dict) else None
    rel_type, event_id, key = relates_to.get("rel_type"), _event_id(relates_to.get("event_id")), relates_to.get("key")
    if not isinstance(rel_type, str) or not 0 < len(rel_type) <= _MAX_REL_TYPE_CHARACTERS or event_id is None:
        return None if in_reply_to is None else Relation(None, None, None, False, in_reply_to)
    return Relation(
        rel_type,
        event_id,
        key if isinstance(key, str) else None,
        relates_to.get("is_falling_back") is True,
        in_reply_to,
    )


def relation_of(event: Event) -> Relation | None:
    """Return the relationship that an event forms, remembered on the event."""
    return event.typed(_read_event)


def find_thread(relation: Relation | None, relation_of: Callable[[EventID], Relation | None]) -> EventID | None:
    """Return the root of the thread that an event with `relation` is in, or None for the main timeline.

    `relation_of` gives the relationship of a parent, None where it has none or is unknown; it is asked at most
    `MAX_HOPS` times.  The root itself is in the main timeline, and so is what relates to it otherwise.

    Spec: client-server API, "Threaded read receipts".
    """
    for _ in range(MAX_HOPS):
        if relation is None or relation.event_id is None:
            return None
        if relation.rel_type == THREAD:
            return relation.event_id
        relation = relation_of(relation.event_id)
    return relation.event_id if relation is not None and relation.rel_type == THREAD else None


def check_thread_root(relation: Relation | None) -> None:
    """Raise `BadRequest` unless an event with `relation` may become the root of a thread.

    Spec: client-server API, "Validation of `m.thread` relationships": status 400 and M_UNKNOWN.  "Any event without a
    `rel_type`" may, so a rich reply may.
    """
    if relation is not None and relation.rel_type is not None:
        raise BadRequest("Cannot start threads from an event with a relation")


def annotation_of(event: Event) -> Annotation | None:
    """Return what `event` annotates and how, or None if it is no annotation.

    A second one with the same value from the same sender is to be refused with M_DUPLICATE_ANNOTATION.

    Spec: client-server API, "Avoiding duplicate annotations".
    """
    relation = relation_of(event)
    if relation is None or relation.rel_type != ANNOTATION or relation.event_id is None or relation.key is None:
        return None
    return Annotation(relation.event_id, event.type, relation.key)


def is_valid_edit(original: Event, edit: Event) -> bool:
    """Tell whether `edit` is a valid replacement of `original`.

    A redacted edit has lost its `m.relates_to` and is none.

    Spec: client-server API, "Validity of replacement events".
    """
    relation, own = relation_of(edit), relation_of(original)
    return (
        relation is not None
        and relation.rel_type == REPLACE
        and relation.event_id == original.event_id
        and edit.room_id == original.room_id
        and edit.sender == original.sender
        and edit.type == original.type
        and edit.state_key is None
        and original.state_key is None
        and (own is None or own.rel_type != REPLACE)
        # Of an encrypted edit only the cleartext is known here; `m.new_content` is in the other part.
        and (edit.type == "m.room.encrypted" or isinstance(edit.content.get("m.new_content"), dict))
    )


def latest_edit(original: Event, edits: Iterable[Event]) -> Event | None:
    """Return the most recent valid replacement of `original`, or None.

    Spec: client-server API, "Server-side aggregation of `m.replace` relationships".
    """
    valid = (edit for edit in edits if is_valid_edit(original, edit))
    return max(valid, key=lambda edit: (edit.origin_server_ts, edit.event_id), default=None)


def may_bundle(event: Event) -> bool:
    """Tell whether aggregations are bundled with an event.

    Spec: client-server API, "Aggregations of child events": not with state events.
    """
    return event.state_key is None


def bundle_relations(
    event: Event,
    *,
    is_redacted: bool,
    edit: Mapping[str, Any] | None = None,
    thread: ThreadSummary | None = None,
    references: Sequence[str] = (),
) -> JsonObject | None:
    """Return the value of `unsigned["m.relations"]` of an event, or None if there is nothing to bundle.

    `edit` is the client form of `latest_edit`, `references` the IDs of events that refer to this one, oldest first.
    Annotations are not bundled.

    Spec: client-server API, "Server-side aggregation of ..." `m.replace`, `m.thread`, `m.reference`, `m.annotation`.
    """
    if not may_bundle(event):
        return None
    bundle: JsonObject = {}
    # Spec: client-server API, "Event replacements": not bundled if the original is redacted, unlike the others.
    if edit is not None and not is_redacted:
        bundle[REPLACE] = edit
    if thread is not None and thread.count > 0:
        bundle[THREAD] = {
            "latest_event": thread.latest_event,
            "count": thread.count,
            "current_user_participated": thread.current_user_participated,
        }
    if references:
        bundle[REFERENCE] = {"chunk": [{"event_id": event_id} for event_id in references]}
    return bundle or None


def _read_event(event: Event) -> Relation | None:
    return read_relation(event.content)


def _event_id(value: Any) -> EventID | None:
    if not isinstance(value, str):
        return None
    try:
        return EventID.parse(value)
    except BadIdentifier:
        return None
