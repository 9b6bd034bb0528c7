"""The native configuration: defaults, paths, secrets, and tables of mistakes with their lines."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from homeserver.config import Config, render_default_toml
from homeserver.config_docs import render_docs
from homeserver.config_idle import IDLE
from homeserver.config_source import ConfigError

ROOT = Path(__file__).parents[2]
START = '[server]\nname = "example.org"\n'  # Lines 1 and 2.


def _load(folder: Path, text: str) -> Config:
    path = folder / "sennit.toml"
    path.write_text(text)
    return Config.load(path)


def _problems(folder: Path, text: str) -> list[tuple[int | None, str, str]]:
    with pytest.raises(ConfigError) as raised:
        _load(folder, text)
    return [(problem.line, problem.key, problem.message) for problem in raised.value.problems]


def test_defaults_need_only_a_name(tmp_path: Path) -> None:
    config = _load(tmp_path, START)
    assert "example.org" == config.server.name
    assert tmp_path / "data" == config.server.data_dir
    assert tmp_path / "data/signing.key" == config.server.signing_key_path
    assert tmp_path / "data/media" == config.media.store_path
    assert f"sqlite:///{tmp_path}/data/sennit.db" == config.database.url
    assert [("127.0.0.1",)] == [listener.bind for listener in config.listeners]
    assert [8008] == [listener.port for listener in config.listeners]
    assert "12" == config.rooms.default_version
    assert not config.registration.enabled
    assert tmp_path / "sennit.toml" == config.source
    assert () == config.notices


def test_paths_are_relative_to_the_folder_of_the_file(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        START + 'data_dir = "d"\nsigning_key_path = "keys/k"\n'
        '[database]\nurl = "sqlite:///x.db"\n[media]\nstore_path = "/srv/media"\n'
        '[appservices]\nfiles = ["bridge.yaml"]\n',
    )
    assert tmp_path / "d" == config.server.data_dir
    assert tmp_path / "keys/k" == config.server.signing_key_path
    assert f"sqlite:///{tmp_path}/x.db" == config.database.url
    assert Path("/srv/media") == config.media.store_path
    assert (tmp_path / "bridge.yaml",) == config.appservices.files


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql+pymysql://u:p@h:3306/db?charset=utf8mb4"])
def test_other_database_urls_are_kept(url: str) -> None:
    assert url == Config.from_mapping({"server": {"name": "a"}, "database": {"url": url}}).database.url


def test_sections_are_frozen() -> None:
    config = Config.default(Path("d"))
    with pytest.raises(ValidationError):
        config.server.name = "other"  # type: ignore[assignment]


def test_the_default_takes_accounts_by_token() -> None:
    config = Config.default(Path("somewhere"))
    assert "localhost" == config.server.name
    assert config.registration.enabled and config.registration.requires_token
    assert Path("somewhere").absolute() == config.server.data_dir
    assert f"sqlite:///{Path('somewhere').absolute()}/sennit.db" == config.database.url


def test_lines_take_the_certificate_of_the_first_listener_that_has_one() -> None:
    listeners = [
        {"port": 1},
        {"port": 2, "tls_certificate_path": "c2", "tls_key_path": "k2"},
        {"port": 3, "tls_certificate_path": "c3", "tls_key_path": "k3"},
    ]
    config = Config.from_mapping(
        {"server": {"name": "a"}, "listeners": listeners, "stream": {"lines_tls_port": 0, "lines_port": 0}}
    )
    assert config.listeners[1] == config.tls_listener


def test_half_a_rate_keeps_the_default_of_the_other_half() -> None:
    limits = Config.from_mapping({"server": {"name": "a"}, "limits": {"message": {"per_second": 7}}}).limits
    assert (7, 10) == (limits.message.per_second, limits.message.burst_count)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('data_dr = "x"', (3, "server.data_dr", 'there is no such key; did you mean "data_dir"?')),
        ("[registraton]\nenabled = true", (3, "registraton", 'there is no such key; did you mean "registration"?')),
        (
            "[rooms]\n\nbcrypt_rounds = 3",
            (5, "rooms.bcrypt_rounds", 'there is no such key; "bcrypt_rounds" belongs to [registration]'),
        ),
        (
            "[limits]\n# a comment\nmessage = { per_secund = 1 }",
            (5, "limits.message.per_secund", 'there is no such key; did you mean "per_second"?'),
        ),
        ("[limits]\nmesage = 1", (4, "limits.mesage", 'there is no such key; did you mean "message"?')),
        ("[cache]\nzzz = 1", (4, "cache.zzz", "there is no such key; valid here: memory_budget_bytes")),
        (
            '[server.old_signing_keys."ed25519:a"]\nkei = "x"\nexpired_ts = 1\nkey = "k"',
            (4, "server.old_signing_keys.ed25519:a.kei", 'there is no such key; did you mean "key"?'),
        ),
        ('[[listeners]]\nport = "1"', (4, "listeners[0].port", "expected a whole number, found text")),
        ("[[listeners]]\nport = 1.5", (4, "listeners[0].port", "expected a whole number, found a number")),
        ("[[listeners]]\nport = true", (4, "listeners[0].port", "expected a whole number, found true or false")),
        ("[[listeners]]\nport = 70000", (4, "listeners[0].port", "must be less than or equal to 65535")),
        ('[[listeners]]\nbind = ["::"]', (3, "listeners[0].port", "is missing")),
        (
            '[[listeners]]\nport = 1\n[[listeners]]\nport = 2\nbind = [\n"::",\n"example"]',
            (9, "listeners[1].bind[1]", 'expected an IP address such as "127.0.0.1", "0.0.0.0" or "::"'),
        ),
        (
            '[[listeners]]\nport = 1\nresources = ["clients"]',
            (
                5,
                "listeners[0].resources[0]",
                "expected one of 'client', 'federation', 'media', 'metrics' or 'health'",
            ),
        ),
        (
            '[[listeners]]\nport = 1\ntls_key_path = "k"',
            (5, "listeners[0].tls_key_path", "needs tls_certificate_path beside it"),
        ),
        ("[presence]\nenabled = 1", (4, "presence.enabled", "expected true or false, found a whole number")),
        (
            "[rooms]\ndefault_version = 12",
            (4, "rooms.default_version", "expected text in quotes, found a whole number"),
        ),
        ('[turn]\nuris = "turn:x"', (4, "turn.uris", "expected a list in square brackets, found text")),
        ("[server.name]\nx = 1", None),
        ("[[media]]\nenabled = true", (3, "media", "expected a table, found a list")),
        (
            '[media]\nmax_upload_bytes = "5Q"',
            (4, "media.max_upload_bytes", 'expected a size, as a number of bytes or like "50M"'),
        ),
        (
            '[sessions]\nui_auth_timeout_ms = "soon"',
            (4, "sessions.ui_auth_timeout_ms", 'expected a duration, as a number of milliseconds or like "1h"'),
        ),
        (
            '[federation]\nip_range_denylist = ["10.0.0.0/99"]',
            (4, "federation.ip_range_denylist[0]", 'expected a range of addresses such as "10.0.0.0/8"'),
        ),
        (
            '[database]\nurl = "postgresql://u:secret@h/d"',
            (4, "database.url", "PostgreSQL is not supported; use sqlite:/// or mysql+pymysql://"),
        ),
        (
            '[database]\nurl = "mysql://u:secret@h/d"',
            (4, "database.url", "the driver is missing: write mysql+pymysql://user:password@host/name"),
        ),
        ('[turn]\nshared_secret_path = "none"', (4, "turn.shared_secret_path", None)),
        (
            '[registration]\nshared_secret = "a"\nshared_secret_path = "b"',
            (5, "registration.shared_secret_path", "give either shared_secret or shared_secret_path, not both"),
        ),
        ("[registration]\n\nenabled = true", (5, "registration.enabled", None)),
        (
            "[stream]\nlines_port = 1\nlines_tls_port = 2",
            (
                5,
                "stream.lines_tls_port",
                "needs a certificate: set tls_certificate_path and tls_key_path in one of [[listeners]],"
                " or use lines_port, which is without TLS",
            ),
        ),
        (
            "[stream]\nlines_port = 1\nlines_tls_port = 1",
            (5, "stream.lines_tls_port", "must be another port than lines_port"),
        ),
        ("[stream]\nlines_port = 8008", (4, "stream.lines_port", "one of [[listeners]] has port 8008 already")),
        (
            "[stream]\nenabled = false\nlines_port = 8010",
            (5, "stream.lines_port", "nothing would be served there, as stream.enabled is false"),
        ),
        (
            '[stream]\nsilence_timeout_ms = "45s"',
            (
                4,
                "stream.silence_timeout_ms",
                "must be longer than ping_interval_ms, or every quiet client is cut off",
            ),
        ),
        ("[a\n", (3, "", None)),
        ('data_dir = "a"\ndata_dir = "b"', (4, "", None)),
    ],
    ids=lambda value: value.replace("\n", "|")[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_with_its_line(
    tmp_path: Path, text: str, expected: tuple[int, str, str | None] | None
) -> None:
    found = _problems(tmp_path, START + text + "\n")
    assert 1 == len(found)
    if expected is not None:
        assert expected[:2] == found[0][:2]
        assert expected[2] is None or expected[2] == found[0][2]
    assert "secret@" not in str(found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    text = (
        '[server]\nname = "no spaces"\n[media]\nenabld = 1\n[log]\nlevel = "loud"\n[turn]\nshared_secret_path = "x"\n'
    )
    assert [2, 4, 6, 8] == [line for line, _, _ in _problems(tmp_path, text)]


def test_a_missing_name_is_told(tmp_path: Path) -> None:
    assert [(1, "server.name", "is missing")] == _problems(tmp_path, '[server]\ndata_dir = "x"\n')
    assert [(None, "server", "is missing")] == _problems(tmp_path, "")


def test_secrets_come_from_files_and_stay_out_of_repr(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    (tmp_path / "url").write_text("mysql+pymysql://u:hush-hush@h/d\n")
    config = _load(tmp_path, START + '[registration]\nshared_secret_path = "secret"\n[database]\nurl_path = "url"\n')
    assert "hush-hush" == config.registration.shared_secret
    assert "mysql+pymysql://u:hush-hush@h/d" == config.database.url
    assert "hush-hush" not in repr(config)


def test_the_registration_secret_may_be_missing_until_the_first_start(tmp_path: Path) -> None:
    config = _load(tmp_path, START + '[registration]\nshared_secret_path = "secret"\n')
    assert config.registration.shared_secret is None
    assert tmp_path / "secret" == config.registration.shared_secret_path


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\xff\xfe", 1),
        (b'[server]\nname = "\xe9"', 2),
        (b"a = " + b"[" * 50_000, None),
        (b"a = " + b"9" * 10_000, None),
        (b"#" * (1024 * 1024 + 1), None),
        (b"a\x00 = 1", 1),
    ],
    ids=["utf-16", "latin-1", "nested", "number", "large", "nul"],
)
def test_what_is_not_toml_is_an_error_not_a_traceback(tmp_path: Path, content: bytes, line: int | None) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as raised:
        Config.load(path)
    if line is not None:
        assert line == raised.value.problems[0].line


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path, tmp_path / "x.ini"):
        with pytest.raises(ConfigError):
            Config.load(path)


def test_another_distribution_may_read_files_of_another_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point of the group `sennit.config_loaders`, named by the ending, is asked."""
    (tmp_path / "other-1.dist-info").mkdir()
    (tmp_path / "other-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (tmp_path / "other-1.dist-info/entry_points.txt").write_text("[sennit.config_loaders]\nini = other_loader:load\n")
    (tmp_path / "other_loader.py").write_text(
        "from homeserver.config import Config\n\n\ndef load(path):\n    return Config.default(path, 'from.ini')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "from.ini" == Config.load(tmp_path / "x.ini").server.name


def test_the_written_file_has_ten_lines_and_is_good(tmp_path: Path) -> None:
    text = render_default_toml("example.org", bind="::", port=1234, open_registration=True)
    assert 10 == text.count("\n")
    config = _load(tmp_path, text)
    assert (("::",), 1234) == (config.listeners[0].bind, config.listeners[0].port)
    assert config.registration.without_verification
    assert f"sqlite:///{tmp_path}/data/sennit.db" == config.database.url
    assert _load(tmp_path, render_default_toml("example.org")).registration.requires_token


@pytest.mark.parametrize("url", ['mysql+pymysql://u:"p\\w@h/d', "mysql+pymysql://u:é\x7f@h/d"])
def test_the_written_file_keeps_any_database_url(url: str) -> None:
    assert url == tomllib.loads(render_default_toml("a", database_url=url))["database"]["url"]


def test_the_reference_is_as_the_models_say() -> None:
    """Run `python -m homeserver.config --docs > docs/configuration.md` after a change of the models."""
    assert (ROOT / "docs/configuration.md").read_text() == render_docs()


def test_every_setting_has_a_meaning() -> None:
    def missing(model: Any, prefix: str) -> list[str]:
        return [f"{prefix}.{key}" for key, field in model.model_fields.items() if not field.description]

    from homeserver.config_findings import sections_of

    assert [] == [key for name, model in sections_of(Config).items() for key in missing(model, name)]


def test_the_module_prints_the_reference() -> None:
    command = [sys.executable, "-m", "homeserver.config", "--docs"]
    assert render_docs() == subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_configuration_loads_no_server() -> None:
    code = (
        "import sys; from homeserver.config import Config; from pathlib import Path; Config.default(Path('d'));"
        "print([name for name in ('twisted', 'sqlalchemy', 'yaml', 'nacl') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert "[]\n" == result.stdout


def test_a_setting_without_effect_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sennit.toml"
    path.write_text('[server]\nname = "example.org"\n[metrics]\nenabled = true\n[turn]\nallow_guests = true\n')
    assert [(4, "metrics.enabled")] == [(notice.line, notice.key) for notice in Config.load(path).notices]


@pytest.mark.parametrize("name", IDLE)
def test_what_is_told_to_have_no_effect_is_a_setting(name: str) -> None:
    section, _, key = name.partition(".")
    model = Config.model_fields[section].annotation
    assert isinstance(model, type) and issubclass(model, BaseModel)
    assert not key or key in model.model_fields


@pytest.mark.parametrize("read", [Config.load, Config.from_toml])
def test_a_file_is_named_by_text_as_well(tmp_path: Path, read: Callable[[str], Config]) -> None:
    file = tmp_path / "a.toml"
    file.write_text('[server]\nname = "example.org"\n')
    assert ("example.org", file) == (read(str(file)).server.name, read(str(file)).source)
