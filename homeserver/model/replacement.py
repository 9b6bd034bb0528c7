"""A room that replaces another one: what its first events say, and what changes in the room that it replaces.

Content is carried from one room version into another, so nothing may be taken over as it stands: power levels of old
versions may be texts and floats, creators of new ones have no level, a join rule may not exist in the other version,
and an event of another server in an old room need not be canonical JSON.  Whatever does not fit becomes stricter or
stays behind; no upgrade opens a room further than it was.

The power levels come last.  Until then a room has the defaults of the spec, by which its creator may send everything;
so the events are allowed whatever level the user who upgrades had, and that level need not be raised for a while.

Spec: client-server API, "Room Upgrades", "Server behaviour"; rooms/v10, "Values in `m.room.power_levels` events must be
integers"; rooms/v12, "room creators".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from homeserver.errors import BadJson

from .canonical_json import MAX_INTEGER, check_strict, encode_canonical
from .content.create import creators, is_federated, room_type
from .content.join_rules import JoinRule, is_knockable, is_restricted
from .content.power_levels import CREATOR_LEVEL, LEVEL_KEYS, PowerLevels, level_reader
from .content.reading import is_user_id, mapping, text
from .event import Event, EventTemplate, StateKey
from .ids import EventID, RoomID, UserID
from .room_versions import RoomVersion

# Spec: "Room Upgrades", "Server behaviour", 3; the encryption of a room must be there before anybody talks in it.
COPIED_TYPES: Final = (
    "m.room.encryption",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.guest_access",
    "m.room.server_acl",
    "m.room.name",
    "m.room.topic",
    "m.room.avatar",
)
SPACE: Final = "m.space"
# What a space consists of.  `m.space.parent` is not copied: whether it counts depends on who sent it.
SPACE_CHILD: Final = "m.space.child"
POWER_LEVELS: Final = "m.room.power_levels"
TOMBSTONE: Final = "m.room.tombstone"

# LIMIT: content over this stays behind; with what else is in an event it might not fit into one of another version.
MAX_COPIED_BYTES: Final = 63_000

_LEVEL_MAPS: Final = ("events", "notifications")
# Spec: `POST /createRoom`, 3: from room version 12 on "MUST explicitly be higher than `state_default`".
_TOMBSTONE_LEVEL_BELOW_CREATORS: Final = 150
_DEFAULT_STATE_LEVEL: Final = 50
_CLOSED_LEVEL: Final = 50
_CLOSED_KEYS: Final = ("events_default", "invite")
_TOMBSTONE_TEXT: Final = "This room has been replaced"


@dataclass(frozen=True, slots=True)
class OldRoom:
    """What is looked at of the room that is replaced.

    `state` has its events of `COPIED_TYPES` and `POWER_LEVELS`, and the children of a space; `bans` are the member
    events of those who are banned; `last_event_id` is the room's newest event. `levels` is the content of the power
    levels as they are to be copied, where that is not what they say at present: see `opened_power_levels`.
    """

    room_id: RoomID
    version: RoomVersion
    create: Event
    state: Mapping[StateKey, Event]
    bans: Sequence[Event]
    last_event_id: EventID
    levels: Mapping[str, Any] | None = None


def replacement_events(
    old: OldRoom,
    version: RoomVersion,
    creator: UserID,
    *,
    additional_creators: Iterable[UserID] = (),
    profile: Mapping[str, Any] | None = None,
) -> list[EventTemplate]:
    """Return the events of the room that replaces `old`, in the order in which they are to be sent.

    The create event, the creator's join (with `profile`), copied state, the bans, and last the power levels.
    `additional_creators` mean nothing where the version has none.
    """
    further = [user for user in dict.fromkeys(additional_creators) if user != creator]
    if not version.privileged_creators:
        further = []

    def state(event_type: str, content: Mapping[str, Any], state_key: str = "") -> EventTemplate:
        return EventTemplate(type=event_type, content=content, sender=creator, state_key=state_key)

    events = [
        state("m.room.create", _create_content(old, version, creator, further)),
        state("m.room.member", {**(profile or {}), "membership": "join"}, creator),
    ]
    events += [state(event_type, content, key) for event_type, key, content in _copied_state(old, version)]
    # A creator cannot be banned, and who upgrades says who is one.
    bans = {event.state_key: event for event in old.bans if event.state_key not in (creator, *further)}
    events += [
        state("m.room.member", _ban_content(event), user) for user, event in bans.items() if user and is_user_id(user)
    ]
    levels = power_levels_content(old, version, room_creators=frozenset((creator, *further)), banned=frozenset(bans))
    events.append(state(POWER_LEVELS, levels))
    return events


def power_levels_content(
    old: OldRoom, version: RoomVersion, *, room_creators: Collection[str], banned: Collection[str | None] = ()
) -> dict[str, Any]:
    """Return the power levels of the old room as the new one can have them.

    All are integers that canonical JSON can write.  Creators of the new room are left out where they stand above all
    levels; those of the old one, who stood there and do not any more, get the highest level that anything needs: they
    are no creators, but nobody loses the room by its upgrade.  Who is banned has none.
    """
    event = old.state.get((POWER_LEVELS, ""))
    said = old.levels if old.levels is not None else event.content if event is not None else None
    content = _with_plain_levels(old.version, said) if said is not None else {"users": {}, "events": {}}
    levels = PowerLevels.from_events(old.version, old.create, event)
    users = {user: _clamp(level) for user, level in levels.content.users.items() if is_user_id(user)}
    if old.version.privileged_creators:
        named = [content[key] for key in LEVEL_KEYS if key in content]
        highest = max([CREATOR_LEVEL, *named, *content["events"].values(), *users.values()])
        users.update(dict.fromkeys(sorted(creators(old.version, old.create)), highest))
    if version.privileged_creators:
        # Spec: rooms/v12, "Authorisation rules", 10.4.
        users = {user: level for user, level in users.items() if user not in room_creators}
        if not old.version.privileged_creators:
            needed = max(_TOMBSTONE_LEVEL_BELOW_CREATORS, content.get("state_default", _DEFAULT_STATE_LEVEL) + 1)
            events = content["events"]
            events[TOMBSTONE] = _clamp(max(events.get(TOMBSTONE, needed), needed))
    content["users"] = {user: level for user, level in users.items() if user not in banned}
    return content


def join_rules_content(old_version: RoomVersion, version: RoomVersion, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of `m.room.join_rules` in the new room: a rule that either version lacks becomes stricter.

    What the old version does not have let nobody in, and does not become an open door by the upgrade.
    """
    value = content.get("join_rule")
    rule = wanted = next((rule for rule in JoinRule if rule == value), None)
    if rule in (JoinRule.KNOCK, JoinRule.RESTRICTED, JoinRule.KNOCK_RESTRICTED) and not _has(old_version, rule):
        rule = JoinRule.INVITE
    if rule is JoinRule.KNOCK_RESTRICTED and not version.knock_restricted_joins:
        rule = JoinRule.RESTRICTED
    if rule is JoinRule.RESTRICTED and not version.restricted_joins:
        rule = JoinRule.KNOCK if wanted is JoinRule.KNOCK_RESTRICTED else JoinRule.INVITE
    if rule is JoinRule.KNOCK and not version.knocking:
        rule = JoinRule.INVITE
    if rule is wanted or rule is None:
        return content
    changed = {key: entry for key, entry in content.items() if key != "allow" or is_restricted(version, rule)}
    return {**changed, "join_rule": rule.value}


