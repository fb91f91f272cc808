"""An open load on a fleet: so many calls a second, streams among them, each remembered with what its client got."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
from daemon import Daemon
from fleet import Fleet
from ledger import Client, Reply, asking, getting

STREAMED = 0.3  # of the calls
PROMPT = 7  # tokens; what the upstream reports


@attrs.define(eq=False)
class Load:
    """Calls by one key, spread over the nodes that run.

    Args:
        key: of every call.
        group: of their models.
        rate: calls a second.
        only: the one node that gets them; None: all that run, in turn.
        replies: by model; a call without one is still under way.
        planned: s that the upstream takes for each.
        paces: s between the events of each stream.
        glances: s that `GET /livez` took, which waits for nothing but the event loop.
    """

    fleet: Fleet
    key: str
    group: str
    rate: float
    rng: random.Random
    only: int | None = None
    replies: dict[str, Reply] = attrs.field(factory=dict)
    planned: dict[str, float] = attrs.field(factory=dict)
    paces: dict[str, float] = attrs.field(factory=dict)
    glances: list[float] = attrs.field(factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Calls come for the length of the block; at its end the ones under way are waited for."""
        async with trio.open_nursery() as calls, trio.open_nursery() as coming:
            coming.start_soon(self._come, calls)
            coming.start_soon(self._glance)
            yield
            coming.cancel_scope.cancel()

    async def _come(self, calls: trio.Nursery) -> None:
        due = trio.current_time()
        while True:
            nodes = [number for number in sorted(self.fleet.nodes) if self.only in (None, number)]
            if nodes:
                calls.start_soon(self._call, self.fleet.nodes[nodes[len(self.planned) % len(nodes)]])
            due += 1 / self.rate
            await trio.sleep_until(due)

    async def _call(self, node: Daemon) -> None:
        model = name_of(self.group, len(self.planned))
        output = self.rng.randrange(10, 500)
        if self.rng.random() < STREAMED:
            pause, events = self.rng.choice([(0.01, 5), (0.05, 10), (0.1, 15)])
            self.planned[model], self.paces[model] = pause * events, pause
            request = asking(self.key, model, stream=True, prompt=PROMPT, output=output, pause=pause, events=events)
        else:
            self.planned[model] = pause = self.rng.choice([0.0, 0.02, 0.2])
            request = asking(self.key, model, prompt=PROMPT, output=output, pause=pause)
        client = Client(node.port, node.host)
        self.replies[model] = await client.ask(request)
        await client.close()

    async def _glance(self) -> None:
        while True:
            for node in list(self.fleet.nodes.values()):
                client = Client(node.port, node.host)
                reply = await client.ask(getting("/livez"))
                await client.close()
                if reply.status:
                    self.glances.append(reply.seconds)
            await trio.sleep(0.05)

    def late(self, chosen: Callable[[Reply], bool] = lambda reply: True) -> list[float]:
        """How much longer than the upstream needed the calls took, s, in order."""
        took = ((reply.seconds - self.planned[model], reply) for model, reply in self.replies.items())
        return sorted(seconds if reply.status == 200 else reply.seconds for seconds, reply in took if chosen(reply))


def name_of(group: str, number: int) -> str:
    """The model of a load's call."""
    return f"{group}.{number:06}"


def names_of(group: str, most: int) -> list[str]:
    """The models of a load that makes no more calls than that."""
    return [name_of(group, number) for number in range(most)]
