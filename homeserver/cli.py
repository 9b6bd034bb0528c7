"""The command line: `sennit run`, `init`, `check-config`, `user`, `rooms`, `graph`, `doctor`, `chat` and `--version`.

Each command is a function from parsed arguments to an exit code: 0 done, 1 it failed, 2 the command line or the
configuration is wrong.  What goes wrong for an operator is told in a paragraph, never as a traceback; `--debug` shows
one.  The parts of the server are imported by the commands that need them, so that the others are quick.

This is the one module that picks the global reactor, besides the service for `twistd` and the chat.
"""

from __future__ import annotations

import argparse
import getpass
import importlib.metadata
import logging
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from homeserver.chat.options import add_chat_arguments

if TYPE_CHECKING:
    from homeserver.admin_socket import AccountCommands
    from homeserver.app import Homeserver
    from homeserver.config import Config

DEFAULT_FILE = Path("sennit.toml")
DEFAULT_DATA_DIR = Path("data")
FIRST_ADMIN = "admin"

# A stop waits for open writes; a server that hangs in it is ended all the same.
STOP_TIMEOUT_S = 10.0

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)

Work = Callable[["AccountCommands"], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
        return code
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _tell(error, debug=options.debug)


# -- the command line ------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sennit", description="A Matrix homeserver.")
    parser.add_argument("--version", action="version", version=f"sennit {_version()}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the server", description="Run the server until it is told to stop.")
    _add_config(run)
    run.set_defaults(command=_run)

    init = commands.add_parser("init", help="write a configuration file", description="Write sennit.toml.")
    init.add_argument("server_name", metavar="SERVER_NAME", help="what user IDs end with, such as example.org")
    init.add_argument("-o", "--output", type=Path, default=DEFAULT_FILE, metavar="FILE", help="default: sennit.toml")
    init.add_argument("-y", "--yes", action="store_true", help="ask nothing, take the defaults")
    init.set_defaults(command=_init)

    check = commands.add_parser("check-config", help="check a configuration file")
    _add_config(check)
    check.set_defaults(command=_check_config)

    graph = commands.add_parser(
        "graph",
        help="draw or check a stored room",
        description="Draw the events of a stored room, or check stored rooms, beside a running server or without one.",
    )
    graph.add_argument(
        "rooms", nargs="*", metavar="ROOM", help="room ID or alias; with --check several, or none for all"
    )
    graph.add_argument("--check", action="store_true", help="compute again what is stored, and tell every difference")
    graph.add_argument("--dot", action="store_true", help="write Graphviz source instead of text")
    graph.add_argument("--auth", action="store_true", help="with --dot: draw auth events too, as dashed edges")
    graph.add_argument("--limit", type=int, metavar="N", help="draw the newest N events (default: 100)")
    _add_config(graph)
    graph.set_defaults(command=_graph)

    rooms = commands.add_parser(
        "rooms", help="list all rooms", description="List all rooms, and what is missing in them."
    )
    _add_config(rooms)
    rooms.set_defaults(command=_rooms)

    doctor = commands.add_parser(
        "doctor",
        help="look at a server as other servers see it",
        description="Check how other servers reach this one, or another one, and say what to do about each fault.",
    )
    doctor.add_argument("server_name", nargs="?", metavar="SERVER_NAME", help="default: that of the configuration")
    doctor.add_argument("--json", action="store_true", help="write the report for programs")
    _add_config(doctor)
    doctor.set_defaults(command=_doctor)

    chat = commands.add_parser(
        "chat", help="chat in the terminal", description="Chat in the terminal, on this server or another Sennit."
    )
    add_chat_arguments(chat)
    _add_config(chat)
    chat.set_defaults(command=_chat)

    user = commands.add_parser("user", help="make and change accounts")
    verbs = user.add_subparsers(required=True, metavar="VERB")
    add = verbs.add_parser("add", help="make an account")
    add.add_argument("--admin", action="store_true", help="make it an administrator")
    change = verbs.add_parser("passwd", help="set a new password and log out all devices")
    deactivate = verbs.add_parser("deactivate", help="close an account for good")
    listing = verbs.add_parser("list", help="list all accounts")
    devices = verbs.add_parser("devices", help="list the devices of a user, or remove some")
    devices.add_argument(
        "--remove", nargs="+", metavar="DEVICE", default=[], help="log them out, and delete them with their keys"
    )
    token = verbs.add_parser("token", help="make a registration token: whoever has it may make an account")
    token.add_argument("--uses", type=int, default=1, metavar="N", help="for how many accounts it is good (default: 1)")
    token.set_defaults(command=_user_token)
    named = ((add, _user_add), (change, _user_passwd), (deactivate, _user_deactivate), (devices, _user_devices))
    for verb, command in named:
        verb.add_argument("name", metavar="NAME", help="user name or user ID")
        verb.set_defaults(command=command)
    for verb in (add, change):
        verb.add_argument("--generate", action="store_true", help="make up a password and print it")
    listing.set_defaults(command=_user_list)
    for verb in (add, change, deactivate, devices, listing, token):
        _add_config(verb)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", type=Path, metavar="FILE", help="default: $SENNIT_CONFIG, else sennit.toml")


def _version() -> str:
    try:
        return importlib.metadata.version("sennit")
    except importlib.metadata.PackageNotFoundError:
        return "from a checkout that is not installed"


def find_config(named: Path | None, environment: str | None) -> Config:
    """Return the configuration that the command line or SENNIT_CONFIG names, else sennit.toml's, else the default."""
    from homeserver.config import Config

    if named is not None:
        return Config.load(named)
    if environment:
        return Config.load(Path(environment))
    if DEFAULT_FILE.exists():
        return Config.load(DEFAULT_FILE)
    return Config.default(DEFAULT_DATA_DIR)


def _program() -> str:
    """Return what to type to call this program again: its name, or its path where the shell does not find the name."""
    called = sys.argv[0]
    found = shutil.which("sennit")
    if os.path.basename(called) != "sennit" or (
        found is not None and os.path.realpath(found) == os.path.realpath(called)
    ):
        return "sennit"
    relative = os.path.relpath(called)
    return called if relative.startswith("..") else relative


def _config(options: argparse.Namespace) -> Config:
    return find_config(options.config, os.environ.get("SENNIT_CONFIG"))


# -- commands that need no server ------------------------------------------------------------------------------------


def _check_config(options: argparse.Namespace) -> int:
    config = _config(options)
    for listener in config.listeners:
        if listener.tls_certificate_path is not None and listener.tls_key_path is not None:
            from homeserver.runtime.tls import ReloadableTLS

            ReloadableTLS(listener.tls_certificate_path, listener.tls_key_path)
    for notice in config.notices:
        print(f"{config.source}: {notice}")
    source = config.source or "no file; the defaults"
    print(f"{source}: good, for the server {config.server.name}")
    return 0


def _rooms(options: argparse.Namespace) -> int:
    from homeserver.rooms_command import show_rooms

    return show_rooms(_config(options), out=sys.stdout, now_ms=int(time.time() * 1000))


def _doctor(options: argparse.Namespace) -> int:
    from homeserver.doctor import command

    return command.run(_config(options), options.server_name, _reactor(), as_json=options.json, out=sys.stdout)


def _chat(options: argparse.Namespace) -> int:
    from homeserver.chat import command

    return command.run(options, lambda: _config(options))


def _graph(options: argparse.Namespace) -> int:
    mistake = _graph_mistake(options)
    if mistake:
        print(f"sennit: {mistake}", file=sys.stderr)
        return 2
    from homeserver.graph import command

    config = _config(options)
    if options.check:
        return command.check(config, options.rooms, out=sys.stdout, errors=sys.stderr)
    limit = 100 if options.limit is None else options.limit
    return command.draw(
        config, options.rooms[0], is_dot=options.dot, limit=limit, out=sys.stdout, with_auth=options.auth
    )


def _graph_mistake(options: argparse.Namespace) -> str:
    """Return what is wrong with the arguments of `sennit graph`, in a sentence; nothing if they are good."""
    if options.check:
        if options.dot:
            return "--check draws nothing; leave --dot out."
        if options.auth:
            return "--check draws nothing; leave --auth out."
        if options.limit is not None:
            return "--check looks at all events of a room; leave --limit out."
        return ""
    if not options.rooms:
        return "Name the room to draw, or check all rooms with --check."
    if len(options.rooms) > 1:
        return "Only one room is drawn at a time; name one."
    if options.limit is not None and options.limit < 1:
        return "--limit is a number of events, 1 or more."
    if options.auth and not options.dot:
        return "--auth is for --dot; the text names auth events anyway."
    return ""


def _init(options: argparse.Namespace) -> int:
    from homeserver.config import Config, render_default_toml
    from homeserver.errors import Misconfigured

    output: Path = options.output
    if output.exists() or output.is_symlink():
        raise Misconfigured(f"{output} exists already and is not overwritten. Move it away, or name another with -o.")
    # Checked before anything is asked.
    Config.from_mapping({"server": {"name": options.server_name}})
    database, bind, port, is_open = "", "127.0.0.1", 8008, False
    if not options.yes and sys.stdin.isatty():
        database, (bind, port), is_open = _ask_database(), _ask_listen(), _ask_open()
    text = render_default_toml(
        options.server_name, database_url=database or None, bind=bind, port=port, open_registration=is_open
    )
    try:
        # A database URL has a password in it.
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise Misconfigured(f"{output} cannot be written: {error.strerror}.") from error
    place = "" if output == DEFAULT_FILE else f" -c {output}"
    print(f"Wrote {output}. Next:  {_program()} run{place}")
    return 0


def _ask_database() -> str:
    def check(answer: str) -> str:
        url = "" if answer in ("", "sqlite") else answer
        if url:
            _check_answer({"database": {"url": url}})
        return url

    return _ask("Database: sqlite, or mysql+pymysql://user:password@host/name [sqlite] ", check)


def _ask_listen() -> tuple[str, int]:
    def check(answer: str) -> tuple[str, int]:
        address, colon, port_text = (answer or "127.0.0.1:8008").rpartition(":")
        if not colon or not port_text.isascii() or not port_text.isdigit() or len(port_text) > 5:
            raise ValueError("expected an address and a port, such as 0.0.0.0:8008")
        bind = address.removeprefix("[").removesuffix("]") or "::"
        _check_answer({"listeners": [{"port": int(port_text), "bind": [bind]}]})
        return bind, int(port_text)

    return _ask("Listen on [127.0.0.1:8008] ", check)


def _ask_open() -> bool:
    def check(answer: str) -> bool:
        if answer.lower() not in ("", "y", "yes", "n", "no"):
            raise ValueError("expected y or n")
        return answer.lower() in ("y", "yes")

    return _ask("May anybody make an account, without a token? [y/N] ", check)


def _check_answer(sections: dict[str, Any]) -> None:
    from homeserver.config import Config
    from homeserver.config_source import ConfigError

    try:
        Config.from_mapping({"server": {"name": "localhost"}, **sections})
    except ConfigError as error:
        raise ValueError(error.problems[0].message) from None


def _ask(question: str, check: Callable[[str], Answer]) -> Answer:
    """Ask until the answer passes `check`, which raises ValueError with what is wrong."""
    from homeserver.errors import Misconfigured

    while True:
        try:
            answer = input(question).strip()
        except EOFError:
            raise Misconfigured("There was no answer; nothing was written.") from None
        try:
            return check(answer)
        except ValueError as error:
            print(f"  {error}")


# -- commands on accounts --------------------------------------------------------------------------------------------


def _user_add(options: argparse.Namespace) -> int:
    config = _config(options)
    localpart = _localpart(options.name, config)
    password, is_generated = _new_password(options)

    async def work(accounts: AccountCommands) -> int:
        user_id = await accounts.create(localpart, password, admin=options.admin)
        print(f"Made {'the administrator ' if options.admin else ''}{user_id}.")
        if is_generated:
            print(f"Password: {password}")
        return 0

    return _with_accounts(config, _naming(localpart, work), debug=options.debug)


def _user_passwd(options: argparse.Namespace) -> int:
    config = _config(options)
    localpart = _localpart(options.name, config)
    password, is_generated = _new_password(options)

    async def work(accounts: AccountCommands) -> int:
        await accounts.set_password(localpart, password)
        print(f"The password of {localpart} is changed, and its devices are logged out.")
        if is_generated:
            print(f"Password: {password}")
        return 0

    return _with_accounts(config, _naming(localpart, work), debug=options.debug)


def _user_deactivate(options: argparse.Namespace) -> int:
    config = _config(options)
    localpart = _localpart(options.name, config)

    async def work(accounts: AccountCommands) -> int:
        await accounts.deactivate(localpart)
        print(f"{localpart} is deactivated.")
        return 0

    return _with_accounts(config, _naming(localpart, work), debug=options.debug)


def _user_list(options: argparse.Namespace) -> int:
    async def work(accounts: AccountCommands) -> int:
        for account in await accounts.list_accounts():
            marks = (("admin", account.is_admin), ("guest", account.is_guest), ("deactivated", account.is_deactivated))
            print(account.user_id, *(mark for mark, is_set in marks if is_set))
        return 0

    return _with_accounts(_config(options), work, debug=options.debug)


def _user_devices(options: argparse.Namespace) -> int:
    from homeserver.devices_command import device_lines

    config = _config(options)
    localpart = _localpart(options.name, config)

    async def work(accounts: AccountCommands) -> int:
        if options.remove:
            await accounts.remove_devices(localpart, options.remove)
            count = len(set(options.remove))
            print(f"Removed {count} device{'' if count == 1 else 's'} of {localpart}.")
            return 0
        encoding = sys.stdout.encoding or "utf-8"
        for line in device_lines(await accounts.list_devices(localpart)):
            # What the terminal cannot show must not end the list.
            print(line.encode(encoding, "backslashreplace").decode(encoding))
        return 0

    return _with_accounts(config, _naming(localpart, work), debug=options.debug)


def _user_token(options: argparse.Namespace) -> int:
    config = _config(options)
    if options.uses < 1:
        print("sennit: --uses must be at least 1", file=sys.stderr)
        return 2

    async def work(accounts: AccountCommands) -> int:
        print(await accounts.create_token(options.uses))
        if not (config.registration.enabled and config.registration.requires_token):
            print(
                "sennit: registration tokens are not asked for; set enabled = true and requires_token = true "
                "under [registration]",
                file=sys.stderr,
            )
        return 0

    return _with_accounts(config, work, debug=options.debug)


class _Refused(Exception):
    """What was asked for an account was refused; the text names the account."""


def _naming(localpart: str, work: Work) -> Work:
    """Return `work` whose refusals name the account."""
    from homeserver.errors import MatrixError

    async def named(accounts: AccountCommands) -> int:
        try:
            return await work(accounts)
        except MatrixError as error:
            raise _Refused(f"{localpart}: {error.message.rstrip('.')}.") from error

    return named


def _localpart(name: str, config: Config) -> str:
    """Return the local part of a user name or of a user ID of this server."""
    from homeserver.errors import MatrixError, Misconfigured
    from homeserver.model.ids import UserID

    localpart, colon, server_name = name.removeprefix("@").partition(":")
    if colon and server_name != config.server.name:
        raise Misconfigured(f"{name} is not a user of {config.server.name}.")
    try:
        return UserID.of(localpart, config.server.name).localpart
    except MatrixError as error:
        raise Misconfigured(f"{name} cannot be used: {error.message}.") from error


def _new_password(options: argparse.Namespace) -> tuple[str, bool]:
    """Return a password and whether it was made up: asked for twice on a terminal, else one line of standard input."""
    from homeserver.errors import Misconfigured
    from homeserver.first_run import readable_secret

    if options.generate:
        return readable_secret(), True
    try:
        if not sys.stdin.isatty():
            password = sys.stdin.readline(4096).rstrip("\r\n")
            if not password:
                raise Misconfigured("No password came on standard input. Write one there, or use --generate.")
            return password, False
        password = getpass.getpass("Password (leave empty to have one made up): ")
        if not password:
            return readable_secret(), True
        if getpass.getpass("Once more: ") != password:
            raise Misconfigured("The two passwords differ; nothing was changed.")
    except (EOFError, UnicodeDecodeError):
        raise Misconfigured("No password could be read; nothing was changed.") from None
    return password, False


# -- commands that run a server --------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from twisted.internet.defer import Deferred, TimeoutError

    from homeserver.app import Homeserver
    from homeserver.extensions import default_extensions
    from homeserver.runtime.clock import RealClock
    from homeserver.runtime.garbage import GarbageCollection
    from homeserver.runtime.open_files import raise_open_files

    config = _config(options)
    _start_logging(config)
    reactor = _reactor()
    homeserver = Homeserver(config, reactor=reactor, extensions=default_extensions())
    garbage = GarbageCollection(RealClock(reactor))
    outcome = _Outcome(options.debug)
    is_started: list[bool] = []
    is_stopping: list[bool] = []

    async def start() -> None:
        try:
            await homeserver.start()
            if is_stopping:
                return
            is_started.append(True)
            raise_open_files(config.stream.max_sessions)
            garbage.start()
            _write_pid(config)
            await _first_account(homeserver, config)
            print(_ready_text(config), flush=True)
        except Exception as error:
            # A start that is broken off by a signal has not failed.
            if not is_stopping:
                outcome.failed(error)
                _stop_reactor(reactor)

    async def stop() -> None:
        is_stopping.append(True)
        garbage.stop()
        try:
            await Deferred.fromCoroutine(homeserver.stop()).addTimeout(STOP_TIMEOUT_S, reactor)
        except TimeoutError:
            print(f"sennit: was not done after {STOP_TIMEOUT_S:g} s and is ended", file=sys.stderr)
            outcome.code = outcome.code or 1
        except Exception as error:
            if is_started:
                outcome.failed(error)
        finally:
            _remove_pid(config)

    def reload(*_: object) -> None:
        reactor.callFromThread(_reload, homeserver, config, options)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    # The reactor's own handlers of SIGINT and SIGTERM stop it, and it waits for this.
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(stop()))
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, reload)
    reactor.run()
    if outcome.code and any(not thread.daemon for thread in threading.enumerate()[1:]):
        # Threads that a failed start or stop has left behind would keep the process for ever.
        sys.stdout.flush()
        os._exit(outcome.code)
    return outcome.code


