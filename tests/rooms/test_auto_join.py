"""New users join the configured rooms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater

from homeserver import Config, Homeserver


@pytest_twisted.ensureDeferred
async def test_the_first_new_user_makes_the_room_and_the_next_one_joins_it(tmp_path: Path) -> None:
    registration = {"bcrypt_rounds": 4, "auto_join_rooms": ["#lobby:example.org", "#else:where.example"]}
    config = Config.from_mapping(
        {"server": {"name": "example.org", "data_dir": str(tmp_path)}, "registration": registration}
    )
    server = Homeserver(config, reactor=reactor)
    await server.start(listen=False)
    try:
        for name in ("alice", "bob"):
            user_id = await server.accounts.create(name, "a long secret", admin=False)
        built: Any = server._parts
        members: dict[str, str] = {}
        for _ in range(500):
            await deferLater(reactor, 0.01, lambda: None)  # type: ignore[arg-type]
            room_id = await built.rooms.directory.find("#lobby:example.org")
            if room_id is None:
                continue
            for name in ("alice", "bob"):
                event = await server.as_user(user_id).get_state(room_id, "m.room.member", f"@{name}:example.org")
                members[name] = event.membership if event is not None else "none"
            if set(members.values()) == {"join"}:
                break
        assert {"alice": "join", "bob": "join"} == members
    finally:
        await server.stop()
