"""Servers that do not let in everybody: closed ones, tokens, terms, passwords that are strong enough."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.props.signing_up import fresh_name, fresh_password, offers
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, setting, story, users

TOKEN = "m.login.registration_token"
VALIDITY = f"/_matrix/client/v1/register/{TOKEN}/validity"
TOKENS = "/_synapse/admin/v1/registration_tokens"


@story(
    "A closed server lets Eve make no account, neither of her own nor as a guest, and Alice is in",
    shows="client-server API, 'Account registration': POST /register, 403",
    needs=users(1) + setting("strict accounts") + ADMIN_SECRET,
)
async def closed(scene: Scene) -> None:
    (alice,) = scene.users
    name = fresh_name("eve")
    body = {"username": name, "password": fresh_password(), "auth": {"type": "m.login.dummy"}}
    with refused(403, what="an account on a closed server"):
        (await scene.server.request("POST", "/register", body, who="Eve")).good()
    with refused(403, what="a guest's account on a closed server"):
        (await scene.server.request("POST", "/register", {}, query={"kind": "guest"}, who="Eve")).good()
    with refused(403, "M_FORBIDDEN", what="whether a name is available"):
        await scene.server.get("/register/available", username=name)
    await alice.get("/account/whoami")


@story(
    "A weak password is refused, and the old one stays",
    shows="client-server API, 'Password management': M_WEAK_PASSWORD",
    needs=users(1) + setting("strict accounts") + ADMIN_SECRET,
    unlike={
        "synapse": "answers M_PASSWORD_TOO_SHORT and the like; the spec, 'Password management', says M_WEAK_PASSWORD"
    },
)
async def weak_password(scene: Scene) -> None:
    (alice,) = scene.users
    for weak in ("short-1", "long enough without any figure"):
        with refused(400, "M_WEAK_PASSWORD", what=f"the password {weak!r}"):
            await alice.confirm("POST", "/account/password", {"new_password": weak})
    await alice.log_in("Alice, with her old password")
    await alice.confirm("POST", "/account/password", {"new_password": "long enough, with a 7"})
    alice.password = "long enough, with a 7"
    await alice.log_in("Alice, with her new password")


@story(
    "Where accounts need a token, Eve gets none with a made-up one, nor by leaving it out",
    shows="client-server API, 'Token-authenticated registration'",
    needs=setting("registration tokens"),
)
async def no_token(scene: Scene) -> None:
    body = {"username": fresh_name("eve"), "password": fresh_password()}
    asked = await scene.server.request("POST", "/register", body, who="Eve")
    check_equal(401, asked.status, "the status of the answer that asks for a token")
    check(offers(asked.json, TOKEN) or offers(asked.json, TOKEN, "m.login.dummy"), "a flow of it", came=asked.json)
    check(not offers(asked.json, "m.login.dummy"), "no flow without it", came=asked.json)
    check_equal(False, (await scene.server.get(VALIDITY, token="made-up")).get("valid"), "whether it is valid")
    session = text(asked.json, "session")
    for proof in ({"type": TOKEN, "token": "made-up"}, {"type": "m.login.dummy"}, {"type": TOKEN}, {}):
        auth = {**proof, "session": session}
        answer = await scene.server.request("POST", "/register", {**body, "auth": auth}, who="Eve")
        check(answer.status in (400, 401), f"{proof} to be refused", came=answer.status)
        check("user_id" not in answer.json, "no account", came=answer.json)
    found = await scene.server.get("/register/available", username=body["username"])
    check_equal(True, found.get("available"), "that the name is free still")


@story(
    "Ada gives Dora a token for one account, which Eve, who has it from her, cannot use again",
    shows="client-server API, 'Token-authenticated registration': 'a token limited to 100 uses'",
    needs=setting("registration tokens") + ADMIN_SECRET + feature("admin API"),
    expected_to_fail="Admin API",
)
async def token_for_one(scene: Scene) -> None:
    ada = await scene.new_user("Ada", admin=True)
    token = text(await ada.post(f"{TOKENS}/new", {"uses_allowed": 1}), "token")
    check_equal(True, (await scene.server.get(VALIDITY, token=token)).get("valid"), "whether Dora's token is valid")
    for who, expected in (("Dora", 200), ("Eve", 401)):
        body = {"username": fresh_name(who.lower()), "password": fresh_password()}
        asked = await scene.server.request("POST", "/register", body, who=who)
        auth = {"type": TOKEN, "token": token, "session": text(asked.json, "session")}
        answer = await scene.server.request("POST", "/register", {**body, "auth": auth}, who=who)
        if answer.status == 401 and answer.errcode is None:
            auth = {"type": "m.login.dummy", "session": auth["session"]}
            answer = await scene.server.request("POST", "/register", {**body, "auth": auth}, who=who)
        check_equal(expected, answer.status, f"the answer to {who}")
    check_equal(False, (await scene.server.get(VALIDITY, token=token)).get("valid"), "whether it is valid after that")


@story(
    "Dora has to agree to the terms before she has an account",
    shows="client-server API, 'Terms of service at registration'",
    needs=setting("terms"),
    expected_to_fail="Consent and terms",
)
async def terms(scene: Scene) -> None:
    body = {"username": fresh_name("dora"), "password": fresh_password()}
    asked = await scene.server.request("POST", "/register", body, who="Dora")
    check_equal(401, asked.status, "the status of the answer that asks to agree")
    check(offers(asked.json, "m.login.terms"), "a flow of the terms", came=asked.json)
    policies = asked.json["params"]["m.login.terms"]["policies"]
    for policy in policies.values():
        check(text(policy, "version") and text(policy["en"], "url"), "a version and a page to read", came=policy)
    session = text(asked.json, "session")
    without = {**body, "auth": {"type": "m.login.dummy", "session": session}}
    with refused(401, what="an account without agreeing"):
        (await scene.server.request("POST", "/register", without, who="Dora")).good()
    agreed = {**body, "auth": {"type": "m.login.terms", "session": session}}
    (await scene.server.request("POST", "/register", agreed, who="Dora")).good()
