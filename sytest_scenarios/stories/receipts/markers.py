"""How far somebody has read, by themselves and by others: markers, receipts that stay, receipts that are none."""

from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users


@story(
    "Bob's phone knows how far he has read at his desk, to the end or not; Alice learns of the receipt only",
    shows="client-server API, 'Fully read markers': POST /rooms/{roomId}/read_markers",
    needs=users(2) + feature("password login"),
)
async def fully_read(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    phone = await bob.log_in("Bob's phone")
    first = await alice.say(room, "one")
    second = await alice.say(room, "two")
    await phone.until("two unread messages", lambda view: view.room(room).unread == 2)
    await bob.post(room.path("read_markers"), {"m.fully_read": first, "m.read": second})
    await phone.until("no unread message", lambda view: view.room(room).unread == 0)
    marker = phone.view.room(room).account_data.get("m.fully_read")
    check_equal({"event_id": first}, marker, "the marker on Bob's phone")
    await alice.until("Bob's receipt", lambda view: view.room(room).receipts["m.read", bob.user_id] == second)
    check("m.fully_read" not in alice.view.room(room).account_data, "no marker of Bob's", came="m.fully_read")
    kinds = {kind for kind, _ in alice.view.room(room).receipts}
    check_equal({"m.read"}, kinds, "the kinds of receipts that Alice is told")


@story(
    "Bob moves his marker by way of a receipt, and nobody is told but himself",
    shows="client-server API, 'Receipts': POST receipt/m.fully_read",
    needs=users(2),
)
async def marker_by_receipt(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    said = await alice.say(room, "one")
    await bob.until("one unread message", lambda view: view.room(room).unread == 1)
    await bob.read(room, said, kind="m.fully_read")
    await bob.until("the marker", lambda view: view.room(room).account_data["m.fully_read"] == {"event_id": said})
    check_equal({"event_id": said}, await bob.account_data("m.fully_read", room=room), "the marker that is fetched")
    check_equal(1, bob.view.room(room).unread, "the unread messages, of which the marker says nothing")
    last = await alice.say(room, "two")
    await alice.sees(room, last)
    check_equal({}, alice.view.room(room).receipts, "the receipts that Alice is told")


@story(
    "What Bob has read stays read, though he reads something older afterwards",
    shows="client-server API, 'Receipts': up to markers",
    needs=users(3),
)
async def not_backwards(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    first = await alice.say(room, "one")
    await alice.say(room, "two")
    third = await alice.say(room, "three")
    await bob.until("three unread messages", lambda view: view.room(room).unread == 3)
    await bob.read(room, third)
    await bob.read(room, first)
    await carol.read(room, third)
    await alice.until("Carol's receipt", lambda view: view.room(room).receipts["m.read", carol.user_id] == third)
    check_equal(third, alice.view.room(room).receipts.get(("m.read", bob.user_id)), "how far Bob has read, to Alice")
    said = await alice.say(room, "four")
    await bob.sees(room, said)
    check_equal(1, bob.view.room(room).unread, "the unread messages: the last alone")


@story(
    "Bob, who is ahead in private, is not set back by what he shows to others",
    shows="client-server API, 'Private read receipts': the one more ahead counts",
    needs=users(2),
)
async def private_ahead(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    first = await alice.say(room, "one")
    second = await alice.say(room, "two")
    await bob.read(room, second, kind="m.read.private")
    await bob.read(room, first)
    await alice.until(
        "Bob's public receipt for the first message",
        lambda view: view.room(room).receipts["m.read", bob.user_id] == first,
    )
    told = alice.view.room(room).receipts
    check(("m.read.private", bob.user_id) not in told, "nothing private to be told to Alice", came=list(map(str, told)))
    third = await alice.say(room, "three")
    await bob.sees(room, third)
    check_equal(1, bob.view.room(room).unread, "the unread messages: the last alone")


@story(
    "Eve cannot read in a room that she is not in, nor Bob what is not there, and nobody is told of it",
    shows="client-server API, 'Receipts': POST /rooms/{roomId}/receipt/{receiptType}/{eventId}",
    needs=users("Alice", "Bob", "Eve"),
)
async def no_forged_receipts(scene: Scene) -> None:
    alice, bob, eve = scene.users
    room = await alice.create_room_with(bob, preset="private_chat")
    said = await alice.say(room, "Read this")
    with refused(403, 404, what="Eve's receipt"):
        await eve.read(room, said)
    with refused(403, 404, what="Eve's marker"):
        await eve.post(room.path("read_markers"), {"m.read": said, "m.fully_read": said})
    with refused(400, what="a receipt of a kind that is none"):
        await bob.read(room, said, kind="org.example.skimmed")
    with refused(400, what="a receipt in a thread that is a number"):
        await bob.read(room, said, thread_id=5)
    with refused(400, what="a receipt in a thread without a name"):
        await bob.read(room, said, thread_id="")
    await bob.read(room, said)
    await alice.until("Bob's receipt", lambda view: view.room(room).receipts)
    check_equal({("m.read", bob.user_id): said}, alice.view.room(room).receipts, "all receipts that Alice is told")


@story(
    "Bob cannot read a message of one room in another",
    shows="client-server API, 'Fully read markers': the event MUST belong to the room",
    needs=users(2),
)
async def of_another_room(scene: Scene) -> None:
    alice, bob = scene.users
    here = await alice.create_open_room_with(bob)
    there = await alice.create_open_room_with(bob)
    said = await alice.say(there, "said there")
    with refused(400, 404, what="a marker in one room at an event of another"):
        await bob.post(here.path("read_markers"), {"m.fully_read": said})
    with refused(404, "M_NOT_FOUND", what="a look at the marker that was not set"):
        await bob.account_data("m.fully_read", room=here)


@story(
    "Bob marks a room as unread for himself, until he opens it on another device",
    shows="client-server API, 'Unread markers': m.marked_unread",
    needs=users(2) + feature("password login"),
)
async def marked_unread(scene: Scene) -> None:
    alice, bob = scene.users
    room = await alice.create_open_room_with(bob)
    phone = await bob.log_in("Bob's phone")
    said = await alice.say(room, "Answer when you can")
    await bob.read(room, said)
    await bob.set_account_data("m.marked_unread", {"unread": True}, room=room)
    await phone.until("the mark", lambda view: view.room(room).account_data["m.marked_unread"] == {"unread": True})
    check_equal(0, phone.view.room(room).unread, "the unread messages: the mark is no message")
    await phone.set_account_data("m.marked_unread", {"unread": False}, room=room)
    await bob.until("no mark", lambda view: view.room(room).account_data["m.marked_unread"] == {"unread": False})
    last = await bob.say(room, "Now I can")
    await alice.sees(room, last)
    check("m.marked_unread" not in alice.view.room(room).account_data, "no mark of Bob's to be told", came="the mark")


@story(
    "A new device of Bob's is told who has read how far, and how far he has read in private",
    shows="client-server API, 'Receipts'; 'Private read receipts'",
    needs=users(3) + feature("password login"),
)
async def new_device(scene: Scene) -> None:
    alice, bob, carol = scene.users
    room = await alice.create_open_room_with(bob, carol)
    first = await alice.say(room, "one")
    second = await alice.say(room, "two")
    await carol.read(room, first)
    await bob.read(room, second, kind="m.read.private")
    phone = await bob.log_in("Bob's phone")
    seen = (await phone.catch_up()).room(room)
    check_equal(first, seen.receipts.get(("m.read", carol.user_id)), "how far Carol has read")
    check_equal(second, seen.receipts.get(("m.read.private", bob.user_id)), "how far Bob has read in private")
    check_equal(0, seen.unread, "the unread messages")
    told = (await carol.catch_up()).room(room).receipts
    check(("m.read.private", bob.user_id) not in told, "nothing private to be told to Carol", came=list(map(str, told)))
