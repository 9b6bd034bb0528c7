"""Rule 5: who may become what in the room.

One function for each membership asked for; each sentence of the rule is one line or one small function.

What is not here: whether `join_authorised_via_users_server` names a server that has signed the event (rule 5.2.1).
Signatures are checked on receipt, where the keys are (`receipt_of_events`).  For our own events the signature is ours.

Spec: rooms/v12, "Authorisation rules", 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ..content.create import first_creator
from ..content.join_rules import JoinRule, is_knockable, is_restricted, join_rule_of
from ..content.member import Membership, authorising_user, membership_of
from ..content.power_levels import PowerLevels
from ..content.reading import is_user_id
from ..event import Event
from ..ids import server_name_of
from ..room_versions import RoomVersion
from .needed import JOIN_RULES, MEMBER, POWER_LEVELS
from .numbering import broken
from .state_view import StateView
from .third_party_invites import check_third_party_invite


def check_membership(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    """Return if rule 5 allows the `m.room.member` event, else raise `AuthRuleBroken`."""
    membership = event.content.get("membership")
    if event.state_key is None or "membership" not in event.content:
        raise broken(version, "5.1", "a membership needs a user and a value")
    _check_authorising_server(version, event)
    check = _CHECKS.get(membership) if isinstance(membership, str) else None
    if check is None or (check is _check_knock and not version.knocking):
        raise broken(version, "5.8", "the membership is unknown")
    check(version, event, state, create)


def signing_servers(version: RoomVersion, event: Event) -> frozenset[str]:
    """Return the servers whose signatures the event needs by the rules: the sender's, and the authorising one's."""
    servers = {server_name_of(event.sender)}
    if version.restricted_joins and event.type == MEMBER and event.state_key is not None:
        user_id = authorising_user(event.content)
        if user_id is not None:
            servers.add(server_name_of(user_id))
    return frozenset(servers)


def _check_authorising_server(version: RoomVersion, event: Event) -> None:
    if not version.restricted_joins or "join_authorised_via_users_server" not in event.content:
        return
    # 5.2.1, the part that needs no key: something that is no user ID denotes no server that could have signed.
    if not is_user_id(event.content["join_authorised_via_users_server"]):
        raise broken(version, "5.2.1", "the authorising user is not a user ID")


def _check_join(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    # 5.3.1: the creator comes in first.
    if event.prev_event_ids == (create.event_id,) and event.state_key == first_creator(version, create):
        return
    if event.sender != event.state_key:
        raise broken(version, "5.3.2", "users can only join for themselves")
    membership = _membership(state, event.sender)
    if membership is Membership.BAN:
        raise broken(version, "5.3.3", "you are banned from this room")
    rule = join_rule_of(state.get(JOIN_RULES))
    if rule is JoinRule.PUBLIC:  # 5.3.6
        return
    is_inside = membership is Membership.JOIN or membership is Membership.INVITE
    if rule is JoinRule.INVITE or (rule is JoinRule.KNOCK and version.knocking):
        if is_inside:
            return
        # The text of 5.3.4 only allows; what it does not allow falls through to the last clause.
        raise broken(version, "5.3.7", "you are not invited to this room")
    if is_restricted(version, rule):
        if is_inside:  # 5.3.5.1
            return
        _check_authorising_user(version, event, state, create)
        return
    raise broken(version, "5.3.7", "the join rule of this room lets nobody in")


def _check_authorising_user(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    # 5.3.5.2
    authoriser = authorising_user(event.content)
    if authoriser is None:
        raise broken(version, "5.3.5.2", "nobody in this restricted room has authorised the join")
    if _membership(state, authoriser) is not Membership.JOIN:
        raise broken(version, "5.3.5.2", "the authorising user is not in this room")
    levels = _power_levels(version, state, create)
    if levels.of(authoriser) < levels.invite:
        raise broken(version, "5.3.5.2", "the authorising user may not invite")


def _check_invite(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    target = _membership(state, event.state_key)
    if "third_party_invite" in event.content:
        check_third_party_invite(version, event, state, target)
        return
    if _membership(state, event.sender) is not Membership.JOIN:
        raise broken(version, "5.4.2", "you are not in this room")
    if target is Membership.JOIN:
        raise broken(version, "5.4.3", "the user is in this room already")
    if target is Membership.BAN:
        raise broken(version, "5.4.3", "the user is banned from this room")
    levels = _power_levels(version, state, create)
    if levels.of(event.sender) < levels.invite:  # 5.4.4
        raise broken(version, "5.4.5", "you may not invite users to this room")


def _check_leave(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    sender = _membership(state, event.sender)
    if event.sender == event.state_key:
        if sender in _MAY_LEAVE and (sender is not Membership.KNOCK or version.knocking):
            return
        raise broken(version, "5.5.1", "you are not in this room")
    if sender is not Membership.JOIN:
        raise broken(version, "5.5.2", "you are not in this room")
    levels = _power_levels(version, state, create)
    power = levels.of(event.sender)
    if power < levels.ban and _membership(state, event.state_key) is Membership.BAN:
        raise broken(version, "5.5.3", "you may not unban users in this room")
    if power < levels.kick:  # 5.5.4
        raise broken(version, "5.5.5", "you may not remove users from this room")
    if levels.of(_target(event)) >= power:  # 5.5.4
        raise broken(version, "5.5.5", "you may not remove a user whose power is not less than yours")


def _check_ban(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    if _membership(state, event.sender) is not Membership.JOIN:
        raise broken(version, "5.6.1", "you are not in this room")
    levels = _power_levels(version, state, create)
    power = levels.of(event.sender)
    if power < levels.ban:  # 5.6.2
        raise broken(version, "5.6.3", "you may not ban users from this room")
    if levels.of(_target(event)) >= power:  # 5.6.2
        raise broken(version, "5.6.3", "you may not ban a user whose power is not less than yours")


def _check_knock(version: RoomVersion, event: Event, state: StateView, create: Event) -> None:
    if not is_knockable(version, join_rule_of(state.get(JOIN_RULES))):
        raise broken(version, "5.7.1", "this room does not take knocks")
    if event.sender != event.state_key:
        raise broken(version, "5.7.2", "users can only knock for themselves")
    membership = _membership(state, event.sender)
    if membership is Membership.BAN:  # 5.7.3
        raise broken(version, "5.7.4", "you are banned from this room")
    if membership is Membership.INVITE or membership is Membership.JOIN:  # 5.7.3
        raise broken(version, "5.7.4", "you are invited to or in this room already")


def _membership(state: StateView, user_id: str | None) -> Membership:
    return Membership.LEAVE if user_id is None else membership_of(state.get((MEMBER, user_id)))


def _power_levels(version: RoomVersion, state: StateView, create: Event) -> PowerLevels:
    return PowerLevels.from_events(version, create, state.get(POWER_LEVELS))


def _target(event: Event) -> str:
    # 5.1 has refused events without a state key.
    return event.state_key or ""


_MAY_LEAVE: Final = frozenset((Membership.JOIN, Membership.INVITE, Membership.KNOCK))

_CHECKS: Final[Mapping[str, Callable[[RoomVersion, Event, StateView, Event], None]]] = {
    "join": _check_join,
    "invite": _check_invite,
    "leave": _check_leave,
    "ban": _check_ban,
    "knock": _check_knock,
}
