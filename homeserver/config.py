"""The configuration: frozen sections, checked once, before anything starts.

Each section is a small frozen model, and a part of the server is given its own section only.  The native file is
TOML with one table per section; `Config.from_toml` reads it, `Config.from_mapping` takes the same as a dictionary,
and `Config.load` chooses a reader by the ending of the file name (see `LOADERS`).  Every mistake in a file is
reported at once, with its line, what was expected, and for an unknown key the nearest valid one.

Paths in a file are relative to the folder of the file; defaults lie inside `server.data_dir`.  A setting that is
secret may be kept in a file of its own: the key with `_path` added names it.  Nothing here opens a database or a
socket, and nothing is written.

`python -m homeserver.config --docs` prints docs/configuration.md, made from the models below.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from homeserver.config_findings import at_key, findings_of
from homeserver.config_idle import idle_settings
from homeserver.config_source import (
    MAX_FILE_BYTES,
    ConfigError,
    Finding,
    Problem,
    dotted,
    line_of,
    toml_key_lines,
)
from homeserver.config_stream import Stream
from homeserver.config_values import (
    UNREACHABLE_RANGES,
    Aliases,
    BindAddresses,
    DatabaseUrl,
    DurationMs,
    FilePath,
    FilePaths,
    Name,
    Names,
    Networks,
    Section,
    Size,
    Table,
    Text,
    Texts,
    Url,
)
from homeserver.model.ids import ServerName
from homeserver.model.room_versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS

Loader = Callable[[Path], "Config"]

# Readers of other kinds of configuration files, by ending: "module:function".  They are named, not imported, because
# they stand on top of this package.  Other distributions add theirs as entry points of LOADER_GROUP, named by ending.
LOADERS = {".yaml": "synapse_compat.config_yaml:load", ".yml": "synapse_compat.config_yaml:load"}
LOADER_GROUP = "sennit.config_loaders"


# -- sections --------------------------------------------------------------------------------------------------------


class OldSigningKey(Section):
    """A key that this server once signed with, by key ID such as `ed25519:a1`."""

    key: Text = Field(description="The public key, unpadded base64.")
    expired_ts: int = Field(ge=0, description="When it was last used, milliseconds since 1970.")


class Server(Section):
    """Who this server is and where it keeps its things."""

    name: Name = Field(description="The part after the colon of all user IDs. It can never be changed.")
    public_base_url: Url | None = Field(default=None, description="Where clients reach this server from outside.")
    data_dir: FilePath = Field(default=Path("data"), description="Folder for all that the server stores.")
    signing_key_path: FilePath = Field(default=Path("signing.key"), description="Signing key; made when missing.")
    old_signing_keys: dict[str, OldSigningKey] = Field(default_factory=dict, description="Keys no longer in use.")
    key_refresh_interval_ms: DurationMs = Field(
        default=86_400_000, description="For how long published keys are valid."
    )
    serve_server_wellknown: bool = Field(
        default=False, description="Tell other servers to use port 443 of the server name."
    )
    client_wellknown_extra: Table = Field(default_factory=dict, description="More keys for the client's well-known.")
    admin_contact: Text | None = Field(
        default=None, description="How to reach the operator, shown when a limit is hit."
    )
    pid_file: FilePath | None = Field(default=None, description="File to write the process ID to.")


Resource = Literal["client", "federation", "media", "metrics", "health"]


class Listener(Section):
    """One port and what is served there."""

    port: int = Field(ge=0, le=65535, description="TCP port.")
    bind: BindAddresses = Field(default=("127.0.0.1",), description="Local addresses to listen on.")
    tls_certificate_path: FilePath | None = Field(
        default=None, description="PEM certificate chain; with it, HTTPS is served."
    )
    tls_key_path: FilePath | None = Field(default=None, description="PEM private key of that certificate.")
    x_forwarded: bool = Field(default=False, description="Believe X-Forwarded-For of a reverse proxy.")
    trusted_proxies: Networks = Field(
        default=(), description="Addresses of reverse proxies on other machines; this machine's own are trusted anyway."
    )
    resources: Annotated[tuple[Resource, ...], Field(strict=False, min_length=1)] = Field(
        default=("client", "federation", "media", "health"), description="What is served here."
    )

    @model_validator(mode="after")
    def _both_tls_files(self) -> Self:
        if self.tls_certificate_path is not None and self.tls_key_path is None:
            raise at_key("tls_certificate_path", "needs tls_key_path beside it")
        if self.tls_key_path is not None and self.tls_certificate_path is None:
            raise at_key("tls_key_path", "needs tls_certificate_path beside it")
        return self


class Database(Section):
    """Where events and accounts are stored."""

    url: DatabaseUrl = Field(
        default="sqlite:///sennit.db", repr=False, description="SQLAlchemy URL: sqlite:///file or mysql+pymysql://…"
    )
    url_path: FilePath | None = Field(default=None, description="File that holds the URL, instead of url.")
    pool_size: int = Field(default=4, ge=1, le=200, description="Connections kept open for reading.")


class PasswordPolicy(Section):
    """What a password that a user chooses must look like; `sennit user` takes any."""

    minimum_length: int = Field(default=8, ge=0, le=512, description="Least number of characters.")
    require_digit: bool = Field(default=False, description="A digit is needed.")
    require_symbol: bool = Field(default=False, description="A character that is neither letter nor digit is needed.")
    require_lowercase: bool = Field(default=False, description="A lower-case letter is needed.")
    require_uppercase: bool = Field(default=False, description="An upper-case letter is needed.")


class Registration(Section):
    """Who may make an account, and with which password."""

    enabled: bool = Field(default=False, description="Accounts may be made by clients.")
    requires_token: bool = Field(default=False, description="A registration token is needed for that.")
    without_verification: bool = Field(default=False, description="Say yes to accounts for anybody, spammers included.")
    shared_secret: Text | None = Field(default=None, repr=False, description="Key of the administrative register call.")
    shared_secret_path: FilePath | None = Field(default=None, description="File that holds it; made when missing.")
    guest_access: bool = Field(default=False, description="Guests get an account without a password.")
    bcrypt_rounds: int = Field(default=12, ge=4, le=20, description="Cost of a password hash; one more doubles it.")
    passwords: bool = Field(default=True, description="Password login is offered.")
    password_policy: PasswordPolicy = Field(default=PasswordPolicy(), description="What users may choose as passwords.")
    hide_names_in_use: bool = Field(default=False, description="Do not tell whether a user name is taken.")
    auto_join_rooms: Aliases = Field(default=(), description="Aliases of rooms that new users join.")
    autocreate_auto_join_rooms: bool = Field(default=True, description="Make those rooms when they do not exist.")

    @model_validator(mode="after")
    def _not_open_by_mistake(self) -> Self:
        if self.enabled and not self.requires_token and not self.without_verification:
            raise at_key(
                "enabled",
                "open registration attracts spammers; set requires_token = true beside it,"
                " or without_verification = true if anybody at all may make an account",
            )
        return self


class Sessions(Section):
    """How long a login lasts."""

    access_token_lifetime_ms: DurationMs | None = Field(
        default=None, description="Of clients that cannot refresh; none: ever."
    )
    refreshable_access_token_lifetime_ms: DurationMs = Field(
        default=300_000, description="Of clients that can refresh."
    )
    refresh_token_lifetime_ms: DurationMs | None = Field(
        default=None, description="Of an unused refresh token; none: for ever."
    )
    ui_auth_timeout_ms: DurationMs = Field(default=0, description="For how long a proof of identity may be used again.")


class Rooms(Section):
    """Defaults for new rooms, and who may see the room directory."""

    default_version: Text = Field(default=DEFAULT_ROOM_VERSION, description="Version of new rooms.")
    encrypt_by_default: Literal["all", "invite", "off"] = Field(
        default="off", description='Which new rooms are encrypted; "invite": all but public ones.'
    )
    allow_encryption: bool = Field(
        default=True, description="Local users may encrypt; without it, clients that always do can start no rooms."
    )
    publish_search: bool = Field(default=True, description="Serve the room directory.")
    public_rooms_without_login: bool = Field(default=False, description="The room directory is readable without login.")
    public_rooms_over_federation: bool = Field(default=False, description="Other servers may read the room directory.")
    aliases_need_membership: bool = Field(default=True, description="Only members may make an alias of a room.")

    @model_validator(mode="after")
    def _a_version_that_rooms_can_have(self) -> Self:
        if self.default_version not in ROOM_VERSIONS:
            raise at_key("default_version", f"rooms can have these versions here: {', '.join(ROOM_VERSIONS)}")
        if self.encrypt_by_default != "off" and not self.allow_encryption:
            raise at_key("encrypt_by_default", "rooms cannot be encrypted with allow_encryption = false")
        return self


class Presence(Section):
    """Who is online."""

    enabled: bool = Field(default=True, description="Presence is served.")
    accept_updates: bool = Field(default=True, description="Clients and other servers may change it.")
    last_active_granularity_ms: DurationMs = Field(default=60_000, description="How long somebody counts as active.")
    sync_online_timeout_ms: DurationMs = Field(default=30_000, description="From the last sync to offline.")
    idle_timeout_ms: DurationMs = Field(default=300_000, description="From the last activity to unavailable.")


class UserDirectory(Section):
    """Finding people."""

    enabled: bool = Field(default=True, description="Users can be searched for.")
    search_all_users: bool = Field(
        default=False, description="Everybody known is found, not only those in shared rooms."
    )
    prefer_local_users: bool = Field(default=False, description="Users of this server come first.")


class Profiles(Section):
    """Names and avatars."""

    need_login: bool = Field(default=False, description="Profiles are readable only with a login.")
    need_shared_room: bool = Field(default=False, description="Profiles are readable only to those who share a room.")
    allow_displayname_changes: bool = Field(default=True, description="Users may change their name.")
    allow_avatar_changes: bool = Field(default=True, description="Users may change their avatar.")
    lookup_over_federation: bool = Field(default=True, description="Other servers may ask for profiles.")


class RateLimit(Section):
    """A bucket that holds `burst_count` actions and is refilled with `per_second` of them."""

    per_second: float = Field(gt=0, le=1e9, description="Actions a second in the long run.")
    burst_count: int = Field(ge=1, le=10**9, description="Actions at once.")


class FederationLimit(Section):
    """How fast one other server may send."""

    window_ms: DurationMs = Field(default=1000, description="Length of the window.")
    sleep_limit: int = Field(default=10, ge=1, description="Requests in a window before they are slowed down.")
    sleep_delay_ms: DurationMs = Field(default=500, description="How much they are slowed down.")
    reject_limit: int = Field(default=50, ge=1, description="Waiting requests before more are refused.")
    concurrent: int = Field(default=3, ge=1, description="Requests worked on at once.")


def _rate(per_second: float, burst_count: int, description: str) -> Any:
    return Field(default=RateLimit(per_second=per_second, burst_count=burst_count), description=description)


class Limits(Section):
    """How much and how often.

    A rate is a table `{ per_second = 0.2, burst_count = 10 }`; the half that is left out keeps its default.
    """

    # JSON becomes up to twenty times as large when it is read, and nothing else is done meanwhile.
    max_request_bytes: Size = Field(default=1280 * 1024, ge=65_536, description="Largest JSON request of a client.")
    max_transaction_bytes: Size = Field(
        default=12 * 1024**2, ge=65_536, description="Largest request of another server."
    )
    max_event_bytes: Size = Field(default=65_536, ge=4096, le=65_536, description="Largest event made here.")
    timeline_limit: int = Field(
        default=100, ge=-1, description="Most events in a timeline of sync; -1: no bound of ours."
    )
    message: RateLimit = _rate(0.2, 10, "Sending events, per user.")
    registration: RateLimit = _rate(0.17, 3, "Making accounts, per address.")
    registration_token_validity: RateLimit = _rate(0.1, 5, "Asking whether a token is valid, per address.")
    login_address: RateLimit = _rate(0.003, 5, "Logins, per address.")
    login_account: RateLimit = _rate(0.003, 5, "Logins, per account.")
    login_failed: RateLimit = _rate(0.17, 3, "Failed logins, per account.")
    admin_redaction: RateLimit | None = Field(default=None, description="Redactions of room admins; none: as message.")
    joins_local: RateLimit = _rate(0.1, 10, "Joins of rooms this server is in, per user.")
    joins_remote: RateLimit = _rate(0.01, 10, "Joins of other rooms, per user.")
    joins_per_room: RateLimit = _rate(1, 10, "Joins, per room.")
    invites_per_room: RateLimit = _rate(0.3, 10, "Invites, per room.")
    invites_per_user: RateLimit = _rate(0.003, 5, "Invites, per receiver.")
    invites_per_issuer: RateLimit = _rate(0.3, 10, "Invites, per sender.")
    third_party_invites: RateLimit = _rate(0.2, 10, "Invites by address, per user.")
    third_party_validation: RateLimit = _rate(0.003, 5, "Attempts to confirm an address.")
    room_creation: RateLimit = _rate(0.016, 10, "New rooms, per user.")
    media_create: RateLimit = _rate(10, 50, "Media IDs, per user.")
    remote_media: RateLimit = _rate(5, 500, "Files fetched from other servers, per user (or address).")
    presence: RateLimit = _rate(0.1, 1, "Presence updates, per user.")
    reports: RateLimit = _rate(1, 5, "Reports, per user.")
    connections: RateLimit = _rate(200, 400, "New connections of the stream, all together.")
    user_directory: RateLimit = _rate(0.016, 200, "Searches for users, per user.")
    federation: FederationLimit = Field(default=FederationLimit(), description="How fast one other server may send.")

    @model_validator(mode="before")
    @classmethod
    def _keep_other_half(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        whole = dict(value)
        for name, part in value.items():
            field = cls.model_fields.get(name) if isinstance(name, str) else None
            if isinstance(part, dict) and field is not None and isinstance(field.default, RateLimit):
                whole[name] = {**field.default.model_dump(), **part}
        return whole


class ThumbnailSize(Section):
    """A size that thumbnails are made in."""

    width: int = Field(ge=1, le=4096, description="Pixels.")
    height: int = Field(ge=1, le=4096, description="Pixels.")
    method: Literal["crop", "scale"] = Field(description="crop fills the size, scale fits into it.")


THUMBNAIL_SIZES = (
    ThumbnailSize(width=32, height=32, method="crop"),
    ThumbnailSize(width=96, height=96, method="crop"),
    ThumbnailSize(width=320, height=240, method="scale"),
    ThumbnailSize(width=640, height=480, method="scale"),
    ThumbnailSize(width=800, height=600, method="scale"),
)


class Media(Section):
    """Pictures and files."""

    enabled: bool = Field(default=True, description="Media are served.")
    store_path: FilePath = Field(default=Path("media"), description="Folder of the files.")
    max_upload_bytes: Size = Field(default=50 * 1024**2, ge=1, description="Largest upload.")
    max_user_bytes: Size | None = Field(default=None, ge=1, description="All uploads of one user; none: no bound.")
    max_user_files: int | None = Field(default=None, ge=1, description="Uploads of one user; none: no bound.")
    max_total_bytes: Size | None = Field(default=None, ge=1, description="All uploads together; none: no bound.")
    max_image_pixels: Size = Field(
        default=32 * 1024**2, ge=1, description="Largest picture that thumbnails are made of."
    )
    need_login: bool = Field(default=True, description="New media are served only on the endpoints that need a login.")
    dynamic_thumbnails: bool = Field(default=False, description="Thumbnails of any size are made when asked for.")
    thumbnail_sizes: Annotated[tuple[ThumbnailSize, ...], Field(strict=False, max_length=32)] = Field(
        default=THUMBNAIL_SIZES, description="Sizes that thumbnails are made in."
    )
    allowed_types: Texts | None = Field(
        default=None, description="Only these content types may be uploaded (image/* works)."
    )
    denied_types: Texts = Field(default=(), description="These content types may not be uploaded.")
    max_remote_total_bytes: Size | None = Field(
        default=10 * 1024**3, ge=1, description="Files of other servers kept here; none: all of them."
    )
    blocked_servers: Names = Field(default=(), description="Media are never fetched from these servers.")


class KeyServer(Section):
    """A server that is asked for the keys of others."""

    server_name: Name = Field(description="Its name.")
    verify_keys: dict[str, str] = Field(default_factory=dict, description="Its keys by key ID; none: taken over TLS.")
    accept_keys_insecurely: bool = Field(default=False, description="Do without its signature.")


class Federation(Section):
    """Talking to other servers."""

    enabled: bool = Field(default=True, description="Talk to other servers at all.")
    domain_whitelist: Names | None = Field(default=None, description="Talk to these servers only.")
    verify_certificates: bool = Field(default=True, description="Check the certificates of other servers.")
    unverified_servers: Texts = Field(default=(), description="Servers whose certificates are not checked (* works).")
    ca_files: FilePaths = Field(default=(), description="Certificates of authorities, instead of those of the system.")
    timeout_ms: DurationMs = Field(default=60_000, ge=1, description="Longest time for one request to another server.")
    first_wait_ms: DurationMs = Field(
        default=60_000, ge=1, description="How long a server that does not answer is left alone, then twice as long."
    )
    longest_wait_ms: DurationMs = Field(default=7 * 86_400_000, ge=1, description="The longest time it is left alone.")
    ip_range_denylist: Networks = Field(
        default=UNREACHABLE_RANGES, description="Addresses never contacted by any request."
    )
    ip_range_allowlist: Networks = Field(default=(), description="Exceptions from those.")
    trusted_key_servers: Annotated[tuple[KeyServer, ...], Field(strict=False)] = Field(
        default=(KeyServer(server_name=ServerName("matrix.org")),),
        description="Servers that are asked for the keys of others.",
    )
    device_names_over_federation: bool = Field(default=False, description="Tell other servers the names of devices.")


class Cache(Section):
    """Memory."""

    memory_budget_bytes: Size = Field(default=128 * 1024**2, ge=1024**2, description="For all caches together.")


class Turn(Section):
    """Servers that relay calls."""

    uris: Texts = Field(default=(), description='TURN servers, such as "turn:turn.example.org?transport=udp".')
    shared_secret: Text | None = Field(default=None, repr=False, description="Secret that passwords are made with.")
    shared_secret_path: FilePath | None = Field(default=None, description="File that holds it.")
    username: Text | None = Field(default=None, description="Fixed name, when there is no secret.")
    password: Text | None = Field(default=None, repr=False, description="Fixed password, when there is no secret.")
    user_lifetime_ms: DurationMs = Field(default=3_600_000, ge=1, description="For how long a password is valid.")
    allow_guests: bool = Field(default=True, description="Guests get one too.")


class Appservices(Section):
    """Application services (bridges and bots)."""

    files: FilePaths = Field(default=(), description="Registration files.")


class Metrics(Section):
    """Figures for Prometheus."""

    enabled: bool = Field(default=False, description="Collect them; a listener with the resource metrics serves them.")


LogLevel = Literal["debug", "info", "warning", "error", "critical"]


class Log(Section):
    """What is written about the work."""

    level: LogLevel = Field(default="info", description="Least important that is written.")
    levels: dict[str, LogLevel] = Field(default_factory=dict, description="The same for single loggers, by name.")
    file: FilePath | None = Field(default=None, description="File to write to; none: standard error.")
    dict_config: Table | None = Field(
        default=None, description="Settings of Python's logging.config instead of the above."
    )


class Config(Section):
    """The whole configuration; the only value that knows all sections."""

    server: Server
    listeners: Annotated[tuple[Listener, ...], Field(strict=False)] = Field(
        default=(Listener(port=8008),), description="Ports to serve."
    )
    database: Database = Database()
    registration: Registration = Registration()
    sessions: Sessions = Sessions()
    rooms: Rooms = Rooms()
    presence: Presence = Presence()
    user_directory: UserDirectory = UserDirectory()
    profiles: Profiles = Profiles()
    limits: Limits = Limits()
    stream: Stream = Stream()
    media: Media = Media()
    federation: Federation = Federation()
    cache: Cache = Cache()
    turn: Turn = Turn()
    appservices: Appservices = Appservices()
    metrics: Metrics = Metrics()
    log: Log = Log()

    _source: Path | None = PrivateAttr(default=None)
    _notices: tuple[Problem, ...] = PrivateAttr(default=())

    @property
    def source(self) -> Path | None:
        """The file this was read from, or None."""
        return self._source

    @property
    def notices(self) -> tuple[Problem, ...]:
        """Settings of the file that have no effect on this server, each with its reason; in order of lines."""
        return self._notices

    @property
    def tls_listener(self) -> Listener | None:
        """The first listener with a certificate, or None."""
        return next((listener for listener in self.listeners if listener.tls_certificate_path is not None), None)

    @classmethod
    def load(cls, path: Path | str) -> Config:
        """Return the configuration in a file of any known kind, chosen by its ending; raises ConfigError."""
        path = Path(path)
        ending = path.suffix.lower()
        if ending in ("", ".toml", ".conf"):
            return cls.from_toml(path)
        return _loader_for(path)(path)

    @classmethod
    def from_toml(cls, path: Path | str) -> Config:
        """Return the configuration in a TOML file; raises ConfigError with every mistake in it."""
        path = Path(path)
        text = read_config_text(path)
        try:
            mapping = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
            line, message = (int(found[2]), found[1]) if found else (text.count("\n") + 1, str(error))
            raise ConfigError(str(path), [Problem(line, "", f"this is not TOML: {message}")]) from None
        except (ValueError, RecursionError):
            # A number of thousands of digits, or brackets nested thousands of times.
            raise ConfigError(str(path), [Problem(None, "", "this is not TOML that can be read")]) from None
        config, findings = read_sections(mapping, path.absolute().parent)
        lines = toml_key_lines(text)
        problems = [
            Problem(line_of(lines, each.location), dotted(each.location), each.message)
            for each in (findings if config is None else idle_settings(config))
        ]
        if config is None:
            raise ConfigError(str(path), problems)
        return config.with_notices(path, tuple(sorted(problems, key=lambda notice: notice.line or 0)))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], base_dir: Path | None = None) -> Config:
        """Return the configuration in a dictionary of sections; paths are relative to `base_dir`, else to here."""
        config, findings = read_sections(mapping, (base_dir or Path()).absolute())
        if config is None:
            raise ConfigError(
                "configuration", [Problem(None, dotted(each.location), each.message) for each in findings]
            )
        return config

    @classmethod
    def default(cls, data_dir: Path, server_name: str = "localhost") -> Config:
        """Return what the server runs with when there is no file: accounts by token, all things in `data_dir`."""
        return cls.from_mapping(
            {
                "server": {"name": server_name, "data_dir": str(data_dir.absolute())},
                "registration": {"enabled": True, "requires_token": True},
            }
        )

    def with_section(self, name: str, section: Section) -> Config:
        """Return the same settings with one section replaced."""
        copy = self.model_copy(update={name: section})
        copy._source, copy._notices = self._source, self._notices
        return copy

    def with_notices(self, source: Path, notices: tuple[Problem, ...]) -> Config:
        """Return the same settings, remembering the file they come from and what in it has no effect."""
        copy = self.model_copy()
        copy._source, copy._notices = source, notices
        return copy

    @model_validator(mode="after")
    def _ports_of_their_own_for_lines(self) -> Self:
        taken = {listener.port for listener in self.listeners}
        for key in ("lines_port", "lines_tls_port"):
            port = getattr(self.stream, key)
            if port and port in taken:
                raise at_key(f"stream.{key}", f"one of [[listeners]] has port {port} already")
            if port is not None and not self.stream.enabled:
                raise at_key(f"stream.{key}", "nothing would be served there, as stream.enabled is false")
        return self

    @model_validator(mode="after")
    def _a_certificate_for_lines(self) -> Self:
        if self.stream.lines_tls_port is not None and self.tls_listener is None:
            raise at_key(
                "stream.lines_tls_port",
                "needs a certificate: set tls_certificate_path and tls_key_path in one of [[listeners]],"
                " or use lines_port, which is without TLS",
            )
        return self

    @model_validator(mode="after")
    def _defaults_into_data_dir(self, info: ValidationInfo) -> Self:
        # Paths that were given are absolute by now; those still relative are defaults.
        base = info.context.get("base_dir") if info.context else None
        data_dir = Path(base or "", self.server.data_dir).absolute()
        sections: dict[str, dict[str, object]] = {
            "server": {"data_dir": data_dir, "signing_key_path": data_dir / self.server.signing_key_path},
            "media": {"store_path": data_dir / self.media.store_path},
        }
        if self.database.url == Database.model_fields["url"].default:
            sections["database"] = {"url": f"sqlite:///{data_dir / 'sennit.db'}"}
        for name, values in sections.items():
            self.__dict__[name] = getattr(self, name).model_copy(update=values)
        return self


def changed_keys(old: Config, new: Config) -> list[str]:
    """Return the keys, such as `rooms.default_version`, whose values differ; but for logging, which is read again."""
    found: list[str] = []
    for name in Config.model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if before == after or name == "log":
            continue
        if isinstance(before, Section):
            keys = [key for key in type(before).model_fields if getattr(before, key) != getattr(after, key)]
            found += [f"{name}.{key}" for key in keys]
        else:
            found.append(name)
    return found


def read_config_text(path: Path) -> str:
    """Return the text of a configuration file, or raise ConfigError saying why it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(str(path), [Problem(None, "", "there is no such file")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Problem(None, "", f"cannot be read: {error.strerror}")]) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(str(path), [Problem(None, "", "is over 1 MiB; is it the right file?")])
    try:
        # Like tomllib and PyYAML, take the line ends of any system.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), [Problem(line, "", "is not UTF-8 text")]) from None


