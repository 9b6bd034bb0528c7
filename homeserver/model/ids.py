"""Identifiers: user IDs, room IDs, event IDs, aliases and server names.

Each is a `str` with a type of its own, made by `parse` at the edge of the program and never a bare `str` behind it.
`parse` accepts what a conforming server may ever have issued (the historical grammar); what this server issues
itself is narrower and checked where it is made.

Spec: appendices, "Identifier Grammar".
"""

from __future__ import annotations

import re
from typing import Self

from homeserver.errors import BadIdentifier

MAX_IDENTIFIER_BYTES = 255

# Spec: appendices, "Server Name": hostname [ ":" port ]; a name is an IPv4 or IPv6 literal or a DNS name.
_SERVER_NAME = re.compile(r"(?:[A-Za-z0-9.\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
# Spec: appendices, "User Identifiers": what new user IDs may look like.
_LOCALPART = re.compile(r"[a-z0-9._=/+\-]+")
_OPAQUE = re.compile(r"[A-Za-z0-9_\-]+")


def _check_length(kind: str, text: str) -> None:
    # Spec: appendices, "User Identifiers", "Room IDs", "Room Aliases" and "Event IDs": 255 bytes, sigil and domain
    # included.
    if len(text) > MAX_IDENTIFIER_BYTES or (
        not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > MAX_IDENTIFIER_BYTES
    ):
        raise BadIdentifier(f"{kind} is over {MAX_IDENTIFIER_BYTES} bytes")


class ServerName(str):
    """The name of a homeserver, such as `example.org` or `[::1]:8448`, in the case that it is written in.

    Spec: appendices, "Server Name": "must be treated case-sensitively".
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as a server name, or raise `BadIdentifier`."""
        if not isinstance(text, str) or len(text) > 230 or not _SERVER_NAME.fullmatch(text):
            raise BadIdentifier("not a valid server name")
        return cls(text)


class _DomainID(str):
    """An identifier of the form sigil, localpart, colon, server name."""

    __slots__ = ()
    sigil = ""
    kind = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as an identifier of this kind, or raise `BadIdentifier`."""
        if not isinstance(text, str) or not text.startswith(cls.sigil):
            raise BadIdentifier(f"{cls.kind} must start with '{cls.sigil}'")
        _check_length(cls.kind, text)
        localpart, colon, server_name = text[1:].partition(":")
        if not colon or not _SERVER_NAME.fullmatch(server_name):
            raise BadIdentifier(f"{cls.kind} must end with ':' and a server name")
        if "\x00" in localpart:
            raise BadIdentifier(f"{cls.kind} must not contain NUL")
        cls._check_localpart(localpart)
        return cls(text)

    @classmethod
    def _check_localpart(cls, localpart: str) -> None:
        pass

    @property
    def localpart(self) -> str:
        return self[1:].partition(":")[0]

    @property
    def server_name(self) -> ServerName:
        return ServerName(self.partition(":")[2])


class UserID(_DomainID):
    """`@localpart:server`."""

    __slots__ = ()
    sigil = "@"
    kind = "user ID"

    @classmethod
    def of(cls, localpart: str, server_name: str) -> UserID:
        """Return the ID of a new user of this server; the localpart must follow the strict grammar."""
        if not _LOCALPART.fullmatch(localpart):
            raise BadIdentifier("a user name may contain only a-z, 0-9 and . _ = - / +")
        return cls.parse(f"@{localpart}:{server_name}")


class RoomAlias(_DomainID):
    """`#alias:server`."""

    __slots__ = ()
    sigil = "#"
    kind = "room alias"

    @classmethod
    def _check_localpart(cls, localpart: str) -> None:
        if not localpart:
            raise BadIdentifier("room alias has no localpart")


class RoomID(str):
    """`!opaque:server`, or from room version 12 `!` and the hash of the create event."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as a room ID, or raise `BadIdentifier`."""
        if not isinstance(text, str) or len(text) < 2 or text[0] != "!" or "\x00" in text:
            raise BadIdentifier("room ID must start with '!'")
        _check_length("room ID", text)
        _, colon, server_name = text.partition(":")
        if colon and not _SERVER_NAME.fullmatch(server_name):
            raise BadIdentifier("room ID has no valid server name")
        return cls(text)

    @property
    def server_name(self) -> ServerName | None:
        """The server part, or None for a room ID that is a hash."""
        _, colon, server_name = self.partition(":")
        return ServerName(server_name) if colon else None


class EventID(str):
    """`$` and a hash, or in the first two room versions `$opaque:server`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return `text` as an event ID, or raise `BadIdentifier`."""
        if not isinstance(text, str) or len(text) < 2 or text[0] != "$" or "\x00" in text:
            raise BadIdentifier("event ID must start with '$'")
        _check_length("event ID", text)
        return cls(text)


def server_name_of(identifier: str) -> str:
    """Return the server part of any identifier that has one, else the empty text."""
    return identifier.partition(":")[2]


def is_opaque_id(text: str) -> bool:
    """Tell whether `text` follows the grammar of opaque identifiers (1 to 255 of A-Z a-z 0-9 _ -)."""
    return len(text) <= MAX_IDENTIFIER_BYTES and _OPAQUE.fullmatch(text) is not None
