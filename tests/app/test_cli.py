"""The command line as an operator meets it: in processes of its own, with a stand-in for the server."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from twisted.internet.error import CannotListenError

from homeserver.cli import find_config, main
from homeserver.config_source import ConfigError, Problem
from homeserver.errors import Misconfigured, StorageUnavailable, UserInUse
from homeserver.explaining import explain

ROOT = Path(__file__).parents[2]

# Stands in for homeserver.app; BEHAVIOUR, put before it, says what goes wrong.
STAND_IN = """
import sys, types
from homeserver.cli import main
from homeserver.errors import Misconfigured, UserInUse, NotFound
from homeserver.first_run import prepare
from homeserver.users.device_overview import DeviceLine as Device

class Line:
    def __init__(self, user_id, is_admin=False, is_deactivated=False, is_guest=False):
        self.user_id, self.is_admin, self.is_deactivated, self.is_guest = user_id, is_admin, is_deactivated, is_guest

class Accounts:
    async def has_any(self): return BEHAVIOUR == "full"
    async def create(self, localpart, password, *, admin):
        if localpart == "taken": raise UserInUse("that user name is taken")
        print("create", localpart, admin, len(password) > 0)
        return f"@{localpart}:localhost"
    async def set_password(self, localpart, password): print("set", localpart, password)
    async def deactivate(self, localpart): raise NotFound("no such user")
    async def list_accounts(self): return [Line("@a:localhost", is_admin=True), Line("@b:localhost")]
    async def list_devices(self, localpart):
        if localpart != "alice": return []
        return [Device("A", "Phone\\x1b[2J", 1_790_000_000_000, "192.0.2.1", True, True, False),
                Device("B" * 43, None, None, None, False, False, False),
                Device("C", "by", None, None, True, False, True)]
    async def remove_devices(self, localpart, device_ids):
        if "none" in device_ids: raise NotFound("There is no device none; nothing was removed")
        print("remove", localpart, device_ids)
    async def create_token(self, uses): return f"token-for-{uses}"

