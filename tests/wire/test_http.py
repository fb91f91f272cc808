"""Headers: what travels on and what stays on this hop."""

from __future__ import annotations

from builders import headers
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.wire.http import HOP_BY_HOP, NOT_FOR_UPSTREAM, Headers, client_headers, end_to_end, header_pairs

names = st.sampled_from([*sorted(HOP_BY_HOP | NOT_FOR_UPSTREAM), b"anthropic-beta", b"x-one", b"x-two", b"accept"])
values = st.sampled_from([b"1", b"x-one", b"close", b"keep-alive, x-two", b"x-api-key,accept", b", ,"])


@given(st.lists(st.tuples(names, values), max_size=12))
@settings(deadline=None, max_examples=200)
def test_no_key_and_no_hop_header_ever_travels_on(pairs: list[tuple[bytes, bytes]]) -> None:
    sent = client_headers(Headers(pairs))

    assert not {name for name, _ in sent} & (HOP_BY_HOP | NOT_FOR_UPSTREAM)
    assert [pair for pair in pairs if pair in sent] == sent


@given(st.lists(st.tuples(names, values), max_size=12))
@settings(deadline=None, max_examples=100)
def test_what_connection_names_stays_behind(pairs: list[tuple[bytes, bytes]]) -> None:
    named = {part.strip() for name, value in pairs if name == b"connection" for part in value.split(b",")}
    sent = end_to_end(Headers(pairs), frozenset())

    assert not {name for name, _ in sent} & (named - {b"keep-alive", b"close"})


def test_the_order_and_the_repeats_of_headers_are_kept() -> None:
    pairs = [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]

    assert end_to_end(Headers(pairs), frozenset()) == pairs
    assert Headers(pairs).joined(b"b") == b"1, 3"
    assert Headers(pairs).get(b"b") == b"1"


def test_headers_show_their_names_and_never_their_values() -> None:
    assert repr(headers(x_api_key="secret")) == "Headers(x-api-key)"


def test_text_pairs_become_wire_pairs() -> None:
    assert header_pairs([("X-Name", "Grüße")]) == [(b"x-name", "Grüße".encode("latin-1"))]
