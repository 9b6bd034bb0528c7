"""The operator's commands to a running server: who may ask, what is answered, and what nonsense does."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from homeserver.admin_socket import (
    NAME,
    AccountLine,
    AdminSocket,
    DeviceLine,
    RemoteAccounts,
    _address,
    _Device,
    _Line,
)
from homeserver.errors import InternalFault, MatrixError, Misconfigured, UserInUse


class Accounts:
    """Stands in for the server's accounts."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    async def create(self, localpart: str, password: str, *, admin: bool) -> str:
        if localpart == "taken":
            raise UserInUse("User ID already taken")
        self.done.append((localpart, password, admin))
        return f"@{localpart}:example.org"

    async def set_password(self, localpart: str, password: str) -> None:
        raise ZeroDivisionError("the password is " + password)

    async def deactivate(self, localpart: str) -> None:
        self.done.append((localpart,))

    async def create_token(self, uses: int) -> str:
        return f"token-for-{uses}"

    async def list_devices(self, localpart: str) -> Sequence[DeviceLine]:
        return [_Device("A", "ü", 5, "::1", True, True, False), _Device("B", None, None, None, False, False, True)]

    async def remove_devices(self, localpart: str, device_ids: Sequence[str]) -> None:
        self.done.append((localpart, *device_ids))

    async def list_accounts(self) -> Sequence[AccountLine]:
        return [_Line("@a:example.org", True, False, False), _Line("@ü:example.org", False, True, True)]


@pytest.fixture(params=["short", "long"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / ("x" * 150 if request.param == "long" else "d")
    path.mkdir()
    return path


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest_twisted.async_yield_fixture
async def listening(folder: Path, accounts: Accounts) -> AsyncIterator[AdminSocket]:
    listening = AdminSocket(reactor, folder, accounts)
    listening.start()
    yield listening
    await listening.stop()
    assert not (folder / NAME).exists()


async def _blocking(coroutine: Any) -> Any:
    """Run a coroutine whose awaits never wait, in a thread: the server answers in this one."""

    def run() -> Any:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value

    return await deferToThread(run)


@pytest.mark.usefixtures("listening")
@pytest_twisted.ensureDeferred
async def test_commands_are_carried_out(folder: Path, accounts: Accounts) -> None:
    remote = RemoteAccounts(folder)
    assert "@carol:example.org" == await _blocking(remote.create("carol", "päss", admin=True))
    await _blocking(remote.deactivate("bob"))
    listed = await _blocking(remote.list_accounts())
    assert [("carol", "päss", True), ("bob",)] == accounts.done
    assert await accounts.list_accounts() == listed
    assert "token-for-3" == await _blocking(remote.create_token(3))
    assert await accounts.list_devices("alice") == await _blocking(remote.list_devices("alice"))
    await _blocking(remote.remove_devices("alice", ["A", "B"]))
    assert ("alice", "A", "B") == accounts.done[-1]


@pytest.mark.usefixtures("listening")
@pytest_twisted.ensureDeferred
async def test_refusals_and_faults_are_told_apart(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    remote = RemoteAccounts(folder)
    with pytest.raises(MatrixError, match="already taken"):
        await _blocking(remote.create("taken", "x", admin=False))
    with pytest.raises(InternalFault, match="ZeroDivisionError; the log of the server says more") as told:
        await _blocking(remote.set_password("bob", "secret"))
    assert "secret" not in str(told.value)


@pytest.mark.usefixtures("listening")
@pytest_twisted.ensureDeferred
async def test_only_the_owner_may_open_it(folder: Path) -> None:
    assert 0o600 == stat.S_IMODE((folder / NAME).stat().st_mode)


NONSENSE = {
    "no JSON": b"hello\n",
    "no UTF-8": b"\xff\xfe\n",
    "no object": b"[]\n",
    "unknown command": b'{"command":"stop","arguments":{}}\n',
    "unhashable command": b'{"command":[],"arguments":{}}\n',
    "no arguments": b'{"command":"deactivate"}\n',
    "arguments are a list": b'{"command":"deactivate","arguments":["localpart"]}\n',
    "one too many": b'{"command":"deactivate","arguments":{"localpart":"bob","erase":true}}\n',
    "wrong type": b'{"command":"create","arguments":{"localpart":"a","password":"b","admin":1}}\n',
    "deep": b"[" * 50_000 + b"\n",
    "empty": b"\n",
}


@pytest.mark.parametrize("line", NONSENSE.values(), ids=NONSENSE.keys())
@pytest.mark.usefixtures("listening")
@pytest_twisted.ensureDeferred
async def test_nonsense_is_refused(folder: Path, accounts: Accounts, line: bytes) -> None:
    answer = json.loads(await deferToThread(_send, folder, line))
    assert "does not know this command" in answer["refused"]
    assert [] == accounts.done


@pytest.mark.usefixtures("listening")
@pytest_twisted.ensureDeferred
async def test_too_long_a_line_is_cut_off_and_a_second_is_ignored(folder: Path, accounts: Accounts) -> None:
    assert b"" == await deferToThread(_send, folder, b"x" * 200_000)
    line = json.dumps({"command": "deactivate", "arguments": {"localpart": "bob"}}).encode() + b"\n"
    await deferToThread(_send, folder, line * 3)
    assert [("bob",)] == accounts.done


def _send(folder: Path, content: bytes) -> bytes:
    with _address(folder) as address, socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(address)
        try:
            connection.sendall(content)
            return connection.makefile("rb").readline()
        except (BrokenPipeError, ConnectionResetError):
            return b""


def test_no_server_is_no_error(folder: Path) -> None:
    assert not RemoteAccounts(folder).is_there()
    assert not RemoteAccounts(folder / "missing").is_there()
    with pytest.raises(InternalFault, match="nothing was done"):
        RemoteAccounts(folder)._ask("list_accounts")


@pytest_twisted.ensureDeferred
async def test_socket_of_a_killed_server_is_replaced(folder: Path, accounts: Accounts) -> None:
    with _address(folder) as address, socket.socket(socket.AF_UNIX) as left:
        left.bind(address)
    assert not RemoteAccounts(folder).is_there()
    fresh = AdminSocket(reactor, folder, accounts)
    fresh.start()
    assert RemoteAccounts(folder).is_there()
    await fresh.stop()


@pytest.mark.usefixtures("listening")
def test_second_server_in_the_folder_is_refused(folder: Path, accounts: Accounts) -> None:
    with pytest.raises(Misconfigured, match="give each its own data_dir"):
        AdminSocket(reactor, folder, accounts).start()
    assert RemoteAccounts(folder).is_there()


def test_server_that_breaks_off_is_told(folder: Path) -> None:
    with _address(folder) as address, socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        threading.Thread(target=lambda: server.accept()[0].close(), daemon=True).start()
        with pytest.raises(InternalFault, match="may have been carried out"):
            RemoteAccounts(folder)._ask("list_accounts")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_somebody_elses_socket_is_named(folder: Path) -> None:
    with _address(folder) as address, socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.chmod(address, 0)
        with pytest.raises(Misconfigured, match="as the user whom the server runs as"):
            RemoteAccounts(folder).is_there()
