"""Users of the two servers encrypt, with matrix-js-sdk: keys, to-device messages and device lists cross both ways."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.threads import deferToThread

from tests.clients.stories import JS_FOLDER, NODE, needs_node, run_story

from .pairs import PATIENCE_S, Sides

pytestmark = [pytest.mark.clients, needs_node]


@pytest.mark.parametrize(
    ("new_database", "is_sennit_host"),
    [("sqlite", True), ("mariadb", False)],
    ids=["sqlite-sennit_hosts", "mariadb-synapse_hosts"],
    indirect=["new_database"],
)
async def test_users_of_both_servers_encrypt(
    sides: Sides, is_sennit_host: bool, caplog: pytest.LogCaptureFixture
) -> None:
    urls = [sides.sennit.url, sides.synapse.url]
    steps = await deferToThread(
        run_story,
        [str(NODE), "federation.mjs", *(urls if is_sennit_host else reversed(urls))],
        JS_FOLDER,
        environment={
            "NODE_EXTRA_CA_CERTS": str(sides.federation.authority.ca_file),
            "STORY_PATIENCE_MS": str(int(PATIENCE_S * 1000)),
        },
    )
    assert "goodbye" == steps[-1]
    assert [] == [each for each in caplog.records if each.levelno >= logging.ERROR]
