"""The chat as people use it: in terminals, against a running server."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.server import ROOT, RunningServer, run_server

from .terminal import Terminal

PASSWORD = "correct horse battery"
pytestmark = pytest.mark.slow


@dataclass
class Town:
    """A server, and people who chat on it; each has a folder of their own."""

    server: RunningServer
    folder: Path
    people: list[str] = field(default_factory=list)

    def environment(self, name: str) -> dict[str, str]:
        """What a person's programs are given."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "",
        }

    def command(self, name: str, *arguments: str) -> list[str]:
        """How a person starts the chat."""
        url = self.server.url
        return [sys.executable, "-m", "homeserver", "chat", url, "--user", name, *arguments]

    def terminal(self, name: str, *arguments: str) -> Terminal:
        """Start the chat of a person in a terminal."""
        environment = self.environment(name)
        return Terminal(self.command(name, *arguments), cwd=self.folder / name, environment=environment)

    def newcomer(self, name: str) -> Terminal:
        """Start the chat of a person who makes an account, and wait until it is on the screen."""
        terminal = self.terminal(name, "--register")
        terminal.wait_for(f"Password of {name}:")
        terminal.enter(PASSWORD)
        terminal.wait_for("Once more:")
        terminal.enter(PASSWORD)
        terminal.wait_for("connected")
        return terminal

    def say(self, name: str, *lines: str, arguments: tuple[str, ...] = ()) -> list[str]:
        """Let a person type lines into a plain chat, and return what it wrote."""
        done = self.script(name, *lines, arguments=arguments)
        assert (0, "") == (done.returncode, done.stderr), done.stdout
        return done.stdout.splitlines()

    def script(self, name: str, *lines: str, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        """Hand lines to a plain chat, and return what has become of it."""
        return subprocess.run(
            self.command(name, "--plain", *arguments),
            input="".join(f"{line}\n" for line in lines),
            capture_output=True,
            text=True,
            timeout=60,
            env={"LANG": "C.UTF-8", "TZ": "UTC", **self.environment(name)},
            cwd=self.folder / name,
        )

    def settle(self, name: str, *lines: str) -> list[str]:
        """Make an account by way of the plain chat."""
        self.environment(name)
        password = self.folder / name / "password"
        password.write_text(PASSWORD + "\n")
        return self.say(name, *lines, arguments=("--register", "--password-from", str(password)))

    def session(self, name: str) -> Path:
        """The file in which a person's session is remembered."""
        [path] = (self.folder / name / "state" / "sennit" / "chat").glob("*/*.json")
        return path


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("town")
    with run_server(folder / "server", f"sqlite:///{folder / 'homeserver.db'}") as server:
        yield Town(server, folder)


def _said(lines: list[str]) -> list[str]:
    """Lines of output without the time."""
    return [line if line.startswith("--") else " ".join(line.split(" ")[:1] + line.split(" ")[2:]) for line in lines]


def test_two_people_talk(town: Town) -> None:
    with town.newcomer("ann") as ann, town.newcomer("ben") as ben:
        ann.wait_for("Welcome.")
        ann.enter("/dm ben")
        ben.wait_for("ann invites you to a talk between you two")
        ben.wait_for("+ ann")
        ben.enter("/accept")
        ben.wait_for("ben is here now")
        ann.wait_for("● ben")

        ann.enter("Hello Ben, it is me.")
        ben.wait_for("ann: Hello Ben, it is me.")
        ann.wait_for("Seen by ben")
        ben.type("I am just wri")
        ann.wait_for("ben is typing…")
        ben.enter("ting.")
        ann.wait_for("ben: I am just writing.")
        ann.wait_for(lambda screen: "typing" not in screen.text)
        ben.enter("/me waves")
        ann.wait_for("* ben waves")

        # Somewhere else, what is said here is unread.
        ann.enter("/create Tea room")
        ann.wait_for("ann calls the room Tea room")
        ben.enter("one")
        ben.enter("two, ann")
        ann.wait_for(lambda screen: any("● ben" in row and " 2! " in row for row in screen.rows))
        ann.type("\x1ba")
        ann.wait_for("ben: two, ann")
        ann.wait_for(lambda screen: not any("● ben" in row and "!" in row[:26] for row in screen.rows))

        ben.enter("/quit")
        assert 0 == ben.end()
        ann.wait_for("○ ben")
        ann.type("\x04")
        assert 0 == ann.end()
    # The terminal is left as it was found.
    assert ann.received.rindex(b"\x1b[?1049l") > ann.received.rindex(b"\x1b[?1049h")
    assert ann.received.rindex(b"\x1b[?1004l") > ann.received.rindex(b"\x1b[?1004h")


def test_hostile_words_and_names_order_no_terminal(town: Town) -> None:
    town.settle("cat", "/create Cats public")
    with town.terminal("cat") as cat:
        cat.wait_for("# Cats")
        town.settle(
            "eve",
            "/join cats",
            "/nick \x1b]0;owned\x07\u202eeve\x1b[2J",
            "\x1b[2J\x1b[31mred\x1b]52;c;AAAA\x07\u202ereversed",
        )
        cat.wait_for("␛[2J␛[31mred␛]52;c;AAAA␇reversed")
        assert "␛]0;owned␇eve␛[2J" in cat.text
        assert b"\x1b]0;owned" not in cat.received
        assert b"\x1b]52" not in cat.received
        assert "\u202e".encode() not in cat.received
        cat.enter("/quit")
        assert 0 == cat.end()


def test_history_is_loaded_as_one_goes_back(town: Town) -> None:
    town.settle("dan", "/create Diary", *(f"entry {number:03}" for number in range(150)))
    with town.terminal("dan") as dan:
        dan.wait_for("entry 149")
        for _page in range(12):
            if "dan has made this room" in dan.text:
                break
            before = dan.text
            dan.type("\x1b[5~")
            dan.wait_for(lambda screen, before=before: screen.text != before)  # type: ignore[misc]
        dan.wait_for("dan has made this room")
        dan.enter("/quit")
        assert 0 == dan.end()


def test_narrow_terminal_shows_the_messages_alone(town: Town) -> None:
    town.settle("fay", "/create Attic", "a line that is long enough to be broken when the terminal is narrow")
    with town.terminal("fay") as fay:
        fay.wait_for("# Attic")
        fay.resize(40, 12)
        fay.wait_for(lambda screen: "# Attic" not in screen.text and "fay: a line that is" in screen.text)
        fay.enter("/quit")
        assert 0 == fay.end()


def test_session_is_remembered_and_forgotten(town: Town) -> None:
    town.settle("gus", "/create Garden", "roses")
    path = town.session("gus")
    saved = json.loads(path.read_text())
    assert (0o600, 0o700) == (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode))
    assert ("@gus:test.example", True) == (saved["user_id"], "roses" not in path.read_text())
    # No password this time, and the room that was open is open.
    assert "-- This is Garden" in town.say("gus", "tulips")
    assert ["-- Garden  open"] == [line for line in town.say("gus", "/rooms") if "Garden " in line]
    done = subprocess.run(
        town.command("gus", "--forget"), capture_output=True, text=True, timeout=60, env=town.environment("gus")
    )
    assert (0, "@gus:test.example is logged out.\n", False) == (done.returncode, done.stdout, path.exists())


