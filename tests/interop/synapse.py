"""A real Synapse on loopback: its own process, on SQLite, with a certificate of the tests' authority.

    synapse = Synapse(folder, authority, "127.0.1.1")
    synapse.launch()                                 starts it and waits for it; `kill` ends it
    alice = await synapse.register("alice")          a user as those of `tests.support.federation`
    await synapse.stop(); await synapse.start()      an outage; what is stored stays

Other servers reach it through a `Wire` that a test may cut; its clients do not.

The environment is that of tests/oracle: `.venv-synapse`, made by `tools/make_synapse_venv.sh`.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import time
import urllib.error
import urllib.request
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from twisted.internet.threads import deferToThread

from tests.oracle.synapse_process import synapse_python
from tests.support.certificates import Authority
from tests.support.federation import FederatedUser
from tests.support.played_server import Browser, PlayedAnswer
from tests.support.ports import free_port

from .wire import Wire

PROGRAM: Final = Path(__file__).with_name("synapse_main.py")
START_TIMEOUT_S: Final = 60.0
FAST: Final = {"per_second": 100_000, "burst_count": 100_000}
_NUMBERS: Final = count(1)


class Synapse:
    """One Synapse; it has `name`, `request` and `register` like a `FederatedServer`."""

    def __init__(self, folder: Path, authority: Authority, address: str) -> None:
        self._folder = folder
        self._browser = Browser(authority)
        self._process: subprocess.Popen[bytes] | None = None
        self.address = address
        self.wire = Wire(address)
        self.name = f"{address}:{self.wire.port}"
        self.url = f"http://{address}:{free_port(address)}"
        self.log_path = folder / "homeserver.log"
        self._config_path = folder / "homeserver.json"
        # JSON is YAML too.
        self._config_path.write_text(json.dumps(self._settings(authority), indent=1))

    # -- the process -------------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Start it and wait until it answers; RuntimeError with its log if it does not."""
        self._process = subprocess.Popen(
            # Isolated: neither this checkout nor the user's own packages are on its path.
            [synapse_python(), "-I", PROGRAM, "-c", self._config_path],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "stderr.log").open("ab"),
        )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Synapse did not start:\n{self.log_since(0)[-4000:]}\n{self._errors()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.kill()
            process.wait()
            process.stdin.close()

    async def start(self) -> None:
        """Start it unless it runs, and its wire."""
        if self._process is None:
            await deferToThread(self.launch)
        await self.wire.mend()

    async def stop(self) -> None:
        """Shut it down as an operator would."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.send_signal(signal.SIGTERM)
            await deferToThread(process.wait)
            process.stdin.close()

    def log_size(self) -> int:
        """Return how much it has written."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def log_since(self, size: int) -> str:
        """Return what it has written since it had written so much."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(size)
            return log.read().decode(errors="replace")

    def _errors(self) -> str:
        return (self._folder / "stderr.log").read_text(errors="replace")[-4000:]

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    # -- clients -----------------------------------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, content: Any = None, *, token: str | None = None, **query: Any
    ) -> PlayedAnswer:
        """Ask the client API; `path` from `/_matrix` on, or behind `/_matrix/client/v3`."""
        path = path if path.startswith("/_") else f"/_matrix/client/v3{path}"
        url = f"{self.url}{path}{'?' + urlencode(query, doseq=True) if query else ''}"
        headers: dict[str, str | list[str]] = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = None if content is None else json.dumps(content).encode()
        return await self._browser.request(method, url, body, headers)

    async def register(self, localpart: str) -> FederatedUser:
        """Make an account, whose name gets a number, and log in."""
        body = {"username": f"{localpart}{next(_NUMBERS)}", "password": "x", "auth": {"type": "m.login.dummy"}}
        status, answer = await self.request("POST", "/register", body)
        assert 200 == status, answer
        return FederatedUser(self, answer["user_id"], answer["access_token"], answer["device_id"])  # type: ignore[arg-type]

    # -- configuration -----------------------------------------------------------------------------------------------

    def _settings(self, authority: Authority) -> dict[str, Any]:
        certificate, key = authority.certificate(self.address)
        client_port = int(self.url.rpartition(":")[2])
        logging_path = self._folder / "logging.json"
        logging_path.write_text(json.dumps(_logging(self.log_path)))
        return {
            "server_name": self.name,
            "report_stats": False,
            "pid_file": str(self._folder / "pid"),
            "signing_key_path": str(self._folder / "signing.key"),
            "media_store_path": str(self._folder / "media"),
            "log_config": str(logging_path),
            "database": {"name": "sqlite3", "args": {"database": str(self._folder / "homeserver.db")}},
            "listeners": [
                _listener(self.address, self.wire.target_port, "federation", tls=True),
                _listener(self.address, client_port, "client", tls=False),
            ],
            "tls_certificate_path": str(certificate),
            "tls_private_key_path": str(key),
            "federation_custom_ca_list": [str(authority.ca_file)],
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "trusted_key_servers": [],
            "macaroon_secret_key": secrets.token_hex(),
            "form_secret": secrets.token_hex(),
            "registration_shared_secret": secrets.token_hex(),
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "allow_public_rooms_over_federation": True,
            "allow_device_name_lookup_over_federation": True,
            # The same question gets the answer of this moment.
            "caches": {"sync_response_cache_duration": 0},
            "limit_remote_rooms": {"enabled": False},
            "enable_room_list_search": True,
            "room_list_publication_rules": [{"action": "allow"}],
            # After a failure it asks again soon: tests do not wait for minutes.
            "federation": {
                "client_timeout": 10_000,
                "max_short_retries": 1,
                "max_long_retries": 0,
                "max_short_retry_delay": 100,
                "destination_min_retry_interval": 100,
                "destination_retry_multiplier": 1,
                "destination_max_retry_interval": 500,
            },
            **_limits(),
        }


def _listener(address: str, port: int, name: str, *, tls: bool) -> dict[str, Any]:
    names = [name, "media"] if name == "client" else [name]
    return {
        "port": port,
        "bind_addresses": [address],
        "type": "http",
        "tls": tls,
        "resources": [{"names": names, "compress": False}],
    }


def _limits() -> dict[str, Any]:
    nested = {
        "rc_login": ["address", "account", "failed_attempts"],
        "rc_joins": ["local", "remote"],
        "rc_invites": ["per_room", "per_user", "per_issuer"],
        "rc_presence": ["per_user"],
    }
    flat = [
        "rc_message",
        "rc_registration",
        "rc_registration_token_validity",
        "rc_admin_redaction",
        "rc_joins_per_room",
        "rc_key_requests",
        "rc_3pid_validation",
        "rc_third_party_invite",
        "rc_media_create",
        "rc_room_creation",
        "rc_reports",
        "rc_user_directory",
        "rc_profile",
    ]
    return {
        **{name: FAST for name in flat},
        **{name: {part: FAST for part in parts} for name, parts in nested.items()},
        "rc_federation": {
            "window_size": 1000,
            "sleep_limit": 1_000_000,
            "sleep_delay": 1,
            "reject_limit": 1_000_000,
            "concurrent": 100,
        },
        "federation_rr_transactions_per_room_per_second": 1000,
    }


def _logging(path: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s [%(request)s] %(message)s"}},
        "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter", "request": ""}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(path),
                "formatter": "plain",
                "filters": ["context"],
            }
        },
        "root": {"level": "INFO", "handlers": ["file"]},
    }
