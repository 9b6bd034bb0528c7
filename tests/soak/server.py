"""A server for a soak: a process on ports of its own that stay, can be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.server import ROOT, _config

from .http import request
from .wire import Address

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 30.0
# What no log may hold. Line breaks within a record are escaped, so a traceback is one line.
_BAD: Final = re.compile(r"Traceback|^\S+ (ERROR|CRITICAL) |Unhandled error|was never (awaited|retrieved)")


class Trouble(Exception):
    """The server did not start, did not stop, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a server's process took at a moment, seconds after its start."""

    life: int
    at_s: float
    rss_kib: int
    files: int


class SoakServer:
    """`python -m homeserver run`, again and again on the same ports and the same database."""

    def __init__(self, folder: Path, database_url: str, *, tls: bool = False, more: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._config = folder / "config.toml"
        port, lines_port, tls_port, lines_tls_port = (free_port() for _ in range(4))
        self.plain = Address("127.0.0.1", port)
        self.lines = Address("127.0.0.1", lines_port)
        self.web = self.plain
        self.ca_file: Path | None = None
        text = _config("soak.example", port, folder, database_url)
        stream = f"[stream]\nlines_port = {lines_port}\n"
        if tls:
            authority = Authority(folder / "certificates")
            certificate, key = authority.certificate("127.0.0.1")
            self.ca_file = authority.ca_file
            context = ssl.create_default_context(cafile=str(authority.ca_file))
            self.web = Address("127.0.0.1", tls_port, context)
            self.lines = Address("127.0.0.1", lines_tls_port, context)
            text += (
                f"[[listeners]]\nport = {tls_port}\ntls_certificate_path = {json.dumps(str(certificate))}\n"
                f"tls_key_path = {json.dumps(str(key))}\n"
            )
            stream += f"lines_tls_port = {lines_tls_port}\n"
        self._config.write_text(text + stream + more)
        self._config.chmod(0o600)
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._log: IO[bytes] | None = None
        self.life = 0
        self.samples: list[Sample] = []

    @property
    def url(self) -> str:
        """The base URL of the client API."""
        return f"{'https' if self.web.tls else 'http'}://{self.web.host}:{self.web.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the process; it does not answer yet."""
        if self._log is None:
            self._log = (self.folder / "log").open("ab")
        self.life += 1
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "homeserver", "run", "-c", str(self._config)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    async def start(self) -> float:
        """Start, wait until it answers, and return how many seconds that took."""
        self.spawn()
        while time.monotonic() < self._began + START_TIMEOUT_S:
            self._must_run()
            try:
                await request(self.plain, "GET", "/_matrix/client/versions", timeout_s=5)
                return time.monotonic() - self._began
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
        raise Trouble(f"the server does not answer:\n{self.tail()}")

    async def stop(self) -> float:
        """Tell it to end (SIGTERM), and return how many seconds that took."""
        self._must_run()
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        while self._process.poll() is None:
            if time.monotonic() > began + STOP_TIMEOUT_S:
                raise Trouble(f"the server does not stop:\n{self.tail()}")
            await asyncio.sleep(0.02)
        if self._process.returncode != 0:
            raise Trouble(f"the server ended with {self._process.returncode}:\n{self.tail()}")
        return time.monotonic() - began

    async def kill(self) -> None:
        """Kill it (SIGKILL)."""
        self._must_run()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        await asyncio.sleep(0)

    def end(self) -> None:
        """Kill what is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def sample(self) -> Sample | None:
        """Note and return what the process takes now; None if there is none."""
        if not self.is_running:
            return None
        assert self._process is not None
        folder = Path(f"/proc/{self._process.pid}")
        try:
            status = (folder / "status").read_text()
            files = len(list((folder / "fd").iterdir()))
        except OSError:
            return None
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        if found is None:
            return None
        sample = Sample(self.life, time.monotonic() - self._began, int(found[1]), files)
        self.samples.append(sample)
        return sample

    def tail(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-6_000:]

    def bad_lines(self) -> list[str]:
        """Return the lines of the log that should not be there."""
        with (self.folder / "log").open(errors="replace") as log:
            return [line.strip() for line in log if _BAD.search(line)]

    def _must_run(self) -> None:
        code: Any = self._process.poll() if self._process is not None else "no process"
        if code is not None:
            raise Trouble(f"the server ended by itself ({code}):\n{self.tail()}")
