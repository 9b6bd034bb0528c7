"""`sennit doctor`: runs the checks in a reactor of their own and prints what they found."""

from __future__ import annotations

from typing import Any, TextIO

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning

from homeserver.config import Config
from homeserver.errors import BadIdentifier, Misconfigured
from homeserver.model.ids import ServerName

from .examination import examine
from .findings import Findings, Level


def run(config: Config, name: str | None, reactor: Any, *, as_json: bool, out: TextIO) -> int:
    """Look at a server, this one if no name is given, and print the report; return 0, or 1 if there are faults.

    Runs the reactor, so once in a process. Raises Misconfigured for a name that is none.
    """
    try:
        server_name = None if name is None else ServerName.parse(name)
    except BadIdentifier as fault:
        raise Misconfigured(f"{name!r} is no server name; expected one such as example.org.") from fault
    outcome: list[Findings] = []
    faults: list[Exception] = []

    async def whole() -> None:
        try:
            outcome.append(await examine(config, reactor, server_name))
        except Exception as fault:  # the boundary of the command, which tells it
            faults.append(fault)
        finally:
            try:
                reactor.stop()
            except ReactorNotRunning:
                # A signal has stopped it already.
                pass

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(whole()))
    reactor.run()
    if faults:
        raise faults[0]
    return show(outcome[0], as_json=as_json, out=out) if outcome else 1


def show(findings: Findings, *, as_json: bool, out: TextIO) -> int:
    """Print the report and return the exit code."""
    encoding = out.encoding or "utf-8"
    for line in [findings.to_json()] if as_json else findings.lines():
        # What the terminal cannot show must not end the report.
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=out)
    return 1 if findings.count(Level.FAULT) else 0
