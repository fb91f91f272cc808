"""Attempts: a call is tried account by account, until one answer is good enough or nothing is left to try.

Rule: what an outcome means is decided in core/balancing/failover.py, who is tried next in the pool. Each await may be
cancelled and leaves no connection and no lease open behind it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs
import trio

from relayd.config.snapshot import Account, Snapshot
from relayd.core.alerts.events import AccountCredential, AccountOut, AccountRecovered, AlertEvent
from relayd.core.balancing.affinity import sets_pin
from relayd.core.balancing.failover import Retry, Verdict, last_word, may_retry
from relayd.core.balancing.outcomes import Answered, Outcome, Unreachable
from relayd.core.balancing.pool import HealthChange, Lease, Pool
from relayd.core.balancing.retry_budget import RetryBudget
from relayd.core.balancing.suspects import Accused
from relayd.core.live import Live
from relayd.core.quota.windows import rfc3339
from relayd.core.receipt import Attempt
from relayd.daemon.events import Events
from relayd.daemon.proxy.account_choice import AccountChoice
from relayd.daemon.proxy.account_requests import AccountAnswer, AccountRequest, AccountRequests
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.reply import ReplyWriter
from relayd.daemon.proxy.signs_of_life import SignsOfLife
from relayd.wire.call import OBJECTS


@attrs.define(eq=False, kw_only=True)
class Attempts:
    """Delivers calls.

    Args:
        wall: Unix time, s.
    """

    live: Live
    pool: Pool
    choice: AccountChoice
    requests: AccountRequests
    replies: ReplyWriter
    signs: SignsOfLife
    wall: Callable[[], float]
    rng: random.Random
    budget: RetryBudget = attrs.field(factory=RetryBudget)
    events: Events = attrs.field(factory=Events)

    async def deliver(self, context: CallContext) -> None:
        """Try accounts until the client has its answer. Raises: Refusal."""
        self.budget.earn()
        if context.affinity:
            await self.choice.find_home(context)
        try:
            await self._try_accounts(context)
        finally:
            self._blame(context.suspects.close())

    async def _try_accounts(self, context: CallContext) -> None:
        while True:
            snapshot = self.live.snapshot  # permissions are asked of the newest config at each attempt
            account = await self.choice.find(context, snapshot)
            try:
                verdict = await self._attempt(context, account, snapshot)
            finally:
                self.choice.give_back(context)
            if verdict is None:
                return
            if verdict.backoff:
                await trio.sleep(verdict.backoff)

    async def _attempt(self, context: CallContext, account: Account, snapshot: Snapshot) -> Retry | None:
        """Try one account. None when the client has its answer, else why another try is worth while."""
        plan = context.plan
        lease = self.pool.begin(account.id, plan.limited_model, self.wall(), counting=context.counting)
        began = context.asked_at = trio.current_time()
        answer: AccountAnswer | None = None
        try:
            request = AccountRequest(
                plan=plan,
                account=account,
                client=context.client,
                snapshot=snapshot,
                attempt=len(context.tried) - 1,
                repeatable=not context.creates,
                heard=context.suspects.heard,
                unsigned=None if context.translator is None else context.translator.unsigned,
            )
            with self.signs.awaiting(context):
                answer = await self.requests.ask(request)
            if answer.response is not None:
                context.draft.account = account.id
                context.draft.sent_model = account.model_map.get(plan.model, plan.model)
            verdict = self._next(context, answer, self._observe(context, lease, answer, began))
            if verdict is None and answer.response is not None:
                response = answer.response
                if context.amend is not None:
                    response = await context.amend(account.id, response)
                await self.replies.send(context, response, snapshot)
            return verdict
        finally:
            if answer is not None:
                answer.close()
            self.pool.end(lease, self.wall())

    def _observe(self, context: CallContext, lease: Lease, answer: AccountAnswer, began: float) -> Verdict:
        """Let the pool learn from an attempt, and write it down. Sync."""
        now = self.wall()
        verdict, status = _of_objects(context, answer), _status(answer.outcome)
        headers = answer.outcome.headers if isinstance(answer.outcome, Answered) else None
        tell(self.events, self.pool.observe(lease, verdict, headers, now, self.rng), now)
        self._blame(context.suspects.hear(lease, verdict))
        context.lost += isinstance(answer.outcome, Unreachable) and answer.outcome.bytes_sent
        ended = trio.current_time()
        context.draft.attempts.append(
            Attempt(
                account=lease.account,
                status=status,
                reason=verdict.reason,
                seconds=ended - began,
                at=ended - context.draft.clock_start,
                blame=verdict.scope if isinstance(verdict, Retry) else "none",
                kind=verdict.kind if isinstance(verdict, Retry) else "ok",
            )
        )
        if isinstance(verdict, Retry):
            self.pool.end(lease, now)
        elif status == 200 and context.affinity and sets_pin(context.plan.call.endpoint):
            self.choice.remember(context, lease.account, now)
        return verdict

    def _blame(self, accused: Accused) -> None:
        """Blame accounts for failures that were in doubt. Sync."""
        for lease, verdict in accused:
            now = self.wall()
            tell(self.events, self.pool.accuse(lease, verdict, now, self.rng), now)

    def _next(self, context: CallContext, answer: AccountAnswer, verdict: Verdict) -> Retry | None:
        """None when an attempt's answer goes to the client, a Retry when another account is to be tried.

        Raises: Refusal when neither is possible.
        """
        if not isinstance(verdict, Retry):
            return None
        if verdict.scope == "node" and not context.only:
            return verdict  # nothing was asked; whoever is next says why where nobody is
        if (
            not context.early
            and self.choice.another_is_free(context)
            and may_retry(
                verdict,
                attempts_left=context.plan.attempts - len(context.tried),
                budget=self.budget,
                deadline=context.deadline,
                now=trio.current_time(),
            )
        ):
            return verdict
        if answer.response is None or not verdict.relayable or answer.response.body.cut:
            raise last_word(verdict, context.tried[-1])
        return None


def _status(outcome: Outcome) -> int:
    return outcome.status if isinstance(outcome, Answered) else 0


def _of_objects(context: CallContext, answer: AccountAnswer) -> Verdict:
    """The verdict, without blame where a credential may send messages and not keep objects."""
    denied = _status(answer.outcome) in (401, 403) and context.plan.call.endpoint in OBJECTS
    if denied and isinstance(answer.verdict, Retry):
        return attrs.evolve(answer.verdict, scope="none", relayable=_status(answer.outcome) == 403)
    return answer.verdict


def tell(events: Events, change: HealthChange | None, now: float) -> None:
    """Tell that an account's health has turned, if it has. `now`: Unix time, s."""
    if change is not None:
        events.tell(_health_event(change, now))


def _health_event(change: HealthChange, now: float) -> AlertEvent:
    if change.what == "recovered":
        return AccountRecovered(account=change.account)
    kind = AccountCredential if change.what == "credential" else AccountOut
    until = rfc3339(round(change.until * 1000))
    return kind(account=change.account, reason=change.reason, until=until, rest=change.until - now)
