"""Upstreams: which transport serves which account, and what came of asking.

Rule: an answer that did not come is a value (`Unreachable`), for the caller to decide on. Transports are kept by what
they connect through (the proxy), not by account or config generation, so that a reload leaves connections alone.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.config.environment import NO_SOCKS, has_socks
from relayd.config.secrets.account_kinds import ACCOUNT_KINDS
from relayd.config.snapshot import Account, Snapshot, Upstream
from relayd.core.balancing.outcomes import ConnectionFault, NodeDefect, Unreachable
from relayd.core.outbound import Outbound
from relayd.daemon.net.client import Transport
from relayd.daemon.net.connect import PackageMissing, Resolver
from relayd.daemon.net.request import PlainRequest, RequestTarget, target_of
from relayd.daemon.net.stream import BodySource
from relayd.daemon.net.transport_errors import (
    ConnectError,
    ConnectTimeout,
    Disconnected,
    NoDescriptors,
    ProtocolError,
    ProxyError,
    RemoteProtocolError,
    TimeoutException,
    TransportError,
)
from relayd.noun import noun
from relayd.wire.blot import SHORTEST, Blotter, blotted
from relayd.wire.content_coding import CODINGS, CodingDamaged, PieceDecoder, coding_of
from relayd.wire.http import Headers

if TYPE_CHECKING:
    from relayd.daemon.accounts.simulator import SimulatorTransport

DECODED_PIECE = 256 << 10  # bytes of an answer that are decoded at once
SWEEP = 2.0  # s between looks at idle connections, which live for 4 s


@noun(kw_only=True)
class Inbound:
    """An upstream's answer: the head is here, the body is still to be taken from `source`."""

    status: int
    headers: Headers
    source: BodySource


@attrs.define(eq=False)
class Upstreams:
    """The transports of this process."""

    tls: Callable[[], ssl.SSLContext]
    wall: Callable[[], float]
    _resolver: Resolver = attrs.field(factory=Resolver)
    _by_proxy: dict[str, Transport] = attrs.field(factory=dict)
    _simulators: dict[str, SimulatorTransport] = attrs.field(factory=dict)

    async def open(
        self, account: Account, outbound: Outbound, limits: Upstream, *, first_byte: float, repeatable: bool = True
    ) -> Inbound | Unreachable | NodeDefect:
        """Send one attempt and wait for the head of its answer.

        The caller closes `Inbound.source`. Cancellation closes the connection.

        Args:
            first_byte: s from the request sent to the head of its answer.
            repeatable: as in `PlainRequest`.
        """
        timeout = {"connect": limits.connect_timeout, "write": limits.idle_timeout, "first_byte": first_byte}
        try:
            target = target_at(outbound.base_url, outbound.target)
            request = PlainRequest(
                outbound.method, target, outbound.headers, outbound.body, timeout, repeatable=repeatable
            )
            answer = await self.transport(account).ask(request)
        except TransportError as error:
            return unreachable(error, outbound.credential)
        inbound = without_coding(
            Inbound(
                status=answer.status,
                headers=Headers(answer.headers),  # both transports give lower-case names
                source=answer,
            )
        )
        return inbound if len(outbound.credential) < SHORTEST else without_echo(inbound, outbound.credential)

    def transport(self, account: Account) -> Transport | SimulatorTransport:
        """The transport that serves `account`; one for each proxy, and one for each simulated account."""
        if ACCOUNT_KINDS[account.kind].in_process:
            simulator = self._simulators.get(account.id)
            if simulator is None or simulator.settings != account.simulator:
                simulator = self._simulators[account.id] = self._new_simulator(account)
            return simulator
        transport = self._by_proxy.get(account.proxy)
        if transport is None:
            transport = self._by_proxy[account.proxy] = Transport(
                tls=self.tls(), proxy=account.proxy, resolver=self._resolver
            )
        return transport

    def _new_simulator(self, account: Account) -> SimulatorTransport:
        from relayd.daemon.accounts.simulator import SimulatorTransport

        return SimulatorTransport(account.simulator, self.wall)

    async def keep_tidy(self) -> None:
        """Close idle connections soon after they have expired, for ever."""
        while True:
            await trio.sleep(SWEEP)
            for transport in self._by_proxy.values():
                transport.sweep(trio.current_time())

    def keep_only(self, snapshot: Snapshot) -> None:
        """Forget what no account connects through any more. Calls in flight keep their connections to the end."""
        self._simulators = {name: one for name, one in self._simulators.items() if name in snapshot.accounts}
        wanted = {account.proxy for account in snapshot.accounts.values()}
        for proxy in self._by_proxy.keys() - wanted:
            self._by_proxy.pop(proxy).close()

    def close(self) -> None:
        """Close every idle connection; those in use close with their calls."""
        for transport in self._by_proxy.values():
            transport.close()


