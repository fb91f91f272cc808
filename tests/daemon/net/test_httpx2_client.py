"""The transport under httpx2's own client, on real sockets: bodies, reuse, errors, timeouts, cancellation."""

from __future__ import annotations

import gzip
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import httpx2
import pytest
import trio
from ports import refusing_port
from scripted import (
    CHUNKED,
    OK,
    PATIENCE,
    Conversation,
    Script,
    answering,
    answering_once,
    back_to,
    cancelled_at,
    descriptors,
    serving,
    silent,
)
from trio.testing import MockClock

from relayd.daemon.net.client import Transport
from relayd.daemon.net.connect import Resolver, SocketAddress
from relayd.daemon.net.httpx2_transport import Httpx2Transport, open_client

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
PATIENT = httpx2.Timeout(PATIENCE)
BIG = b"x" * 6_000_000  # more than both ends' socket buffers together


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(tls=NO_TLS, idle_expiry=math.inf)
    yield transport
    assert (transport.statistics().connecting, transport.statistics().busy, transport.statistics().idle) == (0, 0, 0)


@pytest.fixture
async def client(transport: Transport) -> AsyncIterator[httpx2.AsyncClient]:
    async with open_client(transport, PATIENT) as client:
        yield client


def sized(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n") -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


async def echo(conversation: Conversation) -> None:
    """Answers each request with its own bytes."""
    while request := await conversation.request():
        await conversation.send(sized(request))


# Requests and answers.


async def test_calls_one_after_the_other_share_a_connection(client: httpx2.AsyncClient, transport: Transport) -> None:
    async with serving(answering()) as upstream:
        for _ in range(3):
            response = await client.post(upstream.url(), json={"a": 1})
            assert (response.status_code, response.text) == (200, "hi")
        assert upstream.accepted == 1
        assert transport.statistics().reused == 2


async def test_a_kept_connection_that_the_upstream_has_closed_is_replaced(client: httpx2.AsyncClient) -> None:
    async with serving(answering_once(), answering()) as upstream:
        assert (await client.get(upstream.url())).text == "hi"
        await upstream.all_closed()
        assert (await client.get(upstream.url())).text == "hi"


@pytest.mark.parametrize("size", [0, 1, 70_000, 300_000])
async def test_a_body_arrives_as_it_was_given(client: httpx2.AsyncClient, size: int) -> None:
    async with serving(echo) as upstream:
        response = await client.put(upstream.url(), content=b"b" * size)
        head, _, body = response.content.partition(b"\r\n\r\n")
        assert body == b"b" * size
        assert head.lower().count(b"content-length: %d" % size) == 1


async def test_a_body_given_in_pieces_goes_whole_with_its_length(client: httpx2.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async with serving(echo) as upstream:
        request = (await client.post(upstream.url(), content=pieces())).content
        assert request.endswith(b"\r\n\r\none two")
        assert b"content-length: 7\r\n" in request
        assert b"transfer-encoding" not in request.lower()


async def test_the_request_says_nothing_that_was_not_asked_for(client: httpx2.AsyncClient) -> None:
    async with serving(echo) as upstream:
        request = (await client.get(upstream.url("/v1/models?limit=1"))).text
        line, *fields = request.rstrip("\r\n").split("\r\n")
        assert line == "GET /v1/models?limit=1 HTTP/1.1"
        names = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        assert names.keys() == {"host", "accept", "accept-encoding", "connection", "user-agent"}
        assert names["accept-encoding"] == "identity"


async def test_the_head_of_an_answer_has_no_body(client: httpx2.AsyncClient, transport: Transport) -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")) as upstream:
        for _ in range(2):
            response = await client.head(upstream.url())
            assert (response.headers["content-length"], response.content) == ("99", b"")
        assert transport.statistics().reused == 1


@pytest.mark.parametrize(
    "answer",
    [
        sized(b"hello"),
        CHUNKED + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello"),
        b"HTTP/1.1 200 OK\r\n\r\nhello",
    ],
    ids=["sized", "chunked", "after 100 Continue", "until close"],
)
async def test_every_framing_is_read_whole_even_byte_by_byte(client: httpx2.AsyncClient, answer: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.bytewise(answer)

    async with serving(script) as upstream:
        assert (await client.get(upstream.url())).text == "hello"


async def test_a_stream_is_handed_on_piece_by_piece(client: httpx2.AsyncClient) -> None:
    heard = trio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED + b"7\r\nevent 1\r\n")
        await heard.wait()
        await conversation.send(b"7\r\nevent 2\r\n0\r\n\r\n")

    async with serving(script) as upstream, client.stream("GET", upstream.url()) as response:
        pieces = []
        async for piece in response.aiter_raw():
            pieces.append(piece)
            heard.set()
        assert pieces == [b"event 1", b"event 2"]


async def test_lines_of_a_stream_are_put_together_by_the_client(client: httpx2.AsyncClient) -> None:
    answer = CHUNKED + b"3\r\na\nb\r\n4\r\nc\nd\n\r\n0\r\n\r\n"
    async with serving(answering(answer)) as upstream, client.stream("GET", upstream.url()) as response:
        assert [line async for line in response.aiter_lines()] == ["a", "bc", "d"]


async def test_an_answer_that_is_left_early_does_not_keep_its_connection(client: httpx2.AsyncClient) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED + b"1\r\na\r\n")
        await conversation.until_peer_leaves()

    async with serving(script) as upstream:
        async with client.stream("GET", upstream.url()) as response, aclosing(response.aiter_raw()) as pieces:
            assert await anext(pieces) == b"a"
        await upstream.all_closed()


async def test_the_end_of_the_client_closes_what_is_idle(transport: Transport) -> None:
    async with serving(answering()) as upstream:
        async with open_client(transport, PATIENT) as client:
            await client.get(upstream.url())
            assert transport.statistics().idle == 1
        await upstream.all_closed()


# What the client must not do by itself.


@pytest.mark.parametrize("location", [b"/elsewhere", b"http://127.0.0.1:1/", b"https://other.invalid/"])
async def test_no_redirect_is_followed(client: httpx2.AsyncClient, location: bytes) -> None:
    answer = sized(b"", b"HTTP/1.1 307 Away\r\nlocation: " + location + b"\r\n")
    async with serving(answering(answer)) as upstream:
        response = await client.post(upstream.url(), content=b"{}")
        assert (response.status_code, response.history) == (307, [])
        assert upstream.accepted == 1


async def test_no_cookie_is_kept(client: httpx2.AsyncClient) -> None:
    async def script(conversation: Conversation) -> None:
        while request := await conversation.request():
            head = b"HTTP/1.1 200 OK\r\nset-cookie: session=1; Path=/\r\nset-cookie2: other=2\r\n"
            await conversation.send(sized(request, head))

    async with serving(script) as upstream:
        for _ in range(2):
            assert "cookie" not in (await client.get(upstream.url())).text.lower()
        assert len(client.cookies) == 0


async def test_the_environment_is_not_asked(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with serving(echo) as upstream, open_client(transport, PATIENT) as client:
        assert "authorization" not in (await client.get(upstream.url())).text.lower()


async def test_raw_bytes_are_not_decompressed(client: httpx2.AsyncClient) -> None:
    packed = gzip.compress(b"hello")
    answer = sized(packed, b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n")
    async with serving(answering(answer)) as upstream, client.stream("GET", upstream.url()) as response:
        assert b"".join([piece async for piece in response.aiter_raw()]) == packed


async def test_requests_of_any_make_are_sent(transport: Transport) -> None:
    seen: list[bytes] = []

    async def keeping(conversation: Conversation) -> None:
        while request := await conversation.request():
            seen.append(request.partition(b"\r\n\r\n")[2])
            await conversation.send(OK)

    async def pieces():  # type: ignore[no-untyped-def]
        yield b"o"
        yield b"ne"

    async with serving(keeping) as upstream:
        async with Httpx2Transport(transport) as adapted:
            for content in (b"one", pieces()):
                request = httpx2.Request("POST", upstream.url(), content=content)
                assert await (await adapted.handle_async_request(request)).aread() == b"hi"
        assert seen == [b"one", b"one"]
        assert upstream.accepted == 1


# Errors are httpx2's own, and name the request.


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        (answering_once(b""), httpx2.RemoteProtocolError, "closed the connection without an answer"),
        (answering_once(sized(b"hello")[:-2]), httpx2.RemoteProtocolError, "cut off"),
        (answering_once(CHUNKED + b"5\r\nhello\r\n"), httpx2.RemoteProtocolError, "cut off"),
        (answering_once(CHUNKED + b"zz\r\n"), httpx2.RemoteProtocolError, "broken answer"),
        (answering_once(b"SSH-2.0-x\r\n"), httpx2.RemoteProtocolError, "broken answer"),
    ],
    ids=["no answer", "short", "no last chunk", "bad chunk", "not HTTP"],
)
async def test_a_broken_answer_is_a_protocol_error(
    client: httpx2.AsyncClient, script: Script, error: type[httpx2.TransportError], text: str
) -> None:
    async with serving(script) as upstream:
        with pytest.raises(error, match=text) as caught:
            await client.post(upstream.url(), content=b"{}")
        assert caught.value.request.url == upstream.url()
        await upstream.all_closed()


async def test_a_reset_in_the_body_is_a_read_error(client: httpx2.AsyncClient) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED + b"1\r\na\r\n")
        await heard.wait()
        conversation.reset()

    heard = trio.Event()
    async with (
        serving(script) as upstream,
        client.stream("GET", upstream.url()) as response,
        aclosing(response.aiter_raw()) as pieces,
    ):
        assert await anext(pieces) == b"a"
        heard.set()
        with pytest.raises(httpx2.ReadError):
            await anext(pieces)


