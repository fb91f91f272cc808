"""Call context: a call on its way through its attempts.

Rule: the one mutable noun of a call beside its Draft. Only what more than one step of the call needs is here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs

from relayd.core.access.permissions import Plan
from relayd.core.balancing.suspects import Suspects
from relayd.core.receipt import Draft
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.admission import Admitted
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.streaming import EventStream
from relayd.wire.call import Dialect, Translator
from relayd.wire.http import HeaderPairs

Amend = Callable[[str, Response], Awaitable[Response]]
Keep = Callable[[str, str, str], Awaitable[None]]


@attrs.define(eq=False, kw_only=True)
class CallContext:
    """A call on its way through its attempts.

    Args:
        deadline: of the call as a whole, on trio's clock, s.
        affinity: names the conversation, scoped to the key; "" has none.
        home: the account where the conversation is; None where nobody knows.
        settled: the state store has been told, or will be, what it has consumed.
        before_last_byte: awaited before the answer is whole; None where nothing has to be done first.
        stream: the answer, once it is one.
        asked_at: when the last attempt was made; None before the first. On trio's clock, s.
        tried: the accounts so far, in order.
        holder: the attempt's name where it holds a lease of its account.
        only: the one account that can serve it, whatever the pool thinks of it; "" leaves the choice to the pool.
        barred: accounts that cannot serve it, for reasons that the pool does not know: these.
        creates: it makes an object, so that doing it twice is not harmless.
        free: it touches no limit and is not booked.
        suspects: its failed attempts whose blame waits for what another account says.
        lost: attempts that were sent and had no answer.
        amend: given an account's id and its answer, returns the answer that goes to the client.
        early: the client has been given a head and comments, before the upstream began to answer.
        notes: headers in which the relay says what it did to the answer.
        keep_items: called before the answer is whole, to keep what its client may refer to later; None keeps nothing.
        keep: given an account's id and the ids of its answer and of the container that it used, each "" where there is
            none, writes down what the upstream keeps of the call.
    """

    exchange: Exchange
    dialect: Dialect
    plan: Plan
    draft: Draft
    client: HeaderPairs
    translator: Translator | None
    deadline: float
    affinity: str = ""
    home: str | None = None
    admitted: Admitted | None = None
    settled: bool = False
    before_last_byte: Callable[[], Awaitable[None]] | None = None
    stream: EventStream | None = None
    asked_at: float | None = None
    tried: list[str] = attrs.field(factory=list)
    holder: str = ""
    only: str = ""
    barred: Mapping[str, str] = attrs.field(factory=dict)
    creates: bool = False
    free: bool = False
    suspects: Suspects = attrs.field(factory=Suspects)
    lost: int = 0
    amend: Amend | None = None
    keep_items: Callable[[], None] | None = None
    keep: Keep | None = None
    early: bool = False
    notes: HeaderPairs = attrs.field(factory=list)

    @property
    def counting(self) -> bool:
        """It counts tokens, and takes no place of an account's `max_concurrency`."""
        return self.plan.call.endpoint == "count_tokens"

    def answered(self) -> bool:
        """Whether the client has been given anything of an answer; signs of life are nothing."""
        return self.exchange.answered and not (self.early and self.stream is None)

    def served(self) -> bool:
        """Whether the client was given a stream to its last word; it may close then, and some do."""
        return self.stream is not None and self.stream.whole

    async def settle(self) -> None:
        """What has to be done before the answer's last byte is sent."""
        if self.keep_items is not None:
            self.keep_items()
        if self.before_last_byte is not None:
            await self.before_last_byte()

    def let_go(self) -> None:
        """The call is over: forget what refers back to it. In a cycle its fifty objects would lie until the garbage
        collector comes, and a collection that finds the calls of a moment holds up the loop for longer than a call."""
        self.amend = self.before_last_byte = self.keep_items = self.stream = None
