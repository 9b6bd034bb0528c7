"""Lists of server keys: ours, those of others, and what notaries pass on.

Spec: server-server API, "Retrieving server keys"; rooms/v5, "Signing key validity period".
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.base64 import decode_base64, encode_base64
from homeserver.model.server_keys import (
    MAX_LISTS,
    MAX_OLD_KEYS,
    MAX_VALIDITY_MS,
    MAX_VERIFY_KEYS,
    BadServerKeys,
    ServerKeys,
    build_server_keys,
    check_notary,
    parse_notary_answer,
    parse_server_keys,
)
from homeserver.model.signing import SigningKey, VerifyKey, generate_signing_key, sign_json, verify_signed_json

NOW = 1_700_000_000_000
HOUR = 3_600_000
SERVER, NOTARY = "a.example", "notary.example"
KEY, SECOND, OLD, STRANGER = (generate_signing_key(name.encode() * 32, name) for name in "abcd")
NOTARY_KEYS = {STRANGER.key_id: STRANGER.verify_key}
GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def made(*keys: SigningKey, until: int = NOW + HOUR, server_name: str = SERVER) -> dict[str, Any]:
    old = {OLD.key_id: (OLD.verify_key, NOW - HOUR)}
    return build_server_keys(server_name, keys or (KEY,), old, until)


def read(wire: Any, fetched_ts: int = NOW) -> ServerKeys:
    return parse_server_keys(wire, SERVER, fetched_ts)


def changed(**changes: Any) -> dict[str, Any]:
    """Return a list with some fields changed, signed as if its server had meant it."""
    wire = {**made(), **changes}
    del wire["signatures"]
    return sign_json(wire, SERVER, KEY)


# -- ours ------------------------------------------------------------------------------------------------------------


def test_our_list_has_the_form_of_the_spec_and_is_signed_with_all_its_keys() -> None:
    wire = made(KEY, SECOND)
    for key in (KEY, SECOND):
        verify_signed_json(wire, SERVER, key.key_id, key.verify_key)
    assert {SERVER: {KEY.key_id, SECOND.key_id}} == {name: set(keys) for name, keys in wire.pop("signatures").items()}
    assert {
        "server_name": SERVER,
        "valid_until_ts": NOW + HOUR,
        "verify_keys": {key.key_id: {"key": key.verify_key_base64} for key in (KEY, SECOND)},
        "old_verify_keys": {OLD.key_id: {"key": OLD.verify_key_base64, "expired_ts": NOW - HOUR}},
    } == wire


def test_our_list_is_read_as_it_was_made() -> None:
    found = read(made(KEY, SECOND))
    assert (SERVER, NOW + HOUR, NOW) == (found.server_name, found.valid_until_ts, found.fetched_ts)
    assert {KEY.key_id, SECOND.key_id, OLD.key_id} == set(found.keys)


# -- when a key counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "at_ts", "enforced", "unexpired"),
    [
        (KEY, NOW, True, True),
        (KEY, NOW + HOUR, True, True),
        (KEY, NOW + HOUR + 1, False, True),
        (KEY, 2**60, False, True),
        (OLD, NOW - HOUR, True, True),
        (OLD, NOW - HOUR + 1, False, False),
        (OLD, 0, True, True),
        (STRANGER, NOW, False, False),
    ],
)
def test_when_a_key_counts(key: SigningKey, at_ts: int, enforced: bool, unexpired: bool) -> None:
    found = read(made())
    assert (key.verify_key if enforced else None) == found.key(key.key_id, at_ts)
    assert (key.verify_key if unexpired else None) == found.unexpired_key(key.key_id, at_ts)


def test_no_key_is_valid_for_more_than_seven_days() -> None:
    found = read(made(until=NOW + 100 * 365 * 24 * HOUR))
    assert NOW + MAX_VALIDITY_MS == found.valid_until_ts
    assert found.key(KEY.key_id, NOW + MAX_VALIDITY_MS)
    assert not found.key(KEY.key_id, NOW + MAX_VALIDITY_MS + 1)


def test_a_list_of_the_past_serves_for_the_past() -> None:
    found = read(made(until=NOW - HOUR))
    assert found.key(KEY.key_id, NOW - HOUR)
    assert not found.key(KEY.key_id, NOW)


def test_an_old_key_is_never_valid_ahead() -> None:
    entry = {"key": OLD.verify_key_base64, "expired_ts": NOW + 10**12}
    found = read(changed(old_verify_keys={OLD.key_id: entry}))
    assert not found.key(OLD.key_id, NOW + MAX_VALIDITY_MS + 1)


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wire",
    [
        None,
        [],
        "x",
        {},
        changed(server_name="b.example"),
        changed(server_name=None),
        changed(server_name=SERVER.upper()),
        changed(valid_until_ts="1"),
        changed(valid_until_ts=None),
        changed(valid_until_ts=True),
        changed(valid_until_ts=-1),
        changed(verify_keys=None),
        changed(verify_keys=[]),
        changed(verify_keys={}),
        changed(verify_keys={KEY.key_id: KEY.verify_key_base64}),
        changed(verify_keys={KEY.key_id: {"key": STRANGER.verify_key_base64}}),
        changed(old_verify_keys=[]),
        changed(verify_keys={f"ed25519:{n}": {"key": KEY.verify_key_base64} for n in range(MAX_VERIFY_KEYS + 1)}),
        changed(old_verify_keys={f"ed25519:{n}": {} for n in range(MAX_OLD_KEYS + 1)}),
        {**made(), "signatures": {}},
        {**made(), "signatures": None},
        {**made(), "signatures": {SERVER: []}},
        {**made(), "signatures": {SERVER: {KEY.key_id: "x"}}},
        {**made(), "valid_until_ts": NOW + HOUR + 1},
        {**made(), "x": float("nan")},
        {**made(), "x": "\ud800"},
        {**made(), "x": {1}},
    ],
    ids=repr,
)
def test_a_list_that_is_none_is_refused(wire: Any) -> None:
    with pytest.raises(BadServerKeys):
        read(wire)


def test_a_deeply_nested_list_is_refused() -> None:
    deep: Any = []
    for _ in range(50_000):
        deep = [deep]
    with pytest.raises(BadServerKeys):
        read({**made(), "x": deep})


def test_a_key_that_did_not_sign_the_list_is_not_believed() -> None:
    verify_keys = {key.key_id: {"key": key.verify_key_base64} for key in (KEY, SECOND)}
    assert {KEY.key_id} == set(read(changed(verify_keys=verify_keys, old_verify_keys={})).keys)


LOW_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ee" + "ff" * 30 + "7f",
]


@pytest.mark.parametrize(
    ("key_id", "entry"),
    [
        *(("ed25519:x", {"key": encode_base64(bytes.fromhex(point))}) for point in LOW_ORDER),
        ("ed25519:x", {"key": "short"}),
        ("ed25519:x", {"key": "A" * 10_000}),
        ("ed25519:x", {"key": 1}),
        ("ed25519:x", {}),
        ("ed25519:x", []),
        ("ed25519:", {"key": STRANGER.verify_key_base64}),
        ("ed25519:a\nb", {"key": STRANGER.verify_key_base64}),
        ("ed25519:" + "x" * 1_000_000, {"key": STRANGER.verify_key_base64}),
        ("rsa:1", {"key": STRANGER.verify_key_base64}),
        ("", {"key": STRANGER.verify_key_base64}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_bad_key_is_skipped_and_the_others_serve(key_id: str, entry: Any) -> None:
    verify_keys = {KEY.key_id: {"key": KEY.verify_key_base64}, key_id: entry}
    old_entry = {**entry, "expired_ts": NOW - HOUR} if isinstance(entry, dict) else entry
    found = read(changed(verify_keys=verify_keys, old_verify_keys={key_id: old_entry}))
    assert {KEY.key_id} == set(found.keys)


@pytest.mark.parametrize("expired_ts", [None, "1", -1, 1.5, True, 2**60, 10**400])
def test_an_old_key_without_its_time_is_skipped(expired_ts: Any) -> None:
    entry = {"key": OLD.verify_key_base64, "expired_ts": expired_ts}
    # Numbers that canonical JSON lacks have the whole list refused, for its signature cannot be checked.
    wire = {**made(), "old_verify_keys": {OLD.key_id: entry}}
    del wire["signatures"]
    try:
        found = read(sign_json(wire, SERVER, KEY))
    except BadServerKeys:
        return
    assert {KEY.key_id} == set(found.keys)


def test_a_malleable_signature_is_no_signature() -> None:
    wire = made()
    signature = decode_base64(wire["signatures"][SERVER][KEY.key_id])
    scalar = int.from_bytes(signature[32:], "little") + GROUP_ORDER
    forged = deepcopy(wire)
    forged["signatures"][SERVER][KEY.key_id] = encode_base64(signature[:32] + scalar.to_bytes(32, "little"))
    assert read(wire)
    with pytest.raises(BadServerKeys):
        read(forged)


def test_a_key_that_is_in_use_and_old_is_in_use() -> None:
    entry = {"key": KEY.verify_key_base64, "expired_ts": NOW - HOUR}
    assert read(changed(old_verify_keys={KEY.key_id: entry})).keys[KEY.key_id].expired_ts is None


# -- several lists ---------------------------------------------------------------------------------------------------


def test_a_later_list_adds_keys_and_prolongs_them() -> None:
    first = read(made(KEY))
    second = parse_server_keys(made(SECOND, until=NOW + 9 * HOUR), SERVER, NOW + HOUR)
    found = first.merged(second)
    assert {KEY.key_id, SECOND.key_id, OLD.key_id} == set(found.keys)
    assert (NOW + 9 * HOUR, NOW + HOUR) == (found.valid_until_ts, found.fetched_ts)
    assert NOW + HOUR == found.keys[KEY.key_id].valid_until_ts
    prolonged = first.merged(parse_server_keys(made(KEY, until=NOW + 9 * HOUR), SERVER, NOW + HOUR))
    assert NOW + 9 * HOUR == prolonged.keys[KEY.key_id].valid_until_ts


@pytest.mark.parametrize(("after_ms", "is_replaced"), [(0, False), (HOUR, False), (HOUR + 1, True)])
def test_a_key_id_gets_another_key_only_when_the_first_is_over(after_ms: int, is_replaced: bool) -> None:
    other = generate_signing_key(b"z" * 32, KEY.version)
    newer = parse_server_keys(made(other, until=NOW + 9 * HOUR), SERVER, NOW + after_ms)
    found = read(made()).merged(newer).keys[KEY.key_id].key
    assert (other if is_replaced else KEY).verify_key == found


def test_what_is_known_of_a_server_is_bounded() -> None:
    known = read(made())
    for number in range(60):
        keys = [generate_signing_key(bytes([number, each]) * 16, f"{number}_{each}") for each in range(20)]
        known = known.merged(parse_server_keys(made(*keys), SERVER, NOW + number))
        assert len(known.keys) <= MAX_VERIFY_KEYS + MAX_OLD_KEYS
        assert keys[0].key_id in known.keys


# -- notaries --------------------------------------------------------------------------------------------------------


def test_a_notary_signs_a_list_beside_its_server() -> None:
    wire = sign_json(made(), NOTARY, STRANGER)
    check_notary(wire, NOTARY, NOTARY_KEYS)
    assert [read(wire)] == parse_notary_answer({"server_keys": [wire]}, NOTARY, NOTARY_KEYS, NOW)


def test_a_list_that_a_notary_made_up_is_left_out() -> None:
    forged = sign_json({**made(), "valid_until_ts": NOW + 2 * HOUR}, NOTARY, STRANGER)
    good = sign_json(made(server_name="b.example"), NOTARY, STRANGER)
    answer: Any = {"server_keys": [forged, made(), None, {}, {"server_name": []}, good]}
    found = parse_notary_answer(answer, NOTARY, NOTARY_KEYS, NOW)
    assert ["b.example"] == [keys.server_name for keys in found]


@pytest.mark.parametrize("server_name", [[], {}, 5, None, True, ["a.example"]], ids=repr)
def test_a_list_of_no_name_is_left_out_whoever_signed_it(server_name: Any) -> None:
    wire = sign_json({**made(), "server_name": server_name}, NOTARY, STRANGER)
    assert [] == parse_notary_answer({"server_keys": [wire]}, NOTARY, NOTARY_KEYS, NOW)


@pytest.mark.parametrize("signatures", [None, {}, {NOTARY: None}, {NOTARY: {STRANGER.key_id: "x"}}, {NOTARY: []}])
def test_without_its_signature_a_notary_says_nothing(signatures: Any) -> None:
    with pytest.raises(BadServerKeys):
        check_notary({**made(), "signatures": signatures}, NOTARY, NOTARY_KEYS)


def test_an_unknown_or_wrong_signature_of_a_notary_does_not_spoil_a_good_one() -> None:
    wire = sign_json(made(), NOTARY, STRANGER)
    wire["signatures"][NOTARY] = {"ed25519:q": "x", KEY.key_id: "A" * 86, **wire["signatures"][NOTARY]}
    check_notary(wire, NOTARY, {**NOTARY_KEYS, KEY.key_id: KEY.verify_key})


class CountedObject(dict[str, Any]):
    """An object that counts how often it is gone through, as for an encoding."""

    count = 0

    def items(self) -> Any:
        type(self).count += 1
        return super().items()


def test_a_list_is_encoded_once_however_many_keys_say_that_they_signed_it() -> None:
    keys = [generate_signing_key(bytes([number]) * 32, str(number)) for number in range(MAX_VERIFY_KEYS)]
    wire = CountedObject(made(*keys))
    assert MAX_VERIFY_KEYS + 1 == len(read(wire).keys)
    wire["signatures"] = {SERVER: {key.key_id: "A" * 86 for key in keys}}
    with pytest.raises(BadServerKeys):
        read(wire)
    assert 2 == CountedObject.count


class CountedKey(VerifyKey):
    """A key that counts how often it is asked."""

    count = 0

    def check(self, message: bytes, signature: bytes) -> None:
        type(self).count += 1
        super().check(message, signature)


def test_the_signatures_of_a_notary_that_are_tried_are_bounded() -> None:
    key = CountedKey(STRANGER.verify_key.public_key)
    names = [f"ed25519:{number}" for number in range(10_000)]
    wire = {**made(), "signatures": {NOTARY: dict.fromkeys(names, "A" * 86)}}
    with pytest.raises(BadServerKeys):
        check_notary(wire, NOTARY, dict.fromkeys(names, key))
    assert 8 == CountedKey.count


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"server_keys": {}}, {"server_keys": None}, {"server_keys": [{}] * (MAX_LISTS + 1)}]
)
def test_an_answer_that_is_none_is_refused(answer: Any) -> None:
    with pytest.raises(BadServerKeys):
        parse_notary_answer(answer, NOTARY, NOTARY_KEYS, NOW)


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(made())), JUNK, min_size=1, max_size=3))
def test_junk_is_refused_and_nothing_else(changes: dict[str, Any]) -> None:
    try:
        read({**made(), **changes})
    except BadServerKeys:
        return
    assert all(made().get(name) == value for name, value in changes.items())
