"""Ailments: what somebody should look at, and whether calls had better go to another node.

Rule: pure; the facts come in, words about them come out. Status as text and as JSON, its exit code, /readyz and the
metrics are all made from this one list, so that none of them knows better than the others.

Theory: an ailment is what a person can act on, or must know of. A rest that is over within a minute, a ceiling that is
reached and a disabled account are the pool at work. What a client would be told (429, 529) is the same on every node as
long as the cause lies upstream; only where it lies on this node does it help to send calls elsewhere.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import attrs

from relayd.core.balancing.explain import SHOWN, Block, clock
from relayd.core.cluster import Drift, Node, doubled
from relayd.core.disk_advice import disk_advice
from relayd.core.oauth import utc
from relayd.noun import noun

BRIEF = 60.0  # s; a shorter rest of an account whose group still serves is no ailment
MOST_APART = 10.0  # s between two clocks; one that is set by NTP is within a tenth of one
UNREAD = os.strerror(errno.EPIPE).lower()  # why lines of a log are lost whose reader has ended
MANY_ALIVE = 16  # configs that calls still hold; more are streams that never end, or a leak

AilmentKind = Literal[
    "config", "source", "deny", "state", "books", "account", "group", "key", "calls", "worker", "cluster", "log",
    "alert",
]  # fmt: skip
KINDS: tuple[AilmentKind, ...] = get_args(AilmentKind)
ReadyPolicy = Literal["node", "service", "draining"]


@noun
class Ailment:
    """One thing that is wrong.

    Args:
        subject: what it is about, by its name in the config; "" for the node as a whole.
        unready: the word that /readyz has for it, where it keeps this node from serving while others may serve
            ("node"), or keeps every call from being served ("service"); None where it does neither.
    """

    kind: AilmentKind
    text: str
    subject: str = ""
    unready: tuple[Literal["node", "service"], str] | None = None


@noun(kw_only=True)
class AccountFacts:
    """How an enabled account that deny.toml does not name stands.

    Args:
        signs_in: its credential comes from a sign-in, and not from a key that somebody has.
        defect: why this node cannot use it; "" when it can.
        rest: what its health keeps it from now; None when it is well.
    """

    id: str
    groups: tuple[str, ...]
    signs_in: bool = False
    defect: str = ""
    rest: Block | None = None

    def why_not(self, now: float) -> str:
        """Why it cannot serve; "" when it can."""
        return self.defect or (self.rest.text(now) if self.rest is not None else "")


@noun(kw_only=True)
class StoreFacts:
    """How the state store stands.

    Args:
        reason: why it is not up.
        side: why this host's own store, which stands in for it, is not up either; "" while it is.
        refuses: calls are refused meanwhile.
        damaged: what it found unreadable and set aside, with reasons.
    """

    up: bool
    reached: bool
    reason: str
    refuses: bool
    side: str = ""
    damaged: tuple[str, ...] = ()


@noun(kw_only=True)
class ServiceFacts:
    """What serving calls depends on.

    Args:
        now: Unix time, s.
        accounts: those that may serve by the config.
        configured: how many accounts there are, disabled ones too.
        used_groups: the groups of keys that are accepted.
        store: None where nothing is counted.
    """

    now: float
    accounts: tuple[AccountFacts, ...]
    configured: int
    used_groups: frozenset[str] = frozenset()
    store: StoreFacts | None = None


@noun(kw_only=True)
class RunningFacts:
    """What runs, and what lies on disk instead.

    Args:
        degraded, stored: why a stored generation serves, and its number.
        hold: the generation that a rollback holds; 0 = none.
        pending: what became of a tree on disk that does not run; "" for none.
        deny_problem: why deny.toml is not obeyed.
        alive: configs that calls hold.
        useless: accepted keys that can do nothing, and why.
        losses: what did not reach the books, in words.
        source: why the tree may not be what its source has, in words.
        log: why lines of the log cannot be written; "" while they can.
        workers: what is wrong with this node's processes, in words.
        alerts: what cannot be told to whom, in words.
        store_ahead: s that the state store's clock is ahead of this node's.
    """

    degraded: str = ""
    stored: int = 0
    hold: int = 0
    pending: str = ""
    restart_required: tuple[str, ...] = ()
    deny_problem: str = ""
    alive: int = 1
    useless: Mapping[str, str] = attrs.field(factory=dict)
    losses: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    log: str = ""
    workers: tuple[str, ...] = ()
    alerts: tuple[str, ...] = ()
    store_ahead: float = 0.0


def ailments(
    running: RunningFacts, service: ServiceFacts, nodes: Sequence[Node] = (), apart: Drift | None = None
) -> list[Ailment]:
    """Everything that is wrong; [] when all is well."""
    return [
        *_of_config(running),
        *(Ailment("source", text) for text in running.source),
        *service_ailments(service),
        *_of_keys(running.useless),
        *(Ailment("books", text) for text in running.losses),
        *_of_calls(running.alive),
        *_of_log(running.log),
        *_of_clock(running.store_ahead),
        *(Ailment("worker", text) for text in running.workers),
        *(Ailment("alert", text) for text in running.alerts),
        *cluster_ailments(nodes, apart, service.now),
    ]


@noun(kw_only=True)
class Standing:
    """How a node stands.

    Args:
        unready: the words that /readyz has for why it is 503; () while it is 200.
    """

    service: ServiceFacts
    ailments: tuple[Ailment, ...]
    unready: tuple[str, ...]


def standing(
    running: RunningFacts,
    service: ServiceFacts,
    policy: ReadyPolicy,
    *,
    draining: bool = False,
    nodes: Sequence[Node] = (),
    apart: Drift | None = None,
) -> Standing:
    """Everything that is wrong, and what /readyz makes of it."""
    why = unready(service, policy)
    return Standing(
        service=service,
        ailments=tuple(ailments(running, service, nodes, apart)),
        unready=("draining", *why) if draining else why,
    )


def unready(service: ServiceFacts, policy: ReadyPolicy) -> tuple[str, ...]:
    """The words that /readyz has for what keeps calls from being served here; () for a node that is ready."""
    counted = {"node": ("node",), "service": ("node", "service"), "draining": ()}[policy]
    found = [one.unready[1] for one in service_ailments(service) if one.unready and one.unready[0] in counted]
    return tuple(dict.fromkeys(found))


def service_ailments(facts: ServiceFacts) -> list[Ailment]:
    """What keeps calls from being served, or will."""
    store = [] if facts.store is None else list(_of_store(facts.store))
    return [*store, *_of_accounts(facts), *_of_groups(facts)]


def _of_config(running: RunningFacts) -> Iterator[Ailment]:
    if running.degraded:
        yield Ailment("config", f"degraded: {running.degraded}; generation {running.stored} serves")
    if running.hold:
        yield Ailment("config", f"held: a rollback keeps generation {running.hold} (`relayd resume` ends it)")
    elif running.pending:
        hint = " [`relayd check` says where and why]" if running.pending == "rejected" else ""
        yield Ailment("config", f"out of step: the tree on disk is {running.pending}{hint}")
    if running.deny_problem:
        yield Ailment("deny", f"deny.toml is not applied, what it refused before still is: {running.deny_problem}")
    if running.restart_required:
        yield Ailment("config", f"restart required: {', '.join(running.restart_required)}")


def _of_store(store: StoreFacts) -> Iterator[Ailment]:
    for one in store.damaged:
        yield Ailment("state", f"a damaged counter of the state store was set aside and begins anew: {one}")
    if store.up:
        return
    what = "is down" if store.reached else "was never reached"
    alone = f"no limit is enforced ({store.side})" if store.side else "limits are enforced by this node alone"
    meanwhile = "calls are refused (503)" if store.refuses else alone
    word: tuple[Literal["node"], str] | None = ("node", "state_unavailable") if store.refuses else None
    yield Ailment("state", f"the state store {what}: {store.reason}; {meanwhile}", unready=word)


def _of_accounts(facts: ServiceFacts) -> Iterator[Ailment]:
    for one in facts.accounts:
        if one.defect:
            yield Ailment("account", f"account {one.id} cannot be used on this node: {one.defect}", one.id)
        elif one.rest is not None and one.rest.until - facts.now > BRIEF:
            text = f"account {one.id} cannot serve: {one.rest.text(facts.now)}{_way_back(one, one.rest)}"
            yield Ailment("account", text, one.id)
        elif not one.groups:
            yield Ailment("account", f"account {one.id} cannot serve: it is in no group", one.id)
    if facts.configured and all(one.why_not(facts.now) or not one.groups for one in facts.accounts):
        here = bool(facts.accounts) and all(one.defect for one in facts.accounts)
        yield Ailment("account", "no account can serve now", unready=("node" if here else "service", "no_account"))


def _way_back(one: AccountFacts, rest: Block) -> str:
    """What a person can do about a rest that a credential or a bill has brought."""
    if rest.kind != "auth":
        return ""
    if one.signs_in:
        what = f"sign in again: relayd account login {one.id}"
    else:
        what = f"a new credential: relayd account seal {one.id}"
    return f" [{what}; if it is mended at the provider: relayd account test {one.id}]"


def _of_groups(facts: ServiceFacts) -> Iterator[Ailment]:
    """Groups that keys use and that nobody serves."""
    for group in sorted(facts.used_groups):
        members = [one for one in facts.accounts if group in one.groups]
        reasons = [f"{one.id}: {one.why_not(facts.now)}" for one in members if one.why_not(facts.now)]
        if not members:
            yield Ailment("group", f"group {group}: no enabled account is in it, and keys use it", group)
        elif len(reasons) == len(members):
            more = f"; and {len(reasons) - SHOWN} more" if len(reasons) > SHOWN else ""
            since = f", the first is back at {_soonest(members, facts.now)}" if not _stuck(members) else ""
            text = f"group {group}: none of its accounts can serve{since} ({'; '.join(reasons[:SHOWN])}{more})"
            yield Ailment("group", text, group)


def _stuck(members: Sequence[AccountFacts]) -> bool:
    """Whether time alone brings none of them back."""
    return all(one.defect for one in members)


def _soonest(members: Sequence[AccountFacts], now: float) -> str:
    return clock(min(one.rest.until for one in members if one.rest is not None and not one.defect), now)


def _of_keys(useless: Mapping[str, str]) -> Iterator[Ailment]:
    for name, why in list(useless.items())[:SHOWN]:
        yield Ailment("key", f"key {name} has no effect: {why}", name)
    if len(useless) > SHOWN:
        yield Ailment("key", f"{len(useless) - SHOWN} more keys have no effect")


def _of_calls(alive: int) -> Iterator[Ailment]:
    if alive > MANY_ALIVE:
        yield Ailment("calls", f"{alive} configs are in use: calls that began under old ones do not end")


def _of_log(why: str) -> Iterator[Ailment]:
    if why:
        reading, room = "restart relayd with a log that somebody reads", "make room where the log is written"
        advice = reading if why == UNREAD else disk_advice(why, room)
        yield Ailment("log", f"lines of the log are lost: {why} [{advice}]")


def _of_clock(store_ahead: float) -> Iterator[Ailment]:
    if abs(store_ahead) > MOST_APART:
        side = "behind" if store_ahead > 0 else "ahead of"
        text = (
            f"the clock of this node is {abs(store_ahead):.0f} s {side} that of the state store: limits go by that,"
            " the log and the times that upstreams name by this one [set both by NTP: timedatectl set-ntp true]"
        )
        yield Ailment("cluster", text)


def cluster_ailments(nodes: Sequence[Node], apart: Drift | None, now: float) -> list[Ailment]:
    """What is wrong between the nodes."""
    found = [f"node name {name}: more than one process has it (give each its own: --node)" for name in doubled(nodes)]
    if apart is not None and apart.lasts(now):
        lead = apart.lead
        found += [
            f"DRIFT: node {one.node.name} has {_tree(one.node)}, not {_tree(lead)} as {lead.name},"
            f" since {utc(one.since)}" + (f" ({one.node.result})" if one.node.result != "applied" else "")
            for one in apart.behind
        ]
    return [Ailment("cluster", text) for text in found]


def _tree(node: Node) -> str:
    return f"tree {node.tree[:12]}"
