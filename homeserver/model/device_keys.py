"""The forms of keys: what devices and users may upload, and what is believed of other servers.

Everything is checked when it comes in, so that nothing is stored that could not be signed, sent on or shown: canonical
JSON, the right user and device, key IDs as they should be, bounded in number and bytes. Whether what a key says is
true is for clients to find out; this server looks at signatures only where the spec asks it to.

Pure. Raises `BadJson`, `InvalidParam` and `TooLarge`.

Spec: client-server API, "End-to-End Encryption": "Device keys", "One-time and fallback keys", "Cross-signing".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from homeserver.errors import BadIdentifier, BadJson, InvalidParam, TooLarge

from .canonical_json import JsonObject, check_strict, encode_canonical
from .ids import UserID
from .signing import BadKey, VerifyKey

MASTER: Final = "master"
SELF_SIGNING: Final = "self_signing"
USER_SIGNING: Final = "user_signing"
USAGES: Final = (MASTER, SELF_SIGNING, USER_SIGNING)

# LIMIT: of one object; what clients in use upload has less than a tenth of it.
MAX_KEY_BYTES: Final = 16_384
MAX_DEVICE_KEYS_BYTES: Final = 65_536
# LIMIT: keys in one upload.
MAX_KEYS: Final = 1_000
MAX_ID_CHARACTERS: Final = 255
MAX_ALGORITHM_CHARACTERS: Final = 64
MAX_DISPLAY_NAME_CHARACTERS: Final = 100


@dataclass(frozen=True, slots=True)
class UploadedKey:
    """A one-time or fallback key; `content` is canonical JSON: a text, or an object with the key and its signatures."""

    algorithm: str
    key_id: str
    content: bytes

    @property
    def name(self) -> str:
        """As it stands in JSON: `algorithm:key_id`."""
        return f"{self.algorithm}:{self.key_id}"


def encode_bounded(value: Any, most_bytes: int, what: str) -> bytes:
    """Return the canonical JSON of a value, or raise `BadJson` or `TooLarge`."""
    check_strict(value)
    encoded = encode_canonical(value)
    if len(encoded) > most_bytes:
        raise TooLarge(f"{what} may have at most {most_bytes} bytes")
    return encoded


def is_device_id(value: object) -> bool:
    """Tell whether a value may be a device ID."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and "\x00" not in value


def is_user_id(value: str) -> bool:
    """Tell whether a text is a user ID: of anything else, no server need be asked."""
    try:
        UserID.parse(value)
    except BadIdentifier:
        return False
    return True


def check_device_keys(value: Any, user_id: str, device_id: str) -> bytes:
    """Return the identity keys of this device of this user in canonical JSON, without `unsigned`.

    Spec: client-server API, "Device keys": `user_id` and `device_id` "must match" those of the access token.
    """
    if not isinstance(value, dict):
        raise BadJson("device keys must be an object")
    if value.get("user_id") != user_id:
        raise InvalidParam("the user ID of the device keys is another user's")
    if value.get("device_id") != device_id:
        raise InvalidParam("the device ID of the device keys is another device's")
    algorithms = value.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(each, str) for each in algorithms):
        raise BadJson("'algorithms' must be an array of strings")
    keys = value.get("keys")
    if not isinstance(keys, dict):
        raise BadJson("'keys' must be an object")
    for name, key in keys.items():
        _split(name, "a key of a device")
        if not isinstance(key, str):
            raise BadJson("the keys of a device must be strings")
    check_signatures(value.get("signatures"))
    shown = {name: each for name, each in value.items() if name != "unsigned"}
    return encode_bounded(shown, MAX_DEVICE_KEYS_BYTES, "device keys")


def check_signatures(value: Any) -> None:
    """Raise BadJson unless a value has the form of signatures: user -> key ID -> signature; None is none."""
    if value is None:
        return
    if not isinstance(value, dict):
        raise BadJson("'signatures' must be an object")
    for by_key in value.values():
        if not isinstance(by_key, dict) or not all(isinstance(each, str) for each in by_key.values()):
            raise BadJson("'signatures' must hold objects of strings")


