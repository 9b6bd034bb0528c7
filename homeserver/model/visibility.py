"""Who may see an event: history visibility applied, to users and to servers.

What decides is the state *at the event*: the room's setting and the user's membership there.  Only under `shared`
does anything later matter, namely whether the user has joined since.  Two kinds of event are seen by what was before
*or* after them: the setting itself, and the user's own membership.

A server may be told what any of its users may see; that is all it can need.  It still needs every event of a room's
graph, to judge those that follow, so what it may not see it is given redacted (`pruned_for_server`): the hash, the
signatures and all that the rules read survive.  A server never sees an event of users who were erased before it came.
Whether a server may ask about the room at all is another question, answered by its ACL and its members now.

Spec: client-server API, "Room history visibility", "Server behaviour", and "Account deactivation", `erase`;
server-server API, "Backfilling and retrieving missing events", "Retrieving events".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from .auth.state_view import StateView
from .content.history_visibility import HistoryVisibility, history_visibility_of
from .content.member import Membership, membership_of
from .event import Event
from .ids import server_name_of
from .redaction import redact
from .room_versions import RoomVersion

_VISIBILITY_KEY: Final = ("m.room.history_visibility", "")


def may_user_see(
    visibility_at_event: HistoryVisibility, membership_at_event: Membership, *, joined_afterwards: bool
) -> bool:
    """Tell whether a user may see an event.

    `joined_afterwards`: the user has joined the room at any point after the event was sent, even if they left since.
    """
    if visibility_at_event is HistoryVisibility.WORLD_READABLE:  # 1
        return True
    if membership_at_event is Membership.JOIN:  # 2
        return True
    if visibility_at_event is HistoryVisibility.SHARED:  # 3
        return joined_afterwards
    # 4
    return visibility_at_event is HistoryVisibility.INVITED and membership_at_event is Membership.INVITE


def may_user_see_event(event: Event, user_id: str, state_before: StateView, *, joined_afterwards: bool) -> bool:
    """Tell whether a user may see this very event, given the state before it.

    Settings of the history visibility and the user's own memberships are judged by what was before or after them.
    """
    visibility = history_visibility_of(state_before.get(_VISIBILITY_KEY))
    membership = membership_of(state_before.get(("m.room.member", user_id)))
    if may_user_see(visibility, membership, joined_afterwards=joined_afterwards):
        return True
    if event.state_key is None:
        return False
    if event.type == "m.room.history_visibility" and event.state_key == "":
        visibility = history_visibility_of(event)
    elif event.type == "m.room.member" and event.state_key == user_id:
        membership = membership_of(event)
    else:
        return False
    return may_user_see(visibility, membership, joined_afterwards=joined_afterwards)


def world_readable(state: StateView) -> bool:
    """Tell whether anybody may read what is said in this state, guests and strangers included."""
    return history_visibility_of(state.get(_VISIBILITY_KEY)) is HistoryVisibility.WORLD_READABLE


def may_server_see(
    event: Event,
    server_name: str,
    state_before: StateView,
    members_before: Iterable[Event],
    *,
    joined_afterwards: bool,
    sender_is_erased: bool = False,
) -> bool:
    """Tell whether a server may be told this very event whole: whether any of its users, as a rule, may see it.

    `members_before` are the `m.room.member` events of that server's users in the state before the event, in any
    order; they are looked at only where the setting and `joined_afterwards` do not decide, so they may be read lazily.
    Events of users of other servers among them count for nothing.

    `joined_afterwards`: a user of that server has joined the room at any point after the event was sent, even if they
    left since; if the sender was erased, only a join before that counts.
    """
    before = history_visibility_of(state_before.get(_VISIBILITY_KEY))
    settings = {before}
    if event.type == "m.room.history_visibility" and event.state_key == "":
        settings.add(history_visibility_of(event))
    # Spec: "Account deactivation", `erase`: servers which join after the erasure are served redacted copies, while
    # those that had been able to see the event still are.  What anybody could read, nobody in particular had read.
    if HistoryVisibility.WORLD_READABLE in settings and not sender_is_erased:
        return True
    # Under `invited` and `joined` a later join opens nothing.
    if joined_afterwards and not settings.isdisjoint((HistoryVisibility.WORLD_READABLE, HistoryVisibility.SHARED)):
        return True
    seen_by = {Membership.JOIN}
    if HistoryVisibility.INVITED in settings:
        seen_by.add(Membership.INVITE)
    # The user whose membership this is sees it by what it was before or after.
    if event.type == "m.room.member" and _is_user_of(server_name, event.state_key) and membership_of(event) in seen_by:
        return True
    return any(
        membership_of(member) in seen_by
        for member in members_before
        if member.type == "m.room.member" and _is_user_of(server_name, member.state_key)
    )


def pruned_for_server(version: RoomVersion, event: Event) -> Mapping[str, Any]:
    """Return the wire form of an event for a server that may not see it: redacted, so its ID and signatures hold."""
    return redact(version, event.wire)


def _is_user_of(server_name: str, user_id: str | None) -> bool:
    return user_id is not None and server_name_of(user_id) == server_name
