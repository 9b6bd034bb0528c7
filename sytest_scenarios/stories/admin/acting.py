"""Administrators act: on accounts, on rooms, on media. What they do is felt, and only by those whom it is about."""

from sytest_scenarios.asking import media_parts, together
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.props.signing_up import fresh_name, fresh_password
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, story, users

ADMIN = "/_synapse/admin"
ADMIN_API = "Admin API"
MODERATION = "Moderation tools"
LOCKING = "Account locking and suspension"
NO_LOCKING = (
    "serves PUT /_matrix/client/v1/admin/lock and …/suspend not yet; the spec, 'Account moderation', names them"
)


@story(
    "Ada closes Eve's account: she is out everywhere, and Bob is not",
    shows="Synapse's admin API: POST /_synapse/admin/v1/deactivate/{userId}",
    needs=ADMIN_SECRET + feature("password login") + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def closes_an_account(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    ada = await scene.new_user("Ada", admin=True)
    room = await bob.create_room_with(eve)
    await ada.post(f"{ADMIN}/v1/deactivate/{eve.user_id}", {"erase": False})
    with refused(401, "M_UNKNOWN_TOKEN", what="Eve's sync"):
        await eve.sync()
    with refused(403, what="Eve's login"):
        await eve.log_in("Eve again")
    await bob.until("Eve to be gone", lambda view: view.room(room).member(eve.user_id) == "leave")


@story(
    "Ada gives Alice, who forgot it, a new password, and whoever was logged in is out",
    shows="Synapse's admin API: POST /_synapse/admin/v1/reset_password/{userId}",
    needs=users(1) + ADMIN_SECRET + feature("password login") + feature("admin API"),
    expected_to_fail=ADMIN_API,
)
async def new_password(scene: Scene) -> None:
    (alice,) = scene.users
    ada = await scene.new_user("Ada", admin=True)
    new = fresh_password()
    body = {"new_password": new, "logout_devices": True}
    await ada.post(f"{ADMIN}/v1/reset_password/{alice.user_id}", body)
    with refused(401, "M_UNKNOWN_TOKEN", what="the sync of the device of before"):
        await alice.sync()
    with refused(403, "M_FORBIDDEN", what="a login with the old password"):
        await alice.log_in("Eve")
    alice.password = new
    await alice.log_in("Alice, with the new password")


@story(
    "Eve is shadow-banned: she sees what she says, and nobody else does",
    shows="Synapse's admin API: POST /_synapse/admin/v1/users/{userId}/shadow_ban",
    needs=ADMIN_SECRET + feature("admin API"),
    expected_to_fail=MODERATION,
    # Synapse lets those whom it shadow-bans wait for some seconds each time.
    time_limit_s=60,
)
async def shadow_ban(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    ada = await scene.new_user("Ada", admin=True)
    room = await bob.create_room_with(eve)
    other = await eve.create_room()
    path = f"{ADMIN}/v1/users/{eve.user_id}/shadow_ban"
    await ada.post(path)
    await together(eve.say(room, "Buy my tokens"), eve.invite(other, bob))
    await ada.delete(path)
    after = await eve.say(room, "Sorry")
    await bob.sees(room, after)
    check_equal((["Sorry"], []), (bob.view.room(room).texts, bob.view.invites), "what Bob sees of Eve")


@story(
    "Ada closes a room: everybody is out, told why, and nobody comes back in",
    shows="Synapse's admin API: DELETE /_synapse/admin/v2/rooms/{roomId}",
    needs=users(2) + ADMIN_SECRET + feature("admin API"),
    expected_to_fail=MODERATION,
    time_limit_s=60,
)
async def closes_a_room(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    room = await alice.create_room_with(bob, preset="public_chat")
    other = await alice.create_room_with(bob)
    for each in (alice, bob):
        await each.until("the room", lambda view: room.id in view.joined)
    notice = {"new_room_user_id": ada.user_id, "room_name": "Closed", "message": "This was against the rules."}
    await ada.delete(f"{ADMIN}/v2/rooms/{room.id}", {"block": True, "purge": False, **notice})
    for each in (alice, bob):
        await each.until(
            "to be in the room with the notice",
            lambda view: any("This was against the rules." in each.texts for each in view.rooms.values()),
            within_s=25,
        )
        check_equal("leave", each.view.room(room).membership, "the membership in the room that was closed")
    with refused(403, what="a join of the closed room"):
        await bob.join(room)
    said = await bob.say(other, "We are still here")
    await alice.sees(other, said)


@story(
    "A picture in quarantine is shown to nobody, and another one is",
    shows="Synapse's admin API: POST /_synapse/admin/v1/media/quarantine/{serverName}/{mediaId}",
    needs=users(2) + ADMIN_SECRET + feature("admin API"),
    expected_to_fail="Media moderation and storage",
)
async def quarantine(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    # The same bytes are the same file to some servers, whoever uploaded them.
    bytes_of = {name: fresh_name(name).encode() for name in ("bad", "good")}
    bad, good = [await alice.upload(each, "text/plain") for each in bytes_of.values()]
    check_equal(bytes_of["bad"], (await bob.download(bad)).body, "the file before")
    where = "/".join(media_parts(bad))
    await ada.post(f"{ADMIN}/v1/media/quarantine/{where}")
    for each in (alice, bob):
        answer = await each.request("GET", f"/_matrix/client/v1/media/download/{where}")
        check_equal(404, answer.status, f"the answer to {each}")
    check_equal(bytes_of["good"], (await bob.download(good)).body, "the other file")


@story(
    "Ada takes back all that Eve said, and nothing of what Bob said",
    shows="Synapse's admin API: POST /_synapse/admin/v1/user/{userId}/redact",
    needs=ADMIN_SECRET + feature("admin API"),
    expected_to_fail=MODERATION,
)
async def takes_back(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    ada = await scene.new_user("Ada", admin=True)
    room = await bob.create_room_with(eve)
    evil = [await eve.say(room, f"Buy token {number}") for number in range(3)]
    await bob.say(room, "No, thanks")
    await ada.post(f"{ADMIN}/v1/user/{eve.user_id}/redact", {"rooms": [room.id]})
    await bob.until(
        "the redactions",
        lambda view: (
            {
                each.get("redacts") or each["content"].get("redacts")
                for each in view.room(room).of_type("m.room.redaction")
            }
            >= set(evil)
        ),
    )
    check_equal(["No, thanks"], await bob.texts(room), "what Bob reads")


@story(
    "Alice's account is locked: she is told so, and her session waits for her",
    shows="client-server API, 'Account locking': M_USER_LOCKED with soft_logout",
    needs=users(2) + ADMIN_SECRET + feature("password login"),
    expected_to_fail=LOCKING,
    unlike={"synapse": NO_LOCKING},
)
async def locks(scene: Scene) -> None:
    alice, bob = scene.users
    ada = await scene.new_user("Ada", admin=True)
    path = f"/_matrix/client/v1/admin/lock/{alice.user_id}"
    for nobody in (path, f"/_matrix/client/v1/admin/lock/@nobody-{alice.localpart}:{scene.server.name}"):
        with refused(403, "M_FORBIDDEN", what="Bob's wish to lock somebody, who exists or not"):
            await bob.put(nobody, {"locked": True})
    await ada.put(path, {"locked": True})
    check_equal({"locked": True}, await ada.get(path), "what Ada reads of it")
    for where in ("/sync", "/account/whoami", "/joined_rooms"):
        answer = await alice.request("GET", where)
        came = (answer.status, answer.errcode, answer.json.get("soft_logout"))
        check_equal((401, "M_USER_LOCKED", True), came, f"the answer to Alice's {where}")
    await ada.put(path, {"locked": False})
    await alice.sync()
    with refused(403, "M_FORBIDDEN", what="a lock on an administrator"):
        await ada.put(f"/_matrix/client/v1/admin/lock/{ada.user_id}", {"locked": True})


@story(
    "Eve is suspended: she reads, and says nothing, and may go",
    shows="client-server API, 'Account suspension': M_USER_SUSPENDED",
    needs=ADMIN_SECRET,
    expected_to_fail=LOCKING,
    unlike={"synapse": NO_LOCKING},
)
async def suspends(scene: Scene) -> None:
    eve, bob = await scene.new_users("Eve", "Bob")
    ada = await scene.new_user("Ada", admin=True)
    room = await bob.create_room_with(eve)
    said = await eve.say(room, "Buy my tokens")
    path = f"/_matrix/client/v1/admin/suspend/{eve.user_id}"
    await ada.put(path, {"suspended": True})
    with refused(403, "M_USER_SUSPENDED", what="what Eve says"):
        await eve.say(room, "more")
    with refused(403, "M_USER_SUSPENDED", what="Eve's new name"):
        await eve.set_profile("displayname", "Honest Eve")
    answer = await bob.say(room, "Silence")
    await eve.sees(room, answer)
    await eve.redact(room, said)
    await eve.leave(room)
    await ada.put(path, {"suspended": False})
    await eve.create_room()


@story(
    "Ada tells Alice something in the name of the server, and Alice cannot refuse to hear it",
    shows="client-server API, 'Server Notices'",
    needs=users(1) + ADMIN_SECRET + feature("server notices"),
    expected_to_fail="Server notices",
)
async def notice(scene: Scene) -> None:
    (alice,) = scene.users
    ada = await scene.new_user("Ada", admin=True)
    content = {"msgtype": "m.server_notice", "server_notice_type": "org.example.news", "body": "We move tonight"}
    await ada.post(f"{ADMIN}/v1/send_server_notice", {"user_id": alice.user_id, "content": content})
    (room_id,) = await alice.until("the invite to the notices", lambda view: view.invites)
    with refused(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", what="Alice's refusal"):
        await alice.post(f"/rooms/{room_id}/leave")
    await alice.join(room_id)
    await alice.until("the notice", lambda view: "We move tonight" in view.room(room_id).texts)
    await alice.until("the tag", lambda view: "m.server_notice" in view.room(room_id).account_data["m.tag"]["tags"])
