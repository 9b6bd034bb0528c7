"""What answers at the public address: is it a homeserver that federates, with these keys, and with the right time.

Spec: server-server API, "Server implementation", "Publishing Keys".
"""

from __future__ import annotations

import gzip
import io
import zlib
from email.utils import parsedate_to_datetime
from typing import Any, Final

from homeserver.model.server_keys import BadServerKeys, parse_server_keys
from homeserver.model.signing import SigningKey
from homeserver.runtime.outgoing import Answer, OutgoingFault

from .asking import MAX_ANSWER_BYTES, Asker, Patient, Tools, errcode_of, json_of, reason_of, shown, told
from .findings import Findings

VERSION_PATH: Final = "/_matrix/federation/v1/version"
KEYS_PATH: Final = "/_matrix/key/v2/server"
# Beyond this, events look as if they were from the future, and keys end too early.
MAX_SKEW_MS: Final = 60_000
# Spec: `GET /_matrix/key/v2/server`: "Originating servers should avoid returning responses that expire in less than an
# hour".
LEAST_VALIDITY_MS: Final = 3_600_000
_GATEWAY_STATUSES: Final = (502, 503, 504)


async def check_version(tools: Tools, patient: Patient, asker: Asker, findings: Findings) -> bool:
    """Look whether federation is served; return whether it is worth looking further."""
    try:
        answer = await asker.ask("GET", VERSION_PATH)
    except OutgoingFault as fault:
        remedy = "Mend what the findings above name, or look into the logs of the server and the proxy."
        findings.fault("federation", f"A request for {VERSION_PATH} gets no answer: {reason_of(fault)}.", remedy)
        return False
    wire = json_of(answer)
    server = wire.get("server") if isinstance(wire, dict) else None
    if answer.status == 200 and isinstance(server, dict):
        findings.good("federation", f"{shown(server.get('name'))} {shown(server.get('version'))} answers there.")
        check_clock(tools, str(patient.name), answer, findings)
        _check_not_compressed(answer, findings)
        return True
    if answer.status in _GATEWAY_STATUSES:
        text = f"The proxy finds no homeserver behind it ({told(answer)})."
        findings.fault("federation", text, "Start the server, and check the port that the proxy passes requests to.")
    elif await _serves_clients(asker):
        text = f"The client API answers there, but not federation ({VERSION_PATH}: {told(answer)})."
        remedy = 'Let the proxy pass all of /_matrix, and have "federation" in `resources` of the listener.'
        findings.fault("federation", text, remedy)
    else:
        text = f"What answers there is no Matrix server ({VERSION_PATH}: {told(answer)})."
        remedy = "Let the proxy pass /_matrix to the homeserver, or lead servers elsewhere by well-known or SRV."
        findings.fault("federation", text, remedy)
    return False


async def check_keys(
    tools: Tools, patient: Patient, asker: Asker, own_keys: tuple[SigningKey, ...], findings: Findings
) -> None:
    """Read the list of keys as a remote does; `own_keys` are those that this server should publish."""
    try:
        answer = await asker.ask("GET", KEYS_PATH)
    except OutgoingFault as fault:
        findings.fault("keys", f"{KEYS_PATH} gets no answer: {reason_of(fault)}.", "Let the proxy pass /_matrix/key.")
        return
    wire = json_of(answer)
    if answer.status != 200 or not isinstance(wire, dict):
        remedy = "Let the proxy pass /_matrix/key as well as /_matrix/federation."
        findings.fault("keys", f"{KEYS_PATH} gives no keys ({told(answer)}).", remedy)
        return
    named = wire.get("server_name")
    if named != patient.name:
        text = f"The keys there are those of {shown(named)!r}, not of {patient.name}: another server answers."
        remedy = "Correct the server name in its configuration, or where well-known, SRV or the proxy lead."
        findings.fault("keys", text, remedy)
        return
    now_ms = tools.clock.now_ms()
    try:
        known = parse_server_keys(wire, str(patient.name), now_ms)
    except BadServerKeys as fault:
        remedy = "Let the server sign its list itself, and the proxy pass the answer as it is."
        findings.fault("keys", f"The list of keys is not to be believed: {fault}.", remedy)
        return
    left_ms = wire["valid_until_ts"] - now_ms
    if left_ms <= 0:
        text = f"The list of keys ended {-left_ms // 60_000 + 1} min ago by the clock here, so nothing signed counts."
        remedy = "Set both clocks by NTP, and let no proxy cache /_matrix/key."
        findings.fault("clock", text, remedy)
        return
    if left_ms < LEAST_VALIDITY_MS:
        text = f"The list of keys is valid for {left_ms // 60_000} min only."
        findings.warn(
            "keys", text, "Let it be valid for a day (server.key_refresh_interval_ms), and no proxy cache it."
        )
    current = {key_id: key.key for key_id, key in known.keys.items() if key.expired_ts is None}
    if patient.is_own and any(current.get(key.key_id) != key.verify_key for key in own_keys):
        missing = ", ".join(key.key_id for key in own_keys if current.get(key.key_id) != key.verify_key)
        text = f"The server there signs with {', '.join(current)}, but the key file here has {missing}."
        findings.fault("keys", text, "Use the key file of the server that runs, and restart it after a change of keys.")
        return
    old = sum(key.expired_ts is not None for key in known.keys.values())
    findings.good("keys", f"The list is signed by {', '.join(current)}" + (f"; {old} old ones." if old else "."))


