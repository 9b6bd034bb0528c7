"""What an event changes besides the graph: directory facts, relations, redactions.

Spec: client-server API, "Redactions" and "Relationships"; room versions, "Handling redactions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeGuard

from homeserver.errors import NotAllowed
from homeserver.model.auth.needed import POWER_LEVELS
from homeserver.model.content.power_levels import PowerLevels
from homeserver.model.event import Event, EventTemplate, StateKey
from homeserver.model.event_format import event_from_wire
from homeserver.model.folding import fold
from homeserver.model.ids import EventID, server_name_of
from homeserver.model.redaction import redact
from homeserver.model.redaction_rules import may_redact
from homeserver.model.room_versions import RoomVersion
from storage.append import RelationRow
from storage.events import Flag, StoredEvent
from storage.store import Store

from .gather import Tips
from .tip import RoomTip

# Event type -> (field of content, column of room_stats).
_STATS: Final[Mapping[str, tuple[str, str]]] = {
    "m.room.name": ("name", "name"),
    "m.room.topic": ("topic", "topic"),
    "m.room.canonical_alias": ("alias", "canonical_alias"),
    "m.room.avatar": ("url", "avatar_url"),
    "m.room.join_rules": ("join_rule", "join_rule"),
    "m.room.history_visibility": ("history_visibility", "history_visibility"),
    "m.room.guest_access": ("guest_access", "guest_access"),
    "m.room.encryption": ("algorithm", "encryption"),
}
_SHORT_COLUMNS: Final = frozenset(
    {"canonical_alias", "join_rule", "history_visibility", "guest_access", "encryption", "room_type"}
)
MAX_SHORT: Final = 255
# LIMIT: redactions of one event, stored before it, that are looked at for one that applies; the earliest.
MAX_WAITING: Final = 1_000
# Column of room_stats -> column of its folded form, and how much of it is searched.
_SEARCHED: Final[Mapping[str, tuple[str, int]]] = {
    "name": ("search_name", 500),
    "topic": ("search_topic", 2_000),
    "canonical_alias": ("search_alias", MAX_SHORT),
}


@dataclass(frozen=True, slots=True)
class RedactionPlan:
    """What a redaction event names, and which stored events it redacts now (none if it may not).

    `stats` are the columns of `room_stats` that follow, where what is redacted is part of the room's state.
    """

    target_id: str
    nids: tuple[int, ...]
    stats: Mapping[str, Any] | None = None


def stats_of(event: Event) -> dict[str, Any]:
    """Return the columns of `room_stats` that a state event sets; a missing or odd value sets None."""
    if event.type == "m.room.create":
        room_type = event.content.get("type")
        return {
            "room_type": room_type if isinstance(room_type, str) and len(room_type) <= MAX_SHORT else None,
            "is_federated": event.content.get("m.federate") is not False,
        }
    if event.state_key != "" or event.type not in _STATS:
        return {}
    field, column = _STATS[event.type]
    value = event.content.get(field)
    if not isinstance(value, str) or not value:
        value = None
    if value is not None and column in _SHORT_COLUMNS and len(value.encode("utf-8", "replace")) > MAX_SHORT:
        value = None
    searched = _SEARCHED.get(column)
    if searched is None:
        return {column: value}
    folded_column, length = searched
    return {column: value, folded_column: fold(value, length) if value is not None else None}


def stats_without(kind: str) -> dict[str, Any]:
    """Return the columns of `room_stats` that follow where the room has no state event of a type any more."""
    if kind not in _STATS:
        return {}
    column = _STATS[kind][1]
    return dict.fromkeys((column, _SEARCHED[column][0]) if column in _SEARCHED else (column,))


def relation_of(event: Event) -> RelationRow | None:
    """Return what a message event relates to, if it says so in a way that can be indexed."""
    relates_to = event.content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return None
    target, rel_type, key = relates_to.get("event_id"), relates_to.get("rel_type"), relates_to.get("key")
    if not _is_short(target) or not _is_short(rel_type):
        return None
    return RelationRow(target, rel_type, key if _is_short(key) else None)


def _is_short(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_SHORT and len(value.encode("utf-8", "replace")) <= MAX_SHORT


async def plan_redaction(
    store: Store, tips: Tips, tip: RoomTip, template: EventTemplate, view: Mapping[StateKey, StoredEvent]
) -> RedactionPlan | None:
    """Say what a redaction by a local user will redact; raise NotAllowed if the user may not.

    Spec: room versions 3 and later, "Handling redactions": the redaction applies if the sender's power level is at
    least the redact level, or if the sender's server is the server of the redacted event's sender. Our own users are
    held to more: without that power only their own events.
    """
    target_id = template.redacts or template.content.get("redacts")
    if not _is_short(target_id):
        return None
    # What is decided already may not be on the disk yet.
    target = tips.find_flying(EventID(target_id)) or await store.events.get_by_id(tip.room_nid, target_id)
    if target is None or target.room_nid != tip.room_nid:
        # It may arrive later; it is then redacted if the same conditions hold.
        return RedactionPlan(target_id, ())
    levels_event = view.get(("m.room.power_levels", ""))
    levels = PowerLevels.from_events(
        tip.version, tip.create.event, levels_event.event if levels_event is not None else None
    )
    if levels.of(template.sender) < levels.redact and target.event.sender != template.sender:
        raise NotAllowed("You may redact only your own events here")
    if target.event.type == "m.room.create":
        raise NotAllowed("The create event of a room cannot be redacted")
    is_same_server = server_name_of(target.event.sender) == server_name_of(template.sender)
    if levels.of(template.sender) < levels.redact and not is_same_server:
        return RedactionPlan(target_id, ())
    if target.redacted_by is not None:
        return RedactionPlan(target_id, ())
    stats = None
    if target.key_nid is not None and tip.state.get(target.key_nid) == target.nid:
        wire = redact(tip.version, target.event.wire)
        stats = stats_of(event_from_wire(tip.version, wire, target.event_id, tip.room_id))
    return RedactionPlan(target_id, (target.nid,), stats)


# -- redactions of events that others made -----------------------------------------------------------------------------


async def plan_received_redaction(
    tips: Tips, tip: RoomTip, redaction: Event, target: StoredEvent | None, state: Any
) -> RedactionPlan | None:
    """Say what a redaction that another server made redacts; `state` is the state before it.

    Nothing where the target is not there yet, or the sender may not: then nobody is shown the redaction.
    """
    target_id = redaction.redacts
    if not _is_short(target_id):
        return None
    if target is None or not may_redact(tip.version, redaction, target.event, await _levels(tips, tip, state)):
        return RedactionPlan(target_id, ())
    stats = None
    if target.key_nid is not None and tip.state.get(target.key_nid) == target.nid:
        stats = stats_of(as_redacted(tip.version, target, target).event)
    return RedactionPlan(target_id, (target.nid,), stats)


async def find_waiting_redaction(
    store: Store, tips: Tips, tip: RoomTip, event: Event, stored: Sequence[int]
) -> StoredEvent | None:
    """Return the redaction of an event that came before it, if its sender may redact it; `stored` name the event."""
    nids = sorted(set(stored))[:MAX_WAITING]
    found = await tips.load(nids) if nids else {}
    for nid in nids:
        redaction = found.get(nid)
        if redaction is None or redaction.state_group is None or redaction.flags & ~Flag.INERT:
            continue
        state = await store.states.get(redaction.state_group)
        if may_redact(tip.version, redaction.event, event, await _levels(tips, tip, state)):
            return redaction
    return None


async def _levels(tips: Tips, tip: RoomTip, state: Any) -> PowerLevels:
    found = (await tips.events_of(state, (POWER_LEVELS,))).get(POWER_LEVELS)
    return PowerLevels.from_events(tip.version, tip.create.event, found.event if found is not None else None)


def as_redacted(version: RoomVersion, stored: StoredEvent, redaction: StoredEvent) -> StoredEvent:
    """Return an event as it is once it is redacted."""
    event = stored.event
    wire = redact(version, event.wire)
    return replace(
        stored,
        event=event_from_wire(version, wire, event.event_id, event.room_id),
        redacted_by=redaction.nid,
        redaction=redaction,
        head=None,
        facts=None,
    )
