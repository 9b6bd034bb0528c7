"""The signed list of a server's keys: ours as it is published, and another's as it is read.

A list names the keys that a server signs with, and those that it used to sign with and when it stopped.  It is signed
with the very keys in it; a key that did not sign its own list is not believed, and one that is no good key is skipped,
so that one mistake of a server does not silence it.  Notaries pass lists on and sign them as well.

A key may be old in two ways.  `expired_ts`: its server says that it stopped using the key then; nothing later counts.
`valid_until_ts`: the list is to be fetched again then; this matters only in room versions that enforce it, and never
for longer than seven days ahead, so that a stolen key does not live for ever.

Spec: server-server API, "Retrieving server keys"; rooms/v5, "Signing key validity period".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from homeserver.errors import BadJson

from .canonical_json import check_lax
from .signing import BadKey, BadSignature, SigningKey, VerifyKey, encode_signed, is_key_id, sign_json, signature_in

# LIMIT: keys in one list.  Servers that make a new key at every start have been seen with dozens.
MAX_VERIFY_KEYS: Final = 32
MAX_OLD_KEYS: Final = 512
# LIMIT: lists in one answer of a notary, and its signatures that are tried on each.
MAX_LISTS: Final = 128
MAX_TRIED_SIGNATURES: Final = 8
# Spec: rooms/v5, "Signing key validity period": "the lesser of valid_until_ts and 7 days into the future".
MAX_VALIDITY_MS: Final = 7 * 24 * 3_600_000
MAX_TS: Final = 2**53 - 1


class BadServerKeys(ValueError):
    """What was read is no list of that server's keys."""


