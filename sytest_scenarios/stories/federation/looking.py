"""Looking at what is on another server: files, rooms that are published, spaces."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import FEDERATION, story, users


@story(
    "Bob downloads what Alice has uploaded to another server, byte by byte, and finds nothing where nothing is",
    shows="server-server API, 'Content Repository'",
    needs=users(2) + FEDERATION,
)
async def media(scene: Scene) -> None:
    alice, bob = scene.users
    content = scene.random.randbytes(100_000)
    uri = await alice.upload(content, "application/octet-stream", filename="noise.bin")
    for _ in range(2):
        answer = await bob.download(uri)
        check(answer.body == content, "the bytes that Alice uploaded", came=f"{len(answer.body)} bytes")
    check("noise.bin" in answer.headers.get("content-disposition", ""), "the file name", came=dict(answer.headers))
    with refused(404, "M_NOT_FOUND", what="the download of a file that is not there"):
        await bob.download(f"{uri}x")


@story(
    "Bob looks through the published rooms of Alice's server: the public one is there, the private one is not",
    shows="server-server API, 'Published Room Directory'; client-server API, 'Published room directory'",
    needs=users(2) + FEDERATION,
)
async def published_rooms(scene: Scene) -> None:
    alice, bob = scene.users
    topic = f"topic of {alice.localpart}"
    public = await alice.create_room(preset="public_chat", visibility="public", name="Market", topic=topic)
    await alice.create_room(preset="private_chat", name="Attic", topic=topic)
    path = path_of("publicRooms")
    body = {"filter": {"generic_search_term": topic}}
    answer = await bob.request("POST", path, body, query={"server": alice.server.name})
    if answer.errcode == "M_FORBIDDEN":
        scene.skip("the server shows its directory to no other server")
    found = answer.good().get("chunk", [])
    check_equal([public.id], [each["room_id"] for each in found], "the rooms that Bob finds on Alice's server")
    check_equal(("Market", 1), (found[0].get("name"), found[0].get("num_joined_members")), "what is told of it")
    ours = (await bob.post(path, body)).get("chunk", [])
    check_equal([], ours, "the rooms that Bob finds on his own server")


@story(
    "Alice's space shows her a public room on Bob's server that nobody of hers is in, and not his private one",
    shows="server-server API, 'Spaces'; client-server API, 'Discovering rooms within spaces'",
    needs=users(2) + FEDERATION,
)
async def spaces(scene: Scene) -> None:
    alice, bob = scene.users
    public = await bob.create_room(preset="public_chat", name="Market")
    private = await bob.create_room(preset="private_chat", name="Attic")
    space = await alice.create_room(name="Town", creation_content={"type": "m.space"})
    for child in (public, private):
        await alice.set_state(space, "m.space.child", {"via": [bob.server.name]}, child.id)
    found = (await alice.get(f"/_matrix/client/v1{space.path('hierarchy')}")).get("rooms", [])
    names = {each["room_id"]: each.get("name") for each in found}
    check_equal({space.id: "Town", public.id: "Market"}, names, "what Alice sees of the space")
