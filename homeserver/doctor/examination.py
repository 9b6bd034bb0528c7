"""The order of the checks: the configuration first, then from the name inwards; what builds on a fault is left out."""

from __future__ import annotations

import secrets
from typing import Any

from homeserver.config import Config
from homeserver.config_values import UNREACHABLE_RANGES
from homeserver.model.ids import ServerName
from homeserver.model.signing import SigningKey
from homeserver.runtime.addresses import AddressRules
from homeserver.runtime.client_tls import ClientTLS
from homeserver.runtime.clock import Clock, RealClock
from homeserver.runtime.names import Names, SystemNames

from .asking import Asker, Patient, Tools, WatchedNames, WatchedOutgoing
from .certificates import check_connections
from .configuration import check_configuration, read_own_keys
from .findings import Findings
from .key_servers import check_key_servers
from .naming import check_client_well_known, find_endpoints, find_route, is_of_this_machine
from .serving import check_compression, check_keys, check_version
from .signed_requests import check_body, check_signed_requests
from .stored import check_stored


async def examine(
    config: Config,
    reactor: Any,
    server_name: ServerName | None = None,
    *,
    names: Names | None = None,
    clock: Clock | None = None,
) -> Findings:
    """Return all that is found about a server: the one of the configuration, or another one.

    Of another one only the outside is looked at, with signed requests if there is a key of ours.
    """
    is_own = server_name is None or server_name == config.server.name
    findings = Findings(str(server_name or config.server.name))
    clock = RealClock(reactor) if clock is None else clock
    # A doctor of another server needs no key of ours, so what is wrong with that is not told.
    keys = read_own_keys(config, findings if is_own else Findings(""))
    if is_own:
        check_configuration(config, clock.now_ms(), findings)
        check_stored(config, clock.now_ms(), findings)
    tools = make_tools(config, reactor, clock, names, is_own=is_own)
    # Who cannot be asked for keys would not be believed.
    may_sign = bool(keys) and (is_own or (config.federation.enabled and not is_of_this_machine(config.server.name)))
    patient = Patient(server_name or config.server.name, is_own, str(config.server.name), keys[0] if may_sign else None)
    try:
        await _examine_outside(tools, patient, keys, findings)
        if is_own and config.federation.enabled:
            # By the rules that the server itself keeps.
            strict = make_tools(config, reactor, clock, names, is_own=False)
            try:
                await check_key_servers(strict, config, findings)
            finally:
                await strict.outgoing.stop()
    finally:
        await tools.outgoing.stop()
    return findings


def make_tools(config: Config, reactor: Any, clock: Clock, names: Names | None, *, is_own: bool) -> Tools:
    """Return what the checks work with; for our own server, private addresses are told of and tried all the same."""
    federation = config.federation
    watched = WatchedNames(SystemNames(reactor) if names is None else names)
    tls = ClientTLS(reactor, federation.ca_files)
    reachable = () if is_own else federation.ip_range_denylist
    outgoing = WatchedOutgoing(
        reactor, rules=AddressRules(reachable, federation.ip_range_allowlist), names=watched, tls=tls
    )
    rules = AddressRules(UNREACHABLE_RANGES, federation.ip_range_allowlist)
    return Tools(reactor, clock, watched, outgoing, tls, rules, secrets.SystemRandom().random)


async def _examine_outside(tools: Tools, patient: Patient, keys: tuple[SigningKey, ...], findings: Findings) -> None:
    route = await find_route(tools, patient, findings)
    if route is None:
        return
    endpoints = await find_endpoints(tools, patient, route, findings)
    is_reached, is_good = await check_connections(tools, patient, route, endpoints, findings)
    if is_reached:
        asker = Asker(tools, patient, route, verify=is_good)
        if await check_version(tools, patient, asker, findings):
            await check_keys(tools, patient, asker, keys, findings)
            await check_compression(asker, findings)
            if asker.can_sign and await check_signed_requests(patient, asker, findings):
                await check_body(tools, patient, asker, findings)
    await check_client_well_known(tools, patient, findings)
