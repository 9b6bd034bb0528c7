"""Which network addresses outgoing requests may reach.

What counts is the address that is connected to, never the name. An IPv6 address may have an IPv4 address in it
(mapped, translated, tunnelled): then both have to be allowed, or whoever names a server would reach through the long
form what the short form forbids.

Only the usual way to write an IPv4 address makes a literal here. The others that operating systems read as one
(`2130706433`, `0x7f.1`, `0177.0.0.1`) are no host names either.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

MAX_REMEMBERED: Final = 4096

# RFC 6052 and RFC 8215: the last 32 bits are an IPv4 address.
_TRANSLATED: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
# RFC 4291, "IPv4-Compatible IPv6 Address".
_COMPATIBLE: Final = IPv6Network("::/96")
_LABEL: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")


class AddressRules:
    """The ranges that are denied, and the exceptions from them; both as `10.0.0.0/8` or single addresses."""

    def __init__(self, denied: Iterable[str], allowed: Iterable[str] = ()) -> None:
        self._denied = tuple(ip_network(text, strict=False) for text in denied)
        self._allowed = tuple(ip_network(text, strict=False) for text in allowed)
        self._judge = lru_cache(MAX_REMEMBERED)(self._judged)

    def allows(self, address: str) -> bool:
        """Tell whether an address in numbers may be connected to; what is no such address may not."""
        return self._judge(address)

    def _judged(self, text: str) -> bool:
        try:
            # A zone (`fe80::1%eth0`) says through which interface; it is no part of the address.
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        if mapped is not None:
            # The operating system connects to the IPv4 address.
            return self._passes(mapped)
        return self._passes(address) and all(self._passes(each) for each in _inner(address))

    def _passes(self, address: Address) -> bool:
        if not any(address in network for network in self._denied):
            return True
        return any(address in network for network in self._allowed)


def literal_address(host: str) -> str | None:
    """Return the address that a host is written as (IPv6 with or without brackets), or None if it is a name."""
    text = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if "%" in text:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def is_host_name(host: str) -> bool:
    """Tell whether the text may be looked up as a DNS name; numbers in any disguise may not."""
    name = host.removesuffix(".")
    if not 0 < len(name) <= 253:
        return False
    labels = name.split(".")
    # Where the last label is a number, `inet_aton` would read the whole as an IPv4 address.
    return all(_LABEL.fullmatch(label) for label in labels) and _NUMBER.fullmatch(labels[-1]) is None


def _inner(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return []
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    found = []
    if any(address in network for network in _TRANSLATED) or (address in _COMPATIBLE and int(address) > 0xFFFF):
        found.append(last)
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    return found
