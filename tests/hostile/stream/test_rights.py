"""Whoever loses the right to be there in mid-stream is told so, and nothing more."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.hostile.client import Actor
from tests.support.server import ROOT, RunningServer
from tests.support.stream_wire import Closed, Refused, Wire, dial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unharmed")]

PASSWORD = "correct horse"
# What `refreshable_access_token_lifetime_ms` says in conftest.py.
LIFETIME_S = 4


def proof(actor: Actor) -> dict[str, object]:
    """Return the proof of identity that sensitive requests ask for."""
    user = {"type": "m.id.user", "user": actor.user_id}
    return {"type": "m.login.password", "identifier": user, "password": PASSWORD}


def another_device(actor: Actor) -> Actor:
    """Log the same user in once more."""
    second = Actor(actor.url, actor.name)
    answer = second.call(
        "POST",
        "/login",
        {"type": "m.login.password", **{"identifier": proof(actor)["identifier"]}, "password": PASSWORD},
    )
    second.token, second.user_id, second.device_id = answer["access_token"], answer["user_id"], answer["device_id"]
    return second


def log_out(actor: Actor, _: Actor) -> None:
    actor.call("POST", "/logout", {})


def log_out_everywhere(_: Actor, second: Actor) -> None:
    second.call("POST", "/logout/all", {})


def delete_device(actor: Actor, second: Actor) -> None:
    body = json.dumps({"auth": proof(actor)}).encode()
    reply = second.send("DELETE", f"/_matrix/client/v3/devices/{actor.device_id}", body)
    assert 200 == reply.status, reply


def delete_devices(actor: Actor, second: Actor) -> None:
    second.call("POST", "/delete_devices", {"devices": [actor.device_id], "auth": proof(actor)})


def change_password(actor: Actor, second: Actor) -> None:
    second.call("POST", "/account/password", {"new_password": "battery staple", "auth": proof(actor)})


def deactivate(actor: Actor, second: Actor) -> None:
    second.call("POST", "/account/deactivate", {"auth": proof(actor)})


WAYS: dict[str, Callable[[Actor, Actor], None]] = {
    "logged out": log_out,
    "logged out everywhere": log_out_everywhere,
    "the device is deleted": delete_device,
    "several devices are deleted": delete_devices,
    "the password is changed": change_password,
    "the account is deactivated": deactivate,
}


def assert_told(wire: Wire, *errcodes: str) -> None:
    closed = wire.ending(5)
    assert 4401 == closed.code, closed
    assert closed.reason.startswith(errcodes), closed


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_who_loses_the_token_is_told_and_let_go(mallory: Actor, way: Callable[[Actor, Actor], None]) -> None:
    second = another_device(mallory)
    with dial(mallory.url, token=mallory.token) as first, dial(mallory.url) as other:
        other.call(1, "auth", {"access_token": mallory.token})
        way(mallory, second)
        for wire in (first, other):
            assert_told(wire, "M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED")
    with pytest.raises(Refused) as caught:
        dial(mallory.url, token=mallory.token)
    assert caught.value.status in (401, 403)


@pytest.mark.parametrize("way", [delete_device, change_password, log_out], ids=["deleted", "password", "logged out"])
def test_other_devices_and_users_stay(mallory: Actor, way: Callable[[Actor, Actor], None]) -> None:
    second = another_device(mallory)
    stranger = Actor(mallory.url, "stranger").register()
    with dial(mallory.url, token=second.token) as stays, dial(mallory.url, token=stranger.token) as other:
        way(mallory, second)
        time.sleep(0.2)
        assert {"id": 1, "result": {}} == stays.call(1, "ping")
        assert {"id": 1, "result": {}} == other.call(1, "ping")


@pytest.mark.parametrize("verb", ["passwd", "deactivate"])
def test_who_is_put_out_by_the_operator_is_told(running: RunningServer, mallory: Actor, verb: str) -> None:
    localpart = mallory.user_id[1:].partition(":")[0]
    with dial(mallory.url, token=mallory.token) as wire:
        done = subprocess.run(
            [sys.executable, "-m", "homeserver", "user", verb, "-c", str(running.folder / "config.toml"), localpart],
            input=b"battery staple\nbattery staple\n",
            capture_output=True,
            cwd=ROOT,
            timeout=30,
        )
        assert 0 == done.returncode, done.stderr
        assert_told(wire, "M_UNKNOWN_TOKEN", "M_USER_DEACTIVATED")


def test_nothing_is_done_after_a_logout_was_answered(mallory: Actor) -> None:
    """Whoever has got the answer to /logout may rely on it: also what comes in the same moment is refused."""
    room_id = mallory.create_room()
    for number in range(15):
        second = another_device(mallory)
        with dial(mallory.url, token=second.token) as wire:
            params = {"room_id": room_id, "event_type": "m.x", "content": {}}
            assert "result" in wire.call(f"warm{number}", "send", params)
            second.call("POST", "/logout", {})
            try:
                answer = wire.call(f"late{number}", "send", params)
            except (Closed, ConnectionError):
                continue
            assert "error" in answer, "a message of somebody who was logged out"


def test_events_that_come_after_a_logout_are_not_told(mallory: Actor) -> None:
    room_id = mallory.create_room()
    for _ in range(15):
        second = another_device(mallory)
        with dial(mallory.url, token=second.token, query=f"since={mallory.sync()['next_batch']}") as wire:
            wire.call(1, "ping")
            second.call("POST", "/logout", {})
            event_id = mallory.say(room_id)
            with pytest.raises(Closed):
                while True:
                    assert event_id not in wire.read_message(5).decode()


def refreshable(actor: Actor) -> tuple[Actor, str]:
    """Log in with a token that lasts `LIFETIME_S`; return it with what refreshes it."""
    second = Actor(actor.url, actor.name)
    answer = second.call(
        "POST",
        "/login",
        {
            "type": "m.login.password",
            "identifier": proof(actor)["identifier"],
            "password": PASSWORD,
            "refresh_token": True,
        },
    )
    second.token, second.user_id, second.device_id = answer["access_token"], answer["user_id"], answer["device_id"]
    return second, answer["refresh_token"]


def test_an_expired_token_is_a_soft_logout(mallory: Actor) -> None:
    before = time.monotonic()
    second, refresh = refreshable(mallory)
    after = time.monotonic()
    with dial(mallory.url, token=second.token) as wire:
        closed = wire.ending(15)
        assert (4402, True) == (closed.code, closed.reason.startswith("M_UNKNOWN_TOKEN")), closed
        # Not before its time, and soon after it: the seconds are for a machine that is busy.
        assert before + LIFETIME_S <= time.monotonic() < after + LIFETIME_S + 5
    with pytest.raises(Refused) as caught:
        dial(mallory.url, token=second.token)
    assert (401, True) == (caught.value.status, caught.value.json["soft_logout"])
    with dial(mallory.url) as late:
        late.request(1, "auth", {"access_token": second.token})
        assert 4402 == late.ending().code
    renewed = Actor(mallory.url, "x").call("POST", "/refresh", {"refresh_token": refresh})
    with dial(mallory.url, token=renewed["access_token"]) as wire:
        assert {"id": 1, "result": {}} == wire.call(1, "ping")


def test_a_fresh_token_keeps_a_stream_open(mallory: Actor) -> None:
    second, refresh = refreshable(mallory)
    with dial(mallory.url, token=second.token) as wire:
        wire.call(1, "ping")
        time.sleep(2)
        renewed = Actor(mallory.url, "x").call("POST", "/refresh", {"refresh_token": refresh})
        assert "result" in wire.call(2, "auth", {"access_token": renewed["access_token"]})
        time.sleep(3)
        assert {"id": 3, "result": {}} == wire.call(3, "ping")


def test_who_leaves_a_room_hears_no_more_of_it(mallory: Actor) -> None:
    owner = Actor(mallory.url, "owner").register()
    room_id = owner.create_room()
    mallory.call("POST", f"/join/{room_id}", {})
    with dial(mallory.url, token=mallory.token, query=f"since={mallory.sync()['next_batch']}") as wire:
        wire.call(1, "ping")
        owner.call("POST", f"/rooms/{room_id}/kick", {"user_id": mallory.user_id})
        secret = owner.say(room_id, "gone?")
        answer = wire.call("late", "send", {"room_id": room_id, "event_type": "m.x", "content": {}})
        assert "M_FORBIDDEN" == answer["error"]["errcode"]
        mallory.say(mallory.create_room(), "end")
        text = json.dumps(wire.updates)
        while '"end"' not in text:
            text += json.dumps(wire.update())
        assert secret not in text
