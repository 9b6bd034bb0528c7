"""Drawings of a room's graph: as lines of text with lanes, in the manner of `git log --graph`, and as Graphviz source.

A `DrawnGraph` is what is to be shown, the oldest event first and each after those that it builds on. In both drawings
the newest event is at the top. Text shows prev events as lanes and auth events as short IDs; Graphviz source shows prev
events as edges, and if wanted auth events too: nearly everything cites the same few, and long edges to these take
Graphviz long and hide the rest.

Everything in an event may be hostile: names are cut, and what a terminal or Graphviz would obey is written as its
number, so that an event is one line and stays a label. The cost grows with events times lanes; lanes that are drawn are
bounded.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

# LIMIT: more lanes than these are counted, not drawn.
MAX_LANES: Final = 40
_MAX_NAME: Final = 48
_SHORTEST_ID: Final = 9


class Mark(Enum):
    """What is noted beside an event."""

    REJECTED = "rejected"
    SOFT_FAILED = "soft-failed"
    OUTLIER = "outlier"
    REDACTED = "redacted"
    EXTREMITY = "extremity"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class DrawnEvent:
    """An event as it is drawn; `position` is its place in the stream, `state_group` the stored state after it.

    `room_group` is the room's state after the event came, where that is another.
    """

    event_id: str
    type: str
    state_key: str | None
    sender: str
    position: int | None
    prev_event_ids: tuple[str, ...]
    auth_event_ids: tuple[str, ...]
    marks: frozenset[Mark] = frozenset()
    state_group: int | None = None
    room_group: int | None = None


@dataclass(frozen=True, slots=True)
class DrawnGraph:
    """A room's graph or its newest part: `earlier` events are not in it.

    `outside_groups` are the state groups of events that are not in it and that those in it build on.
    """

    room_id: str
    version: str
    events: Sequence[DrawnEvent]
    earlier: int = 0
    outside_groups: Mapping[str, int] = field(default_factory=dict)


def plain(text: str, limit: int) -> str:
    """Return `text` as one line of printable characters, at most `limit` of them."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if not cut.isprintable():
        cut = "".join(each if each.isprintable() else f"\\u{{{ord(each):x}}}" for each in cut)
        cut = cut if len(cut) <= limit else cut[: limit - 1] + "…"
    return cut


# -- text ------------------------------------------------------------------------------------------------------------

# Mark -> the sign of the event in its lane; the first that fits.
_SIGNS: Final[Mapping[Mark, str]] = {Mark.REJECTED: "×", Mark.SOFT_FAILED: "◌", Mark.OUTLIER: "○"}


def draw_text(graph: DrawnGraph) -> Iterator[str]:
    """Yield the lines of the drawing, the newest event at the top."""
    short = _short_ids(graph)
    groups = _groups(graph)
    drawn = {event.event_id for event in graph.events}
    lanes: list[str | None] = []
    count = len(graph.events)
    yield f"{plain(graph.room_id, 255)}, room version {plain(graph.version, 64)}, {count} events, the newest first"
    for event in reversed(graph.events):
        waiting = [column for column, awaited in enumerate(lanes) if awaited == event.event_id]
        if waiting:
            column = waiting[0]
        else:
            column = _free_lane(lanes)
        if len(waiting) > 1:
            yield _link(lanes, column, waiting[1:], "┘┴")
            for other in waiting[1:]:
                lanes[other] = None
        lanes[column] = event.event_id
        yield f"{_lane_signs(lanes, column, event)} {_event_text(event, short, groups, drawn)}"
        prevs = [prev for prev in dict.fromkeys(event.prev_event_ids) if prev in drawn and prev != event.event_id]
        yield from _split(lanes, column, prevs)
        while lanes and lanes[-1] is None:
            lanes.pop()
    if graph.earlier:
        yield f"… and {graph.earlier} earlier events"


def _split(lanes: list[str | None], column: int, prevs: Sequence[str]) -> Iterator[str]:
    """Let the lane of an event go on to its first prev event, and open lanes to the others."""
    lanes[column] = prevs[0] if prevs else None
    opened: list[int] = []
    for prev in prevs[1:]:
        # Beside it where there is room; a second lane to the same event is joined there.
        free = _free_lane(lanes, column + 1)
        lanes[free] = prev
        opened.append(free)
    if opened:
        yield _link(lanes, column, opened, "┐┬")


