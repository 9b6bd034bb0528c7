"""`sennit doctor` of the server of the configuration, over TLS on loopback."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest_twisted
from twisted.internet import reactor

from homeserver.config import Config
from homeserver.doctor.command import show
from homeserver.doctor.examination import examine
from homeserver.doctor.findings import Findings, Level
from tests.support.federation import FederatedServer, Federation, federation, new_database, sqlite_federation  # noqa: F401


def texts(findings: Findings, level: Level) -> list[tuple[str, str]]:
    return [(each.check, each.text) for each in findings.all if each.level is level]


@pytest_twisted.ensureDeferred
async def test_healthy_server_has_no_fault(federation: Federation) -> None:  # noqa: F811
    (one,) = await federation.start()
    one.config.listeners[0].tls_key_path.chmod(0o600)
    findings = await examine(one.config, reactor)
    print("\n".join(findings.lines()))
    assert [] == texts(findings, Level.FAULT)
