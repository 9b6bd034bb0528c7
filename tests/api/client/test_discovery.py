"""What a client learns before and after it logs in: versions, well-known, capabilities."""

from __future__ import annotations

import pytest
import pytest_twisted

from api.client.versions import UNSTABLE_FEATURES
from api.client.wellknown import client_discovery, support_contact
from homeserver.config import Server
from homeserver.model.ids import ServerName
from tests.support.accounts import MakeServer


@pytest_twisted.ensureDeferred
async def test_versions_need_no_token_and_mind_no_bad_one(make_server: MakeServer) -> None:
    server = await make_server()
    for token in (None, "stale"):
        status, answer = await server.call("GET", "/_matrix/client/versions", token=token)
        assert (200, "v1.19", True) == (
            status,
            answer["versions"][-1],
            answer["unstable_features"]["uk.tcpip.msc4133.stable"],
        )


def test_flags_are_told_of_what_works_only() -> None:
    """Spec: "features not listed here indicate that a feature is not supported"."""
    assert {True} == set(UNSTABLE_FEATURES.values())
    for absent in ("org.matrix.simplified_msc3575", "org.matrix.msc4140"):
        assert absent not in UNSTABLE_FEATURES


@pytest_twisted.ensureDeferred
async def test_capabilities_are_told_to_users(make_server: MakeServer) -> None:
    server = await make_server()
    token = (await server.register("alice"))["access_token"]
    status, answer = await server.call("GET", "capabilities", token=token)
    assert (200, {"default": "12", "available": {"11": "stable", "12": "stable"}}) == (
        status,
        answer["capabilities"]["m.room_versions"],
    )
    assert 401 == (await server.call("GET", "capabilities"))[0]


@pytest_twisted.ensureDeferred
async def test_well_known_is_not_found_unless_configured(make_server: MakeServer) -> None:
    server = await make_server()
    status, answer = await server.call("GET", "/.well-known/matrix/client")
    assert (404, "M_NOT_FOUND") == (status, answer["errcode"])
    support = await server.call("GET", "/.well-known/matrix/support")
    assert (200, {"support_page": "https://example.org/help"}) == support


@pytest.mark.parametrize(
    ("contact", "document"),
    [
        (None, None),
        ("mailto:ops@example.org", {"contacts": [{"email_address": "ops@example.org", "role": "m.role.admin"}]}),
        ("@ops:example.org", {"contacts": [{"matrix_id": "@ops:example.org", "role": "m.role.admin"}]}),
        ("https://example.org", {"support_page": "https://example.org"}),
        ("room 5, second floor", None),
    ],
)
def test_contact_is_told_in_the_field_that_the_spec_has_for_it(contact: str | None, document: object) -> None:
    assert document == support_contact(Server(name=ServerName("example.org"), admin_contact=contact))


def test_client_discovery_is_the_public_address_and_what_the_operator_adds() -> None:
    assert None is client_discovery(Server(name=ServerName("example.org")))
    server = Server(
        name=ServerName("example.org"),
        public_base_url="https://matrix.example.org",
        client_wellknown_extra={"org.example.x": {"y": 1}},
    )
    discovery = client_discovery(server)
    assert discovery is not None
    assert "https://matrix.example.org" == discovery["m.homeserver"]["base_url"].rstrip("/")
    assert {"y": 1} == discovery["org.example.x"]
