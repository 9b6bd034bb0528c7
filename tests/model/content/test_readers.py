"""Readers of content are total: what has the wrong shape is as if it were absent."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.model.content import create, guest_access, join_rules, member, naming, third_party_invite
from homeserver.model.content.join_rules import JoinRule
from homeserver.model.content.member import Membership
from homeserver.model.event import Event
from homeserver.model.room_versions import V12

from ..rooms_in_memory import ALICE, BOB, StateRoom

WRONG: list[Any] = [None, 7, True, [], {}, [[]], {"a": 1}]


def event(content: dict[str, Any]) -> Event:
    return StateRoom(V12).event("x", ALICE, content, "")


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_wrong_shapes(value: Any) -> None:
    keys = [
        "membership",
        "displayname",
        "avatar_url",
        "join_rule",
        "allow",
        "name",
        "topic",
        "url",
        "alias",
        "alt_aliases",
        "type",
        "predecessor",
        "public_key",
        "public_keys",
        "guest_access",
        "third_party_invite",
        "join_authorised_via_users_server",
        "is_direct",
    ]
    odd = event(dict.fromkeys(keys, value))
    assert member.membership_of(odd) is Membership.LEAVE
    assert join_rules.join_rule_of(odd) is None
    found = (
        member.display_name(odd),
        member.avatar_url(odd),
        member.third_party_token(odd.content),
        member.authorising_user(odd.content),
        naming.room_name(odd),
        naming.room_topic(odd),
        naming.room_avatar_url(odd),
        naming.canonical_alias(odd),
        create.room_type(odd),
        create.predecessor_room_id(odd),
    )
    assert {None} == set(found)
    assert ((), (), ()) == (
        join_rules.allowed_room_ids(odd),
        naming.alternative_aliases(odd),
        third_party_invite.public_keys(odd),
    )
    assert not guest_access.guests_may_join(odd)
    assert member.is_direct(odd) is (value is True)


def test_right_shapes() -> None:
    content = {
        "membership": "invite",
        "displayname": "Bob",
        "avatar_url": "mxc://a/b",
        "is_direct": True,
        "join_authorised_via_users_server": BOB,
        "third_party_invite": {"signed": {"token": "t"}},
        "join_rule": "restricted",
        "allow": [
            {"type": "m.room_membership", "room_id": "!a:x"},
            {"type": "other", "room_id": "!b:x"},
            {"type": "m.room_membership"},
            7,
            {"type": "m.room_membership", "room_id": "!a:x"},
        ],
        "guest_access": "can_join",
        "name": "",
        "topic": "t",
        "alias": "#a:x",
        "alt_aliases": ["#b:x", 7],
        "type": "m.space",
        "predecessor": {"room_id": "!old:x"},
        "public_key": "a",
        "public_keys": [{"public_key": "b"}, {"public_key": "a"}],
    }
    full = event(content)
    assert member.membership_of(full) is Membership.INVITE
    assert ("Bob", "mxc://a/b", True) == (member.display_name(full), member.avatar_url(full), member.is_direct(full))
    assert (BOB, "t") == (member.authorising_user(content), member.third_party_token(content))
    assert join_rules.join_rule_of(full) is JoinRule.RESTRICTED
    assert ("!a:x",) == join_rules.allowed_room_ids(full)
    assert guest_access.guests_may_join(full)
    assert (None, "t", "#a:x", ("#b:x",)) == (
        naming.room_name(full),
        naming.room_topic(full),
        naming.canonical_alias(full),
        naming.alternative_aliases(full),
    )
    assert ("m.space", "!old:x") == (create.room_type(full), create.predecessor_room_id(full))
    assert ("a", "b") == third_party_invite.public_keys(full)


def test_lists_are_bounded() -> None:
    many = {"allow": [{"type": "m.room_membership", "room_id": f"!{number}:x"} for number in range(10_000)]}
    assert join_rules.MAX_ALLOW_CONDITIONS == len(join_rules.allowed_room_ids(event(many)))
    keys = {"public_keys": [{"public_key": str(number)} for number in range(10_000)]}
    assert third_party_invite.MAX_PUBLIC_KEYS == len(third_party_invite.public_keys(event(keys)))


def test_absent_events_have_defaults() -> None:
    assert member.membership_of(None) is Membership.LEAVE
    assert join_rules.join_rule_of(None) is JoinRule.INVITE
    assert not guest_access.guests_may_join(None)
    assert (None, None, None, None, ()) == (
        naming.room_name(None),
        naming.room_topic(None),
        naming.room_avatar_url(None),
        naming.canonical_alias(None),
        naming.alternative_aliases(None),
    )
