"""The auth events selection.  Spec: server-server API, "Auth events selection"."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.model.auth.needed import needed_state
from homeserver.model.room_versions import V10, V11, V12, RoomVersion

from ..rooms_in_memory import ALICE, BOB, CAROL, VERSIONS

POWER = ("m.room.power_levels", "")
RULES = ("m.room.join_rules", "")


def member(user_id: str) -> tuple[str, str]:
    return ("m.room.member", user_id)


@VERSIONS
@pytest.mark.parametrize(
    ("event_type", "state_key", "content", "expected"),
    [
        ("m.room.message", None, {}, [POWER, member(ALICE)]),
        ("m.room.topic", "", {}, [POWER, member(ALICE)]),
        ("m.room.member", ALICE, {"membership": "join"}, [POWER, member(ALICE), RULES]),
        ("m.room.member", BOB, {"membership": "leave"}, [POWER, member(ALICE), member(BOB)]),
        ("m.room.member", BOB, {"membership": "ban"}, [POWER, member(ALICE), member(BOB)]),
        ("m.room.member", BOB, {"membership": "knock"}, [POWER, member(ALICE), member(BOB), RULES]),
        ("m.room.member", BOB, {"membership": "invite"}, [POWER, member(ALICE), member(BOB), RULES]),
        (
            "m.room.member",
            BOB,
            {"membership": "invite", "third_party_invite": {"signed": {"token": "t"}}},
            [POWER, member(ALICE), member(BOB), RULES, ("m.room.third_party_invite", "t")],
        ),
        (
            "m.room.member",
            BOB,
            {"membership": "invite", "third_party_invite": {"signed": {"token": 7}}},
            [POWER, member(ALICE), member(BOB), RULES],
        ),
        (
            "m.room.member",
            ALICE,
            {"membership": "join", "join_authorised_via_users_server": CAROL},
            [POWER, member(ALICE), RULES, member(CAROL)],
        ),
        (
            "m.room.member",
            ALICE,
            {"membership": "join", "join_authorised_via_users_server": [CAROL]},
            [POWER, member(ALICE), RULES],
        ),
        (
            "m.room.member",
            ALICE,
            {"membership": "leave", "join_authorised_via_users_server": CAROL},
            [POWER, member(ALICE)],
        ),
        ("m.room.member", None, {"membership": ["join"]}, [POWER, member(ALICE)]),
    ],
)
def test_selection(
    version: RoomVersion, event_type: str, state_key: str | None, content: dict[str, Any], expected: list[Any]
) -> None:
    create = [] if version.room_id_is_create_hash else [("m.room.create", "")]
    found = needed_state(version, type=event_type, sender=ALICE, state_key=state_key, content=content)
    assert (*create, *expected) == found


@pytest.mark.parametrize("version", [V10, V11, V12])
def test_create_event_cites_nothing(version: RoomVersion) -> None:
    assert needed_state(version, type="m.room.create", sender=ALICE, state_key="", content={}) == ()
