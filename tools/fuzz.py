"""Feed the pure functions of `homeserver.model` with broken input until one of them breaks.

    .venv/bin/python tools/fuzz.py --minutes 60 --seed 1
    .venv/bin/python tools/fuzz.py --only auth --case 12345 --seed 1     # one case again
    .venv/bin/python tools/fuzz.py --engine atheris --minutes 60         # guided by coverage; `pip install atheris`

Every case starts from something valid (an event of each type, an ACL, a filter, push rules, keys, tokens) and changes
parts of it: values of other types, numbers at the edges, texts of every bad kind, deep and wide nests, pieces of other
values.  A case is a function of seed, target and number, so what was found is found again.

A fault is: an exception other than those of `homeserver.errors` and the documented kinds of ValueError; one call that
takes over a second of processor time; a broken promise (a redaction that changes the ID, an encoding that does not
parse back).  The first fault is printed with the command that repeats it, and ends the run with status 1; with
`--go-on` all are, once for each place in the code.

The `random` engine needs nothing.  With `atheris` the choices are read from the bytes that libFuzzer makes, so that it
can follow the coverage of the code.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

MAX_SECONDS = 1.0
HANG_S = 10.0
MINUTE_S = 60.0


class Chance(Protocol):
    """Where choices come from."""

    def randrange(self, stop: int, /) -> int:
        """Return a number from 0 to `stop` - 1."""
        ...


class BytesChance:
    """Choices read from bytes; where they end, always the first choice."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._place = 0

    def randrange(self, stop: int, /) -> int:
        size = 1 if stop <= 256 else 4
        taken = self._source[self._place : self._place + size]
        self._place += size
        return int.from_bytes(taken, "big") % stop


class BrokenPromise(Exception):
    """A function returned what it must not."""


def promise(kept: bool, what: str) -> None:
    """Raise `BrokenPromise` unless `kept`."""
    if not kept:
        raise BrokenPromise(what)


# -- hostile values --------------------------------------------------------------------------------------------------


def _nested(depth: int, kind: str) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if kind == "list" or (kind == "both" and level % 2) else {"a": value}
    return value


ATOMS: Sequence[Any] = (
    None, True, False, 0, 1, -1, 50, 100, -0.0, 0.5, 1.0, 1e300, float("nan"), float("inf"), float("-inf"),
    2**31, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**400, "", " ", "*", "?",
    "join", "invite", "leave", "ban", "knock", "100", " 1e2", "-5", "+7", "0x10", "٣", "9" * 100, "\x00",
    "\ud800", "\udfff\ud800", "\ufeff", "é", "é", "😀" * 64, "a" * 255, "a" * 256, "a" * 70_000, "@", "@a", "@:",
    "@a:b.example", "@" + "a" * 300 + ":b", "!", "!r:a.example", "$", "$e:a.example", "$" + "A" * 43, "#a:b",
    "a.example", "EVIL.example", "[::1]:8448", "1.2.3.4", "ed25519:1", "ed25519:" + "a" * 300, "ed25519:a b",
    "A" * 43, "A" * 44, "A" * 86, "A" * 88, "____" * 11, "=" * 44, "*?*?*?*?*?*a", "*a*a*a*a*a*b", "p1", "p-1",
    "s1", "s-1", "p" + "9" * 30, "public", "restricted", "knock_restricted", "private", "shared",
    "world_readable", "content.body", "content.a\\.b", "..", "\\", "<=2", ">9", [], {}, [[]], {"": ""}, [None],
    ["a", "a"], {"a": [{"b": {}}]}, ["$e", {"sha256": "x"}],
)  # fmt: skip
KEYS: Sequence[str] = (
    "type", "state_key", "sender", "room_id", "event_id", "content", "depth", "origin_server_ts", "prev_events",
    "auth_events", "hashes", "signatures", "unsigned", "redacts", "origin", "membership", "sha256", "creator",
    "room_version", "additional_creators", "m.federate", "predecessor", "users", "users_default", "events",
    "events_default", "state_default", "notifications", "ban", "kick", "invite", "redact", "room", "join_rule", "allow",
    "deny", "allow_ip_literals", "join_authorised_via_users_server", "third_party_invite", "signed", "mxid", "token",
    "public_key", "public_keys", "key_validity_url", "m.relates_to", "rel_type", "m.in_reply_to", "m.mentions",
    "user_ids", "history_visibility", "aliases", "kind", "key", "pattern", "value", "is", "conditions", "actions",
    "enabled", "set_tweak", "limit", "types", "not_types", "senders", "not_senders", "rooms", "not_rooms",
    "event_fields", "event_format", "timeline", "state", "presence", "account_data", "ephemeral", "contains_url",
    "verify_keys", "old_verify_keys", "valid_until_ts", "expired_ts", "server_name", "thread_id", "", "\x00", "\ud800",
    "__class__", "a" * 300,
)  # fmt: skip


