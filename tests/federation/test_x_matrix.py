"""The header that says who asks: what is built is read, what could be read in two ways is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.x_matrix import (
    XMatrix,
    build_x_matrix,
    encode_signed_request,
    parse_x_matrix,
    signed_request_json,
)
from homeserver.model.canonical_json import encode_canonical
from homeserver.model.ids import ServerName

SIG = "A" * 85 + "/"
WHOLE = XMatrix(ServerName("a.org:8448"), ServerName("b.org"), "ed25519:k1", SIG)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(build_x_matrix("a.org:8448", "b.org", "ed25519:k1", SIG), id="as it is built"),
        pytest.param(f'x-matrix   ORIGIN=a.org:8448,Destination=b.org,KEY=ed25519:k1,sig="{SIG}"', id="case and tokens"),  # noqa: E501
        pytest.param(f'X-Matrix sig="{SIG}" ,\tkey="ed25519:k1"  ,  destination=b.org,origin="a.org:8448"', id="order"),
        pytest.param(f'X-Matrix origin="a\\.org:8448",destination="b.org",key="ed\\25519:k1",sig="{SIG}"', id="escapes"),  # noqa: E501
        pytest.param(f'X-Matrix origin="a.org:8448",destination=b.org,new="a,b=\\"c",key=ed25519:k1,sig="{SIG}" ', id="unknown"),  # noqa: E501
        pytest.param(f'X-Matrix origin = a.org:8448,destination=b.org,key=ed25519:k1,signature="{SIG}"', id="long name"),  # noqa: E501
    ],
)  # fmt: skip
def test_header_is_read(value: str) -> None:
    assert WHOLE == parse_x_matrix(value)


def test_old_servers_leave_the_destination_out() -> None:
    assert parse_x_matrix(f'X-Matrix origin=a.org,key="ed25519:k",sig="{SIG}"').destination is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param("X-Matrix ", id="nothing"),
        pytest.param("Bearer abc", id="other scheme"),
        pytest.param(f'X-Matrixorigin=a.org,key=ed25519:k,sig="{SIG}"', id="no space"),
        pytest.param(f'X-Matrix key=ed25519:k,sig="{SIG}"', id="no origin"),
        pytest.param(f'X-Matrix origin=a.org,sig="{SIG}"', id="no key"),
        pytest.param("X-Matrix origin=a.org,key=ed25519:k", id="no signature"),
        pytest.param(f'X-Matrix origin=a.org,origin=a.org,key=ed25519:k,sig="{SIG}"', id="origin twice"),
        pytest.param(f'X-Matrix origin=a.org,Origin=b.org,key=ed25519:k,sig="{SIG}"', id="origin twice, other case"),
        pytest.param(f'X-Matrix origin=a.org,destination=b,destination=c,key=ed25519:k,sig="{SIG}"', id="destination"),
        pytest.param(f'X-Matrix origin=a.org,key=ed25519:k,sig="{SIG}",signature="{SIG}"', id="two signatures"),
        pytest.param(f'X-Matrix origin="a.org"b,key=ed25519:k,sig="{SIG}"', id="behind the quote"),
        pytest.param(f'X-Matrix origin="a.org,key=ed25519:k,sig="{SIG}', id="open quote"),
        pytest.param(f'X-Matrix origin="a.org" key=ed25519:k,sig="{SIG}"', id="no comma"),
        pytest.param(f'X-Matrix origin=a.org,key=ed25519:k,sig="{SIG}",', id="comma at the end"),
        pytest.param(f'X-Matrix origin="a@b",key=ed25519:k,sig="{SIG}"', id="no server name"),
        pytest.param(f'X-Matrix origin="",key=ed25519:k,sig="{SIG}"', id="empty origin"),
        pytest.param(f'X-Matrix origin=a.org,destination="",key=ed25519:k,sig="{SIG}"', id="empty destination"),
        pytest.param(f'X-Matrix origin="a.org\n",key=ed25519:k,sig="{SIG}"', id="line"),
        pytest.param(f'X-Matrix origin="ä.org",key=ed25519:k,sig="{SIG}"', id="not ASCII"),
        pytest.param(f'X-Matrix origin=a.org,key=rsa:k,sig="{SIG}"', id="other algorithm"),
        pytest.param(f'X-Matrix origin=a.org,key=ed25519:k,sig="{SIG[1:]}"', id="short signature"),
        pytest.param(f'X-Matrix origin=a.org,key=ed25519:k,sig="{SIG}",x="{"y" * 10_000}"', id="10 kB"),
        pytest.param(
            f'X-Matrix origin=a.org,key=ed25519:k,sig="{SIG}"' + "".join(f",x{i}=1" for i in range(50)), id="many"
        ),
    ],
)
def test_header_that_is_unclear_is_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_x_matrix(value)


@given(st.text(max_size=300) | st.text('aX-Matrix origin="\\,=sigkey:.', max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    for value in (text, f"X-Matrix {text}"):
        try:
            parse_x_matrix(value)
        except ValueError:
            continue


@pytest.mark.parametrize("content", [None, {}, {"b": [1, 'ä\n"'], "a": {"z": None, "y": True}}])
def test_spliced_bytes_are_the_canonical_form(content: dict[str, object] | None) -> None:
    uri = '/_matrix/federation/v1/x/%21a%3Ab?c=d"\\'
    expected = encode_canonical(signed_request_json("PUT", uri, "a.org", "b.org", content))
    body = None if content is None else encode_canonical(content)
    assert expected == encode_signed_request("PUT", uri, "a.org", "b.org", body)