def _with_accounts(config: Config, work: Work, *, debug: bool) -> int:
    """Run `work` with the accounts of the running server, else of one that is started for it and listens nowhere."""
    from homeserver.admin_socket import RemoteAccounts

    remote = RemoteAccounts(config.server.data_dir)
    if not remote.is_there():
        outcome = _with_homeserver(config, work, debug=debug)
        # It may have started a moment ago.
        if not outcome.is_in_use or not remote.is_there():
            return outcome.tell()
    # The methods of `remote` block, so the coroutine ends at its first step.
    try:
        work(remote).send(None)
    except StopIteration as end:
        return int(end.value)
    raise AssertionError("unreachable")


def _with_homeserver(config: Config, work: Work, *, debug: bool) -> _Outcome:
    from twisted.internet.defer import Deferred

    from homeserver.app import Homeserver

    reactor = _reactor()
    outcome = _Outcome(debug)
    # Stays so when a signal ends the work halfway.
    outcome.code = 1

    async def whole() -> None:
        homeserver = Homeserver(config, reactor=reactor)
        try:
            try:
                await homeserver.start(listen=False)
                outcome.code = await work(homeserver.accounts)
            finally:
                await homeserver.stop()
        except Exception as error:
            outcome.error = error
        finally:
            _stop_reactor(reactor)

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(whole()))
    reactor.run()
    return outcome


