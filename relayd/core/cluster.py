"""Cluster: what several nodes say of themselves, and what follows: who is there, who is behind, how long to wait.

Rule: pure. All times are Unix time, s, by the state store's one clock: nodes tell ages, so that their own do not count.

Theory: nodes agree when they run the same tree, byte for byte, or trees that mean the same; a comment that reached one
node later is no drift. Who disagrees is told apart by course: the newest config is the one whose nodes have run the
others' before. Nodes that went astray (a rollback holds them, or they started onto a broken tree and serve what they
had) never lead while another node follows its tree. Only then the clock decides: the config that came last leads.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from relayd.noun import noun

DRIFT_AFTER = 60.0  # s; a ConfigMap reaches all nodes within 60 to 90 s, git-sync and hooks are quicker
SPREAD = 2.0  # s over which nodes that notice a change by themselves spread their reloads
MOST_PAST = 16  # configs that a node remembers having left

STEP = 2.0  # s; two clocks that differ by less are taken for one, for an answer of the store may take a tenth of that

# A node of these results does not run what its tree says by intention or for want of better.
ASTRAY = frozenset({"rolled-back", "degraded"})


@noun(kw_only=True)
class Past:
    """A config that a node has run before. `left`: when it took another."""

    tree: str
    model: str
    left: float


@noun(kw_only=True)
class NodeFacts:
    """What a node says of itself, but for its name and what hangs on a clock.

    Args:
        life: random, of this process: two processes may have one name.
        tree, model: digests of the bytes that it runs and of what they mean.
        dirty: None where that is not known.
        result: of its last reload: "applied" while it runs what is on its disk; else "rejected", "held", "busy",
            "rolled-back" or "degraded".
        draining: it is about to stop.
    """

    life: str
    version: str = ""
    tree: str = ""
    model: str = ""
    revision: str = ""
    commit: str = ""
    dirty: bool | None = None
    result: str = "applied"
    draining: bool = False


@noun(kw_only=True)
class Node(NodeFacts):
    """One process, as its last heartbeat says.

    Args:
        name: as the operator calls it.
        since: when the running config began to run; `stands`: since when the result is this one.
        seen: when the store last heard of it.
    """

    name: str
    started: float = 0.0
    since: float = 0.0
    stands: float = 0.0
    seen: float = 0.0
    past: tuple[Past, ...] = ()


@noun(kw_only=True)
class Heartbeat(NodeFacts):
    """A heartbeat's body. Fields are only ever added, with a default: nodes of several versions read each other.

    Args:
        node: the name.
        up, ran, stands: ages, s: of the process, of the running config, of the result.
        past: configs that it has run before: tree, model, age of the moment when it left it.
    """

    node: str
    up: float = 0.0
    ran: float = 0.0
    stands: float = 0.0
    past: tuple[tuple[str, str, float], ...] = ()


def steadied(before: float, measured: float) -> float:
    """How far the store's clock is ahead of ours, s.

    It stays the same until it has clearly changed: what was dated by it and comes back must not be newer than it was.

    Args:
        before: what was taken for it.
    """
    if abs(measured - before) < STEP:
        return before
    return 0.0 if abs(measured) < STEP else measured


def heartbeat_of(node: Node, now: float) -> Heartbeat:
    """What a node says: ages instead of times, for its clock is not the others'."""
    return Heartbeat(
        node=node.name,
        up=now - node.started,
        ran=now - node.since,
        stands=now - node.stands,
        past=tuple((one.tree, one.model, now - one.left) for one in node.past),
        **_facts(node),
    )


def node_of(heartbeat: Heartbeat, seen: float) -> Node:
    """The node as its heartbeat stood at `seen`."""
    return Node(
        name=heartbeat.node,
        started=seen - heartbeat.up,
        since=seen - heartbeat.ran,
        stands=seen - heartbeat.stands,
        seen=seen,
        past=tuple(Past(tree=tree, model=model, left=seen - age) for tree, model, age in heartbeat.past),
        **_facts(heartbeat),
    )


def _facts(one: NodeFacts) -> dict[str, Any]:
    return {field.name: getattr(one, field.name) for field in attrs.fields(NodeFacts)}


