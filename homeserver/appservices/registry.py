"""The application services of this server, read from their registration files.

The files are the operator's, and so are the regular expressions in them; they are matched only against identifiers,
which are at most 255 bytes long. Whatever is wrong with a file stops the start of the server with a sentence that
names the file and the key.

Spec: application service API, "Registration".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from homeserver.errors import BadIdentifier, Misconfigured
from homeserver.model.ids import MAX_IDENTIFIER_BYTES, UserID

MAX_FILE_BYTES: Final = 1_000_000
_KINDS: Final = ("users", "aliases", "rooms")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A set of identifiers that a service is interested in; one that `is_exclusive` it has for itself."""

    pattern: re.Pattern[str]
    is_exclusive: bool

    def holds(self, identifier: str) -> bool:
        """Tell whether an identifier is in the namespace."""
        # COMPAT(synapse): the expression need not reach to the end of the identifier.
        return len(identifier) <= MAX_IDENTIFIER_BYTES and self.pattern.match(identifier) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Appservice:
    """One application service.

    `sends_ephemeral_as` is the key under which it expects ephemeral events, None where it wants none.
    `takes_device_news`: it is told of devices and their messages in transactions, instead of by syncs of its users.
    """

    id: str
    url: str | None
    as_token: str
    hs_token: str
    sender: UserID
    users: tuple[Namespace, ...] = ()
    aliases: tuple[Namespace, ...] = ()
    rooms: tuple[Namespace, ...] = ()
    is_rate_limited: bool = True
    protocols: tuple[str, ...] = ()
    sends_ephemeral_as: str | None = None
    manages_devices: bool = False
    takes_device_news: bool = False

    def is_user(self, user_id: str) -> bool:
        """Tell whether a user is the service's: its sender, or a local one in a namespace.

        Spec: "Registration": "application services can only register interest in *local* users".
        """
        if user_id == self.sender:
            return True
        return user_id.partition(":")[2] == self.sender.server_name and _is_in(user_id, self.users)

    def is_alias(self, alias: str) -> bool:
        """Tell whether an alias is in a namespace."""
        return _is_in(alias, self.aliases)

    def is_room(self, room_id: str) -> bool:
        """Tell whether a room ID is in a namespace."""
        return _is_in(room_id, self.rooms)

    def has_for_itself(self, user_id: str) -> bool:
        """Tell whether nobody else may make this user."""
        return self.is_user(user_id) and (
            user_id == self.sender or any(each.is_exclusive and each.holds(user_id) for each in self.users)
        )

    def has_alias_for_itself(self, alias: str) -> bool:
        """Tell whether nobody else may make this alias."""
        return any(each.is_exclusive and each.holds(alias) for each in self.aliases)


class Registry:
    """All application services."""

    def __init__(self, services: Iterable[Appservice] = ()) -> None:
        self._services = tuple(services)
        self._by_token = {service.as_token: service for service in self._services}
        self._by_id = {service.id: service for service in self._services}

    @classmethod
    def load(cls, files: Sequence[Path], server_name: str) -> Registry:
        """Read registration files; raise Misconfigured with a sentence for the operator."""
        services: list[Appservice] = []
        ids: dict[str, Path] = {}
        tokens: dict[str, Path] = {}
        for file in files:
            service = _read(file, server_name)
            # Spec: "each `as_token` and `id` MUST be unique per application service".
            for key, value, seen in (("id", service.id, ids), ("as_token", service.as_token, tokens)):
                if value in seen:
                    raise Misconfigured(f"{file}: '{key}' is the same as in {seen[value]}; every service needs its own")
                seen[value] = file
            services.append(service)
        return cls(services)

    def __iter__(self) -> Iterator[Appservice]:
        return iter(self._services)

    def __len__(self) -> int:
        return len(self._services)

    def find_by_token(self, token: str) -> Appservice | None:
        """Return the service that has this token, or None."""
        return self._by_token.get(token)

    def find(self, appservice_id: str) -> Appservice | None:
        """Return the service of an ID, or None."""
        return self._by_id.get(appservice_id)

    def is_exclusive_user(self, user_id: str, *, but: str | None = None) -> bool:
        """Tell whether a user ID is one that a service other than `but` (an ID) has for itself."""
        return any(service.has_for_itself(user_id) for service in self._services if service.id != but)

    def is_exclusive_alias(self, alias: str, appservice_id: str | None = None) -> bool:
        """Tell whether an alias may not be made or removed by an ordinary user, or by a service.

        Spec: "Server admin style permissions": services act inside of their namespaces only, and users outside of
        those that are exclusive.
        """
        service = None if appservice_id is None else self.find(appservice_id)
        if service is not None and not service.is_alias(alias):
            return True
        return any(each.has_alias_for_itself(alias) for each in self._services if each is not service)

    def is_rate_limited(self, appservice_id: str, user_id: str) -> bool:
        """Tell whether what a service does as a user is counted. Spec: `rate_limited`: "The sender is excluded"."""
        service = self.find(appservice_id)
        return service is None or (service.is_rate_limited and user_id != service.sender)


