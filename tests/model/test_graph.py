import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.event import Event
from homeserver.model.graph import (
    Parents,
    ancestors,
    auth_chain,
    auth_chain_difference,
    auth_graph,
    depths,
    forward_extremities,
    gaps,
    prev_graph,
    sort_topologically,
    topological_order,
)
from homeserver.model.ids import EventID, RoomID, UserID
from homeserver.model.room_versions import V11

from .random_rooms import build_random_room

DIAMOND = {"a": "", "b": "a", "c": "a", "d": "bc"}


def graph(edges: dict[str, str]) -> dict[EventID, tuple[EventID, ...]]:
    return {EventID(event): tuple(EventID(parent) for parent in parents) for event, parents in edges.items()}


def event(event_id: str, auth: str = "", prev: str = "", depth: int = 1) -> Event:
    return Event(
        event_id=EventID(event_id),
        room_id=RoomID("!room:a.example"),
        type="x",
        sender=UserID("@alice:a.example"),
        content={},
        state_key="",
        depth=depth,
        origin_server_ts=1,
        prev_event_ids=tuple(map(EventID, prev)),
        auth_event_ids=tuple(map(EventID, auth)),
        wire={},
    )


def known(edges: dict[str, str]) -> dict[EventID, Event]:
    return {EventID(event_id): event(event_id, auth) for event_id, auth in edges.items()}


graphs = st.dictionaries(st.sampled_from("abcdefgh"), st.text("abcdefghz", max_size=4), max_size=8).map(graph)
"""With circles, repeated parents, missing ones and events that are their own."""


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({}, ""),
        (DIAMOND, "abcd"),
        ({"z": "", "a": "z", "b": ""}, "bza"),
        ({"c": "", "b": "", "a": ""}, "abc"),
        ({"b": "x", "a": "b"}, "ba"),
        ({"b": "aa", "a": ""}, "ab"),
        ({"a": "b", "b": "a", "c": ""}, "cab"),
        ({"b": "b", "a": "b", "c": ""}, "cab"),
    ],
    ids=["empty", "diamond", "smallest-first", "free", "missing-parent", "repeated-parent", "circle", "own-parent"],
)
def test_topological_order_is_the_smallest(edges: dict[str, str], expected: str) -> None:
    assert list(expected) == sort_topologically(graph(edges))


@given(graphs, st.randoms(use_true_random=False))
def test_topological_order_has_every_event_once_and_does_not_depend_on_the_input(
    parents: Parents, draw: object
) -> None:
    order = sort_topologically(parents)
    assert sorted(parents) == sorted(order)
    entries = list(parents.items())
    draw.shuffle(entries)  # type: ignore[attr-defined]
    assert order == sort_topologically(dict(entries))


@given(graphs)
def test_without_circles_no_event_comes_before_its_parents(parents: Parents) -> None:
    acyclic = {event: tuple(parent for parent in its if parent < event) for event, its in parents.items()}
    order = sort_topologically(acyclic, rank=lambda event_id: -ord(event_id))
    place = {event_id: index for index, event_id in enumerate(order)}
    for child, its_parents in acyclic.items():
        assert all(place[parent] < place[child] for parent in its_parents if parent in place)


def test_order_of_events_is_by_depth_and_then_by_id_where_it_is_free() -> None:
    events = [event("d", prev="bc", depth=3), event("c", depth=1, prev="a"), event("b", depth=2), event("a", depth=2)]
    assert ["a", "c", "b", "d"] == [item.event_id for item in topological_order(events)]
    assert topological_order(events) == topological_order(events[::-1])


def test_a_random_room_is_in_topological_order() -> None:
    room = build_random_room(7, V11, events=150, branches=5)
    ordered = topological_order(reversed(room.events))
    seen: set[EventID] = set()
    for item in ordered:
        assert seen.issuperset(item.prev_event_ids) and seen.issuperset(item.auth_event_ids)
        seen.add(item.event_id)
    assert 150 == len(seen)


def test_many_events_in_a_row_are_no_recursion() -> None:
    ids = [EventID(f"{number:05}") for number in range(20_000)]
    parents = dict(zip(ids, [(), *((parent,) for parent in ids)], strict=False))
    assert ids == sort_topologically(parents)
    assert 20_000 == depths(parents)[ids[-1]]
    assert 19_999 == len(ancestors(ids[-1:], lambda event_id: parents[event_id]))


