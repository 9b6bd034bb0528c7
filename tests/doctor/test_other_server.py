"""`sennit doctor SERVER_NAME` of a played server under a name of the DNS: what is right, and each fault by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.error import CannotListenError

from homeserver.doctor.certificates import SOON_DAYS
from homeserver.doctor.findings import Findings, Level
from homeserver.model.server_keys import build_server_keys
from homeserver.model.signing import generate_signing_key
from homeserver.runtime.clock import RealClock
from homeserver.runtime.names import LookupFailed, Service
from tests.support.certificates import Authority
from tests.support.played_server import PlayedServer

from .outside import FEDERATION, NAME, Certified, Outside, assert_fault, faults

WELL_KNOWN = "/.well-known/matrix/server"
CLIENT = "/.well-known/matrix/client"
CORS = {"Access-Control-Allow-Origin": "*"}


@pytest_twisted.async_yield_fixture
async def outside(tmp_path: Path) -> AsyncIterator[Outside]:
    made = Outside(Authority(tmp_path / "certificates"), tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def _levels(findings: Findings, check: str) -> list[Level]:
    return [each.level for each in findings.of(check)]


@pytest_twisted.ensureDeferred
async def test_healthy_server_is_good_in_every_check(outside: Outside) -> None:
    findings = await outside.examine()
    assert [] == [each for each in findings.all if each.level is not Level.GOOD]
    assert {"well-known", "SRV", "name", "addresses", "TLS", "IPv6", "federation", "clock", "keys", "signature", "path",
            "query", "body", "client well-known"} == {each.check for each in findings.all}  # fmt: skip


@pytest_twisted.ensureDeferred
async def test_without_a_key_of_ours_nothing_is_signed(outside: Outside) -> None:
    outside.settings["server"]["signing_key_path"] = "/nowhere/signing.key"
    findings = await outside.examine()
    assert [] == faults(findings)
    assert [] == [each for each in outside.matrix.requests if "authorization" in each.headers]


@pytest_twisted.ensureDeferred
async def test_server_that_others_cannot_ask_for_keys_signs_nothing(outside: Outside) -> None:
    outside.settings["server"]["name"] = "localhost"
    assert [] == faults(await outside.examine())
    assert [] == [each for each in outside.matrix.requests if "authorization" in each.headers]


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        pytest.param(b"<html>", "is not JSON", id="html"),
        pytest.param({}, "names no server (there is no m.server", id="empty"),
        pytest.param({"m.server": "https://example.org"}, "names no server", id="url"),
        pytest.param({"m.server": "example.org:0"}, "names no server", id="port 0"),
        pytest.param((500, {}), "status 500", id="status 500"),
        pytest.param((403, {}), "status 403", id="status 403"),
        pytest.param((302, {}, {"Location": WELL_KNOWN}), "circle", id="circle"),
        pytest.param((302, {}, {"Location": "http://example.org/"}), "away from HTTPS", id="http"),
        pytest.param(b" " * 70_000, "too large", id="large"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_broken_well_known_is_told_with_its_reason(outside: Outside, answer: Any, fragment: str) -> None:
    outside.web.answers[WELL_KNOWN] = lambda request: answer
    assert_fault(await outside.examine(), "well-known", fragment)


@pytest_twisted.ensureDeferred
async def test_well_known_behind_a_certificate_for_another_name_is_a_fault(outside: Outside) -> None:
    other = PlayedServer(Certified(outside.authority, "other.org"), "127.0.0.1")  # type: ignore[arg-type]
    await other.start()
    outside.ports.ports[443] = other.port
    findings = await outside.examine()
    await other.stop()
    assert {"well-known", "client well-known"} == {check for check, _ in faults(findings)}


@pytest_twisted.ensureDeferred
async def test_no_web_server_is_no_fault(outside: Outside) -> None:
    await outside.web.stop()
    assert [] == faults(await outside.examine())


@pytest_twisted.ensureDeferred
async def test_well_known_that_leads_to_nobody_is_a_fault(outside: Outside) -> None:
    outside.web.answers[WELL_KNOWN] = lambda request: {"m.server": "gone.example.org:443"}
    assert_fault(await outside.examine(), "addresses", "gone.example.org has no address")


@pytest_twisted.ensureDeferred
async def test_service_record_that_leads_nowhere_is_a_fault(outside: Outside) -> None:
    outside.names.known_services[f"_matrix-fed._tcp.{NAME}"] = [Service(0, 0, 8448, "gone.example.org", 60)]
    assert_fault(await outside.examine(), "addresses", "gone.example.org has no address")


@pytest_twisted.ensureDeferred
async def test_service_record_without_a_target_is_a_fault(outside: Outside) -> None:
    outside.names.known_services[f"_matrix-fed._tcp.{NAME}"] = [Service(0, 0, 0, ".", 60)]
    assert_fault(await outside.examine(), "SRV", "is no target")


@pytest_twisted.ensureDeferred
async def test_service_record_of_the_old_name_is_worth_a_warning(outside: Outside) -> None:
    outside.names.known_services[f"_matrix._tcp.{NAME}"] = [Service(0, 0, 8448, NAME, 60)]
    findings = await outside.examine()
    assert ([], [Level.GOOD, Level.WARNING]) == (faults(findings), _levels(findings, "SRV"))


@pytest_twisted.ensureDeferred
async def test_failed_look_up_of_service_records_is_worth_a_warning(outside: Outside) -> None:
    outside.names.known_services[f"_matrix-fed._tcp.{NAME}"] = LookupFailed("no answer")
    findings = await outside.examine()
    assert ([], Level.WARNING) == (faults(findings), _levels(findings, "SRV")[0])


@pytest_twisted.ensureDeferred
async def test_private_address_is_a_fault_and_not_connected_to(outside: Outside) -> None:
    outside.settings["federation"]["ip_range_allowlist"] = []
    findings = await outside.examine()
    assert "a private address" in dict(faults(findings))["addresses"]
    assert [] == outside.ports.connected


@pytest.mark.parametrize(
    ("answer", "fragment"),
    [
        pytest.param((200, b"<html>", CORS), "no base_url", id="html"),
        pytest.param((200, {"m.homeserver": {"base_url": "example.org"}}, CORS), "no base_url", id="no url"),
        pytest.param((500, {}), "status 500", id="status 500"),
        pytest.param({"m.homeserver": {"base_url": f"https://{NAME}"}}, "browsers", id="not for browsers"),
        pytest.param((200, {"m.homeserver": {"base_url": f"https://{NAME}"}}, CORS), "sends clients", id="no server"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_broken_file_for_clients_is_a_fault(outside: Outside, answer: Any, fragment: str) -> None:
    outside.web.answers[CLIENT] = lambda request: answer
    assert_fault(await outside.examine(), "client well-known", fragment)


@pytest_twisted.ensureDeferred
async def test_file_for_clients_leads_to_the_client_api(outside: Outside) -> None:
    outside.web.answers[CLIENT] = lambda request: (200, {"m.homeserver": {"base_url": f"https://{NAME}/"}}, CORS)
    outside.web.answers["/_matrix/client/versions"] = lambda request: {"versions": ["v1.19"]}
    findings = await outside.examine()
    assert ([], [Level.GOOD]) == (faults(findings), _levels(findings, "client well-known"))


# -- connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "days", "fragment"),
    [
        pytest.param((NAME,), 0, "has expired", id="expired"),
        pytest.param(("other.org",), 90, "is for other.org, not for example.org", id="other name"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_bad_certificate_is_a_fault(tmp_path: Path, names: tuple[str, ...], days: int, fragment: str) -> None:
    authority = Authority(tmp_path / "certificates")
    outside = Outside(authority, tmp_path)
    outside.matrix._authority = Certified(authority, *names, days=days)  # type: ignore[assignment]
    await outside.start()
    findings = await outside.examine()
    await outside.stop()
    assert_fault(findings, "TLS", fragment)
    # The rest is looked at all the same, but nothing signed is shown to whom nobody vouches for.
    assert [Level.GOOD] == _levels(findings, "keys")
    assert [] == [each for each in outside.matrix.requests if "authorization" in each.headers]


@pytest_twisted.ensureDeferred
async def test_certificate_of_an_unknown_authority_is_a_fault(tmp_path: Path) -> None:
    outside = Outside(Authority(tmp_path / "certificates"), tmp_path)
    other = Authority(tmp_path / "other")
    outside.matrix._authority = Certified(other, NAME)  # type: ignore[assignment]
    await outside.start()
    findings = await outside.examine()
    await outside.stop()
    assert_fault(findings, "TLS", "is not trusted")


@pytest_twisted.ensureDeferred
async def test_certificate_that_ends_soon_is_worth_a_warning(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    outside = Outside(authority, tmp_path)
    outside.matrix._authority = Certified(authority, NAME, days=SOON_DAYS - 1)  # type: ignore[assignment]
    await outside.start()
    findings = await outside.examine()
    await outside.stop()
    assert ([], [Level.WARNING]) == (faults(findings), _levels(findings, "TLS"))


@pytest_twisted.ensureDeferred
async def test_closed_port_is_a_fault_that_names_the_port(outside: Outside) -> None:
    await outside.matrix.stop()
    findings = await outside.examine()
    assert_fault(findings, "connection", "Nobody answers at example.org (127.0.0.1:8448)")
    (finding,) = findings.of("connection")
    assert "TCP port 8448" in finding.remedy and "well-known" in finding.remedy


@pytest_twisted.ensureDeferred
async def test_ipv6_address_that_does_not_answer_is_a_fault(outside: Outside) -> None:
    outside.settings["federation"]["ip_range_allowlist"].append("::1")
    outside.names.known_addresses[NAME] = ["::1", "127.0.0.1"]
    findings = await outside.examine()
    found = findings.of("IPv6")
    # A machine without IPv6 says so.
    assert [Level.FAULT] == [each.level for each in found] or "this machine has no IPv6" in found[0].text


@pytest_twisted.ensureDeferred
async def test_ipv6_address_that_answers_is_good(outside: Outside) -> None:
    try:
        six = outside.listen_on_ipv6()
    except CannotListenError:
        pytest.skip("this machine has no IPv6")
    outside.settings["federation"]["ip_range_allowlist"].append("::1")
    outside.names.known_addresses[NAME] = ["::1", "127.0.0.1"]
    findings = await outside.examine()
    await six.stopListening()
    assert ([], [Level.GOOD]) == (faults(findings), _levels(findings, "IPv6"))


# -- what answers ----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_keys_of_another_server_are_a_fault(outside: Outside) -> None:
    outside.matrix.name = "other.org"
    assert_fault(await outside.examine(), "keys", "'other.org', not of example.org")


@pytest_twisted.ensureDeferred
async def test_list_that_its_keys_have_not_signed_is_a_fault(outside: Outside) -> None:
    wire = outside.matrix.published_keys() | {"more": 1}
    outside.matrix.answers["/_matrix/key/v2/server"] = lambda request: wire
    assert_fault(await outside.examine(), "keys", "no key in the list has signed it")


@pytest_twisted.ensureDeferred
async def test_list_of_keys_that_is_over_is_a_fault(outside: Outside) -> None:
    wire = outside.matrix.published_keys(valid_ms=-600_000)
    outside.matrix.answers["/_matrix/key/v2/server"] = lambda request: wire
    assert_fault(await outside.examine(), "clock", "ended 1")


@pytest_twisted.ensureDeferred
async def test_old_keys_are_counted(outside: Outside) -> None:
    old = generate_signing_key(b"\x08" * 32, "old").verify_key
    now = RealClock(reactor).now_ms()
    wire = build_server_keys(NAME, outside.matrix.keys, {"ed25519:old": (old, now - 1)}, now + 86_400_000)
    outside.matrix.answers["/_matrix/key/v2/server"] = lambda request: wire
    findings = await outside.examine()
    assert [] == faults(findings)
    assert "1 old ones" in findings.of("keys")[0].text


@pytest.mark.parametrize("minutes", [-10, 10])
@pytest_twisted.ensureDeferred
async def test_clock_that_is_wrong_by_ten_minutes_is_a_fault(outside: Outside, minutes: int) -> None:
    date = formatdate(RealClock(reactor).now_ms() / 1000 + minutes * 60, usegmt=True)
    outside.matrix.answers[f"{FEDERATION}/version"] = lambda request: (
        200, {"server": {"name": "Played", "version": "1"}}, {"Date": date},
    )  # fmt: skip
    assert_fault(await outside.examine(), "clock", "behind" if minutes < 0 else "ahead of")


@pytest.mark.parametrize(
    ("status", "check", "fragment"),
    [(401, "signature", "not believed"), (403, "signature", "refused"), (502, "signature", "as it should")],
)
@pytest_twisted.ensureDeferred
async def test_refused_signature_is_a_fault(outside: Outside, status: int, check: str, fragment: str) -> None:
    outside.matrix.answers[f"{FEDERATION}/event/"] = lambda request: (status, {"errcode": "M_X", "error": "no\x1b[2J"})
    findings = await outside.examine()
    assert_fault(findings, check, fragment)
    assert all(line.isprintable() for line in findings.lines())


DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    ("path", "body", "checks"),
    [
        pytest.param(f"{FEDERATION}/version", b'{"server":{"name":%s}}' % DEEP, [], id="version"),
        pytest.param("/_matrix/key/v2/server", b'{"server_name":%s}' % DEEP, ["keys"], id="server name"),
        pytest.param(f"{FEDERATION}/event/", b'{"errcode":%s,"error":%s}' % (DEEP, DEEP), [], id="error"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_is_nested_deeply_is_not_repeated(
    outside: Outside, path: str, body: bytes, checks: list[str]
) -> None:
    outside.matrix.answers[path] = lambda request: body
    findings = await outside.examine()
    assert checks == [check for check, _ in faults(findings)]
    assert "[[" not in "".join(findings.lines())


@pytest.mark.parametrize("date", ["", "0", "Mon, 99 Foo 99999 99:99:99 GMT", "Thu, 01 Jan 0001 00:00:00 +2359", "é"])
@pytest_twisted.ensureDeferred
async def test_date_that_is_none_is_worth_a_warning(outside: Outside, date: str) -> None:
    outside.matrix.answers[f"{FEDERATION}/version"] = lambda request: (200, {"server": {}}, {"Date": date})
    findings = await outside.examine()
    assert {Level.WARNING, Level.FAULT} & set(_levels(findings, "clock"))


@pytest.mark.parametrize("answer", [b"", b"[]", b"<html>", {"server": 1}, (404, {}), (200, b"\x00" * 2_000_000)])
@pytest_twisted.ensureDeferred
async def test_no_answer_of_a_stranger_makes_the_doctor_fail(outside: Outside, answer: Any) -> None:
    outside.matrix.answers = outside.web.answers = {"/": lambda request: answer}
    assert "federation" in {check for check, _ in faults(await outside.examine())}
