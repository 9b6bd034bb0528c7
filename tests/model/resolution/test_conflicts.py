import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.event import StateKey
from homeserver.model.ids import EventID
from homeserver.model.resolution.conflicts import auth_difference, conflict_of, conflicted_subgraph, separate
from homeserver.model.room_versions import V1, V11, V12, RoomVersion

from ..test_graph import DIAMOND, known

K, L, M = ("k", ""), ("l", ""), ("k", "@u:a.example")


def state(entries: dict[StateKey, str]) -> dict[StateKey, EventID]:
    return {key: EventID(event_id) for key, event_id in entries.items()}


@pytest.mark.parametrize(
    ("sets", "unconflicted", "conflicted"),
    [
        ([], {}, {}),
        ([{K: "a", L: "b"}], {K: "a", L: "b"}, {}),
        ([{K: "a"}, {K: "a"}], {K: "a"}, {}),
        ([{K: "a", L: "c"}, {K: "b", L: "c"}], {L: "c"}, {K: "ab"}),
        ([{K: "a", L: "c"}, {L: "c"}], {L: "c"}, {K: "a"}),
        ([{K: "a"}, {K: "a"}, {}], {}, {K: "a"}),
        ([{K: "a", M: "b"}, {K: "c", M: "b"}, {K: "a"}], {}, {K: "ac", M: "b"}),
    ],
    ids=["none", "one", "equal", "different", "absent", "absent-in-one", "by-state-key"],
)
def test_unconflicted_is_what_every_state_has_alike(
    sets: list[dict[StateKey, str]], unconflicted: dict[StateKey, str], conflicted: dict[StateKey, str]
) -> None:
    for ordered in itertools.permutations(sets):
        expected = (unconflicted, {key: frozenset(event_ids) for key, event_ids in conflicted.items()})
        assert expected == separate([state(entries) for entries in ordered])


states = st.dictionaries(st.sampled_from([K, L, M]), st.sampled_from("abc").map(EventID))


@given(st.lists(states, max_size=4))
def test_every_entry_is_either_unconflicted_or_conflicted(sets: list[dict[StateKey, EventID]]) -> None:
    unconflicted, conflicted = separate(sets)
    assert not set(unconflicted) & set(conflicted)
    for key in {key for entries in sets for key in entries}:
        values = {entries.get(key) for entries in sets}
        if len(values) == 1:
            assert values == {unconflicted[key]}
        else:
            assert frozenset(values - {None}) == conflicted[key]


# -- the conflicted state subgraph -------------------------------------------------------------------------------------

CHAIN = {"a": "", "b": "a", "c": "b", "d": "c", "x": "a", "y": "xd"}


@pytest.mark.parametrize(
    ("edges", "conflicted", "expected"),
    [
        (CHAIN, "", ""),
        (CHAIN, "c", "c"),
        (CHAIN, "bd", "bcd"),
        (CHAIN, "ad", "abcd"),
        (CHAIN, "ay", "abcdxy"),
        (CHAIN, "xd", "xd"),
        (CHAIN, "xyd", "xyd"),
        (CHAIN, "abd", "abcd"),
        (DIAMOND, "ad", "abcd"),
        (DIAMOND, "bd", "bd"),
        (CHAIN, "bz", "b"),
        ({"a": "z", "b": "a"}, "zb", "b"),
        ({"a": "b", "b": "a", "c": "a"}, "c", "c"),
        ({"a": "b", "b": "a", "c": "a"}, "ac", "abc"),
    ],
    ids=[
        "none", "one", "between", "far", "two-ways", "unrelated", "neighbours", "three", "diamond", "direct",
        "missing-end", "missing-end-behind", "circle-behind", "circle-between",
    ],
)  # fmt: skip
def test_the_subgraph_is_what_lies_between(edges: dict[str, str], conflicted: str, expected: str) -> None:
    by_key = {("k", event_id): frozenset((EventID(event_id),)) for event_id in conflicted}
    assert frozenset(expected) == conflicted_subgraph(by_key, known(edges))


@pytest.mark.parametrize(
    ("version", "difference", "subgraph"),
    [(V1, "", ""), (V11, "d", ""), (V12, "d", "abcd")],
    ids=lambda value: getattr(value, "identifier", None),
)
def test_each_algorithm_is_told_what_it_asks_for(version: RoomVersion, difference: str, subgraph: str) -> None:
    # Both states cite c by something that they agree on.
    events = known({**DIAMOND, "e": "bc"})
    conflict = conflict_of(version, [state({K: "a", L: "e"}), state({K: "d", L: "e"})], events)
    assert state({L: "e"}) == conflict.unconflicted
    assert {K: frozenset("ad")} == conflict.conflicted
    assert frozenset(difference) == conflict.auth_difference
    assert frozenset(subgraph) == conflict.subgraph


def test_an_undisputed_event_is_in_no_auth_difference_though_one_state_alone_cites_it() -> None:
    events = known({"a": "", "b": "a"})
    assert frozenset("b") == auth_difference([state({K: "a", L: "b"}), state({K: "a"})], events)
