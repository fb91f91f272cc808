"""One call through a relay of real parts: what an upstream is sent, what comes back, when another account is tried."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import attrs
import builders
import msgspec
import pytest
import trio
from fakes import (
    ASK,
    ASK_STREAM,
    MODEL,
    NOON,
    STREAM_HEAD,
    Asked,
    Cut,
    House,
    Reception,
    answering,
    chunked,
    credential_of,
    events_of,
    failing,
    message,
    recorded_stream,
    relaying,
    streaming,
    upstream_account,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from ports import refusing_port
from scripted import Conversation, Script, serving, silent
from trio.testing import MockClock

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, Cooldown, Routing, Seconds, Server, Snapshot
from relayd.config.snapshot import Upstream as Limits
from relayd.core.receipt import Receipt
from relayd.wire.anthropic import error_body
from relayd.wire.sse import EventDecoder
from relayd.wire.usage import Usage

STREAM = recorded_stream()
EVENTS = events_of(STREAM)
FIRST_ERROR = b"event: error\ndata: " + error_body("overloaded_error", "Overloaded", "req_1") + b"\n\n"


def house_of(*accounts: Account, keys: tuple[builders.ApiKey, ...] = (), **relay: object) -> Snapshot:
    """A tree whose accounts are tried in the order they are given."""
    ordered = tuple(attrs.evolve(one, priority=place) for place, one in enumerate(accounts))
    cooldown = Cooldown(overloaded=Seconds(0.0), server_error=Seconds(0.0), unreachable=Seconds(0.0))
    routing = Routing(strategy="priority", affinity=Seconds(0.0), cooldown=cooldown)
    return builders.snapshot(accounts=ordered, keys=keys, relay={"routing": routing, **relay})


@asynccontextmanager
async def relaying_to(*scripts: Script, **relay: object) -> AsyncIterator[House]:
    """A relay whose accounts a, b, ... have these upstreams, tried in this order."""
    async with AsyncExitStack() as stack:
        upstreams = [await stack.enter_async_context(serving(script)) for script in scripts]
        accounts = [upstream_account(name, one.port) for name, one in zip("abcd", upstreams, strict=False)]
        house = await stack.enter_async_context(relaying(house_of(*accounts, **relay)))
        yield house
        house.upstreams.close()
        for upstream in upstreams:
            await upstream.all_closed()


def limits(**seconds: float) -> Limits:
    return Limits(**{name: Seconds(value) for name, value in seconds.items()})


def tried(receipt: Receipt) -> list[tuple[str, int]]:
    """Account and status of each attempt."""
    return [(attempt.account, attempt.status) for attempt in receipt.attempts]


def error_events(body: bytes) -> int:
    return sum(event.name == "error" for event in EventDecoder().feed(body))


# What an upstream is sent.


async def sent(body: bytes, *, account: dict[str, object] | None = None, **relay: object) -> Asked:
    """What arrives at an upstream when a client sends `body`."""
    reception = Reception([answering(body=message())])
    async with serving(reception) as upstream:
        tree = house_of(upstream_account("a", upstream.port, **(account or {})), **relay)
        async with relaying(tree) as house:
            told = await house.ask(body)
            assert (told.status, told.body) == (200, message())
    return reception.asked[0]


async def test_a_body_arrives_as_the_client_sent_it() -> None:
    odd = (
        b' {\r\n\t"unknown":[1.0e2,-0,1E+5,"\\u00e9\\/",{}], "messages" :[{"role":"oracle","content":"caf\xc3\xa9"}],'
        b'"max_tokens":10,\n"model"\t:\t"claude-sonnet-5-5" , "metadata":{"user_id":null,"x":[[]]},"stream":null}\n\n'
    )
    assert (await sent(odd)).body == odd


FRAGMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(extra=FRAGMENTS, spaces=st.text(" \t\r\n", max_size=5), ascii_only=st.booleans())
@settings(deadline=None, max_examples=25)
def test_whatever_else_is_in_a_body_arrives_unchanged(extra: object, spaces: str, ascii_only: bool) -> None:
    import json

    rest = json.dumps(extra, ensure_ascii=ascii_only).encode("utf-8", "replace")
    body = b'{"extra":%b%b,"model"%b:"m","messages":[]}' % (rest, spaces.encode(), spaces.encode())
    assert trio.run(sent, body).body == body


async def test_an_alias_changes_the_models_value_and_nothing_else() -> None:
    body = (
        b'{"a":"fast", "model" :\n "fast","metadata":{"model":"fast"},"messages":["\\"model\\":\\"fast\\""],"z":1.50}'
    )
    arrived = (await sent(body, models={"fast": "claude-haiku-4-5"})).body
    assert arrived == body.replace(b'"model" :\n "fast"', b'"model" :\n "claude-haiku-4-5"')


async def test_an_accounts_own_name_for_a_model_comes_after_the_alias() -> None:
    body = b'{"model":"fast","messages":[]}'
    names = {"claude-haiku-4-5": "vendor/haiku \xe9"}
    arrived = await sent(body, account={"model_map": names}, models={"fast": "claude-haiku-4-5"})
    assert arrived.body == '{"model":"vendor/haiku \xe9","messages":[]}'.encode()


async def test_a_body_as_large_as_allowed_passes_and_one_byte_more_is_refused_unread() -> None:
    limit = 32 << 20
    head, tail = b'{"model":"m","messages":["', b'"]}'
    body = head + b"x" * (limit - len(head) - len(tail)) + tail
    assert (await sent(body)).body == body
    async with relaying(house_of(builders.account())) as house:
        client = await house.connect()
        await client.send(
            b"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: %b\r\ncontent-length: %d\r\n\r\n"
            % (builders.KEY.encode(), limit + 1)
        )
        told = await client.answer()
    assert told.error == (413, "request_too_large", f"request body larger than {limit} bytes")


async def test_end_to_end_headers_arrive_whether_known_or_not() -> None:
    reception = Reception([answering(body=message())])
    told_upstream = {
        "anthropic_version": "2031-01-01",
        "anthropic_beta": "context-9,tomorrow-2031-01-01",
        "user_agent": "claude-cli/9.9 (external, cli)",
        "x_stainless_retry_count": "1",
        "traceparent": "00-abc-def-01",
        "idempotency_key": "k1",
        "x_claude_code_session_id": "s1",
        "x_app": "cli",
        "accept": "application/json",
        "x_unknown": "caf\xe9, twice",
        "content_type": "application/json; charset=utf-8",
    }
    for_us = {
        "accept_encoding": "gzip, br, zstd",
        "connection": "keep-alive, x-hop",
        "x_hop": "1",
        "keep_alive": "timeout=5",
        "te": "trailers",
        "proxy_authorization": "Basic eA==",
        "x_forwarded_for": "192.0.2.1",
        "x_forwarded_proto": "https",
        "forwarded": "for=192.0.2.1",
        "x_real_ip": "192.0.2.1",
        "via": "1.1 proxy",
        "cookie": "a=b",
        "expect": "100-continue",
    }
    async with relaying_to(reception) as house:
        client = await house.connect()
        await client.post(ASK, "/v1/messages?beta=true&x=%20y", **told_upstream, **for_us)
        await client.head()  # of an interim answer, for the client that expects one
        told = await client.answer() if client.status == 100 else await client.rest()
    assert told.status == 200
    asked = reception.asked[0]
    assert asked.line == "POST /v1/messages?beta=true&x=%20y HTTP/1.1"
    for name, value in told_upstream.items():
        assert asked.all(name.replace("_", "-")) == [value]
    assert asked.all("accept-encoding") == ["identity"]
    assert asked.all("x-api-key") == ["sk-ant-test-a"]
    ours = {"accept-encoding", "x-api-key", "host", "content-length", "connection"}
    arrived = {name for name, _ in asked.pairs} - {name.replace("_", "-") for name in told_upstream}
    assert arrived <= ours


@pytest.mark.parametrize(
    ("kind", "names", "betas"),
    [
        ("api-key", {"x-api-key": "SECRET"}, ["b1"]),
        ("oauth", {"authorization": "Bearer SECRET"}, ["b1,oauth-2025-04-20"]),
        ("session-key", {"cookie": "sessionKey=SECRET"}, ["b1"]),
    ],
)
async def test_a_credential_takes_the_place_of_the_clients_key(
    kind: str, names: dict[str, str], betas: list[str]
) -> None:
    reception = Reception([answering(body=message())])
    async with serving(reception) as upstream:
        tree = house_of(upstream_account("a", upstream.port))
        tree.accounts["a"] = attrs.evolve(tree.accounts["a"], kind=kind)  # type: ignore[index]
        async with relaying(tree, credential=lambda account: Secret("SECRET")) as house:
            await house.ask(key="", authorization=f"Bearer {builders.KEY}", anthropic_beta="b1", cookie="x=y")
    asked = reception.asked[0]
    presented = {name: value for name, value in asked.pairs if name in ("x-api-key", "authorization", "cookie")}
    assert presented == names
    assert asked.all("anthropic-beta") == betas
    assert builders.KEY not in repr(asked)


@pytest.mark.parametrize("path", ["/v1/messages", "/api/v1/messages", "/v1/v1/messages", "/api/v1/v1/messages"])
async def test_every_way_to_write_the_base_url_reaches_messages(path: str) -> None:
    reception = Reception([answering(body=message())])
    async with relaying_to(reception) as house:
        assert (await house.ask(path=path)).status == 200
        counted = await house.ask(path=path + "/count_tokens?beta=true")
    assert counted.status == 200
    assert [asked.line.split()[1] for asked in reception.asked] == [
        "/v1/messages",
        "/v1/messages/count_tokens?beta=true",
    ]


async def test_a_base_urls_path_stands_before_ours_and_constant_headers_are_added() -> None:
    reception = Reception([answering(body=message())])
    async with serving(reception) as upstream:
        one = upstream_account("a", upstream.port, headers={"X-Team": "blue", "User-Agent": "fixed"})
        one = attrs.evolve(one, base_url=f"http://127.0.0.1:{upstream.port}/prefix/")
        async with relaying(house_of(one)) as house:
            await house.ask(user_agent="mine", x_team="red")
    asked = reception.asked[0]
    assert asked.line == "POST /prefix/v1/messages HTTP/1.1"
    assert (asked.all("x-team"), asked.all("user-agent")) == (["blue"], ["fixed"])


# What comes back.


async def test_an_answer_comes_back_as_the_upstream_gave_it_without_what_is_the_operators() -> None:
    body = b' {"weird":1.0e2,\n"usage":{"input_tokens":3,"output_tokens":4}}\n'
    answer = answering(
        200,
        body,
        content_type="application/json; odd=1",
        request_id="req_upstream",
        x_tomorrow="caf\xe9",
        retry_after="3",
        set_cookie="__cf=1; HttpOnly",
        anthropic_organization_id="org-1",
        anthropic_ratelimit_requests_remaining="49",
        anthropic_ratelimit_unified_5h_utilization="0.5",
        anthropic_priority_input_tokens_limit="1",
        keep_alive="timeout=4",
        cf_ray="abc",
    )
    async with relaying_to(Reception([answer])) as h:
        told = await h.ask()
        receipt = await h.receipt()
    assert (told.status, told.body) == (200, body)
    assert told["content-type"] == "application/json; odd=1"
    assert told["request-id"] == "req_upstream"
    assert told["relayd-request-id"] == receipt.call_id
    assert (told["x-tomorrow"], told["retry-after"], told["cf-ray"]) == ("caf\xe9", "3", "abc")
    gone = ("set-cookie", "anthropic-organization-id", "keep-alive")
    assert not [name for name, _ in told.pairs if name in gone or name.startswith(("anthropic-r", "anthropic-p"))]
    assert (receipt.outcome, receipt.upstream_request_id) == ("ok", "req_upstream")
    assert receipt.usage == Usage(input=3, output=4)


async def test_ids_of_an_upstream_relay_are_not_doubled() -> None:
    answer = answering(200, message(), request_id="req_1", relayd_request_id="req_theirs")
    async with relaying_to(Reception([answer])) as h:
        told = await h.ask()
        assert told["relayd-request-id"] == (await h.receipt()).call_id


async def test_an_answer_without_a_request_id_gets_ours() -> None:
    async with relaying_to(Reception([answering()])) as h:
        told = await h.ask()
        assert told["request-id"] == told["relayd-request-id"] == (await h.receipt()).call_id


@pytest.mark.parametrize("status", [400, 404, 409, 413, 418, 422])
async def test_a_clients_own_error_passes_unmodified_and_no_other_account_is_asked(status: int) -> None:
    body = b'{ "type":"error", "error":{"type":"invalid_request_error","message":"prompt is too long: 1 > 0"} }'
    first = Reception([answering(status, body, x_should_retry="false", request_id="req_u")])
    second = Reception([answering()])
    async with relaying_to(first, second) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert (told.status, told.body, told["x-should-retry"], told["request-id"]) == (status, body, "false", "req_u")
    assert (len(first.asked), len(second.asked)) == (1, 0)
    assert (receipt.outcome, tried(receipt)) == ("upstream", [("a", status)])


async def test_an_error_that_is_no_json_passes_unmodified() -> None:
    page = b"<html>\xff\xfe too large</html>"
    answer = answering(413, page, content_type="text/html")
    async with relaying_to(Reception([answer])) as h:
        told = await h.ask()
    assert (told.status, told.body, told["content-type"]) == (413, page, "text/html")


async def test_a_redirect_is_neither_followed_nor_relayed() -> None:
    elsewhere = Reception([answering()])
    async with serving(elsewhere) as other:
        answer = answering(307, b"moved", location=f"http://127.0.0.1:{other.port}/v1/messages")
        async with relaying_to(Reception([answer])) as house:
            told = await house.ask()
    assert told.error == (502, "api_error", "account a: 307 from upstream")
    assert "location" not in told
    assert elsewhere.asked == []


async def test_a_large_answer_that_is_no_stream_passes_unchanged() -> None:
    body = b'{"x":"' + b"y" * 3_000_000 + b'"}'
    async with relaying_to(Reception([answering(body=body)])) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.body == body
    assert int(told["content-length"]) == len(body)
    assert receipt.outcome == "ok"


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_stream_comes_back_byte_by_byte_the_same_however_the_upstream_chunks_it(size: int) -> None:
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    async with relaying_to(Reception([streaming(*pieces)])) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    assert told.body == STREAM
    assert told["content-type"] == "text/event-stream; charset=utf-8"
    assert told["request-id"] == "req_upstream"
    assert (receipt.outcome, receipt.stream, receipt.bytes_out) == ("ok", True, len(STREAM))
    assert receipt.usage.input > 0
    assert receipt.usage.output > 0
    assert receipt.first_byte is not None


# Failing over.


RETRIED = {
    "429": (failing(429, "rate_limit_error", retry_after="60"), 429),
    "529": (failing(529, "overloaded_error"), 529),
    "500": (failing(500), 500),
    "502 of a proxy": (answering(502, b"<html>", content_type="text/html"), 502),
    "503": (failing(503), 503),
    "504": (failing(504, "timeout_error"), 504),
    "401": (failing(401, "authentication_error"), 401),
    "403": (failing(403, "permission_error"), 403),
    "403 of a firewall": (answering(403, b"<html>Sorry, you have been blocked", content_type="text/html"), 403),
    "429 that names nothing": (failing(429, "rate_limit_error"), 429),
    "429 of a plan": (failing(429, "rate_limit_error", "Extra usage is required for long context requests."), 429),
    "400 of a closed organization": (
        failing(400, "invalid_request_error", "This organization has been disabled."),
        400,
    ),
    "404 of a model": (failing(404, "not_found_error", "model: claude-opus-9"), 404),
    "200 with an error": (answering(200, error_body("overloaded_error", "Overloaded", "req_1")), 200),
    "200 with a page": (answering(200, b"<html>welcome</html>", content_type="text/html"), 200),
    "200 with nothing": (answering(200, b""), 200),
    "first event, without a name": (streaming(FIRST_ERROR.partition(b"\n")[2]), 200),
    "overload under another status": (failing(400, "overloaded_error"), 400),
    "redirect": (answering(302, b"", location="https://elsewhere.invalid/"), 302),
    "first event": (streaming(FIRST_ERROR), 200),
    "first event, in two pieces": (streaming(FIRST_ERROR[:9], FIRST_ERROR[9:]), 200),
    "a stream that ends at once": (streaming(), 200),
    "a stream that breaks before its first event": (STREAM_HEAD + chunked(b": hello\n\n"), 0),
    "an answer that breaks": (answering(body=message())[:-5], 0),
    "no answer": (b"", 0),
    "no HTTP": (b"SSH-2.0-x\r\n\r\n", 0),
}


@pytest.mark.parametrize("fault", RETRIED)
async def test_what_another_account_may_not_suffer_is_tried_there(fault: str) -> None:
    answer, status = RETRIED[fault]

    async def breaking(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)

    good = Reception([streaming(STREAM)])
    async with relaying_to(breaking, good) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    assert (told.status, told.body) == (200, STREAM)
    assert tried(receipt) == [("a", status), ("b", 200)]
    assert (receipt.account, receipt.outcome) == ("b", "ok")
    assert good.asked[0].body == ASK_STREAM
    assert good.asked[0].all("x-api-key") == ["sk-ant-test-b"]


async def test_an_unreachable_account_is_passed_over() -> None:
    good = Reception([answering(body=message())])
    with refusing_port() as nobody:
        async with serving(good) as upstream:
            tree = house_of(upstream_account("a", nobody), upstream_account("b", upstream.port))
            async with relaying(tree) as house:
                assert (await house.ask()).body == message()
                receipt = await house.receipt()
    assert tried(receipt) == [("a", 0), ("b", 200)]
    assert receipt.attempts[0].reason == "upstream unreachable: connection refused"


async def test_an_account_whose_credential_cannot_be_had_is_passed_over() -> None:
    good = Reception([answering(body=message())])

    def credential(account: Account) -> Secret | str:
        return "credential file /run/x: no such file or directory" if account.id == "a" else credential_of(account)

    async with serving(good) as upstream:
        tree = house_of(upstream_account("a", upstream.port), upstream_account("b", upstream.port))
        async with relaying(tree, credential=credential) as house:
            assert (await house.ask()).body == message()
            receipt = await house.receipt()
            assert house.pool.defects() == {"a": "credential file /run/x: no such file or directory"}
            assert house.pool.resting("a", NOON) is None
    assert [attempt.account for attempt in receipt.attempts] == ["a", "b"]
    assert len(good.asked) == 1


async def test_an_account_that_is_silent_too_long_is_passed_over(jumping_clock: MockClock) -> None:
    good = Reception([answering(body=message())])
    async with relaying_to(silent, good, upstream=limits(plain_timeout=0.1)) as house:
        assert (await house.ask()).body == message()
        receipt = await house.receipt()
    assert tried(receipt) == [("a", 0), ("b", 200)]
    assert receipt.attempts[0].reason == "no answer from upstream in time: no answer in 0.1 s"
    assert receipt.attempts[0].seconds >= 0.1


async def test_no_more_accounts_are_tried_than_allowed_and_the_last_answer_is_passed_on_as_it_was() -> None:
    last = failing(503, "api_error", "the third", x_odd="1", retry_after="7")
    fourth = Reception([answering()])
    broken = Reception([failing(500)])
    async with relaying_to(broken, broken, Reception([last]), fourth) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.error == (503, "api_error", "the third")
    assert (told["x-odd"], told["retry-after"], told["request-id"]) == ("1", "7", "req_upstream")
    assert tried(receipt) == [("a", 500), ("b", 500), ("c", 503)]
    assert (receipt.outcome, receipt.status) == ("upstream", 503)
    assert fourth.asked == []


async def test_the_only_accounts_answer_is_passed_on_as_it_was() -> None:
    for answer in (failing(529, "overloaded_error", "Overloaded"), failing(429, "rate_limit_error", retry_after="5")):
        async with relaying_to(Reception([answer])) as house:
            told = await house.ask()
            receipt = await house.receipt()
    assert told.body == answer.partition(b"\r\n\r\n")[2]
    assert (told.status, receipt.outcome, len(receipt.attempts)) == (receipt.status, "upstream", 1)


async def test_an_error_as_the_first_event_of_the_only_account_is_answered_by_its_status() -> None:
    async with relaying_to(Reception([streaming(FIRST_ERROR)])) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    assert told.error == (529, "overloaded_error", "Overloaded")
    assert told["content-type"] == "application/json"
    assert (receipt.status, receipt.outcome) == (529, "upstream")


@pytest.mark.parametrize("broken", [b"", chunked(FIRST_ERROR)], ids=["cut", "error event"])
async def test_after_the_first_event_no_other_account_is_tried(broken: bytes) -> None:
    async def breaking(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(STREAM_HEAD + chunked(EVENTS[0]) + broken)

    other = Reception([streaming(STREAM)])
    async with relaying_to(breaking, other) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    assert told.body.startswith(EVENTS[0])
    assert error_events(told.body) == 1
    assert other.asked == []
    assert (tried(receipt), receipt.outcome) == ([("a", 200)], "cut")
    assert receipt.usage.input > 0


def swapping(house: Callable[[], House], new: Callable[[Snapshot], Snapshot]) -> Callable[[Asked], None]:
    """Puts a new config in force when a request arrives."""

    def swap(asked: Asked) -> None:
        live = house().live
        live.swap(new(live.snapshot))

    return swap


async def failing_over_a_swap(new: Callable[[Snapshot], Snapshot]) -> tuple[tuple[int, str, str], Receipt, int]:
    """The answer when `new` comes into force between two attempts, the receipt, and how often the second was asked."""
    houses: list[House] = []
    first = Reception([failing(500)], before=swapping(lambda: houses[0], new))
    second = Reception([answering()])
    async with relaying_to(first, second) as house:
        houses.append(house)
        told = await house.ask()
        return told.error, await house.receipt(), len(second.asked)


async def test_a_key_revoked_between_two_attempts_gets_no_further_one() -> None:
    def revoke(old: Snapshot) -> Snapshot:
        revoked = builders.snapshot(keys=(builders.api_key(builders.OTHER_KEY),))
        return attrs.evolve(old, keys=revoked.keys, keys_by_hash=revoked.keys_by_hash)

    error, receipt, asked = await failing_over_a_swap(revoke)
    assert error[:2] == (401, "authentication_error")
    assert (asked, tried(receipt), receipt.outcome) == (0, [("a", 500)], "refused")


async def test_an_account_disabled_between_two_attempts_is_not_tried() -> None:
    def disable(old: Snapshot) -> Snapshot:
        return attrs.evolve(old, accounts={**old.accounts, "b": attrs.evolve(old.accounts["b"], enabled=False)})

    error, receipt, asked = await failing_over_a_swap(disable)
    assert error == (500, "api_error", "no")
    assert (asked, tried(receipt)) == (0, [("a", 500)])


async def test_a_model_denied_between_two_attempts_gets_no_further_one() -> None:
    def deny(old: Snapshot) -> Snapshot:
        denied = builders.snapshot(keys=(builders.api_key(deny_models=("claude-*",)),))
        return attrs.evolve(old, keys=denied.keys, keys_by_hash=denied.keys_by_hash)

    error, receipt, asked = await failing_over_a_swap(deny)
    assert error[:2] == (403, "permission_error")
    assert (asked, tried(receipt)) == (0, [("a", 500)])


# Refusing.


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "account a: upstream closed the connection without an answer"),
        (answering(body=message())[:-5], "account a: upstream closed the connection without an answer: cut off"),
        (b"SSH-2.0-x\r\n\r\n", "account a: upstream did not speak HTTP: "),
    ],
    ids=["none", "half", "no HTTP"],
)
async def test_an_answer_that_is_none_is_a_502_that_says_why(answer: bytes, why: str) -> None:
    async def broken(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(answer)

    async with relaying_to(broken) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.error[:2] == (502, "api_error")
    assert told.error[2].startswith(why)
    assert (receipt.outcome, tried(receipt)) == ("refused", [("a", 0)])


@pytest.mark.parametrize("status", [401, 403])
async def test_a_rejected_credential_is_our_failure_and_not_the_clients(status: int) -> None:
    refusing = Reception([failing(status, "authentication_error", "invalid x-api-key sk-ant-test-a")])
    async with relaying_to(refusing) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.error[:2] == (502, "api_error")
    assert "account a" in told.error[2]
    assert "sk-ant-test" not in told.body.decode()
    assert tried(receipt) == [("a", status)]


async def test_an_upstream_that_cannot_be_reached_is_a_502() -> None:
    with refusing_port() as nobody:
        async with relaying(house_of(upstream_account("a", nobody))) as house:
            told = await house.ask()
            assert told.error == (502, "api_error", "account a: upstream unreachable: connection refused")
            assert (await house.receipt()).outcome == "refused"


async def test_an_upstream_that_gives_no_answer_in_time_is_a_504(jumping_clock: MockClock) -> None:
    async with relaying_to(silent, upstream=limits(plain_timeout=0.1)) as house:
        told = await house.ask()
    assert told.error == (504, "timeout_error", "account a: no answer from upstream in time: no answer in 0.1 s")


async def test_a_call_that_takes_too_long_in_all_is_a_504_before_its_answer_began(jumping_clock: MockClock) -> None:
    async with relaying_to(silent, upstream=limits(total_timeout=0.1)) as house:
        told = await house.ask()
        receipt = await house.receipt()
    assert told.error == (504, "timeout_error", "the call took longer than the relay's total timeout")
    assert (receipt.status, receipt.outcome) == (504, "refused")


THOUGHT = {
    "model": MODEL,
    "messages": [
        {"role": "user", "content": "x"},
        {
            "role": "assistant",
            "content": "y",
            "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "stale"}],
        },
        {"role": "user", "content": "z"},
    ],
}
STALE = failing(400, "invalid_request_error", "messages.1.content.0: Invalid `signature` in `thinking` block")


async def test_stale_thinking_of_an_openai_client_is_left_out_and_the_same_account_asked_once_more() -> None:
    reception = Reception([STALE, answering(200, message())])
    async with serving(reception) as origin, relaying(house_of(upstream_account("a", origin.port))) as house:
        told = await house.ask(msgspec.json.encode(THOUGHT), "/v1/chat/completions")
        await house.receipts.wait_for(1)
    assert (told.status, len(reception.asked)) == (200, 2)
    assert b"stale" in reception.asked[0].body
    assert b"stale" not in reception.asked[1].body
    assert told["relayd-mended"] == "thinking"
    assert [attempt.status for attempt in house.receipts.receipts[0].attempts] == [200]


async def test_stale_thinking_of_a_native_client_is_its_own() -> None:
    reception = Reception([STALE])
    async with serving(reception) as origin, relaying(house_of(upstream_account("a", origin.port))) as house:
        told = await house.ask()
    assert (told.status, len(reception.asked)) == (400, 1)


async def test_thinking_that_stays_refused_is_the_clients_to_hear_of() -> None:
    reception = Reception([STALE])
    async with serving(reception) as origin, relaying(house_of(upstream_account("a", origin.port))) as house:
        told = await house.ask(msgspec.json.encode(THOUGHT), "/v1/chat/completions")
    assert (told.status, len(reception.asked)) == (400, 2)


async def endless(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.send(STREAM_HEAD + chunked(*EVENTS[:4]))
    await conversation.until_peer_leaves()


async def test_a_call_that_takes_too_long_in_all_is_cut_with_an_error_event_after_its_answer_began(
    jumping_clock: MockClock,
) -> None:
    async with relaying_to(endless, upstream=limits(total_timeout=0.2)) as house:
        with pytest.raises(Cut) as caught:
            await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    body = caught.value.told.body
    assert body.startswith(b"".join(EVENTS[:4]))
    assert b'"type":"timeout_error"' in body
    assert b"total timeout" in body
    assert (receipt.outcome, receipt.usage.input > 0) == ("cut", True)


async def test_accounts_held_by_rate_limits_are_a_429_with_the_soonest_time(jumping_clock: MockClock) -> None:
    reception = Reception([failing(429, "rate_limit_error", retry_after="30")])
    async with relaying_to(reception) as house:
        await house.ask()
        told = await house.ask()
        receipt = await house.receipt(2)
    status, kind, text = told.error
    assert (status, kind) == (429, "rate_limit_error")
    assert "a:" in text
    assert "429 from upstream" in text
    assert 25 <= int(told["retry-after"]) <= 40
    assert len(reception.asked) == 1
    assert (receipt.outcome, tried(receipt)) == ("refused", [])


async def test_accounts_held_by_an_outage_are_a_529() -> None:
    reception = Reception([failing(529, "overloaded_error", retry_after="30")])
    async with relaying_to(reception) as house:
        await house.ask()
        told = await house.ask()
    assert told.error[:2] == (529, "overloaded_error")
    assert int(told["retry-after"]) >= 1


async def test_a_model_that_no_account_serves_is_refused_with_the_reason() -> None:
    async with relaying(house_of(builders.account(models=("claude-haiku-*",)))) as house:
        told = await house.ask()
    assert told.status >= 400
    assert MODEL in told.error[2]


@attrs.define(eq=False)
class Waiting:
    """An upstream that answers its first request late or never, tells when it has arrived, and notes when its peer has
    left. With `begin` it begins a stream."""

    begin: bool = False
    answer: bytes = b""
    arrived: trio.Event = attrs.field(factory=trio.Event)
    left: float = 0.0
    go_on: trio.Event = attrs.field(factory=trio.Event)

    async def __call__(self, conversation: Conversation) -> None:
        await conversation.request()
        if self.begin:
            await conversation.send(STREAM_HEAD + chunked(*EVENTS[:4]))
        self.arrived.set()
        if self.answer:
            await self.go_on.wait()
            await conversation.send(self.answer)
        await conversation.until_peer_leaves()
        self.left = trio.current_time()


async def test_an_account_at_its_concurrency_refuses_and_is_free_again_afterwards() -> None:
    waiting = Waiting(answer=answering(body=message(), connection="close"))
    async with serving(waiting, Reception([answering()])) as upstream, AsyncExitStack() as stack:
        one_at_a_time = upstream_account("a", upstream.port, max_concurrency=1)
        house = await stack.enter_async_context(relaying(house_of(one_at_a_time)))
        one, two = await house.connect(), await house.connect()
        await one.post()
        await waiting.arrived.wait()
        told = await two.ask()
        assert told.status in (429, 529)
        assert int(told["retry-after"]) >= 1
        waiting.go_on.set()
        assert (await one.answer()).status == 200
        assert (await two.ask()).status == 200


# The client.


@pytest.mark.parametrize("how", ["close", "reset", "half_close"])
@pytest.mark.parametrize("begun", [False, True], ids=["before headers", "in mid-stream"])
async def test_a_client_that_leaves_cancels_the_upstream_at_once(
    jumping_clock: MockClock, how: str, begun: bool
) -> None:
    waiting = Waiting(begin=begun)
    async with relaying_to(waiting) as house:
        client = await house.connect()
        await client.post(ASK_STREAM)
        await waiting.arrived.wait()
        if begun:
            await client.head()
            await client.until(EVENTS[3])
        began = trio.current_time()
        await client.leave(how)
        receipt = await house.receipt()
        assert receipt.outcome == "left"
        assert (receipt.status, receipt.usage.input > 0) == ((200, True) if begun else (499, False))
        assert house.pool.resting("a", NOON) is None
    assert waiting.left - began < 0.25


async def test_a_client_that_leaves_in_the_middle_of_its_body_costs_no_attempt() -> None:
    reception = Reception([answering()])
    async with relaying_to(reception) as house:
        client = await house.connect()
        head = f"POST /v1/messages HTTP/1.1\r\nhost: a\r\nx-api-key: {builders.KEY}\r\ncontent-length: 500\r\n\r\n"
        await client.send(head.encode() + ASK)
        await client.leave("close")
        receipt = await house.receipt()
    assert (receipt.outcome, tried(receipt), reception.asked) == ("left", [], [])


@attrs.define
class Talker:
    """An upstream that talks as fast as it is allowed to, until it is told to end."""

    piece: bytes
    sent: int = 0
    enough: bool = False

    async def __call__(self, conversation: Conversation) -> None:
        conversation._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        await conversation.request()
        await conversation.send(STREAM_HEAD + chunked(EVENTS[0]))
        while not self.enough:
            await conversation.send(chunked(self.piece))
            self.sent += 1
        await conversation.send(chunked(*EVENTS[1:]) + b"0\r\n\r\n")


async def until_it_stops(talker: Talker) -> None:
    before = -1
    while talker.sent != before:
        before = talker.sent
        assert before * len(talker.piece) < 64 << 20, "nothing holds the upstream back"
        await trio.sleep(0.1)


async def test_a_client_that_stops_reading_stops_the_upstream_and_misses_nothing(jumping_clock: MockClock) -> None:
    talker = Talker(b'event: content_block_delta\ndata: {"x":"' + b"y" * 8000 + b'"}\n\n')
    async with relaying_to(talker) as house:
        client = await house.connect(small=True)
        await client.post(ASK_STREAM)
        await client.head()
        await until_it_stops(talker)
        # Two sockets' buffers on each side of relayd and one read inside it; without back-pressure there is no end.
        assert talker.sent * len(talker.piece) < 8 << 20
        talker.enough = True
        told = await client.rest()
        receipt = await house.receipt()
    assert told.body == EVENTS[0] + talker.piece * talker.sent + b"".join(EVENTS[1:])
    assert receipt.outcome == "ok"


async def test_a_client_that_takes_no_byte_for_the_write_timeout_counts_as_gone(jumping_clock: MockClock) -> None:
    talker = Talker(b'event: content_block_delta\ndata: {"x":"' + b"y" * 60_000 + b'"}\n\n')
    async with relaying_to(talker, server=Server(write_timeout=Seconds(0.3))) as house:
        client = await house.connect(small=True)
        await client.post(ASK_STREAM)
        receipt = await house.receipt()
    assert receipt.outcome == "left"


async def test_a_silent_upstream_makes_comments_and_then_an_error_event(jumping_clock: MockClock) -> None:
    often = Server(sse_keepalive=Seconds(0.1))
    async with relaying_to(endless, server=often, upstream=limits(idle_timeout=0.35)) as house:
        told = await house.ask(ASK_STREAM)
        receipt = await house.receipt()
    rest = told.body.removeprefix(b"".join(EVENTS[:4]))
    assert rest.startswith(b": keep-alive\n\n")
    assert error_events(rest) == 1
    assert (receipt.outcome, receipt.status) == ("cut", 200)


async def test_every_call_leaves_one_receipt_whatever_became_of_it() -> None:
    async with relaying(house_of(builders.account())) as house:
        await house.ask()
        await house.ask(ASK_STREAM)
        await house.ask(b"{")
        await house.ask(key="sk-relay-x")
        await house.ask(ASK, x_simulate_status="500")
        await house.ask(ASK_STREAM, x_simulate_cut_after="3")
        await house.ask(ASK, x_simulate_drop="1")
        await house.receipt(7)
        outcomes = [receipt.outcome for receipt in house.receipts.receipts]
        statuses = [receipt.status for receipt in house.receipts.receipts]
    assert outcomes == ["ok", "ok", "refused", "refused", "upstream", "cut", "refused"]
    assert statuses == [200, 200, 400, 401, 500, 200, 502]
    assert len({receipt.call_id for receipt in house.receipts.receipts}) == 7
