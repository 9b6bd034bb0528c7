"""Where aliases of other servers lead: asked of their server each time, and believed for what it is worth.

Spec: server-server API, `GET /_matrix/federation/v1/query/directory`; client-server API, "Room aliases".
"""

from __future__ import annotations

from typing import Final

from homeserver.errors import RemoteError, RemoteRefused
from homeserver.model.ids import RoomAlias, RoomID, ServerName
from homeserver.ports import RemoteServers
from homeserver.runtime.clock import Clock

from .candidates import MAX_CANDIDATES, choose_candidates, error_for_client, within
from .directory import RemoteAliases

QUERY_S: Final = 20.0


def ask_for_aliases(remote: RemoteServers, clock: Clock, *, server_name: str, own: RemoteAliases) -> RemoteAliases:
    """Return what finds any alias: `own` those of this server, the server that it names each other.

    It gives None where that server says that there is none; errors of other kinds are raised as clients are told them.
    """

    async def find(alias: RoomAlias) -> tuple[RoomID, tuple[ServerName, ...]] | None:
        server = alias.server_name
        if server == server_name:
            return await own(alias)
        try:
            answer = await within(clock, QUERY_S, server, remote.query_directory(server, alias))
        except RemoteRefused as fault:
            if fault.status == 404:
                return None
            raise error_for_client(fault) from fault
        except RemoteError as fault:
            raise error_for_client(fault) from fault
        # This server among them tells that it is in the room; it is not asked by itself.
        others = choose_candidates("", answer.servers)
        return answer.room_id, others[:MAX_CANDIDATES]

    return find
