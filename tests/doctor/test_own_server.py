"""`sennit doctor` of the server of the configuration: over TLS on loopback, behind proxies, and from files alone."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from homeserver.config import Config, Listener
from homeserver.doctor.command import run, show
from homeserver.doctor.examination import examine
from homeserver.doctor.findings import Finding, Findings, Level
from homeserver.errors import Misconfigured
from homeserver.runtime.clock import RealClock
from storage.destinations import DestinationRow, store_destinations
from tests.support.federation import FederatedServer, Federation, federation, new_database, sqlite_federation  # noqa: F401
from tests.support.outgoing import PlayedNames
from tests.support.played_server import PlayedRequest

from .outside import assert_fault, faults, put_proxy_before


def _private(server: FederatedServer) -> FederatedServer:
    """Take the rights of others at the test's key of the certificate away."""
    for listener in server.config.listeners:
        if listener.tls_key_path is not None:
            listener.tls_key_path.chmod(0o600)
    return server


@pytest_twisted.ensureDeferred
async def test_healthy_server_has_no_fault(federation: Federation) -> None:  # noqa: F811
    (one,) = await federation.start()
    findings = await examine(_private(one).config, reactor)
    assert [] == faults(findings)
    assert {"signature", "path", "query", "body", "keys", "clock", "destinations", "process"} <= {
        each.check for each in findings.all if each.level is Level.GOOD
    }


@pytest_twisted.ensureDeferred
async def test_two_servers_look_at_each_other(sqlite_federation: Federation) -> None:  # noqa: F811
    one, two = await sqlite_federation.start(2)
    findings = await examine(one.config, reactor, two.config.server.name)
    assert [] == faults(findings)
    assert [Level.GOOD] * 2 == [each.level for each in findings.all if each.check in ("signature", "path")]


