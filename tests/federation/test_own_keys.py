"""What this server publishes of its keys, and for how long."""

from __future__ import annotations

import pytest

from federation.own_keys import OwnKeys
from homeserver.model.server_keys import parse_server_keys
from homeserver.model.signing import generate_signing_key
from homeserver.runtime.clock import ManualClock

NAME = "own.example"
HOUR_MS = 3_600_000
KEYS = [generate_signing_key(bytes([number]) * 32, f"k{number}") for number in range(1, 4)]
OLD = generate_signing_key(b"\x09" * 32, "old")


def _own(clock: ManualClock, interval_ms: int = 24 * HOUR_MS) -> OwnKeys:
    old_keys = {OLD.key_id: (OLD.verify_key, 5)}
    return OwnKeys(NAME, KEYS, old_keys, clock=clock, refresh_interval_ms=interval_ms)


def test_all_keys_sign_the_list_and_the_first_signs_the_rest() -> None:
    clock = ManualClock()
    own = _own(clock)
    published = own.published()
    assert {key.key_id for key in KEYS} == set(published["signatures"][NAME]) == set(published["verify_keys"])
    assert KEYS[0] == own.signing
    read = parse_server_keys(dict(published), NAME, clock.now_ms())
    assert all(read.key(key.key_id, clock.now_ms()) == key.verify_key for key in KEYS)
    assert OLD.verify_key == read.key(OLD.key_id, 5)
    assert read.key(OLD.key_id, 6) is None


@pytest.mark.parametrize("hours", [1, 2, 24, 24 * 30])
def test_list_is_made_anew_before_it_is_about_to_end(hours: int) -> None:
    clock = ManualClock()
    own = _own(clock, hours * HOUR_MS)
    for _ in range(200):
        left_ms = own.published()["valid_until_ts"] - clock.now_ms()
        assert left_ms >= max(HOUR_MS, hours * HOUR_MS // 2)
        clock.advance(hours * 3600 / 17)


def test_list_is_not_made_anew_for_every_request() -> None:
    clock = ManualClock()
    own = _own(clock)
    first = own.published()
    clock.advance(11 * 3600)
    assert own.published() is first
    clock.advance(2 * 3600)
    assert own.published() is not first


def test_own_keys_are_always_valid_here_and_old_ones_until_they_ended() -> None:
    clock = ManualClock()
    known = _own(clock).known
    assert KEYS[1].verify_key == known.key(KEYS[1].key_id, clock.now_ms() + 1000 * 24 * HOUR_MS)
    assert OLD.verify_key == known.unexpired_key(OLD.key_id, 5)
    assert known.unexpired_key(OLD.key_id, 6) is None
