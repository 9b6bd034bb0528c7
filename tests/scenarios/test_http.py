"""A request leaves nothing behind when it ends before its answer does."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from sytest_scenarios import http
from sytest_scenarios.http import NoAnswer, Web
from sytest_scenarios.journal import Journal

from .played import wrong_server

ENDLESS = b"HTTP/1.1 200 OK\r\n\r\nthe beginning of a body"


@pytest.mark.parametrize("largest", [10, 10_000], ids=["too large", "too slow"])
@pytest_twisted.ensureDeferred
async def test_the_connection_ends_with_the_wish_for_the_answer(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LARGEST_ANSWER_BYTES", largest)
    over: Deferred[None] = Deferred()

    class Slow(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(ENDLESS)

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            over.callback(None)

    with wrong_server(Slow) as url:
        web = Web()
        with pytest.raises(NoAnswer, match="more than 23 bytes" if largest == 10 else "nothing whole within 0.2 s"):
            await web.request(Journal(), "Alice", "GET", f"{url}/x", patience_s=0.2)
        await over
        assert 0 == web.coming_bytes
        await web.close()
