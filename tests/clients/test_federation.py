"""Users of two federated servers encrypt, with matrix-js-sdk: keys, to-device messages and device lists cross."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.threads import deferToThread

# The fixtures that pytest looks up here.
from tests.support.federation import Federation, federation, new_database  # noqa: F401

from .stories import JS_FOLDER, NODE, needs_node, run_story

pytestmark = [pytest.mark.clients, needs_node]


async def test_users_of_two_servers_encrypt(federation: Federation, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    one, two = await federation.start(2)
    steps = await deferToThread(
        run_story,
        [str(NODE), "federation.mjs", one.url, two.url],
        JS_FOLDER,
        environment={"NODE_EXTRA_CA_CERTS": str(federation.authority.ca_file)},
    )
    assert "goodbye" == steps[-1]
    assert [] == [each for each in caplog.records if each.levelno >= logging.ERROR]
