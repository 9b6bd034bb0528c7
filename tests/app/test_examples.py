"""The examples run as they are written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from homeserver.model.canonical_json import encode_canonical
from homeserver.model.room_versions import V12
from tests.hostile.client import PREFIX, Actor
from tests.model.random_rooms import build_random_room
from tests.support.server import run_server

ROOT = Path(__file__).parents[2]


def test_the_rules_alone_judge_a_room_and_resolve_its_state() -> None:
    room = build_random_room(12, V12, events=40, branches=3)
    wires = b"[" + b",".join(encode_canonical(event.wire) for event in reversed(room.events)) + b"]"
    script = (
        "import runpy, sys\nrunpy.run_path(sys.argv.pop(1), run_name='__main__')\nassert 'twisted' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "examples" / "check_events.py"), "12"],
        input=wires,
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert {event.event_id for event in room.events} == {line.split()[0] for line in lines[: len(room.events)]}
    assert all(line.endswith(" allowed") for line in lines[: len(room.events)])
    resolved = json.loads("\n".join(lines[len(room.events) :]))
    assert room.create.event_id == resolved["m.room.create"]


class EchoBot:
    """The bot in a process of its own, with its files in `folder`."""

    def __init__(self, folder: Path, url: str) -> None:
        self._log = folder / "log"
        self.command = [sys.executable, str(ROOT / "examples" / "echo_bot.py"), url, "echo", "a long secret"]
        self._file = folder / "echo.json"
        self.says_goodbye = False

    def __enter__(self) -> EchoBot:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*self.command, str(self._file)], cwd=ROOT, stdout=log, stderr=log)
        wait_for(lambda: "@echo:test.example listens" in self._log.read_text(), self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.says_goodbye:
            self._process.send_signal(signal.SIGINT)
            assert 0 == self._process.wait(20.0), self
            assert "trying again" not in self._log.read_text()
        self._process.kill()
        self._process.wait()

    def __repr__(self) -> str:
        return self._log.read_text(errors="replace")


def wait_for(condition: Callable[[], Any], bot: EchoBot) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline, bot
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("url", "told"), [("http://127.0.0.1:1", "There is no answer from http://127.0.0.1:1"), ("nowhere", "no URL")]
)
def test_echo_bot_without_a_server_says_so(url: str, told: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "echo_bot.py"), url, "echo", "pw", str(tmp_path / "echo.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (1, True, False) == (done.returncode, told in done.stderr, "Traceback" in done.stderr), done.stderr


@pytest.mark.slow
def test_echo_bot_echoes_each_text_once(tmp_path: Path) -> None:
    with run_server(tmp_path / "server", f"sqlite:///{tmp_path / 'homeserver.db'}") as server:

        def call(actor: Actor, method: str, path: str, content: Any = None) -> Any:
            reply = actor.send(method, PREFIX + path, None if content is None else json.dumps(content).encode())
            assert 200 == reply.status, reply
            return reply.json

        def register(name: str) -> Actor:
            content = {"username": name, "password": "a long secret", "auth": {"type": "m.login.dummy"}}
            return Actor(server.url, name, call(Actor(server.url, name), "POST", "/register", content)["access_token"])

        def say(text: str) -> None:
            path = f"/rooms/{quote(room_id)}/send/m.room.message/{quote(text)}"
            call(alice, "PUT", path, {"msgtype": "m.text", "body": text})

        def echoes() -> list[str]:
            page = call(alice, "GET", f"/rooms/{quote(room_id)}/messages?dir=f&limit=1000")["chunk"]
            return [
                each["content"]["body"] for each in page if each["sender"] == "@echo:test.example" and is_notice(each)
            ]

        def is_notice(event: dict[str, Any]) -> bool:
            return bool(event["content"].get("msgtype") == "m.notice")

        alice = register("alice")
        register("echo")
        room_id = call(alice, "POST", "/createRoom", {})["room_id"]
        say("before")
        bot = EchoBot(tmp_path, server.url)
        refused = subprocess.run([*bot.command[:-1], "wrong"], cwd=tmp_path, capture_output=True, text=True)
        assert 1 == refused.returncode
        assert refused.stderr.startswith("The server refuses: M_FORBIDDEN"), refused.stderr
        with bot:
            call(alice, "POST", f"/rooms/{quote(room_id)}/invite", {"user_id": "@echo:test.example"})
            members = f"/rooms/{quote(room_id)}/joined_members"
            wait_for(lambda: "@echo:test.example" in call(alice, "GET", members)["joined"], bot)
            say("one")
            say("two")
            wait_for(lambda: len(echoes()) == 2, bot)
        say("three")
        say("four")
        with bot:
            wait_for(lambda: len(echoes()) == 4, bot)
            say("five")
            wait_for(lambda: len(echoes()) == 5, bot)
            noted = (tmp_path / "echo.json").read_text()
            say("six")
            wait_for(lambda: len(echoes()) == 6, bot)
        # As if it had been killed after it has answered and before it has noted that.
        (tmp_path / "echo.json").write_text(noted)
        with bot:
            bot.says_goodbye = True
            say("seven")
            wait_for(lambda: len(echoes()) >= 7, bot)
        assert ["one", "two", "three", "four", "five", "six", "seven"] == echoes()
