from typing import Any

import nacl.bindings
import pytest
import signedjson.key
import signedjson.sign
from hypothesis import given
from hypothesis import strategies as st

from homeserver.errors import BadJson
from homeserver.model.base64 import decode_base64, encode_base64
from homeserver.model.hashing import with_content_hash
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V10, RoomVersion
from homeserver.model.signing import (
    BadKey,
    BadSignature,
    VerifyKey,
    generate_signing_key,
    is_key_id,
    key_file_line,
    parse_key_file,
    sign_event,
    sign_json,
    signature_in,
    verify_signed_event,
    verify_signed_json,
)

from .test_canonical_json import STRICT_VALUES
from .test_hashing import MINIMAL, REDACTABLE

# Spec: appendices, "Cryptographic Test Vectors".
SEED = decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
KEY = generate_signing_key(SEED, "1")
OTHER_KEY = generate_signing_key(b"o" * 32, "2")
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(
    ("obj", "signature"),
    [
        ({}, "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
        (
            {"one": 1, "two": "Two"},
            "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
        ),
    ],
    ids=["empty", "data"],
)
def test_signed_objects_of_the_spec(obj: dict[str, Any], signature: str) -> None:
    assert {**obj, "signatures": {"domain": {"ed25519:1": signature}}} == sign_json(obj, "domain", KEY)


@pytest.mark.parametrize(
    ("wire", "signature"),
    [
        (MINIMAL, "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"),
        (REDACTABLE, "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"),
    ],
    ids=["minimal", "redactable"],
)
def test_signed_events_of_the_spec(wire: dict[str, Any], signature: str) -> None:
    hashed = with_content_hash(wire)
    signed = sign_event(V10, hashed, "domain", KEY)
    assert {**hashed, "signatures": {"domain": {"ed25519:1": signature}}} == signed


@given(st.dictionaries(st.text(max_size=5), STRICT_VALUES, max_size=5))
def test_objects_are_signed_as_the_reference_does(obj: dict[str, Any]) -> None:
    obj = {name: value for name, value in obj.items() if name not in ("signatures", "unsigned")}
    theirs = signedjson.key.decode_signing_key_base64("ed25519", "1", encode_base64(SEED))
    assert signedjson.sign.sign_json(dict(obj), "domain", theirs) == sign_json(obj, "domain", KEY)


def test_a_signature_joins_those_that_are_there() -> None:
    obj = {"a": 1, "signatures": {"other": {"ed25519:x": "X"}, "domain": {"ed25519:y": "Y"}}, "unsigned": {"age": 1}}
    signed = sign_json(obj, "domain", KEY)
    assert {"ed25519:x": "X"} == signed["signatures"]["other"]
    assert ["ed25519:y", "ed25519:1"] == list(signed["signatures"]["domain"])
    assert {"age": 1} == signed["unsigned"]
    assert {"other": {"ed25519:x": "X"}, "domain": {"ed25519:y": "Y"}} == obj["signatures"]
    verify_signed_json(signed, "domain", KEY.key_id, KEY.verify_key)


@pytest.mark.parametrize("signatures", [None, "x", [], {"domain": "x"}, {"domain": []}, {"domain": None}])
def test_signatures_of_the_wrong_type_are_replaced(signatures: Any) -> None:
    signed = sign_json({"signatures": signatures}, "domain", KEY)
    verify_signed_json(signed, "domain", KEY.key_id, KEY.verify_key)


def test_a_signature_does_not_cover_what_is_unsigned() -> None:
    signed = sign_json({"a": 1, "unsigned": {"age": 1}}, "domain", KEY)
    signed["unsigned"] = {"age": 2}
    signed["signatures"]["other"] = {"ed25519:x": "X"}
    verify_signed_json(signed, "domain", KEY.key_id, KEY.verify_key)


@pytest.mark.parametrize(
    ("server_name", "key_id", "key"),
    [
        ("other", "ed25519:1", KEY),
        ("domain", "ed25519:2", KEY),
        ("domain", "ed25519:1", OTHER_KEY),
        ("domain", "curve25519:1", KEY),
        ("domain", "", KEY),
    ],
)
def test_another_name_or_key_does_not_fit(server_name: str, key_id: str, key: Any) -> None:
    with pytest.raises(BadSignature):
        verify_signed_json(sign_json({"a": 1}, "domain", KEY), server_name, key_id, key.verify_key)


def test_a_changed_object_does_not_fit() -> None:
    with pytest.raises(BadSignature):
        verify_signed_json({**sign_json({"a": 1}, "domain", KEY), "a": 2}, "domain", KEY.key_id, KEY.verify_key)


@pytest.mark.parametrize(
    "signature",
    [None, 1, [], {}, "", "A", "A" * 85, "A" * 86, "A" * 89, "A" * 100_000, "A" * 85 + "!", "A" * 85 + "é", "=" * 88],
    ids=lambda value: repr(value)[:20],
)
def test_signatures_of_any_shape_are_refused_and_no_more(signature: Any) -> None:
    obj = {"signatures": {"domain": {"ed25519:1": signature}}}
    with pytest.raises(BadSignature):
        verify_signed_json(obj, "domain", "ed25519:1", KEY.verify_key)


def test_a_signature_may_be_padded() -> None:
    signed = sign_json({"a": 1}, "domain", KEY)
    signed["signatures"]["domain"]["ed25519:1"] += "=="
    verify_signed_json(signed, "domain", KEY.key_id, KEY.verify_key)


def test_a_second_signature_cannot_be_written_from_a_first() -> None:
    signed = sign_json({"a": 1}, "domain", KEY)
    signature = signature_in(signed, "domain", "ed25519:1")
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    signed["signatures"]["domain"]["ed25519:1"] = encode_base64(signature[:32] + scalar.to_bytes(32, "little"))
    with pytest.raises(BadSignature):
        verify_signed_json(signed, "domain", "ed25519:1", KEY.verify_key)


def test_a_signature_with_a_point_of_low_order_is_refused() -> None:
    for point in LOW_ORDER_POINTS:
        with pytest.raises(BadSignature):
            KEY.verify_key.check(b"{}", bytes.fromhex(point) + bytes(32))


def test_what_has_no_canonical_form_is_bad_json() -> None:
    with pytest.raises(BadJson):
        sign_json({"a": "\ud800"}, "domain", KEY)


# The points of order 1, 2, 4 and 8, with the encodings of them that are not canonical.
LOW_ORDER_POINTS = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "00" * 31 + "80",
    "01" + "00" * 30 + "80",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "ec" + "ff" * 31,
    "ed" + "ff" * 31,
    "ee" + "ff" * 31,
    "ff" * 32,
]


