"""Making rooms over the client API."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import pytest_twisted

from api.client.membership import RoomMembership
from api.ratelimit import ClientRates
from homeserver.config import Limits, RateLimit
from homeserver.errors import LimitExceeded
from homeserver.model.ids import UserID
from homeserver.runtime.clock import ManualClock
from homeserver.users.sessions import Requester
from homeserver.web.ratelimit import RateLimits
from homeserver.web.request import WebRequest


class _Creation:
    async def create(self, creator: UserID, wanted: Any) -> str:
        return "!made"


@pytest_twisted.ensureDeferred
async def test_invites_of_a_new_room_count_one_by_one() -> None:
    limits = Limits(invites_per_issuer=RateLimit(per_second=0.001, burst_count=3))
    rates = ClientRates(RateLimits(ManualClock()), limits)
    unused: Any = None
    creation: Any = _Creation()
    api = RoomMembership(creation, unused, unused, rates)

    def asked(invites: int) -> WebRequest:
        body = orjson.dumps({"invite": [f"@guest{number}:example.org" for number in range(invites)]})
        request = WebRequest("POST", "/_matrix/client/v3/createRoom", "", body=body)
        request.requester = Requester(UserID("@alice:example.org"), 1)
        return request

    assert {"room_id": "!made"} == await api.post_create_room(asked(2))
    with pytest.raises(LimitExceeded):
        await api.post_create_room(asked(2))