async def test_a_port_where_nobody_listens_is_a_connect_error(client: httpx2.AsyncClient) -> None:
    with refusing_port() as port, pytest.raises(httpx2.ConnectError, match="refused") as caught:
        await client.get(f"http://127.0.0.1:{port}/")
    assert caught.value.request.method == "GET"


async def test_a_url_that_is_not_http_is_an_unsupported_protocol(client: httpx2.AsyncClient) -> None:
    with pytest.raises(httpx2.UnsupportedProtocol):
        await client.get("ftp://127.0.0.1/")


async def test_a_proxy_that_refuses_is_a_proxy_error() -> None:
    async with serving(answering_once(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n")) as proxy:
        transport = Transport(tls=NO_TLS, proxy=f"http://127.0.0.1:{proxy.port}")
        async with open_client(transport, PATIENT) as client:
            with pytest.raises(httpx2.ProxyError, match="407"):
                await client.get("http://upstream.invalid/")


# Timeouts.


async def _never(host: str, port: int) -> list[SocketAddress]:
    await trio.sleep_forever()
    raise AssertionError


async def _cut_short(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.send(CHUNKED + b"1\r\na\r\n")
    await conversation.until_peer_leaves()


async def _deaf(conversation: Conversation) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("script", "limit", "content", "error"),
    [
        (silent, "read", b"{}", httpx2.ReadTimeout),
        (_cut_short, "read", b"{}", httpx2.ReadTimeout),
        (_deaf, "write", BIG, httpx2.WriteTimeout),
    ],
    ids=["no head", "no further piece", "takes no byte"],
)
async def test_each_timeout_of_the_client_is_kept(
    transport: Transport, script: Script, limit: str, content: bytes, error: type[httpx2.TimeoutException]
) -> None:
    timeout = httpx2.Timeout(None, **{limit: 0.05})
    async with serving(script) as upstream, open_client(transport, timeout) as client:
        with trio.fail_after(PATIENCE), pytest.raises(error):
            await client.post(upstream.url(), content=content)


async def test_a_connect_timeout_counts_the_look_up() -> None:
    transport = Transport(tls=NO_TLS, resolver=Resolver(look_up=_never))
    async with open_client(transport, httpx2.Timeout(None, connect=0.05)) as client:
        with trio.fail_after(PATIENCE), pytest.raises(httpx2.ConnectTimeout):
            await client.get("http://upstream.invalid/")


async def test_a_slow_stream_that_goes_on_is_no_timeout(jumping_clock: MockClock, transport: Transport) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(CHUNKED)
        for _ in range(10):
            await trio.sleep(0.05)
            await conversation.send(b"1\r\na\r\n")
        await conversation.send(b"0\r\n\r\n")

    async with serving(script) as upstream, open_client(transport, httpx2.Timeout(None, read=0.4)) as client:
        assert (await client.get(upstream.url())).text == "a" * 10


# Cancellation.


async def _whole(client: httpx2.AsyncClient, url: httpx2.URL) -> None:
    await client.post(url, content=BIG)


async def _streamed(client: httpx2.AsyncClient, url: httpx2.URL) -> None:
    async with client.stream("POST", url, content=b"{}") as response:
        async for _ in response.aiter_raw():
            pass


@pytest.mark.parametrize("act", [_whole, _streamed])
async def test_cancelled_in_any_wait_nothing_stays_open(
    act: Callable[[httpx2.AsyncClient, httpx2.URL], Awaitable[None]],
) -> None:
    async def script(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.bytewise(CHUNKED + b"2\r\nhi\r\n0\r\n\r\n")

    async with serving(script) as upstream:
        before, cancelled = descriptors(), 0
        for step in range(1, 40):
            transport = Transport(tls=NO_TLS)
            async with open_client(transport, PATIENT) as client:
                done = not await cancelled_at(step, lambda client=client: act(client, upstream.url()))  # type: ignore[misc]
                assert (transport.statistics().connecting, transport.statistics().busy) == (0, 0)
            await upstream.all_closed()
            await back_to(before)
            cancelled += not done
        assert cancelled


async def test_after_a_cancelled_call_the_next_one_is_served(client: httpx2.AsyncClient) -> None:
    asked = trio.Event()

    async def hearing(conversation: Conversation) -> None:
        await conversation.request()
        asked.set()
        await conversation.until_peer_leaves()

    async with serving(hearing, answering(OK)) as upstream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, upstream.url())
            await asked.wait()
            nursery.cancel_scope.cancel()
        assert (await client.get(upstream.url())).text == "hi"
