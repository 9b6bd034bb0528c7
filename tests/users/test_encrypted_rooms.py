"""Rooms that are encrypted by configuration, and what encrypted events count for."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted

from tests.support.federation import FederatedUser, Federation, federation, new_database, sqlite_federation  # noqa: F401

MEGOLM = {"algorithm": "m.megolm.v1.aes-sha2"}


async def _encryption(user: FederatedUser, **settings: Any) -> Any:
    """Return the encryption of a new room, None where it has none."""
    room_id = await user.create_room(**settings)
    found = await user.try_call("GET", f"/rooms/{room_id}/state/m.room.encryption/")
    return found.json if found.status == 200 else None


@pytest.mark.parametrize(
    ("kind", "public", "private"),
    [("off", None, None), ("invite", None, MEGOLM), ("all", MEGOLM, MEGOLM)],
    ids=["off", "invite", "all"],
)
@pytest_twisted.ensureDeferred
async def test_new_rooms_are_encrypted_as_the_configuration_says(
    sqlite_federation: Federation,  # noqa: F811
    kind: str,
    public: Any,
    private: Any,
) -> None:
    (server,) = await sqlite_federation.start(rooms={"encrypt_by_default": kind})
    features = (await server.request("GET", "/_matrix/client/versions")).json["unstable_features"]
    told = {name.rpartition(".")[2]: is_so for name, is_so in features.items() if ".e2ee_forced." in name}
    expected = {"public": public is not None, "private": private is not None, "trusted_private": private is not None}
    assert expected == told
    alice = await server.register("alice")
    assert public == await _encryption(alice, preset="public_chat")
    assert public == await _encryption(alice, visibility="public")
    for settings in ({}, {"preset": "private_chat"}, {"preset": "trusted_private_chat"}, {"is_direct": True}):
        assert private == await _encryption(alice, **settings)
    assert None is await _encryption(alice, creation_content={"type": "m.space"}), "nobody talks in a space"
    # What the client asks for counts, and an algorithm that is not known is nobody else's business.
    own = {"algorithm": "org.example.own", "rotation_period_ms": 5}
    asked = [{"type": "m.room.encryption", "state_key": "", "content": own}]
    assert own == await _encryption(alice, initial_state=asked)


@pytest_twisted.ensureDeferred
async def test_encrypted_events_notify_and_come_as_they_were_sent(federation: Federation) -> None:  # noqa: F811
    (server,) = await federation.start()
    alice, bob, carol = [await server.register(name) for name in ("alice", "bob", "carol")]
    content = {"algorithm": "org.example.own", "ciphertext": "c", "session_id": "s", "m.relates_to": {"x": 1}}
    for members in ([bob], [bob, carol]):
        room_id = await alice.create_room(preset="public_chat")
        for member in members:
            await member.join(room_id)
        since = (await bob.sync())["next_batch"]
        event_id = await alice.send(room_id, "m.room.encrypted", content)
        await alice.send(
            room_id, "m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$x", "key": "1"}}
        )
        room = (await bob.sync(since))["rooms"]["join"][room_id]
        assert {"notification_count": 1, "highlight_count": 0} == room["unread_notifications"], len(members)
        assert content == room["timeline"]["events"][0]["content"]
        await bob.call("POST", f"/rooms/{room_id}/receipt/m.read/{event_id}", {})
        room = (await bob.sync())["rooms"]["join"][room_id]
        assert 0 == room["unread_notifications"]["notification_count"]


@pytest_twisted.ensureDeferred
async def test_encryption_can_be_forbidden(sqlite_federation: Federation) -> None:  # noqa: F811
    (server,) = await sqlite_federation.start(rooms={"allow_encryption": False})
    alice = await server.register("alice")
    asked = [{"type": "m.room.encryption", "state_key": "", "content": MEGOLM}]
    refused = await alice.try_call("POST", "/createRoom", {"initial_state": asked})
    assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])
    room_id = await alice.create_room()
    for path in ("state/m.room.encryption", "send/m.room.encrypted/1"):
        refused = await alice.try_call("PUT", f"/rooms/{room_id}/{path}", MEGOLM)
        assert (403, "M_FORBIDDEN") == (refused.status, refused.json["errcode"])
    assert 200 == (await alice.try_call("PUT", f"/rooms/{room_id}/send/m.room.message/2", {"body": "plain"})).status