def _reactor() -> Any:
    """Return the global reactor; `Any`, because Twisted types it as a module."""
    from twisted.internet import reactor

    return reactor


class _Outcome:
    """The exit code of what runs inside the reactor."""

    def __init__(self, debug: bool) -> None:
        self.code = 0
        self.error: Exception | None = None
        self._debug = debug

    def failed(self, error: Exception) -> None:
        self.code = _tell(error, debug=self._debug)

    @property
    def is_in_use(self) -> bool:
        """Whether another server has the database."""
        from homeserver.errors import DatabaseInUse

        return isinstance(self.error, DatabaseInUse)

    def tell(self) -> int:
        """Print what went wrong, if anything, and return the exit code."""
        if self.error is not None:
            self.failed(self.error)
        return self.code


def _stop_reactor(reactor: Any) -> None:
    from twisted.internet.error import ReactorNotRunning

    try:
        reactor.stop()
    except ReactorNotRunning:
        # A signal has stopped it already.
        pass


def _start_logging(config: Config) -> None:
    from homeserver.runtime.log import LogOptions, configure_logging

    if config.log.dict_config is not None:
        import logging.config

        from homeserver.errors import Misconfigured

        try:
            logging.config.dictConfig(config.log.dict_config)
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise Misconfigured(f"The settings for logging cannot be used: {error.__cause__ or error}.") from error
        return
    file = config.log.file
    configure_logging(
        LogOptions(config.log.level, str(file) if file is not None else None, file is None, config.log.levels)
    )


