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

from .commands import Command, parse_line
from .http import ChatError
from .interpreter import ENDINGS, Interpreter
from .model import News, Room
from .session import Session, SessionEnded
from .timeline import Message, Notice
from .wording import Kind, clock, connection_line, words_of

# What is shown of a room when it is opened.
HISTORY: Final = 10
MAX_LINE_BYTES: Final = 65_536
# How long a connection is waited for when nothing more is to come.
PATIENCE_S: Final = 10.0
FAULT: Final = "This is a fault of the chat itself; with --log FILE it is written down."

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
        # What fails in a script ends it: the next line may rest on it.
        self._is_script = not os.isatty(descriptor)
        self._fault = ""
        # Lines that have been read and not been done; None after the last one.
        self._undone = 0
        self._has_all = False
        self._giving_up: Any = None
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
            self._wait_no_more()
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
        self._look_at_end()
        line = connection_line(state, 0.0)
        if line != self._has_been_told and (state.is_connected or state.wait_s is not None):
            self._has_been_told = line
            self._write(f"-- {line}")

    def notice(self, notice: Notice, room: Room | None) -> None:
        """Write a line of our own; what goes wrong in a script is its last word."""
        if self._is_script and notice.is_bad:
            self._fault = self._fault or notice.text
            return
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
        """End, and tell what is not done."""
        if not self._over.called:
            if self._undone and not self._farewell:
                self._farewell = _not_done(self._undone)
            self._over.callback(None)

    # -- the two directions ------------------------------------------------------------------------------------------

    async def _run_session(self) -> None:
        try:
            await self._session.run(self)
        except SessionEnded as ended:
            self._farewell = str(ended)
        except Exception:  # the boundary: it is told, and the chat ends
            _log.failure("the chat failed")
            self._farewell = FAULT
        self.quit()

    async def _run_lines(self) -> None:
        await self._session.ready()
        await self._settle()
        self._interpreter.open_first()
        while not self._over.called and not self._fault:
            line = await self._lines.get()
            if line is None:
                break
            try:
                await self._interpreter.type(line)
            except Exception:  # the boundary of a line
                _log.failure("something failed that was typed")
                self.notice(Notice(FAULT, is_bad=True), None)
            self._undone = max(0, self._undone - 1)
            # What the next line is about has to be known when it is read.
            await self._settle()
        self._farewell = self._farewell or self._fault
        self.quit()

    async def _settle(self) -> None:
        try:
            await self._session.settled()
        except ChatError as error:
            # What has been done is done; an end of the session is told by who runs it.
            _log.info("the stream has not settled: {error}", error=error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _has_read(self, line: str | None) -> None:
        """Take a line, or the end of the input."""
        meant = parse_line(line) if line is not None else None
        if line is None or (isinstance(meant, Command) and meant.name in ENDINGS):
            self._has_all = True
        elif not self._has_all:
            self._undone += 1
        self._lines.put(line)
        self._look_at_end()

    def _look_at_end(self) -> None:
        """When the end of the input has been read, a connection is waited for no longer than PATIENCE_S."""
        if self._session.is_connected or not self._has_all or self._over.called:
            self._wait_no_more()
        elif self._giving_up is None:
            self._giving_up = self._reactor.callLater(PATIENCE_S, self._give_up)

    def _give_up(self) -> None:
        self._giving_up = None
        self._farewell = "There is no connection."
        if self._undone:
            self._farewell += f" {_not_done(self._undone)}"
        self.quit()

    def _wait_no_more(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None

    # -- the input ---------------------------------------------------------------------------------------------------

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
                    self._reactor.callFromThread(self._has_read, line.decode("utf-8", "replace"))
            if not piece:
                self._reactor.callFromThread(self._has_read, None)
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


def _not_done(count: int) -> str:
    return "1 line has not been done." if count == 1 else f"{count} lines have not been done."
