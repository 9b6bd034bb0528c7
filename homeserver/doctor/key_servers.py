"""The servers that this one asks for the keys of others: can they be reached, and does their clock agree with ours.

Spec: server-server API, "Querying Keys Through Another Server".
"""

from __future__ import annotations

from federation.discovery import Discovery
from homeserver.config import Config
from homeserver.errors import RemoteUnreachable
from homeserver.model.server_keys import BadServerKeys, parse_server_keys
from homeserver.runtime.outgoing import OutgoingFault

from .asking import Asker, Patient, Tools, json_of, reason_of, told
from .findings import Findings
from .serving import KEYS_PATH, check_clock


async def check_key_servers(tools: Tools, config: Config, findings: Findings) -> None:
    """Ask each trusted key server for its own keys."""
    whitelist = config.federation.domain_whitelist
    remedy = "Name others in federation.trusted_key_servers, or ask none: trusted_key_servers = []."
    discovery = Discovery(tools.outgoing, tools.names, tools.clock, tools.chance)
    for entry in config.federation.trusted_key_servers:
        name = entry.server_name
        if name == config.server.name:
            continue
        if whitelist is not None and name not in whitelist:
            text = f"{name} is never asked, as federation.domain_whitelist leaves it out."
            findings.warn("key servers", text, "Add it there, or take it out of federation.trusted_key_servers.")
            continue
        try:
            route = await discovery.find(name)
            answer = await Asker(tools, Patient(name, False), route, verify=True).ask("GET", KEYS_PATH)
        except (OutgoingFault, RemoteUnreachable) as fault:
            reason = reason_of(fault) if isinstance(fault, OutgoingFault) else str(fault)
            findings.warn("key servers", f"{name} cannot be asked for keys: {reason}.", remedy)
            continue
        check_clock(tools, name, answer, findings)
        try:
            keys = parse_server_keys(json_of(answer), name, tools.clock.now_ms())
        except BadServerKeys as fault:
            findings.warn("key servers", f"{name} gives no keys of its own ({told(answer)}): {fault}.", remedy)
            continue
        expected = entry.verify_keys
        if expected and not expected.keys() & keys.keys.keys():
            text = f"{name} signs with {', '.join(keys.keys)}, and none of these is in verify_keys."
            findings.fault("key servers", text, "Correct verify_keys of that key server.")
        else:
            findings.good("key servers", f"{name} can be asked for keys.")
