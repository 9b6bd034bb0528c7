"""What waits for devices and servers, and what is known of their keys, does not grow with the number of changes.

Twenty rounds of five thousand updates of each kind that comes in bulk, by the functions that the server uses, with the
trimming that goes with them in the server: after the last round there is as much as after the tenth.
"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import func, select

from storage import device_keys, device_lists, key_backup, one_time_keys, outbox, to_device
from storage.database import Database
from storage.device_keys import Signature
from storage.device_lists import RemoteDevice
from storage.one_time_keys import KeyRow
from storage.outbox import OutboxEdu
from storage.tables import all_tables
from storage.to_device import Mark, Request
from storage.transaction import Transaction
from tests.storage.core import database  # noqa: F401

ROUNDS = 20
UPDATES = 5_000
DEVICES = range(1, 201)
UPLOADERS = range(1, 6)
USERS = range(101, 105)
KEYS = 5
DAY_MS = 24 * 3600 * 1000


def play(tx: Transaction, number: int) -> None:
    """Do what a server does in a day of its life."""
    for step in range(UPDATES // len(DEVICES)):
        to_device.add_messages(tx, number * UPDATES + step, [(device, b"{}") for device in DEVICES])
    if number % 10 == 0:
        # They come now and then, and acknowledge all.
        for device in DEVICES:
            if device in UPLOADERS:
                to_device.set_mark(tx, device, Mark(number * UPDATES, None))
            assert UPDATES // len(DEVICES) * 10 == to_device.delete_messages(tx, device, number * UPDATES + UPDATES)
            if device in UPLOADERS:
                to_device.delete_mark(tx, device)
    for each in range(16):
        # A day has more of them where somebody sends all the time.
        request, position = Request("a", f"{each:x}.{number}"), number * UPDATES + each
        assert to_device.begin_transaction(tx, request, position, 2**40, most=50)
        assert not to_device.begin_transaction(tx, request, position + 1, 2**40, most=50)
    assert to_device.begin_transaction(tx, Request(f"{number}", "1"), number * UPDATES, number * DAY_MS, most=50)
    while to_device.trim_transactions(tx, (number - 7) * DAY_MS):
        pass
    play_keys(tx, number)
    play_lists(tx, number)
    play_outbox(tx, number)


def play_keys(tx: Transaction, number: int) -> None:
    names = [f"{number}.{each}" for each in range(KEYS)]
    for device in UPLOADERS:
        keys = [(number * KEYS + each, KeyRow("curve25519", name, b"{}")) for each, name in enumerate(names)]
        one_time_keys.add_one_time_keys(tx, device, one_time_keys.without_claimed(tx, device, keys))
        one_time_keys.set_fallback_keys(tx, device, [KeyRow("curve25519", f"{number}", b"{}")])
    for name in names:
        taken = one_time_keys.claim(tx, dict.fromkeys(UPLOADERS, "curve25519"))
        assert {name} == {key.key_id for key in taken.values()}, "each once, in the order of the uploads"
    for user in USERS[:2]:
        version = key_backup.create_backup(tx, user, "x", b"{}")
        key_backup.update_backup(tx, user, version, {"is_deleted": True})
        assert number == version
    old, new = f"ed25519:{number - 1}", f"ed25519:{number}"
    device_keys.set_signatures(
        tx,
        [Signature(target, f"{each}", USERS[0], new, "s") for target in USERS for each in range(250)],
    )
    device_keys.delete_signatures_by(tx, USERS[0], [old])


def play_lists(tx: Transaction, number: int) -> None:
    for user in USERS:
        device_lists.note_untold(tx, user, [f"D{each}" for each in range(250)])
        device_lists.note_change(tx, user, number, has_stream_id=True)
        device_lists.touch_list(tx, user + 1_000, number)
        for device_id in device_lists.load_untold(tx, user, 2):
            device_lists.delete_untold(tx, user, [device_id])
        devices = [RemoteDevice(user + 1_000, f"D{each}", b"{}", None) for each in range(UPDATES // len(USERS))]
        device_lists.set_remote_devices(tx, devices)
    # Another user comes and goes each time.
    device_lists.keep_remote_list(tx, 5_000 + number, devices[:1], number)
    device_lists.forget_remote_lists(tx, [5_000 + number])


def play_outbox(tx: Transaction, number: int) -> None:
    edus = [
        OutboxEdu(number * UPDATES + each, server, "m.x", {}, number, f"@{each % 20}:a" if each % 2 else None)
        for server in ("up.example", "away.example")
        for each in range(UPDATES // 2)
    ]
    outbox.store_edus(tx, edus)
    outbox.delete_edus(tx, "up.example", [edu.edu_nid for edu in edus])
    outbox.collapse_edus(tx, "away.example")
    outbox.limit_edus(tx, "away.example", 300)
    outbox.delete_edus_before(tx, number - 5)


def sizes(tx: Transaction) -> dict[str, Any]:
    return {table.name: tx.scalar(select(func.count()).select_from(table)) for table in all_tables().sorted_tables}


@pytest_twisted.ensureDeferred
async def test_nothing_grows_with_the_number_of_updates(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def play_some(tx: Transaction, first: int, last: int) -> None:
        for number in range(first, last):
            play(tx, number)

    monkeypatch.setattr(one_time_keys, "KEPT_MARKS", 10)
    monkeypatch.setattr(key_backup, "KEPT_DELETED", 3)
    found: list[dict[str, Any]] = []
    for first in range(1, ROUNDS, 10):
        await database.write(lambda tx, first=first: play_some(tx, first, first + 10))  # type: ignore[misc]
        found.append(await database.read(sizes))
    assert found[0] == found[-1]
    assert 0 == found[-1]["to_device_messages"]
    assert (10 + KEYS) * len(UPLOADERS) == found[-1]["claimed_keys"]
