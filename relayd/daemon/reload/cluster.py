"""Cluster: this node's heartbeat in the state store, and what it hears of the others.

Rule: reload does not depend on it. A store that is away makes the others unknown, and nothing else; what a heartbeat
says is judged in core/cluster.py.

Theory: a node is a process. Its heartbeat lies under its name and a random word of its own (`life`), so that of two
processes with one name neither hides the other. Ages are told, not times: the store's clock, which stamps heartbeats,
is the one clock that all nodes have in common. At a proper end the heartbeat is taken back; after a crash it expires.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable

import attrs
import msgspec
import trio

from relayd import __version__
from relayd.core.alerts.node_events import FleetAgrees, FleetDrift
from relayd.core.cluster import Heartbeat, Node, doubled, drift, heartbeat_of, node_of, present, stagger
from relayd.daemon.events import Events
from relayd.daemon.reload.record import ReloadRecord
from relayd.daemon.store.batcher import Batcher
from relayd.state.contract import Alive, Beat, NodeList, Nodes, StoreUnavailable

TTL = 30.0  # s that a heartbeat lives: two may be lost
LOOK = 2.0  # s that somebody who asks for the status waits for the others

log = logging.getLogger("relayd.cluster")


@attrs.define(eq=False, kw_only=True)
class Cluster:
    """This node among the others.

    Args:
        state: the shared store.
        record: what this node runs.
        life: random, of this process.
        started: Unix time, s.
        wall: Unix time, s.
        every: s between heartbeats; one follows each reload at once.
    """

    state: Batcher
    record: ReloadRecord
    name: str
    life: str
    started: float
    draining: Callable[[], bool]
    wall: Callable[[], float]
    rng: random.Random = attrs.field(repr=False)
    every: float
    events: Events = attrs.field(factory=Events)
    store_ahead: float = 0.0  # s that the store's clock is ahead of ours, as the last heartbeat found
    problem: str = "no heartbeat yet"  # why the others are unknown; "" while they are known
    _heard: tuple[Node, ...] = ()  # by our clock
    _looked: float = -math.inf  # Unix time of the last answer
    _warned: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Beat for ever; take the heartbeat back at the end."""
        try:
            while True:
                settled = self.record.settled
                await self.look()
                with trio.move_on_after(self.every):
                    await settled.wait()
        finally:
            self.state.submit_nowait(Beat(node=self._own_name, body="", ttl=0))

    async def look(self) -> None:
        """Beat, and hear the others. Never raises for a store that is away."""
        body = msgspec.json.encode(self.heartbeat()).decode()
        try:
            await self.state.ask(Beat(node=self._own_name, body=body, ttl=round(TTL * 1000)))
            answer = await self.state.ask(Nodes())
        except StoreUnavailable as error:
            self.problem = str(error)
            return
        if isinstance(answer, NodeList):
            self._hear(answer)

    async def look_now(self) -> None:
        """The same, for somebody who waits: not for long."""
        with trio.move_on_after(LOOK):
            await self.look()

    def heartbeat(self) -> Heartbeat:
        """What we say of ourselves."""
        now = self.wall()
        return heartbeat_of(self._ours(now), now)

    def _ours(self, now: float) -> Node:
        """Ourselves as we are now."""
        running = self.record.origin
        result, stands = self.record.last_result
        return Node(
            name=self.name,
            life=self.life,
            version=__version__,
            tree=running.digest,
            model=running.model,
            revision=running.revision,
            commit=running.commit,
            dirty=None if running.dirty is None else bool(running.dirty),
            result=result,
            started=self.started,
            since=running.since,
            stands=stands,
            seen=now,
            draining=self.draining(),
            past=self.record.past,
        )

    # --- what is known

    def nodes(self) -> tuple[Node, ...]:
        """Everybody who is there, ourselves as we are now. The others are left out once they are unknown."""
        now = self.wall()
        others = [one for one in self._heard if one.life != self.life] if abs(now - self._looked) < TTL else []
        return present(sorted([self._ours(now), *others], key=lambda node: (node.name, node.started, node.life)))

    def rank(self) -> int:
        """This node's place among those that are there, from 0: the same as they see it, most of the time."""
        return sum((node.name, node.life) < (self.name, self.life) for node in self.nodes())

    @property
    def known(self) -> bool:
        """Whether the others are known."""
        return abs(self.wall() - self._looked) < TTL

    def stagger(self) -> float:
        """How long a change that this node noticed by itself waits, s."""
        return stagger(self.nodes(), self.rng)

    # --- hearing

    @property
    def _own_name(self) -> str:
        return f"{self.name}#{self.life}"

    def _hear(self, answer: NodeList) -> None:
        now = self.wall()
        ours = next((one.seen for one in answer.nodes if one.node == self._own_name), 0)
        ahead = ours / 1000 - now if ours else 0.0  # of the store's clock
        self.store_ahead = ahead
        self._heard = tuple(node for one in answer.nodes if (node := _understood(one, ahead)) is not None)
        self._looked, self.problem = now, ""
        self._warn(now)

    def _warn(self, now: float) -> None:
        """Say what is new, once."""
        nodes = self.nodes()
        twice = doubled(nodes)
        found = frozenset(f"name {name}" for name in twice)
        apart = drift(nodes)
        if apart is not None and apart.lasts(now):
            found |= {f"behind {one.node.name}#{one.node.life}" for one in apart.behind}
        if self.name in twice and f"name {self.name}" not in self._warned:
            log.warning("fleet.name_taken", extra={"node": self.name, "hint": "give each process a name: --node"})
        drifted, drifts = any(map(_is_behind, self._warned)), any(map(_is_behind, found))
        if apart is not None and drifts and found - self._warned:
            behind = tuple(one.node.name for one in apart.behind)
            self.events.tell(FleetDrift(behind=behind, lead=apart.lead.name, tree=apart.lead.tree[:12]))
        elif drifted and not drifts:
            self.events.tell(FleetAgrees(nodes=len(nodes)))
        self._warned = found


def _is_behind(warning: str) -> bool:
    return warning.startswith("behind ")


def _understood(one: Alive, ahead: float) -> Node | None:
    """A node by a clock that the store's is `ahead` of (s); None for one that speaks otherwise."""
    try:
        return node_of(msgspec.json.decode(one.body, type=Heartbeat), one.seen / 1000 - ahead)
    except msgspec.DecodeError:
        return None
