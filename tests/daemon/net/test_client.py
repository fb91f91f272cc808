"""Transport on real sockets: reuse, retry, early answers, timeouts, cancellation."""

from __future__ import annotations

import math
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import pytest
import trio
from ports import refusing_port
from scripted import (
    CHUNKED,
    OK,
    Conversation,
    answering,
    answering_once,
    ask,
    back_to,
    cancelled_at,
    descriptors,
    read,
    send,
    serving,
    silent,
)
from trio.testing import MockClock

from relayd.daemon.net.client import Transport, read_at_most
from relayd.daemon.net.connect import Resolver, SocketAddress
from relayd.daemon.net.request import PlainRequest, encode, target_of
from relayd.daemon.net.transport_errors import (
    ConnectError,
    ConnectTimeout,
    LocalProtocolError,
    ReadTimeout,
    RemoteProtocolError,
    UnsupportedProtocol,
    WriteTimeout,
)

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
BIG = b"x" * 6_000_000  # more than both ends' socket buffers together


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(tls=NO_TLS, idle_expiry=math.inf)
    yield transport
    transport.close()
    assert (transport.statistics().connecting, transport.statistics().busy) == (0, 0)


# Reuse.


async def test_a_connection_serves_one_call_after_the_other(transport: Transport) -> None:
    async with serving(answering()) as upstream:
        for _ in range(3):
            assert await ask(transport, upstream.url()) == (200, b"hi")
        assert upstream.accepted == 1
        figures = transport.statistics()
        assert (figures.connected, figures.reused, figures.retried, figures.idle, figures.busy) == (1, 2, 0, 1, 0)
        transport.close()
        await upstream.all_closed()


async def test_two_calls_at_once_have_a_connection_each(transport: Transport) -> None:
    async with serving(answering()) as upstream:
        first, second = await send(transport, upstream.url()), await send(transport, upstream.url())
        assert (await read(first), await read(second)) == (b"hi", b"hi")
        assert upstream.accepted == 2


async def test_an_answer_that_is_not_read_to_its_end_costs_its_connection(transport: Transport) -> None:
    async with serving(answering(CHUNKED + b"1\r\na\r\n")) as upstream:
        response = await send(transport, upstream.url())
        response.close()
        response.close()
        await upstream.all_closed()
        assert transport.statistics().idle == 0


async def test_idle_connections_are_bounded_and_the_oldest_goes_first() -> None:
    transport = Transport(tls=NO_TLS, idle_per_origin=2)
    async with serving(answering()) as upstream:
        responses = [await send(transport, upstream.url()) for _ in range(4)]
        for response in responses:
            await read(response)
        assert transport.statistics().idle == 2
        assert upstream.accepted == 4
        transport.close()


async def test_an_expired_connection_is_not_used_and_a_sweep_closes_it(mock_clock: MockClock) -> None:
    transport = Transport(tls=NO_TLS, idle_expiry=4.0)
    async with serving(answering()) as upstream:
        await ask(transport, upstream.url())
        transport.sweep(trio.current_time() + 3.0)
        assert transport.statistics().idle == 1
        transport.sweep(trio.current_time() + 4.0)
        assert transport.statistics().idle == 0
        await upstream.all_closed()
    hasty = Transport(tls=NO_TLS, idle_expiry=0.0)
    async with serving(answering()) as upstream:
        await ask(hasty, upstream.url())
        await ask(hasty, upstream.url())
        assert upstream.accepted == 2
        hasty.close()


async def test_a_connection_is_used_only_for_its_own_origin(transport: Transport) -> None:
    async with serving(answering()) as one, serving(answering()) as other:
        for upstream in (one, other, one, other):
            await ask(transport, upstream.url())
        assert (one.accepted, other.accepted) == (1, 1)
        await ask(transport, one.url(host="localhost"))
        assert one.accepted == 2


