"""Server ACLs: may a server take part in a room?

An ACL may hold ten thousand globs and is asked for every event and request of another server.  So it is compiled once
for an event and kept there, and most globs are never tried one by one: those without a wildcard, those with one star
in front (`*.example.org`) and those with one star behind are found by look-ups of the whole name, of its ends and of
its beginnings.  Only what is left is matched, in linear time each, and the answers for the last names are remembered.

Names are compared in lower case and without their port.  A server could choose another spelling of its name to slip
through `deny`: a dot at the end, or an address written in another way.  `deny` is held against those spellings too,
`allow` only against the name as it is, so that in doubt a server is kept out.

Spec: client-server API, "Server Access Control Lists (ACLs) for rooms", `m.room.server_acl`; server-server API,
"Server Access Control Lists (ACLs)"; appendices, "Glob-style matching".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from homeserver.errors import BadIdentifier

from .content.server_acl import ServerACLContent, server_acl_content
from .event import Event
from .globs import Matcher, compile_glob, has_wildcards
from .ids import ServerName

_MAX_REMEMBERED: Final = 1_024
_HEX_DIGITS: Final = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ServerACL:
    """The ACL of a room at one point; `content` is None where the room has none, which lets everybody in."""

    content: ServerACLContent | None
    _allow: _Globs
    _deny: _Globs
    # What was answered; a function of the rest, and so no part of the value.
    _answers: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def from_event(cls, event: Event | None) -> ServerACL:
        """Return the ACL that this event sets, compiled once for it; one that lets everybody in where it is None."""
        return _NO_ACL if event is None else event.typed(_compile)

    def allows(self, server_name: str) -> bool:
        """Tell whether the server may take part; what is not a server name at all may not, where there is an ACL."""
        # 1. If there is no `m.room.server_acl` event in the room state, allow.
        if self.content is None:
            return True
        answer = self._answers.get(server_name)
        if answer is None:
            host = host_of(server_name)
            if host is None:
                return False
            answer = self._judge(self.content, host)
            if len(self._answers) >= _MAX_REMEMBERED:
                self._answers.clear()
            self._answers[server_name] = answer
        return answer

    def _judge(self, content: ServerACLContent, host: str) -> bool:
        # 2. If the server name is an IP address literal, and `allow_ip_literals` is present and `false`, deny.
        if not content.allow_ip_literals and is_ip_literal(host):
            return False
        # 3. If the server name matches an entry in the `deny` list, deny.
        if any(self._deny.match(spelling) for spelling in _spellings(host)):
            return False
        # 4. If the server name matches an entry in the `allow` list, allow.  5. Otherwise, deny.
        return self._allow.match(host)


def host_of(server_name: str) -> str | None:
    """Return a server name in lower case and without its port, or None if it is not one."""
    try:
        ServerName.parse(server_name)
    except BadIdentifier:
        return None
    name = server_name.lower()
    if name.startswith("["):
        return name[: name.index("]") + 1]
    return name.partition(":")[0]


def is_ip_literal(host: str) -> bool:
    """Tell whether a lower-case host is an address: `[...]`, or what resolvers read as IPv4.

    Those take `127.1`, `0x7f.0.0.1` and `2130706433` for addresses as well; all have a number as their last label,
    which no domain has.
    """
    if host.startswith("["):
        return True
    last = host.removesuffix(".").rpartition(".")[2]
    return last.isdigit() or (last.startswith("0x") and _HEX_DIGITS.issuperset(last[2:]))


def _spellings(host: str) -> Iterable[str]:
    """Return the host itself and the plainer ways to write the same."""
    if host.startswith("["):
        return (host, _plain_ipv6(host))
    return (host, host.rstrip(".")) if host.endswith(".") else (host,)


def _plain_ipv6(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1]).compressed}]"
    except ValueError:
        return host


class _Globs:
    """A list of globs that tells whether any of them matches a name."""

    __slots__ = ("_literals", "_matches_all", "_others", "_prefixes", "_suffixes")

    def __init__(self, globs: Iterable[str]) -> None:
        literals: set[str] = set()
        prefixes: set[str] = set()
        suffixes: set[str] = set()
        others: set[str] = set()
        for glob in globs:
            pattern = glob.lower()
            if not has_wildcards(pattern):
                literals.add(pattern)
                if pattern.startswith("["):
                    literals.add(_plain_ipv6(pattern))
            elif not has_wildcards(pattern[1:]) and pattern[0] == "*":
                suffixes.add(pattern[1:])
            elif not has_wildcards(pattern[:-1]) and pattern[-1] == "*":
                prefixes.add(pattern[:-1])
            else:
                others.add(pattern)
        self._matches_all = "" in suffixes
        self._literals = frozenset(literals)
        self._prefixes = frozenset(prefixes)
        self._suffixes = frozenset(suffixes)
        # Where everything matches, nothing else is ever asked.
        self._others: tuple[Matcher, ...] = () if self._matches_all else tuple(map(compile_glob, sorted(others)))

    def match(self, name: str) -> bool:
        """Tell whether any of the globs matches a name, which is in lower case."""
        if self._matches_all or name in self._literals:
            return True
        if self._suffixes and any(name[start:] in self._suffixes for start in range(len(name))):
            return True
        if self._prefixes and any(name[:end] in self._prefixes for end in range(1, len(name) + 1)):
            return True
        return any(matches(name) for matches in self._others)


def _compile(event: Event) -> ServerACL:
    content = server_acl_content(event)
    return ServerACL(content, _Globs(content.allow), _Globs(content.deny))


_NO_ACL: Final = ServerACL(None, _Globs(()), _Globs(()))
