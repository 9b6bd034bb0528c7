"""What Synapse was right about: each test fails until Sennit is, and then its entry in `OPEN_FAULTS` goes too."""

from __future__ import annotations

import pytest

from homeserver.model.event_format import check_event_format
from homeserver.model.room_versions import V1, V12, RoomVersion

from .formats import changed_events


@pytest.mark.xfail(strict=True, reason="an `origin_server_ts` below 0 is held to be no event")
@pytest.mark.parametrize("version", [V1, V12], ids=lambda version: version.identifier)
def test_time_before_1970_is_a_time(version: RoomVersion) -> None:
    """Spec: rooms/v1 and v12, "Event format", `origin_server_ts`: an integer; who drops it has a hole in the graph."""
    check_event_format(version, dict(changed_events(version))["origin_server_ts: -1"])