def _reload(homeserver: Homeserver, started_with: Config, options: argparse.Namespace) -> None:
    """Read certificates and logging again; the server keeps running, whatever is wrong with the new ones."""
    from homeserver.config import changed_keys

    try:
        config = _config(options)
        _start_logging(config)
        homeserver.reload()
        waiting = changed_keys(started_with, config)
        logger.info("Certificates and logging were read again")
        if waiting:
            logger.warning("These settings have changed and need a restart: %s", ", ".join(waiting))
    except Exception as error:
        _tell(error, debug=options.debug)
        print("sennit: the server goes on with the certificates that it has", file=sys.stderr, flush=True)


async def _first_account(homeserver: Homeserver, config: Config) -> None:
    """Make an administrator when there is no account at all, and say how to log in."""
    from homeserver.first_run import readable_secret, welcome_text

    accounts = homeserver.accounts
    if await accounts.has_any():
        return
    password = readable_secret()
    user_id = await accounts.create(FIRST_ADMIN, password, admin=True)
    print(welcome_text(config, user_id=user_id, password=password, program=_program()), flush=True)


def _ready_text(config: Config) -> str:
    from homeserver.first_run import client_address

    return f"sennit: {config.server.name} is ready at {client_address(config) or 'no address for clients'}"


def _write_pid(config: Config) -> None:
    if config.server.pid_file is not None:
        config.server.pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")