async def check_compression(asker: Asker, findings: Findings) -> None:
    """Ask for a compressed answer: it must be readable, or not compressed."""
    try:
        answer = await asker.ask("GET", KEYS_PATH, encoding="gzip")
    except OutgoingFault as fault:
        remedy = "Switch compression off in the proxy for /_matrix/federation and /_matrix/key."
        findings.fault("compression", f"Who accepts gzip gets no answer: {reason_of(fault)}.", remedy)
        return
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding == "identity":
        return
    if encoding != "gzip" or not _is_gzip_of_json(answer):
        remedy = "Switch compression off in the proxy for /_matrix/federation and /_matrix/key."
        findings.fault("compression", f"Who accepts gzip gets {encoding!r} that cannot be read.", remedy)
        return
    findings.good("compression", "Answers are compressed for those who ask for it, and can be read.")


def check_clock(tools: Tools, whose: str, answer: Answer, findings: Findings) -> None:
    """Compare the clock here with the Date of an answer that came just now."""
    text = answer.headers.get("date")
    if text is None:
        return
    try:
        theirs_ms = int(parsedate_to_datetime(text).timestamp() * 1000)
    except (ValueError, TypeError, IndexError, OverflowError, OSError):
        findings.warn("clock", f"The Date header of {whose} is no date: {text!r}.", "Let the proxy leave it alone.")
        return
    skew_s = (theirs_ms - tools.clock.now_ms()) / 1000
    if abs(skew_s) * 1000 > MAX_SKEW_MS:
        where = "ahead of" if skew_s > 0 else "behind"
        amount = f"{abs(skew_s):.0f} s" if abs(skew_s) < 120 else f"{abs(skew_s) / 60:.0f} min"
        text = f"The clock of {whose} is {amount} {where} the one here."
        findings.fault("clock", text, "Set the one that is wrong by NTP (timedatectl tells whether this machine is).")
    else:
        findings.good("clock", f"The clock of {whose} agrees with the one here.")


# -- private ---------------------------------------------------------------------------------------------------------


async def _serves_clients(asker: Asker) -> bool:
    try:
        answer = await asker.ask("GET", "/_matrix/client/versions")
    except OutgoingFault:
        return False
    wire = json_of(answer)
    return (isinstance(wire, dict) and "versions" in wire) or errcode_of(answer) == "M_UNRECOGNIZED"


def _check_not_compressed(answer: Answer, findings: Findings) -> None:
    encoding = answer.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        text = f"Answers are compressed ({encoding}) for those who did not ask for it."
        findings.fault("compression", text, "Let the proxy compress only for those who send Accept-Encoding.")


def _is_gzip_of_json(answer: Answer) -> bool:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(answer.body)) as file:
            # A few bytes could stand for many.
            text: Any = file.read(MAX_ANSWER_BYTES)
    except (OSError, EOFError, zlib.error):
        return False
    return isinstance(json_of(Answer(200, {}, text)), dict)
