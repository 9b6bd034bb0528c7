"""Application services at the client API: acting as users, making them, aliases, pings and questions back."""

from __future__ import annotations

from typing import Any

import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred

from tests.support.appservice import AS_TOKEN, HS_TOKEN, SERVER, Asked, Bridged

SERVICE_LOGIN = "m.login.application_service"
PING = "/_matrix/client/v1/appservice/bridge/ping"


@pytest_twisted.ensureDeferred
async def test_service_acts_as_its_sender_and_as_its_users(bridged: Bridged) -> None:
    await bridged.start()
    assert {"user_id": f"@_bridge_bot:{SERVER}", "is_guest": False} == await bridged.act("GET", "account/whoami")
    ghost = await bridged.ghost("_bridge_ghost")
    answer = await bridged.act("GET", "account/whoami", user_id=ghost)
    assert ghost == answer["user_id"]
    await bridged.user("alice")
    for user_id in (f"@alice:{SERVER}", f"@_bridge_nobody:{SERVER}", "@_bridge_ghost:elsewhere.org", "nonsense"):
        status, answer = await bridged.call("GET", "account/whoami", token=AS_TOKEN, user_id=user_id)
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    status, answer = await bridged.call("GET", "account/whoami", token="no token of anybody", user_id=ghost)
    assert (401, "M_UNKNOWN_TOKEN") == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_service_makes_users_in_its_namespace_only(bridged: Bridged) -> None:
    await bridged.start()

    async def register(token: str | None, username: str, kind: str | None = SERVICE_LOGIN) -> tuple[int, str]:
        body: dict[str, Any] = {"username": username, "password": "correct horse"}
        if kind is not None:
            body["type"] = kind
        else:
            body["auth"] = {"type": "m.login.dummy"}
        status, answer = await bridged.call("POST", "register", body, token=token)
        return status, answer.get("errcode", answer.get("user_id"))

    assert (200, f"@_bridge_a:{SERVER}") == await register(AS_TOKEN, "_bridge_a")
    assert (400, "M_USER_IN_USE") == await register(AS_TOKEN, "_bridge_a")
    assert (400, "M_EXCLUSIVE") == await register(AS_TOKEN, "alice")
    assert (400, "M_INVALID_USERNAME") == await register(AS_TOKEN, "_bridge_ä")
    assert (401, "M_MISSING_TOKEN") == await register(None, "_bridge_b")
    assert (401, "M_UNKNOWN_TOKEN") == await register("wrong", "_bridge_b")


