"""The connection pool: connections to upstreams, those in use and those kept for the next call.

Rule: a connection serves one call at a time and one origin for ever. There is no limit to the connections and no queue
for them; how many calls may run is the caller's business. Closing is sync.
"""

from __future__ import annotations

import math
import ssl

import attrs
import trio

from relayd.daemon.net.connect import ConnectFailed, Exhausted, Origin, ProxyRefused, ProxyServer, Resolver, connect
from relayd.daemon.net.stream import Stream
from relayd.daemon.net.transport_errors import ConnectError, ConnectTimeout, NoDescriptors, ProxyError
from relayd.noun import noun


@noun(kw_only=True)
class PoolStatistics:
    """What a transport holds open now (`connecting`, `busy`, `idle`), and what it has done since it was made."""

    connecting: int
    busy: int
    idle: int
    connected: int
    reused: int
    retried: int


@attrs.define(eq=False)
class UpstreamConnection:
    """A stream to an origin, bound to it. `idle_since`: trio's time, s."""

    origin: Origin
    stream: Stream
    reused: bool = False
    idle_since: float = 0.0

    def is_quiet(self) -> bool:
        """Whether it may be used again: open, and the upstream has said nothing unasked (TLS tickets aside)."""
        try:
            return self.stream.recv() is None
        except OSError:
            return False


@attrs.define(eq=False, kw_only=True)
class ConnectionPool:
    """Connections of one transport; `client.Transport` describes the arguments."""

    tls: ssl.SSLContext
    proxy: ProxyServer | None
    resolver: Resolver
    idle_per_origin: int
    idle_expiry: float
    retried: int = attrs.field(default=0, init=False)  # kept connections that had to be replaced
    _idle: dict[Origin, list[UpstreamConnection]] = attrs.field(factory=dict, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _connecting: int = attrs.field(default=0, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _connected: int = attrs.field(default=0, init=False)
    _reused: int = attrs.field(default=0, init=False)

    def take_idle(self, origin: Origin, now: float) -> UpstreamConnection | None:
        """The connection to `origin` that was used last, if it is fresh and quiet. Those found unfit are closed."""
        stack = self._idle.get(origin)
        while stack:
            connection = stack.pop()
            if now - connection.idle_since < self.idle_expiry and connection.is_quiet():
                connection.reused = True
                self._busy += 1
                self._reused += 1
                return connection
            connection.stream.close()
        return None

    async def connect(self, origin: Origin, patience: float) -> UpstreamConnection:
        """A new connection, within `patience` s. Raises: ConnectError, ConnectTimeout, ProxyError."""
        self._connecting += 1
        try:
            with trio.fail_after(patience):
                stream = await connect(origin, tls=self.tls, resolver=self.resolver, proxy=self.proxy)
        except trio.TooSlowError as exc:
            raise ConnectTimeout(f"{origin}: not connected in {patience:g} s") from exc
        except ProxyRefused as exc:
            raise ProxyError(str(exc)) from exc
        except Exhausted as exc:
            raise NoDescriptors(str(exc)) from exc
        except ConnectFailed as exc:
            raise ConnectError(str(exc)) from exc
        finally:
            self._connecting -= 1
        self._connected += 1
        self._busy += 1
        return UpstreamConnection(origin, stream)

    def give_back(self, connection: UpstreamConnection, reusable: bool) -> None:
        """End of a call: keep the connection or close it."""
        self._busy -= 1
        if not reusable or self._closed or not self.idle_per_origin:
            connection.stream.close()
            return
        stack = self._idle.setdefault(connection.origin, [])
        if len(stack) >= self.idle_per_origin:
            stack.pop(0).stream.close()
        connection.idle_since = trio.current_time()
        stack.append(connection)

    def sweep(self, now: float) -> None:
        """Close the idle connections that have expired at `now` (trio's time, s)."""
        for origin, stack in list(self._idle.items()):
            while stack and now - stack[0].idle_since >= self.idle_expiry:
                stack.pop(0).stream.close()
            if not stack:
                del self._idle[origin]

    def close(self) -> None:
        """Close the idle connections and keep none from now on."""
        self._closed = True
        self.sweep(math.inf)

    def statistics(self) -> PoolStatistics:
        """The figures at this moment."""
        return PoolStatistics(
            connecting=self._connecting,
            busy=self._busy,
            idle=sum(map(len, self._idle.values())),
            connected=self._connected,
            reused=self._reused,
            retried=self.retried,
        )
