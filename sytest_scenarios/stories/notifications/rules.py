"""Push rules: what makes a message count, what makes it a highlight, and what makes it neither."""

from typing import Any

from sytest_scenarios.actors import User
from sytest_scenarios.asking import JsonObject
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import path_of
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

HIGHLIGHT = ["notify", {"set_tweak": "highlight"}]
DEFAULTS = {
    "override": {
        ".m.rule.master",
        ".m.rule.suppress_notices",
        ".m.rule.invite_for_me",
        ".m.rule.member_event",
        ".m.rule.is_user_mention",
        ".m.rule.is_room_mention",
        ".m.rule.tombstone",
        ".m.rule.reaction",
        ".m.rule.room.server_acl",
        ".m.rule.suppress_edits",
    },
    "underride": {
        ".m.rule.call",
        ".m.rule.encrypted_room_one_to_one",
        ".m.rule.room_one_to_one",
        ".m.rule.message",
        ".m.rule.encrypted",
    },
}


def path(kind: str, rule_id: str, *more: str) -> str:
    """Return the path of a push rule."""
    return path_of("pushrules", "global", kind, rule_id, *more)


async def set_rule(user: User, kind: str, rule_id: str, actions: list[Any], **more: Any) -> None:
    """Make a push rule, or change it."""
    await user.put(path(kind, rule_id), {"actions": actions, **more})


async def rules(user: User) -> dict[str, list[JsonObject]]:
    """Return somebody's push rules, by kind."""
    return dict((await user.get("/pushrules/"))["global"])


@story(
    "Who is new has the rules of the specification, and is left in peace by none of them",
    shows="client-server API, 'Predefined Rules'",
    needs=users(1),
)
async def defaults(scene: Scene) -> None:
    (alice,) = scene.users
    found = await rules(alice)
    for kind, wanted in DEFAULTS.items():
        ids = {each["rule_id"] for each in found[kind]}
        check(wanted <= ids, f"the {kind} rules {sorted(wanted - ids)}", came=sorted(ids))
        check(all(each["default"] for each in found[kind]), "all of them to be default ones", came=found[kind])
    master = found["override"][0]
    check_equal((".m.rule.master", False), (master["rule_id"], master["enabled"]), "the first rule, switched off")
    check_equal(master, await alice.get(path("override", ".m.rule.master")), "the same rule by its path")
    view = await alice.catch_up()
    told = view.account_data["m.push_rules"]["global"]["override"][0]["rule_id"]
    check_equal(".m.rule.master", told, "the first rule, as a new device is told it")


