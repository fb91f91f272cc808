"""A TCP link that can be cut: what is sent over it then is lost, and nobody is told. (Real networks: tests/cluster.)"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio


@attrs.define(eq=False)
class CuttableLink:
    """Passes bytes on to a port of this machine.

    Args:
        port: where it listens.
    """

    target: int
    port: int = 0
    _whole: bool = True
    _open: set[trio.CancelScope] = attrs.field(factory=set)

    def cut(self) -> None:
        """Connections stay open, and new ones are taken, as by a network that drops what is sent."""
        self._whole = False

    def heal(self) -> None:
        """New connections are passed on. Those of before have lost something and end."""
        self._whole = True
        for scope in self._open:
            scope.cancel()

    async def serve(self, near: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                if not self._whole:
                    await trio.sleep_forever()
                far = await trio.open_tcp_stream("127.0.0.1", self.target)
                async with far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pass_on, near, far, nursery)
                    await self._pass_on(far, near, nursery)
            except* (OSError, trio.BrokenResourceError):
                pass
            finally:
                self._open.discard(scope)
                await trio.aclose_forcefully(near)

    async def _pass_on(self, one: trio.SocketStream, other: trio.SocketStream, both: trio.Nursery) -> None:
        while data := await one.receive_some(65536):
            if not self._whole:
                await trio.sleep_forever()
            await other.send_all(data)
        both.cancel_scope.cancel()


@asynccontextmanager
async def cuttable_link(target: int) -> AsyncIterator[CuttableLink]:
    """A link to a port, for the length of the block."""
    link = CuttableLink(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    link.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, link.serve, listeners)
        try:
            yield link
        finally:
            nursery.cancel_scope.cancel()