def read_sections(mapping: Mapping[str, Any], base_dir: Path) -> tuple[Config | None, list[Finding]]:
    """Check a dictionary of sections; return the configuration and no findings, or None and all findings."""
    filled, findings = _with_secrets_from_files(mapping, base_dir)
    config = None
    try:
        config = Config.model_validate(filled, context={"base_dir": base_dir})
    except ValidationError as error:
        findings += findings_of(Config, error)
    return (None if findings else config), findings


def render_default_toml(
    server_name: str,
    *,
    database_url: str | None = None,
    bind: str = "127.0.0.1",
    port: int = 8008,
    open_registration: bool = False,
) -> str:
    """Return the text of the ten-line file that `sennit init` writes."""
    registration = "without_verification = true  # anybody" if open_registration else "requires_token = true"
    database = _toml_text(database_url) if database_url else '"sqlite:///data/sennit.db"'
    return (
        f"[server]\nname = {_toml_text(server_name)}  # can never be changed\n"
        f"[[listeners]]\nport = {port}\nbind = [{_toml_text(bind)}]\n"
        f"[database]\nurl = {database}\n"
        f"[registration]\nenabled = true\n{registration}\n"
    )


# -- files beside the file -----------------------------------------------------------------------------------

_SECRET_FILES = (("registration", "shared_secret"), ("turn", "shared_secret"), ("database", "url"))
_MAX_SECRET_BYTES = 65_536


