from __future__ import annotations

import contextlib
import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.config.model.types import FORMS, SCALARS, write
from relayd.config.model.values import LARGEST, Bad, quote
from relayd.config.snapshot import Glob, MicroUsd, Network, Proxy, Seconds, Size, Url


def parse(kind: Any, value: Any) -> Any:
    return SCALARS[FORMS.get(kind, kind)].parse(value)


@pytest.mark.parametrize(
    ("kind", "written", "meaning"),
    [
        (Seconds, "90s", 90.0),
        (Seconds, "1h30m", 5400.0),
        (Seconds, "0s", 0.0),
        (Seconds, "1.5s", 1.5),
        (Seconds, "2d1ms", 172800.001),
        (Size, "32MiB", 32 << 20),
        (Size, "1GB", 10**9),
        (Size, "0B", 0),
        (Size, 4096, 4096),
        (MicroUsd, "12.50", 12_500_000),
        (MicroUsd, "0", 0),
        (MicroUsd, "0.000001", 1),
        (MicroUsd, "999999999.999999", 999_999_999_999_999),
        (Url, "https://api.anthropic.com", "https://api.anthropic.com"),
        (Url, "https://example.com:8443/prefix/", "https://example.com:8443/prefix"),
        (Url, "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        (Url, "http://[::1]:1", "http://[::1]:1"),
        (Url, "http://localhost", "http://localhost"),
        (Proxy, "", ""),
        (Proxy, "socks5://u:p@10.0.0.1:1080", "socks5://u:p@10.0.0.1:1080"),
        (Network, "10.0.0.0/8", "10.0.0.0/8"),
        (Network, "::1", "::1"),
        (Glob, "claude-*-4-?", "claude-*-4-?"),
        (float, 1, 1.0),
        (int, LARGEST, LARGEST),
        ("address", "127.0.0.1:0", "127.0.0.1:0"),
        ("address", "[::]:3000", "[::]:3000"),
        ("address", "unix:/run/x.sock", "unix:/run/x.sock"),
        ("address-or-off", "", ""),
        ("origin", "https://example.com:8443", "https://example.com:8443"),
        ("origin-or-any", "*", "*"),
        ("host", "relay.example.com", "relay.example.com"),
        ("header", "X-Remote-User", "X-Remote-User"),
        ("header", "", ""),
        ("email", "alice@example.com", "alice@example.com"),
        ("email", "", ""),
        ("state-url", "sqlite:var/relayd.db", "sqlite:var/relayd.db"),
        ("state-url", "redis://10.0.0.1:6379/0", "redis://10.0.0.1:6379/0"),
        ("state-url", "rediss://relay@redis.example.com", "rediss://relay@redis.example.com"),
        ("state-url", "redis+cluster://a:1,[::1]:2", "redis+cluster://a:1,[::1]:2"),
        (
            "state-url",
            "rediss+sentinel://a,b:2/main?sentinel_auth=yes",
            "rediss+sentinel://a,b:2/main?sentinel_auth=yes",
        ),
        ("state-url", "rediss://host?ca=/etc/ca.pem&cert=/c&key=/k", "rediss://host?ca=/etc/ca.pem&cert=/c&key=/k"),
        ("timezone", "UTC", "UTC"),
        ("window", "5h", "5h"),
        ("window", "week", "week"),
        ("sha256", "AB" * 32, "ab" * 32),
        ("hint", "sk-relay-AbCd", "sk-relay-AbCd"),
        ("path", "/run/credentials/x", "/run/credentials/x"),
    ],
)
def test_a_value_means_what_the_documentation_says(kind: Any, written: Any, meaning: Any) -> None:
    assert parse(kind, written) == meaning


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        (str, 5),
        (int, "3"),
        (int, True),
        (int, 1.0),
        (int, LARGEST + 1),
        (bool, 1),
        (bool, "true"),
        (float, True),
        (float, float("nan")),
        (float, "1"),
        (Seconds, 90),
        (Seconds, "90"),
        (Seconds, "-1s"),
        (Seconds, "1m1h"),
        (Seconds, "1s 2s"),
        (Seconds, "٣s"),
        (Seconds, "5m\n"),
        (Seconds, ""),
        (Size, "32"),
        (Size, "32mib"),
        (Size, True),
        (MicroUsd, 12.5),
        (MicroUsd, "1e3"),
        (MicroUsd, "1,50"),
        (MicroUsd, "-1"),
        (MicroUsd, "1.0000001"),
        (Url, "http://api.anthropic.com"),
        (Url, "http://127.0.0.1.evil.example"),
        (Url, "https://"),
        (Url, "https://u:p@example.com"),
        (Url, "https://example.com/?q=1"),
        (Url, "https://exa mple.com"),
        (Url, "https://example.com\n"),
        (Url, "https://exa\tmple.com"),
        (Url, "https://example.com:99999"),
        (Url, "https://bücher.example"),
        (Url, "HTTPS//example.com"),
        (Proxy, "socks5://10.0.0.1"),
        (Proxy, "http://p.example:1/path"),
        (Proxy, 3),
        (Network, "10.0.0.1/8"),
        (Network, "localhost"),
        (Network, ""),
        (Glob, "a" * 201),
        (Glob, "*" * 9),
        (Glob, "claude-[34]"),
        (datetime.datetime, datetime.datetime(2026, 1, 1)),
        (datetime.datetime, datetime.date(2026, 1, 1)),
        (datetime.datetime, "2026-01-01T00:00:00Z"),
        ("address", ":3000"),
        ("address", "127.0.0.1"),
        ("address", "127.0.0.1:65536"),
        ("address", "127.0.0.1:٣"),
        ("address", "::1:80"),
        ("address", "unix:/" + "x" * 107),
        ("address", ""),
        ("origin", "*"),
        ("origin", "https://example.com/"),
        ("host", "https://relay.example.com"),
        ("host", "relay.example.com:443"),
        ("header", "x_user"),
        ("header", "x-user: "),
        ("email", "alice"),
        ("email", "Alice <a@b>"),
        ("email", "a@b\n"),
        ("state-url", "redis://:hunter2@host"),
        ("state-url", "sqlite:"),
        ("state-url", "redis://"),
        ("state-url", "redis://host:0"),
        ("state-url", "rediss://host?ca=ca.pem"),
        ("state-url", "rediss://host?ca=/a&ca=/b"),
        ("state-url", "rediss://host?verify=no"),
        ("state-url", "rediss://host/0?sentinel_auth=perhaps"),
        ("timezone", "../etc/passwd"),
        ("timezone", "Europe"),
        ("window", "0s"),
        ("window", "year"),
        ("sha256", "g" * 64),
        ("sha256", "a" * 63),
        ("hint", "x" * 18),
        ("sealed", "hunter2"),
        ("sealed", "rlsec3.x"),
        ("scrypt", "hunter2"),
        ("recipient", "rlkey1.x"),
        ("path", "../relative"),
        ("path", "/a/../b"),
        ("path", "a//b"),
        ("path", "/"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_a_code(kind: Any, written: Any) -> None:
    with pytest.raises(Bad) as caught:
        parse(kind, written)

    assert caught.value.code.startswith("E-")
    assert "hunter2" not in caught.value.message()


@settings(deadline=None)
@given(st.integers(0, 10**9).map(lambda count: count * 0.001))
def test_a_duration_is_written_as_it_is_read(length: float) -> None:
    assert parse(Seconds, write(Seconds, length)) == pytest.approx(length, abs=1e-9)


@settings(deadline=None)
@given(st.integers(0, 999_999_999_999_999))
def test_money_is_written_as_it_is_read_exactly(amount: int) -> None:
    assert parse(MicroUsd, write(MicroUsd, amount)) == amount


@settings(deadline=None)
@given(st.integers(0, 1 << 50))
def test_a_size_is_written_as_it_is_read(amount: int) -> None:
    assert parse(Size, write(Size, amount)) == amount


ANYTHING = st.one_of(
    st.text(), st.integers(), st.floats(), st.booleans(), st.datetimes(), st.dates(), st.lists(st.text(), max_size=2)
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(list(SCALARS)), ANYTHING)
def test_a_parser_answers_with_a_value_or_with_bad_and_in_no_other_way(kind: Any, value: Any) -> None:
    with contextlib.suppress(Bad):
        SCALARS[kind].parse(value)


@settings(deadline=None)
@given(st.one_of(ANYTHING, st.just(1 << 20000), st.just({})))
def test_a_quoted_value_is_short_and_on_one_line(value: Any) -> None:
    assert len(quote(value)) <= 70
    assert "\n" not in quote(value)
