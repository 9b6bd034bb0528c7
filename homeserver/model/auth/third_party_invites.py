"""Rule 5.4.1: an invite that accepts a third-party invite, proved by the identity server's signature.

Whether a key was revoked is told by the room alone (its keys are removed from the state event); the validity URL
that stands there is never fetched by a rule.

Spec: rooms/v12, "Authorisation rules", 5.4.1; client-server API, "Third-party invites".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any, Final

from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from homeserver.errors import BadJson

from ..canonical_json import check_strict, encode_canonical
from ..content.member import Membership
from ..content.third_party_invite import public_keys
from ..event import Event
from ..room_versions import RoomVersion
from .needed import THIRD_PARTY_INVITE
from .numbering import broken
from .state_view import StateView

# LIMIT: signatures beyond these, the first by the alphabet, are not tried, so that one event costs at most 64
# verifications, about 5 ms.
MAX_SIGNATURES: Final = 8

_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_MAX_BASE64: Final = 88
_URL_SAFE: Final = str.maketrans("-_", "+/")


def check_third_party_invite(version: RoomVersion, event: Event, state: StateView, target: Membership) -> None:
    """Return if the invite is allowed by rule 5.4.1, else raise `AuthRuleBroken`; `target` is what the invitee is."""
    if target is Membership.BAN:
        raise broken(version, "5.4.1.1", "a banned user cannot be invited")
    claim = event.content.get("third_party_invite")
    signed = claim.get("signed") if isinstance(claim, dict) else None
    if not isinstance(signed, dict):
        raise broken(version, "5.4.1.2", "the third-party invite is not signed")
    token = signed.get("token")
    if not isinstance(token, str) or not isinstance(signed.get("mxid"), str):
        raise broken(version, "5.4.1.3", "the third-party invite names no user or no token")
    if signed["mxid"] != event.state_key:
        raise broken(version, "5.4.1.4", "the third-party invite is for another user")
    invite = state.get((THIRD_PARTY_INVITE, token))
    if invite is None:
        raise broken(version, "5.4.1.5", "there is no such third-party invite in this room")
    if invite.sender != event.sender:
        raise broken(version, "5.4.1.6", "the third-party invite was made by another user")
    if not _is_signed_by_any(signed, public_keys(invite)):
        raise broken(version, "5.4.1.8", "no key of the third-party invite has signed this")


def keys_that_signed(signed: Mapping[str, Any], keys: Iterable[str]) -> tuple[str, ...]:
    """Return those of the keys, as they stand in the invite, that have signed the claim `signed`."""
    return tuple(key for key in keys if _is_signed_by_any(signed, (key,)))


def _is_signed_by_any(signed: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    """Tell whether any of the first signatures in `signed` is good for any of the keys (5.4.1.7)."""
    payload = {key: value for key, value in signed.items() if key not in ("signatures", "unsigned")}
    try:
        check_strict(payload)
        message = encode_canonical(payload)
    except BadJson:
        return False
    verify_keys = [key for text in keys if (key := _verify_key(text)) is not None]
    return any(_is_good(key, message, signature) for signature in _signatures(signed) for key in verify_keys)


def _signatures(signed: Mapping[str, Any]) -> Iterator[bytes]:
    by_signer = signed.get("signatures")
    if not isinstance(by_signer, dict):
        return
    tried = 0
    # Sorted, for the order of keys is no part of the event: the same ones must be tried everywhere.
    for signer in sorted(by_signer)[:MAX_SIGNATURES]:
        by_key = by_signer[signer]
        if not isinstance(by_key, dict):
            continue
        for key_id, text in sorted(by_key.items(), key=itemgetter(0)):
            if tried >= MAX_SIGNATURES:
                return
            tried += 1
            signature = _decode(text, _SIGNATURE_BYTES)
            if signature is not None and key_id.startswith("ed25519:"):
                yield signature


def _verify_key(text: str) -> VerifyKey | None:
    key = _decode(text, _KEY_BYTES)
    return None if key is None else VerifyKey(key)


def _is_good(key: VerifyKey, message: bytes, signature: bytes) -> bool:
    # libsodium refuses keys of low order and signatures that are not in canonical form.
    try:
        key.verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def _decode(text: object, size: int) -> bytes | None:
    """Return exactly `size` bytes from unpadded base64 in either alphabet, else None."""
    if not isinstance(text, str) or len(text) > _MAX_BASE64 or not text.isascii():
        return None
    unpadded = text.translate(_URL_SAFE).rstrip("=")
    try:
        decoded = base64.b64decode(unpadded + "=" * (-len(unpadded) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if len(decoded) == size else None
