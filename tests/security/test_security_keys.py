"""Attacks on keys: S1, S5, S7, S16, S17, S21 of docs/security.md. Tests are named after the rows there."""

from __future__ import annotations

import datetime
from typing import Any

import attrs
import pytest
import trio
from builders import KEY, OTHER_KEY, api_key, changed, headers, snapshot
from fakes import ASK, ASK_STREAM, Reception, answering, message, recorded_stream, relaying, streaming, upstream_account
from hypothesis import given
from hypothesis import strategies as st
from scripted import serving, silent

from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.secrets.binding import account_binding
from relayd.config.secrets.recipients import SealError
from relayd.config.secrets.seal import new_identity, open_sealed, seal
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Deny, KeyHash, Policy
from relayd.core.access.auth import authenticate
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

NOW = 1_800_000_000.0
PAST = datetime.datetime.fromtimestamp(NOW - 1, datetime.UTC)
INJECTIONS = [
    "' OR '1'='1", "'; DROP TABLE books; --", '" UNION SELECT * FROM open --', "return redis.call('FLUSHALL')",
    "*1\\r\\n$8\\r\\nFLUSHALL\\r\\n", "%00", "../../etc/passwd", "${jndi:ldap://x}", "{{7*7}}", "é" * 20, "\xff\xfe",
    "x" * 6_000, f"{KEY}'", KEY.swapcase(), KEY[:-1], f"sk-relay-{'0' * 49}", "null", "undefined", "Bearer",
]  # fmt: skip


