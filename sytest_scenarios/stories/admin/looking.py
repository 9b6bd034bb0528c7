"""Administrators look at what is on their server; others do not."""

from sytest_scenarios.asking import together
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, story, users

ADMIN = "/_synapse/admin"
ADMIN_API = "Admin API"


@story(
    "Alice sees where she is logged in, Ada sees it, too, and Bob does not",
    shows="client-server API, 'Server Administration': GET /admin/whois/{userId}",
    needs=users(2) + ADMIN_SECRET + feature("password login"),
)
async def whois(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    phone = await alice.log_in("Alice's phone")
    await phone.request("GET", "/account/whoami", headers={"User-Agent": "A telephone"})
    for who in (alice, ada):
        found = await who.get(f"/admin/whois/{alice.user_id}")
        check_equal(alice.user_id, found.get("user_id"), "of whom it is")
        connections = [
            connection
            for device in found["devices"].values()
            for session in device["sessions"]
            for connection in session["connections"]
        ]
        check(connections and all(each.get("ip") for each in connections), "addresses", came=found)
    with refused(403, "M_FORBIDDEN", what="Bob's look at Alice"):
        await bob.get(f"/admin/whois/{alice.user_id}")


@story(
    "Bob, who is no administrator, does nothing of what administrators do",
    shows="Synapse's admin API: 403 M_FORBIDDEN",
    needs=users(2) + ADMIN_SECRET + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def not_for_bob(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_room()
    endpoints = [
        *(
            ("GET", f"{ADMIN}/{path}")
            for path in ("v2/users", "v1/rooms", "v1/event_reports", "v1/registration_tokens")
        ),
        ("GET", f"{ADMIN}/v2/users/{alice.user_id}"),
        ("GET", f"{ADMIN}/v2/users/{alice.user_id}/devices"),
        ("GET", f"{ADMIN}/v1/users/{alice.user_id}/joined_rooms"),
        ("GET", f"{ADMIN}/v1/rooms/{room.id}/messages"),
        ("PUT", f"{ADMIN}/v2/users/{bob.user_id}"),
        ("PUT", f"{ADMIN}/v1/users/{bob.user_id}/admin"),
        ("POST", f"{ADMIN}/v1/deactivate/{alice.user_id}"),
        ("POST", f"{ADMIN}/v1/reset_password/{alice.user_id}"),
        ("POST", f"{ADMIN}/v1/users/{alice.user_id}/login"),
        ("POST", f"{ADMIN}/v1/users/{alice.user_id}/shadow_ban"),
        ("DELETE", f"{ADMIN}/v2/rooms/{room.id}"),
        ("POST", f"{ADMIN}/v1/join/{room.id}"),
    ]
    body = {"admin": True, "new_password": "a new password", "user_id": bob.user_id}
    answers = await together(
        *(bob.request(method, path, None if method == "GET" else body) for method, path in endpoints)
    )
    came = [(*where, each.status, each.errcode) for where, each in zip(endpoints, answers, strict=True)]
    wrong = [each for each in came if each[2:] != (403, "M_FORBIDDEN")]
    check(not wrong, f"403 M_FORBIDDEN from each of {len(endpoints)} endpoints", came=wrong)
    await alice.get("/account/whoami")


@story(
    "Ada finds Alice in the list of users, with what an administrator has to know and no more",
    shows="Synapse's admin API: GET /_synapse/admin/v2/users",
    needs=users(2) + ADMIN_SECRET + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def list_of_users(scene: Scene) -> None:
    alice, _ = scene.users
    ada = await scene.new_user("Ada", admin=True)
    await alice.set_profile("displayname", "Alice in Wonderland")
    found = await ada.get(f"{ADMIN}/v2/users", name=alice.localpart)
    check_equal([alice.user_id], [each["name"] for each in found["users"]], "the users of that name")
    (line,) = found["users"]
    check_equal(("Alice in Wonderland", False), (line["displayname"], bool(line["admin"])), "what is said of Alice")
    check("password_hash" not in line, "nothing of her password", came=sorted(line))
    one = await ada.get(f"{ADMIN}/v2/users/{ada.user_id}")
    check_equal(True, one["admin"], "what is said of Ada")


@story(
    "Ada sees the rooms, their members and their sizes",
    shows="Synapse's admin API: GET /_synapse/admin/v1/rooms, …/members",
    needs=users(2) + ADMIN_SECRET + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def list_of_rooms(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    name = f"Of {alice.localpart}"
    room = await alice.create_room_with(bob, name=name)
    found = (await ada.get(f"{ADMIN}/v1/rooms", search_term=name))["rooms"]
    check_equal([(room.id, name, 2)], [(each["room_id"], each["name"], each["joined_members"]) for each in found], "it")
    members = await ada.get(f"{ADMIN}/v1/rooms/{room.id}/members")
    check_equal({alice.user_id, bob.user_id}, set(members["members"]), "who is in it")


@story(
    "Alice's address is known to Ada and to herself, and nobody else",
    shows="client-server API, 'Adding Account Administrative Contact Information': GET /account/3pid",
    needs=users(2) + ADMIN_SECRET + feature("password login") + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def address(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    mail = f"{alice.localpart}@example.org"
    await ada.put(f"{ADMIN}/v2/users/{alice.user_id}", {"threepids": [{"medium": "email", "address": mail}]})
    found = (await alice.get("/account/3pid"))["threepids"]
    check_equal([("email", mail)], [(each["medium"], each["address"]) for each in found], "Alice's addresses")
    room = await alice.create_room_with(bob)
    for path in (f"/profile/{alice.user_id}", room.path("members"), "/sync", "/account/3pid"):
        answer = await bob.request("GET", path)
        check(mail not in answer.body.decode(), f"nothing of Alice's address in {path}", came=mail)
    identifier = {"type": "m.id.thirdparty", "medium": "email", "address": mail.upper()}
    body = {"type": "m.login.password", "identifier": identifier, "password": alice.password}
    login = (await scene.server.request("POST", "/login", body, who="Alice")).good()
    check_equal(alice.user_id, login["user_id"], "who logs in by that address")
