"""Where the server's name leads: the well-known files, SRV records, addresses.

The route is what `federation.discovery` finds; here is only told how it came to that, and what is broken on the way.
A broken well-known file is a fault even if the server is found without it: it was meant to say something.

Spec: server-server API, "Resolving server names"; client-server API, "Server discovery".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from twisted.internet.error import ConnectError

from federation.discovery import (
    DEFAULT_PORT,
    MAX_REDIRECTS,
    MAX_WELL_KNOWN_BYTES,
    WELL_KNOWN_PATH,
    WELL_KNOWN_TIMEOUT_S,
    Discovery,
    NamePlan,
    Route,
    parse_well_known,
    plan_for,
)
from homeserver.errors import RemoteUnreachable
from homeserver.model.ids import ServerName
from homeserver.runtime.addresses import is_host_name, literal_address
from homeserver.runtime.names import LookupFailed, NameNotFound, Service
from homeserver.runtime.outgoing import Answer, OutgoingFault, OutgoingTimeout

from .asking import Patient, Tools, json_of, reason_of
from .findings import Findings

CLIENT_PATH: Final = "/.well-known/matrix/client"
# LIMIT: addresses that are tried one by one.
MAX_ENDPOINTS: Final = 8

_FILE_REMEDY: Final = (
    'Let the web server answer it with status 200 and {"m.server": "HOST:PORT"}, or with 404 if no such file is meant.'
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that a remote would connect to."""

    host: str
    port: int
    address: str

    def __str__(self) -> str:
        place = f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"
        return place if self.address == self.host else f"{self.host} ({place})"


async def find_route(tools: Tools, patient: Patient, findings: Findings) -> Route | None:
    """Return where the server is, as a remote finds it; None if its name leads nowhere."""
    name = str(patient.name)
    try:
        plan = plan_for(name)
    except ValueError as fault:
        findings.fault("name", f"{name} leads nowhere: {fault}.", "Check how the server name is written.")
        return None
    if patient.is_own and is_of_this_machine(patient.name):
        findings.fault(
            "name",
            f"{name} means this machine to everybody who reads it, so no other server can come here by it.",
            "A server that is to federate needs a name in the public DNS; set it before anybody has an account.",
        )
        return None
    discovery = Discovery(tools.outgoing, tools.names, tools.clock, tools.chance)
    try:
        route = await discovery.find(name)
    except RemoteUnreachable as fault:
        findings.fault("name", f"{fault}.", "Check how the server name is written.")
        return None
    if plan.route is not None:
        findings.good("name", f"{name} says by itself where the server is; well-known and SRV are not asked.")
        return route
    delegated = _tell_well_known(tools, plan.hostname, findings)
    target = plan if delegated is None else plan_for(delegated)
    if target.route is None:
        _tell_services(tools, target, findings)
    hosts = ", ".join(f"{host}:{port}" for host, port in route.hosts)
    findings.good("name", f"Other servers go to {hosts} and expect a certificate for {route.tls_name}.")
    return route


async def find_endpoints(tools: Tools, patient: Patient, route: Route, findings: Findings) -> list[Endpoint]:
    """Return the addresses of the hosts, and tell of those that lead nowhere or into private networks."""
    found: list[Endpoint] = []
    for host, port in route.hosts:
        literal = literal_address(host)
        try:
            addresses: Sequence[str] = (literal,) if literal is not None else await tools.names.addresses(host)
        except (NameNotFound, LookupFailed) as fault:
            is_none = isinstance(fault, NameNotFound)
            findings.fault(
                "addresses",
                f"{host} has no address." if is_none else f"The address of {host} cannot be looked up: {fault}.",
                f"Check how {host} is written, make an A or AAAA record for it, or correct what leads to it "
                "(the well-known file, the SRV record).",
            )
            continue
        private = [address for address in addresses if not tools.rules.allows(address)]
        if private:
            findings.fault(
                "addresses",
                f"{host} leads to {', '.join(private)} from here, a private address that other servers refuse.",
                f"For the world, give {host} a public address in the DNS (if only this machine sees another, see "
                "/etc/hosts, that is harmless, and the doctor should run elsewhere); in a closed network, "
                "name its range in federation.ip_range_allowlist on all of its servers.",
            )
        if literal is None and len(private) < len(addresses):
            findings.good("addresses", f"{host} has the addresses {', '.join(addresses)}.")
        # To another server's private address nobody connects, the doctor neither.
        found += [Endpoint(host, port, each) for each in addresses if patient.is_own or each not in private]
    return found[:MAX_ENDPOINTS]


async def check_client_well_known(tools: Tools, patient: Patient, findings: Findings) -> None:
    """Look at the file by which clients find the server; having none is no fault.

    Spec: client-server API, "Well-known URIs".
    """
    hostname = plan_for(str(patient.name)).hostname
    if literal_address(hostname) is not None:
        return
    url = f"https://{hostname.removesuffix('.')}{CLIENT_PATH}"
    try:
        answer = await tools.outgoing.request(
            "GET",
            url,
            headers={"Accept": "application/json"},
            timeout_s=WELL_KNOWN_TIMEOUT_S,
            max_bytes=MAX_WELL_KNOWN_BYTES,
            redirects=MAX_REDIRECTS,
        )
    except OutgoingFault as fault:
        if not is_absent(fault):
            findings.fault("client well-known", f"{url}: {reason_of(fault)}.", "Mend the web server of that name.")
            return
        findings.good("client well-known", f"There is none ({url}: {reason_of(fault)}); users type the address.")
        return
    if answer.status == 404:
        findings.good("client well-known", f"There is none at {url}; users type the address of the server.")
        return
    wire = json_of(answer)
    homeserver = wire.get("m.homeserver") if isinstance(wire, dict) else None
    base_url = homeserver.get("base_url") if isinstance(homeserver, dict) else None
    if answer.status != 200 or not isinstance(base_url, str) or not _is_web_address(base_url):
        what = f"answers with status {answer.status}" if answer.status != 200 else "names no base_url with https://"
        remedy = 'Let it answer {"m.homeserver": {"base_url": "https://…"}}, or 404.'
        findings.fault("client well-known", f"{url} {what}, so clients do not find the server.", remedy)
        return
    if answer.headers.get("access-control-allow-origin") != "*":
        remedy = "Let the web server send Access-Control-Allow-Origin: * with it."
        findings.fault("client well-known", f"{url} may not be read by clients in browsers.", remedy)
        return
    await _check_base_url(tools, base_url, findings)


