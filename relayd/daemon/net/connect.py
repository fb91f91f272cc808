"""Connecting upstream: from an origin to a connected Stream, by way of name look-up, TCP, maybe a proxy, and TLS.

Rule: nothing here knows HTTP beyond the CONNECT of a proxy, reads the environment, or retries. Every socket that is
not handed over is closed, whatever stops it. The caller sets the deadline.

Theory: names are looked up rarely and by at most one task at a time for each name; the last good answer outlives the
resolver. Addresses are tried in turn, the one that worked last time first, so that a broken address family costs its
bounded wait once and not with every connection (RFC 8305 races them; a relay with few origins can remember instead).
"""

from __future__ import annotations

import base64
import errno
import math
import os
import re
import socket
import ssl
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import attrs
import trio

from relayd.config.environment import NO_SOCKS
from relayd.daemon.net.polled_stream import open_stream
from relayd.daemon.net.stream import Stream, send_all, tune
from relayd.daemon.net.tls import TlsStream
from relayd.noun import noun

# A name is looked up again after this long, s. Cloud front doors announce records of 60 to 300 s; half of the shortest.
NAME_TTL = 30.0
# How long a look-up may take while an older answer is at hand, s: glibc asks a second name server only after 5 s.
REFRESH_TIMEOUT = 2.0
# How long one address of several may take, s: the SYN and its repeats after 1 s and 3 s (RFC 6298 section 2).
ADDRESS_TIMEOUT = 3.5
# The head of a proxy's answer to CONNECT, bytes. Real ones are some hundred.
PROXY_HEAD_LIMIT = 16384

SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]
LookUp = Callable[[str, int], Awaitable[list[SocketAddress]]]


class ConnectFailed(Exception):
    """No connection. The text names the origin and the cause, never a credential."""


class ProxyRefused(ConnectFailed):
    """The proxy could not be used, or it would not connect us."""


class Exhausted(ConnectFailed):
    """This process or its machine has no descriptor or memory left for a connection: nobody else is to blame."""


_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})  # ENOSPC: epoll watches


class Origin(NamedTuple):
    """Where a connection leads. A tuple, because it is looked up in a dict with every call."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{authority(self.host, self.port)}"


def authority(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class PackageMissing(ProxyRefused):
    """This node lacks what the proxy needs: nobody was asked."""


class NameUnknown(OSError):
    """A name look-up failed."""


@noun(kw_only=True)
class ProxyServer:
    """A proxy from its URL. `scheme`: http, https or socks5."""

    scheme: str
    host: str
    port: int
    user: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)

    @property
    def origin(self) -> Origin:
        return Origin(self.scheme, self.host, self.port)


PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080}


def parse_proxy(url: str) -> ProxyServer:
    """Read a proxy URL. Raises: ValueError, whose text quotes no part that could hold a credential."""
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
        host = parts.hostname
    except ValueError:
        raise ValueError("proxy: not a URL (want scheme://[user:password@]host:port)") from None
    if parts.scheme not in PROXY_PORTS:
        raise ValueError("proxy: unknown scheme (want http://, https:// or socks5://)")
    if not host:
        raise ValueError("proxy: no host (want scheme://[user:password@]host:port)")
    user = urllib.parse.unquote(parts.username or "")
    password = urllib.parse.unquote(parts.password or "")
    if parts.scheme == "socks5":
        _check_socks_credentials(user, password)
    return ProxyServer(
        scheme=parts.scheme, host=host, port=port or PROXY_PORTS[parts.scheme], user=user, password=password
    )


def _check_socks_credentials(user: str, password: str) -> None:
    """Both or neither, at most 255 bytes each (RFC 1929 section 2), and ASCII, which is all python-socks sends."""
    if bool(user) != bool(password):
        raise ValueError("proxy: socks5 wants user and password, or neither (RFC 1929)")
    if not (user + password).isascii() or max(len(user), len(password)) > 255:
        raise ValueError("proxy: socks5 wants user and password in ASCII of at most 255 characters each (RFC 1929)")


def cause(exc: OSError) -> str:
    """Why, in a few words of the system's own."""
    if isinstance(exc, NameUnknown | socket.gaierror):
        return f"dns: {(exc.strerror or 'failed').lower()}"
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"tls: certificate not trusted: {exc.verify_message.lower().rstrip('.')}"
    if isinstance(exc, ssl.SSLEOFError):
        return "tls: cut without close_notify"
    if isinstance(exc, ssl.SSLError):
        return f"tls: {(exc.reason or 'failed').replace('_', ' ').lower()}"
    return (exc.strerror or type(exc).__name__).lower()


