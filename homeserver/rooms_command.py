"""`sennit rooms`: the rooms of a server in a list, with members, servers, ends of the graph and what is missing.

Reads the database that the configuration names, in one read-only snapshot, so a server may run on it meanwhile. A room
that was joined through another server, and whose members are still on their way, says since when, and from whom.
"""

from __future__ import annotations

from typing import TextIO

from homeserver.config import Config
from homeserver.model.graph_drawing import plain
from storage.inspection import open_snapshot
from storage.room_overview import RoomOverview, list_overviews

_HEAD = f"{'MEMBERS':>8} {'SERVERS':>8} {'ENDS':>5} {'VERSION':<8} ROOM"
_MAX_CHARACTERS = 255


def show_rooms(config: Config, *, out: TextIO, now_ms: int) -> int:
    """Print all rooms; returns 0. Raises Misconfigured."""
    count = 0
    with open_snapshot(config.database.url) as tx:
        for room in list_overviews(tx):
            if not count:
                _write(out, _HEAD)
            _write(out, _line(room, now_ms))
            count += 1
    _write(out, f"{count} room{'' if count == 1 else 's'}")
    return 0


def _line(room: RoomOverview, now_ms: int) -> str:
    version = plain(room.version, 24)
    line = f"{room.joined_members:>8} {room.servers:>8} {room.extremities:>5} {version:<8} {plain(room.room_id, 255)}"
    if room.name:
        line += f" {plain(room.name, _MAX_CHARACTERS)}"
    if room.gaps:
        line += f" [{room.gaps} gap{'' if room.gaps == 1 else 's'} in the history]"
    if room.missing_since_ts is not None:
        minutes = max(0, now_ms - room.missing_since_ts) // 60_000
        via = plain(room.via or "", _MAX_CHARACTERS)
        line += f" [members are still missing, for {minutes} min; joined through {via}]"
    return line


def _write(out: TextIO, line: str) -> None:
    encoding = out.encoding or "utf-8"
    # What the terminal cannot show must not end the list.
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=out)