def _with_secrets_from_files(mapping: Mapping[str, Any], base_dir: Path) -> tuple[dict[str, Any], list[Finding]]:
    filled = dict(mapping)
    findings: list[Finding] = []
    for section_name, key in _SECRET_FILES:
        section = filled.get(section_name)
        path_key = f"{key}_path"
        if not isinstance(section, Mapping) or not isinstance(section.get(path_key), str):
            continue
        location = (section_name, path_key)
        if key in section:
            findings.append(Finding(location, f"give either {key} or {path_key}, not both"))
            continue
        path = Path(base_dir, section[path_key])
        try:
            with path.open("rb") as file:
                secret = file.read(_MAX_SECRET_BYTES).decode().strip()
        except FileNotFoundError as error:
            # The first start makes this one (homeserver/first_run.py).
            if location != ("registration", "shared_secret_path"):
                findings.append(Finding(location, f"{path} cannot be read: {error.strerror}"))
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            findings.append(Finding(location, f"{path} cannot be read: {reason}"))
            continue
        if not secret:
            findings.append(Finding(location, f"{path} is empty"))
            continue
        filled[section_name] = {**section, key: secret}
    return filled, findings


def _loader_for(path: Path) -> Loader:
    ending = path.suffix.lower()
    if ending in LOADERS:
        module, _, function = LOADERS[ending].partition(":")
        loader: Loader = getattr(importlib.import_module(module), function)
        return loader
    for entry_point in importlib.metadata.entry_points(group=LOADER_GROUP):
        if f".{entry_point.name}" == ending:
            loader = entry_point.load()
            return loader
    known = ", ".join([".toml", *LOADERS])
    raise ConfigError(str(path), [Problem(None, "", f"a configuration file ends in one of {known}")])


def _toml_text(text: str) -> str:
    escaped = "".join(
        f"\\u{ord(character):04x}" if ord(character) < 32 or ord(character) == 127 else character
        for character in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'


if __name__ == "__main__":
    import sys

    from homeserver.config_docs import main

    sys.exit(main(sys.argv[1:]))
