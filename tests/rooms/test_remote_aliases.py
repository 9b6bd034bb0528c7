"""Aliases of other servers."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.errors import MatrixError, NotAllowed, NotFound, RemoteUnreachable, UnreachableServers, UselessServers
from homeserver.model.ids import RoomAlias, RoomID
from homeserver.ports import DirectoryAnswer
from homeserver.rooms.directory import Directory
from homeserver.rooms.remote_aliases import ask_for_aliases
from tests.support.elsewhere import Elsewhere
from tests.support.residents import Residents
from tests.support.rooms import SERVER, RoomServer

ALIAS = RoomAlias("#lobby:a.example")


async def none(alias: RoomAlias) -> None:
    return None


def directory(rooms: RoomServer, residents: Any) -> Directory:
    remote = ask_for_aliases(residents, rooms.clock, server_name=SERVER, own=none)
    return Directory(rooms.store, rooms.clock, remote=remote)


@pytest_twisted.ensureDeferred
async def test_alias_of_another_server_leads_to_its_room_and_servers(rooms: RoomServer) -> None:
    residents = Residents(Elsewhere("12"))
    residents.aliases[ALIAS] = DirectoryAnswer(
        RoomID("!r:a.example"), ["a.example", "no name", "a.example", "b.example"]
    )
    found = await directory(rooms, residents).resolve_with_servers(ALIAS)
    assert ("!r:a.example", ("a.example", "b.example")) == found


@pytest_twisted.ensureDeferred
async def test_alias_of_this_server_is_asked_of_nobody(rooms: RoomServer) -> None:
    residents = Residents(Elsewhere("12"))
    with pytest.raises(NotFound):
        await directory(rooms, residents).resolve(RoomAlias(f"#lobby:{SERVER}"))
    assert [] == residents.asked


@pytest.mark.parametrize(
    ("status", "kind"), [(404, NotFound), (403, NotAllowed), (500, UselessServers), (0, UnreachableServers)]
)
@pytest_twisted.ensureDeferred
async def test_alias_that_is_not_to_be_had_is_told(rooms: RoomServer, status: int, kind: type[MatrixError]) -> None:
    residents = Residents(Elsewhere("12"))

    def silent(server: str, truth: Any) -> Any:
        raise RemoteUnreachable(server, "gone")

    residents.answers["query_directory"] = residents.refuse(status, "M_UNKNOWN") if status else silent
    with pytest.raises(kind):
        await directory(rooms, residents).resolve(ALIAS)
