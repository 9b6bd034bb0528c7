"""The operator's commands to a running server: a socket in the data folder that only its owner can open.

A server keeps numbers and caches in memory and must be alone on its database, so `sennit user …` beside a running one
asks it instead. One request and one answer a connection, each a line of JSON:

    {"command": "create", "arguments": {"localpart": "alice", "password": "…", "admin": false}}
    {"result": "@alice:example.org"}  or  {"refused": "…"}  or  {"failed": "…"}

The commands are those of `AccountCommands` and no others. Whoever may open the socket (mode 0600, in a folder of mode
0700) could read the database as well, so there is nothing to log in to.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IReactorUNIX
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.policies import TimeoutMixin

from homeserver.errors import BadRequest, InternalFault, MatrixError, Misconfigured

logger = logging.getLogger(__name__)

NAME: Final = "admin.sock"
# LIMIT: a longer path does not fit into the system's address of a socket.
_MAX_PATH_BYTES: Final = 107
_MAX_REQUEST_BYTES: Final = 65_536
_PATIENCE_S: Final = 30.0
# Hashing a password and leaving hundreds of rooms may take its time.
_ANSWER_TIMEOUT_S: Final = 300.0


class AccountLine(Protocol):
    """One account as `sennit user list` shows it."""

    @property
    def user_id(self) -> str: ...
    @property
    def is_admin(self) -> bool: ...
    @property
    def is_deactivated(self) -> bool: ...
    @property
    def is_guest(self) -> bool: ...


class DeviceLine(Protocol):
    """One device as `sennit user devices` shows it; times are milliseconds since the epoch."""

    @property
    def device_id(self) -> str: ...
    @property
    def display_name(self) -> str | None: ...
    @property
    def last_seen_ts(self) -> int | None: ...
    @property
    def last_seen_ip(self) -> str | None: ...
    @property
    def has_keys(self) -> bool: ...
    @property
    def is_verified(self) -> bool: ...
    @property
    def is_dehydrated(self) -> bool: ...


class AccountCommands(Protocol):
    """What operators do with accounts; refusals are `MatrixError`."""

    async def create(self, localpart: str, password: str, *, admin: bool) -> str: ...
    async def set_password(self, localpart: str, password: str) -> None: ...
    async def deactivate(self, localpart: str) -> None: ...
    async def list_accounts(self) -> Sequence[AccountLine]: ...
    async def list_devices(self, localpart: str) -> Sequence[DeviceLine]: ...
    async def remove_devices(self, localpart: str, device_ids: Sequence[str]) -> None: ...
    async def create_token(self, uses: int) -> str: ...


# -- the server's end ------------------------------------------------------------------------------------------------


class AdminSocket:
    """Answers operators of this machine."""

    def __init__(self, reactor: Any, data_dir: Path, accounts: AccountCommands) -> None:
        self._reactor = reactor
        self._data_dir = data_dir
        self._commands = _commands(accounts)
        self._port: Any = None
        self._folder = contextlib.ExitStack()

    def start(self) -> None:
        """Listen; where the system has no such sockets, do nothing. Raises Misconfigured."""
        if not IReactorUNIX.providedBy(self._reactor):
            return
        address = self._folder.enter_context(_address(self._data_dir))
        try:
            if _connected(address) is not None:
                raise Misconfigured(f"Another Sennit uses the folder {self._data_dir}; give each its own data_dir.")
            # Left over by one that was killed.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(address)
            factory = Factory.forProtocol(_Session)
            factory.commands = self._commands
            self._port = self._reactor.listenUNIX(address, factory, mode=0o600)
        except (OSError, CannotListenError) as fault:
            self._folder.close()
            reason = fault.socketError if isinstance(fault, CannotListenError) else fault.strerror
            raise Misconfigured(f"The socket {self._data_dir / NAME} cannot be made: {reason}.") from fault
        except Misconfigured:
            self._folder.close()
            raise

    async def stop(self) -> None:
        """Listen no more, and remove the socket."""
        port, self._port = self._port, None
        if port is not None:
            closed = port.stopListening()
            if closed is not None:
                await closed
        self._folder.close()


class _Session(LineOnlyReceiver, TimeoutMixin):
    delimiter = b"\n"
    MAX_LENGTH = _MAX_REQUEST_BYTES
    _is_asked = False

    def connectionMade(self) -> None:
        self.setTimeout(_PATIENCE_S)  # type: ignore[no-untyped-call]

    def lineReceived(self, line: bytes) -> None:
        if self._is_asked:
            return
        self._is_asked = True
        self.setTimeout(None)  # type: ignore[no-untyped-call]
        Deferred.fromCoroutine(self._answer(line))

    async def _answer(self, line: bytes) -> None:
        try:
            answer = {"result": await _carry_out(self.factory.commands, line)}  # type: ignore[union-attr]
        except MatrixError as error:
            answer = {"refused": error.message}
        except InternalFault as error:
            answer = {"failed": str(error)}
        except Exception as error:  # the boundary of a request: the operator hears of it, the server goes on
            logger.exception("A command of an operator failed")
            answer = {"failed": f"{type(error).__name__}; the log of the server says more."}
        self.transport.write(json.dumps(answer).encode() + b"\n")  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]


_Command = Callable[..., Awaitable[Any]]


def _commands(accounts: AccountCommands) -> dict[str, tuple[_Command, dict[str, type]]]:
    """Return the commands by name, each with its arguments and their types."""

    async def list_accounts() -> list[list[Any]]:
        return [
            [str(each.user_id), *(getattr(each, mark) for mark in _MARKS)] for each in await accounts.list_accounts()
        ]

    async def list_devices(localpart: str) -> list[list[Any]]:
        return [[getattr(each, field) for field in _DEVICE] for each in await accounts.list_devices(localpart)]

    name: dict[str, type] = {"localpart": str}
    return {
        "create": (accounts.create, {**name, "password": str, "admin": bool}),
        "set_password": (accounts.set_password, {**name, "password": str}),
        "deactivate": (accounts.deactivate, name),
        "list_accounts": (list_accounts, {}),
        "list_devices": (list_devices, name),
        "remove_devices": (accounts.remove_devices, {**name, "device_ids": list}),
        "create_token": (accounts.create_token, {"uses": int}),
    }


async def _carry_out(commands: dict[str, tuple[_Command, dict[str, type]]], line: bytes) -> Any:
    try:
        request = json.loads(line)
        function, kinds = commands[request["command"]]
        arguments = request["arguments"]
        is_good = arguments.keys() == kinds.keys() and all(type(arguments[key]) is kinds[key] for key in kinds)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_good = False
    if not is_good:
        raise BadRequest("The running server does not know this command; it may be of another version.")
    return await function(**arguments)


_MARKS: Final = ("is_admin", "is_deactivated", "is_guest")
_DEVICE: Final = (
    "device_id",
    "display_name",
    "last_seen_ts",
    "last_seen_ip",
    "has_keys",
    "is_verified",
    "is_dehydrated",
)


# -- the operator's end ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    user_id: str
    is_admin: bool
    is_deactivated: bool
    is_guest: bool


@dataclass(frozen=True, slots=True)
class _Device:
    device_id: str
    display_name: str | None
    last_seen_ts: int | None
    last_seen_ip: str | None
    has_keys: bool
    is_verified: bool
    is_dehydrated: bool


class RemoteAccounts:
    """The accounts of the server that runs on `data_dir`. Blocks: for commands outside of any reactor."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def is_there(self) -> bool:
        """Tell whether a server listens; raises Misconfigured when it is somebody else's."""
        connection = self._connect()
        if connection is not None:
            connection.close()
        return connection is not None

    async def create(self, localpart: str, password: str, *, admin: bool) -> str:
        return str(self._ask("create", localpart=localpart, password=password, admin=admin))

    async def set_password(self, localpart: str, password: str) -> None:
        self._ask("set_password", localpart=localpart, password=password)

    async def deactivate(self, localpart: str) -> None:
        self._ask("deactivate", localpart=localpart)

    async def list_accounts(self) -> Sequence[AccountLine]:
        return [_Line(*row) for row in self._ask("list_accounts")]

    async def list_devices(self, localpart: str) -> Sequence[DeviceLine]:
        return [_Device(*row) for row in self._ask("list_devices", localpart=localpart)]

    async def remove_devices(self, localpart: str, device_ids: Sequence[str]) -> None:
        self._ask("remove_devices", localpart=localpart, device_ids=list(device_ids))

    async def create_token(self, uses: int) -> str:
        return str(self._ask("create_token", uses=uses))

    def _connect(self) -> socket.socket | None:
        if not self._data_dir.is_dir():
            return None
        with _address(self._data_dir) as address:
            return _connected(address)

    def _ask(self, command: str, **arguments: str | bool | int | list[str]) -> Any:
        connection = self._connect()
        if connection is None:
            raise InternalFault("The server has just been stopped; nothing was done.")
        try:
            with connection, connection.makefile("rb") as answers:
                connection.settimeout(_ANSWER_TIMEOUT_S)
                connection.sendall(json.dumps({"command": command, "arguments": arguments}).encode() + b"\n")
                answer = json.loads(answers.readline() or b"{}")
        except (OSError, ValueError) as fault:
            raise InternalFault(
                f"The server did not answer ({fault}); the command may have been carried out."
            ) from fault
        if "refused" in answer:
            raise MatrixError(str(answer["refused"]))
        if "result" not in answer:
            raise InternalFault(
                str(answer.get("failed", "The server broke off; the command may have been carried out."))
            )
        return answer["result"]


@contextlib.contextmanager
def _address(data_dir: Path) -> Iterator[str]:
    """Give a path of the socket that is short enough: one through the open folder where its own is too long."""
    path = str(data_dir.absolute() / NAME)
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def _connected(address: str) -> socket.socket | None:
    """Return a connection to the server that listens there, None if none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(5.0)
        connection.connect(address)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        return None
    except OSError as fault:
        connection.close()
        raise Misconfigured(
            f"The running server's socket {address} cannot be opened: {fault.strerror}. "
            "Run the command as the user whom the server runs as."
        ) from fault
    return connection
