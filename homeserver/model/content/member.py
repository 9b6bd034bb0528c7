"""`m.room.member`: what somebody is in the room.

Spec: client-server API, `m.room.member`; rooms/v8, "Authorisation rules" for `join_authorised_via_users_server`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from ..event import Event
from ..ids import UserID
from .reading import is_user_id, mapping, text


class Membership(StrEnum):
    """The memberships that the spec defines."""

    JOIN = "join"
    INVITE = "invite"
    KNOCK = "knock"
    LEAVE = "leave"
    BAN = "ban"


_MEMBERSHIPS: Final[Mapping[str, Membership]] = {member.value: member for member in Membership}


def membership_of(member: Event | None) -> Membership:
    """Return what a user with this member event is; without one, or with an unknown value, they have left.

    Spec: client-server API, "Room membership": a user who was never in the room is as one who left.
    """
    if member is None:
        return Membership.LEAVE
    value = member.content.get("membership")
    return _MEMBERSHIPS.get(value, Membership.LEAVE) if isinstance(value, str) else Membership.LEAVE


def authorising_user(content: Mapping[str, Any]) -> UserID | None:
    """Return the user who vouches for a restricted join, or None where no user ID stands there."""
    value = content.get("join_authorised_via_users_server")
    return UserID(value) if is_user_id(value) else None


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """Return `third_party_invite.signed.token`, the state key of the invite it accepts."""
    return text(mapping(mapping(content, "third_party_invite"), "signed"), "token")


def display_name(member: Event) -> str | None:
    """Return the name that the user has in this room."""
    return text(member.content, "displayname")


def avatar_url(member: Event) -> str | None:
    """Return the `mxc://` URI of the user's picture in this room, unchecked."""
    return text(member.content, "avatar_url")


def is_direct(member: Event) -> bool:
    """Tell whether the invite said that the room is a direct chat."""
    return member.content.get("is_direct") is True
