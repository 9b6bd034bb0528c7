"""A Synapse homeserver.yaml: every key either works, or is told by name with its line."""

from __future__ import annotations

import logging.config
from pathlib import Path

import pytest

from homeserver.config import Config
from homeserver.config_findings import section_in
from homeserver.config_source import ConfigError
from synapse_compat.config_keys import KNOWN_KEYS
from synapse_compat.config_yaml import FULFILLED, POINTLESS, REFUSED, SETTINGS, load

NAME = "server_name: example.org\n"  # Line 1.

# What a server of any size has in its file and this one cannot do yet; it is told as a notice.
NOT_YET = ("email", "oidc_providers", "url_preview_enabled", "url_preview_ip_range_blacklist")


def _load(folder: Path, text: str, name: str = "homeserver.yaml") -> Config:
    path = folder / name
    path.write_text(text)
    return load(path)


def _problems(folder: Path, text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as raised:
        _load(folder, text)
    return [(problem.line, problem.key, problem.message) for problem in raised.value.problems]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_name_alone_is_enough(tmp_path: Path) -> None:
    config = _load(tmp_path, NAME)
    assert "example.org" == config.server.name
    assert tmp_path / "example.org.signing.key" == config.server.signing_key_path
    assert tmp_path / "media_store" == config.media.store_path
    assert f"sqlite:///{tmp_path}/sennit.db" == config.database.url
    assert () == config.notices
    assert tmp_path / "homeserver.yaml" == config.source


def test_the_ending_of_the_name_chooses_the_reader(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.YML"):
        (tmp_path / name).write_text(NAME)
        assert "example.org" == Config.load(tmp_path / name).server.name


FULL = """\
server_name: "example.org"
public_baseurl: https://matrix.example.org/
pid_file: /run/s.pid
serve_server_wellknown: true
presence:
  enabled: untracked
  idle_timeout: 10m
allow_public_rooms_over_federation: true
default_room_version: 11
tls_certificate_path: /tls/cert.pem
tls_private_key_path: /tls/key.pem
listeners:
  - port: 8448
    tls: true
    bind_addresses: ["::1", "127.0.0.1"]
    x_forwarded: true
    type: http
    resources:
      - names: [client, federation]
        compress: false
  - {port: 9000, type: metrics, bind_addresses: ["127.0.0.1"]}
  - {port: 9001, type: http, resources: [{names: [health]}]}
database:
  url: mysql+pymysql://u:p@h/d
  args: {cp_max: 9}
rc_message: {per_second: 1000, burst_count: 1000.0}
rc_login: {address: {per_second: 5}, failed_attempts: {burst_count: 7}}
rc_joins: {remote: {per_second: 2, burst_count: 3}}
rc_invites: {per_issuer: {per_second: 4, burst_count: 5}}
rc_federation: {concurrent: 8, window_size: 2000}
enable_authenticated_media: false
media_store_path: media
max_upload_size: 20M
turn_uris: [turn:a]
turn_shared_secret: hush
enable_registration: true
registration_requires_token: true
registration_shared_secret: "secret"
bcrypt_rounds: 4
allow_guest_access: true
auto_join_rooms: ["#a:example.org"]
password_config: {policy: {enabled: true, minimum_length: 15, require_digit: true}}
enable_metrics: true
report_stats: false
app_service_config_files: [a.yaml, /b.yaml]
signing_key_path: keys/k
old_signing_keys: {"ed25519:o": {key: AAAA, expired_ts: 5}}
trusted_key_servers:
  - server_name: matrix.org
    verify_keys: {"ed25519:auto": BBBB}
  - {server_name: other.org, verify_keys: null, accept_keys_insecurely: true}
suppress_key_server_warning: true
federation_domain_whitelist: [a.org]
federation_verify_certificates: false
ip_range_blacklist: [10.0.0.0/8]
ip_range_whitelist: ["10.1.0.0/16"]
refresh_token_lifetime: infinity
refreshable_access_token_lifetime: 10m
encryption_enabled_by_default_for_room_type: all
user_directory: {search_all_users: true}
caches: {cache_autotuning: {max_cache_memory_usage: 200M}}
"""


def test_a_full_file_with_notices_only_of_what_is_not_there_yet(tmp_path: Path) -> None:
    config = _load(tmp_path, FULL)
    assert {"has no effect yet"} == {notice.message.partition(":")[0] for notice in config.notices}
    assert "https://matrix.example.org" == config.server.public_base_url
    assert Path("/run/s.pid") == config.server.pid_file
    assert config.server.serve_server_wellknown
    assert (True, False, 600_000) == (
        config.presence.enabled,
        config.presence.accept_updates,
        config.presence.idle_timeout_ms,
    )
    assert "11" == config.rooms.default_version and config.rooms.public_rooms_over_federation
    first, second, third = config.listeners
    assert (8448, ("::1", "127.0.0.1"), True) == (first.port, first.bind, first.x_forwarded)
    assert "172.16.0.0/12" in first.trusted_proxies and () == second.trusted_proxies
    assert (Path("/tls/cert.pem"), Path("/tls/key.pem")) == (first.tls_certificate_path, first.tls_key_path)
    assert {"client", "federation", "media", "health"} == set(first.resources)
    assert (("metrics",), None) == (second.resources, second.tls_certificate_path)
    assert (("health",), ("::", "0.0.0.0")) == (third.resources, third.bind)
    assert ("mysql+pymysql://u:p@h/d", 9) == (config.database.url, config.database.pool_size)
    limits = config.limits
    assert (1000, 1000) == (limits.message.per_second, limits.message.burst_count)
    assert (5, 5) == (limits.login_address.per_second, limits.login_address.burst_count)
    assert (0.17, 7) == (limits.login_failed.per_second, limits.login_failed.burst_count)
    assert (2, 3) == (limits.joins_remote.per_second, limits.joins_remote.burst_count)
    assert (4, 5) == (limits.invites_per_issuer.per_second, limits.invites_per_issuer.burst_count)
    assert (8, 2000) == (limits.federation.concurrent, limits.federation.window_ms)
    assert not config.media.need_login
    assert (tmp_path / "media", 20 * 1024**2) == (config.media.store_path, config.media.max_upload_bytes)
    assert (("turn:a",), "hush") == (config.turn.uris, config.turn.shared_secret)
    registration = config.registration
    assert registration.enabled and registration.requires_token and registration.guest_access
    assert ("secret", 4, ("#a:example.org",)) == (
        registration.shared_secret,
        registration.bcrypt_rounds,
        registration.auto_join_rooms,
    )
    assert 15 == registration.password_policy.minimum_length and registration.password_policy.require_digit
    assert config.metrics.enabled
    assert (tmp_path / "a.yaml", Path("/b.yaml")) == config.appservices.files
    assert tmp_path / "keys/k" == config.server.signing_key_path
    assert 5 == config.server.old_signing_keys["ed25519:o"].expired_ts
    servers = config.federation.trusted_key_servers
    assert [{"ed25519:auto": "BBBB"}, {}] == [server.verify_keys for server in servers]
    assert ("a.org",) == config.federation.domain_whitelist
    assert not config.federation.verify_certificates
    assert (("10.0.0.0/8",), ("10.1.0.0/16",)) == (
        config.federation.ip_range_denylist,
        config.federation.ip_range_allowlist,
    )
    assert (None, 600_000) == (
        config.sessions.refresh_token_lifetime_ms,
        config.sessions.refreshable_access_token_lifetime_ms,
    )
    assert "all" == config.rooms.encrypt_by_default
    assert config.user_directory.search_all_users
    assert 200 * 1024**2 == config.cache.memory_budget_bytes


@pytest.mark.parametrize(
    ("text", "line", "key", "part"),
    [
        (
            "registratoin_shared_secret: a",
            2,
            "registratoin_shared_secret",
            'did you mean "registration_shared_secret"?',
        ),
        ("rc_message: {per_sec: 1}", 2, "rc_message.per_sec", 'did you mean "per_second"?'),
        ("rc_login:\n  adress: {per_second: 1}", 3, "rc_login.adress", 'did you mean "address"?'),
        ("rc_message: 5", 2, "rc_message", "expected a table, found a whole number"),
        ("rc_message: {per_second: fast}", 2, "rc_message.per_second", "expected a number, found text"),
        ("enable_registration: yes please", 2, "enable_registration", "expected true or false, found text"),
        ("enable_registration: true", 2, "enable_registration", "set registration_requires_token: true"),
        ("max_upload_size: big", 2, "max_upload_size", 'like "50M"'),
        ("listeners:\n  - {port: x}", 3, "listeners[0].port", "expected a whole number"),
        ("listeners:\n  - type: manhole\n    port: 1\n  - port: 99999", 5, "listeners[1].port", "less than or equal"),
        ("listeners:\n  - port: 1\n    prot: 2", 4, "listeners[0].prot", 'did you mean "port"?'),
        ("listeners:\n  - port: 1\n    tls: true", 4, "listeners[0].tls", "needs tls_certificate_path"),
        ("listeners:\n  - port: 1\n    bind_addresses: [nowhere]", 4, "listeners[0].bind_addresses[0]", "IP address"),
        (
            "listeners:\n  - port: 1\n    resources:\n      - names: [cleint]",
            5,
            "listeners[0].resources[0].names",
            'did you mean "client"?',
        ),
        ("listeners:\n  - path: /run/s.sock", 3, "listeners[0]", "Unix sockets are not supported"),
        ("listeners: 8008", 2, "listeners", "expected a list"),
        ("database: {name: psycopg2, args: {database: x}}", 2, "database.name", "will not touch"),
        ("database:\n  name: sqlite3", 3, "database.name", "sqlite:////var/lib/sennit/sennit.db"),
        ("database: {args: {}}", 2, "database", "needs `url:`"),
        ("database: {url: 'postgresql://h/d'}", 2, "database", "PostgreSQL is not supported"),
        ("database: sqlite:///x", 2, "database", "expected `url:`"),
        ("modules: [{module: a.B}]", 2, "modules", "remove them to go on without"),
        ("signing_key: ed25519 a AAAA", 2, "signing_key", "name it in signing_key_path"),
        ("worker_app: synapse.app.generic_worker", 2, "worker_app", "takes the main file"),
        ("matrix_authentication_service: {enabled: true}", 2, "matrix_authentication_service.enabled", "delegated"),
        ("ip_range_blacklist: [10.0.0.0/99]", 2, "ip_range_blacklist[0]", "range of addresses"),
        ("trusted_key_servers:\n  - server_nam: x", 3, "trusted_key_servers[0].server_nam", "server_name"),
        ("log_config: nowhere.yaml", 2, "log_config", "there is no such file"),
        ("presence: on\npresence: off", 3, "presence", "stands here a second time"),
        ("a: [", 3, "", "this is not YAML"),
        ("email: true", 2, "email", "expected further keys inside"),
    ],
    ids=lambda value: value.replace("\n", "|")[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, key: str, part: str) -> None:
    found = [each for each in _problems(tmp_path, NAME + text + "\n") if each[1] == key and part in each[2]]
    assert [line] == [each[0] for each in found]


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("url_preview_enabled: true", 2, "url_preview_enabled"),
        ("email:\n  smtp_host: mail", 3, "email.smtp_host"),
        ("oidc_providers:\n  - idp_id: a", 3, "oidc_providers[0].idp_id"),
        ("macaroon_secret_key: x", 2, "macaroon_secret_key"),
        ("report_stats: true", 2, "report_stats"),
        ("experimental_features:\n  msc4306_enabled: true", 3, "experimental_features.msc4306_enabled"),
        ("instance_map: {w1: {host: a}}", 2, "instance_map.w1.host"),
        ("listeners: [{port: 1, type: manhole}]", 2, "listeners[0].type"),
        ("listeners: [{port: 1, mode: 5}]", 2, "listeners[0].mode"),
        (
            "listeners: [{port: 1, resources: [{names: [client], compress: true}]}]",
            2,
            "listeners[0].resources[0].compress",
        ),
        (
            "listeners: [{port: 1, additional_resources: {/x: {module: a}}}]",
            2,
            "listeners[0].additional_resources./x.module",
        ),
        ("database: {url: 'sqlite://', args: {cp_min: 5}}", 2, "database.args.cp_min"),
        ("password_config: {pepper: x}", 2, "password_config.pepper"),
        ("password_config: {enabled: only_for_reauth}", 2, "password_config.enabled"),
        ("send_federation: false", 2, "send_federation"),
        ("push: {enabled: false}", 2, "push.enabled"),
        ("enable_metrics: true", 2, "enable_metrics"),
        ("turn_uris: [turn:a]", 2, "turn_uris"),
        ("rc_third_party_invite: {per_second: 9}", 2, "rc_third_party_invite"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_key_without_effect_is_told_by_name(tmp_path: Path, text: str, line: int, key: str) -> None:
    assert [(line, key)] == [(notice.line, notice.key) for notice in _load(tmp_path, NAME + text + "\n").notices]


@pytest.mark.parametrize(
    "text",
    [
        "url_preview_enabled: false",
        "presence:",
        "modules: []",
        "redaction_retention_period: 7d",
        "experimental_features: {msc3575_enabled: true, msc4222_enabled: true}",
        "matrix_authentication_service: {enabled: false}",
        "enable_metrics: false",
        "trusted_key_servers: [{server_name: matrix.org}]",
        "rc_joins: {remote: {per_second: 0.01, burst_count: 10}}",
    ],
)
def test_a_key_that_asks_for_nothing_is_not_told(tmp_path: Path, text: str) -> None:
    assert () == _load(tmp_path, NAME + text + "\n").notices


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = "max_upload_size: x\nbcrypt_rounds: 99\nzzz: 1\ndatabase: {name: sqlite3}\n"
    assert [1, 2, 3, 4] == sorted(line for line, key, _ in _problems(tmp_path, text) if line is not None)
    assert (None, "server_name", "is missing") in _problems(tmp_path, text) or any(
        key == "server_name" for _, key, _ in _problems(tmp_path, text)
    )


def test_secrets_are_not_repeated_in_mistakes(tmp_path: Path) -> None:
    for text in (
        "registration_shared_secret: [hush]",
        "database: {url: 'postgresql://u:hush@h/d'}",
        "turn_uris: 'hush'",
    ):
        try:
            _load(tmp_path, NAME + text + "\n")
        except ConfigError as error:
            assert "hush" not in str(error)


def test_every_row_names_a_key_of_each_side() -> None:
    for key, row in SETTINGS.items():
        assert key in KNOWN_KEYS
        model: type | None = Config
        for part in row.target.split(".") if row.target else ():
            assert model is not None and part in model.model_fields, row.target  # type: ignore[attr-defined]
            model = section_in(model.model_fields[part].annotation)  # type: ignore[attr-defined]


def test_no_key_is_in_two_tables_and_all_are_known() -> None:
    tables = (set(SETTINGS), set(FULFILLED), set(POINTLESS), set(REFUSED))
    assert sum(map(len, tables)) == len(set().union(*tables))
    assert set().union(*tables) <= set(KNOWN_KEYS)


@pytest.mark.parametrize(
    "key",
    [
        "server_name",
        "public_baseurl",
        "serve_server_wellknown",
        "presence.enabled",
        "allow_public_rooms_over_federation",
        "ip_range_blacklist",
        "listeners",
        "database",
        "log_config",
        "enable_authenticated_media",
        "media_store_path",
        "max_upload_size",
        "turn_uris",
        "turn_shared_secret",
        "enable_registration",
        "enable_registration_without_verification",
        "registration_requires_token",
        "registration_shared_secret",
        "registration_shared_secret_path",
        "auto_join_rooms",
        "enable_metrics",
        "app_service_config_files",
        "signing_key_path",
        "trusted_key_servers",
    ],
)
def test_the_keys_that_every_file_has_work(key: str) -> None:
    assert key in SETTINGS


@pytest.mark.parametrize("key", NOT_YET)
def test_a_known_key_that_is_not_supported_is_in_no_table(key: str) -> None:
    assert key in KNOWN_KEYS
    assert key not in SETTINGS


LOG = """\
version: 1
formatters:
  precise: {format: '%(asctime)s %(request)s %(message)s'}
  json: {class: synapse.logging.TerseJsonFormatter}
filters:
  context: {(): synapse.logging.context.LoggingContextFilter}
handlers:
  file: {class: logging.StreamHandler, formatter: precise, filters: [context]}
  buffer: {class: synapse.logging.handlers.PeriodicallyFlushingMemoryHandler, target: file, capacity: 10}
loggers:
  synapse.storage.SQL: {level: INFO}
root: {level: INFO, handlers: [buffer]}
"""


def test_a_log_config_of_synapse_is_usable_without_it(tmp_path: Path) -> None:
    (tmp_path / "log.yaml").write_text(LOG)
    settings = _load(tmp_path, NAME + "log_config: log.yaml\n").log.dict_config
    assert settings is not None
    assert ["file"] == settings["root"]["handlers"]
    assert "synapse.logging" not in str(settings)
    assert "%(request)" not in str(settings)
    logging.config.DictConfigurator(settings)


@pytest.mark.parametrize("text", ["version: 2", "[]", "a: [", "version: 1\nhandlers: {x: {class: synapse.X}}"])
def test_a_bad_log_config_is_told_at_the_key_that_names_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.yaml").write_text(text)
    assert [(2, "log_config")] == [each[:2] for each in _problems(tmp_path, NAME + "log_config: log.yaml\n")]


LAUGHS = "a: &a [x]\n" + "".join(f"k{n}: &k{n} [{', '.join([f'*k{n - 1}' if n else '*a'] * 9)}]\n" for n in range(9))
MERGES = "k0: &k0 {a: 1, b: 2}\n" + "".join(
    f"k{n}: &k{n} {{<<: [{', '.join([f'*k{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 5_000,
        "- " * 50_000,
        LAUGHS,
        MERGES,
        "a: &a [*a]",
        "a: &a {<<: *a}",
        "a: &a\n  b: *a",
        "a: !!python/object/apply:os.system [true]",
        "a: " + "9" * 10_000,
        "a: 2001-99-99",
        "a: *nothing",
        "<<: 5",
        "? [a]\n: b",
        "? {a: b}\n: c",
        "5: 6\nnull: 7\n2001-01-01: 1",
        "- a",
        "text",
        "--- 1\n--- 2",
        "a: \x01",
        "\ta: 1",
        "server_name: 5",
        "server_name: [a]",
        "listeners: [null, 5, [], {port: {a: b}}, {port: 1, resources: 5}]",
        "listeners: [{port: 1, resources: [5, {names: 5}, {names: [5]}], type: [a], tls: [b]}]",
        "listeners: [{port: 1, type: {a: b}}]",
        "presence: {enabled: [a]}",
        "password_config: {enabled: [x], policy: 5}",
        "database: {url: [a], args: 5}",
        "ui_auth: {session_timeout: [a]}",
        "old_signing_keys: {a: 5}",
        "trusted_key_servers: [5]",
        "rc_message: {burst_count: .inf}",
        "rc_message: {burst_count: .nan, per_second: .inf}",
        "macaroon_secret_key: !!binary aGk=",
        "turn_uris: {a: b}",
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_hostile_files_end_in_a_sentence(tmp_path: Path, text: str) -> None:
    try:
        _load(tmp_path, text)
    except ConfigError as error:
        assert error.problems
        assert len(str(error)) < 20_000


@pytest.mark.parametrize("text", ["{localdb_enabled: false}", "{enabled: false, localdb_enabled: true}"])
def test_passwords_are_refused_where_synapse_would(tmp_path: Path, text: str) -> None:
    assert not _load(tmp_path, NAME + f"password_config: {text}\n").registration.passwords


@pytest.mark.parametrize("version", ["'13'", "99", "'12 '"])
def test_new_rooms_have_a_version_that_there_is(tmp_path: Path, version: str) -> None:
    ((line, key, message),) = _problems(tmp_path, NAME + f"default_room_version: {version}\n")
    assert (2, "default_room_version", True) == (line, key, "12" in message)
