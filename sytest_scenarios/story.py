"""What a story is: its title, the clause that it shows, and what it needs of the world.

    @story("Alice's message reaches Bob", shows="client-server API, 'Syncing'", needs=users(2))
    async def message_reaches(scene: Scene) -> None:
        alice, bob = scene.users
        ...

Needs are added: `users(2) + STREAM`, `servers(2) + users(3)`, `users(1) + feature("jwt")`. A server that lacks what is
needed does not tell the story: it is skipped, and the report says why. Features are probed, see `features`; settings
are what the start file of a server can set otherwise, see `launching`.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .scene import Scene

TIME_LIMIT_S: Final = 30.0
STORIES_PACKAGE: Final = "sytest_scenarios.stories"

Tell = Callable[["Scene"], Awaitable[None]]


class WrongChoice(Exception):
    """There are no such stories as are wanted; the text says which."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What must be there before a story can be told."""

    users: int = 0
    """Users made before it begins; with several servers they live on them in turns."""
    names: tuple[str, ...] = ()
    """What they are called, where not Alice, Bob, Carol, …"""
    servers: int = 1
    """Servers; two or more of them talk to each other (federation)."""
    own_servers: bool = False
    """Nobody else's: the story stops, kills or floods them. Only for servers that the suite starts."""
    admin_secret: bool = False
    """The shared secret by which accounts are made."""
    database: str | None = None
    """`sqlite` or `mariadb`."""
    features: frozenset[str] = frozenset()
    """Names in `features.FEATURES`."""
    setting: str | None = None
    """A name in the `[settings]` of a start file: the server is configured so. Stories of one setting share servers."""

    def __add__(self, other: Needs) -> Needs:
        """Return what satisfies both; ValueError if nothing can."""
        for mine, others in ((self.setting, other.setting), (self.database, other.database)):
            if mine and others and mine != others:
                raise ValueError(f"a server is either {mine!r} or {others!r}")
        return Needs(
            users=max(self.users, other.users),
            names=self.names or other.names,
            servers=max(self.servers, other.servers),
            own_servers=self.own_servers or other.own_servers,
            admin_secret=self.admin_secret or other.admin_secret,
            database=self.database or other.database,
            features=self.features | other.features,
            setting=self.setting or other.setting,
        )


def users(count: int | str, *others: str) -> Needs:
    """Need so many users, or those of these names.

    `users(2)` are Alice and Bob, then come Carol, Dan, Eve, Frank, Grace, Heidi, and then numbers;
    `users("Alice", "Eve")` are these.
    """
    if isinstance(count, int):
        return Needs(users=count)
    return Needs(users=1 + len(others), names=(count, *others))


def servers(count: int) -> Needs:
    """Need so many servers in federation with each other."""
    return Needs(servers=count)


def feature(*names: str) -> Needs:
    """Need features that not every homeserver has."""
    return Needs(features=frozenset(names))


def setting(name: str) -> Needs:
    """Need a server that is set as `[settings."name"]` of its start file says."""
    return Needs(setting=name)


def database(kind: str) -> Needs:
    """Need a server that keeps its things in this kind of database."""
    return Needs(database=kind)


FEDERATION: Final = Needs(servers=2)
OWN_SERVER: Final = Needs(own_servers=True)
ADMIN_SECRET: Final = Needs(admin_secret=True)
STREAM: Final = Needs(features=frozenset({"stream"}))


@dataclass(frozen=True, slots=True)
class Story:
    """One story as it is written."""

    title: str
    tell: Tell
    area: str
    """The folder that it is in."""
    name: str
    """`area/module.function`, by which it is selected."""
    shows: str
    """The clause of the specification, or the promise, that it shows."""
    needs: Needs = Needs()
    tags: frozenset[str] = frozenset()
    time_limit_s: float = TIME_LIMIT_S
    expected_to_fail: str | None = None
    """The name of the feature that Sennit has not yet; other servers are judged by the story as by any other."""
    unlike: Mapping[str, str] = field(default_factory=dict)
    """Implementations that are known to differ (by lower-case name), and why, with the spec's word."""


def story(
    title: str,
    *,
    shows: str,
    needs: Needs = Needs(),  # frozen
    tags: Iterable[str] = (),
    time_limit_s: float = TIME_LIMIT_S,
    expected_to_fail: str | None = None,
    unlike: Mapping[str, str] | None = None,
) -> Callable[[Tell], Tell]:
    """Make a story of an `async def` that takes a `Scene`."""

    def mark(tell: Tell) -> Tell:
        area, _, module = tell.__module__.removeprefix(f"{STORIES_PACKAGE}.").rpartition(".")
        _written.append(
            Story(
                title=title,
                tell=tell,
                area=area or module,
                name=f"{area}/{module}.{tell.__name__}" if area else f"{module}.{tell.__name__}",
                shows=shows,
                needs=needs,
                tags=frozenset(tags),
                time_limit_s=time_limit_s,
                expected_to_fail=expected_to_fail,
                unlike=dict(unlike or {}),
            )
        )
        return tell

    return mark


def all_stories(*folders: str) -> list[Story]:
    """Load every module under `stories/`, and under further folders of that form, and return their stories, by name.

    WrongChoice if one is no folder, or an area in it is called as one of the suite's own.
    """
    package = importlib.import_module(STORIES_PACKAGE)
    ours = {each.name for each in pkgutil.iter_modules(package.__path__[:1])}
    for folder in folders:
        if not os.path.isdir(folder):
            raise WrongChoice(f"{folder} is no folder of stories")
        taken = ours & {each.name for each in pkgutil.iter_modules([folder])}
        if taken:
            raise WrongChoice(
                f"{folder}: the suite itself has the area {', '.join(sorted(taken))}; choose another name"
            )
    package.__path__.extend(each for each in folders if each not in package.__path__)
    for module in pkgutil.walk_packages(package.__path__, f"{STORIES_PACKAGE}."):
        importlib.import_module(module.name)
    return sorted(
        (each for each in _written if each.tell.__module__.startswith(STORIES_PACKAGE)), key=lambda each: each.name
    )


def stories_of(module: str) -> list[Story]:
    """Return the stories of one loaded module, in its order."""
    return [each for each in _written if each.tell.__module__ == module]


def select(
    stories: Iterable[Story], *, words: str = "", areas: Iterable[str] = (), tags: Iterable[str] = ()
) -> list[Story]:
    """Return those whose name or title contains all `words`, in one of `areas`, with one of `tags` (none: any)."""
    wanted, places, marks = words.casefold().split(), set(areas), set(tags)
    return [
        each
        for each in stories
        if all(word in f"{each.name} {each.title}".casefold() for word in wanted)
        and (not places or each.area in places)
        and (not marks or marks & each.tags)
    ]


_written: list[Story] = []
