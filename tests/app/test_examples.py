"""The examples run as they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from homeserver.model.canonical_json import encode_canonical
from homeserver.model.room_versions import V12
from tests.model.random_rooms import build_random_room

ROOT = Path(__file__).parents[2]


def test_the_rules_alone_judge_a_room_and_resolve_its_state() -> None:
    room = build_random_room(12, V12, events=40, branches=3)
    wires = b"[" + b",".join(encode_canonical(event.wire) for event in reversed(room.events)) + b"]"
    script = (
        "import runpy, sys\nrunpy.run_path(sys.argv.pop(1), run_name='__main__')\nassert 'twisted' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "examples" / "check_events.py"), "12"],
        input=wires,
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    assert {event.event_id for event in room.events} == {line.split()[0] for line in lines[: len(room.events)]}
    assert all(line.endswith(" allowed") for line in lines[: len(room.events)])
    resolved = json.loads("\n".join(lines[len(room.events) :]))
    assert room.create.event_id == resolved["m.room.create"]
