"""What a server says of itself, and what a user can show to others."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import setting, story, users


@story(
    "Anybody learns which versions of the specification the server follows",
    shows="client-server API, 'API Versions'; 'Web Browser Clients': CORS",
    tags=["smoke"],
)
async def versions(scene: Scene) -> None:
    answer = await scene.server.request(
        "GET", "/_matrix/client/versions", headers={"Origin": "https://app.example.org"}
    )
    found = answer.good()
    check(any(each.startswith("v1.") for each in found["versions"]), "a version v1.x", came=found["versions"])
    flags = found.get("unstable_features", {})
    check(all(isinstance(each, bool) for each in flags.values()), "unstable features: true or false", came=flags)
    check_equal("*", answer.headers.get("access-control-allow-origin"), "Access-Control-Allow-Origin")
    failed = await scene.server.request("GET", "/sync", headers={"Origin": "https://app.example.org"})
    check_equal((401, "*"), (failed.status, failed.headers.get("access-control-allow-origin")), "that of a refusal")
    asked = await scene.server.request("OPTIONS", "/account/deactivate")
    check(asked.status in (200, 204), "OPTIONS without a token to succeed", came=asked.status)


@story(
    "Alice's client learns what she may do here, and a stranger's does not",
    shows="client-server API, 'Capabilities negotiation'",
    needs=users(1),
)
async def capabilities(scene: Scene) -> None:
    (alice,) = scene.users
    found = (await alice.get("/capabilities"))["capabilities"]
    rooms = found["m.room_versions"]
    check_equal("stable", rooms["available"].get(rooms["default"]), "the default room version")
    room = await alice.create_room()
    check_equal(rooms["default"], (await alice.state(room, "m.room.create")).get("room_version"), "that of a new room")
    check(isinstance(found["m.change_password"]["enabled"], bool), "m.change_password: yes or no", came=found)
    with refused(400, "M_UNSUPPORTED_ROOM_VERSION", what="a room of a version that is not listed"):
        await alice.create_room(room_version="org.example.none")
    with refused(401, "M_MISSING_TOKEN", what="the capabilities for somebody who is nobody here"):
        await scene.server.get("/capabilities")


@story(
    "A client finds its server, and people find those who run it, without a login",
    shows="client-server API, 'Well-known URIs': /.well-known/matrix/client, /.well-known/matrix/support",
    needs=setting("strict accounts"),
)
async def well_known(scene: Scene) -> None:
    client = await scene.server.request("GET", "/.well-known/matrix/client")
    check_equal("*", client.headers.get("access-control-allow-origin"), "Access-Control-Allow-Origin")
    base = text(client.good()["m.homeserver"], "base_url")
    check(base.startswith("http"), "the address of the server", came=base)
    support = await scene.server.request("GET", "/.well-known/matrix/support")
    if support.status == 404:
        scene.skip("the server does not say who runs it, which it need not")
    (contact,) = support.good()["contacts"]
    check_equal(("m.role.admin", "admin@example.org"), (contact["role"], contact["email_address"]), "whom to ask")


@story(
    "Alice shows another service who she is, by a token that is good for nothing else",
    shows="client-server API, 'OpenID'; server-server API, 'OpenID'",
    needs=users(2),
)
async def openid(scene: Scene) -> None:
    alice, bob = scene.users
    path = f"/user/{alice.user_id}/openid/request_token"
    found = await alice.post(path)
    check_equal(("Bearer", scene.server.name), (found["token_type"], found["matrix_server_name"]), "the kind of token")
    token = text(found, "access_token")
    who = await scene.server.get("/_matrix/federation/v1/openid/userinfo", access_token=token)
    check_equal({"sub": alice.user_id}, who, "who it is")
    with refused(401, "M_UNKNOWN_TOKEN", what="a made-up token"):
        await scene.server.get("/_matrix/federation/v1/openid/userinfo", access_token="made-up")
    with refused(401, "M_UNKNOWN_TOKEN", what="Alice's access token in its place"):
        await scene.server.get("/_matrix/federation/v1/openid/userinfo", access_token=alice.token)
    with refused(403, "M_FORBIDDEN", what="Bob's wish to be Alice"):
        await bob.post(path)
    alice.token = token
    with refused(401, "M_UNKNOWN_TOKEN", what="it as an access token"):
        await alice.sync()
