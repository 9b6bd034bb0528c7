"""Unpadded Base64, the way Matrix writes bytes in JSON: keys, hashes, signatures.

Encoding never pads.  Decoding takes text with or without padding, as the spec asks, and refuses everything else that
lenient decoders let through: foreign characters, white space, bytes after the padding, impossible lengths.  Unused
bits of the last character may be anything: keys in use have them set, the spec's own test key among them.

Spec: appendices, "Unpadded Base64".
"""

from __future__ import annotations

import binascii
from typing import Final

_TO_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE: Final = str.maketrans("-_+/", "+/\0\0")


def encode_base64(raw: bytes) -> str:
    """Return the unpadded text of `raw` in the standard alphabet."""
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").decode("ascii")


def encode_url_safe_base64(raw: bytes) -> str:
    """Return the unpadded text of `raw` in the alphabet that has `-` and `_` for `+` and `/`."""
    return binascii.b2a_base64(raw, newline=False).rstrip(b"=").translate(_TO_URL_SAFE).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Return the bytes of `text` in the standard alphabet, or raise ValueError."""
    missing = -len(text) % 4
    if missing == 3 or (missing and text.endswith("=")):
        raise ValueError("not Base64: impossible length")
    try:
        return binascii.a2b_base64(text + "=" * missing, strict_mode=True)
    except ValueError as fault:  # binascii.Error, and text that is not ASCII
        raise ValueError("not Base64") from fault


def decode_url_safe_base64(text: str) -> bytes:
    """Return the bytes of `text` in the URL-safe alphabet, or raise ValueError."""
    return decode_base64(text.translate(_FROM_URL_SAFE))
