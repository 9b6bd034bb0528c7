"""How uploaded bytes may be shown: content types, file names, and the headers that keep them from doing harm.

What a user uploads is told to browsers of other users under the server's own name. Three things keep it inert: the
content type is never guessed (`nosniff`), a type that a browser would run is offered as a file to save (`attachment`),
and whatever is opened all the same runs in a sandbox (`Content-Security-Policy`). All pure.

Spec: client-server API, "Content repository", "Serving inline content".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote

DEFAULT_TYPE: Final = "application/octet-stream"
MAX_TYPE_CHARS: Final = 255
MAX_FILE_NAME_BYTES: Final = 1024

# Spec: client-server API, "Serving inline content".
INLINE_TYPES: Final = frozenset(
    {
        "text/css",
        "text/plain",
        "text/csv",
        "application/json",
        "application/ld+json",
        "image/jpeg",
        "image/gif",
        "image/png",
        "image/apng",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/webm",
        "video/ogg",
        "video/quicktime",
        "audio/mp4",
        "audio/webm",
        "audio/aac",
        "audio/mpeg",
        "audio/ogg",
        "audio/wave",
        "audio/wav",
        "audio/x-wav",
        "audio/x-pn-wav",
        "audio/flac",
        "audio/x-flac",
    }
)

# Spec: client-server API, "Content repository", and since v1.4 Cross-Origin-Resource-Policy.
SAFETY_HEADERS: Final[dict[str, str]] = {
    "Content-Security-Policy": (
        "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; "
        "style-src 'unsafe-inline'; object-src 'self';"
    ),
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow, noarchive, noimageindex",
    "Referrer-Policy": "no-referrer",
}

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# RFC 9110, 8.3.1: type "/" subtype *( ";" parameter ).
_MEDIA_TYPE: Final = re.compile(
    rf'{_TOKEN}/{_TOKEN}(?:[ \t]*;[ \t]*{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*[ \t]*;?', re.ASCII
)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EXTENDED_NAME: Final = re.compile(
    r";[ \t]*filename\*[ \t]*=[ \t]*utf-8'[^';]*'([!-~]*?)[ \t]*(?:;|$)", re.ASCII | re.I
)
_NAME: Final = re.compile(rf';[ \t]*filename[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))', re.ASCII | re.I)
_ESCAPED: Final = re.compile(r"\\(.)")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9 !#$&+.,;=@^_`{}~()\[\]-]+")


def clean_content_type(text: str | None) -> str | None:
    """Return the content type of an upload as it will be stored, or None for none that can be shown again."""
    if text is None:
        return None
    text = text.strip(" \t")
    if not text or len(text) > MAX_TYPE_CHARS or not _MEDIA_TYPE.fullmatch(text):
        return None
    return text


def clean_file_name(text: str | None) -> str | None:
    """Return the file name of an upload as it will be stored: without controls, of a bounded length; None for none."""
    if text is None:
        return None
    text = _CONTROLS.sub("", text).encode("utf-8", "replace")[:MAX_FILE_NAME_BYTES].decode("utf-8", "ignore")
    return text or None


def file_name_of(disposition: str | None) -> str | None:
    """Return the file name that a Content-Disposition header of another server gives, or None. RFC 6266, 4.3."""
    if disposition is None:
        return None
    extended = _EXTENDED_NAME.search(disposition)
    if extended is not None:
        return unquote(extended[1], errors="replace")
    plain = _NAME.search(disposition)
    if plain is None:
        return None
    name = plain[2] if plain[1] is None else _ESCAPED.sub(r"\1", plain[1])
    try:
        # Header values come as Latin-1; many write UTF-8 there.
        return name.encode("latin-1").decode()
    except UnicodeError:
        return name


def is_inline_type(content_type: str) -> bool:
    """Tell whether a browser may show content of this type in place."""
    return content_type.partition(";")[0].strip(" \t").lower() in INLINE_TYPES


def content_disposition(content_type: str, file_name: str | None) -> str:
    """Return the Content-Disposition header: `inline` for types that cannot run, else `attachment`."""
    kind = "inline" if is_inline_type(content_type) else "attachment"
    name = clean_file_name(file_name)
    if name is None:
        return kind
    if _PLAIN_NAME.fullmatch(name):
        return f'{kind}; filename="{name}"'
    # RFC 6266, 4.3, with the encoding of RFC 8187.
    return f"{kind}; filename*=utf-8''{quote(name, safe='')}"


def download_headers(content_type: str | None, file_name: str | None) -> dict[str, str]:
    """Return the headers for content as uploaded, its type included."""
    shown = content_type or DEFAULT_TYPE
    disposition = content_disposition(shown, file_name)
    folded = shown.lower()
    # Spec: client-server API, GET /download, Content-Type: adding a charset to text/* is reasonable.
    if folded.startswith("text/") and "charset=" not in folded:
        shown = f"{shown.rstrip('; ')}; charset=UTF-8"
    return {**SAFETY_HEADERS, "Content-Type": shown, "Content-Disposition": disposition}