async def system_look_up(host: str, port: int) -> list[SocketAddress]:
    """The addresses of a name, as the system knows them. Raises: OSError."""
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or longer than 63 bytes
        raise NameUnknown(0, "not a host name") from None
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


@attrs.define(eq=False)
class ResolvedName:
    """What is known about a name. Times are trio's, s."""

    addresses: list[SocketAddress] = attrs.field(factory=list)
    expires: float = -math.inf
    failure: str = ""  # of the last look-up, when nothing is known
    asked: int = 0  # look-ups so far
    turn: trio.Lock = attrs.field(factory=trio.Lock)


class Resolver:
    """Names to addresses, remembered. Names come from the config, so their number needs no bound.

    Args:
        look_up: asks the system. Raises: OSError.
    """

    def __init__(self, *, look_up: LookUp = system_look_up, ttl: float = NAME_TTL) -> None:
        self._look_up = look_up
        self._ttl = ttl
        self._entries: dict[tuple[str, int], ResolvedName] = {}

    async def resolve(self, host: str, port: int) -> list[SocketAddress]:
        """Addresses of `host`, best first; at least one. Raises: OSError when it has none and never had one."""
        entry = self._entries.setdefault((host, port), ResolvedName())
        now, asked = trio.current_time(), entry.asked
        if now >= entry.expires and not (entry.addresses and entry.turn.locked()):
            async with entry.turn:  # one asks; the others wait, and take its answer or its failure for theirs
                if entry.asked != asked and entry.failure:
                    raise NameUnknown(0, entry.failure)
                if now >= entry.expires:
                    await self._refresh(entry, host, port)
        return list(entry.addresses)

    async def _refresh(self, entry: ResolvedName, host: str, port: int) -> None:
        found: list[SocketAddress] = []
        failure = "no address for this name"
        with trio.move_on_after(REFRESH_TIMEOUT if entry.addresses else math.inf):
            try:
                found = await self._look_up(host, port)
            except OSError as exc:
                if not entry.addresses and exc.errno in _SHORTAGE:
                    raise _shortage(exc) from exc
                failure = (exc.strerror or type(exc).__name__).lower()
        entry.asked += 1
        if found:
            first = entry.addresses[:1]  # what worked last time keeps its place
            entry.addresses = [a for a in first if a in found] + [a for a in found if a not in first]
        elif not entry.addresses:
            entry.failure = failure
            raise NameUnknown(0, failure)
        entry.failure = ""
        # An old answer is good for as long again: the resolver is spared, too.
        entry.expires = trio.current_time() + self._ttl

    def prefer(self, host: str, port: int, address: SocketAddress) -> None:
        """Try `address`, which has just worked, first from now on."""
        entry = self._entries.get((host, port))
        if entry is not None and address in entry.addresses:
            entry.addresses.remove(address)
            entry.addresses.insert(0, address)


async def connect(
    origin: Origin, *, tls: ssl.SSLContext, resolver: Resolver, proxy: ProxyServer | None = None
) -> Stream:
    """A connected Stream to `origin`, TLS included where its scheme is https.

    Raises: ConnectFailed; ProxyRefused when a proxy is in the way; Exhausted when this node itself cannot connect.
        Nothing is left open then, nor on cancellation.
    """
    stream = await (
        _connect_direct(origin, resolver) if proxy is None else _connect_by_proxy(origin, proxy, tls, resolver)
    )
    if origin.scheme != "https":
        return stream
    try:
        return await _secure(stream, origin.host, tls)
    except OSError as exc:
        raise ConnectFailed(f"{origin}: {cause(exc)}") from exc


async def _secure(stream: Stream, host: str, context: ssl.SSLContext) -> Stream:
    """TLS over `stream`, which is closed on failure. Raises: OSError."""
    try:
        secured = TlsStream(stream, context, host)
        await secured.handshake()
    except BaseException:
        stream.close()
        raise
    return secured


async def _connect_direct(origin: Origin, resolver: Resolver) -> Stream:
    try:
        return _stream_of(await try_addresses(origin.host, origin.port, resolver, connect_tcp))
    except OSError as exc:
        raise ConnectFailed(f"{origin}: {cause(exc)}") from exc


async def _connect_by_proxy(origin: Origin, proxy: ProxyServer, tls: ssl.SSLContext, resolver: Resolver) -> Stream:
    """A Stream that a proxy has connected to `origin`. The proxy looks the origin's name up."""
    try:
        if proxy.scheme == "socks5":
            return await _connect_by_socks5(origin, proxy, resolver)
        stream: Stream = _stream_of(await try_addresses(proxy.host, proxy.port, resolver, connect_tcp))
        if proxy.scheme == "https":
            stream = await _secure(stream, proxy.host, tls)
    except OSError as exc:
        raise ProxyRefused(f"{origin}: proxy {proxy.origin}: {cause(exc)}") from exc
    try:
        await _ask_connect(stream, origin, proxy)
    except BaseException as exc:
        stream.close()
        if isinstance(exc, OSError):
            raise ProxyRefused(f"{origin}: proxy {proxy.origin}: {cause(exc)}") from exc
        raise
    return stream


