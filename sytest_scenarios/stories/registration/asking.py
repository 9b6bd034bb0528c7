"""Asking for an account: the names that there are, the proof that is asked for, and what comes of it."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.signing_up import fresh_name, fresh_password, offers, sign_up, try_to_sign_up
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import feature, story, users

OPEN = feature("open registration")


@story(
    "A name is available until Dora takes it",
    shows="client-server API, 'Account registration': GET /register/available",
    needs=OPEN,
)
async def available(scene: Scene) -> None:
    name = fresh_name("dora")
    check_equal(True, (await scene.server.get("/register/available", username=name)).get("available"), "available")
    scene.step("Asking took nothing: the name is available still, and Dora takes it")
    check_equal(True, (await scene.server.get("/register/available", username=name)).get("available"), "available")
    await sign_up(scene.server, name)
    with refused(400, "M_USER_IN_USE", what="the name once more"):
        await scene.server.get("/register/available", username=name)
    with refused(400, "M_USER_IN_USE", what="Eve's account by Dora's name"):
        await sign_up(scene.server, name, who="Eve")


@story(
    "Dora may have any name of the grammar, and no other",
    shows="appendices, 'User Identifiers'; client-server API, 'Account registration': M_INVALID_USERNAME",
    needs=OPEN,
)
async def names(scene: Scene) -> None:
    good = f"{fresh_name('a.b_c=d')}/e+f"
    found = await sign_up(scene.server, good)
    check_equal(good, text(found, "user_id")[1:].partition(":")[0], "the name that Dora wished")
    tail = fresh_name("")
    for bad in (
        "dora dora",
        "dora@home",
        "dora:home",
        "döra",
        "do\nra",
        "<b>dora",
        "'; DROP TABLE users; --",
        "x" * 256,
    ):
        with refused(400, "M_INVALID_USERNAME", what=f"an account called {(bad + tail)[:40]!r}"):
            await sign_up(scene.server, bad + tail)
        # A name that is no ASCII may be no value of this parameter at all.
        with refused(
            400, *(["M_INVALID_USERNAME"] if bad.isascii() else []), what=f"whether {(bad + tail)[:40]!r} is available"
        ):
            await scene.server.get("/register/available", username=bad + tail)


@story(
    "Dora, who has no wish for a name, is given one",
    shows="client-server API, 'Account registration': POST /register, username",
    needs=OPEN,
)
async def given_a_name(scene: Scene) -> None:
    one, other = await sign_up(scene.server), await sign_up(scene.server)
    check(text(one, "user_id") != text(other, "user_id"), "two names", came=one["user_id"])
    headers = {"Authorization": f"Bearer {text(one, 'access_token')}"}
    found = (await scene.server.request("GET", "/account/whoami", headers=headers)).good()
    check_equal((one["user_id"], one["device_id"]), (found["user_id"], found["device_id"]), "who Dora is")


@story(
    "Dora is asked for a proof first, and her session is good for one account",
    shows="client-server API, 'User-Interactive Authentication API'",
    needs=OPEN,
)
async def proof(scene: Scene) -> None:
    body = {"username": fresh_name("dora"), "password": fresh_password()}
    asked = await scene.server.request("POST", "/register", body, who="Dora")
    check_equal(401, asked.status, "the status of the answer that asks for a proof")
    check(offers(asked.json, "m.login.dummy"), "a flow of the dummy stage", came=asked.json)
    session = text(asked.json, "session")
    wrong = await scene.server.request("POST", "/register", {**body, "auth": {"session": session}}, who="Dora")
    check_equal(401, wrong.status, "the status while no stage is done")
    done = {"type": "m.login.dummy", "session": session}
    (await scene.server.request("POST", "/register", {**body, "auth": done}, who="Dora")).good()
    scene.step("Eve heard the session, and wants an account for nothing")
    evil = {"username": fresh_name("eve"), "password": fresh_password(), "auth": {"session": session}}
    again = await scene.server.request("POST", "/register", evil, who="Eve")
    if again.status == 200:
        # What the session was for may be answered once more; another account it may not give.
        check_equal(body["username"], text(again.json, "user_id")[1:].partition(":")[0], "whose account is answered")
    found = await scene.server.get("/register/available", username=evil["username"])
    check_equal(True, found.get("available"), "that Eve's name is still available")


@story(
    "Dora wants an account and no session: she gets no token, and can log in later",
    shows="client-server API, 'Account registration': POST /register, inhibit_login",
    needs=OPEN + feature("password login"),
)
async def no_login(scene: Scene) -> None:
    name, password = fresh_name("dora"), fresh_password()
    found = await sign_up(scene.server, name, password=password, inhibit_login=True)
    check_equal(set(), {"access_token", "device_id", "refresh_token"} & set(found), "what would be of a session")
    user = {"type": "m.id.user", "user": text(found, "user_id")}
    body = {"type": "m.login.password", "identifier": user, "password": password}
    first = (await scene.server.request("POST", "/login", body, who="Dora")).good()
    check_equal(found["user_id"], first.get("user_id"), "whose session it is")


@story(
    "Dora says what her first device is and is called",
    shows="client-server API, 'Account registration': POST /register, device_id, initial_device_display_name",
    needs=OPEN,
)
async def first_device(scene: Scene) -> None:
    found = await sign_up(scene.server, device_id="DORASPHONE", initial_device_display_name="Dora's phone")
    check_equal("DORASPHONE", found.get("device_id"), "the device")
    headers = {"Authorization": f"Bearer {text(found, 'access_token')}"}
    devices = (await scene.server.request("GET", "/devices", headers=headers, who="Dora")).good()["devices"]
    check_equal(
        [("DORASPHONE", "Dora's phone")], [(each["device_id"], each.get("display_name")) for each in devices], "devices"
    )


@story(
    "An account without a password, or of a kind that there is not, is refused",
    shows="client-server API, 'Account registration': POST /register, 400",
    needs=OPEN + users(1),
)
async def nonsense(scene: Scene) -> None:
    name = fresh_name("dora")
    for body in ({"username": name, "password": 7}, {"username": ["a"], "password": fresh_password()}):
        answer = await try_to_sign_up(scene.server, body)
        check_equal(400, answer.status, f"the answer to {body}")
    with refused(400, what="a kind of account that there is not"):
        (await scene.server.request("POST", "/register", {}, query={"kind": "royal"}, who="Dora")).good()
    found = await scene.server.get("/register/available", username=name)
    check_equal(True, found.get("available"), "that the name is available still")
