"""`m.room.create`: who made the room, and what was fixed by that.

Spec: client-server API, `m.room.create`; rooms/v11, "Remove the `creator` property"; rooms/v12, "room creators".
"""

from __future__ import annotations

from ..event import Event
from ..ids import UserID
from ..room_versions import RoomVersion
from .reading import is_user_id, mapping, sequence, text


def creators(version: RoomVersion, create: Event) -> frozenset[UserID]:
    """Return the users who count as creators of the room.

    One, except from room version 12 on, where `additional_creators` are creators too.  Empty where an old room's
    `creator` is not text at all.
    """
    if version.privileged_creators:
        return create.typed(_sender_and_additional_creators)
    return frozenset((creator,)) if (creator := first_creator(version, create)) is not None else frozenset()


def first_creator(version: RoomVersion, create: Event) -> UserID | None:
    """Return the one who may join first: `creator` up to room version 10, the sender of the event from 11 on."""
    if not version.creator_in_content:
        return create.sender
    creator = text(create.content, "creator")
    return None if creator is None else UserID(creator)


def is_federated(create: Event) -> bool:
    """Tell whether users of other servers may take part: they may, unless `m.federate` is false."""
    return create.content.get("m.federate", True) is not False


def room_type(create: Event) -> str | None:
    """Return the room's type, such as `m.space`, or None for an ordinary room."""
    return text(create.content, "type")


def predecessor_room_id(create: Event) -> str | None:
    """Return the ID of the room that this one replaces, as it was claimed."""
    return text(mapping(create.content, "predecessor"), "room_id")


def _sender_and_additional_creators(create: Event) -> frozenset[UserID]:
    # Spec: rooms/v12, "Client considerations".  Rule 1.4 has refused a list with anything else in it.
    additional = sequence(create.content, "additional_creators")
    return frozenset((create.sender, *(UserID(creator) for creator in additional if is_user_id(creator))))