def _free_lane(lanes: list[str | None], start: int = 0) -> int:
    for column in range(start, len(lanes)):
        if lanes[column] is None:
            return column
    lanes.append(None)
    # Short of `start` only where the lane of the event is the last.
    return len(lanes) - 1


def _link(lanes: Sequence[str | None], column: int, others: Sequence[int], ends: str) -> str:
    """Return the line that ties the lanes `others`, all right of it, to that of an event."""
    last, tied = max(others), set(others)
    cells: list[str] = []
    for place in range(min(len(lanes), MAX_LANES)):
        is_open = lanes[place] is not None
        if place == column:
            sign = "├─"
        elif place < column or place > last:
            sign = "│ " if is_open else "  "
        elif place == last:
            sign = f"{ends[0]} "
        elif place in tied:
            sign = f"{ends[1]}─"
        else:
            sign = "┼─" if is_open else "──"
        cells.append(sign)
    return "".join(cells).rstrip()


def _lane_signs(lanes: Sequence[str | None], column: int, event: DrawnEvent) -> str:
    own = next((sign for mark, sign in _SIGNS.items() if mark in event.marks), "●")
    signs = [
        own if place == column else "│" if awaited is not None else " "
        for place, awaited in enumerate(lanes[:MAX_LANES])
    ]
    if len(lanes) > MAX_LANES:
        signs.append(f"{own if column >= MAX_LANES else ''}…+{len(lanes) - MAX_LANES}")
    return " ".join(signs)


def _groups(graph: DrawnGraph) -> dict[str, int | None]:
    return {**graph.outside_groups, **{event.event_id: event.state_group for event in graph.events}}


def _event_text(
    event: DrawnEvent, short: Mapping[str, str], groups: Mapping[str, int | None], drawn: Container[str]
) -> str:
    auth = ",".join(_short(short, event_id) for event_id in event.auth_event_ids)
    not_drawn = sum(1 for event_id in event.prev_event_ids if event_id not in drawn)
    parts = (
        "-" if event.position is None else str(event.position),
        _short(short, event.event_id),
        _kind(event),
        plain(event.sender, _MAX_NAME),
        _state_text(event, groups),
        f"auth {auth}" if auth else "",
        f"({not_drawn} prev not drawn)" if not_drawn else "",
        *(f"[{mark.value}]" for mark in Mark if mark in event.marks),
    )
    return " ".join(part for part in parts if part)


def _state_text(event: DrawnEvent, groups: Mapping[str, int | None]) -> str:
    """Return the state after an event, with the states that it was made of where it is another."""
    if event.state_group is None:
        return ""
    before = sorted({group for prev in event.prev_event_ids if (group := groups.get(prev)) is not None})
    made_of = "" if not before or before == [event.state_group] else "+".join(map(str, before)) + "→"
    room = "" if event.room_group is None else f" room {event.room_group}"
    return f"state {made_of}{event.state_group}{room}"


def _kind(event: DrawnEvent) -> str:
    kind = plain(event.type, _MAX_NAME)
    return kind if event.state_key is None else f'{kind} "{plain(event.state_key, _MAX_NAME)}"'


def _short_ids(graph: DrawnGraph) -> dict[str, str]:
    """Return the shortest beginnings that tell the drawn events apart, all of one length."""
    ids = {event.event_id for event in graph.events}
    length = _SHORTEST_ID
    while length < 64 and len({event_id[:length] for event_id in ids}) < len(ids):
        length += 1
    return {event_id: plain(event_id[:length], 64) for event_id in ids} | {"": "$" * length}


def _short(short: Mapping[str, str], event_id: str) -> str:
    return short.get(event_id) or plain(event_id[: len(short[""])], 64)


# -- Graphviz --------------------------------------------------------------------------------------------------------

