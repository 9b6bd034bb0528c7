"""What holds of every room: resolution is a function of what was given, whatever its order, and it never fails.

States are taken after any events of a random room, tips or not, and some are spoilt as those are that come from a
server that is behind: with an older event at some key, or with none.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.model.event import Event, StateKey
from homeserver.model.ids import EventID
from homeserver.model.resolution.conflicts import Conflict, conflict_of
from homeserver.model.resolution.resolve import resolve, resolve_states
from homeserver.model.room_versions import KNOWN_ROOM_VERSIONS, StateResolution

from ..random_rooms import RandomRoom, build_random_room
from .by_the_letter import resolve_by_the_letter

State = dict[StateKey, EventID]
ALL = tuple(KNOWN_ROOM_VERSIONS.values())
SECOND = tuple(version for version in ALL if version.state_resolution is not StateResolution.V1)


def states_of(room: RandomRoom, draw: random.Random) -> list[State]:
    states = [dict(room.states[draw.choice(room.events).event_id]) for _ in range(draw.randint(2, 5))]
    states += [dict(room.states[tip]) for tip in room.tips]
    for state in states:
        if draw.random() < 0.4:
            spoil(room, state, draw)
    return states


def spoil(room: RandomRoom, state: State, draw: random.Random) -> None:
    for event in draw.sample(room.events, min(3, len(room.events))):
        if event.state_key is not None:
            state[event.type, event.state_key] = event.event_id
    if draw.random() < 0.3:
        del state[draw.choice(list(state))]


def shuffled(entries: Mapping[Any, Any], draw: random.Random) -> dict[Any, Any]:
    items = list(entries.items())
    draw.shuffle(items)
    return dict(items)


rooms = st.tuples(st.integers(0, 2**32), st.sampled_from(ALL), st.integers(3, 60), st.integers(1, 6))


@settings(max_examples=100, deadline=None)
@given(rooms)
def test_order_of_the_inputs_does_not_matter(room_of: tuple[int, Any, int, int]) -> None:
    seed, version, events, branches = room_of
    room, draw = build_random_room(seed, version, events=events, branches=branches), random.Random(seed)
    states = states_of(room, draw)
    resolved = resolve_states(version, states, room.by_id, create=room.create)
    for _ in range(3):
        draw.shuffle(states)
        again = [shuffled(state, draw) for state in states] + [states[0]]
        assert resolved == resolve_states(version, again, shuffled(room.by_id, draw), create=room.create)


@settings(max_examples=80, deadline=None)
@given(rooms)
def test_the_resolved_state_resolves_to_itself(room_of: tuple[int, Any, int, int]) -> None:
    seed, version, events, branches = room_of
    room = build_random_room(seed, version, events=events, branches=branches)
    resolved = resolve_states(version, states_of(room, random.Random(seed)), room.by_id, create=room.create)
    assert resolved == resolve_states(version, [resolved], room.by_id, create=room.create)
    assert resolved == resolve_states(version, [resolved, dict(resolved)], room.by_id, create=room.create)


@settings(max_examples=100, deadline=None)
@given(rooms)
def test_changes_are_never_of_what_is_undisputed_and_name_events_of_their_key(
    room_of: tuple[int, Any, int, int],
) -> None:
    seed, version, events, branches = room_of
    room = build_random_room(seed, version, events=events, branches=branches)
    conflict = conflict_of(version, states_of(room, random.Random(seed)), room.by_id)
    changes = resolve(version, conflict, room.by_id, create=room.create)
    assert not [key for key in changes if conflict.unconflicted.get(key) is not None]
    assert list(changes) == [(room.by_id[event].type, room.by_id[event].state_key) for event in changes.values()]
    for key in set(changes) & set(conflict.conflicted):
        known = conflict.conflicted[key] | conflict.auth_difference | conflict.subgraph
        assert changes[key] in known


@settings(max_examples=200, deadline=None)
@given(rooms, st.sampled_from(SECOND), st.booleans())
def test_the_second_algorithm_is_what_the_text_says(
    room_of: tuple[int, Any, int, int], version: Any, some_are_rejected: bool
) -> None:
    seed, _, events, branches = room_of
    room, draw = build_random_room(seed, version, events=events, branches=branches), random.Random(seed)
    states = states_of(room, draw)
    rejected = frozenset(event.event_id for event in draw.sample(room.events, 3)) if some_are_rejected else frozenset()
    expected = resolve_by_the_letter(version, states, room.by_id, room.create, rejected)
    assert expected == resolve_states(version, states, room.by_id, create=room.create, rejected=rejected)


@pytest.mark.parametrize("identifier", KNOWN_ROOM_VERSIONS)
def test_events_that_are_missing_are_as_if_they_were_not_there(identifier: str) -> None:
    version = KNOWN_ROOM_VERSIONS[identifier]
    for seed in range(20):
        room, draw = build_random_room(seed, version, events=40, branches=4), random.Random(seed)
        states = states_of(room, draw)
        some = {event_id: event for event_id, event in room.by_id.items() if draw.random() < 0.7}
        resolved = resolve_states(version, states, some, create=room.create)
        draw.shuffle(states)
        assert resolved == resolve_states(version, states, shuffled(some, draw), create=room.create)
        undisputed = conflict_of(version, states, some).unconflicted
        assert all(event_id in some or undisputed.get(key) == event_id for key, event_id in resolved.items())


class Counting(dict[EventID, Event]):
    """Events that can be asked for one by one, and nothing else; counts how often."""

    asked = 0

    def get(self, event_id: EventID, default: Any = None) -> Any:
        self.asked += 1
        return super().get(event_id, default)

    def __iter__(self) -> Iterator[EventID]:
        raise AssertionError("iterated")

    def __len__(self) -> int:
        raise AssertionError("measured")

    def __bool__(self) -> bool:
        raise AssertionError("measured")

    keys = values = items = __iter__  # type: ignore[assignment]


class Huge:
    """A state that can be asked for single keys, and nothing else."""

    def __init__(self, state: Mapping[StateKey, EventID]) -> None:
        self._state = state

    def get(self, key: StateKey, /) -> EventID | None:
        return self._state.get(key)


@pytest.mark.parametrize("identifier", KNOWN_ROOM_VERSIONS)
def test_neither_the_events_nor_the_undisputed_state_are_iterated(identifier: str) -> None:
    version = KNOWN_ROOM_VERSIONS[identifier]
    room = build_random_room(11, version, events=80, branches=5)
    whole = conflict_of(version, states_of(room, random.Random(1)), room.by_id)
    lazy = Conflict(Huge(whole.unconflicted), whole.conflicted, whole.auth_difference, whole.subgraph)  # type: ignore[arg-type]
    events = Counting(room.by_id)
    assert resolve(version, whole, room.by_id, create=room.create) == resolve(version, lazy, events, create=room.create)
    if version.state_resolution is not StateResolution.V1:
        assert events.asked <= len(room.by_id)
