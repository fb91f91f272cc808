"""Connecting: name look-up, addresses in turn, proxies."""

from __future__ import annotations

import base64
import errno
import math
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable

import httpx2
import pytest
import trio
import trio.testing
import trustme
from ports import refusing_port
from scripted import Conversation, Script, Upstream, answering, ask, back_to, cancelled_at, descriptors, serving

from relayd.daemon.net.client import Transport
from relayd.daemon.net.connect import (
    ADDRESS_TIMEOUT,
    NAME_TTL,
    PROXY_HEAD_LIMIT,
    REFRESH_TIMEOUT,
    Exhausted,
    Origin,
    Resolver,
    SocketAddress,
    authority,
    connect,
    connect_tcp,
    parse_proxy,
    try_addresses,
)
from relayd.daemon.net.poller import Poller
from relayd.daemon.net.transport_errors import ConnectError, ConnectTimeout, ProxyError

CA = trustme.CA()
SERVER = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CA.issue_cert("localhost").configure_cert(SERVER)
CLIENT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
CA.configure_trust(CLIENT)

ONE: SocketAddress = (socket.AF_INET, ("192.0.2.1", 443))
TWO: SocketAddress = (socket.AF_INET6, ("2001:db8::2", 443, 0, 0))
THREE: SocketAddress = (socket.AF_INET, ("192.0.2.3", 443))


class Names:
    """A name server: answers what it is told to, after `delay` s. An OSError is raised; None is no answer ever."""

    def __init__(self, *answers: list[SocketAddress] | OSError | None, delay: float = 0.01) -> None:
        self.answers = list(answers)
        self.delay = delay
        self.asked = 0

    async def look_up(self, host: str, port: int) -> list[SocketAddress]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        await trio.sleep(math.inf if answer is None else self.delay)
        if isinstance(answer, OSError):
            raise answer
        return list(answer or [])


DOWN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


# Names.


async def test_a_name_is_asked_for_once_within_its_time(autojump_clock: trio.testing.MockClock) -> None:
    names = Names([ONE], [TWO])
    resolver = Resolver(look_up=names.look_up)
    assert await resolver.resolve("a", 443) == [ONE]
    await trio.sleep(NAME_TTL - 1)
    assert await resolver.resolve("a", 443) == [ONE]
    assert names.asked == 1
    await trio.sleep(1)
    assert await resolver.resolve("a", 443) == [TWO]


async def test_many_who_ask_at_once_share_one_look_up(autojump_clock: trio.testing.MockClock) -> None:
    names = Names([ONE])
    resolver = Resolver(look_up=names.look_up)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(resolver.resolve, "a", 443)
    assert names.asked == 1


async def test_many_who_ask_at_once_share_one_failure_and_the_next_asks_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names(DOWN)
    resolver = Resolver(look_up=names.look_up)
    texts: list[str] = []

    async def fail() -> None:
        with pytest.raises(OSError) as caught:
            await resolver.resolve("a", 443)
        texts.append(str(caught.value.strerror))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(fail)
    assert names.asked == 1
    assert set(texts) == {"temporary failure in name resolution"}
    await fail()
    assert names.asked == 2


async def test_when_the_one_who_asks_is_cancelled_another_asks(autojump_clock: trio.testing.MockClock) -> None:
    names = Names(None, [ONE])
    resolver = Resolver(look_up=names.look_up)
    found: list[list[SocketAddress]] = []

    async def first() -> None:
        with trio.move_on_after(1):
            await resolver.resolve("a", 443)

    async def second() -> None:
        await trio.sleep(0.5)
        found.append(await resolver.resolve("a", 443))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        nursery.start_soon(second)
    assert found == [[ONE]]


@pytest.mark.parametrize("trouble", [DOWN, None, []])
async def test_a_known_name_outlives_the_name_server(
    autojump_clock: trio.testing.MockClock, trouble: list[SocketAddress] | OSError | None
) -> None:
    names = Names([ONE], trouble)
    resolver = Resolver(look_up=names.look_up)
    await resolver.resolve("a", 443)
    await trio.sleep(NAME_TTL)
    begin = trio.current_time()
    assert await resolver.resolve("a", 443) == [ONE]
    assert trio.current_time() - begin <= REFRESH_TIMEOUT + 0.001
    assert await resolver.resolve("a", 443) == [ONE]
    assert names.asked == 2


