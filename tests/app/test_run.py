"""`sennit run` as a process: the first run, signals, certificates, ports, and account commands beside it."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.runtime.test_tls import write_certificate
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0


@dataclass
class Run:
    """A `sennit run`, with all that it has printed."""

    process: subprocess.Popen[str]
    folder: Path
    lines: list[str] = field(default_factory=list)

    def read_until(self, words: str) -> str:
        """Return the output up to the line with `words` in it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return "".join(self.lines)
        raise AssertionError(f"ended with {self.process.wait()} without {words!r}:\n{''.join(self.lines)}")

    def end(self, number: int) -> tuple[int, float]:
        """Send a signal; return the exit code and the seconds that it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        return code, time.monotonic() - start


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "SENNIT_CONFIG"}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@contextmanager
def _run(folder: Path, *arguments: str) -> Iterator[Run]:
    process = subprocess.Popen(
        [sys.executable, "-m", "homeserver", "run", *arguments],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # What a shell starts in the background ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    watchdog = threading.Timer(2 * PATIENCE_S, process.kill)
    watchdog.start()
    try:
        yield Run(process, folder)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def _sennit(folder: Path, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "homeserver", *arguments],
        cwd=folder,
        env=_environment(),
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _write(folder: Path, more: str = "", listener: str = "", database_url: str = "sqlite:///sennit.db") -> int:
    port = free_port()
    (folder / "sennit.toml").write_text(
        f'[server]\nname = "localhost"\n[[listeners]]\nport = {port}\n{listener}\n'
        f'[database]\nurl = "{database_url}"\n[registration]\nbcrypt_rounds = 4\n{more}'
    )
    return port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_first_run_says_what_to_do_and_a_signal_ends_it(tmp_path: Path, number: int, empty_database_url: str) -> None:
    port = _write(tmp_path, database_url=empty_database_url)
    with _run(tmp_path) as run:
        told = run.read_until("is ready")
        answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/_matrix/client/versions", timeout=10)
        answer.read()
        code, seconds = run.end(number)
    assert f"http://127.0.0.1:{port}" in told
    assert re.search(r"Log in as +@admin:localhost\n +with the password +\S{23}\n", told)
    assert told.endswith(f"sennit: localhost is ready at http://127.0.0.1:{port}\n")
    assert 0 == code
    assert seconds < 10
    with _run(tmp_path) as again:
        assert "first start" not in again.read_until("is ready")
        assert 0 == again.end(number)[0]


@pytest.mark.parametrize("delay_ms", [100, 300, 500, 700])
def test_signal_during_the_start_ends_it(tmp_path: Path, delay_ms: int) -> None:
    """Before Twisted has its handlers the signal itself ends the process."""
    _write(tmp_path)
    with _run(tmp_path) as run:
        time.sleep(delay_ms / 1000)
        code, seconds = run.end(signal.SIGTERM)
    assert code in (0, 1, -signal.SIGTERM)
    assert seconds < 10


def test_long_poll_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    port = _write(tmp_path)
    with _run(tmp_path) as run, closing(socket.socket()) as idle:
        run.read_until("is ready")
        idle.connect(("127.0.0.1", port))
        idle.sendall(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\n")
        assert 0 == run.end(signal.SIGTERM)[0]


def test_port_in_use_is_told_in_a_sentence(tmp_path: Path) -> None:
    port = _write(tmp_path)
    with closing(socket.create_server(("127.0.0.1", port))):
        done = _sennit(tmp_path, "run")
    assert 2 == done.returncode
    assert f"Cannot listen on port {port} of 127.0.0.1: another program uses it already." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["sqlite:////proc/nothing/a.db", "mysql+pymysql://nobody@127.0.0.1:1/nothing"])
def test_database_that_cannot_be_opened_ends_the_process(tmp_path: Path, url: str) -> None:
    _write(tmp_path, database_url=url)
    done = _sennit(tmp_path, "run")
    assert (2, True) == (done.returncode, done.stderr.startswith("sennit: The "))
    assert "Traceback" not in done.stderr


def test_file_of_something_else_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    _write(tmp_path, database_url="sqlite:///letter.txt")
    letter = tmp_path / "letter.txt"
    letter.write_text("Dear aunt, " * 500)
    done = _sennit(tmp_path, "run")
    assert (2, True) == (done.returncode, "letter.txt is not an SQLite database." in done.stderr), done.stderr
    assert "Dear aunt, " * 500 == letter.read_text()


def test_server_does_not_run_on_the_database_of_another_name(tmp_path: Path, database_url: str) -> None:
    _write(tmp_path, database_url=database_url)
    assert 0 == _sennit(tmp_path, "user", "add", "bob", "--generate").returncode
    file = tmp_path / "sennit.toml"
    file.write_text(file.read_text().replace('"localhost"', '"example.org"'))
    for command in (["run"], ["user", "add", "alice", "--generate"]):
        done = _sennit(tmp_path, *command)
        assert 2 == done.returncode
        assert "belongs to the server localhost, but the configuration says example.org." in done.stderr


def test_check_config_reads_the_certificates(tmp_path: Path) -> None:
    _write(tmp_path, listener='tls_certificate_path = "c.pem"\ntls_key_path = "k.pem"\n')
    done = _sennit(tmp_path, "check-config")
    assert (2, True) == (done.returncode, "cannot be read" in done.stderr), done.stderr


# -- beside a running server -----------------------------------------------------------------------------------------


def test_account_commands_ask_the_running_server(tmp_path: Path, database_url: str) -> None:
    _write(tmp_path, database_url=database_url)
    with _run(tmp_path) as run:
        run.read_until("is ready")
        made = _sennit(tmp_path, "user", "add", "bob", typed="builder bob\n")
        twice = _sennit(tmp_path, "user", "add", "bob", typed="builder bob\n")
        changed = _sennit(tmp_path, "user", "passwd", "bob", "--generate")
        closed = _sennit(tmp_path, "user", "deactivate", "bob")
        listed = _sennit(tmp_path, "user", "list")
        assert 0 == run.end(signal.SIGTERM)[0]
    assert (0, "Made @bob:localhost.\n") == (made.returncode, made.stdout)
    assert (1, "sennit: bob: User ID already taken.\n") == (twice.returncode, twice.stderr)
    assert (0, 0) == (changed.returncode, closed.returncode)
    assert "@admin:localhost admin\n@bob:localhost deactivated\n" == listed.stdout
    assert listed.stdout == _sennit(tmp_path, "user", "list").stdout


def test_second_server_on_the_database_is_refused(tmp_path: Path, database_url: str) -> None:
    _write(tmp_path, database_url=database_url)
    other = tmp_path / "other"
    other.mkdir()
    # A folder of its own, so that only the database is shared.
    _write(other, database_url=database_url)
    with _run(tmp_path) as run:
        run.read_until("is ready")
        if database_url.startswith("sqlite"):
            (other / "homeserver.db").symlink_to(tmp_path / "homeserver.db")
            _write(other, database_url=f"sqlite:///{other / 'homeserver.db'}")
        refused = _sennit(other, "run")
        assert 0 == run.end(signal.SIGTERM)[0]
    assert 2 == refused.returncode
    assert "runs on the database" in refused.stderr


# -- certificates ----------------------------------------------------------------------------------------------------


def _make_certificate(folder: Path, name: str) -> bytes:
    certificate, key = write_certificate(folder, name)
    key.rename(folder / "key.pem")
    return certificate.rename(folder / "cert.pem").read_bytes().strip()


def _served(port: int) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=10).strip().encode()


def test_sighup_serves_the_new_certificate_and_keeps_the_old_if_that_is_no_good(tmp_path: Path) -> None:
    port = _write(tmp_path, listener='tls_certificate_path = "cert.pem"\ntls_key_path = "key.pem"')
    first = _make_certificate(tmp_path, "first")
    with _run(tmp_path) as run:
        assert f"https://127.0.0.1:{port}" in run.read_until("is ready")
        assert first == _served(port)
        (tmp_path / "cert.pem").write_text("nonsense")
        run.process.send_signal(signal.SIGHUP)
        run.read_until("holds no PEM certificate")
        assert first == _served(port)
        second = _make_certificate(tmp_path, "second")
        run.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while (served := _served(port)) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert second == served
        with (tmp_path / "sennit.toml").open("a") as file:
            file.write('\n[rooms]\ndefault_version = "11"\n')
        run.process.send_signal(signal.SIGHUP)
        run.read_until("need a restart: rooms.default_version")
        assert 0 == run.end(signal.SIGTERM)[0]


# -- under twistd ----------------------------------------------------------------------------------------------------

_SERVICE = """
from twisted.internet import reactor
from homeserver.twisted_service import Options, makeService
options = Options()
options.parseOptions(["-c", "sennit.toml"])
service = makeService(options)
service.startService()
reactor.run()
"""


def test_service_that_cannot_start_ends_its_process(tmp_path: Path) -> None:
    _write(tmp_path, database_url="sqlite:////proc/nothing/a.db")
    done = subprocess.run(
        [sys.executable, "-c", _SERVICE],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert 0 == done.returncode
    assert "The homeserver could not start: The folder /proc/nothing" in done.stderr
