"""Ed25519 keys and signatures, over JSON objects and over events.

A signature stands in the object it is over, under `signatures`, by the name of whoever signed and by key ID.  It does
not cover `signatures` and `unsigned`.  An event is signed in its redacted form.

Keys of others are refused when they are read if they could make a signature fit anything: the zero key, points of low
order, points outside the prime-order group, encodings that are not canonical.  The check of a signature refuses a
scalar S that is not reduced and a point R of low order, so that nobody can write a second signature from a first.

`SigningKey` holds a secret: it never shows in a `repr`.  Key files have the form of Synapse's, one key a line.

Spec: appendices, "Signing JSON"; server-server API, "Signing Events".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import nacl.bindings
import nacl.signing
from nacl.exceptions import CryptoError

from .base64 import decode_base64, encode_base64
from .canonical_json import encode_canonical
from .hashing import encode_essential
from .room_versions import RoomVersion

ALGORITHM: Final = "ed25519"
SEED_BYTES: Final = 32
# The spec sets no bound; nobody needs more.
MAX_KEY_ID_BYTES: Final = 255

_PREFIX: Final = f"{ALGORITHM}:"
_KEY_BYTES: Final = 32
_SIGNATURE_BYTES: Final = 64
_SIGNATURE_CHARACTERS: Final = range(86, 89)
_VERSION_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


class BadKey(ValueError):
    """A key, or its ID, is not one that may be used."""


class BadSignature(ValueError):
    """There is no such signature, or it is not over this object by this key."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret key of ours, with its ID, such as `ed25519:a_abcd`."""

    key_id: str
    secret: nacl.signing.SigningKey = field(repr=False)

    @property
    def version(self) -> str:
        """The part of the key ID after the algorithm."""
        return self.key_id[len(_PREFIX) :]

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(bytes(self.secret.verify_key))

    @property
    def verify_key_base64(self) -> str:
        """The public half as it is published."""
        return encode_base64(bytes(self.secret.verify_key))

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of the signature over `message`."""
        return self.secret.sign(message).signature


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key that signatures may be checked with; `of` and `parse` make them, and refuse bad ones."""

    public_key: bytes

    @classmethod
    def of(cls, public_key: bytes) -> Self:
        """Return the key of these 32 bytes, or raise `BadKey`."""
        if len(public_key) != _KEY_BYTES:
            raise BadKey("an ed25519 key has 32 bytes")
        # On the curve, canonically encoded, in the prime-order group, and not of low order.
        if not nacl.bindings.crypto_core_ed25519_is_valid_point(public_key):
            raise BadKey("not a valid ed25519 key")
        return cls(bytes(public_key))

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the key that stands in JSON as `text`, or raise `BadKey`."""
        if not isinstance(text, str) or not 43 <= len(text) <= 44:
            raise BadKey("an ed25519 key has 43 characters")
        try:
            public_key = decode_base64(text)
        except ValueError as fault:
            raise BadKey("an ed25519 key is written in Base64") from fault
        return cls.of(public_key)

    def to_wire(self) -> str:
        """Return the key as it is written in JSON."""
        return encode_base64(self.public_key)

    def check(self, message: bytes, signature: bytes) -> None:
        """Return if `signature` is over `message` by this key, else raise `BadSignature`."""
        if len(signature) != _SIGNATURE_BYTES:
            raise BadSignature("an ed25519 signature has 64 bytes")
        try:
            nacl.bindings.crypto_sign_open(signature + message, self.public_key)
        except CryptoError as fault:
            raise BadSignature("the signature is not over this by this key") from fault


def generate_signing_key(seed: bytes, version: str) -> SigningKey:
    """Return the key that these 32 random bytes make, or raise `BadKey`; `version` is the name after `ed25519:`."""
    # Spec: appendices, "Signing JSON": key versions are made of [a-zA-Z0-9_].
    if not version or len(_PREFIX) + len(version) > MAX_KEY_ID_BYTES or not _VERSION_CHARACTERS.issuperset(version):
        raise BadKey("the version of a key is made of letters, digits and underscores")
    if len(seed) != SEED_BYTES:
        raise BadKey("the seed of a key has 32 bytes")
    return SigningKey(_PREFIX + version, nacl.signing.SigningKey(seed))


def is_key_id(text: object) -> bool:
    """Tell whether `text` may name an Ed25519 key of anybody's: a server's, a device's or a user's."""
    return (
        isinstance(text, str)
        and len(_PREFIX) < len(text) <= MAX_KEY_ID_BYTES
        and text.startswith(_PREFIX)
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )


# -- JSON objects ----------------------------------------------------------------------------------------------------


def encode_signed(obj: Mapping[str, Any]) -> bytes:
    """Return the bytes that signatures over the object are made over, or raise `BadJson` if it has no canonical form.

    For who checks several signatures of one object; the others need no more than `verify_signed_json`.
    """
    return encode_canonical({name: value for name, value in obj.items() if name not in ("signatures", "unsigned")})


def sign_json(obj: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """Return a copy of the object with our signature added to those that it has.

    `BadJson` is raised if it has no canonical form.
    """
    return _with_signature(obj, server_name, key, key.sign(encode_signed(obj)))


def verify_signed_json(obj: Mapping[str, Any], server_name: str, key_id: str, verify_key: VerifyKey) -> None:
    """Return if the object is signed by that name with that key, else raise `BadSignature`.

    `BadJson` is raised if it has no canonical form.  The cost is one check, however many signatures there are.
    """
    verify_key.check(encode_signed(obj), signature_in(obj, server_name, key_id))


def signature_in(obj: Mapping[str, Any], server_name: str, key_id: str) -> bytes:
    """Return the 64 bytes of the signature that stands in the object, unchecked, or raise `BadSignature`."""
    if not is_key_id(key_id):
        raise BadSignature("no such kind of key")
    signatures = obj.get("signatures")
    by_server = signatures.get(server_name) if isinstance(signatures, Mapping) else None
    text = by_server.get(key_id) if isinstance(by_server, Mapping) else None
    if not isinstance(text, str):
        raise BadSignature("there is no signature by that key")
    if len(text) not in _SIGNATURE_CHARACTERS:
        raise BadSignature("an ed25519 signature has 86 characters")
    try:
        return decode_base64(text)
    except ValueError as fault:
        raise BadSignature("a signature is written in Base64") from fault


# -- events ----------------------------------------------------------------------------------------------------------


def sign_event(version: RoomVersion, wire: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """Return a copy of the event, whose content hash is there already, with our signature added."""
    return _with_signature(wire, server_name, key, key.sign(encode_essential(version, wire)))


def verify_signed_event(
    version: RoomVersion, wire: Mapping[str, Any], server_name: str, key_id: str, verify_key: VerifyKey
) -> None:
    """Return if the event, whole or redacted, is signed by that server with that key, else raise `BadSignature`."""
    verify_key.check(encode_essential(version, wire), signature_in(wire, server_name, key_id))


# -- key files -------------------------------------------------------------------------------------------------------


def parse_key_file(text: str) -> tuple[SigningKey, ...]:
    """Return the keys of a key file in their order, at least one; raise `BadKey` naming the line, never the key.

    COMPAT(synapse): a line is `ed25519 VERSION SEED`, the seed in Base64; empty lines mean nothing.
    """
    keys: dict[str, SigningKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0] != ALGORITHM:
            raise BadKey(f"line {number}: expected 'ed25519', the version and the seed of a key")
        try:
            key = generate_signing_key(decode_base64(words[2]), words[1])
        except BadKey as fault:
            raise BadKey(f"line {number}: {fault}") from None
        except ValueError:
            raise BadKey(f"line {number}: the seed is not Base64") from None
        if key.key_id in keys:
            raise BadKey(f"line {number}: there are two keys of this version")
        keys[key.key_id] = key
    if not keys:
        raise BadKey("there is no key")
    return tuple(keys.values())


def key_file_line(key: SigningKey) -> str:
    """Return the line of a key file that holds this key, with the newline."""
    return f"{ALGORITHM} {key.version} {encode_base64(bytes(key.secret))}\n"


def _with_signature(obj: Mapping[str, Any], server_name: str, key: SigningKey, signature: bytes) -> dict[str, Any]:
    present = obj.get("signatures")
    signatures = dict(present) if isinstance(present, Mapping) else {}
    ours = signatures.get(server_name)
    # Keys of objects are plain text, not a kind of it: the fast encoder takes no other.
    signatures[str(server_name)] = {
        **(ours if isinstance(ours, Mapping) else {}),
        key.key_id: encode_base64(signature),
    }
    return {**obj, "signatures": signatures}