# -- ends and gaps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edges", "not_counted", "expected"),
    [
        ({}, "", ""),
        (DIAMOND, "", "d"),
        ({"a": "", "b": "a", "c": "a"}, "", "bc"),
        (DIAMOND, "d", "bc"),
        (DIAMOND, "bd", "c"),
        (DIAMOND, "bcd", "a"),
        ({"a": "a"}, "", ""),
        ({"a": "", "b": "a", "c": "b"}, "b", "c"),
        ({"a": "", "b": "a", "c": "b", "d": "c", "e": "a"}, "bc", "de"),
        ({"a": "c", "b": "a", "c": "b", "d": "c"}, "bc", "d"),
    ],
    ids=[
        "empty", "one", "two", "rejected", "two-rejected", "all-but-the-first", "own-parent", "by-way-of-a-rejected",
        "by-way-of-two", "circle-of-rejected",
    ],
)  # fmt: skip
def test_forward_extremities(edges: dict[str, str], not_counted: str, expected: str) -> None:
    assert frozenset(expected) == forward_extremities(graph(edges), frozenset(map(EventID, not_counted)))


def test_forward_extremities_of_a_random_room_are_its_tips() -> None:
    room = build_random_room(3, V11, events=120, branches=6)
    assert frozenset(room.tips) == forward_extremities(prev_graph(room.events))


def test_gaps_are_what_is_cited_and_missing() -> None:
    assert {"x": {"b", "c"}, "y": {"c"}} == gaps(graph({"a": "", "b": "ax", "c": "xy"}))
    assert {} == gaps(graph(DIAMOND))


def test_depth_is_the_longest_way_back() -> None:
    assert {"a": 1, "b": 2, "c": 3, "d": 4, "e": 1} == depths(graph({"d": "ac", "c": "b", "b": "a", "a": "", "e": "x"}))


@given(graphs)
def test_no_graph_is_too_odd_for_depths_ends_and_gaps(parents: Parents) -> None:
    assert set(parents) == set(depths(parents))
    assert forward_extremities(parents) <= set(parents)
    assert not set(gaps(parents)) & set(parents)


# -- auth chains -------------------------------------------------------------------------------------------------------


def test_an_auth_chain_has_everything_behind_and_not_the_event_itself() -> None:
    events = known({**DIAMOND, "e": ""})
    assert {"a", "b", "c"} == auth_chain([EventID("d")], events)
    assert {"a"} == auth_chain([EventID("b"), EventID("c")], events)
    assert set() == auth_chain([EventID("x")], events)
    assert {"b", "a"} == auth_chain([EventID("a")], known({"a": "bx", "b": "a"}))


@pytest.mark.parametrize(
    ("edges", "sets", "expected"),
    [
        (DIAMOND, [], ""),
        (DIAMOND, ["d"], ""),
        (DIAMOND, ["d", "d"], ""),
        (DIAMOND, ["d", "b"], "cd"),
        (DIAMOND, ["b", "c"], "bc"),
        (DIAMOND, ["b", "c", "d"], "bcd"),
        ({**DIAMOND, "e": "d", "f": "b"}, ["ef", "e"], "f"),
        ({**DIAMOND, "e": "d", "f": "b"}, ["eb", "fb"], "cdef"),
        ({"a": "", "b": "x"}, ["a", "b"], "ab"),
        ({"a": "", "b": ""}, ["ax", "ay"], ""),
        ({"a": "b", "b": "a", "c": ""}, ["a", "c"], "abc"),
    ],
    ids=[
        "none", "one", "equal", "ahead", "beside", "three", "in-both-chains", "undisputed-is-in-none",
        "missing-auth", "missing-state", "circle",
    ],
)  # fmt: skip
def test_auth_chain_difference(edges: dict[str, str], sets: list[str], expected: str) -> None:
    state_sets = [frozenset(map(EventID, event_ids)) for event_ids in sets]
    for ordered in itertools.permutations(state_sets):
        assert frozenset(expected) == auth_chain_difference(ordered, known(edges))


@given(graphs, st.lists(st.frozensets(st.sampled_from("abcdefgh"), max_size=4), max_size=4))
def test_auth_chain_difference_is_the_union_less_the_intersection(
    parents: Parents, sets: list[frozenset[EventID]]
) -> None:
    events = {event_id: event(event_id, "".join(its)) for event_id, its in parents.items()}
    chains: list[set[EventID]] = [(auth_chain(event_ids, events) | event_ids) & set(events) for event_ids in sets]
    expected: set[EventID] = set().union(*chains) - chains[0].intersection(*chains) if chains else set()
    assert expected == auth_chain_difference(sets, events)


def test_graphs_of_events_have_the_edges_of_their_kind() -> None:
    item = event("c", auth="a", prev="b")
    assert {"c": ("a",)} == auth_graph([item])
    assert {"c": ("b",)} == prev_graph([item])