def test_what_came_meanwhile_is_told_once(town: Town) -> None:
    town.settle("hal", "/create Hall public")
    town.settle("ida", "/join hall", "while you were away", "it went on")
    heard = _said(town.say("hal"))
    assert ["[Hall] ida: while you were away", "[Hall] ida: it went on"] == [line for line in heard if "ida: " in line]
    assert [] == [line for line in town.say("hal", "/rooms") if "unread" in line]
    assert [] == [line for line in town.say("hal", "/open hall") if "ida: " in line]


def test_chat_after_a_long_time_begins_anew(town: Town) -> None:
    town.settle("sue", "/create Sauna public")
    path = town.session("sue")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    town.settle("tom", "/join sauna", "still warm")
    with town.terminal("sue") as sue:
        sue.wait_for("tom: still warm")
        sue.wait_for("sue calls the room Sauna")
        sue.enter("/quit")
        assert 0 == sue.end()


def test_words_are_completed(town: Town) -> None:
    town.settle("uma", "/create Urn", "/nick Uma the Great")
    with town.terminal("uma") as uma:
        uma.wait_for(" connected ")
        uma.type("/he\t")
        uma.wait_for("> /help")
        uma.type("\r")
        uma.wait_for("/quit")
        uma.type("ask uma\t")
        uma.wait_for("> ask Uma the Great")
        # The first one clears the line, the second one ends.
        uma.type("\x03")
        uma.wait_for(lambda screen: "ask" not in screen.text)
        uma.type("\x03")
        assert 0 == uma.end()


def test_window_without_the_focus_reads_nothing(town: Town) -> None:
    town.settle("val", "/create Villa public")
    town.settle("will", "/join villa")
    with town.terminal("val") as val, town.terminal("will") as will:
        val.wait_for(" connected ")
        will.wait_for("# Villa")
        will.wait_for(" connected ")
        # With a key behind it, to see that it was taken.
        val.type("\x1b[Ox")
        val.wait_for("> x")
        will.enter("are you there?")
        val.wait_for("will: are you there?")
        val.wait_for(lambda screen: "1" in screen.rows[0][:26])
        # The one line that may tell it is about the last message.
        will.wait_for(lambda screen: "will: are you there?" in screen.text and "Seen by" not in screen.text)
        val.type("\x1b[I")
        will.wait_for("Seen by val")
        val.wait_for(lambda screen: "1" not in screen.rows[0][:26])


