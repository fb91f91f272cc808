"""Call accounting: a call is admitted before its first attempt and settled when it has ended.

Rule: an admitted call is settled exactly once, in a `finally`, by what is sync.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import attrs
import trio

from relayd.config.snapshot import Snapshot
from relayd.core.access.permissions import served_beyond
from relayd.core.in_flight import AdmittedCall, InFlight
from relayd.core.live import Live
from relayd.core.quota.limits import day_of
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.prices import cost, has_unpriced_part, served_model
from relayd.core.quota.usage_estimate import RareWarnings, completed
from relayd.core.quota.usage_record import UsageRecord, record_of
from relayd.core.receipt import Draft
from relayd.daemon.proxy.admission import admit, admit_count
from relayd.daemon.proxy.attempts import Attempts
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.store.failsafe import FailsafeStore
from relayd.daemon.store.state_client import StateClient
from relayd.wire.refusal import Refusal

log = logging.getLogger("relayd")


@attrs.define(eq=False, kw_only=True)
class CallAccounting:
    """Has calls delivered within the limits of their keys.

    Args:
        state: where calls are counted; without it nothing is limited or booked.
        wall: Unix time, s.
    """

    live: Live
    in_flight: InFlight
    attempts: Attempts
    state: StateClient | None
    wall: Callable[[], float]
    model_names: ModelNames = attrs.field(factory=ModelNames)
    _doubtful: RareWarnings = attrs.field(init=False)
    _beyond: RareWarnings = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._doubtful, self._beyond = RareWarnings(self.wall), RareWarnings(self.wall)

    async def deliver(self, context: CallContext, snapshot: Snapshot) -> None:
        """Deliver a call, and settle it whatever comes of it. Raises: Refusal."""
        if self.state is None or context.free:
            await self.attempts.deliver(context)
        elif context.plan.call.endpoint == "count_tokens":
            await admit_count(self.state.failsafe, context.draft.call_id, context.plan.key)
            await self.attempts.deliver(context)
        else:
            await self._counted(context, snapshot, self.state.failsafe)

    async def _counted(self, context: CallContext, snapshot: Snapshot, store: FailsafeStore) -> None:
        draft = context.draft
        admitted = await admit(store, draft.call_id, context.plan, snapshot, self.wall, self.model_names)
        context.admitted = admitted
        admitted_call = AdmittedCall(quota=admitted.quota, consumed=partial(self._consumed, context))
        self.in_flight.admit(draft.call_id, admitted_call)
        try:
            await self.attempts.deliver(context)
        except Refusal as refusal:
            draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
            raise
        finally:
            self.in_flight.settle(draft.call_id)
            store.settle(draft.call_id, self._record(context))
            self._warn_of_doubts(draft)
            self._warn_of_models(context)

    def _consumed(self, context: CallContext) -> UsageRecord:
        """What is booked if this process dies now: its client gets an error then."""
        return attrs.evolve(self._record(context), errors=1)

    def _record(self, context: CallContext) -> UsageRecord:
        """What a call is booked with, as far as is known now.

        A call that no upstream has seen gives its place back. One that was sent and of which nothing was heard (the
        client left first) is booked with its prompt, by estimate: the upstream may have read it. So is each attempt
        whose answer was lost; a plain one with all that it reserved, for all of it may have been written.
        """
        draft, admitted, snapshot = context.draft, context.admitted, self.live.snapshot
        if context.meter is not None:
            draft.usage = context.meter.usage_so_far()
        if draft.usage.doubts and admitted is not None:
            draft.usage = completed(draft.usage, admitted.quota.reserved)
        model = served_model(draft.sent_model or context.plan.model, draft.usage.model, snapshot.prices)
        draft.cost = cost(draft.usage, model, snapshot.prices)
        draft.partly_priced = has_unpriced_part(draft.usage, model, snapshot.prices)
        # The store's clock says which day it is, as it does for limits; there is none where it could not be asked.
        began = (admitted.now_ms if admitted is not None else 0) or round(draft.started * 1000)
        day = day_of(began, snapshot.relay.state.timezone)
        heard = draft.usage.total > 0
        name = self.model_names.confirmed(model, snapshot, day) if heard else self.model_names.of(model, snapshot)
        record = record_of(draft.seal(trio.current_time()), day, name)
        if not context.tried:
            return attrs.evolve(record, requests=0, errors=0)
        if not draft.attempts and admitted is not None:
            return attrs.evolve(admitted.quota.orphan, account=context.tried[-1], errors=0, model=name, day=day)
        return _with_lost(record, context)

    def _warn_of_doubts(self, draft: Draft) -> None:
        """Say, now and then, that an upstream reports a usage that cannot be read."""
        fields = self._doubtful.due(draft.account, draft.usage.doubts)
        if fields:
            known = {"account": draft.account, "call": draft.call_id, "fields": ", ".join(fields)}
            log.warning("usage.unreadable", extra=known)

    def _warn_of_models(self, context: CallContext) -> None:
        """Say, now and then, that an upstream had another model answer than the key may use. It is booked as what it
        was; what has been answered cannot be taken back."""
        draft, plan = context.draft, context.plan
        served = (draft.usage.model, *(part.model for part in draft.usage.parts))
        beyond = served_beyond(served, (draft.sent_model, plan.model, *plan.call.named.models), plan.key)
        if beyond and self._beyond.due(draft.account, (plan.key.id, beyond)):
            known = {"account": draft.account, "call": draft.call_id, "key": plan.key.id, "model": beyond}
            log.warning("call.model_beyond_key", extra=known)


def _with_lost(record: UsageRecord, context: CallContext) -> UsageRecord:
    """With the estimate of each attempt that was sent and had no answer: the upstream bills it all the same."""
    if not context.lost or context.admitted is None:
        return record
    plain, reserved = not context.plan.call.stream, context.admitted.quota.reserved
    cost = reserved.cost if plain else reserved.input_cost
    return attrs.evolve(
        record,
        account=record.account or context.tried[-1],
        input=record.input + context.lost * reserved.input,
        output=record.output + context.lost * (reserved.output if plain else 0),
        cost=record.cost + context.lost * (cost or 0),
        unpriced=max(record.unpriced, int(cost is None)),
    )
