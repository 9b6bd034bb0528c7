import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.model.base64 import decode_base64, decode_url_safe_base64, encode_base64, encode_url_safe_base64

# Spec: appendices, "Unpadded Base64".
VECTORS = [
    (b"", ""),
    (b"f", "Zg"),
    (b"fo", "Zm8"),
    (b"foo", "Zm9v"),
    (b"foob", "Zm9vYg"),
    (b"fooba", "Zm9vYmE"),
    (b"foobar", "Zm9vYmFy"),
]


@pytest.mark.parametrize(("raw", "text"), VECTORS)
def test_vectors_of_the_spec(raw: bytes, text: str) -> None:
    assert text == encode_base64(raw)
    assert raw == decode_base64(text)
    assert raw == decode_base64(text + "=" * (-len(text) % 4))


@given(st.binary(max_size=100))
def test_both_alphabets_are_those_of_the_standard_library(raw: bytes) -> None:
    assert base64.b64encode(raw).decode().rstrip("=") == encode_base64(raw)
    assert base64.urlsafe_b64encode(raw).decode().rstrip("=") == encode_url_safe_base64(raw)
    assert raw == decode_base64(encode_base64(raw))
    assert raw == decode_url_safe_base64(encode_url_safe_base64(raw))


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "A===",
        "Zg=",
        "Zg===",
        "Zg==Zg==",
        "Zg==x",
        "=",
        "====",
        "Z g",
        "Zg\n",
        "Zm9v\n",
        "Zm-_",
        "Zmé8",
        "Zm\x008",
    ],
)
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_base64(text)


@pytest.mark.parametrize("text", ["Zm+/", "Zm9+", "Z/8", "A"])
def test_url_safe_base64_has_no_plus_and_no_slash(text: str) -> None:
    with pytest.raises(ValueError):
        decode_url_safe_base64(text)


@given(st.text(max_size=20))
def test_decoding_fails_with_value_error_only(text: str) -> None:
    for decode in (decode_base64, decode_url_safe_base64):
        try:
            decode(text)
        except ValueError:
            pass


def test_unused_bits_may_be_anything() -> None:
    # The key of the spec's own vectors has them set.
    assert 32 == len(decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"))
