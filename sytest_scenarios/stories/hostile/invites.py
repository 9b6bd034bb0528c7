"""Invites from a server that sends anything: who is invited can go on, and can decline."""

import time
from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.expect import check, check_equal
from sytest_scenarios.http import Answer, path_of
from sytest_scenarios.props.played import FEDERATION, ROOM_VERSION, PlayedServer, played_server
from sytest_scenarios.props.signing import event_id_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


def made_up(mallory: PlayedServer, room_id: str, event_type: str, state_key: str, **content: Any) -> dict[str, Any]:
    """Return a state event of a room that there is not."""
    return mallory.finish(
        {
            "type": event_type,
            "room_id": room_id,
            "sender": f"@eve:{mallory.name}",
            "state_key": state_key,
            "content": content,
            "origin_server_ts": int(time.time() * 1000),
            "depth": 1,
            "prev_events": [],
            "auth_events": [],
        }
    )


async def invites(mallory: PlayedServer, user: User, room_id: str, state: Any, **more: Any) -> Answer:
    """Have Mallory's server invite somebody to a room, of which it tells this state; or send the `event` instead."""
    event = more.get("event") or made_up(mallory, room_id, "m.room.member", user.user_id, membership="invite")
    path = f"{FEDERATION}/v2/invite{path_of(room_id, event_id_of(event))}"
    body = {"room_version": ROOM_VERSION, "event": event, "invite_room_state": state}
    return await mallory.request(user.server, "PUT", path, body)


@story(
    "Alice is invited to rooms of which her server is told nonsense: she still syncs, and declines what came",
    shows="server-server API, 'Inviting to a room'; client-server API, 'Stripped state'",
    needs=users(2) + feature("played servers"),
    time_limit_s=60,
)
async def nonsense(scene: Scene) -> None:
    alice, bob = scene.users[0], scene.users[1]
    await alice.catch_up()
    async with played_server(scene) as mallory:
        states: list[Any] = [
            [],
            "state",
            [7, None, "text"],
            [{"type": 7, "state_key": {}, "content": [], "sender": 1}],
            [{"type": "m.room.name", "state_key": "", "content": {"name": {"of": ["another", "type"]}}, "sender": "x"}],
            [{"type": "m.room.create", "state_key": "", "content": "11", "sender": f"@eve:{mallory.name}"}],
            [{"type": "m.room.name", "state_key": "", "content": {"name": "x" * 100_000}, "sender": "x"}] * 5,
        ]
        for number, state in enumerate(states):
            answer = await invites(mallory, alice, f"!nonsense{number}:{mallory.name}", state)
            check(answer.status < 500, f"no fault of the server for {str(state)[:60]}", came=answer.status)
            await alice.catch_up()
        room_id = f"!well:{mallory.name}"
        create = made_up(mallory, room_id, "m.room.create", "", room_version=ROOM_VERSION)
        name = made_up(mallory, room_id, "m.room.name", "", name="Well made")
        (await invites(mallory, alice, room_id, [create, name])).good()
        await alice.until("the invite that is well made", lambda view: room_id in view.invites)
        check_equal("Well made", alice.view.room(room_id).content("m.room.name").get("name"), "its name")
        for invited in alice.view.invites:
            await alice.post(path_of("rooms", invited, "leave"))
        await alice.until("no invite any more", lambda view: not view.invites)
    room = await alice.create_room_with(bob)
    await bob.sees(room, await alice.say(room, "Still here"))


@story(
    "Invites that are none, or of somebody else's, are refused, and nobody is invited by them",
    shows="server-server API, 'Inviting to a room'",
    needs=users(1) + feature("played servers"),
)
async def no_invites(scene: Scene) -> None:
    [alice] = scene.users
    await alice.catch_up()
    async with played_server(scene) as mallory:
        room_id = f"!made-up:{mallory.name}"
        create = made_up(mallory, room_id, "m.room.create", "", room_version=ROOM_VERSION)
        spoilt: list[dict[str, Any]] = [
            {"content": {"membership": "join"}},
            {"type": "m.room.message"},
            {"state_key": f"@nobody:{mallory.name}"},
            {"state_key": 7},
            {"sender": alice.user_id},
            {"room_id": f"!another:{mallory.name}"},
        ]
        right = made_up(mallory, room_id, "m.room.member", alice.user_id, membership="invite")
        wrong = [{**right, "signatures": {}}, {**right, "hashes": {}}]
        for event in [*wrong, *(mallory.finish({**right, **each}) for each in spoilt)]:
            answer = await invites(mallory, alice, room_id, [create], event=event)
            what = f"the invite {event}"
            check(400 <= answer.status < 500, f"{what} to be refused", came=f"{answer.status} {answer.body[:200]!r}")
            check(b'"signatures"' not in answer.body, f"{what} not to be signed", came=answer.body.decode())
        await alice.catch_up()
        check_equal([], alice.view.invites, "Alice's invites")
        (await invites(mallory, alice, room_id, [create])).good()
        await alice.until("the invite that is one", lambda view: room_id in view.invites)
