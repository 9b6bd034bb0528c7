"""Drawings of graphs: lanes, marks, and names that would like to be more than names."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.graph_drawing import MAX_LANES, DrawnEvent, DrawnGraph, Mark, draw_dot, draw_text, plain


def _event(name: str, prev: str = "", **more: object) -> DrawnEvent:
    """Return an event of the ID `$nnn…` on top of those that `prev` names by a letter each."""
    values: dict[str, object] = {
        "event_id": f"${name * 12}",
        "type": "m",
        "state_key": None,
        "sender": "@a:b",
        "position": ord(name),
        "prev_event_ids": tuple(f"${each * 12}" for each in prev),
        "auth_event_ids": (),
        **more,
    }
    return DrawnEvent(**values)  # type: ignore[arg-type]


def _lanes(events: Iterable[DrawnEvent]) -> list[str]:
    """Return the lanes of a drawing, with the letter of the event after them."""
    lines = list(draw_text(DrawnGraph("!r", "12", list(events))))[1:]
    return [re.sub(r" *\d+ \$(.).*", r" \1", line) for line in lines]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([_event("a"), _event("b", "a"), _event("c", "b")], ["● c", "● b", "● a"], id="line"),
        pytest.param(
            [_event("a"), _event("b", "a"), _event("c", "a"), _event("d", "bc")],
            ["● d", "├─┐", "│ ● c", "● │ b", "├─┘", "● a"],
            id="fork that meets",
        ),
        pytest.param(
            [_event("a"), _event("b", "a"), _event("c", "a"), _event("d", "a")],
            ["● d", "│ ● c", "│ │ ● b", "├─┴─┘", "● a"],
            id="open ends",
        ),
        pytest.param(
            [_event("a"), _event("b", "a"), _event("c", "a"), _event("d", "a"), _event("e", "bcd")],
            ["● e", "├─┬─┐", "│ │ ● d", "│ ● │ c", "● │ │ b", "├─┴─┘", "● a"],
            id="meeting of three",
        ),
        pytest.param(
            [_event("a"), _event("b", "a"), _event("c", "a"), _event("d", "b"), _event("e", "bc")],
            ["● e", "├─┐", "│ │ ● d", "│ ● │ c", "├─┼─┘", "● │ b", "├─┘", "● a"],
            id="lane that is crossed",
        ),
        pytest.param([_event("b", "a"), _event("c", "ba")], ["● c", "● b"], id="prev events that are not drawn"),
        pytest.param([_event("a", "a")], ["● a"], id="event before itself"),
        pytest.param(
            [
                _event("a", marks=frozenset({Mark.REJECTED, Mark.OUTLIER})),
                _event("b", marks=frozenset({Mark.SOFT_FAILED})),
                _event("c", marks=frozenset({Mark.OUTLIER})),
                _event("d", marks=frozenset({Mark.EXTREMITY, Mark.REDACTED})),
            ],
            ["● d", "○ c", "◌ b", "× a"],
            id="marks",
        ),
    ],
)
def test_lanes(events: list[DrawnEvent], expected: list[str]) -> None:
    assert expected == _lanes(events)


def test_line_says_all_of_an_event() -> None:
    event = _event(
        "b",
        "ax",
        type="m.room.name",
        state_key="",
        auth_event_ids=("$aaaaaaaaaaaa", "$yyyyyyyyyyyyyyy"),
        marks=frozenset({Mark.REDACTED, Mark.EXTREMITY}),
        state_group=7,
        room_group=8,
    )
    assert [
        "!r, room version 12, 2 events, the newest first",
        '● 98 $bbbbbbbb m.room.name "" @a:b state 6→7 room 8 auth $aaaaaaaa,$yyyyyyyy (1 prev not drawn)'
        " [redacted] [extremity]",
        "● 97 $aaaaaaaa m @a:b state 6",
        "… and 3 earlier events",
    ] == list(draw_text(DrawnGraph("!r", "12", [_event("a", state_group=6), event], 3)))


def test_short_ids_are_long_enough_to_tell_events_apart() -> None:
    events = [_event("a", event_id="$aaaaaaaaaaaaaa1"), _event("b", event_id="$aaaaaaaaaaaaaa2")]
    lines = list(draw_text(DrawnGraph("!r", "12", events)))
    assert ("$aaaaaaaaaaaaaa2", "$aaaaaaaaaaaaaa1") == tuple(line.split()[2] for line in lines[1:])


def test_lanes_beyond_the_bound_are_counted() -> None:
    events = [_event("a"), *(_event("b", "a", event_id=f"$end{number:09}") for number in range(MAX_LANES + 10))]
    lines = list(draw_text(DrawnGraph("!r", "12", events)))
    assert any("…+10" in line for line in lines)
    assert all(len(line) < 2 * MAX_LANES + 200 for line in lines)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        pytest.param("name", 9, "name", id="plain"),
        pytest.param("é ü", 9, "é ü", id="letters"),
        pytest.param("a\nb\x1b[2J", 40, "a\\u{a}b\\u{1b}[2J", id="control characters"),
        pytest.param("\u202eabc", 40, "\\u{202e}abc", id="turned around"),
        pytest.param("\ud800", 40, "\\u{d800}", id="half a character"),
        pytest.param("x" * 50, 5, "xxxx…", id="long"),
        pytest.param("\n" * 50, 8, "\\u{a}\\u…", id="long when written out"),
    ],
)
def test_plain(text: str, limit: int, expected: str) -> None:
    assert expected == plain(text, limit)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param('"]; evil [label="', '\\"]; evil [label=\\"', id="quotes"),
        pytest.param("\\N\\", "\\\\N\\\\", id="backslashes"),
        pytest.param("&lt;", "&amp;lt;", id="entities"),
        pytest.param("a\nb", "a\\\\u{a}b", id="newline"),
    ],
)
def test_names_stay_labels(name: str, expected: str) -> None:
    source = "\n".join(draw_dot(DrawnGraph("!r", "12", [_event("a", type=name)])))
    assert f"$aaaaaaaa\\n{expected}\\n@a:b" in source


def _edges(*, with_auth: bool) -> list[str]:
    auth = ("$" + "a" * 12, "$" + "y" * 12)
    graph = DrawnGraph("!r", "12", [_event("a"), _event("b", "ax", auth_event_ids=auth)], 1)
    lines = list(draw_dot(graph, with_auth=with_auth))
    assert any('x0 [label="$xxxxxxxx"' in line for line in lines)
    return [line.strip() for line in lines if "->" in line and "legend" not in line]


def test_dot_has_solid_edges_to_prev_events() -> None:
    assert ["e1 -> e0;", "e1 -> x0;"] == _edges(with_auth=False)


def test_dot_has_dashed_edges_to_the_auth_events_that_are_drawn_if_wanted() -> None:
    dashed = 'e1 -> e0 [style=dashed, color="#8888aa", constraint=false];'
    assert ["e1 -> e0;", "e1 -> x0;", dashed] == _edges(with_auth=True)


def test_state_event_at_the_edge_shows_the_group_before_it() -> None:
    graph = DrawnGraph("!r", "12", [_event("b", "a", state_group=7)], 1, {"$" + "a" * 12: 5})
    [line] = list(draw_text(graph))[1:-1]
    assert "state 5→7 (1 prev not drawn)" in line


_NAMES = st.text(max_size=60)
_IDS = st.sampled_from(["$a", "$b", "$c", '$"', "$\n", "", "$" + "x" * 300])
_EVENTS = st.builds(
    DrawnEvent,
    event_id=_IDS,
    type=_NAMES,
    state_key=st.none() | _NAMES,
    sender=_NAMES,
    position=st.none() | st.integers(-5, 2**63),
    prev_event_ids=st.lists(_IDS, max_size=4).map(tuple),
    auth_event_ids=st.lists(_IDS, max_size=4).map(tuple),
    marks=st.frozensets(st.sampled_from(Mark)),
    state_group=st.none() | st.integers(1, 9),
    room_group=st.none() | st.integers(1, 9),
)
_GRAPHS = st.builds(
    DrawnGraph,
    room_id=_NAMES,
    version=_NAMES,
    events=st.lists(_EVENTS, max_size=8, unique_by=lambda event: event.event_id),
    earlier=st.integers(0, 2),
)


@given(_GRAPHS)
def test_every_graph_is_drawn_in_printable_lines(graph: DrawnGraph) -> None:
    lines = [*draw_text(graph), *draw_dot(graph, with_auth=True)]
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 60 + 12 * len(graph.events)


@given(_GRAPHS)
def test_quotes_of_the_source_are_closed_on_their_line(graph: DrawnGraph) -> None:
    for line in draw_dot(graph, with_auth=True):
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
        assert '"' not in outside
        assert re.fullmatch(r"[\w\s\[\]{}=,;>-]*", outside)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_takes_the_source() -> None:
    hostile = [_event("a", type='"\\N<b>&amp;\x00'), _event("b", "ax", sender="é\u202e", auth_event_ids=("$a", '$"'))]
    source = "\n".join(draw_dot(DrawnGraph('!"\\', "12", hostile, 4), with_auth=True))
    done = subprocess.run(["dot", "-Tsvg"], input=source.encode(), capture_output=True, timeout=60, check=False)
    assert (0, b"") == (done.returncode, done.stderr)
    assert b"</svg>" in done.stdout


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_hundreds_of_events() -> None:
    ids = [f"${number:012}" for number in range(647)]
    events = [
        DrawnEvent(ids[n], "m", None, "@a:b", n, tuple(ids[max(n - 1 - n % 3, 0) : n][:1]), tuple(ids[:4]))
        for n in range(647)
    ]
    source = "\n".join(draw_dot(DrawnGraph("!r", "12", events)))
    done = subprocess.run(["dot", "-Tsvg"], input=source.encode(), capture_output=True, timeout=60, check=False)
    assert 0 == done.returncode