async def test_only_one_waits_while_a_known_name_is_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    names = Names([ONE], None)
    resolver = Resolver(look_up=names.look_up)
    await resolver.resolve("a", 443)
    await trio.sleep(NAME_TTL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(resolver.resolve, "a", 443)
        await trio.testing.wait_all_tasks_blocked()
        begin = trio.current_time()
        assert await resolver.resolve("a", 443) == [ONE]
        assert trio.current_time() == begin
        nursery.cancel_scope.cancel()


async def test_a_name_without_address_is_an_error(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(OSError, match="no address for this name"):
        await Resolver(look_up=Names([]).look_up).resolve("a", 443)


@pytest.mark.parametrize("host", ["a" * 64 + ".test", "a..test"])
async def test_what_is_no_host_name_is_a_connect_error(host: str) -> None:
    transport = Transport(tls=CLIENT)
    with pytest.raises(ConnectError):
        await ask(transport, httpx2.URL(f"http://{host}/"))


async def test_the_system_knows_localhost() -> None:
    addresses = await Resolver().resolve("localhost", 80)
    assert (socket.AF_INET, ("127.0.0.1", 80)) in addresses


# Addresses.


class Wire:
    """Stands for the network: who answers, who refuses; all others never say anything."""

    def __init__(self, *, answers: set[SocketAddress], refuses: set[SocketAddress] = frozenset()) -> None:  # type: ignore[assignment]
        self.answers = answers
        self.refuses = refuses
        self.tried: list[SocketAddress] = []
        self.socket = socket.socket()

    async def connect(self, address: SocketAddress) -> socket.socket:
        self.tried.append(address)
        await trio.sleep(0.01)
        if address in self.refuses:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if address not in self.answers:
            await trio.sleep_forever()
        return self.socket


async def connect_over(wire: Wire, resolver: Resolver) -> float:
    """Connect once; how long it took, s."""
    begin = trio.current_time()
    with wire.socket:
        assert await try_addresses("a", 443, resolver, wire.connect) is wire.socket
    return trio.current_time() - begin


async def test_a_silent_address_costs_its_bounded_wait_only_once(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver(look_up=Names([TWO, ONE, THREE]).look_up)
    wire = Wire(answers={ONE})
    assert await connect_over(wire, resolver) == pytest.approx(ADDRESS_TIMEOUT, abs=0.1)
    assert wire.tried == [TWO, ONE]
    again = Wire(answers={ONE})
    assert await connect_over(again, resolver) < 0.1
    assert again.tried == [ONE]
    await trio.sleep(NAME_TTL)
    later = Wire(answers={ONE})
    await connect_over(later, resolver)
    assert later.tried == [ONE]  # a new look-up does not forget it


async def test_a_refusing_address_is_passed_over_at_once(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Resolver(look_up=Names([TWO, ONE]).look_up)
    assert await connect_over(Wire(answers={ONE}, refuses={TWO}), resolver) < 0.1


async def test_when_all_refuse_the_last_error_is_told(autojump_clock: trio.testing.MockClock) -> None:
    wire = Wire(answers=set(), refuses={ONE, TWO})
    with wire.socket, pytest.raises(ConnectionRefusedError):
        await try_addresses("a", 443, Resolver(look_up=Names([TWO, ONE]).look_up), wire.connect)
    assert wire.tried == [TWO, ONE]


async def test_connected_sockets_do_not_block_and_do_not_collect_small_writes() -> None:
    async with serving(answering()) as upstream:
        sock = await connect_tcp((socket.AF_INET, ("127.0.0.1", upstream.port)))
        with sock:
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert str(Origin("https", "2001:db8::2", 443)) == "https://[2001:db8::2]:443"
    assert authority("a", 1) == "a:1"


# Proxy URLs.


def test_a_proxy_url_is_read_with_its_default_port_and_unquoted_credentials() -> None:
    proxy = parse_proxy("socks5://us%40er:p%3Aw@proxy.test")
    assert (proxy.scheme, proxy.host, proxy.port, proxy.user, proxy.password) == (
        "socks5",
        "proxy.test",
        1080,
        "us@er",
        "p:w",
    )
    assert parse_proxy("http://[::1]:8080").host == "::1"
    assert (parse_proxy("http://p").port, parse_proxy("https://p").port) == (80, 443)
    assert "p:w" not in repr(proxy)
    assert "us@er" not in repr(proxy)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://u:hunter2@p", "unknown scheme"),
        ("hunter2", "unknown scheme"),
        ("http://u:hunter2@", "no host"),
        ("http://u:hunter2@p:99999", "not a URL"),
        ("http://u:hunter2@[p", "not a URL"),
        ("socks5://hunter2@p", "user and password, or neither"),
        ("socks5://u:hunter2%C3%A9@p", "ASCII"),
        ("socks5://u:" + "hunter2" * 40 + "@p", "255"),
    ],
)
def test_a_bad_proxy_url_is_refused_without_being_quoted(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        Transport(tls=CLIENT, proxy=url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


# Proxies.


async def splice(conversation: Conversation, port: int) -> None:
    """Be a tunnel to 127.0.0.1:port until one end closes."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as other, trio.open_nursery() as nursery:

        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            try:
                while data := await source.receive_some(65536):
                    await sink.send_all(data)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(pump, conversation.stream, other)
        nursery.start_soon(pump, other, conversation.stream)


Tunnel = Callable[[Upstream, str], Script]


def http_proxy(upstream: Upstream, credentials: str) -> Script:
    """An HTTP proxy that connects to `upstream` whatever it is asked for; `credentials`: user:password, or ""."""

    async def script(conversation: Conversation) -> None:
        head = await conversation.head()
        assert head.startswith(
            b"CONNECT localhost:%d HTTP/1.1\r\nHost: localhost:%d\r\n" % (upstream.port, upstream.port)
        )
        expected = b"Proxy-Authorization: Basic " + base64.b64encode(credentials.encode()) + b"\r\n"
        if credentials and expected not in head:
            await conversation.send(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
            return
        await conversation.bytewise(b"HTTP/1.1 200 Connection established\r\nvia: x\r\n\r\n")
        await splice(conversation, upstream.port)

    return script


def socks_proxy(upstream: Upstream, credentials: str) -> Script:
    """A SOCKS5 proxy, likewise (RFC 1928, RFC 1929)."""

    async def script(conversation: Conversation) -> None:
        _, count = await conversation.exactly(2)
        methods = await conversation.exactly(count)
        method = 2 if credentials else 0
        if method not in methods:
            await conversation.send(b"\x05\xff")
            return
        await conversation.send(bytes([5, method]))
        if credentials:
            _, size = await conversation.exactly(2)
            user = await conversation.exactly(size)
            (size,) = await conversation.exactly(1)
            given = user + b":" + await conversation.exactly(size)
            await conversation.send(b"\x01\x00" if given.decode() == credentials else b"\x01\x01")
        assert await conversation.exactly(4) == b"\x05\x01\x00\x03"
        (size,) = await conversation.exactly(1)
        assert await conversation.exactly(size + 2) == b"localhost" + upstream.port.to_bytes(2, "big")
        await conversation.bytewise(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
        await splice(conversation, upstream.port)

    return script


TUNNELS: dict[str, Tunnel] = {"http": http_proxy, "https": http_proxy, "socks5": socks_proxy}


@pytest.mark.parametrize("credentials", ["", "user:p%40ss"])
@pytest.mark.parametrize("scheme", TUNNELS)
@pytest.mark.parametrize("secure", [False, True])
async def test_calls_go_through_a_proxy_and_its_connections_are_kept(
    scheme: str, credentials: str, secure: bool
) -> None:
    async with serving(answering(), tls=SERVER if secure else None) as upstream:
        script = TUNNELS[scheme](upstream, credentials.replace("%40", "@"))
        async with serving(script, tls=SERVER if scheme == "https" else None) as proxy:
            login = f"{credentials}@" if credentials else ""
            transport = Transport(tls=CLIENT, proxy=f"{scheme}://{login}localhost:{proxy.port}", idle_expiry=math.inf)
            url = upstream.url(scheme="https" if secure else "http", host="localhost")
            for _ in range(2):
                assert await ask(transport, url) == (200, b"hi")
            assert (proxy.accepted, upstream.accepted) == (1, 1)
            transport.close()


def saying(data: bytes) -> Script:
    async def script(conversation: Conversation) -> None:
        await conversation.more()
        await conversation.send(data)

    return script


async def refused_by(script: Script, scheme: str, *, login: str = "user:hunter2@") -> str:
    """The text of the ProxyError that a call through `script` ends with."""
    async with serving(script) as proxy:
        transport = Transport(tls=CLIENT, proxy=f"{scheme}://{login}127.0.0.1:{proxy.port}")
        with pytest.raises(ProxyError) as caught:
            await ask(transport, httpx2.URL("https://api.test/"))
        await proxy.all_closed()
    text = str(caught.value)
    assert text.startswith(f"https://api.test:443: proxy {scheme}://127.0.0.1:{proxy.port}: ")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in repr(chain)
        chain = chain.__cause__ or chain.__context__
    return text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "status 407: it wants user and password, and not these",
        ),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", "refused CONNECT with status 403"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nHello", "spoke before we did"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\na: " + b"x" * PROXY_HEAD_LIMIT, "answer too long"),
    ],
)
async def test_an_http_proxy_that_does_not_connect_is_a_proxy_error(data: bytes, why: str) -> None:
    assert why in await refused_by(saying(data), "http")


async def test_a_407_without_credentials_says_so() -> None:
    script = saying(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
    assert "none were given" in await refused_by(script, "http", login="")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x05\xff", "no acceptable authentication methods"),
        (b"\x05\x02\x01\x01", "authentication failure"),
        (b"\x05\x00\x05\x05\x00\x01\0\0\0\0\0\0", "connection refused by destination host"),
        (b"HTTP/1.1 400 Bad Request\r\n", "unexpected socks version number"),
        (b"\x05", "closed"),
    ],
)
async def test_a_socks_proxy_that_does_not_connect_is_a_proxy_error(data: bytes, why: str) -> None:
    assert why in await refused_by(saying(data), "socks5")


@pytest.mark.parametrize("scheme", TUNNELS)
async def test_a_proxy_that_is_not_there_is_a_proxy_error(scheme: str) -> None:
    with refusing_port() as port:
        transport = Transport(tls=CLIENT, proxy=f"{scheme}://user:hunter2@127.0.0.1:{port}")
        with pytest.raises(ProxyError, match="refused") as caught:
            await ask(transport, httpx2.URL("https://api.test/"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("scheme", TUNNELS)
async def test_a_proxy_that_says_nothing_is_a_connect_timeout(scheme: str) -> None:
    async def mute(conversation: Conversation) -> None:
        await conversation.until_peer_leaves()

    async with serving(mute) as proxy:
        transport = Transport(tls=CLIENT, proxy=f"{scheme}://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectTimeout):
            await ask(transport, httpx2.URL("https://api.test/"), timeout={"connect": 0.05})
        await proxy.all_closed()


async def test_socks_without_python_socks_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "python_socks"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "python_socks", None)  # what Python itself notes of a module that must not load
    transport = Transport(tls=CLIENT, proxy="socks5://127.0.0.1:1")
    with pytest.raises(ProxyError, match=r"pip install python-socks"):
        await ask(transport, httpx2.URL("https://api.test/"))


@pytest.mark.parametrize("scheme", TUNNELS)
async def test_cancelling_any_wait_of_a_call_through_a_proxy_leaves_nothing_open(scheme: str) -> None:
    act: Callable[[], Awaitable[object]]
    async with serving(answering(), tls=SERVER) as upstream:
        script = TUNNELS[scheme](upstream, "u:p")
        async with serving(script, tls=SERVER if scheme == "https" else None) as proxy:
            step, cancelled = 0, True
            while cancelled:
                step += 1
                before = descriptors()
                transport = Transport(tls=CLIENT, proxy=f"{scheme}://u:p@localhost:{proxy.port}")
                url = upstream.url(scheme="https", host="localhost")
                act = lambda t=transport, u=url: ask(t, u)  # noqa: E731
                cancelled = await cancelled_at(step, act)
                figures = transport.statistics()
                assert (figures.connecting, figures.busy, figures.idle) == (0, 0, 0 if cancelled else 1)
                transport.close()
                await back_to(before)
            assert step > 5


async def test_a_socket_that_the_system_will_not_watch_is_this_nodes_own_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(poller: Poller, number: int, told: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")  # fs.epoll.max_user_watches

    async with serving(answering()) as upstream:
        before = descriptors()
        monkeypatch.setattr(Poller, "add", full)
        with pytest.raises(Exhausted, match="this node cannot open a connection"):
            await connect(
                Origin("http", "127.0.0.1", upstream.port), tls=ssl.create_default_context(), resolver=Resolver()
            )
        await back_to(before)
