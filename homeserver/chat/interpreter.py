"""Does what typed lines say, and keeps the one room that is open; the same for both user interfaces.

Spec: none; docs/chat.md describes the commands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from twisted.internet.defer import Deferred, TimeoutError

from . import text
from .commands import Command, Mistake, Say, help_lines, parse_create, parse_line
from .http import ChatError
from .model import News, Room
from .naming import full_user_id
from .session import Session
from .timeline import Notice

# The server is quicker, unless the connection is gone.
COMING_TIMEOUT_S: Final = 60.0
# How long the end waits for answers of a server that is there.
SENDING_TIMEOUT_S: Final = 3.0
ENDINGS: Final = ("quit", "logout")
_MAX_LISTED: Final = 100


class View(Protocol):
    """Where it is shown."""

    def notice(self, notice: Notice, room: Room | None) -> None:
        """Show a line of our own, in a room if it is about that one."""

    def opened(self, room: Room | None) -> None:
        """Another room is open, or none."""

    def sending(self, room: Room, body: str) -> Callable[[], None]:
        """Show that a message is on its way, until what is returned is called."""

    def quit(self) -> None:
        """End."""


class Interpreter:
    """Types what a person types. `open_room` is what messages go to."""

    def __init__(self, session: Session, view: View, first_room: str | None = None) -> None:
        """`first_room`: what to open at first, as one would type it."""
        self._first_room = first_room
        self._session = session
        self._view = view
        # Until the wanted room is found, what is typed shall not go into another one.
        self._room_id: str | None = session.saved.room_id if first_room is None else None
        self._has_warned = False
        # Rooms that we have joined or made, and that the stream has not told of yet.
        self._wanted: dict[str, Deferred[None]] = {}
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "open": self._open,
            "join": self._join,
            "create": self._create,
            "dm": self._dm,
            "invite": self._invite,
            "accept": self._accept,
            "decline": self._decline,
            "leave": self._leave,
            "rooms": self._rooms,
            "who": self._who,
            "topic": self._topic,
            "nick": self._nick,
            "online": self._online,
            "away": self._away,
            "read": self._read,
            "older": self._older,
            "help": self._help,
            "logout": self._logout,
            "quit": self._quit,
        }

    @property
    def open_room(self) -> Room | None:
        """The room that is open."""
        return self._session.model.rooms.get(self._room_id) if self._room_id is not None else None

    async def type(self, line: str) -> None:
        """Do what a line says; what goes wrong is shown."""
        meant = parse_line(line)
        if not (isinstance(meant, Command) and meant.name in ENDINGS):
            self._has_warned = False
        if isinstance(meant, Mistake):
            self._say(meant.text, is_bad=True)
        elif meant is not None:
            await self.attempt(self._send(meant) if isinstance(meant, Say) else self._do(meant))

    async def attempt(self, work: Awaitable[object]) -> None:
        """Wait for something, and show it if it fails."""
        try:
            await work
        except ChatError as error:
            self._say(str(error), is_bad=True)

    def told(self, news: News) -> None:
        """Take notice of an update: invites are told, and a room that we wanted to be in is opened."""
        model = self._session.model
        for room, why in news.left:
            self._say(f"{why}: {model.name_of(room)}." if why else f"You have left {model.name_of(room)}.")
            if room.room_id == self._room_id:
                self.open(None)
        for room_id in news.invites:
            room = model.rooms[room_id]
            who = room.members.shown(room.inviter) if room.inviter is not None else "Somebody"
            self._say(f"{who} invites you to {self._invite_name(room)}: /accept or /decline")
        for room_id in [each for each in self._wanted if each in model.rooms]:
            if model.rooms[room_id].membership == "join":
                self._wanted.pop(room_id).callback(None)

    def open(self, room: Room | None) -> None:
        """Go to a room."""
        self._room_id = room.room_id if room is not None else None
        self._session.saved.room_id = self._room_id
        self._view.opened(room)

    def open_first(self) -> None:
        """Go to the room that is wanted, and to no other; else the one that was open the last time, or the first."""
        room = self.open_room
        if self._first_room is not None:
            try:
                room = self._find(self._first_room, self._session.model.listed())
            except ChatError as error:
                self._say(str(error), is_bad=True)
                self._view.opened(None)
                return
        if room is None:
            joined = [each for each in self._session.model.listed() if each.membership == "join"]
            room = joined[0] if joined else None
        self.open(room)

    async def may_quit(self) -> bool:
        """Whether all that was said is sent; if not, that is told, and who asks again may go."""
        count = self._session.unsent
        if not count or self._has_warned or await self._session.all_sent(SENDING_TIMEOUT_S):
            return True
        self._has_warned = True
        count = self._session.unsent
        are, them = ("message is", "it") if count == 1 else ("messages are", "them")
        self._say(f"{count} {are} not sent yet. /quit again to leave without sending {them}.", is_bad=True)
        return False

    # -- messages ----------------------------------------------------------------------------------------------------

    async def _send(self, said: Say) -> None:
        room = self._need_room()
        sent = self._view.sending(room, f"* {said.text}" if said.is_emote else said.text)
        try:
            await self._session.say(room, said.text, is_emote=said.is_emote)
        except ChatError as error:
            self._view.notice(Notice(f"Not sent: {error}", is_bad=True), room)
        finally:
            sent()

    async def _read(self, _argument: str) -> None:
        await self._session.read(self._need_room())

    async def _older(self, _argument: str) -> None:
        room = self._need_room()
        if not await self._session.older(room):
            self._say("This is the beginning of the room.")

    # -- rooms -------------------------------------------------------------------------------------------------------

    async def _open(self, argument: str) -> None:
        self.open(self._find(argument, self._session.model.listed()))

    async def _join(self, argument: str) -> None:
        await self._want(await self._session.join(argument))

    async def _create(self, argument: str) -> None:
        name, is_public = parse_create(argument)
        await self._want(await self._session.create(name, is_public=is_public))

    async def _dm(self, argument: str) -> None:
        await self._want(await self._session.direct(argument))

    async def _invite(self, argument: str) -> None:
        room = self._need_room()
        user_id = await self._session.invite(room, argument)
        self._say(f"{text.one_line(user_id, 255)} is invited to {self._name(room)}.")

    async def _accept(self, argument: str) -> None:
        room = self._find_invite(argument)
        await self._session.accept(room)
        await self._want(room.room_id)

    async def _decline(self, argument: str) -> None:
        await self._session.leave(self._find_invite(argument))

    async def _leave(self, _argument: str) -> None:
        await self._session.leave(self._need_room())

    async def _rooms(self, _argument: str) -> None:
        rooms = self._session.model.listed()
        if not rooms:
            self._say("You are in no room. /join ALIAS, /create NAME or /dm USER")
        for room in rooms[:_MAX_LISTED]:
            parts = [self._name(room)]
            if room.alias and room.alias != parts[0]:
                parts.append(room.alias)
            if room.membership == "invite":
                parts.append("an invite: /accept or /decline")
            elif room.unread:
                parts.append(f"{room.unread} unread" + (f", {room.highlights} for you" if room.highlights else ""))
            if room.room_id == self._room_id:
                parts.append("open")
            self._say("  ".join(parts))

    async def _topic(self, argument: str) -> None:
        room = self._need_room()
        if argument:
            await self._session.set_topic(room, argument)
        else:
            self._say(f"The topic of {self._name(room)}: {room.topic}" if room.topic else "There is no topic.")

    # -- people ------------------------------------------------------------------------------------------------------

    async def _who(self, _argument: str) -> None:
        room = self._need_room()
        users = await self._session.who(room)
        await self._session.ask_presence(users)
        for user_id in users[:_MAX_LISTED]:
            shown, raw = room.members.shown(user_id), text.one_line(user_id, 255)
            known = self._session.model.presence.get(user_id)
            state = "online" if self._session.model.is_online(user_id) else (known.presence if known else "")
            status = f": {known.status}" if known and known.status else ""
            line = shown if raw in shown else f"{shown} ({raw})"
            self._say(line + (f"  {text.one_line(state, 20)}{status}" if state else ""))
        if len(users) > _MAX_LISTED:
            self._say(f"… and {len(users) - _MAX_LISTED} more")

    async def _nick(self, argument: str) -> None:
        await self._session.set_name(argument)
        self._say(f"You are called {text.one_line(argument)} now.")

    async def _online(self, argument: str) -> None:
        await self._session.set_presence("online", argument)
        self._say("You are shown as online.")

    async def _away(self, argument: str) -> None:
        await self._session.set_presence("unavailable", argument)
        self._say("You are shown as away; /online when you are back.")

    # -- the chat itself ---------------------------------------------------------------------------------------------

    async def _help(self, _argument: str) -> None:
        for line in help_lines():
            self._say(line)

    async def _logout(self, _argument: str) -> None:
        if not await self.may_quit():
            return
        try:
            await self._session.log_out()
        finally:
            self._view.quit()

    async def _quit(self, _argument: str) -> None:
        if await self.may_quit():
            self._view.quit()

    async def _do(self, command: Command) -> None:
        await self._commands[command.name](command.argument)

    async def _want(self, room_id: str) -> None:
        """Open a room as soon as it is there."""
        room = self._session.model.rooms.get(room_id)
        if room is None or room.membership != "join":
            coming = self._wanted.setdefault(room_id, Deferred())
            try:
                await coming.addTimeout(COMING_TIMEOUT_S, self._session.reactor)
            except TimeoutError:
                self._wanted.pop(room_id, None)
                raise ChatError("You are in the room, but it does not come.") from None
        self.open(self._session.model.rooms[room_id])

    def _need_room(self) -> Room:
        room = self.open_room
        if room is None:
            raise ChatError("No room is open. /open ROOM, /join ALIAS, /create NAME or /dm USER")
        if room.membership == "invite":
            raise ChatError("This is an invite: /accept or /decline")
        return room

    def _find_invite(self, argument: str) -> Room:
        invites = [room for room in self._session.model.listed() if room.membership == "invite"]
        if argument:
            return self._find(argument, invites)
        room = self.open_room
        if room is not None and room.membership == "invite":
            return room
        if len(invites) == 1:
            return invites[0]
        raise ChatError("Which invite? Name the room." if invites else "There is no invite.")

    def _find(self, argument: str, rooms: list[Room]) -> Room:
        """Return the room that a typed name means: exactly, else by a part of its name."""
        wanted = text.look(argument.removeprefix("@"))
        model = self._session.model
        for room in rooms:
            names = {text.look(self._name(room)), text.look(room.alias), room.room_id.casefold()}
            partner = model.partner(room)
            if wanted in names or (partner is not None and partner == full_user_id(argument, self._session.user_id)):
                return room
        found = [room for room in rooms if wanted in text.look(self._name(room)) or wanted in text.look(room.alias)]
        if len(found) == 1:
            return found[0]
        if found:
            names_found = ", ".join(self._name(room) for room in found[:5])
            raise ChatError(f"That may be one of {names_found}. Type more of the name.")
        raise ChatError(f"No room of yours is called {text.one_line(argument)}. /rooms lists them.")

    def _invite_name(self, room: Room) -> str:
        return "a talk between you two" if room.is_direct else self._name(room)

    def _name(self, room: Room) -> str:
        return self._session.model.name_of(room)

    def _say(self, line: str, *, is_bad: bool = False) -> None:
        self._view.notice(Notice(line, is_bad), None)
