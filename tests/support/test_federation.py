"""The servers that other tests are made of: do they start, speak TLS, answer and ask?"""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from homeserver.model.server_keys import parse_server_keys

from .certificates import Authority
from .federation import Federation, federation, new_database, sqlite_federation  # noqa: F401
from .played_server import NO_ANSWER, Browser, PlayedRequest, pause, until


@pytest_twisted.ensureDeferred
async def test_played_server_publishes_its_key_and_remembers_who_asked(sqlite_federation: Federation) -> None:  # noqa: F811
    one, two = await sqlite_federation.play(), await sqlite_federation.play()
    status, answer = await two.get(one.name, "/_matrix/key/v2/server?a=%2F")
    assert 200 == status
    keys = parse_server_keys(answer, one.name, 0)
    assert {one.key.key_id} == set(keys.keys)
    (request,) = one.requests
    assert "GET", "/_matrix/key/v2/server?a=%2F" == (request.method, request.uri)
    assert request.headers["authorization"].startswith(f'X-Matrix origin="{two.name}",destination="{one.name}"')


@pytest_twisted.ensureDeferred
async def test_played_server_answers_what_it_is_told_to(sqlite_federation: Federation) -> None:  # noqa: F811
    played = await sqlite_federation.play()

    async def late(request: PlayedRequest) -> Any:
        await pause(0.01)
        return 403, {"errcode": "M_FORBIDDEN", "heard": request.json}

    played.answers["/a"] = lambda request: b"[1]"
    played.answers["/a/b"] = late
    assert (200, [1]) == tuple(await played.get(played.name, "/a"))
    answer = await played.put(played.name, "/a/b/c", {"x": 1})
    assert (403, {"errcode": "M_FORBIDDEN", "heard": {"x": 1}}) == tuple(answer)
    assert 404 == (await played.get(played.name, "/b")).status
    assert 2 == len(played.asked("/a"))


@pytest_twisted.ensureDeferred
async def test_stopped_played_server_refuses_and_starts_again(sqlite_federation: Federation) -> None:  # noqa: F811
    played = await sqlite_federation.play()
    played.answers["/never"] = lambda request: NO_ANSWER
    await played.stop()
    with pytest.raises(Exception, match="refused"):
        await played.get(played.name, "/x")
    await played.start()
    assert 404 == (await played.get(played.name, "/x")).status


@pytest_twisted.ensureDeferred
async def test_certificate_of_another_authority_is_not_trusted(sqlite_federation: Federation, tmp_path: Any) -> None:  # noqa: F811
    played = await sqlite_federation.play()
    stranger = Browser(Authority(tmp_path / "stranger"))
    with pytest.raises(Exception, match="certificate verify failed"):
        await stranger.request("GET", f"https://{played.name}/")


@pytest_twisted.ensureDeferred
async def test_whole_servers_serve_clients_over_tls(federation: Federation) -> None:  # noqa: F811
    one, two = await federation.start(2)
    alice, bob = await one.register("alice"), await two.register("bob")
    assert (f"@alice:{one.name}", f"@bob:{two.name}") == (alice.user_id, bob.user_id)
    room_id = await alice.create_room(name="Tea")
    await alice.say(room_id, "hello")
    await one.stop()
    await one.start()
    assert ["hello"] == await alice.bodies(room_id)
    assert await until(lambda: alice.state(room_id))
