"""Other ways in: a JWT of one's employer, a token that one device makes for another, OAuth."""

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64encode

from sytest_scenarios.asking import JsonObject, text
from sytest_scenarios.expect import check, check_equal, refused
from sytest_scenarios.http import Answer
from sytest_scenarios.props.signing_up import fresh_name
from sytest_scenarios.scene import Scene
from sytest_scenarios.story import ADMIN_SECRET, feature, setting, story, users

JWT = setting("JWT login") + ADMIN_SECRET
SSO = "SSO back-ends"
LOGIN_TOKENS = "Login tokens and QR login"


def jwt(claims: JsonObject, secret: str, *, algorithm: str = "HS256") -> str:
    """Return a JSON web token."""
    parts = [{"alg": algorithm, "typ": "JWT"}, claims]
    said = ".".join(urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts)
    signature = hmac.new(secret.encode(), said.encode(), hashlib.sha256).digest() if algorithm == "HS256" else b""
    return f"{said}.{urlsafe_b64encode(signature).decode().rstrip('=')}"


async def by_jwt(scene: Scene, token: str) -> Answer:
    """Ask for a session with a JWT."""
    return await scene.server.request("POST", "/login", {"type": "org.matrix.login.jwt", "token": token}, who="Dora")


@story(
    "Dora, of whom nobody has heard, comes in with a token of her employer, and is the same person next time",
    shows="Synapse's JWT login: org.matrix.login.jwt",
    needs=JWT,
    expected_to_fail=SSO,
)
async def by_a_jwt(scene: Scene) -> None:
    secret, name = scene.server.host.admin_secret or "", fresh_name("dora")
    flows = [text(each, "type") for each in (await scene.server.get("/login"))["flows"]]
    check("org.matrix.login.jwt" in flows, "org.matrix.login.jwt among the ways of logging in", came=flows)
    token = jwt({"sub": name, "exp": int(time.time()) + 60}, secret)
    first, second = (await by_jwt(scene, token)).good(), (await by_jwt(scene, token)).good()
    check_equal(name, text(first, "user_id")[1:].partition(":")[0], "the name of Dora")
    check_equal(first["user_id"], second["user_id"], "who she is the next time")
    check(first["device_id"] != second["device_id"], "two devices", came=second["device_id"])


@story(
    "A token that Dora's employer did not make, or not for now, lets nobody in",
    shows="Synapse's JWT login; RFC 7519, 'exp', 'nbf'; RFC 8725, 3.1: the algorithm",
    needs=JWT,
    expected_to_fail=SSO,
)
async def by_a_bad_jwt(scene: Scene) -> None:
    secret, now = scene.server.host.admin_secret or "", int(time.time())
    good = {"sub": fresh_name("dora"), "exp": now + 60}
    (await by_jwt(scene, jwt(good, secret))).good()
    for what, token in {
        "signed by somebody else": jwt(good, "another secret"),
        "not signed": jwt(good, secret, algorithm="none"),
        "of yesterday": jwt({**good, "exp": now - 86_400}, secret),
        "of tomorrow": jwt({**good, "nbf": now + 86_400, "exp": now + 90_000}, secret),
        "for nobody": jwt({"exp": now + 60}, secret),
        "cut off": jwt(good, secret)[:-4],
        "no token": "a.b.c",
    }.items():
        with refused(403, "M_FORBIDDEN", what=f"a login by a token that is {what}"):
            (await by_jwt(scene, token)).good()


@story(
    "Alice's phone lets her laptop in, once",
    shows="client-server API, 'Login': POST /_matrix/client/v1/login/get_token, m.login.token",
    needs=users(1) + feature("password login"),
    expected_to_fail=LOGIN_TOKENS,
)
async def by_another_device(scene: Scene) -> None:
    (alice,) = scene.users
    capability = (await alice.get("/capabilities"))["capabilities"].get("m.get_login_token")
    if capability != {"enabled": True}:
        scene.skip("the server makes no tokens for the login of another device (m.get_login_token)")
    found = await alice.confirm("POST", "/_matrix/client/v1/login/get_token")
    check(0 < found.get("expires_in_ms", 0) <= 600_000, "a token that lives some minutes", came=found)
    body = {"type": "m.login.token", "token": text(found, "login_token")}
    laptop = (await scene.server.request("POST", "/login", body, who="Alice's laptop")).good()
    check_equal(alice.user_id, laptop.get("user_id"), "whose session it is")
    check(laptop["device_id"] != alice.device_id, "a device of its own", came=laptop["device_id"])
    for token in (body["token"], "made-up"):
        with refused(403, "M_FORBIDDEN", what="the token once more, or a made-up one"):
            (await scene.server.request("POST", "/login", {**body, "token": token}, who="Eve")).good()


@story(
    "A client finds out how to log in by OAuth, and makes itself known",
    shows="client-server API, 'Server metadata discovery', 'Dynamic client registration flow'",
    expected_to_fail="OAuth 2.0 API (v1.15+)",
)
async def by_oauth(scene: Scene) -> None:
    answer = await scene.server.request("GET", "/_matrix/client/v1/auth_metadata")
    if answer.errcode == "M_UNRECOGNIZED":
        scene.skip("the server has only the legacy API of authentication")
    found = answer.good()
    for key in ("issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "registration_endpoint"):
        check(text(found, key).startswith("http"), f"the address {key}", came=found[key])
    check("S256" in found["code_challenge_methods_supported"], "PKCE with S256", came=found)
    check("authorization_code" in found["grant_types_supported"], "the grant authorization_code", came=found)
    client = {
        "client_name": "A client",
        "client_uri": "https://client.example.org/",
        "redirect_uris": ["https://client.example.org/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "web",
    }
    text((await scene.server.request("POST", found["registration_endpoint"], client)).good(), "client_id")
    for uri in ("https://elsewhere.example.com/callback", "javascript:alert(1)", "http://client.example.org/callback"):
        bad = {**client, "redirect_uris": [uri]}
        refusal = await scene.server.request("POST", found["registration_endpoint"], bad)
        check_equal(400, refusal.status, f"the answer to a client at {uri}")
