"""Uploads of one-time keys some of which are there, or were claimed."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.errors import InvalidParam
from homeserver.users.one_time_keys import OneTimeKeys
from storage import one_time_keys as storage
from storage.database import Database
from storage.one_time_keys import KeyRow
from tests.storage.core import database  # noqa: F401

DEVICE = 7


def _keys(first: int, last: int, number: int, content: bytes = b"{}") -> list[tuple[int, KeyRow]]:
    return [(number + each, KeyRow("curve25519", f"K{each}", content)) for each in range(first, last)]


@pytest_twisted.ensureDeferred
async def test_an_upload_adds_what_is_new_in_it(database: Database) -> None:  # noqa: F811
    write = database.write
    assert {"curve25519": 4} == await write(lambda tx: OneTimeKeys.add(tx, DEVICE, _keys(0, 4, 100), []))
    assert {"curve25519": 6} == await write(lambda tx: OneTimeKeys.add(tx, DEVICE, _keys(2, 6, 200), []))
    claimed = [(await write(lambda tx: storage.claim(tx, {DEVICE: "curve25519"})))[DEVICE] for _ in range(2)]
    assert ["K0", "K1"] == [key.key_id for key in claimed]
    assert {"curve25519": 5} == await write(lambda tx: OneTimeKeys.add(tx, DEVICE, _keys(0, 7, 300), []))
    with pytest.raises(InvalidParam):
        await write(lambda tx: OneTimeKeys.add(tx, DEVICE, [*_keys(7, 9, 400), *_keys(3, 4, 400, b'"x"')], []))
    counts = await database.read(lambda tx: storage.count_one_time_keys(tx, DEVICE))
    assert {"curve25519": 5} == counts, "nothing of a refused upload is stored"
