import itertools

import pytest

from homeserver.model.resolution.resolve import resolve_states
from homeserver.model.room_versions import V1, V2, V6, V10, V11, V12

from .worked_cases import case_ids, load_case


@pytest.mark.parametrize(("name", "identifier"), case_ids((V1, V2, V6, V10, V11, V12)))
def test_a_worked_case_comes_out_as_written(name: str, identifier: str) -> None:
    case = load_case(name, identifier)
    resolved = resolve_states(case.version, case.states, case.events, create=case.create, rejected=case.rejected)
    assert case.expected == resolved


@pytest.mark.parametrize(("name", "identifier"), case_ids((V1, V2, V12)))
def test_a_worked_case_is_the_same_in_any_order_of_its_states_and_events(name: str, identifier: str) -> None:
    case = load_case(name, identifier)
    backwards = dict(reversed(case.events.items()))
    for states in itertools.permutations(case.states):
        shuffled = [dict(reversed(state.items())) for state in states]
        resolved = resolve_states(case.version, shuffled, backwards, create=case.create, rejected=case.rejected)
        assert case.expected == resolved
