import itertools

import pytest

from homeserver.model.resolution.resolve import resolve_states

from .worked_cases import case_ids, load_case


@pytest.mark.parametrize(("name", "identifier"), case_ids())
def test_a_worked_case_comes_out_as_written(name: str, identifier: str) -> None:
    case = load_case(name, identifier)
    resolved = resolve_states(case.version, case.states, case.events, create=case.create, rejected=case.rejected)
    assert case.expected == resolved


@pytest.mark.parametrize(("name", "identifier"), [case for case in case_ids() if case[1] in ("1", "2", "12")])
def test_a_worked_case_is_the_same_in_any_order_of_its_states_and_events(name: str, identifier: str) -> None:
    case = load_case(name, identifier)
    backwards = dict(reversed(case.events.items()))
    for states in itertools.permutations(case.states):
        shuffled = [dict(reversed(state.items())) for state in states]
        resolved = resolve_states(case.version, shuffled, backwards, create=case.create, rejected=case.rejected)
        assert case.expected == resolved