_COLORS: Final[Mapping[str, str]] = {"message": "#ffffff", "state": "#cfe3ff", "member": "#d7f0d0", "create": "#ffe9a8"}
_MARK_STYLES: Final[Mapping[Mark, str]] = {
    Mark.REJECTED: 'fillcolor="#f4a6a0"',
    Mark.SOFT_FAILED: 'fillcolor="#ffd2a1"',
    Mark.OUTLIER: 'style="filled,dashed"',
    Mark.REDACTED: 'fontcolor="#888888"',
    Mark.EXTREMITY: "peripheries=2",
    Mark.UNREADABLE: 'color="#ff0000"',
}


def draw_dot(graph: DrawnGraph, *, with_auth: bool = False) -> Iterator[str]:
    """Yield the lines of the Graphviz source: prev events by solid edges.

    `with_auth`: and auth events by dashed ones, those that are drawn themselves.
    """
    short = _short_ids(graph)
    groups = _groups(graph)
    names = {event.event_id: f"e{number}" for number, event in enumerate(graph.events)}
    yield "digraph room {"
    yield f"  label={_quoted(f'{plain(graph.room_id, 255)}, room version {plain(graph.version, 64)}')};"
    yield '  node [shape=box, style=filled, fillcolor="#ffffff", fontname="sans-serif", fontsize=10];'
    for event in reversed(graph.events):
        yield f"  {names[event.event_id]} [{_node(event, short, groups)}];"
    outside: dict[str, str] = {}
    for event in reversed(graph.events):
        own = names[event.event_id]
        for event_id in dict.fromkeys(event.prev_event_ids):
            yield f"  {own} -> {names.get(event_id) or outside.setdefault(event_id, f'x{len(outside)}')};"
        for event_id in dict.fromkeys(event.auth_event_ids) if with_auth else ():
            # What is not drawn would stand at the top, for these edges put nothing in order.
            if event_id in names:
                yield f'  {own} -> {names[event_id]} [style=dashed, color="#8888aa", constraint=false];'
    for event_id, name in outside.items():
        yield f'  {name} [label={_quoted(_short(short, event_id))}, shape=plaintext, fillcolor="#eeeeee"];'
    if graph.earlier:
        yield f'  earlier [label="{graph.earlier} earlier events are not drawn", shape=plaintext];'
    yield from _legend(with_auth)
    yield "}"


def _node(event: DrawnEvent, short: Mapping[str, str], groups: Mapping[str, int | None]) -> str:
    position = "" if event.position is None else f"{event.position} "
    marks = " ".join(f"[{mark.value}]" for mark in Mark if mark in event.marks)
    lines = (
        f"{position}{_short(short, event.event_id)}",
        _kind(event),
        plain(event.sender, _MAX_NAME),
        _state_text(event, groups),
        marks,
    )
    styles = [style for mark, style in _MARK_STYLES.items() if mark in event.marks]
    if Mark.REJECTED in event.marks and Mark.SOFT_FAILED in event.marks:
        styles.remove(_MARK_STYLES[Mark.SOFT_FAILED])
    if not any(style.startswith("fillcolor") for style in styles):
        styles.append(f'fillcolor="{_COLORS[_color(event)]}"')
    label = "\\n".join(_escaped(line) for line in lines if line)
    return f'label="{label}", ' + ", ".join(styles)


def _color(event: DrawnEvent) -> str:
    if event.state_key is None:
        return "message"
    return {"m.room.create": "create", "m.room.member": "member"}.get(event.type, "state")


def _legend(with_auth: bool) -> Iterator[str]:
    yield "  subgraph cluster_legend {"
    yield '    label="legend"; fontsize=10;'
    for kind, color in _COLORS.items():
        yield f'    legend_{kind} [label="{kind}", fillcolor="{color}"];'
    for number, (mark, style) in enumerate(_MARK_STYLES.items()):
        yield f'    legend_mark{number} [label="{mark.value}", {style}];'
    yield '    legend_message -> legend_state [label="prev event", fontsize=9];'
    if with_auth:
        yield '    legend_message -> legend_member [label="auth event", fontsize=9, style=dashed, color="#8888aa"];'
    yield "  }"


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Return printable text for between the quotes of a label: neither its escapes nor its entities count."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
