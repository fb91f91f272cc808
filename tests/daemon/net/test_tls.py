"""TlsStream: in memory at random cuts, and on real sockets against another TLS implementation's server side."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import (
    CHUNKED,
    OK,
    Conversation,
    answering,
    ask,
    back_to,
    cancelled_at,
    descriptors,
    send,
    serving,
)

from relayd.daemon.net.client import Transport
from relayd.daemon.net.tls import TlsStream, shared_context
from relayd.daemon.net.transport_errors import ConnectError, ConnectTimeout, RemoteProtocolError

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("localhost", "proxy.test")


def server_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CERTIFICATE.configure_cert(context)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["http/1.1"])
    CA.configure_trust(context)
    return context


CLIENT = client_context()
SERVER = server_context("http/1.1")


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport(tls=CLIENT, idle_expiry=math.inf)
    yield transport
    transport.close()


# In memory.


class Peer:
    """A Stream to a TLS server in memory. Ciphertext moves `step` bytes at a time, and not at all every other time."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.read = b""
        self.closed = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._to_client = b""
        self.tls = SERVER.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.agreed = False
        self._balk = False

    def work(self) -> None:
        """Let the server side do what it can."""
        try:
            if not self.agreed:
                self.tls.do_handshake()
                self.agreed = True
            while piece := self.tls.read(65536):
                self.read += piece
        except ssl.SSLWantReadError:
            pass
        self._to_client += self._outgoing.read()

    def recv(self) -> bytes | None:
        self.work()
        self._balk = not self._balk
        if self._balk or not self._to_client:
            return None
        piece, self._to_client = self._to_client[: self.step], self._to_client[self.step :]
        return piece

    def send(self, data: bytes | memoryview) -> int:
        self._balk = not self._balk
        taken = 0 if self._balk else self._incoming.write(bytes(data[: self.step]))
        self.work()
        return taken

    def send_two(self, head: bytes, body: bytes) -> int:
        return self.send(head + body)

    async def readable(self) -> None:
        self.work()
        if not self._to_client:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()

    async def writable(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        self.work()
        self.closed = True

    def fileno(self) -> int:
        return -1 if self.closed else 99


def connected(step: int) -> tuple[TlsStream, Peer]:
    peer = Peer(step)
    stream = TlsStream(peer, CLIENT, "localhost")
    trio.run(stream.handshake)
    return stream, peer


def receive(stream: TlsStream, size: int) -> bytes:
    read = b""
    for _ in range(200_000):
        if len(read) >= size:
            break
        read += stream.recv() or b""
    return read


@settings(deadline=None, max_examples=15)
@given(st.integers(40, 5000), st.lists(st.integers(0, 40000), min_size=1, max_size=4))
def test_text_arrives_whole_both_ways_whatever_the_ciphertext_is_cut_into(step: int, sizes: list[int]) -> None:
    stream, peer = connected(step)
    sent = b"".join(bytes([index % 256]) * size for index, size in enumerate(sizes))
    rest = memoryview(sent)
    for _ in range(200_000):
        if not rest:
            break
        rest = rest[stream.send(rest) :]
    assert peer.read == sent
    for size in sizes:
        if size:
            peer.tls.write(b"y" * size)
    assert receive(stream, len(sent)) == b"y" * len(sent)
    assert stream.recv() is None


def test_a_handshake_works_byte_by_byte() -> None:
    stream, peer = connected(1)
    assert stream.send(b"x") in (0, 1)
    assert peer.agreed


def test_text_counts_as_taken_only_when_its_ciphertext_has_left() -> None:
    stream, peer = connected(1000)
    counts = [stream.send(b"a" * 3000) for _ in range(2)]
    while not counts[-1]:
        counts.append(stream.send(b"a" * 3000))
    assert sum(counts) == 3000
    assert peer.read == b"a" * 3000


def test_close_notify_with_the_last_text_ends_the_stream_without_another_read() -> None:
    stream, peer = connected(65536)
    peer.tls.write(b"bye")
    with pytest.raises(ssl.SSLWantReadError):
        peer.tls.unwrap()
    assert receive(stream, 3) == b"bye"

    async def wait_and_read() -> bytes | None:
        with trio.fail_after(30):
            await stream.readable()
        return stream.recv()

    assert trio.run(wait_and_read) == b""
    assert stream.recv() == b""


def test_closing_says_close_notify_and_is_idempotent() -> None:
    stream, peer = connected(65536)
    while peer.tls.pending() or stream.recv():
        pass
    stream.close()
    stream.close()
    assert peer.closed
    assert stream.fileno() == -1
    assert peer.tls.read(1) == b""  # close_notify is there; without it this raises SSLWantReadError


# The trust policy.


def test_the_shared_context_verifies_and_is_made_once() -> None:
    context = shared_context()
    assert context is shared_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_another_authority_is_trusted_from_a_file_and_no_key_log_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    CA.cert_pem.write_to_path(tmp_path / "ca.pem")
    transport = Transport(tls=shared_context(str(tmp_path / "ca.pem")))
    async with serving(answering(), tls=SERVER) as upstream:
        assert await ask(transport, upstream.url(scheme="https", host="localhost")) == (200, b"hi")
        transport.close()
    assert not (tmp_path / "keys").exists()


def test_a_missing_authority_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shared_context(str(tmp_path / "none.pem"))


# On sockets.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_tls_connection_is_kept_in_spite_of_session_tickets(
    transport: Transport, version: ssl.TLSVersion
) -> None:
    context = server_context("h2", "http/1.1")
    context.minimum_version = context.maximum_version = version
    async with serving(answering(), tls=context) as upstream:
        for _ in range(3):
            assert await ask(transport, upstream.url(scheme="https", host="localhost")) == (200, b"hi")
        assert upstream.accepted == 1