def is_absent(fault: OutgoingFault) -> bool:
    """Tell whether there is nobody who could answer, which is no mistake, as against one who answers badly."""
    return isinstance(fault.__cause__, ConnectError | NameNotFound | TimeoutError)


def is_of_this_machine(name: ServerName) -> bool:
    """Tell whether a name means another machine to each who reads it, such as `localhost`, or none at all."""
    try:
        hostname = plan_for(str(name)).hostname.removesuffix(".").lower()
    except ValueError:
        return True
    return hostname == "localhost" or hostname.endswith(".localhost")


# -- private ---------------------------------------------------------------------------------------------------------


async def _check_base_url(tools: Tools, base_url: str, findings: Findings) -> None:
    url = f"{base_url.rstrip('/')}/_matrix/client/versions"
    reason = ""
    try:
        answer = await tools.outgoing.request(
            "GET", url, timeout_s=WELL_KNOWN_TIMEOUT_S, max_bytes=MAX_WELL_KNOWN_BYTES, redirects=MAX_REDIRECTS
        )
        wire: Any = json_of(answer)
        if answer.status != 200 or not isinstance(wire, dict) or "versions" not in wire:
            reason = f"no Matrix server answers there (status {answer.status})"
    except OutgoingFault as fault:
        reason = reason_of(fault)
    if reason:
        remedy = "Correct base_url in the file, or let the proxy pass /_matrix/client there."
        findings.fault("client well-known", f"It sends clients to {base_url}, but {reason}.", remedy)
    else:
        findings.good("client well-known", f"It sends clients to {base_url}, and the client API answers there.")


def _tell_well_known(tools: Tools, hostname: str, findings: Findings) -> str | None:
    """Tell what the resolver got for the well-known file, and return the name that it delegates to."""
    url = f"https://{hostname.removesuffix('.').lower()}{WELL_KNOWN_PATH}"
    outcome = tools.outgoing.outcomes.get(url)
    if outcome is None:
        return None
    if isinstance(outcome, OutgoingFault):
        if is_absent(outcome):
            findings.good("well-known", f"There is none ({url}: {reason_of(outcome)}).")
        else:
            slow = " Every server waits for it so long." if isinstance(outcome, OutgoingTimeout) else ""
            text = f"{url} cannot be read: {reason_of(outcome)}.{slow}"
            findings.fault("well-known", text, f"Mend the web server of that name. {_FILE_REMEDY}")
        return None
    return _tell_well_known_answer(url, outcome, findings)


def _tell_well_known_answer(url: str, answer: Answer, findings: Findings) -> str | None:
    if answer.status == 404:
        findings.good("well-known", f"There is none at {url}.")
        return None
    if answer.status != 200:
        why = "too many redirects" if 300 <= answer.status < 400 else f"status {answer.status}"
        findings.fault("well-known", f"{url} answers with an error ({why}), so it does not count.", _FILE_REMEDY)
        return None
    try:
        delegated = parse_well_known(answer.body)
    except orjson.JSONDecodeError as fault:
        findings.fault("well-known", f"{url} is not JSON ({fault}), so it does not count.", _FILE_REMEDY)
        return None
    except ValueError as fault:
        findings.fault("well-known", f"{url} names no server ({fault}), so it does not count.", _FILE_REMEDY)
        return None
    findings.good("well-known", f"{url} leads to {delegated}.")
    return delegated


def _tell_services(tools: Tools, plan: NamePlan, findings: Findings) -> None:
    name = plan.hostname.removesuffix(".").lower()
    usable: list[Service] = []
    for prefix in ("_matrix-fed._tcp.", "_matrix._tcp."):
        record = prefix + name
        outcome = tools.names.services_of.get(record)
        if outcome is None or isinstance(outcome, NameNotFound):
            continue
        if isinstance(outcome, LookupFailed):
            remedy = "Check the name servers of the domain, and that this machine can ask any (/etc/resolv.conf)."
            findings.warn("SRV", f"It is not known whether there is {record}: {outcome}.", remedy)
            continue
        usable = [each for each in outcome if 0 < each.port < 65_536 and is_host_name(each.target)]
        for each in outcome:
            if each not in usable:
                remedy = "A target is a host name with an A or AAAA record, and a port from 1 to 65535."
                findings.fault("SRV", f"{record} names {each.target!r} port {each.port}, which is no target.", remedy)
        if usable:
            targets = ", ".join(f"{each.target}:{each.port}" for each in usable)
            findings.good("SRV", f"{record} leads to {targets}.")
            if prefix == "_matrix._tcp.":
                findings.warn("SRV", f"{record} is deprecated.", f"Rename the record to _matrix-fed._tcp.{name}.")
            return
    findings.good("SRV", f"There are no usable records, so servers go to port {DEFAULT_PORT} of {plan.hostname}.")


def _is_web_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        return False