def _is_in(identifier: str, namespaces: Iterable[Namespace]) -> bool:
    return any(each.holds(identifier) for each in namespaces)


# -- reading ---------------------------------------------------------------------------------------------------------


def _read(file: Path, server_name: str) -> Appservice:
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise Misconfigured(f"The registration file {file} cannot be read: {fault.strerror}") from fault
    if len(text) > MAX_FILE_BYTES:
        raise Misconfigured(f"The registration file {file} is over {MAX_FILE_BYTES} bytes")
    # Imported late: most servers have no such file, and it takes a MiB.
    import yaml

    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as fault:
        raise Misconfigured(f"The registration file {file} is not YAML: {fault}") from fault
    if not isinstance(found, dict):
        raise Misconfigured(f"The registration file {file} must be a mapping of keys to values")
    return _Reader(file, found).service(server_name)


class _Reader:
    """One registration file's values, checked key by key."""

    def __init__(self, file: Path, values: Mapping[Any, Any]) -> None:
        self._file = file
        self._values = values

    def service(self, server_name: str) -> Appservice:
        appservice_id = self._text("id")
        if len(appservice_id.encode("utf-8", "replace")) > MAX_IDENTIFIER_BYTES:
            raise self._fault("id", f"has over {MAX_IDENTIFIER_BYTES} bytes")
        namespaces = self._namespaces()
        ephemeral_as = None
        if self._switch("receive_ephemeral", False):
            ephemeral_as = "ephemeral"
        elif self._switch("de.sorunome.msc2409.push_ephemeral", False):
            # MSC2409: the name of both before v1.13.
            ephemeral_as = "de.sorunome.msc2409.ephemeral"
        return Appservice(
            id=appservice_id,
            url=self._url(),
            as_token=self._token("as_token"),
            hs_token=self._token("hs_token"),
            sender=self._sender(server_name),
            **namespaces,
            is_rate_limited=self._switch("rate_limited", True),
            protocols=self._protocols(),
            sends_ephemeral_as=ephemeral_as,
            manages_devices=self._switch("io.element.msc4190", False),
            # MSC3202: without it, a bridge that encrypts syncs as its users do.
            takes_device_news=self._switch("org.matrix.msc3202", False),
        )

    def _text(self, key: str) -> str:
        if key not in self._values:
            raise self._fault(key, "is missing")
        value = self._values[key]
        if not isinstance(value, str) or not value:
            raise self._fault(key, "must be a text that is not empty; put it in quotes")
        return value

    def _token(self, key: str) -> str:
        token = self._text(key)
        # It is sent in a header.
        if not token.isascii() or not token.isprintable() or token != token.strip():
            raise self._fault(key, "may have only ASCII characters, and no spaces around it")
        return token

    def _url(self) -> str | None:
        if "url" not in self._values:
            raise self._fault("url", "is missing; it may be null where nothing is to be sent to the service")
        value = self._values["url"]
        if value is None or value == "":
            return None
        if not isinstance(value, str) or not re.match(r"https?://[^/\s]", value) or not value.isprintable():
            raise self._fault("url", "must be null or begin with http:// or https://")
        return value.rstrip("/")

    def _sender(self, server_name: str) -> UserID:
        localpart = self._text("sender_localpart")
        try:
            return UserID.of(localpart, server_name)
        except BadIdentifier as fault:
            raise self._fault("sender_localpart", f"is no name for a user: {fault.message}") from fault

    def _switch(self, key: str, default: bool) -> bool:
        value = self._values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._fault(key, "must be true or false")
        return value

    def _protocols(self) -> tuple[str, ...]:
        value = self._values.get("protocols")
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self._fault("protocols", "must be a list of texts")
        return tuple(value)

    def _namespaces(self) -> dict[str, Any]:
        value = self._values.get("namespaces")
        # COMPAT(synapse): a registration without namespaces is taken.
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._fault("namespaces", "must be a mapping with the keys users, aliases and rooms")
        found: dict[str, Any] = {}
        for kind in _KINDS:
            listed = value.get(kind)
            if listed is None:
                continue
            if not isinstance(listed, list):
                raise self._fault(f"namespaces.{kind}", "must be a list")
            found[kind] = tuple(
                self._namespace(f"namespaces.{kind}[{index}]", each) for index, each in enumerate(listed)
            )
        return found

    def _namespace(self, key: str, value: object) -> Namespace:
        if not isinstance(value, dict):
            raise self._fault(key, "must be a mapping with the keys exclusive and regex")
        exclusive, regex = value.get("exclusive"), value.get("regex")
        if not isinstance(exclusive, bool):
            raise self._fault(f"{key}.exclusive", "must be true or false")
        if not isinstance(regex, str):
            raise self._fault(f"{key}.regex", "must be a text; put it in quotes")
        try:
            return Namespace(re.compile(regex), exclusive)
        except (re.error, RecursionError, OverflowError) as fault:
            raise self._fault(f"{key}.regex", f"is not a regular expression: {fault}") from fault

    def _fault(self, key: str, message: str) -> Misconfigured:
        return Misconfigured(f"{self._file}: '{key}' {message}")
