"""The checker follows forks, refused events and room versions, and finds what is broken in them."""

from __future__ import annotations

import pytest
import pytest_twisted

from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, V12, RoomVersion
from storage.database import Database

from .graph_builder import ALICE, BOB, CAROL, REJECTED, SOFT_FAILED, GraphBuilder, check_graph

VERSIONS = pytest.mark.parametrize("version", KNOWN_ROOM_VERSIONS.values(), ids=lambda version: version.identifier)


def _forked(version: RoomVersion) -> GraphBuilder:
    """Return a room with two forks that meet, one soft-failed and one rejected event."""
    graph = GraphBuilder(version)
    base = graph.create(BOB, CAROL)
    left = graph.add("m.room.name", ALICE, {"name": "left"}, "", prev=[base])
    graph.add("m.room.member", ALICE, {"membership": "ban"}, CAROL, prev=[left])
    right = graph.add("m.room.name", BOB, {"name": "right"}, "", prev=[base])
    graph.add("m.room.member", CAROL, {"membership": "join", "displayname": "C"}, CAROL, prev=[right])
    graph.add("m.room.message", CAROL, {"body": "late"}, prev=[right], flags=SOFT_FAILED)
    graph.add("m.room.power_levels", BOB, {"users": {str(BOB): 100}}, "", prev=[right], flags=REJECTED)
    graph.add("m.room.message", BOB, {"body": "met"})
    return graph


@pytest.mark.in_turns
@VERSIONS
@pytest_twisted.ensureDeferred
async def test_forks_of_every_version_are_sound(database: Database, version: RoomVersion) -> None:
    report = await check_graph(_forked(version), database)
    assert [] == list(report.lines())
    assert report.resolutions > 0
    assert 13 == report.events


@pytest_twisted.ensureDeferred
async def test_open_ends_are_sound(database: Database) -> None:
    graph = GraphBuilder(V12)
    base = graph.create(BOB)
    for number in range(5):
        graph.add("m.room.name", ALICE, {"name": str(number)}, "", prev=[base])
    assert [] == list((await check_graph(graph, database)).lines())
