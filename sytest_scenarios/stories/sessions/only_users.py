"""Who is nobody here gets nothing: every endpoint that wants a token wants a good one."""

from sytest_scenarios.actors import Room, User
from sytest_scenarios.asking import together
from sytest_scenarios.expect import Failed, check, check_equal
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


def private_endpoints(user: User, room: Room) -> list[tuple[str, str]]:
    """Return method and path of what is only for users."""
    of_room = [
        *(("GET", each) for each in ("state", "members", "joined_members", "messages", "context/$a", "event/$a")),
        *(("GET", each) for each in ("state/m.room.name", "aliases")),
        *(("POST", each) for each in ("join", "leave", "invite", "kick", "ban", "unban", "forget", "upgrade")),
        *(("POST", each) for each in ("receipt/m.read/$a", "read_markers")),
        *(("PUT", each) for each in ("send/m.room.message/1", "state/m.room.name", "redact/$a/1", "typing/@a:b")),
    ]
    of_user = [
        *(("GET", each) for each in ("account_data/org.example.a", f"rooms/{room.id}/tags", "filter/1")),
        *(("PUT", each) for each in ("account_data/org.example.a", f"rooms/{room.id}/tags/a")),
        *(("POST", each) for each in ("filter", "openid/request_token")),
    ]
    return [
        *(
            ("GET", f"/{each}")
            for each in (
                "sync",
                "account/whoami",
                "account/3pid",
                "capabilities",
                "devices",
                f"devices/{user.device_id}",
                "joined_rooms",
                "notifications",
                "pushers",
                "pushrules/",
                "keys/changes",
                "room_keys/version",
                "voip/turnServer",
                f"presence/{user.user_id}/status",
                f"admin/whois/{user.user_id}",
            )
        ),
        *((method, f"/rooms/{room.id}/{path}") for method, path in of_room),
        *((method, f"/user/{user.user_id}/{path}") for method, path in of_user),
        *(
            ("POST", f"/{each}")
            for each in (
                "createRoom",
                f"join/{room.id}",
                "keys/upload",
                "keys/query",
                "keys/claim",
                "logout",
                "logout/all",
                "pushers/set",
                "search",
                "user_directory/search",
            )
        ),
        ("PUT", "/sendToDevice/m.a/1"),
        ("PUT", f"/profile/{user.user_id}/displayname"),
        ("PUT", f"/presence/{user.user_id}/status"),
        ("PUT", f"/devices/{user.device_id}"),
        ("POST", "/_matrix/media/v3/upload"),
        ("GET", "/_matrix/client/v1/media/config"),
        ("GET", f"/_matrix/client/v1/media/download/{user.server.name}/a"),
        ("GET", f"/_matrix/client/v1/rooms/{room.id}/hierarchy"),
        ("GET", f"/_matrix/client/v1/rooms/{room.id}/relations/$a"),
        ("GET", f"/_matrix/client/v1/rooms/{room.id}/threads"),
        ("GET", f"/_matrix/client/v1/rooms/{room.id}/timestamp_to_event"),
    ]


@story(
    "Whatever is only for users is for nobody without a token",
    shows="client-server API, 'Client authentication'; 'Common error codes': M_MISSING_TOKEN",
    needs=users(1),
    tags=["smoke"],
)
async def without_a_token(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room(preset="public_chat", name="Town hall")
    await _all_refuse(scene, alice, room, None, "M_MISSING_TOKEN")
    state = await alice.state(room, "m.room.name")
    check_equal({"name": "Town hall"}, state, "the room, which is as it was")


@story(
    "Whatever is only for users is for nobody with a made-up token, or one of before a logout",
    shows="client-server API, 'Using access tokens': M_UNKNOWN_TOKEN",
    needs=users(1) + feature("password login"),
)
async def with_a_bad_token(scene: Scene) -> None:
    (alice,) = scene.users
    room = await alice.create_room(preset="public_chat")
    await _all_refuse(scene, alice, room, "made-up", "M_UNKNOWN_TOKEN")
    phone = await alice.log_in("Alice's phone")
    await phone.get("/account/whoami")
    await phone.log_out()
    await _all_refuse(scene, alice, room, phone.token, "M_UNKNOWN_TOKEN")


async def _all_refuse(scene: Scene, alice: User, room: Room, token: str | None, errcode: str) -> None:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    endpoints = private_endpoints(alice, room)
    answers = await together(
        *(
            scene.server.request(method, path, None if method == "GET" else {}, who="Eve", headers=headers)
            for method, path in endpoints
        )
    )
    wrong = [
        f"{method} {path}: {answer.status} {answer.errcode}"
        for (method, path), answer in zip(endpoints, answers, strict=True)
        # What is not there is nobody's.
        if (answer.status, answer.errcode) not in ((401, errcode), (404, "M_UNRECOGNIZED"))
    ]
    check(sum(each.status == 401 for each in answers) > len(answers) * 3 // 4, "most of them to be there", came=answers)
    if wrong:
        raise Failed(f"401 {errcode} from each of {len(endpoints)} endpoints", "; ".join(wrong))
