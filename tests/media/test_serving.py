from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.media.serving import (
    clean_content_type,
    clean_file_name,
    content_disposition,
    download_headers,
    file_name_of,
    is_inline_type,
)


@pytest.mark.parametrize(
    "content_type", ["image/png", "IMAGE/PNG", "text/plain; charset=utf-8", "video/mp4;codecs=avc1", "text/css ;"]
)
def test_what_cannot_run_is_shown_inline(content_type: str) -> None:
    assert is_inline_type(content_type)


@pytest.mark.parametrize(
    "content_type",
    [
        "application/pdf",
        "text/javascript",
        "multipart/form-data; boundary=image/png",
        "text/html",
        "text/html;charset=x",
        "IMAGE/svg+XML",
        "application/xhtml+xml",
        "text/xml",
        "image/png+xml",
        "",
    ],
)
def test_what_may_run_is_an_attachment(content_type: str) -> None:
    assert content_disposition(content_type, None) == "attachment"


@pytest.mark.parametrize(
    ("given_type", "expected"),
    [
        (None, None),
        ("", None),
        ("image/png", "image/png"),
        (" text/plain; charset=utf-8 ", "text/plain; charset=utf-8"),
        ('audio/ogg; codecs="opus"', 'audio/ogg; codecs="opus"'),
        ("image", None),
        ("image/png\r\nSet-Cookie: a=b", None),
        ("image/png, text/html", None),
        ("image/ä", None),
        ("a/" + "b" * 254, None),
    ],
)
def test_a_content_type_is_kept_if_it_is_one(given_type: str | None, expected: str | None) -> None:
    assert expected == clean_content_type(given_type)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, "inline"),
        ("", "inline"),
        ("cat.png", 'inline; filename="cat.png"'),
        ("two words.png", 'inline; filename="two words.png"'),
        ("Käse.png", "inline; filename*=utf-8''K%C3%A4se.png"),
        ('a"b.png', "inline; filename*=utf-8''a%22b.png"),
        ("a\\b.png", "inline; filename*=utf-8''a%5Cb.png"),
        ("../../x.png", "inline; filename*=utf-8''..%2F..%2Fx.png"),
        ("a%22.png", "inline; filename*=utf-8''a%2522.png"),
        ("a\r\nSet-Cookie: b", "inline; filename*=utf-8''aSet-Cookie%3A%20b"),
    ],
)
def test_file_name_in_the_header(name: str | None, expected: str) -> None:
    assert expected == content_disposition("image/png", name)


@given(st.text(st.characters()), st.text())
def test_headers_are_one_line_of_ascii(content_type: str, name: str) -> None:
    headers = download_headers(clean_content_type(content_type), name)
    for value in headers.values():
        assert value.isascii()
        assert value.isprintable()


@given(st.text(st.characters()))
def test_a_clean_file_name_can_be_stored(name: str) -> None:
    cleaned = clean_file_name(name)
    assert cleaned is None or 0 < len(cleaned.encode("utf-8")) <= 1024


def test_text_gets_a_charset_and_nothing_else_does() -> None:
    assert download_headers("text/plain", None)["Content-Type"] == "text/plain; charset=UTF-8"
    assert download_headers("text/plain; charset=latin1", None)["Content-Type"] == "text/plain; charset=latin1"
    assert download_headers("image/png", None)["Content-Type"] == "image/png"
    assert download_headers(None, None)["Content-Type"] == "application/octet-stream"


def test_downloads_are_kept_inert() -> None:
    headers = download_headers("text/html", None)
    assert headers["Content-Security-Policy"].startswith("sandbox; default-src 'none';")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "cross-origin"
    assert headers["Content-Disposition"] == "attachment"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (None, None),
        ("inline", None),
        ("inline; filename=a.png", "a.png"),
        ('attachment; filename="a \\"b\\" ; c.png"', 'a "b" ; c.png'),
        ("inline; filename*=utf-8''K%C3%A4se%20%26.png", "Käse &.png"),
        ("inline; FileName*=UTF-8'de'x%3By; filename=other", "x;y"),
        ("inline; filename=other; filename*=utf-8''this", "this"),
        ("inline; filename*=latin-1''%e4", None),
        ("inline; filename*=utf-8''%ff%zz", "\ufffd%zz"),
        ('inline; filename="K\xc3\xa4se"', "Käse"),
        ('inline; filename="K\xe4se"', "Käse"),
        ('inline; filename="' + "\\" * 1000, None),
        ("filename=a", None),
    ],
)
def test_the_file_name_is_read_from_what_other_servers_say(header: str | None, name: str | None) -> None:
    assert name == file_name_of(header)
