"""The command line: `sennit run`, `init`, `check-config`, `user`, `rooms`, `graph`, `doctor`, `chat` and `--version`.

Each command is a function from parsed arguments to an exit code: 0 done, 1 it failed, 2 the command line or the
configuration is wrong.  What goes wrong for an operator is told in a paragraph, never as a traceback; `--debug` shows
one.  The parts of the server are imported by the commands that need them, so that the others are quick.

What the larger ones do is in modules of their own: `init_command`, `run_command`, `users_command`, `graph.command`, ….
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homeserver import init_command, run_command, users_command
from homeserver.chat.options import add_chat_arguments
from homeserver.explaining import tell

if TYPE_CHECKING:
    from homeserver.config import Config

DEFAULT_FILE = Path("sennit.toml")
DEFAULT_DATA_DIR = Path("data")


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
        return tell(error, debug=options.debug)


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
    for verb in (add, change, deactivate, devices):
        verb.add_argument("name", metavar="NAME", help="user name or user ID")
    for verb in (add, change):
        verb.add_argument("--generate", action="store_true", help="make up a password and print it")
    for verb, does in (
        (add, users_command.add),
        (change, users_command.change_password),
        (deactivate, users_command.deactivate),
        (devices, users_command.devices),
        (listing, users_command.list_all),
        (token, users_command.make_token),
    ):
        verb.set_defaults(command=_user, verb=does)
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


def _init(options: argparse.Namespace) -> int:
    place = "" if options.output == DEFAULT_FILE else f" -c {options.output}"
    next_command = f"{_program()} run{place}"
    return init_command.write_config(
        options.server_name, options.output, asks=not options.yes, next_command=next_command
    )


def _rooms(options: argparse.Namespace) -> int:
    from homeserver.rooms_command import show_rooms

    return show_rooms(_config(options), out=sys.stdout, now_ms=int(time.time() * 1000))


def _doctor(options: argparse.Namespace) -> int:
    from homeserver.doctor import command

    return command.run(
        _config(options), options.server_name, run_command.global_reactor(), as_json=options.json, out=sys.stdout
    )


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


# -- commands that run a server --------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    return run_command.run(lambda: _config(options), program=_program(), debug=options.debug)


def _user(options: argparse.Namespace) -> int:
    verb: Callable[[argparse.Namespace, Config], int] = options.verb
    return verb(options, _config(options))
