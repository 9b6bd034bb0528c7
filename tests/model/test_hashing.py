import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.hashing import (
    content_hash,
    event_id_of,
    has_valid_content_hash,
    reference_hash,
    with_content_hash,
)
from homeserver.model.redaction import redact
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V1, V3, V4, V10, V11, RoomVersion
from homeserver.model.signing import generate_signing_key, sign_event, verify_signed_event

from .test_canonical_json import STRICT_VALUES
from .test_event_json import LAX_VALUES

KEY = generate_signing_key(b"k" * 32, "1")

# Spec: appendices, "Event Signing".
MINIMAL: dict[str, Any] = {
    "room_id": "!x:domain",
    "sender": "@a:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "signatures": {},
    "hashes": {},
    "type": "X",
    "content": {},
    "prev_events": [],
    "auth_events": [],
    "depth": 3,
    "unsigned": {"age_ts": 1000000},
}
REDACTABLE: dict[str, Any] = {
    "content": {"body": "Here is the message content"},
    "event_id": "$0:domain",
    "origin": "domain",
    "origin_server_ts": 1000000,
    "type": "m.room.message",
    "room_id": "!r:domain",
    "sender": "@u:domain",
    "signatures": {},
    "unsigned": {"age_ts": 1000000},
}
VECTORS = [
    (MINIMAL, "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"),
    (REDACTABLE, "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"),
]


def _plainly(essential: dict[str, Any]) -> bytes:
    """Return the SHA-256 of an object, by nothing but the standard library."""
    return hashlib.sha256(
        json.dumps(essential, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    ).digest()


@pytest.mark.parametrize(("wire", "expected"), VECTORS, ids=["minimal", "redactable"])
def test_content_hashes_of_the_spec(wire: dict[str, Any], expected: str) -> None:
    assert expected == content_hash(wire)
    hashed = with_content_hash(wire)
    assert {"sha256": expected} == hashed["hashes"]
    assert has_valid_content_hash(hashed)


@pytest.mark.parametrize("hashes", [None, {}, {"sha256": None}, {"sha256": "x"}, {"sha512": "x"}, [], "x"])
def test_an_event_with_another_content_hash_is_found_out(hashes: Any) -> None:
    assert not has_valid_content_hash({**MINIMAL, "hashes": hashes})


def test_one_content_hash_may_be_written_in_several_ways() -> None:
    hashed = with_content_hash(MINIMAL)
    text = hashed["hashes"]["sha256"]
    assert "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos" == text
    for same in (text + "=", text[:-1] + "t"):
        assert has_valid_content_hash({**hashed, "hashes": {"sha256": same}})
    for other in (text + "==", text[:-1] + "A", text.replace("+", "-"), text + " ", "é" * 43):
        assert not has_valid_content_hash({**hashed, "hashes": {"sha256": other}})


def test_the_content_hash_covers_everything_that_is_not_unsigned() -> None:
    hashed = with_content_hash(REDACTABLE)
    assert has_valid_content_hash({**hashed, "unsigned": {}, "signatures": {"x": {"y": "z"}}})
    assert not has_valid_content_hash({**hashed, "content": {"body": "other"}})
    assert not has_valid_content_hash({**hashed, "org.example.more": 1})


def test_the_id_is_a_field_where_it_is_chosen() -> None:
    assert "$0:domain" == event_id_of(V1, REDACTABLE)


@pytest.mark.parametrize("version", [V3, V4, V10], ids=lambda version: version.identifier)
def test_the_id_is_the_reference_hash_in_the_base64_of_the_version(version: RoomVersion) -> None:
    essential = {name: value for name, value in MINIMAL.items() if name not in ("unsigned", "signatures")}
    encode = base64.b64encode if version is V3 else base64.urlsafe_b64encode
    # The alphabets differ in 2 of 64 characters: look for an event whose ID shows it.
    for depth in range(50):
        essential["depth"] = depth
        expected = encode(_plainly(essential)).decode().rstrip("=")
        assert expected == reference_hash(version, {**MINIMAL, "depth": depth})
        assert f"${expected}" == event_id_of(version, {**MINIMAL, "depth": depth})


def test_origin_is_no_part_of_the_id_from_version_11_on() -> None:
    other = {**MINIMAL, "origin": "elsewhere"}
    assert event_id_of(V10, MINIMAL) != event_id_of(V10, other)
    assert event_id_of(V11, MINIMAL) == event_id_of(V11, other)


@pytest.mark.parametrize(
    "version", [v for v in KNOWN_ROOM_VERSIONS.values() if not v.references_carry_hashes], ids=lambda v: v.identifier
)
def test_the_id_outlives_redaction_and_does_not_hang_on_what_nobody_signed(version: RoomVersion) -> None:
    wire = with_content_hash(REDACTABLE)
    event_id = event_id_of(version, wire)
    assert event_id == event_id_of(version, {**wire, "content": {}, "unsigned": {"x": 1}, "signatures": {"a": {}}})
    assert event_id != event_id_of(version, {**wire, "hashes": {"sha256": "other"}})


@given(st.sampled_from(list(KNOWN_ROOM_VERSIONS.values())), st.data())
def test_redaction_keeps_id_reference_hash_and_signature(version: RoomVersion, data: Any) -> None:
    values = STRICT_VALUES if version.strict_canonical_json else LAX_VALUES
    event_type = data.draw(
        st.sampled_from(["m.room.create", "m.room.member", "m.room.power_levels", "m.room.aliases", "m.room.redaction"])
    )
    names = [
        "creator",
        "membership",
        "third_party_invite",
        "users",
        "invite",
        "aliases",
        "redacts",
        "x",
        "m.relates_to",
    ]
    content = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=5))
    more = data.draw(st.dictionaries(st.sampled_from(["origin", "membership", "prev_state", "redacts", "y"]), values))
    wire = with_content_hash({**MINIMAL, "event_id": "$e:domain", "type": event_type, "content": content, **more})
    signed = sign_event(version, wire, "domain", KEY)
    redacted = redact(version, signed)
    assert redacted == redact(version, redacted)
    assert event_id_of(version, signed) == event_id_of(version, redacted)
    assert reference_hash(version, signed) == reference_hash(version, redacted)
    verify_signed_event(version, redacted, "domain", KEY.key_id, KEY.verify_key)
    assert has_valid_content_hash(signed, version)
