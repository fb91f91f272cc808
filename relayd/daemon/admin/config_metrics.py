"""Config metrics: is this node on the config that lies on its disk, and on that of the other nodes?

Rule: pure; facts in, metrics out. Label values come from the config or from fixed words, never from clients.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from relayd.core.cluster import Node, drift
from relayd.core.inventory import Inventory, next_to_end
from relayd.daemon.admin import metric_list as m
from relayd.daemon.admin.exposition import Family
from relayd.noun import noun


@noun(kw_only=True)
class ConfigFacts:
    """What the config metrics are made of. Times are Unix time, s.

    Args:
        applied: since when the running config runs.
        in_step: disk and daemon agree, as far as the last look saw.
        out_since: since when they do not; 0.0 while they do.
        rounds: reloads by trigger and result.
        objects: how many accounts and keys there are, by kind and state.
    """

    now: float
    digest: str
    commit: str
    dirty: str
    applied: float
    in_step: bool
    out_since: float
    succeeded: float
    rounds: Mapping[tuple[str, str], int]
    seconds: Mapping[str, float]
    held: bool
    degraded: bool
    restart_required: int
    generation: int
    generations_live: int
    backend: str
    objects: Mapping[tuple[str, str], int]


def config_metrics(facts: ConfigFacts) -> list[Family]:
    """`relayd_config_...`: is this node on the config that lies on its disk, and if not, since when?"""
    out_of_sync = 0.0 if facts.in_step else max(0.0, facts.now - facts.out_since)
    return [
        m.CONFIG_SUCCESSFUL.at(facts.in_step),
        m.CONFIG_SUCCEEDED.at(facts.succeeded),
        m.CONFIG_APPLIED.at(facts.applied),
        m.CONFIG_RELOADS.by({(result, trigger): n for (trigger, result), n in facts.rounds.items()}),
        m.CONFIG_SECONDS.each(facts.seconds),
        m.CONFIG_INFO.by({(facts.digest[:12], facts.commit[:12], facts.dirty): 1}),
        m.CONFIG_OUT_OF_SYNC.at(out_of_sync),
        m.CONFIG_HELD.at(facts.held),
        m.CONFIG_DEGRADED.at(facts.degraded),
        m.CONFIG_RESTART.at(facts.restart_required),
        m.CONFIG_GENERATION.at(facts.generation),
        m.CONFIG_LIVE.at(facts.generations_live),
        m.CONFIG_WATCH.each({facts.backend: 1}),
        m.CONFIG_OBJECTS.by(facts.objects),
    ]


MOST_KEYS = 1000  # that have a series of their own


def inventory_metrics(inventory: Inventory, now: float) -> list[Family]:
    """What is sealed for whom, and when keys end: those that end next, should there be very many."""
    return [
        m.SEALED.by({(one.kid, one.name): one.values for one in inventory.recipients}),
        m.KEY_EXPIRES.each(dict(next_to_end(inventory, now, MOST_KEYS))),
    ]


def cluster_metrics(nodes: Sequence[Node], now: float, store_ahead: float) -> list[Family]:
    """Which trees the nodes run, and how far this node's clock is off. Left out where the others are unknown."""
    apart = drift(nodes)
    return [
        m.NODES.each(Counter(node.tree[:12] for node in nodes)),
        m.CONFIG_DRIFT.at(apart.seconds(now) if apart is not None else 0.0),
        m.STORE_AHEAD.at(store_ahead),
    ]


def source_metrics(age: float, held: bool, fetches: Mapping[str, int]) -> list[Family]:
    """How pulling the tree goes, on a node that does. `age`: s since the last fetch that succeeded."""
    return [
        m.SOURCE_AGE.at(age),
        m.SOURCE_HELD.at(held),
        m.SOURCE_FETCHES.each({result: fetches.get(result, 0) for result in ("ok", "failed")}),
    ]