def test_commands_of_the_plain_chat(town: Town) -> None:
    town.settle("jon", "/create Kitchen public", "/topic Soup", "/topic", "/nick Jon the cook", "hi")
    lines = _said(town.say("jon", "/topic", "/who", "/rooms", "/me stirs", "//slash", "/leave"))
    for wanted in (
        "-- This is Kitchen: Soup",
        "-- The topic of Kitchen: Soup",
        "-- Kitchen  #kitchen:test.example  open",
        "[Kitchen] * Jon the cook stirs",
        "[Kitchen] Jon the cook: /slash",
        "-- You have left Kitchen.",
    ):
        assert wanted in lines
    assert any(line.startswith("-- Jon the cook (@jon:test.example)") for line in lines)


@pytest.mark.parametrize(
    ("lines", "arguments", "told"),
    [
        ((), ("--room", "operators"), "No room of yours is called operators."),
        (("/open operators",), (), "No room of yours is called operators."),
        (("/join nowhere",), (), ""),
        (("/accept",), (), "There is no invite."),
        (("/dm @zoe:nowhere.invalid:x:",), (), ""),
        (("/foo",), (), "There is no /foo"),
    ],
    ids=["room", "open", "join", "accept", "dm", "no command"],
)
def test_script_ends_where_something_fails(
    town: Town, lines: tuple[str, ...], arguments: tuple[str, ...], told: str
) -> None:
    name = f"abe{len(town.people)}"
    town.people.append(name)
    town.settle(name, f"/create Attic of {name}")
    done = town.script(name, *lines, "not for this room", arguments=arguments)
    assert (1, True) == (done.returncode, done.stderr.startswith(f"sennit: {told}")), done
    assert "not for this room" not in done.stdout + "".join(town.say(name, "/older"))


def test_nothing_is_open_where_the_wanted_room_is_not_there(town: Town) -> None:
    town.settle("bea", "/create Bar")
    with town.terminal("bea", "--room", "operators") as bea:
        bea.wait_for("No room of yours is called operators.")
        bea.enter("hi there")
        bea.wait_for("No room is open.")
        bea.enter("/quit")
        assert 0 == bea.end()
    with town.terminal("bea", "--plain", "--room", "operators") as bea:
        bea.wait_for("-- No room is open.")
        bea.enter("hi there")
        bea.wait_for("-- No room is open. /open ROOM")
        bea.enter("/quit")
        assert 0 == bea.end()
    assert not any("bea: hi there" in line for line in town.say("bea", "/open bar", "/older"))
    # One that has come meanwhile is found.
    token = json.loads(town.session("bea").read_text())["access_token"]
    _call(town.server, "POST", "createRoom", token, {"name": "Operators"})
    with town.terminal("bea", "--room", "operators") as bea:
        bea.wait_for("bea calls the room Operators")
        assert "No room of yours" not in bea.text


def test_who_is_there_is_known_after_coming_back(town: Town) -> None:
    town.settle("ella")
    town.settle("dora", "/dm ella")
    with town.terminal("ella") as ella:
        ella.wait_for("/accept")
        ella.enter("/accept")
        ella.wait_for("ella is here now")
        for _time in range(2):
            with town.terminal("dora") as dora:
                dora.wait_for("● ella")
                dora.enter("/quit")
                assert 0 == dora.end()
        # A script is nobody who is there.
        town.say("dora", "hello")
        ella.wait_for("dora: hello")
        assert "○ dora" in ella.text
        assert any(line.startswith("-- ella") and line.endswith("online") for line in town.say("dora", "/who"))


def test_invite_can_be_declined(town: Town) -> None:
    town.settle("kim")
    town.settle("leo", "/create Secret", "/invite kim")
    lines = town.say("kim", "/rooms", "/decline", "/rooms")
    assert "-- Secret  an invite: /accept or /decline" in lines
    assert "-- You are in no room. /join ALIAS, /create NAME or /dm USER" in lines


def test_session_that_is_ended_elsewhere_is_over(town: Town) -> None:
    town.settle("pam", "/create Porch")
    path = town.session("pam")
    with town.terminal("pam") as pam:
        pam.wait_for("# Porch")
        pam.wait_for(" connected ")
        _call(town.server, "POST", "logout", json.loads(path.read_text())["access_token"], {})
        assert 1 == pam.end()
        assert "sennit: You have been logged out. Start again to log in." in pam.text
    assert not path.exists()


