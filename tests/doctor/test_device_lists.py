"""`sennit doctor` tells of device lists that are behind: since when, of which servers, and what to do."""

from __future__ import annotations

import pytest_twisted
from sqlalchemy import update

from homeserver.doctor.findings import Findings, Level
from homeserver.doctor.stored import check_stored
from homeserver.model.edu import DEVICE_LIST_UPDATE, SIGNING_KEY_UPDATE
from storage.device_lists import RemoteDevice, keep_remote_list, note_untold, set_list, touch_list
from storage.outbox import OutboxEdu, store_edus
from storage.tables.rooms import events
from storage.transaction import Transaction
from tests.support.federation import FederatedServer, Federation, federation, new_database  # noqa: F401

HOUR_MS = 3_600_000


def _found(server: FederatedServer, now_ms: int) -> list[tuple[Level, str, str]]:
    findings = Findings("x")
    check_stored(server.config, now_ms, findings)
    return [(each.level, each.text, each.remedy) for each in findings.of("devices")]


@pytest_twisted.ensureDeferred
async def test_lists_of_others_that_are_out_of_date_are_told_by_server(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    assert [(Level.GOOD, "No device list is behind.", "")] == _found(server, 0)
    alice = await server.register("alice")
    room_id = await alice.create_room()
    store = server.parts.base.store
    users = await store.interner.users(["@a:late.example", "@b:late.example", "@c:soon.example", "@d:fresh.example"])
    late, also, soon, fresh = users.values()

    def behind(tx: Transaction, before: int, after: int) -> None:
        for user_nid in users.values():
            keep_remote_list(tx, user_nid, [], 5)
        # The versions of two are known no more, but that there were devices.
        keep_remote_list(tx, also, [RemoteDevice(also, "D", b"{}", None)], None)
        for user_nid, stream_id, position in ((late, 5, before), (also, None, before + 1), (soon, 5, after)):
            set_list(tx, user_nid, stream_id, position, is_fetched=False)
        touch_list(tx, fresh, after)

    before = store.positions.watermark
    await alice.say(room_id)
    after = store.positions.watermark + 1
    await store.database.write(lambda tx: behind(tx, before, after))
    now_ms = server.parts.base.clock.now_ms()
    ((level, text, remedy),) = _found(server, now_ms)
    assert (Level.GOOD, "") == (level, remedy), "it has just happened"
    assert text.startswith(
        "Device lists of 3 users of other servers are out of date: late.example (2 users such as @a:"
    )
    ((level, text, remedy),) = _found(server, now_ms + 3 * HOUR_MS)
    assert Level.WARNING is level
    assert "late.example (2 users such as @a:late.example, for 3 h at least), soon.example (1 user such" in text
    assert "`sennit doctor late.example`" in remedy
    # By the time of the first event that came after the change.
    week = 7 * 24 * HOUR_MS
    await store.database.write(
        lambda tx: tx.execute(update(events).where(events.c.position >= before).values(received_ts=now_ms - week))
    )
    assert (
        "for 7 days at least), soon.example (1 user such as @c:soon.example, for 0 min" in _found(server, now_ms)[0][1]
    )


@pytest_twisted.ensureDeferred
async def test_changes_that_wait_for_other_servers_are_told(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    store = server.parts.base.store
    alice = await store.interner.user("@alice:" + server.name)
    now_ms = server.parts.base.clock.now_ms()

    def wait(tx: Transaction) -> None:
        # Rows of servers that are not woken for them.
        rows = [("far.example", DEVICE_LIST_UPDATE, 3), ("far.example", SIGNING_KEY_UPDATE, 2), ("x.example", "m.x", 9)]
        store_edus(
            tx,
            [
                OutboxEdu(number, name, kind, {}, now_ms - hours * HOUR_MS)
                for number, (name, kind, hours) in enumerate(rows, 10**6)
            ],
        )

    await store.database.write(wait)
    ((level, text, remedy),) = _found(server, now_ms)
    assert Level.WARNING is level
    assert text == "Changes of our users' devices wait for servers that do not take them: far.example (2, for 3 h)."
    assert "`sennit doctor far.example`" in remedy
    await store.database.write(lambda tx: note_untold(tx, alice, ["D"]))
    untold = _found(server, now_ms)[0]
    assert (Level.WARNING, f"Changes of the devices of 1 users, such as @alice:{server.name}, have") == (
        untold[0],
        untold[1].partition(" not")[0],
    )
    ((level, text, remedy),) = [each for each in _found(server, now_ms - 3 * HOUR_MS) if "way" in each[1]]
    assert (Level.GOOD, "Changes of our users' devices are on their way to 1 servers.") == (level, text)
