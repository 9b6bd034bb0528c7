"""What Synapse was right about: each test fails until Sennit is, and then its entry in `OPEN_FAULTS` goes too."""

from __future__ import annotations

import pytest

from homeserver.model.event_format import check_event_format
from homeserver.model.receipt_of_events import signatures_needed
from homeserver.model.room_versions import V1, V2, V12, RoomVersion

from .formats import changed_events


@pytest.mark.xfail(strict=True, reason="no server at all is asked for, where the event ID is of the sender's server")
@pytest.mark.parametrize("version", [V1, V2], ids=lambda version: version.identifier)
def test_third_party_invite_is_signed_by_the_server_of_its_event_id(version: RoomVersion) -> None:
    """Spec: server-server API, "Validating hashes and signatures on received events".

    The signature of the sender's server is not asked for, because the invite is a third-party one; that of the event
    ID's still is.
    """
    wire = {
        "type": "m.room.member",
        "event_id": "$invite:a.example",
        "room_id": "!room:a.example",
        "sender": "@alice:a.example",
        "state_key": "@bob:b.example",
        "content": {"membership": "invite", "third_party_invite": {"signed": {}}},
        "signatures": {},
    }
    assert {"a.example"} == set(signatures_needed(version, wire))


@pytest.mark.xfail(strict=True, reason="an `origin_server_ts` below 0 is held to be no event")
@pytest.mark.parametrize("version", [V1, V12], ids=lambda version: version.identifier)
def test_time_before_1970_is_a_time(version: RoomVersion) -> None:
    """Spec: rooms/v1 and v12, "Event format", `origin_server_ts`: an integer; who drops it has a hole in the graph."""
    check_event_format(version, dict(changed_events(version))["origin_server_ts: -1"])
