"""Every transition of a membership in every room version, held against the sentences of the spec.

`is_allowed` is the rule about `m.room.member` once more, written from the text of each room version and from nothing
else: plain text in, yes or no out.  Each test goes through all that bears on one new membership in one room version.

Spec: rooms/v1 to rooms/v12, "Authorisation rules", "If type is `m.room.member`".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest

from homeserver.model.auth.third_party_invites import MAX_SIGNATURES
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, RoomVersion
from homeserver.model.signing import generate_signing_key, sign_json

from ..rooms_in_memory import ALICE, BOB, CAROL, DAVE, StateRoom, broken_rule

MEMBERSHIPS = (None, "join", "invite", "knock", "leave", "ban")
JOIN_RULES = (None, "public", "invite", "knock", "restricted", "knock_restricted", "private", "unknown")
# Levels of the room: invite 30, kick 40, ban 60.
INVITE, KICK, BAN = 30, 40, 60
POWERS = (0, 29, 30, 39, 40, 59, 60, 100)

PARAMETERS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=KNOWN_ROOM_VERSIONS)


@dataclass(frozen=True)
class Case:
    """What bears on one membership event; None as a membership is no event, as a join rule likewise."""

    membership: str
    is_own: bool
    sender_is: str | None = None
    target_is: str | None = None
    sender_power: int = 0
    target_power: int = 0
    join_rule: str | None = "invite"
    # None: not named; else what the authorising user is and can.
    authoriser_is: str | None = None
    authoriser_power: int = field(default=0)


def is_allowed(number: int, case: Case) -> bool:
    """Tell what the text of room version `number` says."""
    sender_is = case.target_is if case.is_own else case.sender_is
    if case.membership == "join":
        return _may_join(number, case, sender_is)
    if case.membership == "invite":
        # "If the sender's current membership state is not join, reject." "If target user's current membership state
        # is join or ban, reject." "If the sender's power level is greater than or equal to the invite level, allow."
        return sender_is == "join" and case.target_is not in ("join", "ban") and case.sender_power >= INVITE
    if case.membership == "leave":
        if case.is_own:
            # "allow if and only if that user's current membership state is invite, join" - from version 7 - "or knock".
            return sender_is in (("invite", "join", "knock") if number >= 7 else ("invite", "join"))
        if sender_is != "join" or (case.target_is == "ban" and case.sender_power < BAN):
            return False
        return case.sender_power >= KICK and case.target_power < case.sender_power
    if case.membership == "ban":
        target_power = case.sender_power if case.is_own else case.target_power
        return sender_is == "join" and case.sender_power >= BAN and target_power < case.sender_power
    if case.membership == "knock" and number >= 7:
        knockable = ("knock", "knock_restricted") if number >= 10 else ("knock",)
        return case.join_rule in knockable and case.is_own and sender_is not in ("ban", "invite", "join")
    return False  # "Otherwise, the membership is unknown. Reject."


def _may_join(number: int, case: Case, sender_is: str | None) -> bool:
    if not case.is_own or sender_is == "ban":
        return False
    # Spec: client-server API, `m.room.join_rules`: a room without the event is by invite.
    rule = case.join_rule or "invite"
    by_invite = ("invite", "knock") if number >= 7 else ("invite",)
    if rule in by_invite:
        return sender_is in ("invite", "join")
    restricted: tuple[str, ...] = ()
    if number >= 8:
        restricted = ("restricted",)
    if number >= 10:
        restricted = ("restricted", "knock_restricted")
    if rule in restricted:
        return sender_is in ("invite", "join") or (case.authoriser_is == "join" and case.authoriser_power >= INVITE)
    return rule == "public"


def check(version: RoomVersion, case: Case) -> str | None:
    """Return what differs from the oracle, or None."""
    # The unstable versions end with the number of the one that they are made of; none has its own rule here.
    number = int(version.identifier.rpartition(".")[2])
    room = StateRoom(version)
    target = BOB if case.is_own else CAROL
    room.set_power(
        {BOB: case.sender_power, CAROL: case.target_power, DAVE: case.authoriser_power},
        invite=INVITE,
        kick=KICK,
        ban=BAN,
    )
    if not case.is_own:
        room.set_member(BOB, case.sender_is)
    room.set_member(target, case.target_is)
    if case.join_rule is not None:
        room.set_join_rule(case.join_rule)
    content = {}
    if case.authoriser_is is not None:
        room.set_member(DAVE, case.authoriser_is)
        content["join_authorised_via_users_server"] = DAVE
    rule = broken_rule(room, room.member(BOB, target, case.membership, **content))
    return None if (rule is None) is is_allowed(number, case) else f"{case} gives {rule or 'allowed'}"


def differences(version: RoomVersion, cases: list[Case]) -> list[str]:
    return [difference for case in cases if (difference := check(version, case)) is not None]


@PARAMETERS
@pytest.mark.parametrize("membership", ["join", "invite", "knock", "leave", "ban", "unknown", ""])
def test_own_membership_changes_as_the_text_says(version: RoomVersion, membership: str) -> None:
    cases = [
        Case(membership, True, target_is=now, sender_power=power, target_power=power, join_rule=rule)
        for now, power, rule in product(MEMBERSHIPS, POWERS, JOIN_RULES)
    ]
    assert [] == differences(version, cases)


@PARAMETERS
@pytest.mark.parametrize("membership", ["join", "invite", "knock", "leave", "ban", "unknown"])
def test_membership_of_another_changes_as_the_text_says(version: RoomVersion, membership: str) -> None:
    cases = [
        Case(membership, False, sender, target, sender_power, target_power, rule)
        for sender, target, sender_power, target_power, rule in product(
            MEMBERSHIPS, MEMBERSHIPS, POWERS, (0, 40, 60, 100), ("public", "knock")
        )
    ]
    assert [] == differences(version, cases)


@PARAMETERS
def test_authorised_join_is_as_the_text_says(version: RoomVersion) -> None:
    cases = [
        Case("join", True, target_is=now, join_rule=rule, authoriser_is=authoriser, authoriser_power=power)
        for now, rule, authoriser, power in product(MEMBERSHIPS, JOIN_RULES, MEMBERSHIPS, (0, 29, 30, 100))
    ]
    assert [] == differences(version, cases)


# -- third-party invites, clause by clause ---------------------------------------------------------------------------

KEY = generate_signing_key(b"\x01" * 32, "1")
OTHER_KEY = generate_signing_key(b"\x02" * 32, "1")
INVITE_CONTENT = {"public_key": KEY.verify_key_base64, "key_validity_url": "https://10.0.0.1/", "display_name": "c"}
SIGNED = sign_json({"mxid": CAROL, "token": "token"}, "id.example", KEY)
BY_ANOTHER = sign_json({"mxid": CAROL, "token": "token"}, "id.example", OTHER_KEY)
WITHOUT_TOKEN = sign_json({"mxid": CAROL}, "id.example", KEY)
WITHOUT_MXID = sign_json({"token": "token"}, "id.example", KEY)
FOR_ANOTHER = sign_json({"mxid": DAVE, "token": "token"}, "id.example", KEY)
OTHER_TOKEN = sign_json({"mxid": CAROL, "token": "forged"}, "id.example", KEY)
CROWD = {f"a{i}": {"ed25519:1": "A" * 86} for i in range(MAX_SIGNATURES)}


@PARAMETERS
@pytest.mark.parametrize(
    ("third_party_invite", "invite", "target_is", "expected"),
    [
        pytest.param({"signed": SIGNED}, INVITE_CONTENT, None, True, id="signed"),
        pytest.param({"signed": SIGNED}, INVITE_CONTENT, "leave", True, id="who left"),
        # Only a ban is named by the text: a member may be invited again so.
        pytest.param({"signed": SIGNED}, INVITE_CONTENT, "join", True, id="who joined"),
        pytest.param({"signed": SIGNED}, INVITE_CONTENT, "ban", False, id="1 banned"),
        pytest.param({}, INVITE_CONTENT, None, False, id="2 not signed"),
        pytest.param(None, INVITE_CONTENT, None, False, id="2 null"),
        pytest.param([SIGNED], INVITE_CONTENT, None, False, id="2 list"),
        pytest.param({"signed": None}, INVITE_CONTENT, None, False, id="2 signed null"),
        pytest.param({"signed": [SIGNED]}, INVITE_CONTENT, None, False, id="2 signed list"),
        pytest.param({"signed": WITHOUT_TOKEN}, INVITE_CONTENT, None, False, id="3 no token"),
        pytest.param({"signed": WITHOUT_MXID}, INVITE_CONTENT, None, False, id="3 no mxid"),
        pytest.param({"signed": {**SIGNED, "token": ["token"]}}, INVITE_CONTENT, None, False, id="3 token list"),
        pytest.param({"signed": FOR_ANOTHER}, INVITE_CONTENT, None, False, id="4 another user"),
        pytest.param({"signed": OTHER_TOKEN}, INVITE_CONTENT, None, False, id="5 forged token"),
        pytest.param({"signed": SIGNED}, None, None, False, id="5 no such invite"),
        pytest.param({"signed": SIGNED}, {}, None, False, id="7 revoked"),
        pytest.param({"signed": BY_ANOTHER}, INVITE_CONTENT, None, False, id="7 another key"),
        pytest.param(
            {"signed": BY_ANOTHER},
            {**INVITE_CONTENT, "public_keys": [{"public_key": OTHER_KEY.verify_key_base64}]},
            None,
            True,
            id="7.2 key in the list",
        ),
        pytest.param(
            {"signed": SIGNED},
            {"public_keys": [None, 7, {}, {"public_key": 7}, {"public_key": KEY.verify_key_base64}]},
            None,
            True,
            id="7.2 among odd ones",
        ),
        pytest.param({"signed": {**SIGNED, "signatures": {}}}, INVITE_CONTENT, None, False, id="7 no signature"),
        pytest.param({"signed": {**SIGNED, "signatures": None}}, INVITE_CONTENT, None, False, id="7 null"),
        pytest.param({"signed": {**SIGNED, "extra": 1}}, INVITE_CONTENT, None, False, id="7 tampered"),
        pytest.param({"signed": {**SIGNED, "unsigned": {"a": 1}}}, INVITE_CONTENT, None, True, id="7 unsigned part"),
        pytest.param({"signed": SIGNED}, {"public_key": "A" * 43}, None, False, id="7 zero key"),
        pytest.param({"signed": SIGNED}, {"public_key": {"a": 1}}, None, False, id="7 key object"),
        pytest.param(
            {"signed": {**SIGNED, "signatures": {**CROWD, **SIGNED["signatures"]}}},
            INVITE_CONTENT,
            None,
            False,
            id="7 beyond the limit",
        ),
    ],
)
def test_third_party_invite_clause(
    version: RoomVersion,
    third_party_invite: object,
    invite: dict[str, object] | None,
    target_is: str | None,
    expected: bool,
) -> None:
    room = StateRoom(version)
    room.set_member(CAROL, target_is)
    if invite is not None:
        room.set_state("m.room.third_party_invite", invite, "token")
    event = room.member(ALICE, CAROL, "invite", third_party_invite=third_party_invite)
    assert expected is (broken_rule(room, event) is None)


@PARAMETERS
def test_third_party_invite_is_used_by_who_made_it_only(version: RoomVersion) -> None:
    room = StateRoom(version)
    room.set_member(BOB, "join")
    room.set_state("m.room.third_party_invite", INVITE_CONTENT, "token", by=BOB)
    assert broken_rule(room, room.member(ALICE, CAROL, "invite", third_party_invite={"signed": SIGNED})) is not None
    assert broken_rule(room, room.member(BOB, CAROL, "invite", third_party_invite={"signed": SIGNED})) is None
