"""Where calls come from: what proxies say, in every spelling."""

from __future__ import annotations

import ipaddress

import pytest
from builders import headers
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.core.access.addresses import UNKNOWN, Address, client_address, forwarded_address, inside
from relayd.wire.http import Headers

TRUSTED = ("127.0.0.1", "::1", "10.0.0.0/8")
ANY = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize(
    ("peer", "given", "expected"),
    [
        ("192.0.2.9", headers(x_forwarded_for="203.0.113.1"), "192.0.2.9"),
        ("127.0.0.1", headers(x_forwarded_for="203.0.113.1"), "203.0.113.1"),
        ("127.0.0.1", headers(x_forwarded_for="6.6.6.6, 203.0.113.1"), "203.0.113.1"),
        ("127.0.0.1", headers(x_forwarded_for="203.0.113.1, 127.0.0.1"), "203.0.113.1"),
        ("127.0.0.1", headers(x_forwarded_for="10.0.0.2, 127.0.0.1"), "10.0.0.2"),
        ("127.0.0.1", headers(x_forwarded_for="6.6.6.6, unknown, 127.0.0.1"), UNKNOWN),
        ("127.0.0.1", headers(x_real_ip="203.0.113.2"), "203.0.113.2"),
        ("127.0.0.1", headers(x_real_ip="unix:"), UNKNOWN),
        ("127.0.0.1", Headers([(b"x-real-ip", b"127.0.0.1"), (b"x-real-ip", b"203.0.113.1")]), UNKNOWN),
        ("127.0.0.1", headers(x_forwarded_for=""), UNKNOWN),
        ("127.0.0.1", headers(x_forwarded_for=" , ", x_real_ip="203.0.113.2"), "203.0.113.2"),
        ("127.0.0.1", Headers([(b"x-forwarded-for", b"6.6.6.6"), (b"x-forwarded-for", b"[::2]:1")]), "::2"),
        ("", headers(x_forwarded_for="203.0.113.1"), "203.0.113.1"),
        ("", headers(accept="*/*"), ""),
        ("127.0.0.1", headers(x_forwarded_for="not an address"), UNKNOWN),
        ("127.0.0.1", headers(accept="*/*"), "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_are_believed_about_the_client(peer, given, expected) -> None:
    assert client_address(peer, given, TRUSTED) == expected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("198.51.100.7:51008", "198.51.100.7"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:db8::1:443", "2001:db8::1:443"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("[::ffff:198.51.100.7]:80", "198.51.100.7"),
        ("fe80::1%eth0", "fe80::1"),
        (" 198.51.100.7 ", "198.51.100.7"),
    ],
)
def test_an_address_is_read_in_every_spelling_of_proxies(text: str, address: str) -> None:
    assert forwarded_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "unknown", "_hidden", "_SEVKISEK", "unix:", "localhost", "198.51.100.7:", "198.51.100.7:99999",
        "198.51.100.7:8\u00b2", "198.51.100.7:-1", "198.51.100.07", "198.51.100", "3232235777", "0x7f.1", "[::1",
        "[::1]443", "[::1]:", "[]", "::1]", '"', '""', "198.51.100.7;127.0.0.1", "127.0.0.1 198.51.100.7", "[[::1]]",
        "%eth0", "198.51.100.7:443:1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_none(text: str) -> None:
    assert forwarded_address(text) == ""
    assert client_address("127.0.0.1", headers(x_forwarded_for=text), TRUSTED) == UNKNOWN
    assert not inside(text, ANY)


ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))
PORTS = st.none() | st.integers(0, 65535)


def spelt(address: Address, port: int | None, brackets: bool, quotes: bool) -> str:
    text = f"[{address}]" if address.version == 6 and (brackets or port is not None) else str(address)
    text = text if port is None else f"{text}:{port}"
    return f'"{text}"' if quotes else text


@given(ADDRESSES, PORTS, st.booleans(), st.booleans())
def test_port_brackets_and_quotes_change_nothing(address, port, brackets, quotes) -> None:
    mapped = getattr(address, "ipv4_mapped", None)

    assert forwarded_address(spelt(address, port, brackets, quotes)) == str(mapped or address)


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60))
@settings(max_examples=300)
def test_whatever_a_proxy_passes_on_the_caller_is_never_the_proxy_unless_it_says_so(text: str) -> None:
    found = client_address("127.0.0.1", headers(x_forwarded_for=text), ("127.0.0.1",))

    assert found == UNKNOWN or str(ipaddress.ip_address(found)) == found
    if found == "127.0.0.1":  # then each hop is the proxy's own address, however spelt
        assert {forwarded_address(hop) for hop in text.split(",") if hop.strip()} == {"127.0.0.1"}


@given(
    st.lists(st.tuples(ADDRESSES, PORTS, st.booleans(), st.booleans()), min_size=1, max_size=5), st.text(max_size=20)
)
def test_what_the_client_claims_itself_never_counts(hops, claim: str) -> None:
    said = ", ".join(spelt(*hop) for hop in hops)
    claimed = ascii(claim)[1:-1].replace(",", "")
    seen = client_address("127.0.0.1", headers(x_forwarded_for=said), ("127.0.0.1",))

    forged = client_address("127.0.0.1", headers(x_forwarded_for=f"{claimed}, {said}"), ("127.0.0.1",))
    assert forged == seen or seen == "127.0.0.1"


def test_what_is_no_address_is_inside_nothing() -> None:
    assert not inside("", ANY)
    assert not inside(UNKNOWN, ANY)
