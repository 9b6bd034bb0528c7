"""A running homeserver for tests: `python -m homeserver run` as a subprocess, on a free port of loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .ports import free_port

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ROOT = Path(__file__).parents[2]

# Rates that no test reaches; how the limits work is tested elsewhere.
LIMITS = (
    "message",
    "registration",
    "registration_token_validity",
    "login_address",
    "login_account",
    "login_failed",
    "joins_local",
    "joins_per_room",
    "invites_per_room",
    "invites_per_user",
    "invites_per_issuer",
    "room_creation",
    "media_create",
    "presence",
    "reports",
    "user_directory",
)


class ServerFailed(Exception):
    """The server did not start or did not stop; the text is the end of its log."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers."""

    url: str
    server_name: str
    shared_secret: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """The end of what the server has written."""
        return _tail(self.folder)


@contextmanager
def run_server(
    folder: Path, database_url: str, *, server_name: str = "test.example", more: str = "", port: int | None = None
) -> Iterator[RunningServer]:
    """Run a server on the database with its files in `folder`; `more` is appended to its configuration.

    `port` is for a server that comes back where it was; else there is a free one.

    Raises ServerFailed if it does not start, ends by itself, or does not stop when told to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = folder / "config.toml"
    config.write_text(_config(server_name, port, folder, database_url) + more)
    config.chmod(0o600)
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "homeserver", "run", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, folder)
        yield RunningServer(url, server_name, "the shared secret", folder, process)
        if process.poll() is not None:
            raise ServerFailed(f"the server ended by itself with {process.returncode}:\n{_tail(folder)}")
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"the server does not stop:\n{_tail(folder)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _config(server_name: str, port: int, folder: Path, database_url: str) -> str:
    rates = "\n".join(f"{name} = {{ per_second = 1000, burst_count = 1000 }}" for name in LIMITS)
    # JSON's strings are TOML's too.
    return f"""\
[server]
name = {json.dumps(server_name)}
data_dir = {json.dumps(str(folder))}

[[listeners]]
port = {port}

[database]
url = {json.dumps(database_url)}

[registration]
enabled = true
without_verification = true
guest_access = true
shared_secret = "the shared secret"
bcrypt_rounds = 4

[limits]
{rates}

# The tests have no network: what is about other servers starts its own (see `federation`).
[federation]
enabled = false

"""


def _wait_for(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with {process.returncode} instead of starting:\n{_tail(folder)}")
        try:
            with urllib.request.urlopen(f"{url}/_matrix/client/versions", timeout=5) as answer:
                answer.read()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise ServerFailed(f"the server does not answer:\n{_tail(folder)}")


def _tail(folder: Path) -> str:
    return (folder / "log").read_text(errors="replace")[-8000:]
