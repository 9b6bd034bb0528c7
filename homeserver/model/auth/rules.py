"""The authorization rules, in the order of the spec.

Two entries, because an event is judged more than once: `check_state_independent` looks at the event and at the auth
events that it cites, once for its life; `check_state_dependent` looks at a state, and is asked with the auth events,
with the state before the event and with the current state of the room.  Both are total: whatever the content is, they
return or raise `AuthRuleBroken`.

Spec: rooms/v12, "Authorisation rules"; server-server API, "Checks performed on receipt of a PDU", 4 to 6.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from homeserver.errors import AuthRuleBroken

from ..content.create import is_federated
from ..content.member import Membership, membership_of
from ..content.power_levels import PowerLevels
from ..content.reading import is_user_id
from ..event import Event
from ..ids import EventID, server_name_of
from ..room_versions import RoomVersion, is_recognised
from .membership import check_membership
from .needed import CREATE, MEMBER, POWER_LEVELS, THIRD_PARTY_INVITE, needed_state
from .numbering import broken
from .power_levels import check_power_levels
from .state_view import StateView as StateView


def check_state_independent(
    version: RoomVersion,
    event: Event,
    auth_events: Sequence[Event],
    rejected_ids: Collection[EventID],
    create: Event | None = None,
) -> None:
    """Return if the event, by itself and by what it cites, is not refused; else raise `AuthRuleBroken`.

    `auth_events` has one event for each of `event.auth_event_ids`, repeats included.  `rejected_ids` are those of
    them, and of the create event, that were rejected.  `create` is the event that the room ID names, from room
    version 12 on; None if there is none.
    """
    if event.type == "m.room.create":
        check_create(version, event)
        return
    if version.room_id_is_create_hash:
        _check_room_id(version, event, rejected_ids, create)
    _check_auth_events(version, event, auth_events, rejected_ids)


def check_state_dependent(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    """Return if `state` allows the event, else raise `AuthRuleBroken`.

    `create` is the room's create event.  Of `state` only the keys of `needed_state` are asked for.
    """
    event_type = event.type
    if event_type == "m.room.create":
        check_create(version, event)
        return
    # 4
    if not is_federated(create) and server_name_of(event.sender) != server_name_of(create.sender):
        raise broken(version, "4", "this room is not open to users of other servers")
    if event_type == "m.room.aliases" and version.aliases_have_auth_rule:
        _check_aliases(event)
        return
    if event_type == MEMBER:
        check_membership(version, event, state, create)
        return
    sender = event.sender
    if membership_of(state.get((MEMBER, sender))) is not Membership.JOIN:
        raise broken(version, "6", "you are not in this room")
    levels = PowerLevels.from_events(version, create, state.get(POWER_LEVELS))
    power = levels.of(sender)
    if event_type == THIRD_PARTY_INVITE:
        if power < levels.invite:
            raise broken(version, "7.1", "you may not invite users to this room")
        return
    state_key = event.state_key
    if levels.needed_for(event_type, state_key is not None) > power:
        raise broken(version, "8", f"you may not send '{event_type:.64}' in this room")
    if state_key is not None and state_key.startswith("@") and state_key != sender:
        _check_owner(version, event, state_key, levels)
    if event_type == "m.room.power_levels":
        check_power_levels(version, event, state, create)
    elif event_type == "m.room.redaction" and version.redactions_have_auth_rule:
        _check_redaction(version, event, levels)
    # 11


def check_create(version: RoomVersion, event: Event) -> None:
    """Return if rule 1 allows the `m.room.create` event, else raise `AuthRuleBroken`."""
    content = event.content
    if event.prev_event_ids:
        raise broken(version, "1.1", "a create event must be the first of its room")
    if version.room_id_is_create_hash:
        if "room_id" in event.wire:
            raise broken(version, "1.2", "a create event must not have a room ID")
    elif server_name_of(event.room_id) != server_name_of(event.sender):
        raise broken(version, "1.2", "the room ID is of another server than the creator")
    if "room_version" in content and not is_recognised(content["room_version"]):
        raise broken(version, "1.3", "the room version is not known")
    if version.privileged_creators and "additional_creators" in content:
        additional = content["additional_creators"]
        if not isinstance(additional, list) or not all(is_user_id(creator) for creator in additional):
            raise broken(version, "1.4", "'additional_creators' is not a list of user IDs")
    # Spec: rooms/v10, "Authorisation rules", 1.4; dropped in version 11, where the number is free.
    if version.creator_in_content and "creator" not in content:
        raise broken(version, "1.4", "the creator is not named")


def _check_aliases(event: Event) -> None:
    # Spec: rooms/v1, "Authorisation rules", 4; gone in version 6.
    if event.state_key is None:
        raise AuthRuleBroken("4.1", "aliases need a state key")
    if server_name_of(event.sender) != event.state_key:
        raise AuthRuleBroken("4.2", "aliases of another server")


def _check_redaction(version: RoomVersion, event: Event, levels: PowerLevels) -> None:
    # Spec: rooms/v1, "Authorisation rules", 11; gone in version 3.
    if levels.of(event.sender) >= levels.redact:
        return
    target = event.wire.get("redacts")
    if not isinstance(target, str) or server_name_of(target) != server_name_of(event.event_id):
        raise broken(version, "11.3", "you may not redact events of others in this room")


def _check_owner(version: RoomVersion, event: Event, state_key: str, levels: PowerLevels) -> None:
    """Return if the sender, who is not the state key, owns the state or stands above who does."""
    if not version.owned_state:
        raise broken(version, "9", "the state of another user can only be set by that user")
    # Spec: MSC3757: a user ID, then nothing or an underscore and anything; a server name has no underscore.
    localpart, colon, rest = state_key.partition(":")
    owner = localpart + colon + rest.partition("_")[0]
    if not is_user_id(owner):
        raise broken(version, "9", "the state key is neither a user ID nor one with a suffix")
    if owner != event.sender and levels.of(event.sender) <= levels.of(owner):
        raise broken(version, "9", "the state of another user can only be set by that user or one with more power")


def _check_room_id(version: RoomVersion, event: Event, rejected_ids: Collection[EventID], create: Event | None) -> None:
    # 2
    if (
        create is None
        or create.type != "m.room.create"
        or create.event_id[1:] != event.room_id[1:]
        or create.event_id in rejected_ids
    ):
        raise broken(version, "2", "the room ID does not name an accepted create event")


def _check_auth_events(
    version: RoomVersion, event: Event, auth_events: Sequence[Event], rejected_ids: Collection[EventID]
) -> None:
    # 3.  The first entry that is not expected ends the loop, so a long list costs no more than a short one.
    expected = needed_state(
        version, type=event.type, sender=event.sender, state_key=event.state_key, content=event.content
    )
    seen: set[tuple[str, str | None]] = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key)
        if key in seen:
            raise broken(version, "3.1", "two auth events are for the same state")
        if key not in expected:
            raise broken(version, "3.2", "an auth event is of no use for this event")
        if auth_event.event_id in rejected_ids:
            raise broken(version, "3.3", "an auth event was rejected")
        if auth_event.room_id != event.room_id:
            raise broken(version, "3.5", "an auth event is of another room")
        seen.add(key)
    if not version.room_id_is_create_hash and CREATE not in seen:
        raise broken(version, "3.4", "the create event is not among the auth events")
