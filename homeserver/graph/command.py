"""`sennit graph`: draws a stored room, or checks stored rooms.

Reads the database that the configuration names, in one read-only snapshot, so a server may run on it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
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
from .indexes import check_indexes
from .report import Report

# What can be drawn in the characters that every terminal has.
_ASCII = str.maketrans("●○◌×│├─┘┴┐┬┼…→", "*o~x||-'+.++.>")


def draw(config: Config, name: str, *, is_dot: bool, limit: int, out: TextIO) -> int:
    """Print the newest `limit` events of a room, given by ID or alias; raises NotFound and Misconfigured."""
    with open_snapshot(config.database.url) as tx:
        graph = read_graph(tx, _room(tx, name), limit)
    write = _writer(out)
    for line in draw_dot(graph) if is_dot else draw_text(graph):
        write(line)
    return 0


def check(config: Config, names: Sequence[str], *, out: TextIO, clock: Callable[[], float] = time.monotonic) -> int:
    """Check these rooms, all if there are none; print every difference and a summary, and return 1 if there was one."""
    keys = own_keys(config)
    write = _writer(out)
    started = clock()
    total = Report()
    with open_snapshot(config.database.url) as tx:
        rooms: Iterable[RoomRow] = [_room(tx, name) for name in names] if names else list_rooms(tx)
        for room in rooms:
            report = Report()
            check_room(tx, room, keys, report)
            check_indexes(tx, room, report)
            for line in report.lines():
                write(line)
            total.add(report)
    write(total.summary(clock() - started))
    return 0 if total.is_sound else 1


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
        raise NotFound(f"There is no room {plain(name, 255)} in the database")
    return room


def _writer(out: TextIO) -> Callable[[str], None]:
    """Return what writes a line in the characters that `out` has."""
    encoding = out.encoding or "utf-8"
    is_unicode = encoding.lower().replace("-", "").startswith("utf")

    def write(line: str) -> None:
        if not is_unicode:
            line = line.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
        print(line, file=out)

    return write