def pick(chance: Chance, choices: Sequence[Any]) -> Any:
    """Return one of `choices`."""
    return choices[chance.randrange(len(choices))]


def atom(chance: Chance) -> Any:
    """Return a hostile value."""
    kind = chance.randrange(40)
    if kind == 0:
        return _nested(pick(chance, (50, 199, 201, 5_000)), pick(chance, ("list", "dict", "both")))
    if kind == 1:
        return {
            f"{pick(chance, ('@u{}:a', 'k{}', '{}')).format(i)}": _copy(pick(chance, ATOMS))
            for i in range(chance.randrange(900))
        }
    if kind == 2:
        return [_copy(pick(chance, ATOMS)) for _ in range(chance.randrange(900))]
    if kind < 6:
        return "".join(pick(chance, "*?ab.:@\\\x00é1") for _ in range(chance.randrange(40)))
    if kind == 6:
        return chance.randrange(2**32) - 2**31
    return _copy(pick(chance, ATOMS))


def mutate(chance: Chance, value: Any, changes: int | None = None) -> Any:
    """Return a copy of a JSON value in which a few places are changed."""
    value = _copy(value)
    for _ in range(1 + chance.randrange(4) if changes is None else changes):
        value = _change_once(chance, value)
    return value


def _copy(value: Any) -> Any:
    """Copy a value of small depth; what is deeper is shared."""

    def copy(value: Any, depth: int) -> Any:
        if depth > 12:
            return value
        if isinstance(value, dict):
            return {key: copy(inner, depth + 1) for key, inner in value.items()}
        return [copy(inner, depth + 1) for inner in value] if isinstance(value, list) else value

    return copy(value, 0)


def _change_once(chance: Chance, value: Any) -> Any:
    parent: Any = None
    place: Any = None
    current = value
    for _ in range(12):
        if not isinstance(current, (dict, list)) or not current or chance.randrange(5) == 0:
            break
        parent = current
        place = pick(chance, list(current)) if isinstance(current, dict) else chance.randrange(len(current))
        current = current[place]
    deed = chance.randrange(10)
    if isinstance(current, dict) and deed < 4:
        current[pick(chance, KEYS)] = atom(chance)
        return value
    if isinstance(current, list) and deed < 4:
        current.insert(
            chance.randrange(len(current) + 1), _copy(pick(chance, current)) if current and deed < 2 else atom(chance)
        )
        return value
    if parent is None:
        return atom(chance) if deed == 9 else value
    if deed == 4:
        del parent[place]
    elif deed == 5 and isinstance(current, str):
        cut = chance.randrange(len(current) + 1)
        parent[place] = (
            current[:cut] + pick(chance, ("", "\x00", "\ud800", " ", ":", "é", "A", ".")) + current[cut + 1 :]
        )
    elif deed == 6 and isinstance(parent, dict):
        parent[pick(chance, KEYS)] = parent.pop(place)
    elif deed == 7 and isinstance(current, int) and abs(current) < 2**64:
        parent[place] = current + pick(chance, (-1, 1, 0.5, 2**53, -(2**53)))
    else:
        parent[place] = atom(chance)
    return value


# -- the run ---------------------------------------------------------------------------------------------------------