class Homeserver:
    def __init__(self, config, *, reactor, extensions=()):
        self.config, self.reactor, self.accounts = config, reactor, Accounts()
    async def start(self, *, listen=True):
        prepare(self.config)
        if BEHAVIOUR == "fault": raise ZeroDivisionError("oh")
        if BEHAVIOUR == "slow": print("slow", flush=True); await Deferred()
        if BEHAVIOUR == "database": raise Misconfigured("The database cannot be opened.")
        if listen: self.port = self.reactor.listenTCP(self.config.listeners[0].port, Factory(), interface="127.0.0.1")
    async def stop(self):
        print("stopped", flush=True)
    def reload(self):
        print("reloaded", flush=True)

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
sys.modules["homeserver.app"] = types.SimpleNamespace(Homeserver=Homeserver)
sys.exit(main(sys.argv[1:]))
"""


def _command(behaviour: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", f"BEHAVIOUR = {behaviour!r}\n{STAND_IN}", *arguments]


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if key != "SENNIT_CONFIG"}
    return {**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def _sennit(folder: Path, *arguments: str, behaviour: str = "", typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(behaviour, *arguments),
        cwd=folder,
        env=_environment(),
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _write(folder: Path, port: int = 0) -> None:
    (folder / "sennit.toml").write_text(f'[server]\nname = "localhost"\n[[listeners]]\nport = {port}\n')


def test_module_and_version_are_quick(tmp_path: Path) -> None:
    code = (
        "import sys; from homeserver.cli import main\n"
        "try: main(['--version'])\n"
        "except SystemExit as end: print(end.code, {'twisted', 'pydantic', 'sqlalchemy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("sennit ")
    assert result.stdout.endswith("0 set()\n")
    module = subprocess.run(
        [sys.executable, "-m", "homeserver", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert module.stdout.startswith("sennit ")


def test_check_config_says_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SENNIT_CONFIG", raising=False)
    assert 0 == main(["check-config"])
    assert "no file; the defaults: good, for the server localhost\n" == capsys.readouterr().out
    _write(tmp_path)
    assert 0 == main(["check-config"])
    assert "sennit.toml: good, for the server localhost\n" == capsys.readouterr().out


def test_check_config_tells_all_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[server]\nnam = "a"\n[log]\nlevel = 1\n')
    assert 2 == main(["check-config", "-c", str(path)])
    told = capsys.readouterr().err
    assert told.startswith(f"sennit: {path}: 3 mistakes\n")
    assert 'line 2: server.nam: there is no such key; did you mean "name"?' in told
    assert "Traceback" not in told


def test_check_config_reads_a_synapse_file_and_names_what_has_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "homeserver.yaml"
    path.write_text("server_name: example.org\nurl_preview_enabled: true\n")
    assert 0 == main(["check-config", "-c", str(path)])
    assert f"{path}: line 2: url_preview_enabled: is not supported; it has no effect\n" in capsys.readouterr().out


def test_the_environment_names_a_file_and_the_command_line_goes_before(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(f'[server]\nname = "{name}"\n')
    assert "b" == find_config(None, str(tmp_path / "b.toml")).server.name
    assert "a" == find_config(tmp_path / "a.toml", str(tmp_path / "b.toml")).server.name


def test_init_writes_a_file_and_never_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 0 == main(["init", "--yes", "example.org"])
    assert "Wrote sennit.toml. Next:  sennit run\n" == capsys.readouterr().out
    assert 0 == main(["check-config"])
    assert 2 == main(["init", "--yes", "example.com"])
    assert "exists already" in capsys.readouterr().err
    assert "example.org" == find_config(None, None).server.name


def test_init_refuses_a_bad_name_and_a_missing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 2 == main(["init", "-y", "not a name"])
    assert "expected a server name" in capsys.readouterr().err
    assert 2 == main(["init", "-y", "-o", "none/x.toml", "example.org"])
    assert "none/x.toml cannot be written: No such file or directory." in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_init_asks_three_questions_on_a_terminal_and_again_after_a_bad_answer(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        _command("", "init", "example.org"), cwd=tmp_path, env=_environment(), stdin=theirs, stdout=subprocess.PIPE
    )
    os.write(ours, b"postgres://x\nmysql+pymysql://u:p@h/d\nnowhere\n0.0.0.0:80\nperhaps\ny\n")
    out = process.communicate(timeout=60)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert 0 == process.returncode
    assert "PostgreSQL is not supported" in out
    assert "expected an address and a port" in out
    assert "expected y or n" in out
    config = find_config(tmp_path / "sennit.toml", None)
    assert "mysql+pymysql://u:p@h/d" == config.database.url
    assert (("0.0.0.0",), 80) == (config.listeners[0].bind, config.listeners[0].port)
    assert config.registration.without_verification
    assert 0o600 == (tmp_path / "sennit.toml").stat().st_mode & 0o777


B = "B" * 43
DEVICES = f"""\
{"DEVICE":43}  LAST SEEN             ADDRESS          KEYS        NAME
{"A":43}  2026-09-21 14:13 UTC  192.0.2.1        verified    Phone\\u{{1b}}[2J
{B}  never                 -                none
{"C":43}  never                 -                unverified  by [dehydrated]
3 devices
"""


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "out", "err"),
    [
        (["user", "add", "alice"], "pass word\n", 0, "create alice False True\nMade @alice:localhost.\n", ""),
        (["user", "add", "@alice:localhost", "--admin"], "x\n", 0, "Made the administrator @alice:localhost.", ""),
        (["user", "add", "alice", "--generate"], "", 0, "Password: ", ""),
        (["user", "add", "taken"], "x\n", 1, "", "sennit: taken: that user name is taken.\n"),
        (["user", "add", "alice"], "", 2, "", "No password came on standard input."),
        (["user", "add", "@alice:other.org"], "x\n", 2, "", "is not a user of localhost"),
        (["user", "add", "Al ice"], "x\n", 2, "", "Al ice cannot be used"),
        (["user", "passwd", "alice"], "new\n", 0, "set alice new\n", ""),
        (["user", "deactivate", "alice"], "", 1, "", "sennit: alice: no such user.\n"),
        (["user", "list"], "", 0, "@a:localhost admin\n@b:localhost\n", ""),
        (["user", "devices", "@alice:localhost"], "", 0, DEVICES, ""),
        (["user", "devices", "bob"], "", 0, "0 devices\n", ""),
        (
            ["user", "devices", "alice", "--remove", "A", "B"],
            "",
            0,
            "remove alice ['A', 'B']\nRemoved 2 devices of",
            "",
        ),
        (["user", "devices", "alice", "--remove", "none"], "", 1, "", "alice: There is no device none; nothing was"),
        (["user", "token", "--uses", "3"], "", 0, "token-for-3\n", ""),
    ],
    ids=[
        "add",
        "admin",
        "generate",
        "taken",
        "no password",
        "other server",
        "bad name",
        "passwd",
        "gone",
        "list",
        "devices",
        "no devices",
        "devices removed",
        "no such device",
        "token",
    ],
)
def test_user_commands(tmp_path: Path, arguments: list[str], typed: str, code: int, out: str, err: str) -> None:
    _write(tmp_path)
    result = _sennit(tmp_path, *arguments, typed=typed)
    assert code == result.returncode, result.stderr
    assert out in result.stdout
    assert err in result.stderr
    assert "Traceback" not in result.stderr


def _wait_for(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    deadline = time.monotonic() + 30
    while text not in seen:
        line = process.stdout.readline()
        seen += line
        assert line and time.monotonic() < deadline, seen
    return seen


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_says_who_may_log_in_reloads_and_stops_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "sennit.toml").write_text('[server]\nname = "localhost"\npid_file = "pid"\n[[listeners]]\nport = 0\n')
    process = subprocess.Popen(
        _command("", "run"),
        cwd=tmp_path,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told = _wait_for(process, "is ready at")
        assert "create admin True True" in told
        assert "Log in as                @admin:localhost" in told
        assert f"{process.pid}\n" == (tmp_path / "pid").read_text()
        process.send_signal(signal.SIGHUP)
        _wait_for(process, "reloaded")
        (tmp_path / "sennit.toml").write_text("not toml")
        process.send_signal(signal.SIGHUP)
        _wait_for(process, "this is not TOML")
        process.send_signal(number)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.wait()
    assert "stopped\n" in rest
    assert 0 == process.returncode
    assert not (tmp_path / "pid").exists()


@pytest.mark.parametrize(("arguments", "code"), [(["run"], 0), (["user", "list"], 1)], ids=["run", "user list"])
def test_a_signal_ends_a_start_that_takes_long(tmp_path: Path, arguments: list[str], code: int) -> None:
    _write(tmp_path)
    process = subprocess.Popen(
        _command("slow", *arguments),
        cwd=tmp_path,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(process, "slow")
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=30)[0]
    finally:
        process.kill()
        process.wait()
    assert code == process.returncode
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("behaviour", "code", "told"),
    [
        ("database", 2, "sennit: The database cannot be opened.\n"),
        ("fault", 1, "This is a fault of Sennit itself: ZeroDivisionError: oh."),
    ],
)
def test_a_start_that_fails_is_told_in_a_paragraph(tmp_path: Path, behaviour: str, code: int, told: str) -> None:
    _write(tmp_path)
    result = _sennit(tmp_path, "run", behaviour=behaviour)
    assert code == result.returncode
    assert told in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    _write(tmp_path)
    assert "Traceback" in _sennit(tmp_path, "--debug", "run", behaviour="fault").stderr


def test_a_port_in_use_is_told(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _write(tmp_path, port)
        result = _sennit(tmp_path, "run")
    assert 1 == result.returncode
    assert f"Cannot listen on port {port} of 127.0.0.1: another program uses it already." in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_an_unusable_data_folder_and_key_are_told(tmp_path: Path) -> None:
    _write(tmp_path)
    (tmp_path / "data").write_text("")
    result = _sennit(tmp_path, "run")
    assert (2, True) == (result.returncode, "should be a folder" in result.stderr)
    (tmp_path / "data").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/signing.key").write_text("nonsense")
    result = _sennit(tmp_path, "run")
    assert (2, True) == (result.returncode, "is not a signing key" in result.stderr)


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (Misconfigured("Change it."), 2, "Change it."),
        (ConfigError("f", [Problem(1, "k", "bad")]), 2, "f: one mistake\n  line 1: k: bad"),
        (StorageUnavailable("The database is away."), 1, "The database is away."),
        (UserInUse("taken", detail="secret"), 1, "taken"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 1, "The system refuses: Permission denied (/x)."),
        (CannotListenError("", 80, OSError(errno.EACCES, "no")), 1, "ports below 1024 need a privilege"),
        (CannotListenError("1.2.3.4", 80, OSError(errno.EADDRNOTAVAIL, "no")), 1, "does not have that address"),
        (CannotListenError("::", 80, OSError(errno.EPERM, "odd")), 1, "Cannot listen on port 80 of ::: odd."),
        (RuntimeError("x"), 1, "fault of Sennit itself: RuntimeError: x"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors_are_explained(error: Exception, code: int, part: str) -> None:
    found_code, text = explain(error)
    assert code == found_code
    assert part in text
    assert "secret" not in text