@noun(kw_only=True)
class Behind:
    """A node that does not run what the others do, and since when that is so."""

    node: Node
    since: float


@noun(kw_only=True)
class Drift:
    """Nodes do not run the same.

    Args:
        lead: a node that runs the newest config.
        behind: who does not; the longest first.
    """

    lead: Node
    behind: tuple[Behind, ...]

    @property
    def since(self) -> float:
        """Since when not all nodes run the same."""
        return self.behind[0].since

    def seconds(self, now: float) -> float:
        """How long that is so."""
        return max(0.0, now - self.since)

    def lasts(self, now: float) -> bool:
        """Whether it is longer than a change takes to reach all nodes."""
        return self.seconds(now) > DRIFT_AFTER


def present(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Without those that a process of the same name has followed: they crashed, and their heartbeat is still there."""
    known = tuple(nodes)
    return tuple(one for one in known if not any(_followed(one, other) for other in known))


def doubled(nodes: Iterable[Node]) -> tuple[str, ...]:
    """Names that several living processes bear, sorted. One that drains makes room for its successor."""
    seen: set[str] = set()
    twice: set[str] = set()
    for node in present(nodes):
        if not node.draining:
            (twice if node.name in seen else seen).add(node.name)
    return tuple(sorted(twice))


def _followed(node: Node, other: Node) -> bool:
    return node.name == other.name and node.life != other.life and node.seen <= other.started


def drift(nodes: Iterable[Node]) -> Drift | None:
    """Who is behind, and since when; None while all nodes that serve agree."""
    groups = _groups([node for node in present(nodes) if not node.draining])
    if len(groups) < 2:
        return None
    lead = max(groups, key=lambda group: _rank(group, groups))
    found = [
        Behind(node=node, since=_behind_since(node, lead)) for group in groups if group is not lead for node in group
    ]
    return Drift(
        lead=max(lead, key=lambda node: (node.since, node.name)),
        behind=tuple(sorted(found, key=lambda one: (one.since, one.node.name))),
    )


def stagger(nodes: Iterable[Node], rng: random.Random) -> float:
    """Seconds that a change which a node noticed by itself waits, so that not all nodes reload at one instant."""
    others = sum(not node.draining for node in present(nodes))
    return rng.uniform(0.0, SPREAD) if others > 1 else 0.0


# --- who agrees, who leads


def agree(one: Node, other: Node | Past) -> bool:
    """Whether two run the same bytes, or bytes that mean the same."""
    return one.tree == other.tree or (bool(one.model) and one.model == other.model)


def _groups(nodes: Sequence[Node]) -> list[list[Node]]:
    """Nodes that agree, also by way of a third."""
    groups: list[list[Node]] = []
    for node in nodes:
        joined = [group for group in groups if any(agree(node, member) for member in group)]
        groups = [group for group in groups if group not in joined]
        groups.append([node, *(member for group in joined for member in group)])
    return groups


def _rank(group: list[Node], groups: list[list[Node]]) -> tuple[bool, int, bool, float, str]:
    """The larger leads. The name decides where nothing else does, so that all nodes say the same."""
    others = [other for other in groups if other is not group]
    newer_than = sum(_has_left(group, other) for other in others) - sum(_has_left(other, group) for other in others)
    on_course = any(node.result not in ASTRAY for node in group)
    in_step = any(node.result == "applied" for node in group)
    return on_course, newer_than, in_step, _start(group), max(node.name for node in group)


def _has_left(group: list[Node], other: list[Node]) -> bool:
    """Whether nodes of one group have run what the other runs."""
    return any(_left(node, behind) is not None for node in group for behind in other)


def _left(node: Node, behind: Node) -> float | None:
    """When `node` last ceased to run what `behind` runs."""
    return max((past.left for past in node.past if agree(behind, past)), default=None)


def _start(group: list[Node]) -> float:
    return min(node.since for node in group)


def _behind_since(node: Node, lead: list[Node]) -> float:
    """Since when the leading nodes are elsewhere; not before the node itself took what it runs."""
    left = [when for one in lead if (when := _left(one, node)) is not None]
    return max(node.since, min(left) if left else _start(lead))
