"""One running server for all tests of the folder, somebody with an account, and a stream of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.client import Actor
from tests.support.server import RunningServer, run_server
from tests.support.stream_wire import Wire, dial

# The number of connections is no matter here.
CONFIG = """
[stream]
sessions_per_user = 1000
sessions_per_address = 5000
"""


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running server, in whose log no traceback may be when all is done."""
    folder = tmp_path_factory.mktemp("stream")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}", more=CONFIG) as server:
        yield server
    assert "Traceback" not in Path(server.folder / "log").read_text(errors="replace"), server.log


class Talker:
    """Somebody who opens streams."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.actor = Actor(url, "talker").register()
        self.token = str(self.actor.token)
        self.room_id = self.actor.create_room()

    @property
    def since(self) -> str:
        """The end of the stream, as it is now."""
        return str(self.actor.sync()["next_batch"])

    def dial(self, offer: str | None = None) -> Wire:
        """Return a stream that has nothing to tell."""
        return dial(self.url, token=self.token, query=f"since={self.since}&set_presence=offline", offer=offer)


@pytest.fixture(scope="package")
def talker(running: RunningServer) -> Talker:
    """Who opens streams."""
    return Talker(running.url)


@pytest.fixture
def open_stream(talker: Talker) -> Iterator[Callable[[str | None], Wire]]:
    """A function that opens a stream, with an offer of compression or without; all are closed at the end."""
    with ExitStack() as stack:
        yield lambda offer: stack.enter_context(talker.dial(offer))


@pytest.fixture
def wire(talker: Talker) -> Iterator[Wire]:
    """A stream without compression."""
    with talker.dial() as opened:
        yield opened
