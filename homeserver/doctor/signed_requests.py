"""Signed requests through the public path: do they arrive as they were sent.

A signature covers the path and the query as they stand in the request line. A proxy that decodes, sorts or cleans them
breaks it, and only for the few events, rooms and users whose IDs have such characters, which is hard to find later. So
each kind of character is sent once, in the ID of an event that does not exist: what arrives whole is answered like a
plain request for such an event, anything else is not.

Spec: server-server API, "Request Authentication".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from homeserver.model.canonical_json import JsonObject, encode_canonical
from homeserver.runtime.outgoing import Answer, OutgoingFault

from .asking import Asker, Patient, Tools, errcode_of, reason_of, told
from .findings import Findings

BODY_BYTES: Final = 1024 * 1024
_EVENT: Final = "/_matrix/federation/v1/event/$sennit-doctor"
_PROFILE: Final = "/_matrix/federation/v1/query/profile"

# What is tried -> what is put behind the event ID.
PATHS: Final = (
    ("an encoded slash (%2F)", "a%2Fb"),
    ("an encoded slash in lower case (%2f)", "a%2fb"),
    ("two encoded slashes", "a%2F%2Fb"),
    ("a double encoding (%252F)", "a%252Fb"),
    ("a plus sign", "a+b"),
    ("an encoded plus sign (%2B)", "a%2Bb"),
    ("an encoded space (%20)", "a%20b"),
    ("characters that are not ASCII (%C3%A9)", "%C3%A9"),
    ("a semicolon", "a;b=c"),
    ("a tilde", "a~b"),
    ("an encoded tilde (%7E)", "a%7Eb"),
    ("a colon and an at sign", "a:b@c"),
    ("encoded brackets and quotes", "%5Ba%5D%22"),
)
_PATH_REMEDY: Final = (
    "Let the proxy pass the path as it came: nginx without anything behind the port in proxy_pass, Apache with nocanon "
    "and AllowEncodedSlashes NoDecode (see docs/federation.md)."
)


async def check_signed_requests(patient: Patient, asker: Asker, findings: Findings) -> bool:
    """Send a plain signed request and then those with characters that proxies mangle; return if the plain one fits."""
    try:
        plain = await asker.ask("GET", _EVENT, is_signed=True)
    except OutgoingFault as fault:
        remedy = "Look into the logs of the server and the proxy for that request."
        findings.fault("signature", f"A signed request gets no answer: {reason_of(fault)}.", remedy)
        return False
    if not _tell_plain(patient, plain, findings):
        return False
    await _check_paths(asker, plain, findings)
    await _check_queries(patient, asker, findings)
    return True


async def check_body(tools: Tools, patient: Patient, asker: Asker, findings: Findings) -> None:
    """Send a transaction of nothing that is 1 MiB long; it has to pass the proxy."""
    now_ms = tools.clock.now_ms()
    wire: JsonObject = {
        "origin": patient.origin,
        "origin_server_ts": now_ms,
        "pdus": [],
        "edus": [],
        "org.sennit.padding": "",
    }
    wire["org.sennit.padding"] = "x" * (BODY_BYTES - len(encode_canonical(wire)))
    target = f"/_matrix/federation/v1/send/sennit-doctor-{now_ms}"
    remedy = "Let the proxy take bodies of 12 MiB (nginx: client_max_body_size 12m)."
    try:
        answer = await asker.ask("PUT", target, body=encode_canonical(wire), is_signed=True)
    except OutgoingFault as fault:
        findings.fault("body", f"A request with 1 MiB is broken off: {reason_of(fault)}.", remedy)
        return
    if answer.status == 413:
        if errcode_of(answer):
            remedy = "Raise limits.max_transaction_bytes of the server."
        findings.fault("body", f"A request with 1 MiB is refused as too large ({told(answer)}).", remedy)
    elif answer.is_success:
        findings.good("body", "A request with 1 MiB gets through.")
    elif answer.status == 401:
        remedy = "Let the proxy pass bodies as they are, without filters (a web application firewall is one)."
        findings.fault("body", f"A request with 1 MiB arrives changed ({told(answer)}).", remedy)
    else:
        remedy = "Look into the logs of the server and the proxy for that request."
        findings.fault("body", f"A request with 1 MiB is not taken in ({told(answer)}).", remedy)


# -- private ---------------------------------------------------------------------------------------------------------


def _tell_plain(patient: Patient, answer: Answer, findings: Findings) -> bool:
    if answer.status == 401:
        remedy = (
            "Use the key file of the server that runs, and let the proxy pass the Authorization header and the path."
            if patient.is_own
            else f"Run `sennit doctor` for {patient.origin}: that server has to be able to read our keys."
        )
        findings.fault("signature", f"A signed request is not believed ({told(answer)}).", remedy)
        return False
    if answer.status == 403:
        remedy = (
            "Set federation.enabled = true; nobody else is let in either."
            if patient.is_own
            else "Ask its operator: we may not be on its list of servers."
        )
        findings.fault("signature", f"A signed request is refused ({told(answer)}).", remedy)
        return False
    if answer.status == 429 or answer.status >= 500 or (patient.is_own and errcode_of(answer) != "M_NOT_FOUND"):
        remedy = "Try again in a minute; else look into the logs of the server and the proxy for that request."
        findings.fault("signature", f"A signed request is not answered as it should ({told(answer)}).", remedy)
        return False
    findings.good("signature", "A signed request is believed.")
    return True


async def _check_paths(asker: Asker, plain: Answer, findings: Findings) -> None:
    expected = (plain.status, errcode_of(plain))
    mangled: list[str] = []
    last: Answer | None = None
    for what, characters in PATHS:
        try:
            answer = await asker.ask("GET", _EVENT + characters, is_signed=True)
        except OutgoingFault as fault:
            findings.fault("path", f"A path with {what} gets no answer: {reason_of(fault)}.", _PATH_REMEDY)
            return
        if (answer.status, errcode_of(answer)) != expected:
            mangled.append(what)
            last = answer
    if last is None:
        findings.good("path", f"Paths arrive as they were sent ({len(PATHS)} kinds of characters tried).")
    else:
        text = f"Paths do not arrive as they were sent if they have {_listed(mangled)} ({told(last)})."
        findings.fault("path", text, _PATH_REMEDY)


async def _check_queries(patient: Patient, asker: Asker, findings: Findings) -> None:
    user = f"@sennit-doctor:{patient.name}"
    queries = (
        ("parameters that are not sorted", f"user_id={quote(user, safe='')}&field=displayname"),
        ("characters that need no encoding", f"user_id={quote(user, safe='@:')}&field=displayname&x=~;/?"),
        ("encoded characters", f"user_id={quote(user, safe='')}&field=displayname&x=%2F%2B%7E%C3%A9%252F+%20"),
        ("an empty parameter", f"user_id={quote(user, safe='')}&field=displayname&x=&x"),
    )
    mangled: list[str] = []
    last: Answer | None = None
    for what, query in queries:
        try:
            answer = await asker.ask("GET", f"{_PROFILE}?{query}", is_signed=True)
        except OutgoingFault as fault:
            findings.fault("query", f"A query with {what} gets no answer: {reason_of(fault)}.", _PATH_REMEDY)
            return
        # Whether strangers may read profiles is the operator's choice; any answer of the homeserver to a request that
        # it believed will do.
        if answer.status == 401 or (answer.status >= 400 and patient.is_own and not errcode_of(answer)):
            mangled.append(what)
            last = answer
    if last is None:
        findings.good("query", "Queries arrive as they were sent.")
    else:
        text = f"Queries do not arrive as they were sent if they have {_listed(mangled)} ({told(last)})."
        findings.fault("query", text, "Let the proxy pass the query as it came, without sorting or encoding it anew.")


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
