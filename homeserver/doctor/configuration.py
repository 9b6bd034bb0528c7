"""What the configuration and the files of this server say about federation, without asking anybody."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from homeserver.admin_socket import RemoteAccounts
from homeserver.config import Config
from homeserver.errors import Misconfigured
from homeserver.model.signing import SigningKey, parse_key_file
from homeserver.runtime.addresses import literal_address

from .findings import Findings

_LOOPBACK: Final = ("127.", "::1")


def check_configuration(config: Config, now_ms: int, findings: Findings) -> None:
    """Look at the settings that decide whether others can come here."""
    if not config.federation.enabled:
        remedy = "Set enabled = true under [federation] if other servers are to come here."
        findings.fault("configuration", "Federation is switched off (federation.enabled = false).", remedy)
    whitelist = config.federation.domain_whitelist
    if whitelist is not None:
        text = f"Only {len(whitelist)} servers are talked to (federation.domain_whitelist)."
        findings.good("configuration", text)
    if not config.federation.verify_certificates:
        text = "Certificates of other servers are not checked (federation.verify_certificates = false)."
        findings.fault("configuration", text, "Set it to true, and name private authorities in federation.ca_files.")
    _check_listeners(config, findings)
    for key_id, old in config.server.old_signing_keys.items():
        if not 0 < old.expired_ts <= now_ms:
            text = f"The old key {key_id} does not say when it was last used (expired_ts = {old.expired_ts})."
            remedy = f'Set expired_ts of server.old_signing_keys."{key_id}" to that time, in milliseconds since 1970.'
            findings.fault("configuration", text, remedy)
    try:
        is_running = RemoteAccounts(config.server.data_dir).is_there()
    except Misconfigured as fault:
        findings.warn("process", str(fault), "Run the doctor as the user that the server runs as.")
        return
    if is_running:
        findings.good("process", "The server is running on this machine.")
    else:
        text = f"No server is running on this machine with {config.server.data_dir}."
        findings.warn("process", text, "Start it with `sennit run`, unless it runs inside another program.")


def read_own_keys(config: Config, findings: Findings) -> tuple[SigningKey, ...]:
    """Return the keys that this server signs with, none if they cannot be read; tell who else can read them."""
    path = config.server.signing_key_path
    try:
        keys = tuple(parse_key_file(path.read_text(encoding="ascii")))
    except FileNotFoundError:
        findings.fault("key file", f"There is no signing key in {path}.", "Start the server once, which makes it.")
        return ()
    except OSError as fault:
        remedy = "Run the doctor as the user that the server runs as."
        findings.fault("key file", f"The signing key {path} cannot be read: {fault.strerror}.", remedy)
        return ()
    except ValueError as fault:
        remedy = "Put the right file back from a backup: without it other servers no longer believe this one."
        findings.fault("key file", f"{path} is not a signing key: {fault}.", remedy)
        return ()
    _check_private(path, "The signing key", stat.S_IRWXG | stat.S_IRWXO, findings)
    return keys


def _check_listeners(config: Config, findings: Findings) -> None:
    serving = [listener for listener in config.listeners if "federation" in listener.resources]
    if not serving:
        remedy = 'Add "federation" to `resources` of a listener.'
        findings.fault("listeners", "No listener serves federation.", remedy)
        return
    for listener in serving:
        if listener.tls_key_path is not None:
            # Programs that renew certificates let a group read them.
            _check_private(listener.tls_key_path, "The key of the certificate", stat.S_IRWXO, findings)
    own = [str(listener.port) for listener in serving if listener.tls_certificate_path is not None]
    if own:
        findings.good("listeners", f"Federation is served with TLS on port {', '.join(own)}.")
        return
    ports = ", ".join(str(listener.port) for listener in serving)
    text = f"Federation is served without TLS on port {ports}, so a proxy has to stand before it."
    findings.good("listeners", text)
    for listener in serving:
        open_on = [address for address in listener.bind if not address.startswith(_LOOPBACK)]
        if open_on and literal_address(open_on[0]) is not None and not listener.trusted_proxies:
            text = f"Port {listener.port} is open on {', '.join(open_on)} without TLS."
            findings.warn("listeners", text, 'Set bind = ["127.0.0.1"] if the proxy is on this machine.')


def _check_private(path: Path, what: str, forbidden: int, findings: Findings) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as fault:
        findings.fault("key file", f"{what} {path} cannot be looked at: {fault.strerror}.", "Correct its path.")
        return
    if mode & forbidden:
        text = f"{what} {path} can be read by others than its owner (mode {stat.S_IMODE(mode):04o})."
        findings.fault("key file", text, f"Run `chmod 600 {path}`.")
    else:
        findings.good("key file", f"{what} {path} is private.")
