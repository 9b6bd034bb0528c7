"""A Synapse homeserver.yaml, read into the native configuration.

`SETTINGS` has one row for each key that works here: where its value goes and how it is changed on the way.  What is
left is told by name, never dropped in silence: a key of Synapse that this server does not support becomes a notice
(unless its value is the default, which changes nothing), one that must not be ignored is refused with what to do, and
a key that Synapse does not know either is a mistake with the nearest valid key beside it.

COMPAT(synapse): relative paths are relative to the folder the server is started in, as they are there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeserver.config import Config, read_sections
from homeserver.config_idle import idle_settings
from homeserver.config_source import ConfigError, Location, Problem, dotted, line_of, nearest

from .config_keys import KNOWN_KEYS
from .log_config import read_log_config
from .yaml_source import YamlDocument, read_yaml


def load(path: Path) -> Config:
    """Return the configuration in a Synapse homeserver.yaml; raises ConfigError with every mistake in it.

    `Config.notices` of the result names each key that has no effect on this server, with its line and the reason.
    """
    return _Conversion(read_yaml(path)).config()


# -- how values change on the way ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the value of one key goes: a native key, or several by `spread`."""

    target: str = ""
    convert: Callable[[Any], Any] | None = None
    spread: Callable[[Any, _Conversion], dict[str, Any]] | None = None


def _rate(value: Any) -> Any:
    """Synapse writes `burst_count` as a number that may have a fraction."""
    burst = value.get("burst_count") if isinstance(value, dict) else None
    return {**value, "burst_count": max(1, int(burst))} if isinstance(burst, float) and math.isfinite(burst) else value


def _lifetime(value: Any) -> Any:
    return None if value == "infinity" else value


