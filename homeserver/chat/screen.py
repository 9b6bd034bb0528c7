"""The chat on the whole screen: rooms on the left, messages on the right, a line to type on below.

prompt_toolkit draws it and reads the keys. It works with asyncio, whose loop Twisted's reactor uses here too (see
`command`), so all of it is in one thread. What is shown is made in `layout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from prompt_toolkit.application import Application
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.filters import Condition
from prompt_toolkit.input import Input
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    HSplit,
    Layout,
    VSplit,
    Window,
)
from prompt_toolkit.layout.processors import BeforeInput
from prompt_toolkit.output import Output
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from homeserver.streamclient import LinkState

from . import layout, text
from .http import ChatError
from .interpreter import Interpreter
from .layout import Row
from .model import News, Room
from .session import Session, SessionEnded
from .timeline import Item, Notice
from .widgets import STYLE, Rows, Words
from .wording import connection_line, seen_line, typing_line

LIST_WIDTH: Final = 26
# Below this many columns there is no list.
NARROW: Final = 60
_MAX_NOTICES: Final = 500

# Terminals that are asked to tell when they get and lose the focus send these; the keys exist on no keyboard.
_FOCUS_KEYS: Final = {"\x1b[I": Keys.ControlF23, "\x1b[O": Keys.ControlF24}
_ASK_FOCUS: Final = "\x1b[?1004h"
_ASK_NO_FOCUS: Final = "\x1b[?1004l"

_log = Logger()


class Screen:
    """The whole screen; `run` shows it until the user is done. Without `input` and `output`, the terminal's."""

    def __init__(
        self,
        session: Session,
        reactor: Any,
        *,
        first_room: str | None = None,
        input: Input | None = None,
        output: Output | None = None,
    ) -> None:
        self._session = session
        self._reactor = reactor
        self._interpreter = Interpreter(session, self, first_room)
        self._home: list[Item] = []
        self._sending: dict[str, list[str]] = {}
        # The item at the bottom of the messages; None: the newest, whatever comes.
        self._bottom: Item | None = None
        self._shown: list[tuple[Item, list[Row]]] = []
        self._pane_width, self._pane_height = 80, 24
        self._is_focused = True
        self._is_loading = False
        self._is_first = True
        self._is_one_wanted = first_room is not None
        self._connection = LinkState(False)
        self._changed_at = 0.0
        self._is_ticking = False
        self._farewell = ""
        self._buffer = Buffer(
            multiline=True, completer=Words(self._interpreter), complete_while_typing=False, on_text_changed=self._typed
        )
        ANSI_SEQUENCES.update(_FOCUS_KEYS)
        self._app: Application[None] = Application(
            layout=self._layout(),
            key_bindings=self._keys(),
            style=STYLE,
            full_screen=True,
            input=input,
            output=output,
        )

    async def run(self) -> str:
        """Show the chat until it is left; return a last sentence for the terminal, or nothing."""
        running = Deferred.fromCoroutine(self._run_session())
        self._app.output.write_raw(_ASK_FOCUS)
        try:
            showing = self._app.run_async(handle_sigint=False, set_exception_handler=False)
            await Deferred.fromFuture(asyncio.ensure_future(showing))
        finally:
            self._app.output.write_raw(_ASK_NO_FOCUS)
            self._app.output.flush()
            unsent = self._session.unsent
            await self._session.end()
            await running
        if unsent and not self._farewell:
            return "1 message was not sent." if unsent == 1 else f"{unsent} messages were not sent."
        return self._farewell

    # -- what happens ------------------------------------------------------------------------------------------------

    def told(self, news: News) -> None:
        """Show an update."""
        self._interpreter.told(news)
        self._show_first()
        self._fill()
        self._read()
        self._app.invalidate()

    def connection(self, state: LinkState) -> None:
        """Show what has become of the connection."""
        self._connection = state
        self._changed_at = self._reactor.seconds()
        if state.is_connected:
            self._show_first()
            self._fill()
        self._tick()

    def _show_first(self) -> None:
        """Open a room as soon as one is known: once. One that is wanted may be new, so all has to be known."""
        if self._is_first and (self._session.model.rooms or self._is_one_wanted):
            self._is_first = False
            if self._is_one_wanted:
                self._start(self._open_wanted())
            else:
                self._interpreter.open_first()

    async def _open_wanted(self) -> None:
        await self._interpreter.attempt(self._session.settled())
        self._interpreter.open_first()

    def _tick(self) -> None:
        """Draw the seconds go by until the next attempt to connect."""
        self._app.invalidate()
        if not self._connection.is_connected and self._app.is_running and not self._is_ticking:
            self._is_ticking = True

            def again() -> None:
                self._is_ticking = False
                self._tick()

            self._reactor.callLater(1.0, again)

    def notice(self, notice: Notice, room: Room | None) -> None:
        """Show a line of our own."""
        room = room or self._interpreter.open_room
        if room is not None:
            room.timeline.note(notice)
        else:
            self._home.append(notice)
            del self._home[:-_MAX_NOTICES]
        self._app.invalidate()

    def opened(self, room: Room | None) -> None:
        """Show another room, with as much of its history as fits."""
        self._bottom = None
        self._fill()
        self._read()
        if room is not None:
            self._start(self._session.ask_presence(room.members.present()), is_quiet=True)
        self._app.invalidate()

    def sending(self, room: Room, body: str) -> Callable[[], None]:
        """Show a message that is on its way."""
        bodies = self._sending.setdefault(room.room_id, [])
        bodies.append(body)
        self._bottom = None
        self._app.invalidate()

        def sent() -> None:
            bodies.remove(body)
            self._app.invalidate()

        return sent

    def quit(self) -> None:
        """Leave the screen."""
        if self._app.is_running and not self._app.is_done:
            self._app.exit()

    async def _run_session(self) -> None:
        try:
            await self._session.run(self)
        except SessionEnded as ended:
            self._farewell = str(ended)
        except Exception:  # the boundary: the screen is restored, and then it is told
            _log.failure("the chat failed")
            self._farewell = "This is a fault of the chat itself; with --log FILE it is written down."
        self.quit()

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _layout(self) -> Layout:
        typed = Window(
            BufferControl(self._buffer, input_processors=[BeforeInput("> ", style="class:dim")]),
            height=Dimension(min=1, max=6),
            dont_extend_height=True,
            wrap_lines=True,
        )
        wide = Condition(lambda: self._app.output.get_size().columns >= NARROW)
        rooms = VSplit(
            [
                Window(Rows(self._room_rows), width=Dimension.exact(LIST_WIDTH)),
                Window(char="│", width=Dimension.exact(1), style="class:line"),
            ]
        )
        messages = HSplit(
            [
                Window(Rows(self._header_rows), height=Dimension.exact(1), style="class:header"),
                Window(Rows(self._message_rows)),
                Window(Rows(self._typing_rows), height=Dimension.exact(1)),
            ]
        )
        body = VSplit([ConditionalContainer(rooms, wide), messages])
        status = Window(Rows(self._status_rows), height=Dimension.exact(1), style="class:status")
        return Layout(HSplit([body, status, typed]), focused_element=typed)

    def _room_rows(self, width: int, height: int) -> list[Row]:
        model, room = self._session.model, self._interpreter.open_room
        return layout.room_rows(model, model.listed(), room.room_id if room else None, width, height)

    def _header_rows(self, width: int, _height: int) -> list[Row]:
        room = self._interpreter.open_room
        if room is None:
            return [[("", layout.clip(" Sennit", width))]]
        model = self._session.model
        parts = [model.name_of(room)]
        partner = model.partner(room)
        if partner is not None:
            known = model.presence.get(partner)
            parts.append("online" if model.is_online(partner) else "not online")
            if known is not None and known.status:
                parts.append(known.status)
        elif room.topic:
            parts.append(room.topic)
        if room.is_encrypted:
            parts.insert(1, "encrypted: not readable here")
        return [[("", layout.clip(" " + "  –  ".join(parts), width))]]

    def _message_rows(self, width: int, height: int) -> list[Row]:
        self._pane_width, self._pane_height = width, height
        room = self._interpreter.open_room
        if room is None:
            rows = [[("", f" {line}")] for line in layout.HOME]
            for item in self._home:
                if isinstance(item, Notice):
                    rows += [
                        [("class:bad" if item.is_bad else "class:notice", f" {row}")]
                        for row in layout.wrap(item.text, width - 1)
                    ]
            return rows[-height:]
        items, pending = self._items(room), self._sending.get(room.room_id, [])
        last = [] if self._bottom is not None else layout.pending_rows(pending, width)
        self._shown = layout.message_rows(room, items, width, height, self._session.user_id)
        if room.membership == "invite":
            last = [[("class:notice", " You are invited: /accept or /decline")]]
        rows = [row for _item, of_item in self._shown for row in of_item] + last
        # The newest is at the bottom, as in every chat.
        return [[] for _ in range(height - len(rows))] + rows[-height:]

    def _typing_rows(self, width: int, _height: int) -> list[Row]:
        room = self._interpreter.open_room
        if room is None:
            return [[]]
        if self._bottom is not None:
            return [[("class:unread", layout.clip(" ↓ newer messages below: PageDown", width))]]
        line = typing_line(room, self._session.user_id) or seen_line(room, self._session.user_id)
        return [[("class:dim", layout.clip(f" {line}", width))]]

    def _status_rows(self, width: int, _height: int) -> list[Row]:
        line = connection_line(self._connection, self._reactor.seconds() - self._changed_at)
        style = "" if self._connection.is_connected else "class:trouble"
        return [[(style, layout.clip(f" {line}  │  {text.one_line(self._session.user_id, 255)}  │  /help", width))]]

    def _items(self, room: Room) -> list[Item]:
        items = room.timeline.items
        if self._bottom is not None:
            for place in range(len(items) - 1, -1, -1):
                if items[place] is self._bottom:
                    return items[: place + 1]
            self._bottom = None
        return items

    # -- what is typed -----------------------------------------------------------------------------------------------

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter")
        def _enter(event: KeyPressEvent) -> None:
            line = self._buffer.text
            self._buffer.append_to_history()
            self._buffer.reset()
            self._bottom = None
            self._start(self._interpreter.type(line))

        @keys.add("escape", "enter")
        def _new_line(event: KeyPressEvent) -> None:
            self._buffer.insert_text("\n")

        @keys.add("c-c")
        def _clear_or_quit(event: KeyPressEvent) -> None:
            if self._buffer.text:
                self._buffer.reset()
            else:
                self._start(self._interpreter.type("/quit"))

        @keys.add("c-d")
        def _quit(event: KeyPressEvent) -> None:
            if not self._buffer.text:
                self._start(self._interpreter.type("/quit"))

        @keys.add("tab")
        def _complete(event: KeyPressEvent) -> None:
            if self._buffer.complete_state:
                self._buffer.complete_next()
            else:
                self._buffer.start_completion(insert_common_part=True)

        @keys.add("pageup")
        def _up(event: KeyPressEvent) -> None:
            self._scroll_up()

        @keys.add("pagedown")
        def _down(event: KeyPressEvent) -> None:
            self._scroll_down()

        for pressed, step in ((("c-n",), 1), (("escape", "down"), 1), (("c-p",), -1), (("escape", "up"), -1)):
            keys.add(*pressed)(lambda _event, step=step: self._step(step))
        keys.add("escape", "a")(lambda _event: self._next_unread())
        keys.add(_FOCUS_KEYS["\x1b[I"])(lambda _event: self._focus(True))
        keys.add(_FOCUS_KEYS["\x1b[O"])(lambda _event: self._focus(False))
        return keys

    def _typed(self, _buffer: Buffer) -> None:
        room, line = self._interpreter.open_room, self._buffer.text
        if room is not None and room.membership == "join" and not line.startswith("/") and not room.is_encrypted:
            self._start(self._session.typing(room, bool(line)), is_quiet=True)

    def _scroll_up(self) -> None:
        """What is at the top goes to the bottom; older messages are loaded before they are needed."""
        room = self._interpreter.open_room
        if room is None or not self._shown:
            return
        items, top = self._items(room), self._shown[0][0]
        place = next(number for number, item in enumerate(items) if item is top)
        is_cut = sum(len(rows) for _item, rows in self._shown) > self._pane_height
        if place > 0 and top is self._bottom:
            # A message that is longer than the screen.
            self._bottom = items[place - 1]
        elif place > 0 or is_cut:
            self._bottom = top
        if place < self._pane_height:
            self._load_older()

    def _scroll_down(self) -> None:
        room = self._interpreter.open_room
        if room is None or self._bottom is None:
            return
        items, rows = room.timeline.items, 0
        for item in items[len(self._items(room)) - 1 : -1]:
            rows += len(layout.item_rows(room, item, self._pane_width, self._session.user_id))
            if rows >= self._pane_height and item is not self._bottom:
                self._bottom = item
                return
        self._bottom = None
        self._read()

    def _step(self, step: int) -> None:
        rooms, room = self._session.model.listed(), self._interpreter.open_room
        if rooms:
            place = rooms.index(room) + step if room in rooms else 0
            self._interpreter.open(rooms[place % len(rooms)])

    def _next_unread(self) -> None:
        unread = [room for room in self._session.model.listed() if room.unread or room.membership == "invite"]
        if unread:
            self._interpreter.open(max(unread, key=lambda room: room.highlights > 0))

    def _focus(self, is_focused: bool) -> None:
        self._is_focused = is_focused
        self._read()

    # -- what follows ------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Whoever looks at the end of a room has read it."""
        room = self._interpreter.open_room
        if room is not None and room.membership == "join" and self._is_focused and self._bottom is None:
            self._start(self._session.read(room), is_quiet=True)

    def _fill(self) -> None:
        """Load as much of the open room's history as fits on the screen."""
        room = self._interpreter.open_room
        if room is not None and len(room.timeline.items) < self._pane_height:
            self._load_older()

    def _load_older(self) -> None:
        room = self._interpreter.open_room
        if room is None or room.membership != "join" or not self._connection.is_connected:
            return
        if not self._is_loading and room.timeline.older is not None:
            self._is_loading = True
            self._start(self._load(room))

    async def _load(self, room: Room) -> None:
        try:
            await self._interpreter.attempt(self._session.older(room))
        finally:
            self._is_loading = False
            self._read()
            self._app.invalidate()

    def _start(self, work: Coroutine[Any, Any, object], *, is_quiet: bool = False) -> None:
        """Do something beside; what fails that nobody has asked for is not told."""

        async def whole() -> None:
            try:
                await work
            except ChatError as error:
                if not is_quiet:
                    self.notice(Notice(str(error), is_bad=True), None)
            except Exception:
                _log.failure("something failed that was typed")
                self.notice(Notice("This is a fault of the chat itself.", is_bad=True), None)
            self._app.invalidate()

        Deferred.fromCoroutine(whole())