class Untouched:
    """A state store that fails the test when anything of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name == "failsafe":  # which those get that ask it later
            return Untouched()
        raise AssertionError(f"the state store was asked for {name}")


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
async def test_s1_text_in_place_of_a_key_is_a_401_and_reaches_no_state(text: str) -> None:
    async with relaying(snapshot(), state=Untouched()) as house:
        told = [
            await house.ask(key="", **{name: value})
            for name, value in (("x_api_key", text), ("authorization", f"Bearer {text}"), ("authorization", text))
        ]
    assert {one.status for one in told} == {401}
    assert all(one["x-should-retry"] == "false" for one in told)


@pytest.mark.parametrize("byte", [b"\0", b"\r", b"\n", b"\x7f", b"\x01"])
async def test_s1_a_control_character_in_a_key_is_a_400(byte: bytes) -> None:
    async with relaying(snapshot(), state=Untouched()) as house:
        client = await house.connect()
        key = KEY.encode()[:20] + byte + KEY.encode()[21:]
        await client.send(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: %b\r\ncontent-length: 0\r\n\r\n" % key)
        assert (await client.answer()).status in (400, 401)  # a line end makes it two headers


async def test_s1_a_key_larger_than_any_head_is_a_431() -> None:
    async with relaying(snapshot(), state=Untouched()) as house:
        client = await house.connect()
        await client.send(b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: %b\r\n\r\n" % (b"x" * 65536))
        assert (await client.answer()).status == 431


OLD_HASH = KeyHash(sha256=key_hash(KEY), expires=PAST)
REFUSED = {
    "none": (snapshot(), Headers([])),
    "empty": (snapshot(), headers(x_api_key="", authorization="Bearer ")),
    "unknown": (snapshot(), headers(x_api_key=OTHER_KEY)),
    "no bearer": (snapshot(), headers(authorization=f"Basic {KEY}")),
    "as a cookie": (snapshot(), headers(cookie=f"x-api-key={KEY}")),
    "disabled": (snapshot(keys=(api_key(enabled=False),)), headers(x_api_key=KEY)),
    "without hashes": (snapshot(keys=(api_key(hashes=()),)), headers(x_api_key=KEY)),
    "expired": (snapshot(keys=(api_key(expires=PAST),)), headers(x_api_key=KEY)),
    "rotated": (snapshot(keys=(api_key(hashes=(OLD_HASH,)),)), headers(x_api_key=KEY)),
    "denied": (snapshot(deny=Deny(keys=("dev",))), headers(x_api_key=KEY)),
    "denied by hash": (snapshot(deny=Deny(sha256=(key_hash(KEY),))), headers(x_api_key=KEY)),
    "its hash": (snapshot(), headers(x_api_key=key_hash(KEY))),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_s5_every_failing_branch_ends_in_a_refusal(case: str) -> None:
    tree, presented = REFUSED[case]
    with pytest.raises(Refusal) as error:
        authenticate(presented, tree, "192.0.2.1", NOW)
    assert error.value.status == 401


VALUES = st.binary(max_size=60) | st.sampled_from([KEY.encode(), b"Bearer " + KEY.encode(), OTHER_KEY.encode()])


@given(st.lists(st.tuples(st.sampled_from([b"x-api-key", b"authorization", b"cookie"]), VALUES), max_size=4))
def test_s5_an_identity_comes_from_a_key_of_the_tree_and_from_nothing_else(pairs: list[tuple[bytes, bytes]]) -> None:
    try:
        found = authenticate(Headers(pairs), snapshot(), "192.0.2.1", NOW)
    except Refusal:
        return
    assert found.id == "dev"
    assert any(KEY.encode() in value for _, value in pairs)


async def test_s7_a_401_echoes_nothing_and_unknown_keys_differ_in_documented_words_only() -> None:
    tree = snapshot(keys=(api_key(), api_key(OTHER_KEY, id="secret-project", owner="acme", enabled=False)))
    unknown = mint(lambda size: b"\x07" * size)
    async with relaying(tree) as house:
        told = {key: await house.ask(key=key) for key in (unknown, OTHER_KEY)}
        receipt = await house.receipt(2)
    for key, one in told.items():
        said = repr(one)
        assert one.status == 401
        assert not any(
            word in said for word in (key, key[9:30], key_hash(key), "secret-project", "acme", "keys_by_hash")
        )
    assert {one.error[2] for one in told.values()} == {
        "Invalid API key: unknown key", "Invalid API key: this key has been revoked",
    }  # fmt: skip
    assert OTHER_KEY not in repr(receipt)


@pytest.mark.parametrize("change", ["removed", "disabled", "rotated", "denied"])
async def test_s16_what_is_revoked_fails_at_the_next_request_of_an_open_connection(change: str) -> None:
    tree = snapshot()
    after = {
        "removed": snapshot(keys=(api_key(OTHER_KEY, id="other"),)),
        "disabled": snapshot(keys=(api_key(enabled=False),)),
        "rotated": snapshot(keys=(api_key(OTHER_KEY),)),
        "denied": snapshot(deny=Deny(keys=("dev",))),
    }[change]
    async with relaying(tree) as house:
        client = await house.connect()
        assert (await client.ask()).status == 200
        house.live.swap(changed(after, revision="000000000001"))
        assert (await client.ask()).status == 401


async def test_s16_a_stream_of_a_key_that_is_revoked_ends_with_an_error() -> None:
    async with serving(silent) as upstream:  # it never answers
        cutting = {"policy": Policy(on_revoke="cut")}
        tree = snapshot(accounts=(upstream_account("a", upstream.port),), relay=cutting)
        async with relaying(tree) as house:
            client = await house.connect()
            await client.post(ASK_STREAM)
            while house.in_flight() == 0:
                await trio.lowlevel.checkpoint()
            newer = changed(tree, deny=Deny(keys=("dev",)), revision="000000000001")
            house.live.swap(newer)
            house.app.calls.in_flight.revoked(tree, newer)
            assert (await client.answer()).status == 401


async def test_s17_a_key_in_a_url_is_none() -> None:
    async with relaying(snapshot()) as house:
        for query in (f"?x-api-key={KEY}", f"?key={KEY}", f"?authorization=Bearer%20{KEY}", f"?access_token={KEY}"):
            assert (await house.ask(ASK, f"/v1/messages{query}", key="")).status == 401


def test_s17_a_sealed_credential_opens_for_its_own_origin_alone() -> None:
    identity = new_identity(lambda size: b"\x07" * size)
    mine = account_binding("test", "a", "http://127.0.0.1:1", "https://token.example/x")
    line = seal(Secret("sk-ant-secret"), mine, [identity.public])
    assert open_sealed(line, mine, [identity]).reveal() == "sk-ant-secret"
    for other in (
        account_binding("test", "a", "http://127.0.0.1:2", "https://token.example/x"),
        account_binding("test", "b", "http://127.0.0.1:1", "https://token.example/x"),
        account_binding("other", "a", "http://127.0.0.1:1", "https://token.example/x"),
        account_binding("test", "a", "http://127.0.0.1:1", "https://evil.example/x"),
    ):
        with pytest.raises(SealError):
            open_sealed(line, other, [identity])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_s17_a_credential_follows_no_redirect(status: int) -> None:
    elsewhere = Reception([answering(body=message())])
    async with serving(elsewhere) as other:
        away = answering(status, b"", location=f"http://127.0.0.1:{other.port}/v1/messages")
        async with serving(Reception([away])) as upstream:
            tree = snapshot(accounts=(upstream_account("a", upstream.port),))
            async with relaying(tree) as house:
                told = await house.ask()
    assert told.status == 502
    assert "location" not in told
    assert elsewhere.asked == []


@pytest.mark.parametrize("kind", ["api-key", "oauth", "session-key"])
async def test_s21_no_credential_of_a_client_reaches_an_upstream(kind: str) -> None:
    reception = Reception([answering(body=message())])
    async with serving(reception) as upstream:
        one = attrs.evolve(upstream_account("a", upstream.port), kind=kind)
        async with relaying(snapshot(accounts=(one,))) as house:
            own = {"authorization": "Bearer sk-ant-oat01-own", "cookie": "sessionKey=sk-ant-sid01-own"}
            assert (await house.ask(**own, proxy_authorization="Basic own", x_other=KEY)).status == 200
            swapped = {"x_api_key": "sk-ant-api03-own", "authorization": f"Bearer {KEY}"}
            assert (await house.ask(key="", **swapped)).status == 200
    for asked in reception.asked:
        said = repr(asked)
        assert "own" not in said
        assert KEY not in said
        assert said.count("sk-ant-test-a") == 1


async def test_s22_a_thousand_streamed_answers_arrive_as_the_upstream_sent_them() -> None:
    """The same holds for answers cut at any byte: tests/daemon/proxy/test_streaming.py."""
    stream = recorded_stream(words=3)
    async with serving(Reception([streaming(stream[:400], stream[400:])])) as upstream:
        tree = snapshot(accounts=(upstream_account("a", upstream.port),))
        async with relaying(tree) as house:
            client = await house.connect()
            for _ in range(1000):
                assert (await client.ask(ASK_STREAM)).body == stream
