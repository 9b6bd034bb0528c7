"""`sennit doctor` of a real Synapse: it answers otherwise than we do, and yet nothing is wrong with it."""

from __future__ import annotations

from twisted.internet import reactor

from homeserver.doctor.examination import examine
from homeserver.doctor.findings import Level
from homeserver.model.ids import ServerName

from .pairs import Sides


async def test_synapse_has_no_fault(sides: Sides) -> None:
    findings = await examine(sides.sennit.config, reactor, ServerName.parse(sides.synapse.name))
    assert [] == [each for each in findings.all if each.level is Level.FAULT]
    assert {"federation", "keys", "signature", "path", "query", "body"} <= {each.check for each in findings.all}
