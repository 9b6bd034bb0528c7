"""Identifiers come back as they were, whatever they look like, and have one number each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from sqlalchemy import func, select
from twisted.internet.defer import Deferred, DeferredList

from storage import interning as module
from storage.interning import Interner
from storage.tables.identity import user_ids
from tests.storage.core import Faults, database  # noqa: F401

ODD = [
    "@a:x", "@A:x", "@a:x ", " @a:x", "@a:X", "@ä:x", "@a\u0308:x", "@ß:x", "@ss:x", "@\U0001f600:x", "@\U0001f601:x",
    "@a\x00b:x", "@ab:x", "@a\x00:x", "@:x", "@a'b\"c\\:x", "@%s:x", "@" + "a" * 252 + ":x", "@" + "ä" * 126 + ":x",
    "@\u200b:x", "@\ufeff:x", "@I:x", "@ı:x", "@i:x", "@İ:x", "@a\n:x", "@a\t:x",
]  # fmt: skip


class Numbers:
    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        self.last += 1
        return self.last


@pytest_twisted.async_yield_fixture
async def interner(database: Any) -> AsyncIterator[Interner]:  # noqa: F811
    yield Interner(database, Numbers())  # type: ignore[arg-type]


async def outcomes(coroutines: list[Any]) -> list[Any]:
    results = await DeferredList([Deferred.fromCoroutine(each) for each in coroutines], consumeErrors=True)
    return [value if is_well else value.value for is_well, value in results]


@pytest_twisted.ensureDeferred
async def test_odd_names_have_a_number_each_and_come_back(database: Any, interner: Interner) -> None:  # noqa: F811
    made = await interner.users(ODD)
    assert len(ODD) == len(set(made.values()))
    keys = [(kind, key) for kind in ("m.room.member", "M.room.member", "") for key in ("", *ODD)]
    made_keys = await interner.keys(keys)
    assert len(keys) == len(set(made_keys.values()))
    cold = Interner(database, Numbers())  # type: ignore[arg-type]
    assert made == await cold.find_users(ODD)
    assert made_keys == await cold.find_keys(keys)
    cold = Interner(database, Numbers())  # type: ignore[arg-type]
    assert {nid: name for name, nid in made.items()} == await cold.user_names(made.values())
    assert {nid: key for key, nid in made_keys.items()} == await cold.key_names(made_keys.values())
    assert {} == await cold.find_users(["@none:x"])


@pytest_twisted.ensureDeferred
async def test_who_asks_at_once_gets_the_same_number(database: Any, interner: Interner) -> None:  # noqa: F811
    found = await outcomes([interner.users([f"@{number % 7}:x", f"@{number % 5}:x"]) for number in range(50)])
    numbers: dict[str, int] = {}
    for each in found:
        for name, nid in each.items():
            assert nid == numbers.setdefault(name, nid)
    assert 7 == await database.read(lambda tx: tx.scalar(select(func.count()).select_from(user_ids)))


@pytest_twisted.ensureDeferred
async def test_a_number_that_was_not_stored_is_known_to_nobody(database: Any, interner: Interner) -> None:  # noqa: F811
    Faults(database).refuse_commits(1)
    # The second waits for the first's row, or comes after its failure and makes one of its own.
    found = await outcomes([interner.users(["@a:x", "@b:x"]) for _ in range(2)])
    assert any(isinstance(each, Exception) for each in found)
    again = await outcomes([interner.user("@a:x"), interner.user("@b:x")])
    assert {"@a:x": again[0], "@b:x": again[1]} == await Interner(database, Numbers()).find_users(  # type: ignore[arg-type]
        ["@a:x", "@b:x"]
    )


@pytest_twisted.ensureDeferred
async def test_a_number_is_known_only_once_it_is_stored(interner: Interner) -> None:
    waiting = Deferred.fromCoroutine(interner.user("@a:x"))
    assert interner.known_user("@a:x") is None
    assert await waiting == interner.known_user("@a:x")


@pytest_twisted.ensureDeferred
async def test_a_full_memory_forgets_some_and_answers_all(interner: Interner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CACHED", 8)
    names = [f"@{number}:x" for number in range(30)]
    made = await interner.users(names)
    assert names == list(made)
    assert made == await interner.users(names)
    assert made == await interner.find_users(names)
    assert {nid: name for name, nid in made.items()} == await interner.user_names(made.values())
    assert len(interner._users.nids) == len(interner._users.names) <= 8
