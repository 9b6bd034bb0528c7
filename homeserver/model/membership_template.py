"""What `make_join`, `make_leave` and `make_knock` of another server answer us, made into an event that we may sign.

Nothing is signed as it came.  The event is rebuilt from what this server knows itself (room, user, membership, its own
content) and an allow-list of four things that only the other server knows: `prev_events`, `auth_events`, `depth`, and
for a restricted room the user who vouches for the join.  Each is checked for its shape and its bounds; whatever else
stands in the template is not looked at.  A template that is for something else than what was asked is refused
altogether, as the specification wants it.

Spec: server-server API, "Joining Rooms", "Knocking upon a room", "Leaving Rooms (Rejecting Invites)": what "the sending
server MUST verify"; appendices, "Canonical JSON".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import BadIdentifier

from .base64 import decode_base64
from .compose import GraphPlace
from .content.reading import is_user_id, mapping
from .event import EventTemplate
from .event_format import MAX_AUTH_EVENTS, MAX_PREV_EVENTS
from .ids import EventID, RoomID, UserID, server_name_of
from .room_versions import RoomVersion

AUTHORISER: Final = "join_authorised_via_users_server"

# Of `content` only this server's own words count, and of those not the ones that give rights.
_NOT_OWN: Final = frozenset(("membership", AUTHORISER, "third_party_invite"))
_HASH_BYTES: Final = 32
_MAX_HASH_CHARACTERS: Final = 44


class BadTemplate(ValueError):
    """The template is malformed, or for something else than what was asked; the text says why, for the log."""


@dataclass(frozen=True, slots=True)
class RebuiltTemplate:
    """The two things that `compose` makes the event of, together with the room ID, a key and the time."""

    template: EventTemplate
    place: GraphPlace


def rebuild_template(
    version: RoomVersion,
    room_id: RoomID,
    user_id: UserID,
    membership: str,
    answered: object,
    content: Mapping[str, Any],
    *,
    resident: str,
) -> RebuiltTemplate:
    """Return what is to be composed and signed of the `event` that `resident` answered; raise BadTemplate for none.

    `content` is what this server says itself (`displayname`, `avatar_url`, `reason`); `membership` is added, and what
    would give the user rights is left out.  `resident` is the server that answered: only its own users can vouch.
    """
    if not isinstance(answered, dict):
        raise BadTemplate("the template is not an object")
    _check_purpose(answered, room_id, user_id, membership)
    said = {name: value for name, value in content.items() if name not in _NOT_OWN}
    said["membership"] = membership
    authoriser = _authoriser(version, membership, answered, resident)
    if authoriser is not None:
        said[AUTHORISER] = authoriser
    prev, prev_hashes = _references(version, answered, "prev_events", MAX_PREV_EVENTS)
    if not prev:
        # Spec: server-server API, "PDUs": only the create event builds on nothing.
        raise BadTemplate("the template has no prev events")
    auth, auth_hashes = _references(version, answered, "auth_events", MAX_AUTH_EVENTS)
    place = GraphPlace(prev, auth, _depth(version, answered), {**prev_hashes, **auth_hashes})
    return RebuiltTemplate(EventTemplate("m.room.member", said, user_id, user_id), place)


def _check_purpose(answered: Mapping[str, Any], room_id: RoomID, user_id: UserID, membership: str) -> None:
    # Spec: `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`: "In case any of the above checks fail, the
    # response MUST be treated as malformed and discarded."
    expected = {"room_id": room_id, "sender": user_id, "state_key": user_id, "type": "m.room.member"}
    for name, value in expected.items():
        if answered.get(name) != value:
            raise BadTemplate(f"the template has another `{name}` than was asked for")
    if mapping(answered, "content").get("membership") != membership:
        raise BadTemplate("the template has another membership than was asked for")


def _authoriser(version: RoomVersion, membership: str, answered: Mapping[str, Any], resident: str) -> UserID | None:
    if membership != "join" or not version.restricted_joins:
        return None
    value = mapping(answered, "content").get(AUTHORISER)
    if value is None:
        return None
    # Spec: make_join: "An arbitrary user ID belonging to the resident server".  Were it one of ours, our signature
    # under our own join would vouch for it.
    if not is_user_id(value) or server_name_of(value) != resident:
        raise BadTemplate("the authorising user is none of the resident server's")
    return UserID(value)


def _depth(version: RoomVersion, answered: Mapping[str, Any]) -> int:
    depth = answered.get("depth")
    # `bool` is a kind of `int` to Python, but not to JSON.
    if type(depth) is not int or not 0 <= depth <= version.max_integer:
        raise BadTemplate("the depth is not one that an event of this room can have")
    return depth


def _references(
    version: RoomVersion, answered: Mapping[str, Any], name: str, limit: int
) -> tuple[tuple[EventID, ...], dict[EventID, str | None]]:
    """Return the events that stand in a list, and their hashes where the room version has them, None where left out."""
    listed = answered.get(name)
    if not isinstance(listed, list) or len(listed) > limit:
        raise BadTemplate(f"`{name}` is not a list of at most {limit} events")
    event_ids: list[EventID] = []
    hashes: dict[EventID, str | None] = {}
    for reference in listed:
        named, sha256 = _split(version, name, reference)
        try:
            event_id = EventID.parse(named)
        except BadIdentifier as fault:
            raise BadTemplate(f"`{name}` has something that is no event ID") from fault
        if event_id in event_ids:
            raise BadTemplate(f"`{name}` has an event twice")
        event_ids.append(event_id)
        if version.references_carry_hashes:
            hashes[event_id] = sha256
    return tuple(event_ids), hashes


def _split(version: RoomVersion, name: str, reference: object) -> tuple[Any, str | None]:
    if not version.references_carry_hashes:
        return reference, None
    # Spec: rooms/v1, "Event format": pairs of the event ID and its reference hash.
    if not isinstance(reference, list) or len(reference) != 2 or not isinstance(reference[1], dict):
        raise BadTemplate(f"`{name}` is not made of event IDs and their hashes")
    if "sha256" not in reference[1]:
        # COMPAT(synapse): it leaves the hash out for events that it made together, such as the first ones of a room.
        return reference[0], None
    sha256 = reference[1]["sha256"]
    if not isinstance(sha256, str) or not _is_hash(sha256):
        raise BadTemplate(f"`{name}` has a hash that is none")
    return reference[0], sha256


def _is_hash(text: str) -> bool:
    if len(text) > _MAX_HASH_CHARACTERS:
        return False
    try:
        return len(decode_base64(text)) == _HASH_BYTES
    except ValueError:
        return False
