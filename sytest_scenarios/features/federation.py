"""What others are told of people, and what a run needs to play another server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actors import Server
from ..journal import Journal
from . import probe

if TYPE_CHECKING:
    from ..host import Host


@probe("presence")
async def _presence(host: Host) -> str | None:
    user = await host.new_user(Server(host, Journal()), "Probe")
    path = f"/presence/{user.user_id}/status"
    await user.request("PUT", path, {"presence": "online", "status_msg": "Here"})
    answer = await user.request("GET", path)
    told = answer.json.get("status_msg") if answer.status == 200 else None
    return None if told == "Here" else f"the server keeps no presence ({answer.status} {answer.errcode or ''})".rstrip()


@probe("played servers")
async def _played_servers(host: Host) -> str | None:
    if host.process is None:
        return "another server can be played only where the suite starts the one that has to trust its certificate"
    return None
