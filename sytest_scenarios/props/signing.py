"""What servers sign, as the specification says, for stories that look at signatures or make them.

The hashes and IDs of events are those of room version 11.

Spec: appendices, "Signing JSON", "Canonical JSON"; server-server API, "Signing Events"; room version 11, "Redactions".
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any, Final

from nacl.exceptions import CryptoError
from nacl.signing import SigningKey, VerifyKey

_KEPT: Final = {
    *("type", "room_id", "sender", "state_key", "content", "hashes", "signatures"),
    *("depth", "prev_events", "auth_events", "origin_server_ts"),
}
_KEPT_CONTENT: Final = {
    "m.room.member": {"membership", "join_authorised_via_users_server"},
    "m.room.join_rules": {"join_rule", "allow"},
    "m.room.history_visibility": {"history_visibility"},
    "m.room.redaction": {"redacts"},
    "m.room.power_levels": {
        *("ban", "events", "events_default", "invite", "kick", "redact", "state_default", "users", "users_default"),
    },
}


def canonical(value: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def unpadded(content: bytes) -> str:
    """Return unpadded base64."""
    return base64.b64encode(content).decode().rstrip("=")


def padded(text: str) -> bytes:
    """Return the bytes of unpadded base64."""
    return base64.b64decode(text + "=" * (-len(text) % 4))


def signed_json(value: dict[str, Any], *, signer: str, key: SigningKey, key_id: str) -> dict[str, Any]:
    """Return an object with the signature of a server, or of a user, added."""
    bare = {name: each for name, each in value.items() if name not in ("signatures", "unsigned")}
    signature = unpadded(key.sign(canonical(bare)).signature)
    others = value.get("signatures", {})
    return {**value, "signatures": {**others, signer: {**others.get(signer, {}), key_id: signature}}}


def is_signed(value: dict[str, Any], *, server: str, key_id: str, public_key: str) -> bool:
    """Tell whether an object has a valid signature of a server by this key."""
    bare = {name: each for name, each in value.items() if name not in ("signatures", "unsigned")}
    try:
        signature = padded(value["signatures"][server][key_id])
        VerifyKey(padded(public_key)).verify(canonical(bare), signature)
    except (KeyError, ValueError, CryptoError):
        return False
    return True


def authorization(
    origin: str, destination: str, method: str, path: str, body: Any, *, key: SigningKey, key_id: str
) -> str:
    """Return the header by which a request to another server is signed; `path` has the query."""
    said = {"method": method, "uri": path, "origin": origin, "destination": destination}
    signed = signed_json({**said, **({} if body is None else {"content": body})}, signer=origin, key=key, key_id=key_id)
    signature = signed["signatures"][origin][key_id]
    return f'X-Matrix origin="{origin}",destination="{destination}",key="{key_id}",sig="{signature}"'


def redacted(event: dict[str, Any]) -> dict[str, Any]:
    """Return what redaction leaves of an event."""
    kept = {name: each for name, each in event.items() if name in _KEPT}
    if event["type"] != "m.room.create":
        wanted = _KEPT_CONTENT.get(event["type"], set())
        kept["content"] = {name: each for name, each in event["content"].items() if name in wanted}
    return kept


def event_id_of(event: dict[str, Any]) -> str:
    """Return the event ID, which is the reference hash."""
    bare = {name: each for name, each in redacted(event).items() if name not in ("signatures", "unsigned")}
    return "$" + base64.urlsafe_b64encode(hashlib.sha256(canonical(bare)).digest()).decode().rstrip("=")


def finished_event(event: dict[str, Any], *, server: str, key: SigningKey, key_id: str) -> dict[str, Any]:
    """Return an event with its content hash and the signature of a server."""
    bare = {name: each for name, each in event.items() if name not in ("unsigned", "signatures", "hashes")}
    hashed = {**bare, "hashes": {"sha256": unpadded(hashlib.sha256(canonical(bare)).digest())}}
    return {
        **hashed,
        "signatures": signed_json(redacted(hashed), signer=server, key=key, key_id=key_id)["signatures"],
    }