async def test_after_close_calls_are_served_but_no_connection_is_kept(transport: Transport) -> None:
    async with serving(answering()) as upstream:
        running = await send(transport, upstream.url())
        transport.close()
        assert await read(running) == b"hi"
        assert await ask(transport, upstream.url()) == (200, b"hi")
        assert transport.statistics().idle == 0
        await upstream.all_closed()


# Stale connections.


@pytest.mark.usefixtures("both_forms")
async def test_a_connection_closed_while_idle_is_noticed_before_it_is_used(transport: Transport) -> None:
    async with serving(answering_once()) as upstream:
        await ask(transport, upstream.url())
        await upstream.all_closed()
        assert await ask(transport, upstream.url()) == (200, b"hi")
        assert transport.statistics().retried == 0


@pytest.mark.usefixtures("both_forms")
async def test_a_connection_that_spoke_unasked_is_not_used(transport: Transport) -> None:
    spoken = trio.Event()

    async def chatty(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await told.wait()
        await conversation.send(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        spoken.set()
        await conversation.until_peer_leaves()

    told = trio.Event()
    async with serving(chatty, answering()) as upstream:
        await ask(transport, upstream.url())
        told.set()
        await spoken.wait()
        assert await ask(transport, upstream.url()) == (200, b"hi")
        assert upstream.accepted == 2


def dying(how: str) -> Callable[[Conversation], Awaitable[None]]:
    """Answers one request; ends the connection at the second, before it answers."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await conversation.request()
        if how == "after a byte":
            await conversation.send(b"H")
        elif how == "after 100":
            await conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if how == "reset":
            conversation.reset()

    return script


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_reused_connection_that_dies_without_a_byte_is_replaced_once(transport: Transport, how: str) -> None:
    async with serving(dying(how), answering()) as upstream:
        await ask(transport, upstream.url())
        assert await ask(transport, upstream.url()) == (200, b"hi")
        figures = transport.statistics()
        assert (figures.retried, figures.connected, upstream.accepted) == (1, 2, 2)


async def test_a_reused_connection_that_dies_in_a_large_body_is_replaced_once(transport: Transport) -> None:
    async def dies_in_body(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await conversation.head()
        conversation.reset()

    async with serving(dies_in_body, answering()) as upstream:
        await ask(transport, upstream.url())
        assert await ask(transport, upstream.url(), body=BIG) == (200, b"hi")
        assert transport.statistics().retried == 1


@pytest.mark.parametrize("how", ["after a byte", "after 100"])
async def test_nothing_is_retried_once_a_byte_of_answer_was_read(transport: Transport, how: str) -> None:
    async with serving(dying(how), answering()) as upstream:
        await ask(transport, upstream.url())
        with pytest.raises(RemoteProtocolError, match=r"127\.0\.0\.1:\d+: cut off"):
            await ask(transport, upstream.url())
        assert upstream.accepted == 1


async def test_nothing_is_retried_on_a_fresh_connection(transport: Transport) -> None:
    async def closing(conversation: Conversation) -> None:
        await conversation.request()

    async with serving(closing) as upstream:
        with pytest.raises(RemoteProtocolError, match="closed the connection without an answer"):
            await ask(transport, upstream.url())
        assert upstream.accepted == 1


async def test_the_replacement_of_a_stale_connection_is_not_replaced_again(transport: Transport) -> None:
    async def closing(conversation: Conversation) -> None:
        await conversation.request()

    async with serving(dying("closed"), closing, answering()) as upstream:
        await ask(transport, upstream.url())
        with pytest.raises(RemoteProtocolError):
            await ask(transport, upstream.url())
        assert upstream.accepted == 2


# What is sent.


async def test_headers_go_out_as_given_and_host_and_length_are_added() -> None:
    target = target_of("http://[::1]:8080/v1/messages?beta=true")
    request = PlainRequest("POST", target, [(b"X-Api-Key", b"k"), (b"a", b"\xe9")], b"{}", {})
    assert encode(request) == (
        b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: [::1]:8080\r\nX-Api-Key: k\r\na: \xe9\r\n"
        b"content-length: 2\r\n\r\n"
    )
    given = [(b"Host", b"h"), (b"Content-Length", b"2")]
    assert encode(PlainRequest("POST", target, given, b"{}", {})).count(b"\r\n") == 4
    assert b"content-length" not in encode(PlainRequest("GET", target, [], b"", {}))
    assert b"content-length: 0" in encode(PlainRequest("POST", target, [], b"", {}))


async def test_a_length_and_a_transfer_coding_never_go_out_together() -> None:
    target = target_of("http://h/")
    head = encode(PlainRequest("POST", target, [(b"Transfer-Encoding", b"chunked")], b"{}", {}))
    assert head == b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"1\r\nx-evil: 1")],
        [(b"a", b"1\nb: 2")],
        [(b"a\r\nb", b"1")],
        [(b"a", b"\0")],
        [(b"content-length", b"3")],
        [(b"content-length", b"2"), (b"Content-Length", b"2")],
    ],
)
async def test_what_would_not_be_one_request_is_refused_without_its_values(headers: list[tuple[bytes, bytes]]) -> None:
    request = PlainRequest("POST", target_of("http://h/"), headers, b"{}", {})
    with pytest.raises(LocalProtocolError) as caught:
        encode(request)
    assert "evil" not in str(caught.value)


async def test_an_url_without_http_is_refused(transport: Transport) -> None:
    with pytest.raises(UnsupportedProtocol):
        await ask(transport, httpx2.URL("ftp://user:secret@h/"))


@pytest.mark.parametrize("base", ["http://h", "https://H.Example:8443/base/", "http://[::1]:80", "https://h:443/a%20b"])
@pytest.mark.parametrize(
    "path", ["", "/v1/messages?beta=true", "/v1/x?a=%41&b={c}|`d`[e]&f", '/v1/a"b{c}?"d"<e>', "/?a=/b?c"]
)
def test_a_url_says_to_us_what_it_says_to_httpx2(base: str, path: str) -> None:
    url, target = httpx2.URL(base + path), target_of(base + path)
    assert (target.path, target.host) == (url.raw_path, url.netloc)
    assert target.origin == (url.scheme, url.host, url.port or {"http": 80, "https": 443}[url.scheme])


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://", "/v1", "http://h:x/", "http://[::1/", "http://h:99999/", "http://ü/"]
)
def test_what_is_no_url_of_ours_is_refused_without_being_quoted(url: str) -> None:
    with pytest.raises(UnsupportedProtocol, match=r"^url: not a URL we can call"):
        target_of(url)


# Answers.


async def test_body_that_came_with_the_head_is_there_without_another_wait(transport: Transport) -> None:
    async with serving(answering()) as upstream:
        response = await send(transport, upstream.url())
        assert response.take() == b"hi"
        assert response.take() == b""
        response.close()


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"])
async def test_an_answer_byte_by_byte_is_the_same(transport: Transport, answer: bytes) -> None:
    async def slow(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.bytewise(answer)

    async with serving(slow) as upstream:
        for _ in range(2):
            assert await ask(transport, upstream.url()) == (200, b"hi")
        assert upstream.accepted == 1


async def test_redirects_and_cookies_are_passed_on_and_not_acted_on(transport: Transport) -> None:
    answer = b"HTTP/1.1 307 Go\r\nlocation: http://127.0.0.1:1/\r\nset-cookie: a=b\r\ncontent-length: 0\r\n\r\n"
    heads: list[bytes] = []

    async def moved(conversation: Conversation) -> None:
        while head := await conversation.request():
            heads.append(head)
            await conversation.send(answer)

    async with serving(moved) as upstream:
        for _ in range(2):
            assert await ask(transport, upstream.url()) == (307, b"")
        assert b"cookie" not in heads[1].lower()


async def test_no_proxy_comes_from_the_environment(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(answering()) as upstream:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert await ask(transport, upstream.url()) == (200, b"hi")


@pytest.mark.usefixtures("both_forms")
async def test_an_unread_body_makes_the_upstream_wait(transport: Transport) -> None:
    stuck = trio.Event()

    async def flooding(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BIG))
        with trio.move_on_after(0.2) as scope:
            await conversation.send(BIG)
        assert scope.cancelled_caught
        stuck.set()

    async with serving(flooding) as upstream:
        response = await send(transport, upstream.url())
        piece = response.take()
        assert piece is None or len(piece) <= 65536
        with trio.fail_after(30):
            await stuck.wait()
        response.close()


@pytest.mark.usefixtures("both_forms")
async def test_an_early_answer_to_a_large_body_is_noticed(transport: Transport) -> None:
    async def too_large(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await trio.sleep_forever()  # reads no further

    async with serving(too_large) as upstream:
        with trio.fail_after(30):
            assert await ask(transport, upstream.url(), body=BIG) == (413, b"no")
        assert transport.statistics().idle == 0


async def test_an_early_answer_before_a_reset_is_still_read(transport: Transport) -> None:
    async def too_large(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")

    async with serving(too_large) as upstream:
        with trio.fail_after(30):
            assert await ask(transport, upstream.url(), body=BIG) == (413, b"no")


async def test_a_continue_in_the_middle_of_a_large_body_stops_nothing(transport: Transport) -> None:
    async def continuing(conversation: Conversation) -> None:
        head = await conversation.head()
        await conversation.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert len(await conversation.exactly(len(BIG))) == len(BIG)
        assert b"content-length: %d\r\n" % len(BIG) in head
        await conversation.send(OK)
        await conversation.until_peer_leaves()

    async with serving(continuing) as upstream:
        assert await ask(transport, upstream.url(), body=BIG) == (200, b"hi")
        assert transport.statistics().idle == 1


@pytest.mark.parametrize(("head", "body"), [(10, 65_536), (10, 65_537), (10, len(BIG)), (len(BIG), 65_537)])
async def test_head_and_body_come_whole_and_in_order_wherever_the_kernel_stops_taking(
    transport: Transport, head: int, body: int
) -> None:
    sent = random.Random(body).randbytes(body)
    got: list[bytes] = []

    async def hearing(conversation: Conversation) -> None:
        got.append(await conversation.request())
        await conversation.send(OK)
        await conversation.until_peer_leaves()

    async with serving(hearing) as upstream:
        request = PlainRequest("POST", target_of(str(upstream.url())), [(b"x-long", b"y" * head)], sent, {})
        answer = await transport.ask(request)
        answer.close()
    (whole,) = got
    assert whole.endswith(b"\r\n\r\n" + sent)
    assert b"\r\nx-long: " + b"y" * head + b"\r\n" in whole


# Timeouts.


async def test_a_silent_upstream_is_a_read_timeout(transport: Transport) -> None:
    async with serving(silent) as upstream:
        with pytest.raises(ReadTimeout, match=r"^http://127\.0\.0\.1:\d+: no answer in 0\.05 s$"):
            await ask(transport, upstream.url(), timeout={"first_byte": 0.05})
        await upstream.all_closed()


async def test_a_head_that_never_ends_is_a_read_timeout(transport: Transport) -> None:
    async def dripping(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\nx: y\r\n")
        while True:
            await conversation.send(b"a")
            await trio.sleep(0.01)

    async with serving(dripping) as upstream:
        with pytest.raises(ReadTimeout):
            await ask(transport, upstream.url(), timeout={"first_byte": 0.1})


@pytest.mark.usefixtures("both_forms")
async def test_an_upstream_that_takes_no_more_is_a_write_timeout(transport: Transport) -> None:
    async def deaf(conversation: Conversation) -> None:
        await conversation.head()
        await trio.sleep_forever()

    async with serving(deaf) as upstream:
        with pytest.raises(WriteTimeout, match=r"took no byte of the request for 0\.1 s"):
            await ask(transport, upstream.url(), body=BIG, timeout={"write": 0.1})
        assert transport.statistics().busy == 0


async def test_a_connection_that_does_not_come_about_is_a_connect_timeout() -> None:
    async def look_up(host: str, port: int) -> list[SocketAddress]:
        await trio.sleep_forever()
        return []

    transport = Transport(tls=NO_TLS, resolver=Resolver(look_up=look_up))
    with pytest.raises(ConnectTimeout, match=r"^http://name\.test:80: not connected in 0\.05 s$"):
        await ask(transport, httpx2.URL("http://name.test/"), timeout={"connect": 0.05})
    assert transport.statistics().connecting == 0


async def test_nobody_listening_is_a_connect_error(transport: Transport) -> None:
    with (
        refusing_port() as port,
        pytest.raises(ConnectError, match=r"^http://127\.0\.0\.1:\d+: connection refused$"),
    ):
        await ask(transport, httpx2.URL(f"http://127.0.0.1:{port}/"))


async def test_error_texts_show_neither_headers_nor_the_urls_credentials(transport: Transport) -> None:
    async with serving(silent) as upstream:
        url = httpx2.URL(f"http://user:hunter2@127.0.0.1:{upstream.port}/?key=hunter2")
        with pytest.raises(ReadTimeout) as caught:
            await ask(transport, url, headers=[(b"x-api-key", b"hunter2")], timeout={"first_byte": 0.02})
        assert "hunter2" not in repr(caught.value)


# Cancellation.


@pytest.mark.usefixtures("both_forms")
async def test_cancelling_any_wait_of_a_call_leaves_nothing_open() -> None:
    async def slow(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.bytewise(CHUNKED)
            await conversation.bytewise(b"5\r\nhello\r\n0\r\n\r\n")

    async def look_up(host: str, port: int) -> list[SocketAddress]:
        await trio.sleep(0.001)
        return [(2, ("127.0.0.1", port))]  # type: ignore[list-item]

    async with serving(slow) as upstream:
        step, cancelled = 0, True
        while cancelled:
            step += 1
            before = descriptors()
            transport = Transport(tls=NO_TLS, resolver=Resolver(look_up=look_up))
            url = upstream.url(host="name.test")
            cancelled = await cancelled_at(step, lambda t=transport, u=url: ask(t, u, body=BIG))
            figures = transport.statistics()
            assert (figures.connecting, figures.busy) == (0, 0)
            assert figures.idle == (0 if cancelled else 1)
            transport.close()
            await back_to(before)
        assert step > 10


@pytest.mark.usefixtures("both_forms")
async def test_many_calls_with_random_cancels_leave_a_transport_that_works(transport: Transport) -> None:
    rng = random.Random(7)

    async def slow(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.bytewise(CHUNKED + b"5\r\nhello\r\n")
            await trio.sleep(0.001)
            await conversation.send(b"0\r\n\r\n")

    async def worker(delays: list[float]) -> None:
        for delay in delays:
            with trio.move_on_after(delay):
                assert await ask(transport, upstream.url()) == (200, b"hello")

    before = descriptors()
    async with serving(slow) as upstream:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(worker, [rng.uniform(0, 0.02) for _ in range(20)])
        figures = transport.statistics()
        assert (figures.connecting, figures.busy) == (0, 0)
        assert await ask(transport, upstream.url()) == (200, b"hello")
        transport.close()
    await back_to(before)


# Reading no more than is wanted.


async def test_at_most_so_many_bytes_are_read(transport: Transport) -> None:
    for answer, body in (
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(BIG) + BIG, BIG[:100_000]),
        (OK, b"hi"),
    ):
        async with serving(answering(answer)) as upstream:
            assert await read_at_most(await send(transport, upstream.url()), 100_000) == body
