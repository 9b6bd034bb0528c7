"""What clients and third parties reach: files, profiles, aliases, published rooms, spaces, who a token belongs to."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from .pairs import Pair, until

# One red dot.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000003"
    "0001360088600000000049454e44ae426082"
)


async def test_files_are_downloaded(pair: Pair) -> None:
    content = {"a file": "with text", "number": [*range(1000)]}
    uri = (await pair.alice.call("POST", "/_matrix/media/v3/upload?filename=a%20b.txt", content))["content_uri"]
    path = f"/_matrix/client/v1/media/download/{uri.removeprefix('mxc://')}"
    answer = await pair.bob.try_call("GET", path)
    assert (200, json.dumps(content)) == (answer.status, answer.body.decode())
    assert "a b.txt" in answer.headers["content-disposition"].replace("%20", " ")
    missing = await pair.bob.try_call("GET", path[:-1])
    assert (404, "M_NOT_FOUND") == (missing.status, missing.json["errcode"])


async def test_thumbnails_are_shown(pair: Pair) -> None:
    browser = pair.alice.server._browser
    url = f"{pair.alice.server.url}/_matrix/media/v3/upload"
    headers = {"Authorization": f"Bearer {pair.alice.token}", "Content-Type": "image/png"}
    uri = (await browser.request("POST", url, PNG, headers)).json["content_uri"]
    path = f"/_matrix/client/v1/media/thumbnail/{uri.removeprefix('mxc://')}?width=32&height=32&method=scale"
    answer = await pair.bob.try_call("GET", path)
    assert 200 == answer.status, answer.body
    assert answer.headers["content-type"].startswith("image/")


async def test_profiles_are_looked_up(pair: Pair) -> None:
    user_id = quote(pair.alice.user_id, safe="")
    await pair.alice.call("PUT", f"/profile/{user_id}/displayname", {"displayname": "Alice of Elsewhere"})
    assert "Alice of Elsewhere" == (await pair.bob.call("GET", f"/profile/{user_id}"))["displayname"]
    found = await pair.bob.call("GET", f"/profile/{user_id}/displayname")
    assert {"displayname": "Alice of Elsewhere"} == found
    nobody = quote(f"@nobody:{pair.alice.server.name}", safe="")
    assert 404 == (await pair.bob.try_call("GET", f"/profile/{nobody}")).status


async def test_an_alias_leads_into_the_room(pair: Pair) -> None:
    localpart = pair.alice.user_id[1:].partition(":")[0] + "-hall"
    room_id = await pair.alice.create_room(preset="public_chat", room_alias_name=localpart)
    alias = f"#{localpart}:{pair.alice.server.name}"
    found = await pair.bob.call("GET", f"/directory/room/{quote(alias, safe='')}")
    assert (room_id, True) == (found["room_id"], pair.alice.server.name in found["servers"])
    assert room_id == await pair.bob.join(alias)
    unknown = await pair.bob.try_call("GET", f"/directory/room/{quote('#no' + alias[1:], safe='')}")
    assert (404, "M_NOT_FOUND") == (unknown.status, unknown.json["errcode"])


async def test_published_rooms_are_searched(pair: Pair) -> None:
    term = f"teahouse of {pair.alice.user_id[1:].partition(':')[0]}"
    room_id = await pair.alice.create_room(preset="public_chat", visibility="public", name=term)
    body = {"limit": 5, "filter": {"generic_search_term": term}}
    answer = await pair.bob.try_call("POST", "/publicRooms", body, server=pair.alice.server.name)
    assert (200, [room_id]) == (answer.status, [room["room_id"] for room in answer.json["chunk"]])
    (room,) = answer.json["chunk"]
    assert (term, 1) == (room["name"], room["num_joined_members"])
    listed = await pair.bob.call("GET", "/publicRooms", server=pair.alice.server.name, limit=100)
    assert room_id in [room["room_id"] for room in listed["chunk"]]


async def test_spaces_are_walked_and_rooms_summed_up(pair: Pair) -> None:
    space = await pair.alice.create_room(preset="public_chat", name="space", creation_content={"type": "m.space"})
    child = await pair.alice.create_room(preset="public_chat", name="child", topic="about")
    secret = await pair.alice.create_room(preset="private_chat", name="secret")
    own = await pair.bob.create_room(preset="public_chat", name="root", creation_content={"type": "m.space"})
    name = pair.alice.server.name
    for parent, user, room_id in ((space, pair.alice, child), (space, pair.alice, secret), (own, pair.bob, space)):
        await user.set_state(parent, "m.space.child", {"via": [name]}, room_id)

    async def walked() -> Any:
        rooms = (await pair.bob.call("GET", f"/_matrix/client/v1/rooms/{quote(own, safe='')}/hierarchy"))["rooms"]
        return ["root", "space", "child"] == [room.get("name") for room in rooms]

    await until(walked, what="the tree")
    summary = await pair.bob.call("GET", f"/_matrix/client/v1/room_summary/{quote(child, safe='')}", via=name)
    assert ("child", "about", "public") == (summary["name"], summary["topic"], summary["join_rule"])
    hidden = await pair.bob.try_call("GET", f"/_matrix/client/v1/room_summary/{quote(secret, safe='')}", via=name)
    assert 404 == hidden.status


async def test_openid_token_is_vouched_for(pair: Pair) -> None:
    """A third party asks the server of the user, at its federation door but without a signature."""
    token = await pair.alice.call("POST", f"/user/{pair.alice.user_id}/openid/request_token", {})
    name = pair.alice.server.name
    assert name == token["matrix_server_name"]
    url = f"https://{name}/_matrix/federation/v1/openid/userinfo?access_token={token['access_token']}"
    status, answer = await pair.alice.server._browser.request("GET", url)
    assert (200, {"sub": pair.alice.user_id}) == (status, answer)
