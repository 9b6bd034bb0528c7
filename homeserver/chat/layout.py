"""What the screen shows, as rows of styled text; the half of the screen that needs no terminal.

A row is a list of pairs of a style class and text, as prompt_toolkit has it. Rows are as wide as the terminal's cells
are: an ideogram takes two, an accent none. All text in them has been neutralised (see `text`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Final

from prompt_toolkit.utils import get_cwidth

from . import text
from .model import Model, Room
from .timeline import Item, Message, Notice
from .wording import Kind, Words, clock, day, words_of

Row = list[tuple[str, str]]

INDENT: Final = 6
COLORS: Final = 6

HOME: Final = (
    "Welcome.",
    "",
    "  /dm bob             talk to one person",
    "  /create Tea room    make a room",
    "  /join lobby         join a room that is there",
    "  /help               everything else",
)


def width_of(text: str) -> int:
    """Return how many cells a text takes."""
    return get_cwidth(text)


def clip(text: str, width: int) -> str:
    """Return the beginning of a text that fits, filled up with spaces to exactly `width` cells."""
    if width <= 0:
        return ""
    if width_of(text) > width:
        kept, used = [], 1
        for character in text:
            used += width_of(character)
            if used > width:
                break
            kept.append(character)
        text = "".join(kept) + "…"
    return text + " " * (width - width_of(text))


def wrap(text: str, width: int) -> list[str]:
    """Break a text into rows of at most `width` cells, between words where that is possible; one row at least."""
    rows: list[str] = []
    row, used = "", 0
    for word in _pieces(text, max(width, 2)):
        wide = width_of(word)
        if used + wide > width and row:
            rows.append(row.rstrip())
            row, used = "", 0
            if word.isspace():
                continue
        row += word
        used += wide
    return [*rows, row.rstrip()] if row.strip() or not rows else rows


def _pieces(text: str, width: int) -> Iterator[str]:
    """Give words and the spaces between them, none wider than `width`."""
    piece, used, is_space = "", 0, False
    for character in text:
        wide = width_of(character)
        if piece and ((character == " ") != is_space or used + wide > width):
            yield piece
            piece, used = "", 0
        is_space = character == " "
        piece += character
        used += wide
    if piece:
        yield piece


# -- messages --------------------------------------------------------------------------------------------------------


def message_rows(
    room: Room, items: Sequence[Item], width: int, wanted: int, own_user_id: str
) -> list[tuple[Item, list[Row]]]:
    """Return the rows of the last items, oldest first: as many items as fill `wanted` rows, each item whole."""
    chosen: list[tuple[Item, list[Row]]] = []
    total = 0
    for place in range(len(items) - 1, -1, -1):
        item = items[place]
        rows = item_rows(room, item, width, own_user_id)
        if not rows:
            continue
        if isinstance(item, Message):
            before = _message_before(items, place)
            if before is None or day(before.event.ts_ms) != day(item.event.ts_ms):
                rows = [_day_row(item, width), *rows]
        chosen.append((item, rows))
        total += len(rows)
        if total >= wanted:
            break
    return chosen[::-1]


def _message_before(items: Sequence[Item], place: int) -> Message | None:
    for number in range(place - 1, -1, -1):
        item = items[number]
        if isinstance(item, Message):
            return item
    return None


def item_rows(room: Room, item: Item, width: int, own_user_id: str) -> list[Row]:
    """Return the rows of a message or a notice; none where there is nothing to tell."""
    if isinstance(item, Notice):
        style = "class:bad" if item.is_bad else "class:notice"
        return [[("", " " * INDENT), (style, row)] for row in wrap(item.text, width - INDENT)]
    words = words_of(room, item)
    return _words_rows(words, item, width, own_user_id) if words is not None else []


def pending_rows(bodies: Sequence[str], width: int) -> list[Row]:
    """Return the rows of messages that are on their way."""
    return [
        [("class:dim", "  …   " if number == 0 else " " * INDENT), ("class:dim", row)]
        for body in bodies
        for number, row in enumerate(wrap(text.one_line(body, 1000), width - INDENT))
    ]


def name_style(sender: str, *, is_own: bool) -> str:
    """Return the style of a sender's name: always the same for the same one."""
    return "class:own" if is_own else f"class:name{zlib.crc32(sender.encode('utf-8', 'replace')) % COLORS}"


def _words_rows(words: Words, message: Message, width: int, own_user_id: str) -> list[Row]:
    event = message.event
    time_part = ("class:time", f"{clock(event.ts_ms)} ")
    if words.kind is Kind.HAPPENED:
        wrapped = wrap(words.lines[0], width - INDENT)
        return [
            [time_part if number == 0 else ("", " " * INDENT), ("class:dim", row)] for number, row in enumerate(wrapped)
        ]
    style = name_style(event.sender, is_own=event.sender == own_user_id)
    body_style = "class:dim" if words.is_absent else "class:quiet" if words.kind is Kind.NOTICE else ""
    before, after = {Kind.DONE: ("* ", " "), Kind.NOTICE: ("", ": ")}.get(words.kind, ("", ": "))
    head = f"{before}{words.sender}{after}"
    rows: list[Row] = []
    for number, line in enumerate(words.lines):
        # The name takes its place in the first row; what does not fit behind it goes on below.
        lead = head if number == 0 else ""
        for part, row in enumerate(wrap(lead + line, width - INDENT)):
            if number == 0 and part == 0:
                named = row[: len(head)]
                rows.append([time_part, (style, named), (body_style, row[len(named) :])])
            else:
                rows.append([("", " " * INDENT), (body_style, row)])
    if words.note:
        rows[-1].append(("class:dim", f" ({words.note})"))
    if words.reactions:
        rows += [
            [("", " " * INDENT), ("class:reaction", row)] for row in wrap("  ".join(words.reactions), width - INDENT)
        ]
    return rows


def _day_row(message: Message, width: int) -> Row:
    name = f" {day(message.event.ts_ms)} "
    left = max(0, (width - width_of(name)) // 2)
    return [
        ("class:line", "─" * left),
        ("class:dim", name),
        ("class:line", "─" * max(0, width - left - width_of(name))),
    ]


# -- rooms -----------------------------------------------------------------------------------------------------------


def room_rows(model: Model, rooms: Sequence[Room], open_id: str | None, width: int, height: int) -> list[Row]:
    """Return the list of rooms, moved so that the open one is in it."""
    start = 0
    if len(rooms) > height:
        place = next((number for number, room in enumerate(rooms) if room.room_id == open_id), 0)
        start = max(0, min(place - height // 2, len(rooms) - height))
    return [room_row(model, room, width, is_open=room.room_id == open_id) for room in rooms[start : start + height]]


def room_row(model: Model, room: Room, width: int, *, is_open: bool) -> Row:
    """Return one room: a mark, its name, and how much is unread."""
    partner = model.partner(room)
    if room.membership == "invite":
        mark, count, style = "+", "invite", "class:invite"
    else:
        mark = "#" if partner is None else "●" if model.is_online(partner) else "○"
        count = f"{room.unread}" if room.unread else ""
        if room.highlights:
            count += "!"
        style = "class:highlight" if room.highlights else "class:unread" if room.unread else ""
    if is_open:
        style += " class:open"
    name = clip(model.name_of(room), width - 4 - (width_of(count) + 1 if count else 0))
    mark_style = "class:online" if mark == "●" else "class:dim"
    return [(f"{mark_style} {style}", f" {mark} "), (style, name), (style, f" {count} " if count else " ")]
