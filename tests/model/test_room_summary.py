"""Heroes and counts.  Spec: client-server API, `GET /sync`, "RoomSummary"."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from homeserver.model.content.member import Membership
from homeserver.model.ids import UserID
from homeserver.model.room_summary import RoomSummary, count_members, select_heroes

ME = UserID("@me:x")
JOIN, INVITE, LEAVE, BAN, KNOCK = (
    Membership.JOIN,
    Membership.INVITE,
    Membership.LEAVE,
    Membership.BAN,
    Membership.KNOCK,
)


def members(*memberships: Membership) -> list[tuple[UserID, Membership]]:
    return [(UserID(f"@{number}:x"), membership) for number, membership in enumerate(memberships)]


@pytest.mark.parametrize(
    ("memberships", "expected"),
    [
        pytest.param([], "", id="nobody"),
        pytest.param([JOIN, INVITE], "01", id="joined and invited"),
        pytest.param([JOIN] * 7, "01234", id="the first five"),
        pytest.param([LEAVE, JOIN, BAN, INVITE, KNOCK], "13", id="those who are gone do not count"),
        pytest.param([LEAVE, BAN, KNOCK], "01", id="unless there is nobody else"),
        pytest.param([LEAVE] * 7, "01234", id="five who left"),
    ],
)
def test_heroes(memberships: list[Membership], expected: str) -> None:
    found = select_heroes([(ME, JOIN), *members(*memberships)], ME)
    assert tuple(UserID(f"@{number}:x") for number in expected) == found


def test_heroes_of_a_large_room_are_found_without_reading_it() -> None:
    def endless() -> Iterator[tuple[UserID, Membership]]:
        yield from members(*[JOIN] * 5)
        raise AssertionError("read too far")

    assert len(select_heroes(endless(), ME)) == 5


def test_summary_on_the_wire() -> None:
    joined, invited = count_members([JOIN, JOIN, INVITE, LEAVE, BAN, KNOCK])
    wire = RoomSummary((UserID("@0:x"),), joined, invited).to_wire()
    assert {"m.heroes": ["@0:x"], "m.joined_member_count": 2, "m.invited_member_count": 1} == wire
