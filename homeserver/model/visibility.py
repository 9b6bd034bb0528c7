"""Who may see an event: history visibility applied.

What decides is the state *at the event*: the room's setting and the user's membership there.  Only under `shared`
does anything later matter, namely whether the user has joined since.  Two kinds of event are seen by what was before
*or* after them: the setting itself, and the user's own membership.

Spec: client-server API, "Room history visibility", "Server behaviour".
"""

from __future__ import annotations

from .auth.state_view import StateView
from .content.history_visibility import HistoryVisibility, history_visibility_of
from .content.member import Membership, membership_of
from .event import Event

_VISIBILITY_KEY = ("m.room.history_visibility", "")


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
