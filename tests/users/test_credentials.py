"""Passwords are hashed off the reactor's thread, compared in whole, and cost the same for nobody as for somebody."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import bcrypt
import pytest
import pytest_twisted
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from homeserver.model.ids import UserID
from homeserver.users import credentials
from homeserver.users.credentials import WrongPassword, is_same_user, parse_user
from tests.support.accounts import MakeServer


@pytest_twisted.ensureDeferred
async def test_hash_made_elsewhere_is_accepted(make_server: MakeServer) -> None:
    """As imported from another server: bcrypt of the NFKC form, by its first 72 bytes."""
    server = await make_server()
    elsewhere = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode()
    await server.accounts.create(UserID("@old:example.org"), password_hash=elsewhere)
    assert [200, 200, 403] == [(await server.login("old", "x" * length))[0] for length in (72, 80, 71)]


@pytest_twisted.ensureDeferred
async def test_composed_and_decomposed_passwords_are_one(make_server: MakeServer) -> None:
    server = await make_server()
    await server.register("alice", "pa\u0301ssword")
    assert 200 == (await server.login("alice", "p\u00e1ssword"))[0]


@pytest_twisted.ensureDeferred
async def test_hashing_leaves_the_reactor_alone(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    hashing: Callable[..., Any] = bcrypt.hashpw
    checking: Callable[..., Any] = bcrypt.checkpw

    def hashpw(*arguments: Any) -> Any:
        seen.append(threading.get_ident())
        return hashing(*arguments)

    def checkpw(*arguments: Any) -> Any:
        seen.append(threading.get_ident())
        return checking(*arguments)

    monkeypatch.setattr(bcrypt, "hashpw", hashpw)
    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    server = await make_server()
    await server.register("alice")
    await server.login("alice")
    assert 2 == len(seen)
    assert threading.get_ident() not in seen


@pytest_twisted.ensureDeferred
async def test_nobody_costs_a_comparison_at_full_price(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []
    checking: Callable[..., Any] = bcrypt.checkpw

    def checkpw(secret: bytes, stored: bytes) -> Any:
        compared.append(stored)
        return checking(secret, stored)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    server = await make_server()
    with pytest.raises(WrongPassword):
        await server.credentials.check("nobody", "password")
    assert [b"$2b$04$"] == [stored[:7] for stored in compared]


@pytest_twisted.ensureDeferred
async def test_too_many_waiting_are_refused(make_server: MakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_WAITING", 3)
    server = await make_server()
    gate = threading.Event()
    for _ in range(4):
        server.threads.run(gate.wait)  # all threads of the pool are busy
    waiting = [Deferred.fromCoroutine(server.credentials.hash("x")) for _ in range(6)]
    refused = [each for each in waiting if each.called]
    gate.set()
    assert 1 == len(refused)
    for each in waiting:
        try:
            await each
        except credentials.NotAllowed:
            raise
        except Exception as fault:
            assert "M_LIMIT_EXCEEDED" == getattr(fault, "errcode", None)


@settings(max_examples=300)
@given(st.text(max_size=40))
def test_a_text_names_a_user_only_by_its_own_letters(text: str) -> None:
    user_id = UserID("@kim:example.org")
    expected = text.isascii() and text.lower() in ("kim", "@kim:example.org")
    assert expected == is_same_user(text, user_id)


@pytest.mark.parametrize(
    ("identifier", "user"),
    [
        ({"type": "m.id.user", "user": "a"}, "a"),
        ({"type": "m.id.user"}, None),
        ({"type": "m.id.user", "user": 5}, None),
        ({"type": "m.id.thirdparty", "user": "a"}, None),
        ({"user": "a"}, None),
        ([], None),
        (None, None),
    ],
)
def test_only_a_user_identifier_names_a_user(identifier: object, user: str | None) -> None:
    assert user == parse_user(identifier)
