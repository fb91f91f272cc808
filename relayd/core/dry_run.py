"""Dry run: a scenario played through the same decisions as a call, without a key, a store or an upstream.

Rule: no rule of its own. Authentication, client rules, routes, quotas and candidates are asked in the order in which
the daemon asks them; what they say is what a client would be told.

Theory: the tree holds hashes, and no key fits them. So the key under test gets a stand-in: the hash of a key that is
made here, in the place of its own and denied where its own is denied. The rest of the snapshot stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType

import attrs

from relayd.config.model.scenario import Scenario, Used
from relayd.config.model.types import write_seconds
from relayd.config.secrets.api_keys import key_hash, mint
from relayd.config.snapshot import Account, ApiKey, KeyHash, Limits, Snapshot
from relayd.core.access.auth import authenticate
from relayd.core.access.clients import permit
from relayd.core.access.permissions import Plan, resolve
from relayd.core.balancing.account_state import AccountState
from relayd.core.balancing.breaker import Gate
from relayd.core.balancing.candidates import Candidate, Candidates, build_candidates
from relayd.core.balancing.explain import Block, refusal_of, unavailable
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.limit_answers import denial
from relayd.core.quota.limits import Calendar, Slots, Term
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.reservation import quota
from relayd.core.quota.windows import FOREVER, window_length
from relayd.noun import noun
from relayd.wire.call import Call
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

_STAND_IN = mint(lambda size: b"\0" * size)
_REST = 60.0  # s that an account which is down is said to rest


@noun(kw_only=True)
class DryRunOutcome:
    """What became of a call.

    Args:
        refusal: None when it is served.
        accounts: those that may serve it, sorted.
        first: those of them that are asked first, sorted.
        sent_models: what their upstreams are asked for, sorted.
        limits: names of the limits that the call had to pass.
        why_not: why the other accounts of the key's groups may not serve, by id.
    """

    refusal: Refusal | None = None
    accounts: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    sent_models: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    why_not: tuple[tuple[str, str], ...] = ()


def dry_run(scenario: Scenario, snapshot: Snapshot) -> DryRunOutcome:
    """Play a scenario. The key that it names must be in the snapshot."""
    now = scenario.time.timestamp() if scenario.time else 0.0
    try:
        key = _identify(scenario, snapshot, now)
        plan = resolve(_call(scenario), key, snapshot)
        limits = () if scenario.endpoint == "models" else _pass_limits(scenario, plan, snapshot, now)
    except Refusal as refusal:
        return DryRunOutcome(refusal=refusal)
    if scenario.endpoint == "models":  # answered by the relay itself
        return DryRunOutcome()
    return attrs.evolve(_choose(scenario, plan, snapshot, now), limits=tuple(term.name for term in limits))


def failures(scenario: Scenario, outcome: DryRunOutcome) -> list[str]:
    """Where the outcome differs from what the scenario expects; none when it is as expected."""
    refusal = outcome.refusal
    if scenario.expect == "allow" and refusal is not None:
        return [f"expected to be served, but: {refusal}"]
    if scenario.expect == "refuse" and refusal is None:
        by = f" by {', '.join(outcome.accounts)}" if outcome.accounts else ""
        room = f" (it has room in: {', '.join(outcome.limits)})" if outcome.limits else ""
        return [f"expected a refusal, but it is served{by}{room}"]
    found = []
    if refusal is not None:
        if scenario.status and scenario.status != refusal.status:
            found.append(f"status: expected {scenario.status}, not {refusal}")
        if scenario.text.lower() not in refusal.message.lower():
            found.append(f"text: expected {scenario.text!r} in {refusal.message!r}")
        return found
    for name, wanted, got in (
        ("accounts", scenario.accounts, outcome.accounts),
        ("first", scenario.first, outcome.first),
        ("sent_model", (scenario.sent_model,) if scenario.sent_model else (), outcome.sent_models),
    ):
        if wanted and tuple(sorted(wanted)) != got:
            expected = ", ".join(sorted(wanted))
            found.append(f"{name}: expected {expected}, not {', '.join(got) or 'none'}{_because(outcome, wanted)}")
    missing = [name for name in scenario.limits if name not in outcome.limits]
    found += [f"limits: {name!r} is not among: {', '.join(outcome.limits) or 'none'}" for name in missing]
    return found


def _because(outcome: DryRunOutcome, wanted: tuple[str, ...]) -> str:
    reasons = [f"{name}: {why}" for name, why in outcome.why_not if name in wanted]
    return f" ({'; '.join(reasons)})" if reasons else ""


def _identify(scenario: Scenario, snapshot: Snapshot, now: float) -> ApiKey:
    """The key of a call. With two hashes, the one that is accepted. Raises: Refusal."""
    key, first = snapshot.keys[scenario.key], None
    for entry in key.hashes:
        try:
            return _present(scenario, snapshot, key, entry, now)
        except Refusal as refusal:
            first = first or refusal
    assert first is not None  # a key has at least one hash
    raise first


def _present(scenario: Scenario, snapshot: Snapshot, key: ApiKey, entry: KeyHash, now: float) -> ApiKey:
    stand_in = attrs.evolve(entry, sha256=key_hash(_STAND_IN), scheme="relayd-v1")
    deny = snapshot.deny
    if entry.sha256 in deny.sha256:
        deny = attrs.evolve(deny, sha256=(*deny.sha256, stand_in.sha256))
    by_hash = MappingProxyType({bytes.fromhex(stand_in.sha256): (key, stand_in)})
    stage = attrs.evolve(snapshot, keys_by_hash=by_hash, deny=deny)
    headers = Headers(
        [
            (b"x-api-key", _STAND_IN.encode()),
            *([(b"user-agent", scenario.client.encode())] if scenario.client else []),
            *((name.lower().encode(), value.encode()) for name, value in scenario.headers.items()),
        ]
    )
    found = authenticate(headers, stage, scenario.address, now)
    permit(headers, found, snapshot.relay.clients)
    return found


def _call(scenario: Scenario) -> Call:
    return Call(
        endpoint="messages" if scenario.endpoint == "openai" else scenario.endpoint,
        language="openai" if scenario.endpoint == "openai" else "anthropic",
        model=scenario.model,
        max_tokens=scenario.max_tokens or None,
        body=bytes(scenario.prompt),
    )


_learned = LearnedUsage()  # nothing: a scenario is the first call of its key
_names = ModelNames()  # works the tree's names out once for many scenarios; none is ever confirmed here


# --- limits ----------------------------------------------------------------------------------------------------------


def _pass_limits(scenario: Scenario, plan: Plan, snapshot: Snapshot, now: float) -> tuple[Term, ...]:
    """Every limit of the call. Raises: Refusal for the one that has no room the longest."""
    now_ms = round(now * 1000)
    terms = quota(plan, snapshot, now_ms, _names, _learned).terms
    used = dict(_used(scenario.used, plan.key))
    full = [term for term in terms if used.get(term.counter, 0) + _charge(term) > term.limit]
    if full:
        longest = max(full, key=lambda term: _reset(term, now_ms))
        raise denial(longest, _reset(longest, now_ms), now_ms)
    return terms


def _charge(term: Term) -> int:
    return 1 if isinstance(term, Slots) else term.cost


def _reset(term: Term, now_ms: int) -> int:
    """At most so long, ms, until there is room: when each use took place is not told."""
    if isinstance(term, Slots):
        return 0
    if isinstance(term, Calendar):
        return FOREVER if term.end >= FOREVER else term.end - now_ms
    return term.window


def _used(used: Used, key: ApiKey) -> Iterator[tuple[str, int]]:
    """What is consumed, by the names of the counters."""
    name, limits = f"key/{key.id}", key.limits
    yield f"{name}/slots", used.concurrency
    yield f"{name}/counts/1m", used.count_tokens
    yield f"{name}/tokens/1m", used.tokens_per_minute
    for unit in ("requests", "tokens", "cost"):
        yield f"{name}/{unit}/day", getattr(used, f"daily_{unit}")
        yield f"{name}/{unit}/month", getattr(used, f"monthly_{unit}")
    yield f"{name}/cost/total", used.total_cost
    yield from _used_windows(used, name, limits)


def _used_windows(used: Used, name: str, limits: Limits) -> Iterator[tuple[str, int]]:
    """A window that is given twice counts with the last amount."""
    if used.rate:
        yield f"{name}/requests/{write_seconds(limits.rate.window)}", used.rate
    for window in used.windows:
        length = window_length(window.window)
        label = write_seconds(length / 1000) if isinstance(length, int) else length
        for unit in ("requests", "tokens", "cost"):
            if amount := getattr(window, unit):
                yield f"{name}/{unit}/{label}", amount


# --- accounts --------------------------------------------------------------------------------------------------------


def _choose(scenario: Scenario, plan: Plan, snapshot: Snapshot, now: float) -> DryRunOutcome:
    """Who may serve, when every account is healthy but those that are down."""
    candidates = build_candidates(snapshot, plan.groups, plan.model, idle_candidate)
    resting = [name for name in scenario.down if name in candidates.by_id]
    able = tuple(sorted(name for name in candidates.by_id if name not in resting))
    blocks = [Block(name, "overload", now + _REST, "is resting") for name in resting] + [*candidates.never]
    why_not = tuple((block.account, block.text(now)) for block in blocks)
    if not able:
        return DryRunOutcome(refusal=refusal_of(unavailable(blocks, plan.model), now=now), why_not=why_not)
    sent = {snapshot.accounts[name].model_map.get(plan.model, plan.model) for name in able}
    return DryRunOutcome(
        accounts=able, first=first_tier(candidates, able), sent_models=tuple(sorted(sent)), why_not=why_not
    )


def first_tier(candidates: Candidates, able: tuple[str, ...]) -> tuple[str, ...]:
    """The first tier of the first group in which anybody is able."""
    for tiers in candidates.groups:
        for tier in tiers:
            if found := tuple(sorted(one.id for one in tier.candidates if one.id in able)):
                return found
    return ()


def idle_candidate(account: Account) -> Candidate:
    """An idle account of which nothing is known but its config."""
    gate = Gate()
    return Candidate(
        id=account.id,
        state=AccountState(id=account.id, identity="", origin=gate),
        origin=gate,
        priority=account.priority,
        weight=account.weight,
        limit=account.max_concurrency,
        pace=account.pace.requests_per_minute,
        plain=True,
    )
