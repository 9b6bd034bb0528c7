"""What a typed line means.

A line that begins with a slash is a command, `//` stands for a slash at the beginning of a message, and everything else
is a message. Pure: nothing is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from . import text


@dataclass(frozen=True, slots=True)
class Say:
    """A message for the open room. `is_emote`: what one does."""

    text: str
    is_emote: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what stands behind it: one argument, or none where it is empty."""

    name: str
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A line that means nothing, and why."""

    text: str


@dataclass(frozen=True, slots=True)
class Usage:
    """A command: what may stand behind it, whether something must, and what it does."""

    name: str
    arguments: str
    help: str
    needs_argument: bool = False


USAGES: Final = (
    Usage("open", "ROOM", "go to a room; part of its name will do", needs_argument=True),
    Usage("join", "ALIAS|ID", "join a room, such as /join lobby", needs_argument=True),
    Usage("create", "NAME [public|private]", "make a room, private by default", needs_argument=True),
    Usage("dm", "USER", "talk to one person", needs_argument=True),
    Usage("invite", "USER", "invite somebody to this room", needs_argument=True),
    Usage("accept", "[ROOM]", "accept an invite"),
    Usage("decline", "[ROOM]", "decline an invite"),
    Usage("leave", "", "leave this room"),
    Usage("rooms", "", "list your rooms"),
    Usage("who", "", "list who is in this room"),
    Usage("me", "ACTION", "say what you do: /me waves", needs_argument=True),
    Usage("topic", "[TEXT]", "show or set the topic"),
    Usage("nick", "NAME", "set your display name", needs_argument=True),
    Usage("online", "[STATUS]", "show that you are here"),
    Usage("away", "[STATUS]", "show that you are not"),
    Usage("read", "", "mark this room as read"),
    Usage("older", "", "load older messages"),
    Usage("help", "", "this list"),
    Usage("logout", "", "log this device out, and end"),
    Usage("quit", "", "end; you stay logged in"),
)

_BY_NAME: Final = {usage.name: usage for usage in USAGES}


def parse_line(line: str) -> Say | Command | Mistake | None:
    """Return what a line means; None where it is empty."""
    line = line.strip("\r\n")
    if not line.strip():
        return None
    if line.startswith("//"):
        return Say(line[1:])
    if not line.startswith("/"):
        return Say(line)
    # Words are parted by any white space: a command may have been pasted.
    word, *rest = line[1:].split(maxsplit=1)[:2] or [""]
    argument = rest[0].strip() if rest else ""
    usage = _BY_NAME.get(word.lower())
    if usage is None:
        near = [each.name for each in USAGES if word and each.name.startswith(word.lower())]
        hint = f"; did you mean /{near[0]}?" if near else "; /help lists what there is"
        word = text.one_line(word, 50)
        return Mistake(f"There is no /{word}{hint} (A message that begins with a slash: //{word} …)")
    if usage.needs_argument and not argument:
        return Mistake(f"Say more: /{usage.name} {usage.arguments}: {usage.help}")
    if usage.name == "me":
        return Say(argument, is_emote=True)
    return Command(usage.name, argument)


def help_lines() -> list[str]:
    """Return the list of commands."""
    left = [f"/{usage.name} {usage.arguments}".rstrip() for usage in USAGES]
    width = max(map(len, left))
    return [f"{command:<{width}}  {usage.help}" for command, usage in zip(left, USAGES, strict=True)]


def parse_create(argument: str) -> tuple[str, bool]:
    """Return the name of a new room, and whether it is public."""
    name, _space, last = argument.rpartition(" ")
    if name.strip() and last.lower() in ("public", "private"):
        return name.strip(), last.lower() == "public"
    return argument, False


def alias_localpart(name: str) -> str:
    """Return what a public room is called in its alias: letters and digits of its name; may be empty."""
    words = "".join(character if character.isalnum() else " " for character in name.lower()).split()
    return "-".join(words)[:60]
