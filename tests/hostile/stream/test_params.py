"""Every method x every param x every bad value: an answer, never a fault of the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.hostile.client import Actor
from tests.hostile.inputs import WRONG_VALUES
from tests.support.stream_wire import Closed, Wire, dial

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unharmed")]

ROOM, EVENT, USER, DEVICE = "{room}", "{event}", "{user}", "{device}"
METHODS: dict[str, dict[str, Any]] = {
    "ping": {},
    "send": {"room_id": ROOM, "event_type": "m.x", "content": {"a": 1}},
    "state": {"room_id": ROOM, "event_type": "m.x", "state_key": "k", "content": {"a": 1}},
    "redact": {"room_id": ROOM, "event_id": EVENT, "reason": "why"},
    "typing": {"room_id": ROOM, "typing": True, "timeout": 1000},
    "receipt": {"room_id": ROOM, "event_id": EVENT, "receipt_type": "m.read", "thread_id": "main"},
    "read_markers": {"room_id": ROOM, "m.fully_read": EVENT, "m.read": EVENT, "m.read.private": EVENT},
    "presence": {"presence": "online", "status_msg": "here"},
    "messages": {"room_id": ROOM, "dir": "b", "from": "p5", "to": "p1", "limit": 3, "filter": {"types": ["m.x"]}},
    "to_device": {"event_type": "m.x", "messages": {USER: {DEVICE: {"a": 1}}}},
    "sync": {"filter": {"presence": {"types": []}}, "set_presence": "online"},
    "ack": {"next_batch": "s1"},
    "auth": {"access_token": "x", "since": "s1", "filter": {}, "set_presence": "online", "use_state_after": True},
}
MORE_VALUES: tuple[Any, ...] = (
    "!x",
    "!x:y",
    "$x",
    "@x:y",
    "#x:y",
    "s1",
    "p1",
    "f",
    "m.room.create",
    "m.room.member",
    "!" + "x" * 300 + ":y",
    "\U0010ffff\uffff",
    "a/b?c#d%00%2f",
    {"*": {"*": {}}},
    {"@x:y": {"*": []}},
    {"@x:y": 1},
    {"a": [[]] * 1000},
    [{}] * 1000,
    {f"k{n}": n for n in range(2000)},
)
VALUES = (*WRONG_VALUES, *MORE_VALUES)


class Scene:
    """A room, and a stream to it."""

    def __init__(self, actor: Actor, wire: Wire) -> None:
        self.wire = wire
        self.room_id = actor.create_room()
        self.names = {
            ROOM: self.room_id,
            EVENT: actor.say(self.room_id),
            USER: actor.user_id,
            DEVICE: actor.device_id,
        }
        self.faults: list[str] = []
        self._count = 0

    def good(self, method: str) -> dict[str, Any]:
        """Return params that are right."""

        def filled(value: Any) -> Any:
            if isinstance(value, str):
                return self.names.get(value, value)
            if isinstance(value, dict):
                return {filled(key): filled(each) for key, each in value.items()}
            return value

        found = filled(METHODS[method])
        assert isinstance(found, dict)
        return found

    def attack(self, method: str, params: Any) -> None:
        """Send a request, and note whether its answer is anything but a result or a proper error."""
        self._count += 1
        try:
            answer = self.wire.call(self._count, method, params)
        except Closed as closed:
            pytest.fail(f"{method} {json.dumps(params)[:200]}: closed with {closed}")
        self.wire.updates.clear()
        error = answer.get("error")
        if error is None:
            is_proper = isinstance(answer.get("result"), dict)
        else:
            # What is wrong is known by a name, and the fault is the client's.
            is_proper = str(error.get("errcode")).startswith("M_") and "nternal" not in error["error"]
            is_proper = is_proper and len(json.dumps(error)) < 3_000
        if not is_proper:
            self.faults.append(f"{method} {json.dumps(params)[:200]}: {json.dumps(answer)[:300]}")


@pytest.fixture
def scene(mallory: Actor, wire: Wire) -> Scene:
    return Scene(mallory, wire)


@pytest.mark.in_turns
@pytest.mark.parametrize("method", METHODS)
def test_right_params_are_right(scene: Scene, method: str) -> None:
    if method != "auth":
        assert "result" in scene.wire.call("right", method, scene.good(method))


@pytest.mark.in_turns
@pytest.mark.parametrize("method", METHODS)
def test_params_of_wrong_types_do_no_harm(scene: Scene, method: str) -> None:
    good = scene.good(method)
    for value in VALUES:
        scene.attack(method, value)
        for name in good:
            scene.attack(method, {**good, name: value})
    for name in good:
        scene.attack(method, {key: value for key, value in good.items() if key != name})
    scene.attack(method, {**good, "unknown": 1, "": {}, "\0": None})
    assert [] == scene.faults, "\n".join([f"{len(scene.faults)} faults", *scene.faults[:40]])
    assert {"id": "after", "result": {}} == scene.wire.call("after", "ping")


def test_lone_surrogates_and_nul_in_content_do_no_harm(scene: Scene, mallory: Actor) -> None:
    before = mallory.newest(scene.room_id)
    for content in (
        r'{"a":"\ud800"}',
        r'{"\udfff":1}',
        r'{"a":1.5}',
        r'{"a":1e400}',
        r'{"a":9007199254740993}',
        '{"a":NaN}',
    ):
        params = f'{{"room_id":"{scene.room_id}","event_type":"m.x","content":{content}}}'
        scene.wire.text(f'{{"id":"odd","method":"send","params":{params}}}')
        answer = scene.wire.reply()
        assert answer["error"]["errcode"] in ("M_NOT_JSON", "M_BAD_JSON"), answer
    assert before == mallory.newest(scene.room_id)


def test_who_may_not_does_not(mallory: Actor, wire: Wire) -> None:
    """The same checks as over HTTP: a room of others, an event of others, another user's place."""
    other = Actor(mallory.url, "owner").register()
    room_id = other.create_room(preset="private_chat")
    event_id = other.say(room_id)
    before = other.newest(room_id)
    names = {ROOM: room_id, EVENT: event_id, USER: other.user_id, DEVICE: other.device_id}
    scene = Scene(mallory, wire)
    scene.names = names
    for method in ("send", "state", "redact", "typing", "receipt", "read_markers", "messages"):
        answer = wire.call(f"not {method}", method, scene.good(method))
        assert answer["error"]["errcode"] in ("M_FORBIDDEN", "M_NOT_FOUND"), (method, answer)
        nowhere = {**scene.good(method), "room_id": "!nowhere:test.example"}
        again = wire.call(f"no {method}", method, nowhere)
        assert answer["error"]["errcode"] == again["error"]["errcode"], method
    assert before == other.newest(room_id)


def test_without_a_right_to_speak_nothing_is_stored(mallory: Actor) -> None:
    """Guests may read and speak where they may over HTTP, and nothing else."""
    guest = Actor(mallory.url, "guest")
    answer = guest.send("POST", "/_matrix/client/v3/register?kind=guest", b"{}")
    assert 200 == answer.status, answer
    guest.token, guest.user_id = answer.json["access_token"], answer.json["user_id"]
    guest.device_id = answer.json["device_id"]
    with dial(guest.url, token=guest.token) as wire:
        scene_room = mallory.create_room()
        for method, params in METHODS.items():
            filled = {key: scene_room if value == ROOM else value for key, value in params.items()}
            answer_to = wire.call(method, method, filled)
            if method in ("send", "state", "redact", "typing", "receipt", "messages"):
                assert answer_to["error"]["errcode"].startswith("M_"), (method, answer_to)
