"""Which servers are asked on the way into a room."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from homeserver.errors import RemoteUnreachable
from homeserver.model.ids import RoomID
from homeserver.rooms.candidates import (
    MAX_CANDIDATES,
    MAX_SILENT,
    SILENT_FOR_S,
    SilentServers,
    choose_candidates,
    server_of_room,
    within,
)
from homeserver.runtime.clock import ManualClock

CHOICES: list[Any] = [
    pytest.param([], (), id="none"),
    pytest.param([["a", "b"], ["c"]], ("a", "b", "c"), id="in order"),
    pytest.param([["a", "b", "a"], ["b", "c"]], ("a", "b", "c"), id="each once"),
    pytest.param([["own.example", "a"]], ("a",), id="never ourselves"),
    pytest.param([["dead", "a"], ["b"]], ("a", "b", "dead"), id="silent ones last"),
    pytest.param([["", "a b", "a/b", "[::1", "a:123456", "[::1]:8448"]], ("[::1]:8448",), id="only server names"),
    pytest.param([[f"s{n}" for n in range(500)]], tuple(f"s{n}" for n in range(MAX_CANDIDATES)), id="not too many"),
    pytest.param([["?"] * 500 + ["a"], ["b"]], ("b",), id="of a list not too many are looked at"),
]


@pytest.mark.parametrize(("sources", "expected"), CHOICES)
def test_candidates(sources: list[list[str]], expected: tuple[str, ...]) -> None:
    assert expected == choose_candidates("own.example", *sources, is_silent=lambda server: server == "dead")


@pytest.mark.parametrize(
    ("room_id", "expected"), [("!a:b.example", ("b.example",)), ("!a:b:8448", ("b:8448",)), ("!" + "x" * 43, ())]
)
def test_room_id_names_its_server_until_version_12(room_id: str, expected: tuple[str, ...]) -> None:
    assert expected == server_of_room(RoomID(room_id))


def test_silent_server_is_given_another_chance_later() -> None:
    clock = ManualClock()
    silent = SilentServers(clock)
    silent.note("a")
    silent.note("b")
    silent.forget("b")
    assert (True, False) == (silent("a"), silent("b"))
    clock.advance(SILENT_FOR_S)
    assert not silent("a")


def test_not_every_silent_server_is_remembered() -> None:
    silent = SilentServers(ManualClock())
    for number in range(MAX_SILENT + 1):
        silent.note(str(number))
    assert (False, True) == (silent("0"), silent("1"))


@pytest_twisted.ensureDeferred
async def test_question_without_an_answer_ends() -> None:
    clock = ManualClock()
    never: Deferred[None] = Deferred()

    async def ask() -> None:
        await never

    asked = Deferred.fromCoroutine(within(clock, 5.0, "a", ask()))
    clock.advance(5.0)
    with pytest.raises(RemoteUnreachable):
        await asked
    assert never.called