@pytest.mark.parametrize("point", LOW_ORDER_POINTS)
def test_keys_that_fit_any_signature_are_refused(point: str) -> None:
    with pytest.raises(BadKey):
        VerifyKey.of(bytes.fromhex(point))


def test_a_key_outside_the_prime_order_group_is_refused() -> None:
    point_of_order_8 = bytes.fromhex(LOW_ORDER_POINTS[3])
    mixed = nacl.bindings.crypto_core_ed25519_add(KEY.verify_key.public_key, point_of_order_8)
    with pytest.raises(BadKey):
        VerifyKey.of(mixed)


@pytest.mark.parametrize(
    "text",
    [None, 1, "", "A" * 42, "A" * 43, "A" * 45, "!" * 43, "A" * 10**6, b"A" * 43, ["A" * 43]],
    ids=lambda v: repr(v)[:20],
)
def test_keys_of_any_shape_are_refused_and_no_more(text: Any) -> None:
    with pytest.raises(BadKey):
        VerifyKey.parse(text)


def test_a_key_is_read_as_it_is_written() -> None:
    assert "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI" == KEY.verify_key_base64
    assert KEY.verify_key == VerifyKey.parse(KEY.verify_key_base64)
    assert KEY.verify_key_base64 == KEY.verify_key.to_wire()