def _remove_pid(config: Config) -> None:
    if config.server.pid_file is not None:
        config.server.pid_file.unlink(missing_ok=True)


# -- what went wrong -------------------------------------------------------------------------------------------------


def _tell(error: Exception, *, debug: bool) -> int:
    """Print one paragraph about an error and return the exit code."""
    if debug:
        traceback.print_exception(error)
    code, text = explain(error)
    print(f"sennit: {text}", file=sys.stderr, flush=True)
    return code


def explain(error: Exception) -> tuple[int, str]:
    """Return the exit code for an error and a paragraph for the operator."""
    from homeserver.errors import InternalFault, MatrixError, Misconfigured

    if isinstance(error, Misconfigured):
        return 2, str(error)
    if isinstance(error, MatrixError):
        return 1, f"{error.message.rstrip('.')}."
    if isinstance(error, InternalFault | _Refused):
        return 1, str(error)
    if "twisted.internet.error" in sys.modules:
        from twisted.internet.error import CannotListenError

        if isinstance(error, CannotListenError):
            from homeserver.first_run import cannot_listen_text

            return 1, cannot_listen_text(error.interface, error.port, error.socketError)
    if isinstance(error, OSError):
        place = f" ({error.filename})" if error.filename else ""
        return 1, f"The system refuses: {error.strerror or error}{place}."
    name = type(error).__name__
    return 1, f"This is a fault of Sennit itself: {name}: {error}. With `sennit --debug` it shows where."
