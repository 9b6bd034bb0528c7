"""A user whose program rests on `homeserver.streamclient`, and is ended and started anew now and then.

The loop of asyncio has to be Twisted's reactor, too (tools/soak_stream.py sees to that).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from homeserver.streamclient import StreamClient, StreamEnded, StreamError

from .client import FILTERS, Pending, StreamUser
from .journal import position


class LibraryUser(StreamUser):
    """Uses the library; its kind is "library"."""

    # The client that is connected, or was.
    _client: StreamClient | None = None
    _is_over = False

    async def run(self) -> None:
        """Run the program, again and again."""
        while True:
            self._look_back()
            self.openings.append(self.journal.since)
            self.choice = self.rng.choice(FILTERS)
            self.was_lazy = self.was_lazy or self.choice.is_lazy
            self.journal.set_sieve(self.choice.left_out)
            client, self._is_over = self._make(), False
            self.counts["connections"] += 1
            program = _started(self._use(client, self.journal.since))
            fate = asyncio.create_task(self._end())
            try:
                await asyncio.wait({program, fate}, return_when=asyncio.FIRST_COMPLETED)
                if program.done() and program.exception() is not None:
                    self.faults.append(f"the library ended: {program.exception()!r}")
            finally:
                self._client, self._is_over = None, True
                fate.cancel()
                await _started(client.stop())
                with contextlib.suppress(Exception):
                    await program
            self.counts["ended"] += 1
            await asyncio.sleep(self.rng.choice((0, 0.1, 1)))

    async def change_filter(self) -> None:
        """The filter changes with the program only."""

    def send_state(self, room_id: str, event_type: str, state_key: str) -> Pending:
        """The library repeats this, which the server may do twice: do something else."""
        return self.send_event(room_id, "org.soak.tick", {})

    def ask(
        self, method: str, params: Mapping[str, Any], *, serial: str | None = None, lasting: bool = False
    ) -> Pending:
        serial = serial or self.next_serial()
        message = {"id": serial, "method": method, "params": dict(params)}
        pending = Pending(message, lasting, asyncio.get_running_loop().create_future())
        if self._client is None and not lasting:
            pending.answered.set_result(None)
            return pending
        self.pending[serial] = pending
        if self._client is not None:
            self._request(self._client, serial, pending)
        return pending

    def _make(self) -> StreamClient:
        from twisted.internet import reactor

        ca_file = self.server.ca_file
        url = self.server.url
        if self.rng.random() < 0.4:
            url = f"{'tls' if self.server.lines.tls else 'tcp'}://{self.server.lines.host}:{self.server.lines.port}"
        since = self.journal.since
        return StreamClient(url, self.token, reactor=reactor, since=since, filter=self.choice.filter, ca_file=ca_file)

    async def _use(self, client: StreamClient, since: str | None) -> None:
        """Be the program; in this coroutine only Deferreds are awaited."""
        from twisted.internet import reactor

        try:
            await client.start()
            if self._is_over:
                return
            self._client = client
            for serial, pending in list(self.pending.items()):
                if pending.lasting:
                    self._request(client, serial, pending)
                    self.counts["repeated"] += 1
            async for update in client.updates():
                if since is not None:
                    self._acknowledged = max(self._acknowledged, position(since))
                if self._is_over or self.rng.random() < self.mishaps.die_in_update:
                    self.counts["died"] += 1
                    return
                self.journal.apply(update)
                self.counts["updates"] += 1
                if self.rng.random() < 0.02 and not self._calm.is_set():
                    # Slower than its rooms.
                    await deferLater(reactor, self.rng.uniform(0.2, 3), lambda: None)  # type: ignore[arg-type]
        except StreamEnded:
            if not self._is_over:
                raise

    async def _end(self) -> None:
        """Return when the program has to end."""
        if self._calm.is_set():
            await asyncio.get_running_loop().create_future()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.rng.expovariate(1 / (2 * self.mishaps.mean_life_s))):
                await self._calm.wait()
            await asyncio.get_running_loop().create_future()

    def _request(self, client: StreamClient, serial: str, pending: Pending) -> None:
        message = pending.message
        asked = Deferred.fromCoroutine(client.request(message["method"], message["params"], request_id=serial))
        asked.addCallbacks(
            lambda result: self._done(serial, {"id": serial, "result": result}),
            lambda failure: self._failed(client, serial, pending, failure),
        )

    def _done(self, serial: str, answer: dict[str, Any]) -> None:
        if serial in self.pending:
            self._answered(answer)

    def _failed(self, client: StreamClient, serial: str, pending: Pending, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, StreamEnded):
            if not pending.lasting and self.pending.pop(serial, None) is not None:
                pending.answered.set_result(None)
        elif isinstance(error, StreamError):
            self._done(serial, {"id": serial, "error": {"errcode": error.errcode, **error.body}})
        else:
            self.faults.append(f"the library raised {error!r} for {pending.message}"[:1000])


def _started(work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return Deferred.fromCoroutine(work).asFuture(asyncio.get_running_loop())
