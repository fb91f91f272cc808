"""Signs of life: what a client hears of its stream while the upstream has not begun to answer.

Rule: the head of an answer of our own (200, an event stream) leaves only once the upstream of an attempt has been
silent for `server.sse_head_after`, and from then on the call stays with that account: another one might answer with a
status, and a status can no longer be given. What goes wrong after that is an `error` event in the client's dialect.

Theory: proxies on the way give up on silence (nginx after 60 s, Cloudflare after 100 s), and so do clients. A failover
is worth more than an early head, and nearly every failure comes within seconds. One task looks at all waiting attempts
when the first of them is due, at most once a second; an attempt costs a dictionary entry, and no task or timer. While
nobody waits, nothing wakes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import attrs
import trio

from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.reply import ReplyWriter
from relayd.daemon.proxy.streaming import COMMENT

LOOK = 1.0  # s between two looks; so much later than promised, at most
LONGEST = 5.0  # s, for a reload may shorten the waits


_NOTHING_TO_DO = nullcontext()


@attrs.define(eq=False, kw_only=True)
class SignsOfLife:
    """Keeps the clients of waiting streams awake."""

    replies: ReplyWriter
    _due: dict[CallContext, float] = attrs.field(factory=dict)  # on trio's clock, s
    _somebody: trio.Event = attrs.field(factory=trio.Event, init=False)  # waits

    def awaiting(self, context: CallContext) -> AbstractContextManager[None]:
        """Around the wait for an answer's beginning."""
        server = self.replies.live.snapshot.relay.server
        call = context.plan.call
        if not (call.stream and call.endpoint == "messages" and server.sse_keepalive and server.sse_head_after):
            return _NOTHING_TO_DO
        wait = server.sse_keepalive if context.early else server.sse_head_after
        return self._waiting(context, trio.current_time() + wait)

    @contextmanager
    def _waiting(self, context: CallContext, due: float) -> Iterator[None]:
        self._due[context] = due
        self._somebody.set()
        try:
            yield
        finally:
            del self._due[context]

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            if not self._due:
                self._somebody = trio.Event()
                await self._somebody.wait()
            await trio.sleep(max(LOOK, self._quiet_for(trio.current_time())))
            self.look(trio.current_time())

    def _quiet_for(self, now: float) -> float:
        """How long nothing can be due, s: neither for those who wait nor for whoever begins to wait meanwhile."""
        server = self.replies.live.snapshot.relay.server
        newcomers = min(server.sse_keepalive or math.inf, server.sse_head_after or math.inf, LONGEST)
        return min(min(self._due.values(), default=math.inf) - now, newcomers)

    def look(self, now: float) -> None:
        """Give a sign to those for whom it is time. Sync."""
        every = self.replies.live.snapshot.relay.server.sse_keepalive or math.inf
        for context, due in self._due.items():
            exchange = context.exchange
            if due > now or exchange.gone or exchange.pending:
                continue
            if not context.early:
                self.replies.begin_early(context)
            exchange.push(COMMENT)
            self._due[context] = now + every
