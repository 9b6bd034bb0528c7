"""Room versions, and ways to look at rooms that not every server has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors import Server
from ..journal import Journal
from ..view import part
from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("room version 12")
async def _room_version_12(host: Host) -> str | None:
    user = await host.new_user(Server(host, Journal()), "Probe")
    known = part(await user.get("/capabilities"), "capabilities", "m.room_versions", "available")
    return None if known.get("12") == "stable" else f"room version 12 is not stable here (only {', '.join(known)})"


@probe("mutual rooms")
async def _mutual_rooms(host: Host) -> str | None:
    return await _served(host, "/_matrix/client/v1/mutual_rooms")


@probe("room summaries")
async def _room_summaries(host: Host) -> str | None:
    return await _served(host, "/_matrix/client/v1/room_summary/%23nothing%3Aexample.org")


async def _served(host: Host, path: str) -> str | None:
    answer = await host.ask("GET", path)
    return f"{path} is not served ({answer.status})" if answer.errcode == "M_UNRECOGNIZED" else None