def _wildcard_free(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _presence(value: Any, _: _Conversion) -> dict[str, Any]:
    if value == "untracked":
        return {"presence.enabled": True, "presence.accept_updates": False}
    return {"presence.enabled": value}


def _passwords(value: Any, conversion: _Conversion) -> dict[str, Any]:
    if conversion.native.get("registration", {}).get("passwords") is False:
        # Either of the two keys is enough to refuse them.
        return {}
    if value == "only_for_reauth":
        conversion.notice(("password_config", "enabled"), "only_for_reauth is not supported; passwords are refused")
        return {"registration.passwords": False}
    return {"registration.passwords": value}


def _password_policy(value: Any, _: _Conversion) -> dict[str, Any]:
    if not isinstance(value, dict) or not value.get("enabled", False):
        return {}
    names = ("minimum_length", "require_digit", "require_symbol", "require_lowercase", "require_uppercase")
    return {f"registration.password_policy.{name}": value[name] for name in names if value.get(name) is not None}


def _ui_auth(value: Any, _: _Conversion) -> dict[str, Any]:
    timeout = value.get("session_timeout") if isinstance(value, dict) else value
    return {} if timeout is None else {"sessions.ui_auth_timeout_ms": timeout}


def _log_config(value: Any, conversion: _Conversion) -> dict[str, Any]:
    if not isinstance(value, str):
        conversion.problem(("log_config",), "expected the path of a YAML file")
        return {}
    try:
        return {"log.dict_config": read_log_config(Path(conversion.base_dir, value))}
    except ConfigError as error:
        for problem in error.problems:
            conversion.problem(("log_config",), f"{value}: {problem}")
        return {}


def _key_servers(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {key: part for key, part in each.items() if part is not None} if isinstance(each, dict) else each
        for each in value
    ]


# COMPAT(synapse): it believes whoever connects. Proxies are on this machine or in a private network, such as that of
# the containers; anybody else is not a proxy.
_PROXIES = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10"]

# What the names of Synapse's resources mean here; an empty one is always served or not needed.
_RESOURCES = {
    "client": ("client", "media"),
    "federation": ("federation", "media"),
    "media": ("media",),
    "keys": ("federation",),
    "openid": ("federation",),
    "metrics": ("metrics",),
    "health": (),
    "static": (),
}


def _listeners(value: Any, conversion: _Conversion) -> dict[str, Any]:
    if not isinstance(value, list):
        return {"listeners": value}
    converted: list[dict[str, Any]] = []
    for index, listener in enumerate(value):
        if not isinstance(listener, dict):
            conversion.problem(("listeners", index), "expected a mapping with port, type and resources")
            continue
        native = _listener(listener, ("listeners", index), conversion)
        if native is not None:
            conversion.origins[("listeners", len(converted))] = ("listeners", index)
            converted.append(native)
    return {"listeners": converted}


def _listener(listener: dict[str, Any], location: Location, conversion: _Conversion) -> dict[str, Any] | None:
    kind = listener.get("type", "http")
    if kind == "manhole":
        conversion.notice((*location, "type"), "there is no manhole; the listener is left out")
        return None
    if kind not in ("http", "metrics"):
        conversion.problem((*location, "type"), "expected http or metrics")
        return None
    if "port" not in listener:
        conversion.problem(location, "has no port; Unix sockets are not supported")
        return None
    native: dict[str, Any] = {"port": listener["port"]}
    addresses = listener.get("bind_addresses")
    single = listener.get("bind_address")
    if addresses is None:
        addresses = [single] if single else ["::", "0.0.0.0"]
    native["bind"] = addresses
    if listener.get("x_forwarded") is not None:
        native["x_forwarded"] = listener["x_forwarded"]
        if listener["x_forwarded"] is True:
            native["trusted_proxies"] = _PROXIES
    native["resources"] = ["metrics"] if kind == "metrics" else _resources(listener, location, conversion)
    if listener.get("tls") is True:
        for here, there in (("tls_certificate_path", "tls_certificate_path"), ("tls_key_path", "tls_private_key_path")):
            if conversion.whole.get(there) is None:
                conversion.problem((*location, "tls"), f"needs {there}")
            else:
                native[here] = conversion.whole[there]
    elif listener.get("tls") not in (None, False):
        conversion.problem((*location, "tls"), "expected true or false")
    return native


def _resources(listener: dict[str, Any], location: Location, conversion: _Conversion) -> list[str]:
    served: dict[str, None] = {}
    groups = listener.get("resources")
    for index, group in enumerate(groups if isinstance(groups, list) else []):
        names = group.get("names") if isinstance(group, dict) else None
        place = (*location, "resources", index)
        if isinstance(names, str):
            names = [names]
        if not isinstance(names, list):
            conversion.problem(place, "expected a list of names")
            continue
        for name in names:
            if not isinstance(name, str):
                conversion.problem((*place, "names"), "expected a list of names")
            elif name in ("consent", "replication"):
                conversion.notice((*place, "names"), f"{name} is not supported and not served")
            elif name not in _RESOURCES:
                close = nearest(name, _RESOURCES)
                meant = f'; did you mean "{close}"?' if close else ""
                conversion.problem((*place, "names"), f'there is no resource "{name[:40]}"{meant}')
            else:
                served.update(dict.fromkeys(_RESOURCES[name]))
        if isinstance(group, dict) and group.get("compress") is True:
            conversion.notice((*place, "compress"), "is not supported; leave it to a reverse proxy")
    return [*served, "health"]


def _database(value: Any, conversion: _Conversion) -> dict[str, Any]:
    """A Synapse database is never opened, because its tables are not ours; only `url` says which one is."""
    if not isinstance(value, dict):
        conversion.problem(("database",), "expected `url:` with an SQLAlchemy URL inside")
        return {}
    if value.get("name") is not None:
        name = str(value["name"])[:20]
        conversion.problem(
            ("database", "name"),
            f"{name} names Synapse's own database, whose tables this server cannot use and will not touch."
            " Remove name and args, and write `url:` with an SQLAlchemy URL for a database of this server's own,"
            " such as sqlite:////var/lib/sennit/sennit.db or mysql+pymysql://user:password@host/sennit",
        )
        return {}
    if value.get("url") is None:
        conversion.problem(("database",), "needs `url:` with an SQLAlchemy URL, such as sqlite:////path/sennit.db")
        return {}
    native = {"database.url": value["url"]}
    arguments = value.get("args")
    if isinstance(arguments, dict):
        for key, part in arguments.items():
            if key == "cp_max":
                native["database.pool_size"] = part
            else:
                conversion.notice(("database", "args", key), "is not supported; drivers take options in the url")
    return native


# -- one row for each key that works ---------------------------------------------------------------------------------

SETTINGS: dict[str, Setting] = {
    "server_name": Setting("server.name"),
    "public_baseurl": Setting("server.public_base_url"),
    "serve_server_wellknown": Setting("server.serve_server_wellknown"),
    "extra_well_known_client_content": Setting("server.client_wellknown_extra"),
    "pid_file": Setting("server.pid_file"),
    "admin_contact": Setting("server.admin_contact"),
    "signing_key_path": Setting("server.signing_key_path"),
    "old_signing_keys": Setting("server.old_signing_keys"),
    "key_refresh_interval": Setting("server.key_refresh_interval_ms"),
    "listeners": Setting(spread=_listeners),
    "database": Setting(spread=_database),
    "log_config": Setting(spread=_log_config),
    "presence.enabled": Setting(spread=_presence),
    "presence.last_active_granularity": Setting("presence.last_active_granularity_ms"),
    "presence.sync_online_timeout": Setting("presence.sync_online_timeout_ms"),
    "presence.idle_timeout": Setting("presence.idle_timeout_ms"),
    "require_auth_for_profile_requests": Setting("profiles.need_login"),
    "limit_profile_requests_to_users_who_share_rooms": Setting("profiles.need_shared_room"),
    "enable_set_displayname": Setting("profiles.allow_displayname_changes"),
    "enable_set_avatar_url": Setting("profiles.allow_avatar_changes"),
    "allow_profile_lookup_over_federation": Setting("profiles.lookup_over_federation"),
    "allow_public_rooms_without_auth": Setting("rooms.public_rooms_without_login"),
    "allow_public_rooms_over_federation": Setting("rooms.public_rooms_over_federation"),
    "default_room_version": Setting("rooms.default_version", str),
    "encryption_enabled_by_default_for_room_type": Setting("rooms.encrypt_by_default"),
    "enable_room_list_search": Setting("rooms.publish_search"),
    "require_membership_for_aliases": Setting("rooms.aliases_need_membership"),
    "user_directory.enabled": Setting("user_directory.enabled"),
    "user_directory.search_all_users": Setting("user_directory.search_all_users"),
    "user_directory.prefer_local_users": Setting("user_directory.prefer_local_users"),
    "enable_registration": Setting("registration.enabled"),
    "enable_registration_without_verification": Setting("registration.without_verification"),
    "registration_requires_token": Setting("registration.requires_token"),
    "registration_shared_secret": Setting("registration.shared_secret"),
    "registration_shared_secret_path": Setting("registration.shared_secret_path"),
    "allow_guest_access": Setting("registration.guest_access"),
    "bcrypt_rounds": Setting("registration.bcrypt_rounds"),
    "inhibit_user_in_use_error": Setting("registration.hide_names_in_use"),
    "auto_join_rooms": Setting("registration.auto_join_rooms"),
    "autocreate_auto_join_rooms": Setting("registration.autocreate_auto_join_rooms"),
    "password_config.enabled": Setting(spread=_passwords),
    # All passwords are in the local database here.
    "password_config.localdb_enabled": Setting(spread=_passwords),
    "password_config.policy": Setting(spread=_password_policy),
    "nonrefreshable_access_token_lifetime": Setting("sessions.access_token_lifetime_ms", _lifetime),
    "session_lifetime": Setting("sessions.access_token_lifetime_ms", _lifetime),
    "refreshable_access_token_lifetime": Setting("sessions.refreshable_access_token_lifetime_ms"),
    "refresh_token_lifetime": Setting("sessions.refresh_token_lifetime_ms", _lifetime),
    "ui_auth": Setting(spread=_ui_auth),
    "filter_timeline_limit": Setting("limits.timeline_limit"),
    "rc_message": Setting("limits.message", _rate),
    "rc_registration": Setting("limits.registration", _rate),
    "rc_registration_token_validity": Setting("limits.registration_token_validity", _rate),
    "rc_login.address": Setting("limits.login_address", _rate),
    "rc_login.account": Setting("limits.login_account", _rate),
    "rc_login.failed_attempts": Setting("limits.login_failed", _rate),
    "rc_admin_redaction": Setting("limits.admin_redaction", _rate),
    "rc_joins.local": Setting("limits.joins_local", _rate),
    "rc_joins.remote": Setting("limits.joins_remote", _rate),
    "rc_joins_per_room": Setting("limits.joins_per_room", _rate),
    "rc_3pid_validation": Setting("limits.third_party_validation", _rate),
    "rc_invites.per_room": Setting("limits.invites_per_room", _rate),
    "rc_invites.per_user": Setting("limits.invites_per_user", _rate),
    "rc_invites.per_issuer": Setting("limits.invites_per_issuer", _rate),
    "rc_third_party_invite": Setting("limits.third_party_invites", _rate),
    "rc_media_create": Setting("limits.media_create", _rate),
    "rc_presence.per_user": Setting("limits.presence", _rate),
    "rc_reports": Setting("limits.reports", _rate),
    "rc_room_creation": Setting("limits.room_creation", _rate),
    "rc_user_directory": Setting("limits.user_directory", _rate),
    "rc_federation.window_size": Setting("limits.federation.window_ms"),
    "rc_federation.sleep_limit": Setting("limits.federation.sleep_limit"),
    "rc_federation.sleep_delay": Setting("limits.federation.sleep_delay_ms"),
    "rc_federation.reject_limit": Setting("limits.federation.reject_limit"),
    "rc_federation.concurrent": Setting("limits.federation.concurrent"),
    "enable_media_repo": Setting("media.enabled"),
    "enable_authenticated_media": Setting("media.need_login"),
    "media_store_path": Setting("media.store_path"),
    "max_upload_size": Setting("media.max_upload_bytes"),
    "max_image_pixels": Setting("media.max_image_pixels"),
    "dynamic_thumbnails": Setting("media.dynamic_thumbnails"),
    "thumbnail_sizes": Setting("media.thumbnail_sizes"),
    "prevent_media_downloads_from": Setting("media.blocked_servers"),
    "federation_domain_whitelist": Setting("federation.domain_whitelist"),
    "federation_verify_certificates": Setting("federation.verify_certificates"),
    "federation_certificate_verification_whitelist": Setting("federation.unverified_servers"),
    "federation_custom_ca_list": Setting("federation.ca_files"),
    "federation.client_timeout": Setting("federation.timeout_ms"),
    "allow_device_name_lookup_over_federation": Setting("federation.device_names_over_federation"),
    "ip_range_blacklist": Setting("federation.ip_range_denylist"),
    "ip_range_whitelist": Setting("federation.ip_range_allowlist"),
    "trusted_key_servers": Setting("federation.trusted_key_servers", _key_servers),
    "caches.cache_autotuning.max_cache_memory_usage": Setting("cache.memory_budget_bytes"),
    "turn_uris": Setting("turn.uris", _wildcard_free),
    "turn_shared_secret": Setting("turn.shared_secret"),
    "turn_shared_secret_path": Setting("turn.shared_secret_path"),
    "turn_username": Setting("turn.username"),
    "turn_password": Setting("turn.password"),
    "turn_user_lifetime": Setting("turn.user_lifetime_ms"),
    "turn_allow_guests": Setting("turn.allow_guests"),
    "app_service_config_files": Setting("appservices.files"),
    "enable_metrics": Setting("metrics.enabled"),
}

# Read together with another key, or true here without being asked.
FULFILLED = frozenset(
    {
        "tls_certificate_path",
        "tls_private_key_path",
        "suppress_key_server_warning",
        "experimental_features.msc4222_enabled",
        "experimental_features.msc4133_enabled",
        "experimental_features.msc3814_enabled",
        # For each application service whose registration says so.
        "experimental_features.msc2409_to_device_messages_enabled",
        "experimental_features.msc3202_transaction_extensions",
    }
)

# Not needed here; said as a notice, so that nobody waits for an effect.
POINTLESS = {
    "report_stats": "nothing is ever reported",
    "macaroon_secret_key": "is not needed; access tokens are random",
    "macaroon_secret_key_path": "is not needed; access tokens are random",
    "form_secret": "is not needed",
    "form_secret_path": "is not needed",
    "event_cache_size": "is not needed; there is one memory budget for all caches",
    "caches.global_factor": "is not needed; there is one memory budget, caches.cache_autotuning.max_cache_memory_usage",
}

# To ignore one of these would change who may come in, or what the server is; so the operator has to decide.
REFUSED = {
    "modules": "modules are not supported; remove them to go on without",
    "password_providers": "password providers are not supported; remove them to go on without",
    "spam_checker": "spam checkers are not supported; remove it to go on without",
    "third_party_event_rules": "event rules are not supported; remove it to go on without",
    "matrix_authentication_service.enabled": "logins cannot be delegated; set it to false to use this server's own",
    "signing_key": "write the key into a file and name it in signing_key_path",
    "databases": "there is one database; write `database:` with an SQLAlchemy URL in `url:`",
    "worker_app": "this file belongs to a worker process of Synapse; this server takes the main file",
    "hs_disabled": "is not supported; stop the server instead",
}

# Keys of this server's own, and old spellings that Synapse takes without listing them.
_MORE_KNOWN = {"database.url": None, "listeners[].bind_address": None}
_ALL_KNOWN: dict[str, object] = {**KNOWN_KEYS, **_MORE_KNOWN}
_OPEN_REGISTRATION = (
    "open registration attracts spammers; set registration_requires_token: true as well,"
    " or enable_registration_without_verification: true if anybody at all may make an account"
)


# -- the conversion --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Conversion:
    """One file on its way to the native sections."""

    document: YamlDocument
    base_dir: Path = field(default_factory=lambda: Path().absolute())
    native: dict[str, Any] = field(default_factory=dict)
    # Which place of the file a native place was filled from.
    origins: dict[Location, Location] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notices: list[Problem] = field(default_factory=list)

    @property
    def whole(self) -> Mapping[str, Any]:
        return self.document.mapping

    def problem(self, location: Location, message: str) -> None:
        # A key that is unknown to the walk is so again to the native section that was given the whole table.
        if any(problem.key == dotted(location) for problem in self.problems):
            return
        self.problems.append(Problem(line_of(self.document.lines, location), dotted(location), message))

    def notice(self, location: Location, message: str) -> None:
        self.notices.append(Problem(line_of(self.document.lines, location), dotted(location), message))

    def config(self) -> Config:
        self._put_defaults()
        self._walk(self.whole, (), "")
        config, findings = read_sections(self.native, self.base_dir)
        for each in findings:
            location = self._origin(each.location)
            message = (
                _OPEN_REGISTRATION
                if each.location == ("registration", "enabled") and each.message.startswith("open registration")
                else each.message
            )
            self.problem(location, message)
        if config is None or self.problems:
            raise ConfigError(str(self.document.path), self.problems)
        for each in idle_settings(config):
            self.notice(self._origin(each.location), each.message)
        notices = tuple(sorted(self.notices, key=lambda notice: notice.line or 0))
        return config.with_notices(self.document.path, notices)

    def _put_defaults(self) -> None:
        """Fill in where Synapse's defaults differ from ours."""
        self._put("server.data_dir", str(self.base_dir), ())
        name = self.whole.get("server_name")
        if isinstance(name, str):
            folder = self.document.path.absolute().parent
            self._put("server.signing_key_path", str(folder / f"{name}.signing.key"), ("server_name",))
        self._put("media.store_path", "media_store", ())
        self._put("registration.password_policy.minimum_length", 0, ())

    def _put(self, target: str, value: Any, origin: Location) -> None:
        names = target.split(".")
        table = self.native
        for name in names[:-1]:
            table = table.setdefault(name, {})
        table[names[-1]] = value
        self.origins[tuple(names)] = origin

    def _origin(self, location: Location) -> Location:
        for length in range(len(location), 0, -1):
            origin = self.origins.get(location[:length])
            if origin is not None:
                rest = tuple(_YAML_NAMES.get(str(part), part) for part in location[length:])
                return (*origin, *rest)
        # A missing key, such as server.name, is told by its name in this kind of file.
        name = next((key for key, row in SETTINGS.items() if row.target == dotted(location)), dotted(location))
        return tuple(name.split("."))

    def _walk(self, table: Mapping[str, Any], location: Location, prefix: str) -> None:
        for key, value in table.items():
            here = (*location, key)
            name = _known_name(prefix, key)
            if name is None:
                self.problem(here, f"there is no such key{_suggestion(prefix, key)}")
            elif value is not None:
                self._one(name, value, here)

    def _one(self, name: str, value: Any, location: Location) -> None:
        row = SETTINGS.get(name)
        if row is not None:
            self._apply(row, value, location)
        elif name in REFUSED:
            if value:
                self.problem(location, REFUSED[name])
            return
        elif name in POINTLESS:
            if value:
                self.notice(location, POINTLESS[name])
            return
        if _has_children(name):
            self._children(name, value, location, told=row is not None)
        elif row is None and name not in FULFILLED and not _in_rows(name):
            default = _ALL_KNOWN[name]
            # Of a key whose default is not known, nothing and false are taken for it.
            if (value or default) and value != default:
                self.notice(location, "is not supported; it has no effect")

    def _apply(self, row: Setting, value: Any, location: Location) -> None:
        if row.spread is not None:
            for target, part in row.spread(value, self).items():
                self._put(target, part, location)
            return
        converted = row.convert(value) if row.convert is not None else value
        if converted is not None:
            self._put(row.target, converted, location)

    def _children(self, name: str, value: Any, location: Location, *, told: bool) -> None:
        if isinstance(value, dict):
            self._walk(value, location, name)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    self._walk(item, (*location, index), f"{name}[]")
        elif not told:
            self.problem(location, "expected further keys inside")


# Native names inside a value that was taken over whole, where the file has another.
_YAML_NAMES = {"bind": "bind_addresses", "tls_key_path": "tls"}


def _children_of(prefix: str) -> list[str]:
    """Return the names that may stand inside a key; `*` or braces for any name."""
    start = f"{prefix}." if prefix else ""
    names = (key[len(start) :] for key in _ALL_KNOWN if key.startswith(start))
    return list(dict.fromkeys(_first_part(name) for name in names if name))


def _first_part(name: str) -> str:
    return name.partition(".")[0].removesuffix("[]")


def _has_children(name: str) -> bool:
    return any(key.startswith((f"{name}.", f"{name}[].")) for key in _ALL_KNOWN)


def _known_name(prefix: str, key: str) -> str | None:
    """Return the name under which a key is listed, or None."""
    start = f"{prefix}." if prefix else ""
    children = _children_of(prefix)
    if key in children and "." not in key:
        return f"{start}{key}"
    free = next((child for child in children if child == "*" or child.startswith("{")), None)
    return f"{start}{free}" if free is not None else None


# Inside of keys whose rows take the whole value, these are left over.
_LEFT_OVER = (
    "listeners[].tag",
    "listeners[].request_id_header",
    "listeners[].additional_resources",
    "listeners[].path",
    "listeners[].mode",
    "database.txn_limit",
    "database.allow_unsafe_locale",
)


def _in_rows(name: str) -> bool:
    """Tell whether a key stands inside one whose row takes care of it."""
    if name.startswith(_LEFT_OVER):
        return False
    parts = name.split(".")
    return any(".".join(parts[:length]).removesuffix("[]") in SETTINGS for length in range(1, len(parts)))


def _suggestion(prefix: str, key: str) -> str:
    close = nearest(key, _children_of(prefix))
    return f'; did you mean "{close}"?' if close is not None else ""
