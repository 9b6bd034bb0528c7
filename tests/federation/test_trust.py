"""Trust between whole servers: keys over TLS, signed requests, well-known, version."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from homeserver.model.server_keys import check_notary, parse_server_keys
from homeserver.model.signing import generate_signing_key
from tests.support.federation import Federation, federation, new_database, sqlite_federation  # noqa: F401
from tests.support.played_server import Browser

PROFILE = "/_matrix/federation/v1/query/profile?user_id=%40alice%3A"


@pytest_twisted.ensureDeferred
async def test_servers_know_each_other_by_their_keys(federation: Federation) -> None:  # noqa: F811
    (one,) = await federation.start()
    played = await federation.play()
    alice = await one.register("alice")
    status, keys = await played.get(one.name, "/_matrix/key/v2/server")
    assert 200 == status
    assert one.name == parse_server_keys(keys, one.name, 0).server_name
    status, profile = await played.get(one.name, f"/_matrix/federation/v1/query/profile?user_id={alice.user_id}")
    assert (200, "alice") == (status, profile["displayname"])
    assert 1 == len(played.asked("/_matrix/key/v2/server"))
    # Unsigned requests fetch keys: nobody can be asked to prove who he is before that.
    assert "authorization" not in played.asked("/_matrix/key/v2/server")[0].headers


@pytest_twisted.ensureDeferred
async def test_server_whose_keys_cannot_be_had_is_unauthorized(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    played = await sqlite_federation.play()
    wrong = generate_signing_key(b"\x05" * 32, "played")
    answers = [
        await played.get(one.name, f"{PROFILE}{one.name}", key=wrong),
        await played.get(one.name, f"{PROFILE}{one.name}", origin="127.0.0.250:1"),
        await played.get(one.name, f"{PROFILE}{one.name}", destination="other.example"),
        await played.get(one.name, f"{PROFILE}{one.name}", headers={"Authorization": []}),
        await played.get(one.name, f"{PROFILE}{one.name}", headers={"Authorization": ["X-Matrix a=b"] * 2}),
    ]
    assert [(401, "M_UNAUTHORIZED")] * 5 == [(each.status, each.json["errcode"]) for each in answers]


@pytest_twisted.ensureDeferred
async def test_characters_that_proxies_mangle_are_signed_as_they_come(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    played = await sqlite_federation.play()
    for path in ("/_matrix/federation/v1/event/%24a%2Fb", "/_matrix/federation/v1/event/$a%3Ab?x=%7E~+%20&y=;"):
        assert 401 != (await played.get(one.name, path)).status


@pytest_twisted.ensureDeferred
async def test_one_server_vouches_for_the_keys_of_another(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start()
    played = await sqlite_federation.play()
    status, answer = await played.get(one.name, f"/_matrix/key/v2/query/{played.name}")
    (wire,) = answer["server_keys"]
    own = parse_server_keys((await played.get(one.name, "/_matrix/key/v2/server")).json, one.name, 0)
    check_notary(wire, one.name, {key_id: key.key for key_id, key in own.keys.items()})
    assert (200, played.name) == (status, wire["server_name"])


@pytest_twisted.ensureDeferred
async def test_well_known_and_version_are_served(sqlite_federation: Federation) -> None:  # noqa: F811
    (one,) = await sqlite_federation.start(server={"serve_server_wellknown": True})
    (two,) = await sqlite_federation.start()
    assert (200, {"m.server": "127.0.0.1:443"}) == tuple(await one.request("GET", "/.well-known/matrix/server"))
    assert 404 == (await two.request("GET", "/.well-known/matrix/server")).status
    status, answer = await two.request("GET", "/_matrix/federation/v1/version")
    assert (200, "Sennit") == (status, answer["server"]["name"])


@pytest_twisted.ensureDeferred
async def test_old_keys_of_the_configuration_are_published(sqlite_federation: Federation) -> None:  # noqa: F811
    old = generate_signing_key(b"\x06" * 32, "old")
    server = {"old_signing_keys": {"ed25519:old": {"key": old.verify_key_base64, "expired_ts": 7}}}
    (one,) = await sqlite_federation.start(server=server)
    answer = await one.request("GET", "/_matrix/key/v2/server")
    assert {"ed25519:old": {"key": old.verify_key_base64, "expired_ts": 7}} == answer.json["old_verify_keys"]
    read = parse_server_keys(answer.json, one.name, 0)
    assert old.verify_key == read.unexpired_key("ed25519:old", 7)


@pytest.mark.parametrize(
    "settings", [{"enabled": False}, {"domain_whitelist": ["friend.example"]}], ids=["disabled", "whitelist"]
)
@pytest_twisted.ensureDeferred
async def test_server_that_does_not_federate_answers_nobody(
    sqlite_federation: Federation,  # noqa: F811
    settings: dict[str, Any],
) -> None:
    (one,) = await sqlite_federation.start(federation=settings)
    played = await sqlite_federation.play()
    answer = await played.get(one.name, f"{PROFILE}{one.name}")
    assert answer.status in (403, 404)
    assert [] == played.requests


@pytest_twisted.ensureDeferred
async def test_pinned_notary_is_asked_when_a_server_is_away(sqlite_federation: Federation) -> None:  # noqa: F811
    (notary,) = await sqlite_federation.start()
    away = await sqlite_federation.play()
    browser = Browser(sqlite_federation.authority)
    # The notary gets to know the server while it is there.
    assert 404 == (await away.get(notary.name, f"{PROFILE}{notary.name}")).status
    keys = json.loads((await browser.request("GET", f"{notary.url}/_matrix/key/v2/server")).body)
    pins = {key_id: key["key"] for key_id, key in keys["verify_keys"].items()}
    (one,) = await sqlite_federation.start(
        federation={"trusted_key_servers": [{"server_name": notary.name, "verify_keys": pins}]}
    )
    away.answers["/_matrix/key/v2/server"] = lambda request: (500, {})
    assert 404 == (await away.get(one.name, f"{PROFILE}{one.name}")).status
