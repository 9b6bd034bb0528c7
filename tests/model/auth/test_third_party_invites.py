"""Rule 5.4.1: third-party invites, with real keys.

Spec: rooms/v12, "Authorisation rules", 5.4.1.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest
from nacl.signing import SigningKey

from homeserver.model.canonical_json import encode_canonical
from homeserver.model.room_versions import V12, RoomVersion

from ..rooms_in_memory import ALICE, BOB, CAROL, VERSIONS, StateRoom, broken_rule, expected_rule

KEY = SigningKey(b"1" * 32)
OTHER_KEY = SigningKey(b"2" * 32)


def unpadded(value: bytes) -> str:
    return base64.b64encode(value).decode().rstrip("=")


PUBLIC = unpadded(bytes(KEY.verify_key))
URL_SAFE = base64.urlsafe_b64encode(bytes(KEY.verify_key)).decode().rstrip("=")
OTHER_PUBLIC = unpadded(bytes(OTHER_KEY.verify_key))


def signed(mxid: Any = CAROL, token: Any = "token", key: SigningKey = KEY, key_id: str = "ed25519:0") -> dict[str, Any]:
    payload = {"mxid": mxid, "token": token}
    signature = unpadded(key.sign(encode_canonical(payload)).signature)
    return {**payload, "signatures": {"id.example": {key_id: signature}}}


def room_with_invite(version: RoomVersion = V12, **content: Any) -> StateRoom:
    room = StateRoom(version)
    room.set_power(invite=0)
    room.set_member(BOB, "join")
    room.set_state("m.room.third_party_invite", content or {"public_key": PUBLIC}, "token", by=BOB)
    return room


@VERSIONS
@pytest.mark.parametrize(
    ("claim", "rule"),
    [
        pytest.param({"signed": signed()}, None, id="good"),
        pytest.param({"signed": {**signed(), "unsigned": {"age": 1}}}, None, id="unsigned is not signed"),
        pytest.param({}, "5.4.1.2", id="not signed"),
        pytest.param({"signed": None}, "5.4.1.2", id="signed null"),
        pytest.param({"signed": []}, "5.4.1.2", id="signed list"),
        pytest.param("x", "5.4.1.2", id="text"),
        pytest.param(None, "5.4.1.2", id="null"),
        pytest.param({"signed": {"mxid": CAROL}}, "5.4.1.3", id="no token"),
        pytest.param({"signed": {"token": "token"}}, "5.4.1.3", id="no mxid"),
        pytest.param({"signed": signed(token=["token"])}, "5.4.1.3", id="token list"),
        pytest.param({"signed": signed(mxid=BOB)}, "5.4.1.4", id="another user"),
        pytest.param({"signed": signed(token="forged")}, "5.4.1.5", id="unknown token"),
        pytest.param({"signed": signed(key=OTHER_KEY)}, "5.4.1.8", id="another key"),
        pytest.param({"signed": signed(key_id="rsa:0")}, "5.4.1.8", id="unknown algorithm"),
        pytest.param({"signed": {**signed(), "added": 1}}, "5.4.1.8", id="tampered"),
        pytest.param({"signed": {**signed(), "added": 1.5}}, "5.4.1.8", id="not canonical"),
        pytest.param({"signed": {**signed(), "signatures": {}}}, "5.4.1.8", id="no signatures"),
        pytest.param({"signed": {**signed(), "signatures": {"a": []}}}, "5.4.1.8", id="signatures list"),
        pytest.param({"signed": {**signed(), "signatures": {"a": {"ed25519:0": 7}}}}, "5.4.1.8", id="signature int"),
        pytest.param({"signed": {**signed(), "signatures": {"a": {"ed25519:0": "é"}}}}, "5.4.1.8", id="not base64"),
    ],
)
def test_claim(version: RoomVersion, claim: Any, rule: str | None) -> None:
    room = room_with_invite(version)
    event = room.member(BOB, CAROL, "invite", third_party_invite=claim)
    assert expected_rule(version, rule) == broken_rule(room, event)


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        pytest.param({"public_key": URL_SAFE}, None, id="URL-safe alphabet"),
        pytest.param({"public_key": PUBLIC + "="}, None, id="padded"),
        pytest.param({"public_key": OTHER_PUBLIC, "public_keys": [{"public_key": PUBLIC}]}, None, id="second key"),
        pytest.param({"public_keys": [7, {"public_key": None}, {"public_key": PUBLIC}]}, None, id="odd entries"),
        pytest.param({"x": 1}, "5.4.1.8", id="revoked"),
        pytest.param({"public_key": 7, "public_keys": "x"}, "5.4.1.8", id="wrong types"),
        pytest.param({"public_key": "short"}, "5.4.1.8", id="short key"),
        pytest.param({"public_key": unpadded(bytes(32))}, "5.4.1.8", id="all-zero key"),
        pytest.param({"public_keys": [{"public_key": OTHER_PUBLIC}] * 9999}, "5.4.1.8", id="many keys"),
    ],
)
def test_keys(content: dict[str, Any], rule: str | None) -> None:
    room = room_with_invite(**content)
    event = room.member(BOB, CAROL, "invite", third_party_invite={"signed": signed()})
    assert rule == broken_rule(room, event)


@pytest.mark.parametrize("signer", ["a.example", "zz.example"])
@pytest.mark.parametrize("by_one", [False, True], ids=["many signers", "many keys"])
def test_which_of_many_signatures_are_tried_does_not_depend_on_their_order(signer: str, by_one: bool) -> None:
    room = room_with_invite()
    good = signed()["signatures"]["id.example"]["ed25519:0"]
    texts = {f"m{number}.example": unpadded(bytes(64)) for number in range(20)} | {signer: good}
    verdicts = set()
    for names in (list(texts), list(reversed(texts))):
        by_name = {f"ed25519:{name}" if by_one else name: texts[name] for name in names}
        signatures = {"id.example": by_name} if by_one else {name: {"ed25519:0": by_name[name]} for name in names}
        claim = {"signed": {**signed(), "signatures": signatures}}
        verdicts.add(broken_rule(room, room.member(BOB, CAROL, "invite", third_party_invite=claim)))
    assert {None if signer < "m" else "5.4.1.8"} == verdicts


def test_only_who_made_it_may_exchange_it() -> None:
    room = room_with_invite()
    event = room.member(ALICE, CAROL, "invite", third_party_invite={"signed": signed()})
    assert "5.4.1.6" == broken_rule(room, event)


def test_a_banned_user_is_not_let_in_by_it() -> None:
    room = room_with_invite()
    room.set_member(CAROL, "ban")
    event = room.member(BOB, CAROL, "invite", third_party_invite={"signed": signed()})
    assert "5.4.1.1" == broken_rule(room, event)


def test_all_zero_signature_under_a_low_order_key_is_refused() -> None:
    identity_point = unpadded(b"\x01" + bytes(31))
    room = room_with_invite(public_key=identity_point)
    forged = {
        "mxid": CAROL,
        "token": "token",
        "signatures": {"id.example": {"ed25519:0": unpadded(b"\x01" + bytes(63))}},
    }
    event = room.member(BOB, CAROL, "invite", third_party_invite={"signed": forged})
    assert "5.4.1.8" == broken_rule(room, event)
