"""Our list of keys, other servers' lists that we vouch for, and what strangers cannot make us do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_twisted

from federation.notaries import Notary, Wanted
from federation.server.keys import KeysApi, ServerWellKnown, server_discovery
from federation.server.version import VersionApi
from homeserver.config import KeyServer, Server
from homeserver.model.server_keys import check_notary, parse_server_keys
from homeserver.web.json_resource import JsonResource
from homeserver.web.request import Headers, WebRequest
from homeserver.web.router import Router
from tests.federation.keys import DAY_MS, OWN_NAME, RingServer, ring_server  # noqa: F401
from tests.support.certificates import Authority
from tests.support.played_server import PlayedServer, until

QUERY = "/_matrix/key/v2/query"


class NotaryServer:
    """Our key endpoints on a real ring."""

    def __init__(self, server: RingServer, authority: Authority, **options: Any) -> None:
        self.server = server
        self.authority = authority
        self.played: list[PlayedServer] = []
        self.resource = JsonResource(Router(KeysApi(server.own, server.ring, server.clock, **options).routes()))

    async def play(self) -> PlayedServer:
        played = PlayedServer(self.authority, f"127.0.0.{101 + len(self.played)}")
        await played.start()
        self.played.append(played)
        return played

    async def ask(self, method: str, uri: str, content: Any = None, ip: str = "10.0.0.1") -> tuple[int, Any]:
        path, _, query = uri.partition("?")
        body = b"" if content is None else json.dumps(content).encode()
        request = WebRequest(method, path, query.encode(), Headers({}), body, client_ip=ip)
        answer: Any = await self.resource.respond(request)
        return answer.status, json.loads(answer.body)


@pytest_twisted.async_yield_fixture
async def notary(ring_server: tuple[RingServer, Authority]) -> AsyncIterator[NotaryServer]:  # noqa: F811
    made = NotaryServer(*ring_server)
    yield made
    for played in made.played:
        await played.stop()


@pytest.mark.parametrize(
    "path", ["/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:any"]
)
@pytest_twisted.ensureDeferred
async def test_own_list_is_served(notary: NotaryServer, path: str) -> None:
    status, answer = await notary.ask("GET", path)
    assert 200 == status
    keys = parse_server_keys(answer, OWN_NAME, notary.server.clock.now_ms())
    assert {notary.server.own.signing.key_id} == set(keys.keys)
    assert (status, answer) == await notary.ask("GET", path)


# -- as a notary -----------------------------------------------------------------------------------------------------


def _by_path(name: str) -> tuple[str, str, Any]:
    return "GET", f"{QUERY}/{name}", None


def _by_body(name: str) -> tuple[str, str, Any]:
    return "POST", QUERY, {"server_keys": {name: {}}}


@pytest.mark.parametrize("question", [_by_path, _by_body], ids=["get", "post"])
@pytest_twisted.ensureDeferred
async def test_list_of_another_server_is_signed_by_both(
    notary: NotaryServer, question: Callable[[str], tuple[str, str, Any]]
) -> None:
    played = await notary.play()
    for _ in range(3):
        status, answer = await notary.ask(*question(played.name))
        assert 200 == status
        (wire,) = answer["server_keys"]
        own = notary.server.own.signing
        check_notary(wire, OWN_NAME, {own.key_id: own.verify_key})
        assert {played.key.key_id} == set(parse_server_keys(wire, played.name, 0).keys)
    assert 1 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_what_we_answer_satisfies_a_ring_that_trusts_us(notary: NotaryServer) -> None:
    played = await notary.play()
    own = notary.server.own.signing

    class Way:
        """Straight into our endpoint."""

        async def get_json(self, server: str, path: str, **_: Any) -> Any:
            return (await notary.ask("GET", path))[1]

        async def post_json(self, server: str, path: str, content: Any, **_: Any) -> Any:
            return (await notary.ask("POST", path, content))[1]

    us = KeyServer(server_name=OWN_NAME, verify_keys={own.key_id: own.verify_key_base64})
    asker = Notary(us, notary.server.clock)
    wanted = {played.name: Wanted(notary.server.clock.now_ms(), frozenset((played.key.key_id,)))}
    (found,) = await asker.ask(Way(), wanted, asker.pinned)
    assert wanted[played.name].is_met_by(found.keys)


@pytest_twisted.ensureDeferred
async def test_server_that_is_away_is_answered_for_with_what_is_known(notary: NotaryServer) -> None:
    played = await notary.play()
    await notary.server.ring.keys_of({played.name: notary.server.clock.now_ms()}, key_ids={})
    await played.stop()
    notary.server.clock.advance(3 * 24 * 3600)
    _, answer = await notary.ask(*_by_path(played.name))
    assert [played.name] == [each["server_name"] for each in answer["server_keys"]]


@pytest_twisted.ensureDeferred
async def test_list_is_fetched_again_in_the_second_half_of_its_life(notary: NotaryServer) -> None:
    played = await notary.play()
    await notary.ask(*_by_path(played.name))
    notary.server.clock.advance(10 * 3600)
    await notary.ask(*_by_path(played.name))
    assert 1 == len(played.requests)
    notary.server.clock.advance(3 * 3600)
    await notary.ask(*_by_path(played.name))
    assert 2 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_minimum_validity_causes_a_fetch(notary: NotaryServer) -> None:
    played = await notary.play()
    await notary.ask(*_by_path(played.name))
    notary.server.clock.advance(61)
    later = notary.server.clock.now_ms() + 2 * DAY_MS
    await notary.ask("GET", f"{QUERY}/{played.name}?minimum_valid_until_ts={later}")
    assert 2 == len(played.requests)


@pytest_twisted.ensureDeferred
async def test_those_that_cannot_be_had_are_left_out(notary: NotaryServer) -> None:
    played, away = await notary.play(), await notary.play()
    await away.stop()
    names = {played.name: {}, away.name: {}, OWN_NAME: {}, "no server": {}, "": {}, "a/b": None}
    status, answer = await notary.ask("POST", QUERY, {"server_keys": names})
    assert 200 == status
    assert {played.name, OWN_NAME} == {each["server_name"] for each in answer["server_keys"]}
    assert (200, {"server_keys": []}) == await notary.ask(*_by_path(away.name))


# -- strangers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "errcode"),
    [
        ({}, "M_BAD_JSON"),
        ({"server_keys": []}, "M_BAD_JSON"),
        ({"server_keys": {f"s{number}.example": {} for number in range(201)}}, "M_TOO_LARGE"),
    ],
    ids=["nothing", "list", "many"],
)
@pytest_twisted.ensureDeferred
async def test_bad_question_is_refused(notary: NotaryServer, content: Any, errcode: str) -> None:
    status, answer = await notary.ask("POST", QUERY, content)
    assert errcode == answer["errcode"]
    assert status in (400, 413)


@pytest_twisted.ensureDeferred
async def test_no_servers_have_no_lists(notary: NotaryServer) -> None:
    assert (200, {"server_keys": []}) == await notary.ask("POST", QUERY, {"server_keys": {}})


@pytest.mark.in_turns
@pytest.mark.parametrize(
    "criteria", [{"k": {"minimum_valid_until_ts": bad}} for bad in ("1", 1.5, -1, 10**30, None, [])]
)
@pytest_twisted.ensureDeferred
async def test_any_criteria_are_taken(notary: NotaryServer, criteria: Any) -> None:
    status, answer = await notary.ask("POST", QUERY, {"server_keys": {OWN_NAME: criteria}})
    assert (200, 1) == (status, len(answer["server_keys"]))


@pytest_twisted.ensureDeferred
async def test_one_address_makes_us_ask_only_so_many_servers(notary: NotaryServer) -> None:
    names = {f"127.0.0.1:{1 + number}": {} for number in range(200)}
    assert (200, {"server_keys": []}) == await notary.ask("POST", QUERY, {"server_keys": names})
    assert 50 == len(notary.server.fetcher.calls)
    assert (200, {"server_keys": []}) == await notary.ask("POST", QUERY, {"server_keys": names})
    assert 50 == len(notary.server.fetcher.calls)
    await until(lambda: not notary.server.tasks.names)


@pytest_twisted.ensureDeferred
async def test_one_address_gets_only_so_many_lists(notary: NotaryServer) -> None:
    names = {f"127.0.0.1:{1 + number}": {} for number in range(199)}
    for _ in range(5):
        await notary.ask("POST", QUERY, {"server_keys": names | {OWN_NAME: {}}})
    assert 429 == (await notary.ask(*_by_path(OWN_NAME)))[0]
    assert 200 == (await notary.ask(*_by_path(OWN_NAME), ip="10.0.0.2"))[0]


@pytest_twisted.ensureDeferred
async def test_with_a_whitelist_others_are_not_asked(ring_server: tuple[RingServer, Authority]) -> None:  # noqa: F811
    notary = NotaryServer(*ring_server, whitelist=("friend.example",))
    assert (200, {"server_keys": []}) == await notary.ask(*_by_path("127.0.0.1:1"))
    assert [] == notary.server.fetcher.calls


# -- what needs no keys ----------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_version_is_told() -> None:
    resource = JsonResource(Router(VersionApi("1.2").routes()))
    answer: Any = await resource.respond(WebRequest("GET", "/_matrix/federation/v1/version"))
    assert {"server": {"name": "Sennit", "version": "1.2"}} == json.loads(answer.body)


@pytest.mark.parametrize(
    ("name", "serve", "document"),
    [
        ("example.org", True, {"m.server": "example.org:443"}),
        ("example.org:8448", True, {"m.server": "example.org:443"}),
        ("[::1]", True, {"m.server": "[::1]:443"}),
        ("[::1]:80", True, {"m.server": "[::1]:443"}),
        ("example.org", False, None),
    ],
)
def test_well_known_leads_to_port_443(name: str, serve: bool, document: Any) -> None:
    assert document == server_discovery(Server.model_validate({"name": name, "serve_server_wellknown": serve}))


@pytest.mark.parametrize(("serve", "status"), [(True, 200), (False, 404)])
@pytest_twisted.ensureDeferred
async def test_well_known_is_served_if_configured(serve: bool, status: int) -> None:
    server = Server.model_validate({"name": "example.org", "serve_server_wellknown": serve})
    resource = JsonResource(Router(ServerWellKnown(server).routes()))
    answer: Any = await resource.respond(WebRequest("GET", "/.well-known/matrix/server"))
    assert status == answer.status
