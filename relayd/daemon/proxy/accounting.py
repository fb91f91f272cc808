"""Call accounting: a call is admitted before its first attempt and settled when it has ended.

Rule: an admitted call is settled exactly once, in a `finally`, by what is sync.

Theory: whoever has its whole answer may ask again at once, on any node. So where calls are limited in number, a call
is settled before the last byte of its answer goes out; all others are settled a few milliseconds later, with others.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import attrs
import trio

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.permissions import served_beyond
from relayd.core.in_flight import AdmittedCall, InFlight
from relayd.core.live import Live
from relayd.core.quota.learned import LearnedUsage
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.prices import cost, has_unpriced_part, served_model
from relayd.core.quota.usage_estimate import RareWarnings, completed, without_last_word
from relayd.core.quota.usage_record import UsageRecord, record_of
from relayd.core.quota.windows import day_of
from relayd.core.receipt import Draft
from relayd.daemon.proxy.admission import Admission, Admitted, admit_count
from relayd.daemon.proxy.attempts import Attempts
from relayd.daemon.proxy.context import CallContext
from relayd.wire.call import Endpoint
from relayd.wire.refusal import Refusal
from relayd.wire.usage import Usage

# The last byte of an answer waits so long, s, for a store that does not take the settlement.
PROMPT = 0.3

log = logging.getLogger("relayd")


@attrs.define(eq=False, kw_only=True)
class CallAccounting:
    """Has calls delivered within the limits of their keys.

    Args:
        admission: where calls are counted; without it nothing is limited or booked.
        model_names, learned: as the admission has them.
        wall: Unix time, s.
    """

    live: Live
    in_flight: InFlight
    attempts: Attempts
    admission: Admission | None
    model_names: ModelNames
    learned: LearnedUsage
    wall: Callable[[], float]
    _doubtful: RareWarnings = attrs.field(init=False)
    _beyond: RareWarnings = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._doubtful, self._beyond = RareWarnings(self.wall), RareWarnings(self.wall)

    async def pass_in_advance(self, call_id: str, endpoint: Endpoint, key: ApiKey, snapshot: Snapshot) -> None:
        """Refuse a call whose large body need not be read for it. Raises: Refusal 429, 529."""
        if self.admission is not None:
            await self.admission.pass_in_advance(call_id, endpoint, key, snapshot)

    async def deliver(self, context: CallContext, snapshot: Snapshot) -> None:
        """Deliver a call, and settle it whatever comes of it. Raises: Refusal."""
        if self.admission is None or context.free:
            await self.attempts.deliver(context)
        elif context.plan.call.endpoint == "count_tokens":
            await admit_count(self.admission.store, context.draft.call_id, context.plan.key)
            await self.attempts.deliver(context)
        else:
            await self._counted(context, snapshot, self.admission)

    async def _counted(self, context: CallContext, snapshot: Snapshot, admission: Admission) -> None:
        draft = context.draft
        admitted = await admission.admit(draft.call_id, context.plan, snapshot)
        context.admitted = admitted
        admitted_call = AdmittedCall(quota=admitted.quota, consumed=partial(self._consumed, context))
        self.in_flight.admit(draft.call_id, admitted_call)
        if admitted.quota.has_slots:
            context.before_last_byte = partial(self._settle_first, context, admission)
        try:
            await self.attempts.deliver(context)
        except Refusal as refusal:
            draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
            if context.before_last_byte is not None:
                await context.before_last_byte()
            raise
        finally:
            if not context.settled:
                self._settle(context, admission)

    async def _settle_first(self, context: CallContext, admission: Admission) -> None:
        """Settle a call whose answer is about to be whole, and wait until the store knows."""
        if not context.settled:
            known = trio.Event()
            self._settle(context, admission, known.set)
            if not known.is_set():
                with trio.move_on_after(PROMPT):
                    await known.wait()

    def _settle(self, context: CallContext, admission: Admission, kept: Callable[[], None] | None = None) -> None:
        draft = context.draft
        context.settled = True
        self.in_flight.settle(draft.call_id)
        admission.store.settle(draft.call_id, self._record(context), kept)
        admission.released(context.plan.key)
        self._learn(context)
        self._warn_of_doubts(draft)
        self._warn_of_models(context)

    def _consumed(self, context: CallContext) -> UsageRecord:
        """What is booked if this process dies now: its client gets an error then."""
        return attrs.evolve(self._record(context), errors=1)

    def _record(self, context: CallContext) -> UsageRecord:
        """What a call is booked with, as far as is known now.

        A call that no upstream has seen gives its place back. One that was sent and of which nothing was heard (the
        client left first) is booked with its prompt, by estimate: the upstream may have read it; a plain one also with
        what it has likely been answered until then. So is each attempt whose answer was lost; a plain one with all that
        it reserved, for all of it may have been written.
        """
        draft, admitted, snapshot = context.draft, context.admitted, self.live.snapshot
        assert admitted is not None
        if context.stream is not None:
            draft.usage = self._streamed(context, admitted)
        if draft.usage.doubts:
            draft.usage = completed(draft.usage, admitted.quota.reserved)
        model = served_model(draft.sent_model or context.plan.model, draft.usage.model, snapshot.prices)
        draft.cost = cost(draft.usage, model, snapshot.prices)
        draft.partly_priced = has_unpriced_part(draft.usage, model, snapshot.prices)
        # The store's clock says which day it is, as it does for limits; there is none where it could not be asked.
        day = day_of(admitted.now_ms or round(draft.started * 1000), snapshot.relay.state.timezone)
        heard = draft.usage.total > 0
        name = self.model_names.confirmed(model, snapshot, day) if heard else self.model_names.of(model, snapshot)
        record = record_of(draft, day, name)
        if not context.tried:
            return attrs.evolve(record, requests=0, errors=0)
        if not draft.attempts:
            return self._of_left(context, admitted, attrs.evolve(record, model=name, day=day))
        return _with_lost(record, context)

    def _of_left(self, context: CallContext, admitted: Admitted, record: UsageRecord) -> UsageRecord:
        """Of a call that its client left before anything was heard."""
        unheard, prices = self._unheard(context, admitted), self.live.snapshot.prices
        orphan = admitted.quota.orphan
        return attrs.evolve(
            orphan,
            account=context.tried[-1],
            errors=0,
            model=record.model,
            day=record.day,
            output=unheard,
            cost=orphan.cost + (cost(Usage(output=unheard), context.plan.model, prices) or 0),
        )

    def _streamed(self, context: CallContext, admitted: Admitted) -> Usage:
        """The usage of a stream that is on its way or has ended."""
        stream = context.stream
        assert stream is not None
        meter = stream.meter
        if meter.final:
            return meter.usage
        began, seconds = context.draft.first_byte_at, 0.0
        if began is not None and not meter.failed:  # a fault of the upstream's own: it wrote no more than it sent
            seconds = stream.upstream_until(trio.current_time()) - began
        likely = self.learned.written_in(context.plan.model, seconds)
        return without_last_word(meter.usage, meter.usage_so_far(), likely, admitted.quota.most.output)

    def _unheard(self, context: CallContext, admitted: Admitted) -> int:
        """Tokens that an upstream has likely written of a plain answer that its client did not wait for."""
        if context.plan.call.stream or context.asked_at is None:
            return 0
        seconds = trio.current_time() - context.asked_at
        return min(self.learned.written_in(context.plan.model, seconds), admitted.quota.most.output)

    def _learn(self, context: CallContext) -> None:
        """What a call that ended as it should tells of the next ones of its key and model."""
        draft, admitted, stream, now = context.draft, context.admitted, context.stream, trio.current_time()
        ended = draft.outcome == "ok" and (stream is None or stream.meter.final)
        usage, model = draft.usage, context.plan.model
        if admitted is None or not ended or not usage.total or usage.doubts:
            return
        self.learned.learn(
            context.plan.key.id,
            model,
            admitted.quota.most,
            prompt=usage.prompt,
            output=usage.output,
            cost=draft.cost,
            seconds=now - admitted.at,
        )
        if stream is not None and draft.first_byte_at is not None:
            self.learned.learn_rate(model, usage.output, now - draft.first_byte_at)

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