async def test_server_name_and_http_1_1_are_announced(transport: Transport) -> None:
    names: list[str | None] = []
    protocols: list[str | None] = []
    context = server_context("h2", "http/1.1")
    context.sni_callback = lambda _socket, name, _context: names.append(name)

    async def noting(conversation: Conversation) -> None:
        await conversation.request()
        assert isinstance(conversation.stream, trio.SSLStream)
        protocols.append(conversation.stream.selected_alpn_protocol())
        await conversation.send(OK)
        await conversation.until_peer_leaves()

    async with serving(noting, tls=context) as upstream:
        await ask(transport, upstream.url(scheme="https", host="localhost"))
    assert (names, protocols) == (["localhost"], ["http/1.1"])


@pytest.mark.usefixtures("both_forms")
async def test_a_large_body_and_a_large_answer_pass_through_tls(transport: Transport) -> None:
    body = bytes(range(256)) * 8000

    async def echoing(conversation: Conversation) -> None:
        request = await conversation.request()
        echo = request.partition(b"\r\n\r\n")[2]
        await conversation.send(CHUNKED + b"%x\r\n" % len(echo) + echo + b"\r\n0\r\n\r\n")
        await conversation.until_peer_leaves()

    async with serving(echoing, tls=SERVER) as upstream:
        url = upstream.url(scheme="https", host="localhost")
        assert await ask(transport, url, body=body) == (200, body)
        assert transport.statistics().idle == 1


async def test_a_certificate_for_another_name_is_refused(transport: Transport) -> None:
    async with serving(answering(), tls=SERVER) as upstream:
        with pytest.raises(ConnectError, match=r"^https://127\.0\.0\.1:\d+: tls: certificate not trusted: .*mismatch"):
            await ask(transport, upstream.url(scheme="https"))
        await upstream.all_closed()


async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    transport = Transport(tls=shared_context())
    async with serving(answering(), tls=SERVER) as upstream:
        with pytest.raises(ConnectError, match=r"localhost:\d+: tls: certificate not trusted: "):
            await ask(transport, upstream.url(scheme="https", host="localhost"))
        await upstream.all_closed()


async def test_an_upstream_that_does_not_speak_tls_is_a_connect_error(transport: Transport) -> None:
    async def plain(conversation: Conversation) -> None:
        await conversation.more()
        await conversation.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with serving(plain) as upstream:
        with pytest.raises(ConnectError, match=r"localhost:\d+: tls: "):
            await ask(transport, upstream.url(scheme="https", host="localhost"))


async def test_an_upstream_that_leaves_during_the_handshake_is_a_connect_error(transport: Transport) -> None:
    async def leaving(conversation: Conversation) -> None:
        await conversation.more()

    async with serving(leaving) as upstream:
        with pytest.raises(ConnectError, match="tls: closed during the handshake"):
            await ask(transport, upstream.url(scheme="https", host="localhost"))


async def test_a_handshake_that_stalls_is_a_connect_timeout(transport: Transport) -> None:
    async def stalling(conversation: Conversation) -> None:
        await trio.sleep_forever()

    async with serving(stalling) as upstream:
        with pytest.raises(ConnectTimeout):
            await ask(transport, upstream.url(scheme="https", host="localhost"), timeout={"connect": 0.05})


@pytest.mark.parametrize("polite", [True, False])
async def test_a_body_until_close_is_whole_only_with_close_notify(transport: Transport, polite: bool) -> None:
    async def until_close(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        if not polite:
            conversation.cut()
            return
        assert isinstance(conversation.stream, trio.SSLStream)
        with trio.move_on_after(30):
            await conversation.stream.unwrap()

    async with serving(until_close, tls=SERVER) as upstream:
        url = upstream.url(scheme="https", host="localhost")
        if polite:
            assert await ask(transport, url) == (200, b"hello")
            return
        with pytest.raises(RemoteProtocolError, match="cut without close_notify"):
            await ask(transport, url)


async def test_cancelling_any_wait_of_a_tls_call_leaves_nothing_open() -> None:
    async def slow(conversation: Conversation) -> None:
        while await conversation.request():
            await conversation.bytewise(CHUNKED + b"1\r\na\r\n0\r\n\r\n")

    async with serving(slow, tls=SERVER) as upstream:
        step, cancelled = 0, True
        while cancelled:
            step += 1
            before = descriptors()
            transport = Transport(tls=CLIENT)
            url = upstream.url(scheme="https", host="localhost")
            cancelled = await cancelled_at(step, lambda t=transport, u=url: ask(t, u, body=b"x" * 3_000_000))
            figures = transport.statistics()
            assert (figures.connecting, figures.busy, figures.idle) == (0, 0, 0 if cancelled else 1)
            transport.close()
            await back_to(before)
        assert step > 10


async def test_a_stale_tls_connection_is_replaced(transport: Transport) -> None:
    async def dying(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.send(OK)
        await conversation.request()
        conversation.cut()

    async with serving(dying, answering(), tls=SERVER) as upstream:
        url = upstream.url(scheme="https", host="localhost")
        for _ in range(2):
            response = await send(transport, url)
            assert response.take() == b"hi"
            response.close()
        assert (upstream.accepted, transport.statistics().retried) == (2, 1)
