"""A worker's end of the channel: orders that came without what they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import trio
from waiting import until

from relayd.daemon.workers.channel import Channel, channel_pair
from relayd.daemon.workers.link import SupervisorLink, WorkerTeller
from relayd.daemon.workers.messages import Follow, Leaving, ListenOn, OrderDone


async def test_an_order_without_its_descriptor_is_refused_or_ends_the_worker_gently() -> None:
    supervisor, ours = map(Channel, channel_pair())
    drained: list[tuple[float, bool]] = []
    unused: Any = None
    follower: Any = SimpleNamespace(
        live=SimpleNamespace(snapshot=SimpleNamespace(relay=SimpleNamespace(server=SimpleNamespace(drain_timeout=7.0))))
    )
    link = SupervisorLink(
        channel=ours,
        teller=WorkerTeller(ours),
        events=unused,
        server=unused,
        follower=follower,
        bad_keys=unused,
        learn=unused,
        report=unused,
        drain=lambda patience, gently: drained.append((patience, gently)),
        announce_stop=unused,
        cut=unused,
        reopen=unused,
        wall=unused,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.obey)
        supervisor.post(Follow(number=1))
        refused = await supervisor.receive()
        assert refused is not None
        assert refused[0] == OrderDone(number=1, reasons=("descriptors have run out",))
        supervisor.post(Follow(number=2, at_once=True))  # not confirmed, so this worker is replaced
        supervisor.post(ListenOn(socket=1))
        assert await supervisor.receive() == (Leaving(), [])
        await until(lambda: drained == [(7.0, True)])
        nursery.cancel_scope.cancel()
    supervisor.close()
    ours.close()
