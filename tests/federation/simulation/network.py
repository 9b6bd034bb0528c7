"""The way between the servers: it takes time, loses, repeats, and is cut in parts for a while.

A request that is on its way is an `_Exchange`. Its bytes reach the real routes of the other server, or do not; the
answer comes back, or does not. What was taken in and whose answer was lost is what retries have to be safe against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.runtime.outgoing import Answer, AnswerTooLarge, OutgoingFault, OutgoingTimeout
from homeserver.web.request import Headers, WebRequest
from homeserver.web.response import FileResponse

from .engine import Engine, Machine


@dataclass(frozen=True, slots=True)
class Weather:
    """How often what goes wrong: probabilities; delays in seconds."""

    lost: float = 0.01
    answer_lost: float = 0.02
    repeated: float = 0.03
    delay_s: float = 0.03
    slow: float = 0.05
    slow_s: float = 2.0
    # Of those that do not get through: who notices at once, not after the whole time.
    refused: float = 0.7


CALM = Weather(0.0, 0.0, 0.0, 0.01, 0.0, 0.0, 1.0)


class Host(Protocol):
    """A server as others reach it."""

    machine: Machine
    is_up: bool

    def take(self, request: WebRequest, deliver: Callable[[Any], object]) -> None:
        """Work on a request; `deliver(response)` is called once, unless the server or the client is gone."""
        ...


class Network:
    """Who reaches whom."""

    def __init__(self, engine: Engine, weather: Weather) -> None:
        self.engine = engine
        self.weather = weather
        self.hosts: dict[str, Host] = {}
        self._side: dict[str, int] = {}
        self._under_way: dict[_Exchange, None] = {}
        self.requests = 0

    @property
    def is_whole(self) -> bool:
        """Nobody is cut off from anybody."""
        return not self._side

    def cut(self, sides: Mapping[str, int]) -> None:
        """Let only those reach each other from now on that are on the same side."""
        self._side = dict(sides)
        for exchange in list(self._under_way):
            exchange.look()

    def heal(self) -> None:
        """Let everybody reach everybody."""
        self._side = {}

    def is_open(self, source: str, target: str) -> bool:
        """Tell whether bytes get through."""
        host = self.hosts.get(target)
        return host is not None and host.is_up and self._side.get(source) == self._side.get(target)

    def is_down(self, name: str) -> None:
        """Break what is under way from and to a server that has just stopped."""
        for exchange in list(self._under_way):
            exchange.look(name)


class Wire:
    """Stands for `runtime.outgoing.Outgoing` in one server."""

    def __init__(self, network: Network, machine: Machine) -> None:
        self._network = network
        self._machine = machine

    async def request(self, method: str, url: str, **more: Any) -> Answer:
        raise OutgoingFault(url, "there are no web servers here")

    async def send(
        self,
        place: Any,
        method: str,
        target: str,
        *,
        server: str,
        host: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        timeout_s: float,
        max_bytes: int,
        sink: Any = None,
    ) -> Answer:
        assert sink is None, "files are not carried"
        request = _Request(method, target, {**headers, "Host": host}, body or b"")
        return await _Exchange(self._network, self._machine, server, request, timeout_s, max_bytes).done

    async def stop(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    def arrive(self) -> WebRequest:
        path, _, query = self.target.partition("?")
        return WebRequest(self.method, path, query.encode(), Headers.of(self.headers), self.body)


class _Exchange:
    """One request, until its answer is there or is not waited for any more."""

    def __init__(
        self, network: Network, source: Machine, target: str, request: _Request, timeout_s: float, max_bytes: int
    ) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._request = request
        self._max_bytes = max_bytes
        self._at_host: WebRequest | None = None
        self.done: Deferred[Answer] = Deferred(lambda _: self._end())
        network.requests += 1
        network._under_way[self] = None
        self._timer = source.callLater(timeout_s, self._expire, timeout_s)
        chance, weather = network.engine.random, network.weather
        if not network.is_open(source.name, target) or chance.random() < weather.lost:
            self._get_lost()
            return
        self._later(self._arrive)
        if request.method in ("GET", "PUT") and chance.random() < weather.repeated:
            self._later(self._arrive_again)

    def look(self, stopped: str | None = None) -> None:
        """Break off if one of both has stopped, or nothing gets through any more."""
        if stopped == self._source.name:
            self._end()
        elif stopped == self._target:
            self._fail("the connection was lost")
        elif stopped is None and not self._network.is_open(self._source.name, self._target):
            self._get_lost()

    # -- private -----------------------------------------------------------------------------------------------------

    def _later(self, call: Callable[[], object]) -> None:
        chance, weather = self._network.engine.random, self._network.weather
        delay = chance.random() * (weather.slow_s if chance.random() < weather.slow else weather.delay_s)
        self._network.engine.time.callLater(delay, call)

    def _arrive(self) -> None:
        if self not in self._network._under_way or not self._network.is_open(self._source.name, self._target):
            return
        request = self._at_host = self._request.arrive()
        self._take(request, self._answered)

    def _arrive_again(self) -> None:
        if self._network.is_open(self._source.name, self._target):
            self._take(self._request.arrive(), lambda response: None)

    def _take(self, request: WebRequest, deliver: Callable[[Any], object]) -> None:
        host = self._network.hosts[self._target]
        host.machine.soon(partial(host.take, request, deliver))

    def _answered(self, response: Any) -> None:
        self._at_host = None
        chance, weather = self._network.engine.random, self._network.weather
        if self not in self._network._under_way:
            return
        if chance.random() < weather.answer_lost:
            self._get_lost()
        else:
            self._later(partial(self._source.soon, partial(self._deliver, response)))

    def _deliver(self, response: Any) -> None:
        if self not in self._network._under_way:
            return
        self._end()
        body = _read(response)
        if len(body) > self._max_bytes:
            self.done.errback(Failure(AnswerTooLarge(self._target, "the answer is too large")))
        else:
            self.done.callback(Answer(response.status, {"content-type": response.content_type}, body))

    def _get_lost(self) -> None:
        """Some notice at once that nothing gets through, others wait for the answer in vain."""
        if self._network.engine.random.random() < self._network.weather.refused:
            self._later(partial(self._source.soon, partial(self._fail, "cannot be reached")))

    def _fail(self, text: str) -> None:
        if self in self._network._under_way:
            self._end()
            self.done.errback(Failure(OutgoingFault(self._target, text)))

    def _expire(self, timeout_s: float) -> None:
        if self in self._network._under_way:
            self._end()
            self.done.errback(Failure(OutgoingTimeout(self._target, f"no answer within {timeout_s:g} s")))

    def _end(self) -> None:
        self._network._under_way.pop(self, None)
        if self._timer.active():
            self._timer.cancel()
        request, self._at_host = self._at_host, None
        if request is not None:
            request.client_gone()


def _read(response: Any) -> bytes:
    if not isinstance(response, FileResponse):
        return bytes(response.body)
    with response.file as file:
        return file.read(response.length)
