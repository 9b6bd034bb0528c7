"""What people and rooms are called.

Names are the words of others, so they come out of here neutralised (see `text`), and two people whose names look alike
are told apart by their user IDs.

Spec: client-server API, "Calculating the display name for a user", "Calculating the display name for a room".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from . import text

# How many people name a room that has no name of its own.
_NAMED_HEROES: Final = 3
_SHORTEST_MENTION: Final = 2
_MISLEADING: Final = frozenset("@:<>")
_PRESENT: Final = frozenset({"join", "invite"})


class Members:
    """The members of a room as far as they are known: with lazy loading, those who have said something."""

    def __init__(self) -> None:
        self.memberships: dict[str, str] = {}
        self._displaynames: dict[str, str | None] = {}
        self._by_look: dict[str, set[str]] = {}

    def learn(self, user_id: str, content: dict[str, Any]) -> None:
        """Take the content of a membership event. Who has gone keeps the name, for the messages that stay."""
        membership = content.get("membership")
        if not isinstance(membership, str):
            return
        self._forget_look(user_id)
        self.memberships[user_id] = membership
        displayname = content.get("displayname")
        if membership in _PRESENT or isinstance(displayname, str):
            self._displaynames[user_id] = displayname if isinstance(displayname, str) else None
        if membership in _PRESENT:
            self._by_look.setdefault(text.look(self._plain(user_id)), set()).add(user_id)

    def shown(self, user_id: str) -> str:
        """Return what to call somebody, member or not."""
        plain = self._plain(user_id)
        if plain == text.name(None, user_id):
            return plain
        others = self._by_look.get(text.look(plain), set()) - {user_id}
        # A name with these signs may pass for a user ID, or for a name and what it says.
        if others or not _MISLEADING.isdisjoint(plain):
            return f"{plain} ({text.one_line(user_id, 255)})"
        return plain

    def find(self, called: str) -> list[str]:
        """Return the present members whom a typed name, or the first part of a user ID, may mean."""
        wanted = text.look(called)
        exact = self._by_look.get(wanted)
        if exact:
            return sorted(exact)
        return sorted(
            user_id
            for user_id, membership in self.memberships.items()
            if membership in _PRESENT and localpart(user_id) == called
        )

    def present(self) -> list[str]:
        """Return the known members who are in the room or invited."""
        return [user_id for user_id, membership in self.memberships.items() if membership in _PRESENT]

    def mentioned(self, body: str, own_user_id: str) -> list[str]:
        """Return whom a message speaks of: by display name, by user ID, or by its first part behind an @."""
        said = text.look(body)
        return sorted(
            user_id
            for user_id in self.present()
            if user_id != own_user_id
            and any(_says(said, name) for name in (self._plain(user_id), user_id, f"@{localpart(user_id)}"))
        )

    def displayname(self, user_id: str) -> str | None:
        """Return the name as it was set, not neutralised."""
        return self._displaynames.get(user_id)

    def _plain(self, user_id: str) -> str:
        return text.name(self._displaynames.get(user_id), user_id)

    def _forget_look(self, user_id: str) -> None:
        look = text.look(self._plain(user_id))
        alike = self._by_look.get(look)
        if alike is not None:
            alike.discard(user_id)
            if not alike:
                del self._by_look[look]


def _says(said: str, name: str) -> bool:
    """Whether a name is said, as words of its own."""
    wanted = text.look(name)
    if len(wanted) < _SHORTEST_MENTION or wanted not in said:
        return False
    return re.search(rf"(?<![\w@]){re.escape(wanted)}(?![\w:])", said) is not None


def room_name(
    *, name: object, alias: object, heroes: Sequence[str], joined: int, invited: int, otherwise: str = "Empty room"
) -> str:
    """Return what to call a room. `heroes` are names that are shown already; `otherwise`: where nobody is in it."""
    if isinstance(name, str) and (shown := text.name(name, "")):
        return shown
    if isinstance(alias, str) and alias.startswith("#") and ":" in alias:
        return text.one_line(alias, 255)
    others = joined + invited - 1
    if others <= 0 and not heroes:
        return otherwise
    names = [text.one_line(hero, 255) for hero in heroes[:_NAMED_HEROES]]
    more = max(others, len(heroes)) - len(names)
    if more > 0:
        names.append(f"{more} other{'s' if more > 1 else ''}")
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return listed if others > 0 else f"{otherwise} (was {listed})"


def localpart(user_id: str) -> str:
    """Return what is between @ and the server name."""
    return user_id.partition(":")[0].removeprefix("@")


def server_name(user_id: str) -> str:
    """Return what comes after the first colon."""
    return user_id.partition(":")[2]


def full_user_id(typed: str, own_user_id: str) -> str:
    """Return the user ID that somebody means who leaves out the @ or our own server's name."""
    bare = typed.removeprefix("@")
    return f"@{bare}" if ":" in bare else f"@{bare}:{server_name(own_user_id)}"


def full_alias(typed: str, own_user_id: str) -> str:
    """Return the room ID or alias that somebody means who leaves out the # or our own server's name."""
    if typed.startswith("!"):
        return typed
    bare = typed.removeprefix("#")
    return f"#{bare}" if ":" in bare else f"#{bare}:{server_name(own_user_id)}"
