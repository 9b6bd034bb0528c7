"""Every bad event through every inlet: what must not be stored is not, what is refused is shown to nobody.

Spec: server-server API, "Checks performed on receipt of a PDU"; hostile inputs 1 to 35.
"""

from __future__ import annotations

from itertools import count

import pytest

from tests.support.selection import half

from .cases import CASES, MORE, Fate
from .inlets import ANSWERED, FETCHED, REQUESTS
from .scene import Scene
from .world import World

HIDDEN = 1 | 2 | 4 | 8
_NUMBERS = count(1)
_SCENES: dict[tuple[int, str, str], Scene] = {}

_CHECKS = count(1)
FULL_CHECK_EVERY = 10
# Numbers that those had for events, and fields that they did not know.
NOT_IN_OLD_ROOMS = frozenset(("10^400", "2^53", "1.5", "our user vouches, unasked", "knock in a public room"))


async def shared(world: World, version: str, kind: str) -> Scene:
    """Return a room of the bad server with alice in it ("remote"), or one of ours with the bad server in it."""
    key = (id(world), version, kind)
    if key not in _SCENES:
        _SCENES[key] = await (world.joined_scene(version) if kind == "remote" else world.hosted(version))
    return _SCENES[key]


def check_fate(world: World, fate: Fate, marker: str) -> None:
    stored = world.stored(marker)
    if fate is Fate.DROP:
        assert [] == stored
    elif fate is Fate.REFUSE:
        assert [] == [event_id for event_id, flags in stored if not flags & HIDDEN]
    elif fate is Fate.CUT:
        assert [] == stored


async def check(world: World) -> None:
    """Look for faults after each case, and at all that has to go on after some."""
    world.without_faults()
    if next(_CHECKS) % FULL_CHECK_EVERY == 0:
        await world.check()


@pytest.mark.parametrize(("inlet", "name"), half(FETCHED, CASES))
async def test_events_before_what_was_sent(world: World, inlet: str, name: str) -> None:
    world.forgive()
    fate, case = CASES[name]
    marker = f"marker{next(_NUMBERS)}."
    scene = await shared(world, "12", "remote")
    await FETCHED[inlet](world, scene, case, marker)
    check_fate(world, fate, marker)
    await check(world)


@pytest.mark.parametrize("version", ["1", *(pytest.param(each, marks=pytest.mark.deep) for each in ("6", "10"))])
async def test_events_of_older_rooms(world: World, version: str) -> None:
    """All cases in one room after the other; what has no meaning in a version is left out."""
    world.forgive()
    scene = await shared(world, version, "remote")
    for name, (fate, case) in CASES.items():
        if name in NOT_IN_OLD_ROOMS:
            continue
        marker = f"marker{next(_NUMBERS)}."
        await FETCHED["send"](world, scene, case, marker)
        try:
            check_fate(world, fate, marker)
        except AssertionError as fault:
            raise AssertionError(name) from fault
        world.without_faults()
    await world.check()


@pytest.mark.parametrize("name", MORE)
async def test_wrong_values_of_fields(world: World, name: str) -> None:
    world.forgive()
    fate, case = MORE[name]
    marker = f"marker{next(_NUMBERS)}."
    scene = await shared(world, "12", "remote")
    await FETCHED["send"](world, scene, case, marker)
    check_fate(world, fate, marker)
    await check(world)


@pytest.mark.parametrize(("inlet", "name"), half(ANSWERED, CASES))
async def test_events_in_answers_to_what_users_do(world: World, inlet: str, name: str) -> None:
    world.forgive()
    fate, case = CASES[name]
    marker = f"marker{next(_NUMBERS)}."
    scene = await shared(world, "12", "home")
    await ANSWERED[inlet](world, scene, case, marker)
    check_fate(world, fate, marker)
    await check(world)


@pytest.mark.parametrize(("inlet", "name"), half(REQUESTS, CASES))
async def test_events_in_requests_are_refused_and_never_signed(world: World, inlet: str, name: str) -> None:
    world.forgive()
    fate, case = CASES[name]
    marker = f"marker{next(_NUMBERS)}."
    scene = await shared(world, "12", "home")
    answer = await REQUESTS[inlet](world, scene, case(scene, marker))
    if fate is not Fate.TAKE:
        assert answer.status in (400, 401, 403, 404, 413), answer
        assert b'"signatures":' not in answer.body
    check_fate(world, Fate.TAKE if fate is Fate.TAKE else Fate.REFUSE, marker)
    await check(world)
