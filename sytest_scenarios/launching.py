"""Starting a homeserver as a TOML file describes it, on free ports of loopback, in a folder of its own.

`servers/*.toml` are examples. The keys, in whose texts `${…}` is replaced, and `$$` by `$`:

    name             what the report calls it                      implementation   lower case: sennit, synapse, …
    command          a list of words; it stays in the foreground   prepare, finish  lists of commands before and after
    url              where the client-server API is                ready            a path that answers 200 when it runs
    server_name      the name of the server                        start_timeout_s  how long it may take; 60
    database         sqlite, mariadb, …                            federates        whether several of them can talk
    [files]          name = content, written into the folder        [environment]    added to the environment
    [variables]      name = default; one in CAPITALS is taken from the environment of the suite
    required         a list of names that must be set in that environment
    [settings."…"]   variable = value, in place of the default: a server for stories that need `setting("…")`
    extends          another start file, whose keys hold where this one has none; tables are joined

`${address}` is 127.0.0.1, .2, … for the first, second, … server; `${port}` and `${federation_port}` are free there, and
`${extra_port}`, for what a setting and its stories agree on; `${folder}`, `${secret}` (the shared secret), `${python}`
(of the suite), `${number}`, `${run}`, `${server_name}`, `${certificate}`, `${key}`, `${ca}` (files, for TLS), and the
variables, whose defaults may hold the others.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from string import Template
from typing import Any, Final

from twisted.internet.threads import deferToThread

from .asking import sleep
from .authority import Authority
from .expect import Failed, Skipped
from .guard import Guard
from .http import Web
from .journal import Journal

SERVERS: Final = Path(__file__).with_name("servers")
STOP_TIMEOUT_S: Final = 20.0
# Below the ports that the system gives to whoever asks for any; each run begins at another place.
_PORTS: Final = count(os.getpid() * 997)


class CannotStart(Exception):
    """The description is wrong, or the server did not start; the text says what came, with the end of its log."""


@dataclass(frozen=True, slots=True)
class Description:
    """A start file."""

    name: str
    command: Sequence[str]
    url: str
    server_name: str
    implementation: str = ""
    ready: str = "/_matrix/client/versions"
    start_timeout_s: float = 60.0
    database: str | None = None
    federates: bool = False
    prepare: Sequence[Sequence[str]] = ()
    finish: Sequence[Sequence[str]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    required: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Description:
        """Read a file, or the one of `servers/` that is called so; CannotStart if it is not as described above."""
        try:
            keys = _keys(path, Path())
            known = [each.name for each in fields(cls)]
            unknown = sorted(keys.keys() - set(known))
            if unknown:
                raise ValueError(f"unknown key {', '.join(unknown)}; there are {', '.join(known)}, extends")
            found = cls(**keys)
            found.check()
        except FileNotFoundError:
            included = ", ".join(sorted(each.stem for each in SERVERS.glob("*.toml")))
            raise CannotStart(f"there is no file {path}; included are {included}") from None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise CannotStart(f"{path}: {str(error).replace('Description.__init__()', 'a start file')}") from None
        # What the environment says is meant as it is, not as a template.
        said = {
            name: os.environ[name].replace("$", "$$")
            for name in found.variables
            if name.isupper() and name in os.environ
        }
        return replace(found, variables={**found.variables, **said})

    def check(self) -> None:
        """Raise TypeError where a value is not of the kind that its key wants."""
        for kind, names in _KINDS.items():
            for name in names:
                if not _FITS[kind](getattr(self, name)):
                    raise TypeError(f"{name} must be {kind}")

    def set_to(self, name: str | None) -> Description:
        """Return the description of a server of this setting; Skipped if the file has none of that name."""
        if name is None:
            return self
        if name not in self.settings:
            raise Skipped(f"{self.name} cannot be set to {name!r}: no [settings.{json.dumps(name)}] in its start file")
        return replace(self, variables={**self.variables, **self.settings[name]})


def _are_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


_FITS: Final[Mapping[str, Callable[[object], bool]]] = {
    "a text": lambda value: isinstance(value, str),
    "a list of texts": _are_texts,
    "a list of lists of texts": lambda value: isinstance(value, list | tuple) and all(map(_are_texts, value)),
    "a table of texts": _is_table,
    "a table of tables of texts": lambda value: isinstance(value, dict) and all(map(_is_table, value.values())),
    "a number": lambda value: isinstance(value, int | float),
    "true or false": lambda value: isinstance(value, bool),
}
_KINDS: Final[Mapping[str, Sequence[str]]] = {
    "a text": ("name", "url", "server_name", "implementation", "ready"),
    "a list of texts": ("command", "required"),
    "a list of lists of texts": ("prepare", "finish"),
    "a table of texts": ("files", "environment", "variables"),
    "a table of tables of texts": ("settings",),
    "a number": ("start_timeout_s",),
    "true or false": ("federates",),
}


class Process:
    """One server of a description, started and stopped by the suite."""

    def __init__(self, description: Description, folder: Path, authority: Authority, number: int, web: Web) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._description = description
        self.folder = folder
        self._web = web
        self.authority = authority
        self._running: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._prepared = False
        self.secret = secrets.token_hex(16)
        address = f"127.0.0.{number}"
        self.address, self.extra_port = address, free_port(address)
        certificate, key = authority.certificate(address)
        self._values = {
            "address": address,
            "port": str(free_port(address)),
            "federation_port": str(free_port(address)),
            "extra_port": str(self.extra_port),
            "folder": str(folder),
            "secret": self.secret,
            "python": sys.executable,
            "number": str(number),
            "run": secrets.token_hex(4),
            "certificate": str(certificate),
            "key": str(key),
            "ca": str(authority.ca_file),
        }
        self._values |= _from_environment(description)
        # Those that hold others come after these.
        for name, value in sorted(description.variables.items(), key=lambda each: "${" in each[1]):
            self._values[name] = self._fill(value)
        self._values["server_name"] = self._fill(description.server_name)
        self.server_name = self._values["server_name"]
        self.url = self._fill(description.url)

    async def start(self) -> None:
        """Start it and wait until it answers; CannotStart if it does not."""
        if not self._prepared:
            for name, content in self._description.files.items():
                path = self.folder / name
                path.write_text(self._fill(content))
                path.chmod(0o600)
            for command in self._description.prepare:
                await deferToThread(self._finish_command, command)
            self._prepared = True
        await deferToThread(self._launch)
        deadline = time.monotonic() + self._description.start_timeout_s
        while not await self._answers():
            running = self._running
            if running is None or running.poll() is not None:
                code = None if running is None else running.returncode
                self.kill_now()
                raise CannotStart(f"{self._description.name} ended with {code} instead of starting:\n{self.log()}")
            if time.monotonic() > deadline:
                await self.kill()
                wait_s = self._description.start_timeout_s
                raise CannotStart(f"{self._description.name} does not answer within {wait_s:g} s:\n{self.log()}")
            await sleep(0.1)

    async def stop(self) -> None:
        """Stop it, and what it has started, with SIGTERM, and with SIGKILL if that does not help."""
        running = self._running
        if running is not None:
            _signal_group(running, signal.SIGTERM)
            await deferToThread(_wait_for_group, running, STOP_TIMEOUT_S)
            self.kill_now()

    async def kill(self) -> None:
        """Kill it."""
        self.kill_now()

    def kill_now(self) -> None:
        """Kill it, with no reactor needed."""
        running, self._running = self._running, None
        if running is not None:
            _signal_group(running, signal.SIGKILL)
            running.wait()
        self._dismiss_guard()

    async def finish(self) -> None:
        """Stop it for good and tidy up after it."""
        await self.stop()
        if self._prepared:
            for command in self._description.finish:
                await deferToThread(self._finish_command, command)

    def log(self) -> str:
        """Return the end of what it has written."""
        path = self.folder / "output.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def _launch(self) -> None:
        command = [self._fill(each) for each in self._description.command]
        with (self.folder / "output.log").open("ab") as log:
            try:
                self._running = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    env=self._environment(),
                    # Behind a script or a tool that builds may be the server itself: it is stopped with them.
                    start_new_session=True,
                )
            except OSError as error:
                raise CannotStart(f"the command of {self._description.name} cannot be run: {error}") from None
        self._guard = Guard(self._running.pid)

    def _dismiss_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.dismiss()

    def _finish_command(self, words: Sequence[str]) -> None:
        command = [self._fill(each) for each in words]
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self._environment(),
                check=True,
                timeout=self._description.start_timeout_s,
            )
        except OSError as error:
            raise CannotStart(f"{command[0]}: {error}") from None
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (error.stdout or b"").decode(errors="replace")[-4000:]
            raise CannotStart(f"{' '.join(command)[:300]}: {type(error).__name__}\n{said}") from None

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **{key: self._fill(value) for key, value in self._description.environment.items()}}

    async def _answers(self) -> bool:
        try:
            answer = await self._web.request(
                Journal(), "the suite", "GET", f"{self.url}{self._description.ready}", patience_s=2.0
            )
        except Failed:
            return False
        return answer.status == 200

    def _fill(self, text: str) -> str:
        try:
            return Template(text).substitute(self._values)
        except (KeyError, ValueError) as error:
            what = f"unknown or broken placeholder ({error}) in {text[:200]!r}"
            known = ", ".join(sorted(self._values))
            raise CannotStart(
                f"{self._description.name}: {what}; there are {known}; a $ that begins none is written $$"
            ) from None


def _signal_group(running: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a process and all that it has started; tell whether one of them is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(running.pid, number)
        return True
    return False


def _wait_for_group(running: subprocess.Popen[bytes], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    with suppress(subprocess.TimeoutExpired):
        running.wait(limit_s)
        while _signal_group(running, 0) and time.monotonic() < deadline:
            time.sleep(0.05)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on, and that nobody is given who asks the system for any."""
    fault: OSError | None = None
    for _ in range(1_000):
        port = 10_000 + next(_PORTS) % 22_000
        with closing(socket.socket()) as probe:
            try:
                probe.bind((address, port))
            except OSError as error:
                fault = error
                continue
        return port
    raise CannotStart(f"{address} cannot be used here: {fault}")


def _keys(path: str | Path, beside: Path) -> dict[str, Any]:
    """Return the keys of a file, and below them those of the file that it extends."""
    places = [beside / path, SERVERS / f"{path}.toml"]
    found = next((each for each in places if each.is_file()), places[0])
    keys = tomllib.loads(found.read_text())
    base = keys.pop("extends", None)
    if base is None:
        return keys
    below = _keys(str(base), found.parent)
    joined = {
        name: {**below[name], **value} if isinstance(value, dict) and isinstance(below.get(name), dict) else value
        for name, value in keys.items()
    }
    return below | joined


def _from_environment(description: Description) -> dict[str, str]:
    missing = [name for name in description.required if not os.environ.get(name)]
    if missing:
        raise CannotStart(f"{description.name} needs the environment variable {', '.join(missing)}")
    return {name: os.environ[name] for name in description.required}