def read_one_time_keys(value: Any, *, is_fallback: bool = False) -> list[UploadedKey]:
    """Return the keys of an upload; of fallback keys there is at most one for each algorithm."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise BadJson("one-time and fallback keys must be an object")
    if len(value) > MAX_KEYS:
        raise InvalidParam(f"at most {MAX_KEYS} keys can be uploaded at once")
    found: list[UploadedKey] = []
    for name, key in value.items():
        algorithm, key_id = _split(name, "a one-time or fallback key")
        if isinstance(key, dict):
            if not isinstance(key.get("key"), str):
                raise BadJson("a signed key must have its 'key'")
            check_signatures(key.get("signatures"))
        elif not isinstance(key, str):
            raise BadJson("a one-time or fallback key must be a string or an object")
        found.append(UploadedKey(algorithm, key_id, encode_bounded(key, MAX_KEY_BYTES, "a one-time key")))
    if is_fallback and len({key.algorithm for key in found}) < len(found):
        raise InvalidParam("there can be one fallback key for each algorithm")
    return found


def check_cross_signing_key(value: Any, user_id: str, usage: str) -> tuple[str, bytes]:
    """Return the public key and the canonical JSON of a cross-signing key of a user.

    Spec: client-server API, "Cross-signing", `POST /keys/device_signing/upload`.
    """
    if not isinstance(value, dict):
        raise BadJson("a cross-signing key must be an object")
    if value.get("user_id") != user_id:
        raise InvalidParam("the user ID of the cross-signing key is another user's")
    usages = value.get("usage")
    if not isinstance(usages, list) or not all(isinstance(each, str) for each in usages) or usage not in usages:
        raise InvalidParam(f"the usage of the key is not {usage}")
    keys = value.get("keys")
    if not isinstance(keys, dict) or len(keys) != 1:
        raise InvalidParam("a cross-signing key has exactly one key")
    ((name, key),) = keys.items()
    algorithm, key_id = _split(name, "a cross-signing key")
    # Spec: "the ID is the unpadded base64 public key".
    if algorithm != "ed25519" or key != key_id:
        raise InvalidParam("a cross-signing key is an ed25519 key that is known by itself")
    try:
        VerifyKey.parse(key)
    except BadKey as fault:
        raise InvalidParam(f"the cross-signing key cannot be used: {fault}") from fault
    check_signatures(value.get("signatures"))
    shown = {each: inner for each, inner in value.items() if each != "unsigned"}
    return key, encode_bounded(shown, MAX_KEY_BYTES, "a cross-signing key")


def without_signatures(value: Mapping[str, Any]) -> JsonObject:
    """Return what signatures are made over."""
    return {name: each for name, each in value.items() if name not in ("signatures", "unsigned")}


def add_signatures(value: JsonObject, added: Mapping[str, Mapping[str, str]]) -> JsonObject:
    """Return a key with further signatures: user -> key ID -> signature."""
    if not added:
        return value
    present = value.get("signatures")
    signatures = dict(present) if isinstance(present, dict) else {}
    for user_id, by_key in added.items():
        own = signatures.get(user_id)
        signatures[user_id] = {**(own if isinstance(own, dict) else {}), **by_key}
    return {**value, "signatures": signatures}


def shown_signatures(value: JsonObject, allowed: frozenset[str]) -> JsonObject:
    """Return a key with the signatures of these users only."""
    present = value.get("signatures")
    if not isinstance(present, dict) or allowed.issuperset(present):
        return value
    return {**value, "signatures": {user: each for user, each in present.items() if user in allowed}}


def _split(name: str, what: str) -> tuple[str, str]:
    algorithm, colon, key_id = name.partition(":")
    if (
        not colon
        or not 0 < len(algorithm) <= MAX_ALGORITHM_CHARACTERS
        or not 0 < len(key_id) <= MAX_ID_CHARACTERS
        or "\x00" in name
    ):
        raise InvalidParam(f"the name of {what} is its algorithm, a colon and an ID")
    return algorithm, key_id