def test_user_is_away_and_back(town: Town) -> None:
    town.settle("quin", "/create Quay public")
    town.settle("rob", "/join quay")
    with town.terminal("quin") as quin, town.terminal("rob") as rob:
        quin.wait_for(" connected ")
        rob.wait_for(" connected ")
        rob.enter("/away having tea")
        rob.wait_for("You are shown as away")
        quin.wait_for(lambda screen: _shows(screen, "/who", "rob (@rob:test.example)  unavailable: having tea"))
        rob.enter("/online")
        quin.wait_for(lambda screen: _shows(screen, "/who", "rob (@rob:test.example)  online"))


def test_encrypted_room_is_not_written_to(town: Town) -> None:
    town.settle("max", "/create Vault")
    saved = json.loads(town.session("max").read_text())
    room_id = urllib.parse.quote(next(iter(saved["snapshot"]["rooms"]["join"])), safe="")
    algorithm = {"algorithm": "m.megolm.v1.aes-sha2"}
    _call(town.server, "PUT", f"rooms/{room_id}/state/m.room.encryption", saved["access_token"], algorithm)
    done = town.script("max", "in the clear")
    told = "sennit: Not sent: This room is encrypted, and this chat does not encrypt. Use another client here.\n"
    assert (1, told, False) == (done.returncode, done.stderr, "in the clear" in done.stdout)


def test_chat_goes_on_after_the_server_was_away(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'homeserver.db'}"
    port = ""
    with run_server(tmp_path / "server", database) as server:
        town = Town(server, tmp_path)
        port = server.url.rpartition(":")[2]
        nia = town.newcomer("nia")
        nia.enter("/create Nest")
        nia.wait_for("nia calls the room Nest")
    with nia:
        nia.wait_for("reconnecting")
        nia.enter("said in between")
        nia.wait_for("…   said in between")
        with run_server(tmp_path / "server", database, port=int(port)):
            nia.wait_for("nia: said in between")
            nia.wait_for(" connected ")
            nia.enter("/logout")
            assert 0 == nia.end()
    assert [] == list((tmp_path / "nia" / "state").glob("sennit/chat/*/*.json"))


def test_messages_that_are_not_sent_are_told_at_the_end(tmp_path: Path) -> None:
    with run_server(tmp_path / "server", f"sqlite:///{tmp_path / 'homeserver.db'}") as server:
        town = Town(server, tmp_path)
        town.settle("pia", "/create Pier")
        pia, pit = town.newcomer("pia2"), town.terminal("pia", "--plain")
        pia.enter("/create Pond")
        pia.wait_for("pia2 calls the room Pond")
        pit.wait_for("-- This is Pier")
    with pia, pit:
        pia.wait_for("reconnecting")
        pia.enter("said in between")
        pia.wait_for("…   said in between")
        pia.enter("/quit")
        pia.wait_for("1 message is not sent yet. /quit again")
        pia.enter("/quit")
        assert 1 == pia.end()
        assert "1 message was not sent." in pia.text
        pit.wait_for("-- reconnecting")
        pit.enter("said in between")
        pit.enter("/quit")
        assert 1 == pit.end()
        assert "There is no connection. 1 line has not been done." in pit.text
    done = town.script("pia", "one", "two")
    assert (1, "sennit: There is no connection. 2 lines have not been done.\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://127.0.0.1:1", "--plain", "--user", "x", "--password-from", "password"], "Nothing answers at"),
        (["ftp://x", "--plain"], "no address of a server"),
        (["--forget", "http://127.0.0.1:1"], "No session on http://127.0.0.1:1 is remembered"),
        (["http://127.0.0.1:1", "--plain", "--user", "x"], "--password-from"),
        (["http://127.0.0.1:1", "--plain"], "--user"),
        (["http://127.0.0.1:1", "--user", "x", "--password-from", "password"], "Use --plain"),
    ],
    ids=["no server", "no URL", "no session", "no password", "no name", "no terminal"],
)
def test_what_cannot_be_is_told_in_a_sentence(arguments: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD)
    done = subprocess.run(
        [sys.executable, "-m", "homeserver", "chat", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("sennit: ")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_password_is_told(town: Town) -> None:
    town.settle("oda")
    town.session("oda").unlink()
    with town.terminal("oda") as oda:
        oda.wait_for("Password of oda:")
        oda.enter("wrong")
        assert 1 == oda.end()
        assert "sennit: " in oda.text


def test_server_loads_nothing_of_the_chat() -> None:
    program = "import sys, homeserver.app, homeserver.cli; homeserver.cli._parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith(("prompt_toolkit", "homeserver.chat"))}
    assert {"homeserver.chat", "homeserver.chat.options"} == loaded


def _shows(terminal: Terminal, command: str, wanted: str) -> bool:
    """Type a command again until its answer is as wanted."""
    if wanted in terminal.text:
        return True
    terminal.enter(command)
    return False


def _call(server: RunningServer, method: str, path: str, token: str, body: object) -> None:
    request = urllib.request.Request(
        f"{server.url}/_matrix/client/v3/{path}",
        method=method,
        data=json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
