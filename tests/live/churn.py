"""Clients that call one after the other, each on a connection that it keeps; every call that went wrong is noted.

load = Churn(port, simulated)
async with load.running():
    await load.more(20)
assert load.failed == []
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
import trio
from builders import KEY
from daemon import PATIENCE
from fleet import Fleet
from ledger import Client, Reply, asking


@attrs.frozen
class Ask:
    """One call. `leaves`: s after which its client goes away, whatever has come by then."""

    request: bytes
    leaves: float = math.inf


@attrs.define(eq=False)
class Churn:
    """What is asked and what came of it.

    Args:
        call: the nth call of all.
        every: s from one call of a client to its next, where it is not held up.
        done, left: calls that ended well, and those whose client went away first.
        took: s, of those that ended well.
        failed: the others, with their numbers.
    """

    port: int
    call: Callable[[int], Ask]
    every: float = 0.01
    done: int = 0
    left: int = 0
    took: array[float] = attrs.field(factory=lambda: array("d"))
    failed: list[tuple[int, Reply]] = attrs.field(factory=list)
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count)

    @property
    def ended(self) -> int:
        """Calls that were answered, well or not."""
        return self.done + len(self.failed)

    @asynccontextmanager
    async def running(self, clients: int = 6) -> AsyncIterator[None]:
        """For the length of the block; calls under way at its end are waited for."""
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(self._client, stopping, self.every * number / clients)
            yield
            stopping.set()

    async def _client(self, stopping: trio.Event, late: float) -> None:
        client = Client(self.port)
        due = trio.current_time() + late
        while not stopping.is_set():
            await trio.sleep_until(due)
            due = max(due + self.every, trio.current_time())
            number = next(self._numbers)
            ask = self.call(number)
            if ask.leaves < math.inf:
                await self._ask_and_leave(number, ask)
                continue
            self._note(number, await client.ask(ask.request))
            if number % 7 == 0:  # now and then a fresh connection
                await client.close()
        await client.close()

    async def _ask_and_leave(self, number: int, ask: Ask) -> None:
        client = Client(self.port)
        with trio.move_on_after(ask.leaves):
            self._note(number, await client.ask(ask.request))  # it had its whole answer, right or wrong
            await client.close()
            return
        self.left += 1

    def _note(self, number: int, reply: Reply) -> None:
        if reply.status == 200 and reply.whole and (b"event: " not in reply.body or b"message_stop" in reply.body):
            self.done += 1
            self.took.append(reply.seconds)
        else:
            self.failed.append((number, reply))
            print(f"call {number} failed: {reply} {reply.body[-200:]!r}", flush=True)

    async def more(self, calls: int = 20) -> None:
        """Wait until so many more have ended."""
        wanted = self.ended + calls
        with trio.fail_after(PATIENCE):
            while self.ended < wanted:  # noqa: ASYNC110
                await trio.sleep(0.01)

    def text(self) -> str:
        """For people."""
        ordered = sorted(self.took) or [0.0]
        longest = f"the longest {ordered[-1]:.2f} s, 99 % within {ordered[int(len(ordered) * 0.99)]:.2f} s"
        return f"{self.done} calls ended well ({longest}), of {self.left} the client left, {len(self.failed)} failed"


@attrs.define(eq=False)
class Mixture:
    """Calls as clients make them, to a Ledger: short answers, streams of a second, clients that leave in the middle.

    Args:
        keys: that call by turns.
        leaving: one call in so many; 0 = none.
        expected: tokens of each model that is not left.
    """

    keys: tuple[str, ...] = (KEY,)
    leaving: int = 10
    expected: dict[str, int] = attrs.field(factory=dict)

    def __call__(self, number: int) -> Ask:
        key, output = self.keys[number % len(self.keys)], 10 + number % 200
        if self.leaving and number % self.leaving == self.leaving - 1:
            request = asking(key, f"left.{number % 3}", stream=True, output=output, pause=0.05, events=20)
            return Ask(request, leaves=0.01 + number % 97 / 100)
        model = f"kept.{number % 7}"
        self.expected[model] = self.expected.get(model, 0) + 7 + output
        if number % 3 == 0:
            return Ask(asking(key, model, stream=True, output=output, pause=0.05, events=20))
        return Ask(asking(key, model, output=output, pause=number % 5 / 100))


def long_stream(number: int) -> Ask:
    """Of four seconds."""
    return Ask(asking(KEY, f"long.{number % 3}", stream=True, pause=0.2, events=20))


async def missing(relays: Fleet, expected: Mapping[str, int]) -> list[str]:
    """What the books of a fleet lack, or have too much of: a line for each model.

    Args:
        expected: tokens by model. Where clients left, only calls are compared: none may be missing, and one that had
            not come to the upstream yet may be there, for relayd cannot know.
    """
    rows, wrong = await relays.report(), []
    for model, seen in relays.ledger.calls.items():
        row = rows.get(model, {"requests": 0, "tokens": 0})
        tokens, calls = expected.get(model, row["tokens"]), row["requests"]
        if calls < seen.times or row["tokens"] != tokens or (model in expected and calls > seen.times):
            wrong.append(f"{model}: the books say {row}, the upstream {seen.times} calls and {tokens} tokens")
    return wrong
