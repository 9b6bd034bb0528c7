"""The operator makes accounts with the secret of the server, as the tools made for Synapse do."""

from sytest_scenarios.asking import text
from sytest_scenarios.expect import check_equal, refused
from sytest_scenarios.props.signing_up import BY_SECRET, fresh_name, fresh_password, sign_up_by_secret
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, story

PROMISE = "docs/scenarios.md: accounts by the shared secret, as Synapse's tools make them"


@story("Who knows the secret makes an account, and no second one by the same nonce", shows=PROMISE, needs=ADMIN_SECRET)
async def once(scene: Scene) -> None:
    secret = scene.server.host.admin_secret or ""
    nonce = text(await scene.server.get(BY_SECRET), "nonce")
    body = {"nonce": nonce, "username": fresh_name("dora"), "password": fresh_password(), "admin": False}
    found = (await sign_up_by_secret(scene.server, body, secret=secret)).good()
    check_equal(body["username"], text(found, "user_id")[1:].partition(":")[0], "the name")
    with refused(400, what="the same nonce once more"):
        (await sign_up_by_secret(scene.server, {**body, "username": fresh_name("eve")}, secret=secret)).good()


@story(
    "Eve, who does not know the secret, makes no account with it, and Dora's code makes no administrator",
    shows=PROMISE,
    needs=ADMIN_SECRET,
)
async def wrong_code(scene: Scene) -> None:
    secret = scene.server.host.admin_secret or ""
    name = fresh_name("dora")
    for wrong, is_admin in (("not the secret", False), (secret, True)):
        nonce = text(await scene.server.get(BY_SECRET), "nonce")
        body = {"nonce": nonce, "username": name, "password": fresh_password(), "admin": is_admin}
        with refused(403, what=f"an account by a code for another one (admin: {is_admin})"):
            (await sign_up_by_secret(scene.server, body, secret=wrong)).good()
    scene.step("None of that made an account: the name is free")
    nonce = text(await scene.server.get(BY_SECRET), "nonce")
    body = {"nonce": nonce, "username": name, "password": fresh_password(), "admin": False}
    (await sign_up_by_secret(scene.server, body, secret=secret)).good()
