"""Prometheus: metrics in its text format, and those of the config and the cluster.

Rule: pure; numbers in, text out. Label values come from the config or from fixed words, never from clients.
Source: Prometheus documentation, "Exposition formats", text format 0.0.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import attrs

from relayd.core.cluster import Node, drift
from relayd.core.inventory import Inventory, next_to_end

Labels = tuple[tuple[str, str], ...]
Samples = Mapping[Labels, float]


@attrs.frozen
class Family:
    """One metric: its name, type, meaning, and a value for each set of labels."""

    name: str
    kind: str  # "gauge" or "counter"
    meaning: str
    samples: tuple[tuple[Labels, float], ...]


@attrs.frozen
class Histogram:
    """One metric of durations.

    Args:
        bounds: upper bounds, rising, without the infinite one.
        counts: how many lie at or below each bound and above the one before; the last: above all.
        total: the sum of what was measured.
    """

    name: str
    meaning: str
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


def gauge(name: str, meaning: str, value: float, **labels: str) -> Family:
    """A metric of one value."""
    return Family(name, "gauge", meaning, ((tuple(labels.items()), value),))


def family(name: str, kind: str, meaning: str, samples: Samples) -> Family:
    """A metric of several values, in the order of their labels."""
    return Family(name, kind, meaning, tuple(sorted(samples.items())))


def exposition(families: Iterable[Family | Histogram]) -> str:
    """All metrics as text."""
    return "".join(_histogram(one) if isinstance(one, Histogram) else _family(one) for one in families)


def _family(one: Family) -> str:
    return _head(one.name, one.kind, one.meaning) + "".join(
        f"{one.name}{_labels(labels)} {_number(value)}\n" for labels, value in one.samples
    )


def _histogram(one: Histogram) -> str:
    """Buckets count all that lie at or below their bound, those of smaller ones included."""
    bounds = [*map(_number, one.bounds), "+Inf"]
    sums = list(accumulate(one.counts))
    buckets = "".join(f'{one.name}_bucket{{le="{bound}"}} {count}\n' for bound, count in zip(bounds, sums, strict=True))
    tail = f"{one.name}_sum {_number(one.total)}\n{one.name}_count {sums[-1]}\n"
    return _head(one.name, "histogram", one.meaning) + buckets + tail


def _head(name: str, kind: str, meaning: str) -> str:
    return f"# HELP {name} {_escaped(meaning)}\n# TYPE {name} {kind}\n"


def _labels(labels: Labels) -> str:
    quoted = ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in labels)
    return f"{{{quoted}}}" if quoted else ""


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


@attrs.frozen(kw_only=True)
class ConfigFacts:
    """What the config metrics are made of. Times are Unix time, s.

    Args:
        in_step: disk and daemon agree, as far as the last look saw.
        out_since: since when they do not; 0.0 while they do.
        rounds: reloads by trigger and result.
        objects: how many accounts and keys there are, by kind and state.
    """

    now: float
    digest: str
    commit: str
    dirty: str
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
    rounds: Samples = {(("result", result), ("trigger", trigger)): n for (trigger, result), n in facts.rounds.items()}
    phases: Samples = {(("phase", phase),): seconds for phase, seconds in facts.seconds.items()}
    objects: Samples = {(("kind", kind), ("state", state)): n for (kind, state), n in facts.objects.items()}
    p = "relayd_config"
    return [
        gauge(f"{p}_last_reload_successful", "1 while the running config is that of the disk.", facts.in_step),
        gauge(f"{p}_last_reload_success_timestamp_seconds", "When that was last seen to be so.", facts.succeeded),
        family(f"{p}_reloads_total", "counter", "Reloads that were asked for or found something new.", rounds),
        family(f"{p}_reload_duration_seconds", "gauge", "What each phase of the last reload took.", phases),
        gauge(
            f"{p}_info",
            "The running config.",
            1,
            tree_digest=facts.digest[:12],
            commit=facts.commit[:12],
            dirty=facts.dirty,
        ),
        gauge(f"{p}_out_of_sync_seconds", "How long disk and daemon have differed; 0 = they agree.", out_of_sync),
        gauge(f"{p}_held", "1 while a change waits for confirmation, or a rollback holds.", facts.held),
        gauge(f"{p}_degraded", "1 while a stored generation serves in the place of a broken tree.", facts.degraded),
        gauge(f"{p}_restart_required", "Settings that wait for a restart.", facts.restart_required),
        gauge(f"{p}_generation", "Counts the configs of this process.", facts.generation),
        gauge(f"{p}_generations_live", "Configs that calls still hold, with the running one.", facts.generations_live),
        gauge(f"{p}_watch_backend", "How changes are noticed.", 1, backend=facts.backend),
        family(f"{p}_objects", "gauge", "Accounts and keys of the running config.", objects),
    ]


MOST_KEYS = 1000  # that have a series of their own


def inventory_metrics(inventory: Inventory, now: float) -> list[Family]:
    """What is sealed for whom, and when keys end: those that end next, should there be very many."""
    sealed: Samples = {(("kid", one.kid), ("recipient", one.name)): one.values for one in inventory.recipients}
    ends: Samples = {(("key", name),): end for name, end in next_to_end(inventory, now, MOST_KEYS)}
    return [
        family("relayd_secret_sealed", "gauge", "Sealed values that a recipient can open; 0 = it can go.", sealed),
        family("relayd_key_expires_timestamp_seconds", "gauge", "When a key ends, of those that do.", ends),
    ]


def cluster_metrics(nodes: Sequence[Node], now: float) -> list[Family]:
    """Which trees the nodes run. Every node says it; left out where the others are unknown."""
    count: Samples = Counter((("tree_digest", node.tree[:12]),) for node in nodes)
    apart = drift(nodes)
    seconds = apart.seconds(now) if apart is not None else 0.0
    return [
        family("relayd_nodes", "gauge", "Nodes that live, by the tree that they run.", count),
        gauge("relayd_config_drift_seconds", "How long nodes have run different configs; 0 = they agree.", seconds),
    ]


def source_metrics(age: float, held: bool, fetches: Mapping[str, int]) -> list[Family]:
    """How pulling the tree goes, on a node that does. `age`: s since the last fetch that succeeded."""
    counts: Samples = {(("result", result),): fetches.get(result, 0) for result in ("ok", "failed")}
    return [
        gauge("relayd_source_fetch_age_seconds", "Since the last fetch of the tree's source that succeeded.", age),
        gauge("relayd_source_held", "1 while a head of the branch is held: not signed, or not a fast-forward.", held),
        family("relayd_source_fetches_total", "counter", "Fetches of the tree's source.", counts),
    ]
