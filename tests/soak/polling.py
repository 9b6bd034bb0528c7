"""The control: the same user by `/sync` and the other endpoints, as every Matrix client does it.

What is wrong with these users too is no fault of the stream.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from .client import EXPECTED_ERRORS, FILTERS, Pending, StreamUser
from .http import PREFIX, Answer, request, segment
from .journal import position

LIMIT: Final = 50
MAX_PAGES: Final = 60


class PollingUser(StreamUser):
    """Long polls, fills the gaps that `limited` tells of, and sends over HTTP, repeating what was not answered."""

    async def run(self) -> None:
        sending = asyncio.create_task(self._send_all())
        self._queue = asyncio.Queue()
        try:
            while True:
                try:
                    await self._poll()
                    self._delay_s = 0.1
                except (OSError, TimeoutError) as error:
                    self.counts[f"lost: {type(error).__name__}"] += 1
                    await asyncio.sleep(self._delay_s)
                    self._delay_s = min(self._delay_s * 1.7, 3)
        finally:
            sending.cancel()

    async def change_filter(self) -> None:
        """Filters do not change here."""
        assert self.choice is FILTERS[0]

    async def _poll(self) -> None:
        journal = self.journal
        query = {"filter": json.dumps({"room": {"timeline": {"limit": LIMIT}}})}
        timeout_s = 0.0
        if journal.since is not None:
            timeout_s = self.rng.choice((0.0, 5.0, 20.0))
            query |= {"since": journal.since, "timeout": str(int(timeout_s * 1000))}
        patience_s = self.rng.uniform(0.5, 10) if self.rng.random() < 0.1 else 60
        began, life = time.monotonic(), self.server.life
        answer = await self._request("GET", "/sync", query=query, timeout_s=patience_s)
        if answer.status != 200:
            self.faults.append(f"/sync answered {answer}")
            await asyncio.sleep(1)
            return
        if journal.since is not None:
            self._acknowledged = max(self._acknowledged, position(journal.since))
            for section in ("join", "leave"):
                for room_id, told in answer.json.get("rooms", {}).get(section, {}).items():
                    await self._fill(room_id, told.get("timeline", {}))
        if self.rng.random() < self.mishaps.die_in_update:
            self.counts["died"] += 1
            return
        journal.apply(answer.json, life)
        self.counts["updates"] += 1
        if timeout_s and time.monotonic() - began < 0.001:
            await asyncio.sleep(0.05)

    async def _fill(self, room_id: str, timeline: dict[str, Any]) -> None:
        """Read what comes between what is known and what was told."""
        room = self.journal.rooms.get(room_id)
        if not timeline.get("limited") or room is None or "prev_batch" not in timeline:
            return
        known = {entry for entry in room.entries if isinstance(entry, str)}
        query = {"dir": "b", "limit": "100", "from": timeline["prev_batch"]}
        found: list[dict[str, Any]] = []
        if any(event["event_id"] in known for event in timeline["events"]):
            return
        for _ in range(MAX_PAGES):
            answer = await self._request("GET", f"/rooms/{segment(room_id)}/messages", query=query, timeout_s=60)
            if answer.status != 200:
                return
            for event in answer.json["chunk"]:
                if event["event_id"] in known:
                    timeline["events"] = found[::-1] + timeline["events"]
                    self.counts["gaps filled"] += 1
                    return
                found.append(event)
            if "end" not in answer.json:
                return
            query["from"] = answer.json["end"]

    async def _send_all(self) -> None:
        """Send what is pending, one after another."""
        while True:
            if not self.pending:
                await asyncio.sleep(0.05)
                continue
            serial, pending = next(iter(self.pending.items()))
            answer = None
            try:
                answer = await self._carry_out(serial, pending)
            except (OSError, TimeoutError):
                if pending.lasting:
                    self.counts["repeated"] += 1
                    await asyncio.sleep(self.rng.uniform(0.1, 0.5))
                    continue
            self._settle(serial, pending, answer)

    def _settle(self, serial: str, pending: Pending, answer: Answer | None) -> None:
        del self.pending[serial]
        result: dict[str, Any] | None = None
        if answer is not None and answer.status == 200:
            result = {"id": serial, "result": answer.json}
            self.counts["answered " + pending.message["method"]] += 1
            if "event_id" in answer.json:
                self.sent.events[serial] = answer.json["event_id"]
        elif answer is not None:
            result = {"id": serial, "error": answer.json}
            self.sent.refused[serial] = answer.json["errcode"]
            if answer.json["errcode"] not in EXPECTED_ERRORS:
                self.faults.append(f"{pending.message} was refused: {answer}")
        if not pending.answered.done():
            pending.answered.set_result(result)

    async def _carry_out(self, serial: str, pending: Pending) -> Answer | None:
        message = pending.message
        params: Mapping[str, Any] = message["params"]
        room = f"/rooms/{segment(params['room_id'])}" if "room_id" in params else ""
        match message["method"]:
            case "send":
                path, body = f"{room}/send/{params['event_type']}/{serial}", params["content"]
            case "state":
                path, body = f"{room}/state/{params['event_type']}/{params['state_key']}", params["content"]
            case "redact":
                path, body = f"{room}/redact/{segment(params['event_id'])}/{serial}", {"reason": params["reason"]}
            case "to_device":
                path, body = f"/sendToDevice/{params['event_type']}/{serial}", {"messages": params["messages"]}
            case "typing":
                path = f"{room}/typing/{segment(self.user_id)}"
                body = {"typing": params["typing"], "timeout": params.get("timeout", 5000)}
            case _:
                return None
        return await self._request("PUT", path, body)

    async def _request(
        self, method: str, path: str, body: Any = None, *, query: Mapping[str, str] | None = None, timeout_s: float = 15
    ) -> Answer:
        return await request(
            self.server.web, method, PREFIX + path, body, token=self.token, query=query, timeout_s=timeout_s
        )
