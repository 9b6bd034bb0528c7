"""The whole server: builds all parts in floor order, starts and stops them. The only place that knows everybody.

`Homeserver(config)` does no I/O. `start()` opens the database, makes what the first start needs and listens; `stop()`
answers who waits, drains what is queued and closes. It is an `IService`, so it can have a parent; and its resources
can be mounted in a host's own `Site`, with no listeners of its own. Several can live in one process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory

from api.stream.door import StreamDoor
from api.stream.lines import LinesFactory
from homeserver import first_run, parts
from homeserver.admin_socket import AdminSocket
from homeserver.config import Config, Listener
from homeserver.embedding import LocalUser
from homeserver.errors import Misconfigured
from homeserver.hooks import EventGate, Extension, Observation, Observer, UserRegistered
from homeserver.model.ids import UserID
from homeserver.runtime.clock import RealClock
from homeserver.runtime.tasks import Tasks
from homeserver.web.json_resource import JsonResource
from homeserver.web.router import DEFAULT_MAX_BODY_BYTES, Route, Router
from homeserver.web.site import SiteOptions, WebSite, make_site

if TYPE_CHECKING:
    from homeserver.runtime.tls import ReloadableTLS

logger = logging.getLogger(__name__)

_TRIM_S = 3600.0

Observed = TypeVar("Observed", bound=Observation)


class Homeserver(Service):
    """A Matrix homeserver inside a running reactor."""

    def __init__(self, config: Config, *, reactor: Any = None, extensions: Sequence[Extension] = ()) -> None:
        """`reactor` defaults to the global one; `extensions` add routes of their own."""
        check_packages()
        if reactor is None:
            from homeserver.runtime.reactor import global_reactor

            reactor = global_reactor()
        self.config = config
        self._reactor = reactor
        self._extensions = tuple(extensions)
        self._clock = RealClock(reactor)
        self._tasks = Tasks(self._clock, "homeserver")
        self._admin: AdminSocket | None = None
        # While start() is at work; stop() waits for it.
        self._starting: Deferred[None] | None = None
        self._gates: list[EventGate] = []
        self._observers: list[Observer] = []
        self._parts: parts.Parts | None = None
        self._ports: list[Any] = []
        self._sites: list[WebSite] = []
        # By the paths of certificate and key.
        self._tls: dict[tuple[Path, Path], ReloadableTLS] = {}
        self._ready: list[Deferred[None]] = []
        self._is_ready = False
        self._failure: Exception | None = None

    # -- for the embedding application ------------------------------------------------------------------------------

    def add_gate(self, gate: EventGate) -> None:
        """Ask `gate` about every event that a local user sends; it may deny it."""
        self._gates.append(gate)
        if self._parts is not None:
            self._parts.base.door.add_gate(gate)

    def observe(self, kind: type[Observed], observer: Callable[[Observed], None]) -> None:
        """Call `observer` with every observation of one kind, after the commit; it cannot fail what it is told of."""

        def only(observation: Observation) -> None:
            if isinstance(observation, kind):
                observer(observation)

        self._observers.append(only)
        if self._parts is not None:
            self._parts.base.feed.observe(only)

    def as_user(self, user_id: str) -> LocalUser:
        """Return a handle to act as a local user who has an account."""
        built = self._built()
        return LocalUser(
            UserID.parse(user_id), built.users.accounts, built.rooms.creation, built.users.membership, built.base.door
        )

    @property
    def accounts(self) -> Any:
        """What operators do with accounts; see `users.operator.OperatorAccounts`."""
        return self._built().users.operator

    def client_resource(self) -> JsonResource:
        """Return the client API as a resource to mount at the root of a host's `Site`."""
        return self._resource(None)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, *, listen: bool = True) -> None:
        """Open the database, build all parts, listen. Raises Misconfigured with a sentence for the operator."""
        if self._starting is not None or self._parts is not None:
            raise RuntimeError("the homeserver is started already")
        self._starting = Deferred()
        self._tasks = Tasks(self._clock, "homeserver")
        try:
            await self._start(listen=listen)
            self._is_ready = True
            for waiter in self._ready:
                waiter.callback(None)
            self._ready.clear()
        except BaseException:
            await self._stop()
            raise
        finally:
            starting, self._starting = self._starting, None
            starting.callback(None)

    async def _start(self, *, listen: bool) -> None:
        prepared = first_run.prepare(self.config)
        self.config = prepared.config
        for notice in self.config.notices:
            logger.warning("Configuration: %s", notice)
        built = await parts.build(
            self.config,
            prepared.signing_keys,
            self._reactor,
            self._clock,
            self._tasks,
            old_keys=prepared.old_signing_keys,
            registered=lambda user_id: self._tell(UserRegistered(user_id)),
        )
        self._parts = built
        await self._check_name(built)
        await built.rooms.transactions.start()
        for gate in self._gates:
            built.base.door.add_gate(gate)
        for observer in self._observers:
            built.base.feed.observe(observer)
        if listen:
            self._tasks.every("trim transaction IDs", _TRIM_S, built.rooms.transactions.trim)
            self._tasks.every("trim media", _TRIM_S, built.media.trim)
            self._admin = AdminSocket(self._reactor, self.config.server.data_dir, built.users.operator)
            self._admin.start()
            for listener in self.config.listeners:
                self._listen(listener)
            if built.stream is not None:
                self._listen_for_lines(built.stream)

    async def _check_name(self, built: parts.Parts) -> None:
        # One configuration written beside another's data: their users would log in as nobody that rooms know.
        user_id = await built.users.operator.first_user_id()
        name = self.config.server.name
        if user_id is not None and user_id.partition(":")[2] != name:
            raise Misconfigured(
                f"The database belongs to the server {user_id.partition(':')[2]}, but the configuration says {name}."
                " The name of a server can never be changed. Correct `name` under [server],"
                " or give the new server a `data_dir` and a [database] url of its own."
            )

    async def stop(self) -> None:
        """Stop listening, answer who waits, finish what is queued, close the database."""
        if self._starting is not None:
            # What is half built cannot be taken apart.
            is_over: Deferred[None] = Deferred()
            self._starting.addCallback(is_over.callback)
            await is_over
        await self._stop()

    async def _stop(self) -> None:
        self._is_ready = False
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.stop()
        for port in self._ports:
            closed = port.stopListening()
            if closed is not None:
                await closed
        self._ports.clear()
        self._tls.clear()
        built, self._parts = self._parts, None
        if built is not None:
            built.base.feed.stop()
            built.rooms.event_stream.stop()
            if built.stream is not None:
                await built.stream.stop()
        for site in self._sites:
            site.close_idle()
        self._sites.clear()
        await self._tasks.stop()
        if built is not None:
            await built.stop()

    def reload(self) -> None:
        """Read the certificates again."""
        for tls in self._tls.values():
            tls.reload()

    def ready(self) -> Deferred[None]:
        """Return a Deferred that fires when a server started as a service is ready, or fails as its start did."""
        waiter: Deferred[None] = Deferred()
        if self._is_ready:
            waiter.callback(None)
        elif self._failure is not None:
            waiter.errback(self._failure)
        else:
            self._ready.append(waiter)
        return waiter

    def startService(self) -> None:
        """Begin to start; `ready()` tells when that is done."""
        super().startService()  # type: ignore[no-untyped-call]
        self._failure = None
        Deferred.fromCoroutine(self.start()).addErrback(self._start_failed)

    def stopService(self) -> Deferred[None]:
        """Stop; the Deferred fires when everything is closed."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self.stop())

    def _tell(self, observation: Observation) -> None:
        for observer in self._observers:
            self._reactor.callLater(0, observer, observation)

    def _start_failed(self, failure: Any) -> None:
        self._failure = failure.value
        logger.error("The homeserver could not start: %s", failure.value)
        for waiter in self._ready:
            waiter.errback(failure)
        self._ready.clear()

    # -- listening --------------------------------------------------------------------------------------------------

    def _built(self) -> parts.Parts:
        if self._parts is None:
            raise RuntimeError("the homeserver is not started; await start() or ready() first")
        return self._parts

    def _resource(self, listener: Listener | None) -> JsonResource:
        built = self._built()
        router = Router()
        largest = self.config.limits.max_request_bytes
        for route in built.routes:
            if listener is not None and _resource_of(route) not in listener.resources:
                continue
            # Routes that take other things than JSON have bounds of their own.
            takes_json = route.max_body_bytes == DEFAULT_MAX_BODY_BYTES
            router.add(replace(route, max_body_bytes=largest) if takes_json else route)
        for extension in self._extensions:
            for route in extension.routes(built.services()):
                if listener is None or _resource_of(route) in listener.resources:
                    router.add(route)
        return JsonResource(
            router,
            authenticate=built.authenticator.authenticate,
            limit=built.base.rates.limit,
            readmit=built.authenticator.readmit,
            x_forwarded=listener is not None and listener.x_forwarded,
            trusted_proxies=() if listener is None else listener.trusted_proxies,
        )

    def _listen(self, listener: Listener) -> None:
        resource = self._resource(listener)
        if not resource.router.routes:
            logger.warning(
                "Port %d is not opened: this version serves nothing of %s", listener.port, ", ".join(listener.resources)
            )
            return
        # The system's folder for temporary files is often in memory.
        options = SiteOptions(spool_dir=self.config.server.data_dir)
        site = make_site(resource, self._reactor, options, self._clock)
        self._sites.append(site)
        self._open(listener.bind, listener.port, site, self._tls_of(listener))

    def _listen_for_lines(self, door: StreamDoor) -> None:
        stream, listener = self.config.stream, self.config.tls_listener
        factory = LinesFactory(door, stream.max_message_bytes, self._clock)
        if stream.lines_port is not None:
            self._open(stream.lines_bind, stream.lines_port, factory, None, section="[stream]")
        if stream.lines_tls_port is not None and listener is not None:
            self._open(stream.lines_bind, stream.lines_tls_port, factory, self._tls_of(listener), section="[stream]")

    def _tls_of(self, listener: Listener) -> ReloadableTLS | None:
        """Return the TLS of a listener, one for each certificate; None: it has none."""
        if listener.tls_certificate_path is None or listener.tls_key_path is None:
            return None
        # Imported late: behind a reverse proxy its 2 MiB are not needed.
        from homeserver.runtime.tls import ReloadableTLS

        paths = (listener.tls_certificate_path, listener.tls_key_path)
        if paths not in self._tls:
            self._tls[paths] = ReloadableTLS(*paths)
        return self._tls[paths]

    def _open(
        self,
        addresses: Sequence[str],
        number: int,
        factory: IProtocolFactory,
        tls: ReloadableTLS | None,
        *,
        section: str = "[[listeners]]",
    ) -> None:
        """Listen on a port of these addresses; `section` of the configuration is named where that cannot be."""
        if tls is not None:
            from homeserver.runtime.tls import lean_factory

            factory = lean_factory(factory, tls, self._reactor)
        bound = 0
        for address in addresses:
            try:
                port = self._reactor.listenTCP(number, factory, interface=address, backlog=1024)
            except CannotListenError as fault:
                # "::" may have taken the IPv4 addresses along.
                if bound and address == "0.0.0.0":
                    continue
                text = first_run.cannot_listen_text(address, number, fault.socketError, section)
                raise Misconfigured(text) from fault
            bound += 1
            self._ports.append(port)

    @property
    def ports(self) -> tuple[int, ...]:
        """The TCP ports that are listened on, those of listeners in their order, then of lines: for port 0."""
        return tuple(port.getHost().port for port in self._ports)


def _resource_of(route: Route) -> str:
    """Return the resource of a listener that an endpoint belongs to."""
    path = route.path_template
    if path == "/health":
        return "health"
    if path.startswith(("/_matrix/federation/", "/_matrix/key/")) or path == "/.well-known/matrix/server":
        return "federation"
    return "media" if path.startswith(("/_matrix/media/", "/_matrix/client/v1/media/")) else "client"


def check_packages() -> None:
    """Raise ImportError if another package of the name of one of ours stands before it on the path."""
    import api
    import federation
    import storage

    home = Path(__file__).resolve().parent.parent
    for package in (api, federation, storage):
        place = Path(str(package.__file__)).resolve().parent.parent
        if place != home:
            raise ImportError(
                f"sennit's package {package.__name__!r} should be in {home}, but {place} comes first on the path; "
                "rename the other one or change the order of sys.path"
            )