@pytest_twisted.ensureDeferred
async def test_server_that_has_stopped_is_a_fault(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    await one.stop()
    findings = await examine(_private(one).config, reactor)
    assert_fault(findings, "connection", "Nobody answers at 127.0.0.1")
    assert Level.WARNING is findings.of("process")[0].level


@pytest_twisted.ensureDeferred
async def test_federation_that_is_switched_off_is_a_fault(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start(federation={"enabled": False})
    found = faults(await examine(_private(one).config, reactor))
    assert ("configuration", "Federation is switched off (federation.enabled = false).") == found[0]
    # Nothing of it is served.
    assert ["configuration", "federation"] == [check for check, _ in found]


@pytest_twisted.ensureDeferred
async def test_clock_that_is_wrong_by_ten_minutes_is_a_fault(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    clock = _Late(reactor)
    assert_fault(await examine(_private(one).config, reactor, clock=clock), "clock", "10 min ahead of")


class _Late(RealClock):
    def now_ms(self) -> int:
        return super().now_ms() - 600_000


@pytest_twisted.ensureDeferred
async def test_key_server_that_cannot_be_reached_is_worth_a_warning(sqlite_federation: Federation) -> None:  # noqa: F811
    two = await sqlite_federation.play()
    servers = [{"server_name": two.name}, {"server_name": "127.0.0.250:1"}]
    (one,) = await sqlite_federation.start(federation={"trusted_key_servers": servers})
    findings = await examine(_private(one).config, reactor)
    assert [] == faults(findings)
    assert [Level.GOOD, Level.WARNING] == [each.level for each in findings.of("key servers")]


# -- behind a proxy --------------------------------------------------------------------------------------------------


def _decoded_slash(request: PlayedRequest) -> Any:
    path, mark, query = request.uri.partition("?")
    return replace(request, uri=path.replace("%2F", "/").replace("%2f", "/") + mark + query)


def _encoded_anew(request: PlayedRequest) -> Any:
    path, mark, query = request.uri.partition("?")
    return replace(request, uri=quote(unquote(path), safe="/$:@") + mark + query)


def _without_parameters(request: PlayedRequest) -> Any:
    path, mark, query = request.uri.partition("?")
    return replace(request, uri=path.partition(";")[0] + mark + query)


def _sorted_query(request: PlayedRequest) -> Any:
    path, mark, query = request.uri.partition("?")
    return replace(request, uri=path + mark + "&".join(sorted(query.split("&"))))


def _small_bodies(request: PlayedRequest) -> Any:
    page = b"<html>413 Request Entity Too Large</html>"
    return request if len(request.body) <= 65_536 else (413, page, {"Server": "nginx"})


def _without_federation(request: PlayedRequest) -> Any:
    return (404, b"<html>") if request.path.startswith(("/_matrix/federation", "/_matrix/key")) else request


def _without_authorization(request: PlayedRequest) -> Any:
    return replace(request, headers={name: text for name, text in request.headers.items() if name != "authorization"})


def _without_backend(request: PlayedRequest) -> Any:
    return 502, b"<html>Bad Gateway</html>", {"Server": "nginx"}


def _other_site(request: PlayedRequest) -> Any:
    return 200, b"<html>Hello</html>", {}


def _compressed_badly(request: PlayedRequest) -> Any:
    if "gzip" in request.headers.get("accept-encoding", ""):
        return 200, gzip.compress(b"{}")[:-9], {"Content-Encoding": "gzip"}
    return request


@pytest.mark.parametrize(
    ("change", "check", "fragment"),
    [
        pytest.param(_decoded_slash, "path", "an encoded slash (%2F)", id="decodes slashes"),
        pytest.param(_encoded_anew, "path", "an encoded tilde (%7E)", id="encodes anew"),
        pytest.param(_without_parameters, "path", "if they have a semicolon", id="cuts at semicolons"),
        pytest.param(_sorted_query, "query", "not sorted", id="sorts the query"),
        pytest.param(_small_bodies, "body", "refused as too large (status 413, from 'nginx')", id="small bodies"),
        pytest.param(_without_federation, "federation", "client API answers there, but not", id="clients only"),
        pytest.param(_without_authorization, "signature", "not believed", id="keeps the signature"),
        pytest.param(_without_backend, "federation", "no homeserver behind it", id="bad gateway"),
        pytest.param(_other_site, "federation", "no Matrix server", id="other site"),
        pytest.param(_compressed_badly, "compression", "cannot be read", id="compresses badly"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_a_proxy_does_wrong_is_the_one_fault(
    sqlite_federation: Federation,  # noqa: F811
    change: Callable[[PlayedRequest], Any],
    check: str,
    fragment: str,
) -> None:
    one = sqlite_federation.make()
    proxy = await put_proxy_before(one, sqlite_federation.authority)
    healthy = await examine(one.config, reactor)
    proxy.change = change
    findings = await examine(one.config, reactor)
    await proxy.front.stop()
    assert [] == faults(healthy)
    assert_fault(findings, check, fragment)


@pytest_twisted.ensureDeferred
async def test_listener_that_serves_clients_only_is_a_fault(sqlite_federation: Federation) -> None:  # noqa: F811
    one = sqlite_federation.make()
    proxy = await put_proxy_before(one, sqlite_federation.authority, ["client", "media"])
    found = faults(await examine(one.config, reactor))
    await proxy.front.stop()
    assert ["listeners", "federation"] == [check for check, _ in found]


@pytest_twisted.ensureDeferred
async def test_port_without_tls_is_a_fault(sqlite_federation: Federation) -> None:  # noqa: F811
    one = sqlite_federation.make()
    listener = Listener(port=one.port, bind=[one.address])
    one.config = one.config.model_copy(update={"listeners": (listener,)})
    await one.start()
    assert_fault(await examine(one.config, reactor), "TLS", "does not speak TLS as it should")


@pytest_twisted.ensureDeferred
async def test_other_key_file_than_that_of_the_running_server_is_a_fault(
    sqlite_federation: Federation,  # noqa: F811
    tmp_path: Path,
) -> None:
    (one,) = await sqlite_federation.start()
    path = tmp_path / "other.key"
    path.write_text("ed25519 other " + "A" * 43 + "\n")
    path.chmod(0o600)
    server = one.config.server.model_copy(update={"signing_key_path": path})
    found = faults(await examine(_private(one).config.with_section("server", server), reactor))
    assert ["keys", "signature"] == [check for check, _ in found]
    assert "the key file here has ed25519:other" in found[0][1]


# -- files and settings ----------------------------------------------------------------------------------------------


async def _of_settings(tmp_path: Path, **sections: Any) -> Findings:
    """Examine a server that does not run, whose name leads nowhere."""
    settings: dict[str, Any] = {
        "server": {"name": "example.org", "data_dir": str(tmp_path)},
        "federation": {"trusted_key_servers": []},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
    return await examine(Config.from_mapping(settings), reactor, names=PlayedNames())


@pytest_twisted.ensureDeferred
async def test_before_the_first_start_there_is_no_key(tmp_path: Path) -> None:
    found = dict(faults(await _of_settings(tmp_path)))
    assert "There is no signing key" in found["key file"]
    assert "example.org has no address" in found["addresses"]


@pytest_twisted.ensureDeferred
async def test_key_that_others_can_read_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    path.write_text("ed25519 a_1 " + "A" * 43 + "\n")
    path.chmod(0o644)
    assert "can be read by others" in dict(faults(await _of_settings(tmp_path)))["key file"]


@pytest.mark.parametrize("content", ["", "nonsense", "ed25519 a b"])
@pytest_twisted.ensureDeferred
async def test_key_file_that_is_none_is_a_fault(tmp_path: Path, content: str) -> None:
    (tmp_path / "signing.key").write_text(content)
    findings = await _of_settings(tmp_path)
    assert "key file" in dict(faults(findings))


@pytest_twisted.ensureDeferred
async def test_old_key_that_does_not_say_its_end_is_a_fault(tmp_path: Path) -> None:
    keys = {"ed25519:old": {"key": "A" * 43, "expired_ts": 0}}
    found = dict(faults(await _of_settings(tmp_path, server={"old_signing_keys": keys})))
    assert "ed25519:old does not say when it was last used" in found["configuration"]


@pytest_twisted.ensureDeferred
async def test_no_listener_for_federation_is_a_fault(tmp_path: Path) -> None:
    listeners = [{"port": 8008, "resources": ["client"]}]
    assert "listeners" in dict(faults(await _of_settings(tmp_path, listeners=listeners)))


@pytest_twisted.ensureDeferred
async def test_name_of_this_machine_is_a_fault(tmp_path: Path) -> None:
    assert "means this machine" in dict(faults(await _of_settings(tmp_path, server={"name": "localhost"})))["name"]


@pytest_twisted.ensureDeferred
async def test_servers_that_fail_are_named(federation: Federation) -> None:  # noqa: F811
    (one,) = await federation.start()
    now = RealClock(reactor).now_ms()
    row = DestinationRow("gone.example", now - 7_300_000, now + 1, 60_000, None, "no route")
    await one.parts.base.store.database.write(lambda tx: store_destinations(tx, [row]))
    findings = await examine(_private(one).config, reactor)
    assert [] == faults(findings)
    assert "gone.example (for 2 h: no route)" in findings.of("destinations")[0].text


# -- the command -----------------------------------------------------------------------------------------------------


def _findings(level: Level) -> Findings:
    findings = Findings("example.org")
    findings.all.append(Finding("TLS", level, "Text.", "Remedy." if level is not Level.GOOD else ""))
    return findings


@pytest.mark.parametrize(("level", "code"), [(Level.GOOD, 0), (Level.WARNING, 0), (Level.FAULT, 1)])
def test_exit_code_tells_whether_there_are_faults(level: Level, code: int) -> None:
    assert code == show(_findings(level), as_json=False, out=io.StringIO())


def test_report_has_a_line_for_each_finding_and_what_to_do() -> None:
    out = io.StringIO()
    show(_findings(Level.FAULT), as_json=False, out=out)
    assert [
        "example.org, as other servers see it",
        "  FAULT   TLS: Text.",
        "          -> Remedy.",
        "1 fault, 0 warnings",
    ] == out.getvalue().splitlines()


def test_report_for_programs_is_json() -> None:
    out = io.StringIO()
    show(_findings(Level.FAULT), as_json=True, out=out)
    assert {
        "server_name": "example.org",
        "faults": 1,
        "warnings": 0,
        "findings": [{"check": "TLS", "level": "fault", "text": "Text.", "remedy": "Remedy."}],
    } == json.loads(out.getvalue())


def test_what_is_no_server_name_is_a_mistake_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        run(Config.default(tmp_path), "not a name", reactor, as_json=False, out=io.StringIO())


@pytest_twisted.ensureDeferred
async def test_command_runs_beside_the_server(sqlite_federation: Federation, tmp_path: Path) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    file = tmp_path / "sennit.toml"
    (listener,) = _private(one).config.listeners
    file.write_text(
        f'[server]\nname = "{one.name}"\ndata_dir = "{one.config.server.data_dir}"\n'
        f'[database]\nurl = "{one.config.database.url}"\n'
        f'[[listeners]]\nport = {one.port}\nbind = ["{one.address}"]\n'
        f'tls_certificate_path = "{listener.tls_certificate_path}"\ntls_key_path = "{listener.tls_key_path}"\n'
        f'[federation]\nca_files = ["{sqlite_federation.authority.ca_file}"]\n'
        'ip_range_allowlist = ["127.0.0.0/8"]\ntrusted_key_servers = []\n'
    )
    good, bad, wrong = [
        await deferToThread(_command, "-c", str(file), *arguments)
        for arguments in (["--json"], ["127.0.0.250:1"], ["not a name"])
    ]
    assert (0, 0) == (good.returncode, json.loads(good.stdout)["faults"]), good
    assert 1 == bad.returncode and "Nobody answers at 127.0.0.250:1" in bad.stdout, bad
    assert 2 == wrong.returncode and "no server name" in wrong.stderr, wrong


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "homeserver", "doctor", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
