"""What the doctor looks at in tests: a played server under a name of the DNS, and a proxy before a whole server.

outside = Outside(authority, folder)                example.org: a Matrix server on 8448 and a web server on 443
await outside.start()
findings = await outside.examine()

proxy = await put_proxy_before(server)              a FederatedServer that is not started yet
proxy.change = lambda request: replace(request, uri=…)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor

from homeserver.config import Config, Listener
from homeserver.doctor.examination import examine
from homeserver.doctor.findings import Findings, Level
from homeserver.model.ids import ServerName
from homeserver.model.signing import generate_signing_key, key_file_line
from homeserver.runtime.tls import ReloadableTLS
from tests.support.certificates import Authority
from tests.support.federation import FederatedServer
from tests.support.outgoing import PlayedNames, PortsElsewhere
from tests.support.played_server import Browser, PlayedRequest, PlayedServer
from tests.support.ports import free_port

NAME = "example.org"
FEDERATION = "/_matrix/federation/v1"


def faults(findings: Findings) -> list[tuple[str, str]]:
    """Return check and text of the faults; each must say what to do."""
    found = [each for each in findings.all if each.level is Level.FAULT]
    assert all(each.remedy.endswith(".") and each.text.endswith(".") for each in found), found
    return [(each.check, each.text) for each in found]


def assert_fault(findings: Findings, check: str, fragment: str) -> None:
    """Fail unless there is exactly one fault, of that check and with these words in it."""
    found = faults(findings)
    assert [check] == [each[0] for each in found], found
    assert fragment in found[0][1]


class Certified:
    """An authority whose certificates are for other names than asked."""

    def __init__(self, authority: Authority, *names: str, days: int = 90) -> None:
        self._authority = authority
        self._names = names
        self._days = days

    def certificate(self, address: str) -> tuple[Path, Path]:
        return self._authority.certificate(*self._names, days=self._days)

    def agent(self) -> Any:
        return self._authority.agent()


class Outside:
    """A server elsewhere that does all that a remote expects, and ours that looks at it."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        key_path = folder / "signing.key"
        key_path.write_text(key_file_line(generate_signing_key(b"\x07" * 32, "a_1")))
        self.settings: dict[str, Any] = {
            "server": {"name": "us.example.com", "data_dir": str(folder), "signing_key_path": str(key_path)},
            "federation": {"ca_files": [str(authority.ca_file)], "ip_range_allowlist": ["127.0.0.0/8"]},
        }
        self.authority = authority
        self.names = PlayedNames({NAME: ["127.0.0.1"]})
        self.matrix = PlayedServer(Certified(authority, NAME), "127.0.0.1")  # type: ignore[arg-type]
        self.web = PlayedServer(Certified(authority, NAME), "127.0.0.1")  # type: ignore[arg-type]
        self.matrix.name = NAME
        nobody = (404, {"errcode": "M_NOT_FOUND"})
        self.matrix.answers |= {
            f"{FEDERATION}/version": lambda request: {"server": {"name": "Played", "version": "1"}},
            f"{FEDERATION}/event/": lambda request: nobody,
            f"{FEDERATION}/query/profile": lambda request: nobody,
            f"{FEDERATION}/send/": lambda request: {"pdus": {}},
        }
        self.web.answers = {"/": lambda request: (404, {})}
        self.ports = PortsElsewhere({443: self.web.port, 8448: self.matrix.port})

    async def start(self) -> None:
        await self.matrix.start()
        await self.web.start()

    async def stop(self) -> None:
        await self.matrix.stop()
        await self.web.stop()

    def listen_on_ipv6(self) -> Any:
        """Let the Matrix server listen on ::1 too, and return the port."""
        certificate, key = Certified(self.authority, NAME).certificate("")
        tls = ReloadableTLS(certificate, key)
        return reactor.listenSSL(self.matrix.port, self.matrix._site, tls, interface="::1")  # type: ignore[attr-defined]

    async def examine(self, name: str = NAME) -> Findings:
        config = Config.from_mapping(self.settings)
        return await examine(config, self.ports, ServerName.parse(name), names=self.names)


class Proxy:
    """Speaks TLS under a server's name and passes requests on; `change` changes them or answers itself."""

    def __init__(self, server: FederatedServer, authority: Authority, backend_port: int) -> None:
        self.change: Callable[[PlayedRequest], Any] = lambda request: request
        self.front = PlayedServer(Certified(authority, server.address), server.address)  # type: ignore[arg-type]
        self.front.port = server.port
        self.front.answers = {"/": self._pass_on}
        self._backend = f"http://{server.address}:{backend_port}"
        self._browser = Browser(authority)

    async def _pass_on(self, request: PlayedRequest) -> Any:
        changed = self.change(request)
        if not isinstance(changed, PlayedRequest):
            return changed
        headers: Mapping[str, Any] = {
            name: value for name, value in changed.headers.items() if name not in ("host", "content-length")
        }
        answer = await self._browser.request(
            changed.method, f"{self._backend}{changed.uri}", changed.body or None, headers
        )
        kept = {name: value for name, value in answer.headers.items() if name in ("content-encoding", "date")}
        return answer.status, answer.body, kept


async def put_proxy_before(server: FederatedServer, authority: Authority, resources: Iterable[str] = ()) -> Proxy:
    """Start a server behind a proxy; `resources`: what its listener serves."""
    port = free_port(server.address)
    listener = Listener(port=port, bind=[server.address], **({"resources": tuple(resources)} if resources else {}))
    server.config = server.config.model_copy(update={"listeners": (listener,)})
    proxy = Proxy(server, authority, port)
    await proxy.front.start()
    await server.start()
    return proxy