def tombstone_content(new_id: RoomID) -> dict[str, Any]:
    """Return the content of the old room's `m.room.tombstone`."""
    return {"body": _TOMBSTONE_TEXT, "replacement_room": new_id}


def closed_power_levels(version: RoomVersion, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the power levels of the old room with which ordinary users neither talk nor invite there; None: they are.

    Spec: "Room Upgrades", "Server behaviour", 6.
    """
    level = level_reader(version)
    needed = _clamp(max(_CLOSED_LEVEL, (level(content.get("users_default")) or 0) + 1))
    raised = {key: needed for key in _CLOSED_KEYS if (level(content.get(key)) or 0) < needed}
    if not raised:
        return None
    return {**(content if _is_strict(content) else _with_plain_levels(version, content)), **raised}


def opened_power_levels(version: RoomVersion, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the power levels of a room that was closed as they would be had it not been.

    `history` is what they said, newest first, from the present to what they said before the room was replaced.  A
    closing is known by its being what `closed_power_levels` makes of what was there before; what was changed besides,
    before it or after, stays as it is.
    """
    content = dict(history[0])
    for after, before in pairwise(history):
        if closed_power_levels(version, before) != after:
            continue
        for key in _CLOSED_KEYS:
            # Whoever has set it to something else since wants it so.
            if content.get(key) != after.get(key):
                continue
            if key in before:
                content[key] = before[key]
            else:
                content.pop(key, None)
    return content


def split_canonical_alias(content: Mapping[str, Any], moved: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `m.room.canonical_alias` says in the new room, and what is left in the old one.

    `moved` are the aliases that point to the new room; those of other servers go on pointing to the old one.
    """
    new: dict[str, Any] = {}
    left = dict(content)
    alias, others = content.get("alias"), content.get("alt_aliases")
    if isinstance(alias, str) and alias in moved:
        new["alias"] = left.pop("alias")
    if isinstance(others, list):
        taken = [other for other in others if isinstance(other, str) and other in moved]
        if taken:
            new["alt_aliases"] = taken
            remaining = [other for other in others if other not in taken]
            left["alt_aliases"] = remaining
            if not remaining:
                del left["alt_aliases"]
    return new, left


def replacement_room_id(tombstone: Event | None) -> str | None:
    """Return the room that a tombstone names."""
    return text(tombstone.content, "replacement_room") if tombstone is not None else None


# -- private -----------------------------------------------------------------------------------------------------------


def _create_content(
    old: OldRoom, version: RoomVersion, creator: UserID, additional_creators: Sequence[UserID]
) -> dict[str, Any]:
    predecessor: dict[str, Any] = {"room_id": old.room_id}
    if not version.privileged_creators:
        # Spec: "Room Upgrades", the note on room version 12: "MAY be omitted".  Where it is still told, it is the last
        # known event: the tombstone names this room, and so cannot exist before it.
        predecessor["event_id"] = old.last_event_id
    content: dict[str, Any] = {"room_version": version.identifier, "predecessor": predecessor}
    kind = room_type(old.create)
    if kind is not None:
        content["type"] = kind
    if not is_federated(old.create):
        content["m.federate"] = False
    if version.creator_in_content:
        content["creator"] = creator
    if additional_creators:
        content["additional_creators"] = list(additional_creators)
    return content


def _copied_state(old: OldRoom, version: RoomVersion) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for event_type in COPIED_TYPES:
        event = old.state.get((event_type, ""))
        # Empty content is state that was taken away, or redacted.
        if event is None or not event.content or not _fits(event.content):
            continue
        content = event.content
        if event_type == "m.room.join_rules":
            content = join_rules_content(old.version, version, content)
        yield event_type, "", content
    if room_type(old.create) == SPACE:
        for (event_type, state_key), event in old.state.items():
            if event_type == SPACE_CHILD and event.content and _fits(event.content):
                yield event_type, state_key, event.content


def _ban_content(event: Event) -> dict[str, Any]:
    content: dict[str, Any] = {"membership": "ban"}
    reason = text(event.content, "reason")
    if reason is not None and _fits({"reason": reason}):
        content["reason"] = reason
    return content


def _with_plain_levels(version: RoomVersion, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return power levels in which every level is what this version reads there; what it cannot read is left out."""
    level = level_reader(version)
    known = (*LEVEL_KEYS, *_LEVEL_MAPS, "users")
    plain = {key: value for key, value in content.items() if key not in known and _is_strict({key: value})}
    for key in LEVEL_KEYS:
        value = level(content.get(key))
        if value is not None:
            plain[key] = _clamp(value)
    for key in (*_LEVEL_MAPS, "users"):
        if key in content or key == "events":
            entries = mapping(content, key).items()
            plain[key] = {name: _clamp(value) for name, entry in entries if (value := level(entry)) is not None}
    return plain


def _has(version: RoomVersion, rule: JoinRule | None) -> bool:
    return is_restricted(version, rule) or is_knockable(version, rule)


def _clamp(level: int) -> int:
    return max(-MAX_INTEGER, min(level, MAX_INTEGER))


def _is_strict(content: Mapping[str, Any]) -> bool:
    try:
        # At the depth that it has in an event.
        check_strict({"content": content})
    except BadJson:
        return False
    return True


def _fits(content: Mapping[str, Any]) -> bool:
    return _is_strict(content) and len(encode_canonical(content)) <= MAX_COPIED_BYTES