class Watch:
    """Calls functions, lets the errors pass that may be, and measures."""

    def __init__(self, expected: tuple[type[BaseException], ...]) -> None:
        self._expected = expected
        self.slowest: dict[str, float] = {}
        self.calls = 0
        self.refused = 0

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what the function returns, or None if it refused; raise what is a fault."""
        self.calls += 1
        begin = time.process_time()
        try:
            return function(*arguments, **named)
        except self._expected:
            self.refused += 1
            return None
        finally:
            taken = time.process_time() - begin
            name = getattr(function, "__qualname__", repr(function))
            if taken > self.slowest.get(name, 0.0):
                self.slowest[name] = taken
            if taken > MAX_SECONDS:
                promise(False, f"{name} took {taken:.2f} s")


Target = Callable[[Chance, Watch], None]


def run_case(target: Target, name: str, seed: int, number: int, watch: Watch) -> str | None:
    """Run one case; return what went wrong, or None."""
    again = f"again: .venv/bin/python tools/fuzz.py --only {name} --case {number} --seed {seed}\n"
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        target(random.Random(f"{seed}:{name}:{number}"), watch)
    except Exception:
        return f"{traceback.format_exc()[-6_000:]}\n{again}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def run(targets: Mapping[str, Target], *, minutes: float, seed: int, go_on: bool, watch: Watch) -> int:
    """Run cases of all targets in turn; return the number of faults."""
    signal.signal(signal.SIGVTALRM, _end_hang)
    begin = told = time.monotonic()
    faults: dict[str, str] = {}
    number = 0
    while time.monotonic() - begin < minutes * MINUTE_S:
        faulthandler.dump_traceback_later(10 * HANG_S, exit=True)
        for name, target in targets.items():
            fault = run_case(target, name, seed, number, watch)
            if fault is None:
                continue
            lines = [line for line in fault.splitlines() if line.lstrip().startswith("File ")]
            if (place := lines[-1] if lines else fault) not in faults:
                faults[place] = fault
                print(fault, flush=True)
            if not go_on:
                return len(faults)
        number += 1
        if time.monotonic() - told > MINUTE_S:
            told = time.monotonic()
            print(_progress(number, watch, len(faults), told - begin), flush=True)
    print(_progress(number, watch, len(faults), time.monotonic() - begin))
    for name, taken in sorted(watch.slowest.items(), key=lambda item: -item[1])[:12]:
        print(f"  slowest: {name} {taken * 1_000:.1f} ms")
    return len(faults)


def _end_hang(signum: int, frame: object) -> None:
    # Reaches Python code only; a hang inside C is told by the time limit of `faulthandler`.
    raise BrokenPromise(f"a case took over {HANG_S:.0f} s")


def _progress(number: int, watch: Watch, faults: int, seconds: float) -> str:
    refused = 100 * watch.refused // max(1, watch.calls)
    return f"{seconds:.0f} s: {number} rounds, {watch.calls} calls, {refused}% refused, {faults} faults"


def run_atheris(targets: Mapping[str, Target], *, minutes: float, seed: int, watch: Watch) -> None:
    """Let libFuzzer make the choices; ends the process, with a status other than 0 at the first fault."""
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    names = sorted(targets)

    def one_input(source: bytes) -> None:
        chance = BytesChance(source)
        targets[pick(chance, names)](chance, watch)

    limits = [f"-max_total_time={int(minutes * MINUTE_S)}", f"-seed={seed}", "-max_len=2048", "-timeout=20"]
    atheris.Setup([sys.argv[0], *limits], one_input)
    atheris.Fuzz()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="the name of one target")
    parser.add_argument("--case", type=int, help="the number of one case")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first fault")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    chosen = parser.parse_args()
    if chosen.engine == "atheris":
        import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

        with atheris.instrument_imports(include=["homeserver.model"]):
            import fuzz_graphs
            import fuzz_targets
    else:
        import fuzz_graphs
        import fuzz_targets
    every = {**fuzz_targets.TARGETS, **fuzz_graphs.TARGETS}
    targets = every if chosen.only is None else {chosen.only: every[chosen.only]}
    watch = Watch((*fuzz_targets.EXPECTED, *fuzz_graphs.EXPECTED))
    if chosen.case is not None:
        faults = [run_case(target, name, chosen.seed, chosen.case, watch) for name, target in targets.items()]
        print(*filter(None, faults) or ["no fault"], sep="\n")
        return 1 if any(faults) else 0
    if chosen.engine == "atheris":
        run_atheris(targets, minutes=chosen.minutes, seed=chosen.seed, watch=watch)
    return 1 if run(targets, minutes=chosen.minutes, seed=chosen.seed, go_on=chosen.go_on, watch=watch) else 0


if __name__ == "__main__":
    # One module under one name, for the targets import it as well.
    sys.modules["fuzz"] = sys.modules["__main__"]
    sys.exit(main())