@dataclass(frozen=True, slots=True)
class ServerKey:
    """One public key of a server; the times are in milliseconds, both inclusive.

    `valid_until_ts` has the limit of seven days in it.  `expired_ts` is None while the server uses the key.
    """

    key: VerifyKey
    valid_until_ts: int
    expired_ts: int | None = None


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What is known of the keys of one server; `valid_until_ts` is when to ask again at the latest."""

    server_name: str
    keys: Mapping[str, ServerKey]
    valid_until_ts: int
    fetched_ts: int

    def key(self, key_id: str, at_ts: int) -> VerifyKey | None:
        """Return the key if what it signed at that time counts, where validity is enforced."""
        known = self.keys.get(key_id)
        if known is None or at_ts > known.valid_until_ts:
            return None
        return known.key

    def unexpired_key(self, key_id: str, at_ts: int) -> VerifyKey | None:
        """Return the key unless the server had stopped using it before that time.

        Spec: server-server API, "Validating hashes and signatures on received events": "any keys that are known to
        have expired prior to the event's `origin_server_ts` are ignored", in all room versions.
        """
        known = self.keys.get(key_id)
        if known is None or (known.expired_ts is not None and at_ts > known.expired_ts):
            return None
        return known.key

    def merged(self, newer: ServerKeys) -> ServerKeys:
        """Return what is known after `newer` has come in too.

        A key that the server no longer lists stays as it was known.  A key ID that suddenly means another key keeps
        its old meaning until the old key's validity is over: whoever can forge one answer must not replace a key.
        """
        keys = dict(self.keys)
        for key_id, key in newer.keys.items():
            known = keys.get(key_id)
            if known is None or known.key == key.key or known.valid_until_ts < newer.fetched_ts:
                keys[key_id] = key
        if len(keys) > MAX_VERIFY_KEYS + MAX_OLD_KEYS:
            keys = dict(newer.keys)
        return ServerKeys(self.server_name, MappingProxyType(keys), newer.valid_until_ts, newer.fetched_ts)


# -- ours ------------------------------------------------------------------------------------------------------------


def build_server_keys(
    server_name: str,
    keys: Sequence[SigningKey],
    old_keys: Mapping[str, tuple[VerifyKey, int]],
    valid_until_ts: int,
) -> dict[str, Any]:
    """Return our signed list: `keys`, which all sign it, and by key ID the old ones with when each expired."""
    wire: dict[str, Any] = {
        "server_name": str(server_name),
        "valid_until_ts": valid_until_ts,
        "verify_keys": {key.key_id: {"key": key.verify_key_base64} for key in keys},
        "old_verify_keys": {
            key_id: {"key": key.to_wire(), "expired_ts": expired_ts} for key_id, (key, expired_ts) in old_keys.items()
        },
    }
    for key in keys:
        wire = sign_json(wire, server_name, key)
    return wire


# -- those of others -------------------------------------------------------------------------------------------------


def parse_server_keys(wire: object, server_name: str, fetched_ts: int) -> ServerKeys:
    """Return the keys of a list that says to be of that server; raise `BadServerKeys` if none is to be believed.

    The list may come from anybody: what counts is who signed it.
    """
    obj, message = _checked_object(wire)
    # A notary may write there what is no text at all.
    if not isinstance(server_name, str) or obj.get("server_name") != server_name:
        raise BadServerKeys("the list is of another server")
    valid_until_ts = _time(obj.get("valid_until_ts"))
    if valid_until_ts is None:
        raise BadServerKeys("`valid_until_ts` must be a time")
    valid_until_ts = min(valid_until_ts, fetched_ts + MAX_VALIDITY_MS)
    keys: dict[str, ServerKey] = {}
    for key_id, key, expired_ts in _listed(obj.get("old_verify_keys", {}), MAX_OLD_KEYS):
        if expired_ts is not None:
            keys[key_id] = ServerKey(key, min(expired_ts, valid_until_ts), expired_ts)
    proven = 0
    for key_id, key, _ in _listed(obj.get("verify_keys"), MAX_VERIFY_KEYS):
        if _is_signed(obj, message, server_name, key_id, key):
            keys[key_id] = ServerKey(key, valid_until_ts)
            proven += 1
    if not proven:
        raise BadServerKeys("no key in the list has signed it")
    return ServerKeys(server_name, MappingProxyType(keys), valid_until_ts, fetched_ts)


def check_notary(wire: object, notary_name: str, notary_keys: Mapping[str, VerifyKey]) -> None:
    """Return if the list is signed by the notary with one of these keys, else raise `BadServerKeys`.

    At most eight of its signatures are tried; a wrong one is as if it were not there.
    """
    obj, message = _checked_object(wire)
    signatures = obj.get("signatures")
    by_notary = signatures.get(notary_name) if isinstance(signatures, dict) else None
    offered = [key_id for key_id in by_notary if key_id in notary_keys] if isinstance(by_notary, dict) else []
    for key_id in offered[:MAX_TRIED_SIGNATURES]:
        if _is_signed(obj, message, notary_name, key_id, notary_keys[key_id]):
            return
    raise BadServerKeys("the notary has not signed the list")


def parse_notary_answer(
    answer: object, notary_name: str, notary_keys: Mapping[str, VerifyKey], fetched_ts: int
) -> list[ServerKeys]:
    """Return the lists in an answer of `POST /_matrix/key/v2/query`, in its order, those left out that are no good.

    One server may have several lists; `ServerKeys.merged` joins them.  Raises `BadServerKeys` if it is no answer.
    """
    lists = answer.get("server_keys") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) > MAX_LISTS:
        raise BadServerKeys("the answer must have a list of `server_keys`")
    found = []
    for wire in lists:
        try:
            check_notary(wire, notary_name, notary_keys)
            found.append(parse_server_keys(wire, wire["server_name"], fetched_ts))
        except (BadServerKeys, KeyError):
            continue
    return found


def _checked_object(wire: object) -> tuple[dict[str, Any], bytes]:
    """Return the object and what its signatures are over: encoded once, however many keys and signatures there are."""
    if not isinstance(wire, dict):
        raise BadServerKeys("a list of keys is an object")
    try:
        check_lax(wire)
        return wire, encode_signed(wire)
    except BadJson as fault:
        raise BadServerKeys(fault.message) from fault


def _time(value: object) -> int | None:
    return value if type(value) is int and 0 <= value <= MAX_TS else None


def _listed(entries: object, limit: int) -> list[tuple[str, VerifyKey, int | None]]:
    """Return the good keys of a part of the list: key ID, key, and when it expired if that is said."""
    if not isinstance(entries, dict) or len(entries) > limit:
        raise BadServerKeys("a list of keys must be an object of not too many keys")
    found: list[tuple[str, VerifyKey, int | None]] = []
    for key_id, entry in entries.items():
        if not is_key_id(key_id) or not isinstance(entry, dict):
            continue
        try:
            found.append((key_id, VerifyKey.parse(entry.get("key")), _time(entry.get("expired_ts"))))
        except BadKey:
            continue
    return found


def _is_signed(obj: Mapping[str, Any], message: bytes, server_name: str, key_id: str, key: VerifyKey) -> bool:
    try:
        key.check(message, signature_in(obj, server_name, key_id))
    except BadSignature:
        return False
    return True