@story(
    "Bob is alarmed by a word of his, in any case, but not inside of other words, until he drops it",
    shows="client-server API, 'Push Rules': content-specific rules",
    needs=users(3),
)
async def keyword(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    await bob.catch_up()
    await set_rule(bob, "content", "org.example.cake", HIGHLIGHT, pattern="cake")
    await alice.say(room, "A pancake is no such thing")
    await alice.say(room, "But: CAKE!")
    last = await alice.say(room, "More cake?")
    await bob.sees(room, last)
    seen = bob.view.room(room)
    check_equal((3, 2), (seen.unread, seen.highlights), "Bob's unread messages and highlights")
    await carol.sees(room, last)
    seen = carol.view.room(room)
    check_equal((3, 0), (seen.unread, seen.highlights), "Carol's unread messages and highlights")
    await bob.delete(path("content", "org.example.cake"))
    with refused(404, "M_NOT_FOUND", what="a look at the rule that was dropped"):
        await bob.get(path("content", "org.example.cake"))
    await bob.read(room, last)
    last = await alice.say(room, "cake again")
    await bob.sees(room, last)
    seen = bob.view.room(room)
    check_equal((1, 0), (seen.unread, seen.highlights), "Bob's unread messages and highlights without the word")


@story(
    "@room is for those who may: from Alice it is a highlight, from Carol it is not",
    shows="client-server API, 'Push Rules': .m.rule.is_room_mention; sender_notification_permission",
    needs=users(3),
)
async def room_mention(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    await bob.catch_up()
    mention = {"m.mentions": {"room": True}}
    said = await carol.say(room, "@room look at me", **mention)
    await bob.sees(room, said)
    seen = bob.view.room(room)
    check_equal((1, 0), (seen.unread, seen.highlights), "unread messages and highlights after Carol's @room")
    said = await alice.say(room, "@room dinner is ready", **mention)
    await bob.sees(room, said)
    seen = bob.view.room(room)
    check_equal((2, 1), (seen.unread, seen.highlights), "unread messages and highlights after Alice's @room")


@story(
    "Nobody is alarmed by a mention of somebody else, nor by their own words",
    shows="client-server API, 'Push Rules': .m.rule.is_user_mention",
    needs=users(3),
)
async def mention_of_another(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    everybody = {"m.mentions": {"user_ids": [bob.user_id, alice.user_id]}}
    said = await alice.say(room, "Bob, and I myself", **everybody)
    for user, expected in ((bob, (1, 1)), (carol, (1, 0)), (alice, (0, 0))):
        await user.sees(room, said)
        seen = user.view.room(room)
        check_equal(expected, (seen.unread, seen.highlights), f"unread messages and highlights of {user}")


@story(
    "Bob mutes a room: it counts nothing, the other one does, and a word of his still gets through",
    shows="client-server API, 'Push Rules': room-specific rules come after content-specific ones",
    needs=users(2),
)
async def muted_room(scene: Scene) -> None:
    alice, bob = scene.users
    loud = await alice.create_open_room_with(bob)
    quiet = await alice.create_open_room_with(bob)
    await bob.catch_up()
    await set_rule(bob, "room", loud.id, [])
    await alice.say(loud, "bla bla")
    said = await alice.say(quiet, "hm")
    await bob.sees(quiet, said)
    check_equal((0, 1), (bob.view.room(loud).unread, bob.view.room(quiet).unread), "unread in the muted and the other")
    await set_rule(bob, "content", "org.example.fire", HIGHLIGHT, pattern="fire")
    said = await alice.say(loud, "bla fire bla")
    await bob.sees(loud, said)
    seen = bob.view.room(loud)
    check_equal((1, 1), (seen.unread, seen.highlights), "unread messages and highlights of the muted room")


@story(
    "Bob mutes a person: what Eve says counts nothing, what Alice says does",
    shows="client-server API, 'Push Rules': sender-specific rules",
    needs=users("Alice", "Bob", "Eve"),
    unlike={"synapse": "counts them; the spec, 'Push Rules', has rules for messages from a specific Matrix user ID"},
)
async def muted_sender(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_open_room_with(bob, eve)
    await bob.catch_up()
    await set_rule(bob, "sender", eve.user_id, [])
    await eve.say(room, "buy my stuff")
    said = await alice.say(room, "Hello")
    await bob.sees(room, said)
    check_equal(["buy my stuff", "Hello"], bob.view.room(room).texts, "what Bob is told all the same")
    check_equal(1, bob.view.room(room).unread, "the unread messages")


@story(
    "Bob switches everything off by the master rule, and on again",
    shows="client-server API, 'Push Rules': .m.rule.master; PUT /pushrules/global/{kind}/{ruleId}/enabled",
    needs=users(2) + feature("password login"),
)
async def master(scene: Scene) -> None:
    alice, bob = scene.users
    phone = await bob.log_in("Bob's phone")
    room = await alice.create_open_room_with(bob)
    await bob.catch_up()
    await phone.catch_up()
    enabled = path("override", ".m.rule.master", "enabled")
    await bob.put(enabled, {"enabled": True})
    check_equal({"enabled": True}, await bob.get(enabled), "the master rule")
    await phone.until(
        "the rule on the phone",
        lambda view: view.account_data["m.push_rules"]["global"]["override"][0]["enabled"] is True,
    )
    mention = {"m.mentions": {"user_ids": [bob.user_id]}}
    said = await alice.say(room, "Bob!", **mention)
    await bob.sees(room, said)
    seen = bob.view.room(room)
    check_equal((0, 0), (seen.unread, seen.highlights), "unread messages and highlights with everything off")
    await bob.read(room, said)
    await bob.put(enabled, {"enabled": False})
    said = await alice.say(room, "Bob?", **mention)
    await bob.sees(room, said)
    seen = bob.view.room(room)
    check_equal((1, 1), (seen.unread, seen.highlights), "unread messages and highlights with everything on")


@story(
    "Bob has messages of two make no noise; in larger rooms he hears them",
    shows="client-server API, PUT /pushrules/global/{kind}/{ruleId}/actions; 'Conditions': room_member_count",
    needs=users(3),
)
async def actions(scene: Scene) -> None:
    alice, bob, carol = scene.users
    two = await alice.create_open_room_with(bob)
    three = await alice.create_open_room_with(bob, carol)
    await bob.catch_up()
    changed = path("underride", ".m.rule.room_one_to_one", "actions")
    await bob.put(changed, {"actions": []})
    check_equal({"actions": []}, await bob.get(changed), "the actions of the rule")
    await alice.say(two, "psst")
    said = await alice.say(three, "Hello, all")
    await bob.sees(three, said)
    check_equal((0, 1), (bob.view.room(two).unread, bob.view.room(three).unread), "unread among two and among three")


@story(
    "Bob's rules are asked in the order that he gives them",
    shows="client-server API, PUT /pushrules/global/{kind}/{ruleId}: before, after",
    needs=users(2),
)
async def order(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    await bob.catch_up()
    body = {"kind": "event_match", "key": "content.body", "pattern": "tea"}
    await set_rule(bob, "override", "org.example.loud", HIGHLIGHT, conditions=[body])
    quiet = {"actions": [], "conditions": [body]}
    await bob.put(path("override", "org.example.quiet"), quiet, before="org.example.loud")
    said = await alice.say(room, "tea?")
    await bob.sees(room, said)
    check_equal(0, bob.view.room(room).unread, "what is unread with the quiet rule first")
    await bob.put(path("override", "org.example.quiet"), quiet, after="org.example.loud")
    own = [each["rule_id"] for each in (await rules(bob))["override"] if not each["default"]]
    check_equal(["org.example.loud", "org.example.quiet"], own, "the order of Bob's rules")
    said = await alice.say(room, "more tea?")
    await bob.sees(room, said)
    check(
        bob.view.room(room).highlights > 0, "a highlight with the loud rule first", came=bob.view.room(room).highlights
    )
    with refused(400, 404, what="a rule before one that is not there"):
        await bob.put(path("override", "org.example.third"), quiet, before="org.example.nothing")


@story(
    "A rule that is none is refused, and the default ones stay",
    shows="client-server API, PUT /pushrules/global/{kind}/{ruleId}: the request MUST be rejected",
    needs=users("Bob"),
)
async def bad_rules(scene: Scene) -> None:
    (bob,) = scene.users
    before = await rules(bob)
    for kind, rule_id, body in (
        ("content", ".org.example.dot", {"actions": ["notify"], "pattern": "x"}),
        ("content", "org/example", {"actions": ["notify"], "pattern": "x"}),
        ("content", "org\\example", {"actions": ["notify"], "pattern": "x"}),
        ("content", "org.example.nopattern", {"actions": ["notify"]}),
        ("override", "org.example.noactions", {"conditions": []}),
        ("override", "org.example.list", {"actions": "notify", "conditions": []}),
        ("nonsense", "org.example.kind", {"actions": ["notify"]}),
    ):
        with refused(400, 404, what=f"the {kind} rule {rule_id}"):
            await bob.put(path(kind, rule_id), body)
    with refused(400, 404, what="the removal of a default rule"):
        await bob.delete(path("underride", ".m.rule.message"))
    with refused(404, "M_NOT_FOUND", what="a change of a rule that is not there"):
        await bob.put(path("content", "org.example.nothing", "enabled"), {"enabled": True})
    check_equal(before, await rules(bob), "the rules")
