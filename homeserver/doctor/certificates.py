"""Connections and certificates: each address that a remote would come to is connected to, and its certificate read.

The handshake is made without judging, so that a bad certificate can be looked at; the chain, the name and the dates are
judged afterwards, one by one.

Spec: server-server API, "TLS".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from OpenSSL.crypto import X509, X509StoreContext, X509StoreContextError
from twisted.internet.defer import CancelledError
from twisted.internet.error import NoRouteError

from federation.discovery import DEFAULT_PORT, Route
from homeserver.runtime.client_tls import check_name
from homeserver.runtime.http1 import Connection

from .asking import Patient, Tools
from .findings import Findings
from .naming import Endpoint

CONNECT_TIMEOUT_S: Final = 10.0
# Let's Encrypt renews 30 days before the end: who has half of that left has a renewal that fails.
SOON_DAYS: Final = 14
_DAY_S: Final = 24 * 3600
# OpenSSL's numbers: not valid yet, expired. Told by the dates already.
_DATE_FAULTS: Final = (9, 10)


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate that an endpoint showed, what was sent with it, and why it is not for the name, if so."""

    certificate: X509
    chain: Sequence[X509]
    is_named: bool


async def check_connections(
    tools: Tools, patient: Patient, route: Route, endpoints: Sequence[Endpoint], findings: Findings
) -> tuple[bool, bool]:
    """Connect to each address; return whether any can be reached, and whether all certificates are good."""
    is_reached, is_good = False, True
    seen: set[bytes] = set()
    for endpoint in endpoints:
        try:
            shown = await _handshake(tools, endpoint, route.tls_name)
        except Exception as fault:  # of the many kinds of sockets and TLS
            _tell_unreachable(endpoint, patient, fault, findings)
            continue
        is_reached = True
        digest = shown.certificate.digest("sha256")
        if digest not in seen:
            seen.add(digest)
            is_good = _judge(tools, endpoint, route.tls_name, shown, findings) and is_good
        if ":" in endpoint.address:
            findings.good("IPv6", f"{endpoint} answers.")
    if any(each.host != each.address for each in endpoints) and not any(":" in each.address for each in endpoints):
        findings.good("IPv6", "There are no AAAA records; IPv4 is enough.")
    return is_reached, is_good


def _tell_unreachable(endpoint: Endpoint, patient: Patient, fault: Exception, findings: Findings) -> None:
    reason = _reason(fault)
    if ":" in endpoint.address:
        if isinstance(fault, NoRouteError) or "unreachable" in reason:
            remedy = "Run the doctor on a machine that has IPv6."
            findings.warn("IPv6", f"{endpoint} cannot be tried: this machine has no IPv6 ({reason}).", remedy)
            return
        remedy = 'Let the server or the proxy listen on "::" and open the firewall, or remove the AAAA record.'
        findings.fault("IPv6", f"{endpoint} does not answer ({reason}), and servers with IPv6 try it first.", remedy)
        return
    if "certificate" in reason or "ssl" in reason.lower() or "tls" in reason.lower():
        remedy = "Let the listener or the proxy on that port speak TLS 1.2 or later."
        findings.fault("TLS", f"{endpoint} does not speak TLS as it should: {reason}.", remedy)
        return
    whose = "the server runs, that the listener or the proxy binds a public address" if patient.is_own else "it runs"
    remedy = f"Check that {whose}, and that the firewall lets TCP port {endpoint.port} in"
    if endpoint.port == DEFAULT_PORT:
        remedy += "; or lead servers to another port by a well-known file or an SRV record"
    findings.fault("connection", f"Nobody answers at {endpoint}: {reason}.", f"{remedy}.")


def _judge(tools: Tools, endpoint: Endpoint, name: str, shown: Shown, findings: Findings) -> bool:
    try:
        certificate = shown.certificate.to_cryptography()
        ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
    except ValueError as fault:
        findings.fault("TLS", f"The certificate at {endpoint} cannot be read: {fault}.", "Get another one.")
        return False
    now = datetime.fromtimestamp(tools.clock.now_ms() / 1000, UTC)
    left_s = (ends - now).total_seconds()
    days = int(left_s // _DAY_S)
    before = len(findings.all)
    is_dated = left_s >= 0 and begins <= now
    renew = "Renew it, and let the renewal reload the server (SIGHUP) or the proxy."
    if left_s < 0:
        findings.fault("TLS", f"The certificate at {endpoint} has expired {max(1, -days)} days ago.", renew)
    elif not is_dated:
        findings.fault(
            "TLS", f"The certificate at {endpoint} is not valid before {begins.isoformat()}.", "Check the clock here."
        )
    if not shown.is_named:
        findings.fault(
            "TLS",
            f"The certificate at {endpoint} is for {_names_of(certificate)}, not for {name}.",
            f"Get one for {name}, or lead servers to a name that it is for by a well-known file.",
        )
    reason = _chain_fault(tools, shown)
    if reason:
        findings.fault(
            "TLS",
            f"The certificate at {endpoint} is not trusted: {reason}.",
            "Serve the whole chain (fullchain.pem) of a public authority.",
        )
    if len(findings.all) > before:
        return False
    if days < SOON_DAYS:
        text = f"The certificate at {endpoint} is good, but expires in {days} days."
        findings.warn("TLS", text, renew)
    else:
        findings.good("TLS", f"The certificate at {endpoint} is good for {name} and for {days} days.")
    return True


def _chain_fault(tools: Tools, shown: Shown) -> str:
    """Return why no authority that is trusted here stands behind the certificate, empty if one does."""
    context = X509StoreContext(tools.tls.authorities(), shown.certificate, chain=list(shown.chain))
    try:
        context.verify_certificate()
    except X509StoreContextError as fault:
        if fault.errors and fault.errors[0] in _DATE_FAULTS and fault.errors[1] == 0:
            return ""
        return str(fault)
    return ""


def _names_of(certificate: x509.Certificate) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return ", ".join(str(each.value) for each in names) or "no name"
    except (x509.ExtensionNotFound, ValueError):
        return "no name"


async def _handshake(tools: Tools, endpoint: Endpoint, name: str) -> Shown:
    """Return what the endpoint shows; fails as sockets and TLS do."""
    shown: list[Shown] = []

    def look(handle: Any) -> None:
        try:
            check_name(name, handle)
            is_named = True
        except Exception:  # whatever a strange certificate leads to: it is not for this name
            is_named = False
        shown.append(Shown(handle.get_peer_certificate(), (handle.get_peer_cert_chain() or [])[1:], is_named))

    connection = Connection(look)
    factory: Any = tools.tls.factory(connection, name, verify=False)
    connector = tools.reactor.connectTCP(endpoint.address, endpoint.port, factory, timeout=CONNECT_TIMEOUT_S)
    timer = tools.reactor.callLater(CONNECT_TIMEOUT_S, connection.ready.cancel)
    try:
        await connection.ready
    except CancelledError as fault:
        connector.disconnect()
        if timer.active():
            raise
        raise TimeoutError("no TLS within 10 s") from fault
    finally:
        if timer.active():
            timer.cancel()
        connection.abort()
    return shown[0]


def _reason(fault: Exception) -> str:
    stack = fault.args[0] if fault.args else None
    if isinstance(stack, list):
        return "TLS: " + ("; ".join(str(each[-1]) for each in stack if isinstance(each, tuple)) or "it failed")
    return (str(fault) or type(fault).__name__).rstrip(".")
