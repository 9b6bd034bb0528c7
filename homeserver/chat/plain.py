"""The chat as lines: for terminals that can do no more, for scripts, and for reading aloud.

Everything that happens in any room is a line of output, `[room] time sender: text`, and what follows it on further
lines is indented, so that nobody can forge a line. Lines of input are what one types in the other interface; they are
done one after another. At the end of the input the chat ends, when all of it is done.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final, TextIO

from twisted.internet.defer import Deferred, DeferredQueue
from twisted.logger import Logger

from homeserver.streamclient import LinkState

from .interpreter import Interpreter
from .model import News, Room
from .session import Session, SessionEnded
from .timeline import Message, Notice
from .wording import Kind, clock, connection_line, words_of

# What is shown of a room when it is opened.
HISTORY: Final = 10
MAX_LINE_BYTES: Final = 65_536

_log = Logger()


class Plain:
    """The chat on two pipes. `descriptor` is where lines are read."""

    def __init__(
        self, session: Session, reactor: Any, out: TextIO, *, first_room: str | None = None, descriptor: int = 0
    ) -> None:
        self._session = session
        self._reactor = reactor
        self._out = out
        self._descriptor = descriptor
        self._interpreter = Interpreter(session, self, first_room)
        self._lines: DeferredQueue[str | None] = DeferredQueue()
        self._over: Deferred[None] = Deferred()
        self._farewell = ""
        self._is_first = session.saved.since is None
        self._has_been_told = ""
        # Rooms of which something has been written: they need no beginning.
        self._begun: set[str] = set()

    async def run(self) -> str:
        """Chat until the input ends or the user quits; return a last sentence, or nothing."""
        running = Deferred.fromCoroutine(self._run_session())
        typing = Deferred.fromCoroutine(self._run_lines())
        threading.Thread(target=self._read_lines, daemon=True).start()
        try:
            await self._over
        finally:
            await self._session.end()
            await running
            typing.cancel()
        return self._farewell

    # -- what happens ------------------------------------------------------------------------------------------------

    def told(self, news: News) -> None:
        """Write what an update tells; of the very first only what there is."""
        is_first, self._is_first = self._is_first, False
        for room_id, messages in news.messages.items() if not is_first else ():
            room = self._session.model.rooms.get(room_id)
            for message in messages:
                if room is not None:
                    self._write_message(room, message)
        self._interpreter.told(news)
        self._read()

    def connection(self, state: LinkState) -> None:
        """Write what has become of the connection."""
        line = connection_line(state, 0.0)
        if line != self._has_been_told and (state.is_connected or state.wait_s is not None):
            self._has_been_told = line
            self._write(f"-- {line}")

    def notice(self, notice: Notice, room: Room | None) -> None:
        """Write a line of our own."""
        self._write(f"-- {notice.text}")

    def opened(self, room: Room | None) -> None:
        """Write which room is open, and its last messages."""
        if room is None:
            self._write("-- No room is open.")
            return
        self._write(f"-- This is {self._session.model.name_of(room)}" + (f": {room.topic}" if room.topic else ""))
        if room.room_id not in self._begun:
            messages = [item for item in room.timeline.items if isinstance(item, Message)]
            for message in messages[-HISTORY:]:
                self._write_message(room, message)
        self._read()

    def sending(self, room: Room, body: str) -> Callable[[], None]:
        """Show nothing: what has been sent comes back as an event."""
        return lambda: None

    def quit(self) -> None:
        """End."""
        if not self._over.called:
            self._over.callback(None)

    # -- the two directions ------------------------------------------------------------------------------------------

    async def _run_session(self) -> None:
        try:
            await self._session.run(self)
        except SessionEnded as ended:
            self._farewell = str(ended)
        except Exception:  # the boundary: it is told, and the chat ends
            _log.failure("the chat failed")
            self._farewell = "This is a fault of the chat itself; with --log FILE it is written down."
        self.quit()

    async def _run_lines(self) -> None:
        await self._session.ready()
        await self._interpreter.attempt(self._session.settled())
        self._interpreter.open_first()
        while not self._over.called:
            line = await self._lines.get()
            if line is None:
                break
            try:
                await self._interpreter.type(line)
                # What the next line is about has to be known when it is read.
                await self._interpreter.attempt(self._session.settled())
            except Exception:  # the boundary of a line
                _log.failure("something failed that was typed")
                self._write("-- This is a fault of the chat itself; with --log FILE it is written down.")
        self.quit()

    def _read_lines(self) -> None:
        """Read the input in a thread of its own: a file or a terminal cannot be waited for in the same way."""
        rest = b""
        while True:
            try:
                piece = os.read(self._descriptor, 65_536)
            except OSError:
                piece = b""
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > MAX_LINE_BYTES or not piece:
                lines, rest = [*lines, rest], b""
            for line in lines:
                if line:
                    self._reactor.callFromThread(self._lines.put, line.decode("utf-8", "replace"))
            if not piece:
                self._reactor.callFromThread(self._lines.put, None)
                return

    def _read(self) -> None:
        room = self._interpreter.open_room
        if room is not None and room.membership == "join":
            Deferred.fromCoroutine(self._session.read(room)).addErrback(lambda _: None)

    def _write_message(self, room: Room, message: Message) -> None:
        words = words_of(room, message)
        if words is None:
            return
        self._begun.add(room.room_id)
        head = f"[{self._session.model.name_of(room)}] {clock(message.event.ts_ms)} "
        if words.kind is Kind.HAPPENED:
            self._write(f"{head}-- {words.lines[0]}")
            return
        sender = f"* {words.sender}" if words.kind is Kind.DONE else f"{words.sender}:"
        note = f" ({words.note})" if words.note else ""
        first, *more = words.lines
        self._write(f"{head}{sender} {first}{'' if more else note}")
        for number, line in enumerate(more):
            self._write(f"      {line}{note if number == len(more) - 1 else ''}")

    def _write(self, line: str) -> None:
        encoding = self._out.encoding or "utf-8"
        # What this terminal cannot show must not end the chat.
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=self._out, flush=True)