def test_a_secret_key_does_not_show() -> None:
    assert "SigningKey(key_id='ed25519:1')" == repr(KEY)


@pytest.mark.parametrize("version", ["", "a b", "a:b", "é", "a\n", "-", "a" * 248])
def test_our_key_ids_are_made_of_letters_digits_and_underscores(version: str) -> None:
    with pytest.raises(BadKey):
        generate_signing_key(SEED, version)


@pytest.mark.parametrize("seed", [b"", b"x" * 31, b"x" * 33, b"x" * 64])
def test_a_seed_has_32_bytes(seed: bytes) -> None:
    with pytest.raises(BadKey):
        generate_signing_key(seed, "1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ed25519:a_abcd", True),
        ("ed25519:JLAFKJWSCS", True),
        ("ed25519:nqOvzeuGWT/sRx3h7+MHoInYj3Uk2LD/unI9kDYcHwk", True),
        ("ed25519:" + "a" * 247, True),
        ("ed25519:" + "a" * 248, False),
        ("ed25519:", False),
        ("ed25519", False),
        ("rsa:1", False),
        ("ed25519:a\n", False),
        ("ed25519:a b", False),
        ("ed25519:é", False),
        (None, False),
        (1, False),
    ],
)
def test_key_ids_are_bounded(text: Any, expected: bool) -> None:
    assert expected is is_key_id(text)


@pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)
def test_a_signature_of_an_event_holds_for_its_redacted_form(version: RoomVersion) -> None:
    signed = sign_event(version, with_content_hash(REDACTABLE), "domain", KEY)
    redacted = {**signed, "content": {}, "unsigned": {"redacted_because": {}}}
    verify_signed_event(version, signed, "domain", KEY.key_id, KEY.verify_key)
    verify_signed_event(version, redacted, "domain", KEY.key_id, KEY.verify_key)
    with pytest.raises(BadSignature):
        verify_signed_event(version, {**signed, "sender": "@b:domain"}, "domain", KEY.key_id, KEY.verify_key)


# -- key files --


def test_a_key_file_is_read_as_it_is_written() -> None:
    text = key_file_line(KEY) + key_file_line(OTHER_KEY)
    assert "ed25519 1 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA0\n" == key_file_line(KEY)
    keys = parse_key_file(text)
    assert ["ed25519:1", "ed25519:2"] == [key.key_id for key in keys]
    assert text == "".join(map(key_file_line, keys))


def test_a_key_file_of_the_reference_is_read() -> None:
    theirs = signedjson.key.generate_signing_key("a_abcd")
    text = f"ed25519 a_abcd {signedjson.key.encode_signing_key_base64(theirs)}\n"
    (key,) = parse_key_file(text)
    assert "ed25519:a_abcd" == key.key_id
    assert text == key_file_line(key)
    assert signedjson.key.encode_verify_key_base64(signedjson.key.get_verify_key(theirs)) == key.verify_key_base64


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("\n \n", None),
        ("ed25519 1", 1),
        ("rsa 1 AAAA", 1),
        ("ed25519 1 AAAA", 1),
        ("\ned25519 1 secret!", 2),
        (key_file_line(KEY) + key_file_line(KEY), 2),
        (key_file_line(KEY).replace(" 1 ", " : "), 1),
    ],
)
def test_a_bad_key_file_is_refused_without_telling_the_key(text: str, line: int | None) -> None:
    with pytest.raises(BadKey) as raised:
        parse_key_file(text)
    assert line is None or f"line {line}: " in str(raised.value)
    assert "secret" not in str(raised.value)
    assert encode_base64(SEED) not in str(raised.value)