async def try_addresses(
    host: str, port: int, resolver: Resolver, attempt: Callable[[SocketAddress], Awaitable[socket.socket]]
) -> socket.socket:
    """The first address of `host` that answers. Raises: OSError, that of the last one."""
    addresses = await resolver.resolve(host, port)
    for address in addresses[:-1]:
        with trio.move_on_after(ADDRESS_TIMEOUT):
            try:
                sock = await attempt(address)
            except OSError:
                continue  # the last address's error is as good as any, and the caller can act on only one
            resolver.prefer(host, port, address)
            return sock
    return await attempt(addresses[-1])


def _shortage(exc: OSError) -> Exception:
    """What an OSError means: what we have run out of, else itself."""
    return Exhausted(f"this node cannot open a connection: {cause(exc)}") if exc.errno in _SHORTAGE else exc


def _stream_of(sock: socket.socket) -> Stream:
    """A Stream over a connected socket, which is closed where that fails. Raises: OSError, Exhausted."""
    try:
        return open_stream(sock)
    except OSError as exc:
        raise _shortage(exc) from exc


async def connect_tcp(address: SocketAddress) -> socket.socket:
    """A connected, tuned socket. Raises: OSError, Exhausted."""
    family, target = address
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        raise _shortage(exc) from exc
    try:
        tune(sock)
        error = sock.connect_ex(target)
        if error == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


async def _ask_connect(stream: Stream, origin: Origin, proxy: ProxyServer) -> None:
    """HTTP CONNECT (RFC 9110 section 9.3.6). Raises: OSError, ProxyRefused."""
    target = authority(origin.host, origin.port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user or proxy.password:
        pair = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode("ascii")  # RFC 7617 section 2.1
        lines.append(f"Proxy-Authorization: Basic {pair}")
    await send_all(stream, ("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    head, surplus = await _read_head(stream)
    where = f"{origin}: proxy {proxy.origin}"
    status = re.match(rb"HTTP/1\.[01] (\d{3})(?!\d)", head)
    if status is None:
        raise ProxyRefused(f"{where}: no HTTP answer to CONNECT (is this an HTTP proxy?)")
    code = int(status[1])
    if code == 407:
        hint = "not these" if proxy.user else "none were given"
        raise ProxyRefused(f"{where}: status 407: it wants user and password, and {hint} (see the account's proxy)")
    if not 200 <= code < 300:
        raise ProxyRefused(f"{where}: refused CONNECT with status {code}")
    if surplus:
        raise ProxyRefused(f"{where}: spoke before we did")


async def _read_head(stream: Stream) -> tuple[bytes, bytes]:
    """Bytes up to the empty line, and those after it. Raises: OSError at an end before that, or beyond the limit."""
    read = b""
    while b"\r\n\r\n" not in read:
        data = stream.recv()
        if data is None:
            await stream.readable()
            continue
        if not data or len(read) + len(data) > PROXY_HEAD_LIMIT:
            raise OSError(0, "closed the connection" if not data else "answer too long")
        read += data
    head, _, surplus = read.partition(b"\r\n\r\n")
    return head, surplus


async def _connect_by_socks5(origin: Origin, proxy: ProxyServer, resolver: Resolver) -> Stream:
    """SOCKS5 (RFC 1928, RFC 1929) by python-socks. Raises: OSError, ProxyRefused."""
    where = f"{origin}: proxy {proxy.origin}"
    try:
        import python_socks
        from python_socks.async_.trio import Proxy as SocksProxy
    except ImportError:
        raise PackageMissing(f"{where}: {NO_SOCKS}") from None

    async def attempt(address: SocketAddress) -> socket.socket:
        host = str(address[1][0])
        socks = SocksProxy(python_socks.ProxyType.SOCKS5, host, proxy.port, proxy.user, proxy.password, rdns=True)
        outer = await socks.connect(origin.host, origin.port, timeout=math.inf)
        sock = socket.socket(fileno=outer.detach())
        try:
            tune(sock)
        except OSError:
            sock.close()
            raise
        return sock

    try:
        return _stream_of(await try_addresses(proxy.host, proxy.port, resolver, attempt))
    except python_socks.ProxyConnectionError as exc:
        raise OSError(exc.errno or 0, str(exc)) from exc
    except python_socks.ProxyError as exc:
        raise ProxyRefused(f"{where}: {str(exc).lower()}") from exc
