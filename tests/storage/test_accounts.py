"""Accounts, devices, tokens and profiles are stored the same on both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from sqlalchemy.exc import IntegrityError
from twisted.internet import reactor

from homeserver.runtime.threads import Threads
from storage import accounts, devices, profiles
from storage.accounts import RegistrationTokenRow
from storage.database import Database
from storage.schema import migrate
from storage.transaction import Transaction

pytestmark = pytest.mark.usefixtures("database")


@pytest_twisted.async_yield_fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    threads = Threads(reactor, 4)  # type: ignore[arg-type]
    database = Database(database_url, reactor=reactor, threads=threads)
    await database.start(migrate)
    yield database
    await database.stop()
    await threads.stop()


def _create(tx: Transaction, nid: int, user_id: str) -> bool:
    return accounts.create_account(
        tx,
        user_nid=nid,
        user_id=user_id,
        password_hash=None,
        is_admin=False,
        is_guest=False,
        created_ts=5,
        appservice=None,
    )


@pytest_twisted.ensureDeferred
async def test_second_account_of_a_user_id_is_refused_and_the_transaction_goes_on(database: Database) -> None:
    def write(tx: Transaction) -> tuple[bool, bool, bool]:
        return _create(tx, 1, "@a:x"), _create(tx, 2, "@a:x"), _create(tx, 3, "@b:x")

    assert (True, False, True) == await database.write(write)
    assert ["@a:x", "@b:x"] == [row.user_id for row in await database.read(accounts.list_accounts)]


@pytest.mark.parametrize("other", ["@A:x", "@a:x ", "@á:x", "@a\u0301:x", "@'\\%_:x", "@😀:x"])
@pytest_twisted.ensureDeferred
async def test_user_ids_are_compared_byte_by_byte(database: Database, other: str) -> None:
    assert await database.write(lambda tx: _create(tx, 1, "@a:x"))
    assert await database.write(lambda tx: _create(tx, 2, other))
    found = await database.read(lambda tx: accounts.find_account(tx, other))
    assert found is not None
    assert (2, other) == (found.user_nid, found.user_id)


@pytest_twisted.ensureDeferred
async def test_flags_are_set_one_by_one(database: Database) -> None:
    await database.write(lambda tx: _create(tx, 1, "@a:x"))
    await database.write(lambda tx: accounts.set_flags(tx, 1, is_locked=True))
    await database.write(lambda tx: accounts.set_flags(tx, 1, is_admin=True, is_locked=None))
    row = await database.read(lambda tx: accounts.find_account(tx, "@a:x"))
    assert row is not None
    assert (True, True, False, False) == (row.is_locked, row.is_admin, row.is_suspended, row.is_guest)


@pytest_twisted.ensureDeferred
async def test_deactivated_user_is_listed_until_the_rooms_are_left(database: Database) -> None:
    await database.write(lambda tx: _create(tx, 1, "@a:x"))
    await database.write(lambda tx: accounts.set_deactivated(tx, 1, is_erased=True))
    assert [(1, "@a:x")] == await database.read(accounts.list_leaving)
    await database.write(lambda tx: accounts.set_rooms_left(tx, 1))
    assert [] == await database.read(accounts.list_leaving)


@pytest.mark.parametrize(
    ("row", "uses"),
    [
        (RegistrationTokenRow("t", 2, 0, None, False), [True, True, False]),
        (RegistrationTokenRow("t", None, 0, None, False), [True, True, True]),
        (RegistrationTokenRow("t", None, 0, 100, False), [False, False, False]),
        (RegistrationTokenRow("t", 0, 0, None, False), [False, False, False]),
    ],
    ids=["twice", "ever", "expired", "never"],
)
@pytest_twisted.ensureDeferred
async def test_registration_token_is_good_for_its_uses(
    database: Database, row: RegistrationTokenRow, uses: list[bool]
) -> None:
    assert await database.write(lambda tx: accounts.create_registration_token(tx, row))
    assert not await database.write(lambda tx: accounts.create_registration_token(tx, row))
    made = [await database.write(lambda tx: accounts.use_registration_token(tx, "t", 100)) for _ in range(3)]
    assert uses == [use is not None for use in made]


@pytest_twisted.ensureDeferred
async def test_deleting_a_device_takes_its_tokens_and_no_others(database: Database) -> None:
    def write(tx: Transaction) -> None:
        _create(tx, 1, "@a:x")
        for nid in (10, 11):
            devices.create_device(tx, device_nid=nid, user_nid=1, device_id=f"D{nid}", display_name=None)
            devices.create_access_token(
                tx, token_hash=bytes([nid]) * 32, user_nid=1, device_nid=nid, created_ts=0, expires_ts=None
            )
        devices.delete_devices(tx, [10])

    await database.write(write)
    assert None is await database.read(lambda tx: devices.find_session(tx, bytes([10]) * 32))
    session = await database.read(lambda tx: devices.find_session(tx, bytes([11]) * 32))
    assert session is not None
    assert ("@a:x", "D11", False) == (session.user_id, session.device_id, session.is_locked)


@pytest_twisted.ensureDeferred
async def test_device_ids_are_unique_for_each_user_only(database: Database) -> None:
    def write(tx: Transaction, nid: int, user_nid: int) -> None:
        devices.create_device(tx, device_nid=nid, user_nid=user_nid, device_id="D", display_name="😀")

    await database.write(lambda tx: write(tx, 10, 1))
    await database.write(lambda tx: write(tx, 11, 2))
    with pytest.raises(IntegrityError):
        await database.write(lambda tx: write(tx, 12, 1))


@pytest_twisted.ensureDeferred
async def test_profile_fields_are_overwritten_and_deleted(database: Database) -> None:
    await database.write(lambda tx: profiles.set_field(tx, 1, "displayname", b'"A"'))
    await database.write(lambda tx: profiles.set_field(tx, 1, "displayname", b'"B"'))
    await database.write(lambda tx: profiles.set_field(tx, 1, "m.tz", b'"UTC"'))
    assert {"displayname": b'"B"', "m.tz": b'"UTC"'} == await database.read(lambda tx: profiles.get_profile(tx, 1))
    found = await database.read(lambda tx: profiles.get_fields(tx, [1, 2], ("displayname", "avatar_url")))
    assert {1: {"displayname": b'"B"'}} == found
    assert await database.write(lambda tx: profiles.delete_field(tx, 1, "m.tz"))
    assert not await database.write(lambda tx: profiles.delete_field(tx, 1, "m.tz"))