def without_coding(inbound: Inbound) -> Inbound:
    """An answer as it was asked for: as it is. One that came compressed all the same is decoded, for it has to be read
    (its usage, its errors, our credential in it), and a stream gets comments between its events."""
    headers = inbound.headers
    if b"content-encoding" not in headers or (coding := coding_of(headers)) not in CODINGS:
        return inbound
    plain = [pair for pair in headers if pair[0] not in (b"content-encoding", b"content-length")]
    source = DecodedBody(inbound.source, PieceDecoder(coding))
    return Inbound(status=inbound.status, headers=Headers(plain), source=source)


@attrs.define(eq=False)
class _ChangedBody:
    """What a BodySource is whose bytes are changed on their way from another one, but for its `take`."""

    _source: BodySource
    _ended: bool = attrs.field(default=False, init=False)  # the other one

    async def wait(self) -> None:
        """Wait until `take` may have something to say."""
        await self._source.wait()

    async def carry(self, turn: Callable[[], bool]) -> None:
        """As `BodySource.carry`."""
        await self._source.carry(turn)

    def close(self) -> None:
        """Be done with it."""
        self._source.close()


@attrs.define(eq=False)
class DecodedBody(_ChangedBody):
    """A BodySource whose coding is undone, in pieces of a bounded size."""

    _decoder: PieceDecoder

    def take(self) -> bytes | None:
        """The next bytes, `b""` at the end, None when there are none yet. Raises: RemoteProtocolError."""
        while True:
            try:
                piece = self._decoder.take(DECODED_PIECE)
            except CodingDamaged as error:
                raise RemoteProtocolError(f"an answer whose compression is damaged: {error}") from None
            if piece:
                return piece
            if self._ended:
                return b""
            data = self._source.take()
            if data is None:
                return None
            self._ended = not data
            if not data and not self._decoder.ended:
                raise RemoteProtocolError("an answer whose compression is cut off")
            self._decoder.feed(data)


def without_echo(inbound: Inbound, credential: bytes) -> Inbound:
    """An answer in which our credential does not stand, neither in its head nor in its body."""
    headers = inbound.headers
    if credential in b"\n".join([value for _, value in headers]):  # no credential holds a line break
        headers = Headers([(name, blotted(value, credential)) for name, value in headers])
    return Inbound(status=inbound.status, headers=headers, source=BlottedBody(inbound.source, Blotter(credential)))


@attrs.define(eq=False)
class BlottedBody(_ChangedBody):
    """A BodySource without a secret that its answer may echo."""

    _blotter: Blotter

    def take(self) -> bytes | None:
        """The next bytes, `b""` at the end, None when there are none yet."""
        while not self._ended:
            data = self._source.take()
            if data is None:
                return None
            self._ended = not data
            clean = self._blotter.feed(data) if data else self._blotter.rest()
            if clean:
                return clean
        return b""


def missing_package(account: Account) -> str:
    """Why this node lacks what the account's way upstream needs; "" when it has all."""
    return NO_SOCKS if account.proxy.startswith("socks5:") and not has_socks() else ""


def unreachable(error: TransportError, credential: bytes = b"") -> Unreachable | NodeDefect:
    """What a transport's exception means for the next attempt."""
    if isinstance(error.__cause__, PackageMissing):
        return NodeDefect(reason=NO_SOCKS)
    kind = next(kind for cause, kind in _KINDS if isinstance(error, cause))
    reason = str(error) or type(error).__name__
    return Unreachable(kind=kind, reason=blotted(reason.encode(), credential).decode())


_KINDS: tuple[tuple[type[Exception], ConnectionFault], ...] = (
    (NoDescriptors, "node"),
    (ProxyError, "proxy"),
    (ConnectTimeout, "connect"),
    (ConnectError, "connect"),
    (TimeoutException, "timeout"),
    (Disconnected, "reset"),
    (ProtocolError, "protocol"),
    (TransportError, "reset"),
)


@lru_cache(maxsize=1024)
def target_at(base_url: str, target: str) -> RequestTarget:
    """Parsing a URL costs as much as sending it; a relay asks for few different ones.

    Raises: UnsupportedProtocol.
    """
    return target_of(base_url.rstrip("/") + target)
