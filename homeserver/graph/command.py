"""`sennit graph`: draws a stored room, or checks stored rooms.

Reads the database that the configuration names, in one read-only snapshot, so a server may run on it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from homeserver.config import Config
from homeserver.errors import Misconfigured, NotFound
from homeserver.model.graph_drawing import draw_dot, draw_text, plain
from homeserver.model.signing import BadKey, VerifyKey, parse_key_file
from storage.inspection import RoomRow, find_room, list_rooms, open_snapshot
from storage.transaction import Transaction

from .check import check_room
from .drawing import read_graph
from .event_checks import KnownKey
from .indexes import check_database, check_indexes
from .report import Report

# What can be drawn in the characters that every terminal has.
_ASCII = str.maketrans("●○◌×│├─┘┴┐┬┼…→", "*o~x||-'+.++.>")


def draw(config: Config, name: str, *, is_dot: bool, limit: int, out: TextIO, with_auth: bool = False) -> int:
    """Print the newest `limit` events of a room, given by ID or alias; raises NotFound and Misconfigured.

    `with_auth` adds the auth events to the Graphviz source.
    """
    with open_snapshot(config.database.url) as tx:
        graph = read_graph(tx, _room(tx, name), limit)
    write = _writer(out)
    for line in draw_dot(graph, with_auth=with_auth) if is_dot else draw_text(graph):
        write(line)
    return 0


def check(
    config: Config,
    names: Sequence[str],
    *,
    out: TextIO,
    errors: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Check these rooms, or the whole database if none are named; print every difference and a summary.

    Returns 0 if nothing differs, 1 if something does, and 2 if a name is that of no room: it is told on `errors`, and
    the others are checked. Raises Misconfigured.
    """
    keys = own_keys(config)
    write, warn = _writer(out), _writer(out if errors is None else errors)
    started = clock()
    total = Report()
    is_unknown = False
    with open_snapshot(config.database.url) as tx:
        for name, room in _rooms(tx, names):
            if room is None:
                warn(f"sennit: {_no_room(name)}.")
                is_unknown = True
                continue
            report = Report()
            check_room(tx, room, keys, report, config.server.name)
            check_indexes(tx, room, report)
            _take(report, total, write)
        if not names:
            report = Report()
            check_database(tx, report)
            _take(report, total, write)
    write(total.summary(clock() - started))
    return 2 if is_unknown else 0 if total.is_sound else 1


def _rooms(tx: Transaction, names: Sequence[str]) -> Iterator[tuple[str, RoomRow | None]]:
    if names:
        for name in names:
            yield name, find_room(tx, name)
    else:
        for room in list_rooms(tx):
            yield room.room_id, room


def _take(report: Report, total: Report, write: Callable[[str], None]) -> None:
    for line in report.lines():
        write(line)
    total.add(report)


def own_keys(config: Config) -> dict[tuple[str, str], KnownKey]:
    """Return the public keys of this server, those in use and the old ones; raises Misconfigured."""
    keys: dict[tuple[str, str], KnownKey] = {}
    path = config.server.signing_key_path
    try:
        for key in parse_key_file(path.read_text(encoding="utf-8")):
            keys[config.server.name, key.key_id] = KnownKey(key.verify_key)
    except FileNotFoundError:
        # A copy of the database alone: signatures are then counted as not checked.
        pass
    except OSError as fault:
        raise Misconfigured(f"The signing key {path} cannot be read: {fault.strerror}.") from fault
    except ValueError as fault:
        raise Misconfigured(f"{path} is not a signing key: {fault}.") from fault
    for key_id, old in config.server.old_signing_keys.items():
        try:
            keys[config.server.name, key_id] = KnownKey(VerifyKey.parse(old.key), old.expired_ts)
        except BadKey as fault:
            raise Misconfigured(f"The old signing key {key_id} is not one: {fault}.") from fault
    return keys


def _room(tx: Transaction, name: str) -> RoomRow:
    room = find_room(tx, name)
    if room is None:
        raise NotFound(_no_room(name))
    return room


def _no_room(name: str) -> str:
    return f"There is no room {plain(name, 255) or 'without a name'} in the database"


def _writer(out: TextIO) -> Callable[[str], None]:
    """Return what writes a line in the characters that `out` has."""
    encoding = out.encoding or "utf-8"
    is_unicode = encoding.lower().replace("-", "").startswith("utf")

    def write(line: str) -> None:
        if not is_unicode:
            line = line.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
        print(line, file=out)

    return write
