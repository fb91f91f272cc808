"""Play: what would have become of past calls under a config.

Rule: no rule of its own: the key's state and address, client, endpoint, model, limits, accounts and prices are judged
by the functions that judge real calls, in their order. Calls come in order of their beginning; a Player remembers what
of the limits is used, as a store would.

Theory: the accounts are taken to be well and idle, as in a dry run: how they were then was another config's doing. A
call takes of the limits what it really used, as it begins. So what calls in flight reserve for a while is not foreseen,
and neither are the refusals that this causes, which pass in seconds; only a key that reserves the worst case needs that
much room. What depends on key, model and kind of call alone is worked out once.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from relayd.config.snapshot import ApiKey, ObjectId, Price, Snapshot
from relayd.core.access.auth import best_state, check_address
from relayd.core.access.permissions import Plan, resolve
from relayd.core.balancing.candidates import build_candidates
from relayd.core.balancing.explain import refusal_of, unavailable
from relayd.core.dry_run import first_tier, idle_candidate
from relayd.core.quota.call_estimate import NOTHING, estimate, prompt_bound
from relayd.core.quota.limit_answers import unpriced
from relayd.core.quota.limits import Calendar, Rolling, Slots, Term, Unit, has_cost_limit, terms
from relayd.core.quota.prices import cost, price_of, served_model
from relayd.core.quota.windows import FOREVER
from relayd.core.replay.levels import CalendarLevel, Level, RollingLevel, SlotLevel, level_of
from relayd.core.replay.past_call import PastCall
from relayd.noun import noun
from relayd.wire.call import Call, Endpoint
from relayd.wire.refusal import Refusal

_NEVER = {"disabled": "it is disabled", "denied": "it is denied by deny.toml", "expired": "it has expired"}
_BODY = b'{"messages":[]}'  # of a call whose body nobody knows any more
_SHORT = 86_400_000  # ms; even calls say nothing of windows that are shorter


@noun(kw_only=True)
class Played:
    """What would become of a call.

    Args:
        refused: why it would get a no; "" when it would be served.
        able: the accounts that may serve it; () where none is chosen (a list of models, an object's own account).
        first: those of them that are asked first.
        cost: micro-USD; None where it has no price, or was not served.
    """

    refused: str = ""
    able: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    cost: int | None = None


@noun(kw_only=True)
class Route:
    """What holds for every call of a key, model and kind.

    Args:
        steady: the key is active at all times.
        endpoint: of the call; "" for what is in no limit (a list, or what is about an object that exists).
        sent: what each account is sent.
        prices: that a call may have, whoever serves it.
    """

    key: ApiKey
    refused: str = ""
    steady: bool = False
    endpoint: str = ""
    model: str = ""
    able: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    sent: Mapping[str, str] = attrs.field(factory=dict)
    prices: tuple[Price | None, ...] = ()


@noun
class Held:
    """A limit with its level. Flat, for each call goes through all of its key's."""

    level: RollingLevel | CalendarLevel
    unit: int  # of _UNITS
    limit: int
    name: str
    short: bool


@noun
class HeldLimits:
    """The limits of a key's calls, up to the end of the first of their periods (Unix ms)."""

    end: int
    slots: tuple[tuple[SlotLevel, int, str], ...]
    windows: tuple[Held, ...]


@attrs.define(eq=False)
class Player:
    """Plays calls against one config."""

    snapshot: Snapshot
    _levels: dict[str, Level] = attrs.field(factory=dict, init=False)
    _routes: dict[tuple[object, ...], Route] = attrs.field(factory=dict, init=False)
    _limits: dict[tuple[str, Endpoint], HeldLimits] = attrs.field(factory=dict, init=False)

    def play(self, call: PastCall) -> Played:
        """What becomes of the next call."""
        name = (call.key, call.model, call.path, call.method, call.dialect, call.max_tokens)
        route = self._routes.get(name)
        if route is None:
            route = self._routes[name] = _route(call, self.snapshot)
        at = call.time.timestamp()
        refused = route.refused or self._identity(route, call, at)
        if refused:
            return Played(refused=refused)
        cost = self._cost(route, call)
        if route.endpoint and (refused := self._pass_limits(route, call, int(at * 1000), cost or 0)):
            return Played(refused=refused)
        return Played(able=route.able, first=route.first, cost=cost)

    def _identity(self, route: Route, call: PastCall, at: float) -> str:
        key = route.key
        if not route.steady and (state := best_state(key, self.snapshot, at)) != "active":
            return f"key: {_NEVER.get(state, 'its hash has expired')}"
        if call.even:
            return ""
        if key.clients and call.client not in key.clients:
            return f"client {call.client or 'of no rule'} is not allowed for this key"
        try:
            check_address(key, self.snapshot, call.peer)
        except Refusal as refusal:
            return refusal.message
        return ""

    def _pass_limits(self, route: Route, call: PastCall, now: int, cost: int) -> str:
        """The name of a limit that has no room; "" when all had, and are charged.

        Args:
            cost: what it really cost, micro-USD.
        """
        key = route.key
        held = self._held(key, call.endpoint, now)
        slots = () if call.even else held.slots
        for level, limit, name in slots:
            if not level.has_room(now, limit, int(key.limits.wait * 1000)):
                return f"limit: {name}"
        used = (1, call.tokens, cost)
        needed = _worst(route, call) if key.limits.reserve == "worst-case" else used
        windows = [one for one in held.windows if not one.short] if call.even else held.windows
        for one in windows:
            amount, limit = needed[one.unit], one.limit
            if not one.level.has_room(now, amount if amount < limit else limit, limit):
                return f"limit: {one.name}"
        for one in windows:
            one.level.take(now, used[one.unit])
        for level, _, _ in slots:
            level.take(now + int(call.ms))
        return ""

    def _held(self, key: ApiKey, endpoint: Endpoint, now: int) -> HeldLimits:
        found = self._limits.get((key.id, endpoint))
        if found is None or now >= found.end:
            relay = self.snapshot.relay
            every = terms(key, relay.server, endpoint, NOTHING, now, relay.state.timezone)
            found = self._limits[key.id, endpoint] = _hold(every, self._levels)
        return found

    def _cost(self, route: Route, call: PastCall) -> int | None:
        """What it would cost: as then, where the log does not tell enough to add it up again."""
        if call.refused:
            return None
        if call.parts:
            return call.cost
        account = call.account if call.account in route.sent or not route.first else route.first[0]
        sent, prices = route.sent.get(account, call.sent_model or call.model), self.snapshot.prices
        return cost(call.usage, served_model(sent, call.answered, prices) if call.answered else sent, prices)


def _worst(route: Route, call: PastCall) -> tuple[int, int, int]:
    """What a call may use at most: requests, tokens, micro-USD."""
    if call.endpoint != "messages":
        return 1, 0, 0
    prompt = prompt_bound(call.bytes_in, 0)
    guesses = [estimate(prompt, call.max_tokens, price) for price in route.prices]
    return 1, max(guess.tokens for guess in guesses), max(guess.cost or 0 for guess in guesses)


_UNITS: dict[Unit, int] = {"requests": 0, "tokens": 1, "cost": 2}


def _hold(terms: tuple[Term, ...], levels: dict[str, Level]) -> HeldLimits:
    slots: list[tuple[SlotLevel, int, str]] = []
    windows: list[Held] = []
    for term in terms:
        level = level_of(term, levels)
        if isinstance(level, SlotLevel):
            slots.append((level, term.limit, term.name))
        elif not isinstance(term, Slots):
            short = isinstance(term, Rolling) and term.window < _SHORT
            windows.append(Held(level, _UNITS[term.unit], term.limit, term.name, short))
    end = min((term.end for term in terms if isinstance(term, Calendar)), default=FOREVER)
    return HeldLimits(end=end, slots=tuple(slots), windows=tuple(windows))


# --- what holds for all calls of a kind


def _route(call: PastCall, snapshot: Snapshot) -> Route:
    key = snapshot.keys.get(call.key)
    if key is None:
        return Route(key=_NOBODY, refused="key: it is not in the tree")
    expires = key.expires is not None or any(entry.expires is not None for entry in key.hashes)
    route = Route(key=key, steady=not expires and best_state(key, snapshot, 0.0) == "active")
    try:
        plan = resolve(_asked(call, key), key, snapshot)
        if call.endpoint == "models" or not call.is_made:
            return route
        return _routed(route, plan, snapshot)
    except Refusal as refusal:
        return attrs.evolve(route, refused=refusal.message)


def _asked(call: PastCall, key: ApiKey) -> Call:
    openai = call.dialect.startswith("openai")
    return Call(
        endpoint=call.endpoint,
        language="openai" if openai else "anthropic",
        model=call.model,
        # A client of OpenAI's that names none gets what the key allows.
        max_tokens=(call.max_tokens or key.max_tokens or None) if openai else call.max_tokens,
        body=_BODY,
    )


def _routed(route: Route, plan: Plan, snapshot: Snapshot) -> Route:
    """Raises: Refusal."""
    candidates = build_candidates(snapshot, plan.groups, plan.model, idle_candidate)
    able = tuple(sorted(candidates.by_id))
    if not able:
        raise refusal_of(unavailable(candidates.never, plan.model), now=0.0)
    sent = {name: snapshot.accounts[name].model_map.get(plan.model, plan.model) for name in able}
    prices = {name: price_of(name, snapshot.prices) for name in sorted(set(sent.values()))}
    nameless = next((name for name, price in prices.items() if price is None), None)
    deny = snapshot.relay.policy.unknown_model_cost == "deny" and has_cost_limit(plan.key.limits)
    if plan.call.endpoint == "messages" and nameless is not None and deny:
        raise unpriced(plan.key, plan.model, nameless)
    return attrs.evolve(
        route,
        endpoint=plan.call.endpoint,
        model=plan.model,
        able=able,
        first=first_tier(candidates, able),
        sent=sent,
        prices=tuple(prices.values()),
    )


_NOBODY = ApiKey(id=ObjectId("nobody"), hashes=())