@pytest_twisted.ensureDeferred
async def test_name_with_an_underscore_is_refused_as_whose_it_is(bridged: Bridged) -> None:
    """Spec: application service API, "Server admin style permissions"."""
    await bridged.start()
    for name, errcode in (("_bridge_eve", "M_EXCLUSIVE"), ("_eve", "M_INVALID_USERNAME")):
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, answer = await bridged.call("POST", "register", body)
        assert (400, errcode) == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_exclusive_names_are_refused_to_people(bridged: Bridged) -> None:
    namespaces = {
        "users": [{"exclusive": True, "regex": "@bridge-.*"}, {"exclusive": False, "regex": "@open-.*"}],
        "aliases": [{"exclusive": True, "regex": "#bridge-.*"}],
    }
    bridged.registrations = [bridged.registration(namespaces=namespaces)]
    await bridged.start()
    body = {"username": "bridge-a", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    status, answer = await bridged.call("POST", "register", body)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    await bridged.user("open-a")
    alice = await bridged.user("alice")
    status, answer = await bridged.call("POST", "createRoom", {"room_alias_name": "bridge-room"}, token=alice)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    room_id = (await bridged.ok("POST", "createRoom", {"preset": "public_chat"}, token=alice))["room_id"]
    alias = f"directory/room/%23bridge-room%3A{SERVER}"
    status, answer = await bridged.call("PUT", alias, {"room_id": room_id}, token=alice)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    await bridged.act("POST", f"join/{room_id}", {})
    await bridged.act("PUT", alias, {"room_id": room_id})
    status, answer = await bridged.call("DELETE", alias, token=alice)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    other = f"directory/room/%23other%3A{SERVER}"
    status, answer = await bridged.call("PUT", other, {"room_id": room_id}, token=AS_TOKEN)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    await bridged.act("DELETE", alias)


@pytest_twisted.ensureDeferred
async def test_service_logs_in_as_its_users(bridged: Bridged) -> None:
    await bridged.start()
    assert {"type": SERVICE_LOGIN} in (await bridged.ok("GET", "login"))["flows"]
    ghost = await bridged.ghost("_bridge_ghost")
    body = {"type": SERVICE_LOGIN, "identifier": {"type": "m.id.user", "user": "_bridge_ghost"}, "device_id": "DEV"}
    login = await bridged.act("POST", "login", body)
    answer = await bridged.ok("GET", "account/whoami", token=login["access_token"])
    assert (ghost, "DEV") == (answer["user_id"], answer["device_id"])
    for name in ("device_id", "org.matrix.msc3202.device_id"):
        answer = await bridged.act("GET", "account/whoami", user_id=ghost, **{name: "DEV"})
        assert "DEV" == answer["device_id"]
    status, answer = await bridged.call("GET", "account/whoami", token=AS_TOKEN, user_id=ghost, device_id="NONE")
    assert (400, "M_UNKNOWN_DEVICE") == (status, answer["errcode"])
    body["identifier"] = {"type": "m.id.user", "user": "alice"}
    status, answer = await bridged.call("POST", "login", body, token=AS_TOKEN)
    assert (400, "M_EXCLUSIVE") == (status, answer["errcode"])
    status, answer = await bridged.call("POST", "login", body)
    assert (401, "M_MISSING_TOKEN") == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_service_makes_and_deletes_devices(bridged: Bridged) -> None:
    bridged.registrations = [bridged.registration(**{"io.element.msc4190": True})]
    await bridged.start()
    ghost = await bridged.ghost("_bridge_ghost")
    status, _ = await bridged.call("PUT", "devices/NEW", {"display_name": "one"}, token=AS_TOKEN, user_id=ghost)
    assert 201 == status
    await bridged.act("PUT", "devices/NEW", {"display_name": "two"}, user_id=ghost)
    device = await bridged.act("GET", "devices/NEW", user_id=ghost, device_id="NEW")
    assert "two" == device["display_name"]
    await bridged.act("DELETE", "devices/NEW", {}, user_id=ghost)
    status, answer = await bridged.call("GET", "account/whoami", token=AS_TOKEN, user_id=ghost, device_id="NEW")
    assert (400, "M_UNKNOWN_DEVICE") == (status, answer["errcode"])
    for path in ("register", "login"):
        body = {"type": SERVICE_LOGIN, "username": "_bridge_b", "user": "_bridge_ghost"}
        status, answer = await bridged.call("POST", path, body, token=AS_TOKEN)
        assert (400, "M_APPSERVICE_LOGIN_UNSUPPORTED") == (status, answer["errcode"])


@pytest_twisted.ensureDeferred
async def test_service_says_when_an_event_was_sent_and_sends_it_once(bridged: Bridged) -> None:
    await bridged.start()
    room_id = (await bridged.act("POST", "createRoom", {}))["room_id"]
    first = await bridged.say(room_id, "old news", AS_TOKEN, ts="1234567890")
    assert first == await bridged.say(room_id, "old news", AS_TOKEN, ts="1234567890")
    event = await bridged.act("GET", f"rooms/{room_id}/event/{first}")
    assert 1234567890 == event["origin_server_ts"]
    alice = await bridged.user("alice")
    other = (await bridged.ok("POST", "createRoom", {}, token=alice))["room_id"]
    event_id = await bridged.say(other, "now", alice, ts="1234567890")
    event = await bridged.ok("GET", f"rooms/{other}/event/{event_id}", token=alice)
    assert 1234567890 != event["origin_server_ts"]


@pytest_twisted.ensureDeferred
async def test_service_is_limited_as_its_registration_says(bridged: Bridged) -> None:
    bridged.limits["message"] = {"per_second": 0.01, "burst_count": 3}
    bridged.registrations = [
        bridged.registration(),
        bridged.registration(
            id="slow", as_token="slow", sender_localpart="_slow", rate_limited=True, url=None,
            namespaces={"users": [{"exclusive": True, "regex": "@_slow_.*"}]},
        ),
    ]  # fmt: skip
    await bridged.start()
    for token, name, expected in ((AS_TOKEN, "_bridge_ghost", 200), ("slow", "_slow_ghost", 429)):
        body = {"type": SERVICE_LOGIN, "username": name, "inhibit_login": True}
        ghost = (await bridged.ok("POST", "register", body, token=token))["user_id"]
        room_id = (await bridged.ok("POST", "createRoom", {}, token=token, user_id=ghost))["room_id"]
        path = f"rooms/{room_id}/send/m.room.message"
        seen = [
            (await bridged.call("PUT", f"{path}/{number}", {"body": "x"}, token=token, user_id=ghost))[0]
            for number in range(5)
        ]
        assert expected == seen[-1]


@pytest_twisted.ensureDeferred
async def test_unknown_user_of_a_service_is_asked_for_when_invited(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    ghost, nobody = f"@_bridge_made:{SERVER}", f"@_bridge_nobody:{SERVER}"
    making: list[Deferred[Any]] = []

    def answer(asked: Asked) -> int | None:
        if asked.path == f"/_matrix/app/v1/users/{ghost}":
            making.append(ensureDeferred(bridged.ghost("_bridge_made")))
        return 404 if "/users/" in asked.path and ghost not in asked.path else 200

    bridged.service.answer = answer
    room_id = (await bridged.ok("POST", "createRoom", {}, token=alice))["room_id"]
    # The service answers before it has made the user: the invite fails, and goes through once it is there.
    await bridged.call("POST", f"rooms/{room_id}/invite", {"user_id": ghost}, token=alice)
    await making[0]
    await bridged.ok("POST", f"rooms/{room_id}/invite", {"user_id": ghost}, token=alice)
    status, _ = await bridged.call("POST", f"rooms/{room_id}/invite", {"user_id": nobody}, token=alice)
    assert 404 == status
    asked = [each for each in bridged.service.asked if "/users/" in each.path]
    assert ("GET", HS_TOKEN) == (asked[0].method, asked[0].token)


@pytest_twisted.ensureDeferred
async def test_unknown_alias_of_a_service_is_asked_for_when_joined(bridged: Bridged) -> None:
    await bridged.start()
    alice = await bridged.user("alice")
    bridged.service.answer = lambda asked: 404 if "/rooms/" in asked.path else 200
    status, _ = await bridged.call("POST", f"join/%23_bridge_room%3A{SERVER}", {}, token=alice)
    assert 404 == status
    assert f"/_matrix/app/v1/rooms/#_bridge_room:{SERVER}" in [asked.path for asked in bridged.service.asked]
    asked = len(bridged.service.asked)
    status, _ = await bridged.call("POST", f"join/%23other%3A{SERVER}", {}, token=alice)
    assert (404, asked) == (status, len(bridged.service.asked))


@pytest_twisted.ensureDeferred
async def test_ping_tells_how_long_it_took_or_what_is_wrong(bridged: Bridged) -> None:
    bridged.registrations = [
        bridged.registration(),
        bridged.registration(id="silent", as_token="silent", sender_localpart="_silent", url=None, namespaces={}),
        # Nothing listens on this port.
        bridged.registration(
            id="gone", as_token="gone", sender_localpart="_gone", url="http://127.0.0.1:1", namespaces={}
        ),
    ]
    await bridged.start()
    answer = await bridged.act("POST", PING, {"transaction_id": "meow"})
    assert ["duration_ms"] == list(answer)
    ping = next(asked for asked in bridged.service.asked if asked.path == "/_matrix/app/v1/ping")
    assert ("POST", HS_TOKEN, {"transaction_id": "meow"}) == (ping.method, ping.token, ping.body)
    bridged.service.answer = lambda asked: 403
    status, answer = await bridged.call("POST", PING, {}, token=AS_TOKEN)
    assert (502, "M_BAD_STATUS", 403, '{"errcode":"M_TEST"}') == (
        status, answer["errcode"], answer["status"], answer["body"],
    )  # fmt: skip
    alice = await bridged.user("alice")
    for token in (alice, "silent"):
        status, answer = await bridged.call("POST", PING, {}, token=token)
        assert (403, "M_FORBIDDEN") == (status, answer["errcode"])
    status, answer = await bridged.call("POST", PING.replace("bridge", "silent"), {}, token="silent")
    assert (400, "M_URL_NOT_SET") == (status, answer["errcode"])
    status, answer = await bridged.call("POST", PING.replace("bridge", "gone"), {}, token="gone")
    assert (502, "M_CONNECTION_FAILED") == (status, answer["errcode"])
