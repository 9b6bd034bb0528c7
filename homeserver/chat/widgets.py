"""What the screen is made of: its colours, a part that is drawn anew each time, and the completion of words."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.layout import UIContent, UIControl
from prompt_toolkit.styles import Style

from .commands import USAGES
from .interpreter import Interpreter
from .layout import Row

STYLE: Final = Style.from_dict(
    {
        "dim": "ansibrightblack",
        "time": "ansibrightblack",
        "line": "ansibrightblack",
        "quiet": "ansigray",
        "own": "bold",
        "notice": "ansicyan",
        "bad": "ansired",
        "reaction": "ansiyellow",
        "online": "ansigreen",
        "open": "reverse",
        "unread": "bold",
        "highlight": "bold ansired",
        "invite": "bold ansigreen",
        "header": "reverse",
        "status": "reverse",
        "trouble": "reverse bold",
        "name0": "ansigreen",
        "name1": "ansiyellow",
        "name2": "ansiblue",
        "name3": "ansimagenta",
        "name4": "ansicyan",
        "name5": "ansired",
    }
)


class Rows(UIControl):
    """A part of the screen that is made anew for its size each time."""

    def __init__(self, rows: Callable[[int, int], list[Row]]) -> None:
        """`rows(width, height)` returns at most `height` rows."""
        self._rows = rows

    def create_content(self, width: int, height: int) -> UIContent:
        """Return the rows to draw."""
        rows = self._rows(width, height)
        return UIContent(get_line=lambda number: list(rows[number]), line_count=len(rows), show_cursor=False)

    def is_focusable(self) -> bool:
        """Nothing is typed here."""
        return False


class Words(Completer):
    """Completes commands at the beginning of a line, and everywhere the names of those who are in the open room."""

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Return what the word before the cursor may become."""
        before = document.text_before_cursor
        if before.startswith("/") and " " not in before:
            for usage in USAGES:
                if usage.name.startswith(before[1:]):
                    yield Completion(f"/{usage.name} ", start_position=-len(before))
            return
        word, room = before.rpartition(" ")[2], self._interpreter.open_room
        if room is None or not word:
            return
        for name in sorted({room.members.shown(user_id) for user_id in room.members.present()}):
            if name.lower().startswith(word.lower()):
                yield Completion(name, start_position=-len(word))
