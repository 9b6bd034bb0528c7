"""The kinds of values that settings are made of: names, paths, addresses, sizes, durations; and what sections share.

Each kind is a type for the models of `homeserver.config` that checks its text and says what it expected.  A path
and an SQLite URL are made absolute with the `base_dir` of the validation context, if there is one.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationInfo

from homeserver.config_source import parse_duration_ms, parse_size
from homeserver.errors import BadIdentifier
from homeserver.model.ids import RoomAlias, ServerName

# Ranges that no outgoing request reaches unless they are allowed by name: this machine, private networks, and what is
# reserved or stands for an IPv4 address (RFC 6890 and its IPv6 kin).
UNREACHABLE_RANGES = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "192.0.0.0/24",
    "169.254.0.0/16",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "fe80::/10",
    "fc00::/7",
    "2001:db8::/32",
    "ff00::/8",
    "fec0::/10",
)


class Section(BaseModel):
    """What all sections share: frozen, no unknown keys, no guessing of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _server_name(value: object) -> ServerName:
    try:
        return ServerName.parse(value)  # type: ignore[arg-type]
    except BadIdentifier as error:
        raise ValueError('expected a server name such as "example.org" or "example.org:8448"') from error


def _path(value: object, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or "\x00" in value:
        raise ValueError("expected a path as text")
    base = info.context.get("base_dir") if info.context else None
    return Path(base, value) if base is not None else Path(value)


def _url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError('expected an address such as "https://example.org"')
    return value.rstrip("/")


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError('expected a range of addresses such as "10.0.0.0/8"') from None
    return value


def _bind_address(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if value != "localhost":
            raise ValueError('expected an IP address such as "127.0.0.1", "0.0.0.0" or "::"') from None
        return "127.0.0.1"
    return value


def _alias(value: str) -> str:
    try:
        return RoomAlias.parse(value)
    except BadIdentifier as error:
        raise ValueError('expected a room alias such as "#welcome:example.org"') from error


def _database_url(value: str, info: ValidationInfo) -> str:
    scheme = value.partition(":")[0]
    if scheme.startswith("postgres"):
        raise ValueError("PostgreSQL is not supported; use sqlite:/// or mysql+pymysql://")
    if scheme in ("mysql", "mariadb", "mysql+mysqldb", "mysql+aiomysql"):
        raise ValueError("the driver is missing: write mysql+pymysql://user:password@host/name")
    if scheme in ("mysql+pymysql", "mariadb+pymysql"):
        if not re.fullmatch(r"[a-z+]+://[^/\s]+/[^/\s?]+(\?\S*)?", value):
            raise ValueError("expected mysql+pymysql://user:password@host/name")
        return value
    if not value.startswith("sqlite:///") and value not in ("sqlite://", "sqlite:///:memory:"):
        raise ValueError("expected a URL such as sqlite:///sennit.db or mysql+pymysql://user:password@host/name")
    name = value.removeprefix("sqlite:///")
    base = info.context.get("base_dir") if info.context else None
    if base is None or value == "sqlite://" or name in ("", ":memory:") or name.startswith("file:"):
        return value
    return f"sqlite:///{Path(base, name)}"


Port = Annotated[int, Field(ge=0, le=65535)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Name = Annotated[ServerName, PlainValidator(_server_name)]
Names = Annotated[tuple[Name, ...], Field(strict=False)]
FilePath = Annotated[Path, PlainValidator(_path)]
FilePaths = Annotated[tuple[FilePath, ...], Field(strict=False)]
Url = Annotated[str, AfterValidator(_url)]
Size = Annotated[int, BeforeValidator(parse_size)]
DurationMs = Annotated[int, BeforeValidator(parse_duration_ms)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(strict=False)]
Table = dict[str, Any]
BindAddresses = Annotated[
    tuple[Annotated[str, AfterValidator(_bind_address)], ...], Field(strict=False, min_length=1, max_length=64)
]
Aliases = Annotated[tuple[Annotated[str, AfterValidator(_alias)], ...], Field(strict=False)]
DatabaseUrl = Annotated[str, AfterValidator(_database_url)]
