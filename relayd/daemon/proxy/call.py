"""Relay: one call, from its head to its receipt: serve_call > deliver > attempt > send.

Rule: decisions are asked of `core`; here they are carried out. Each await may be cancelled (the client left, a
deadline passed, the daemon stops) and leaves no connection open and exactly one receipt behind it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import attrs
import trio

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.auth import authenticate, client_address
from relayd.core.access.clients import permit
from relayd.core.access.permissions import Plan, allow_endpoint, resolve
from relayd.core.access.throttle import BadKeys
from relayd.core.balancing.affinity import Pins, affinity_id, sets_pin
from relayd.core.balancing.explain import Block, unavailable
from relayd.core.balancing.failover import (
    Answered,
    NoCredential,
    Outcome,
    Retry,
    Unreachable,
    judge,
    last_word,
    may_retry,
)
from relayd.core.balancing.pool import HealthChange, Lease, Pool, Unavailable, refusal_of
from relayd.core.balancing.retry_budget import RetryBudget
from relayd.core.live import Live
from relayd.core.outbound import answer_headers, prepare
from relayd.core.quota.limits import day_of, rfc3339
from relayd.core.quota.model_names import ModelNames
from relayd.core.quota.prices import cost
from relayd.core.quota.reservation import account_terms
from relayd.core.quota.usage_record import UsageRecord, record_of
from relayd.core.receipt import Attempt, Draft, Receipt
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.upstreams import Inbound, Upstreams
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.admission import Admitted, admit, admit_count, pass_in_advance
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.response import Response, peek_response, status_of_error
from relayd.daemon.proxy.routes import cors_headers
from relayd.daemon.proxy.streaming import (
    MESSAGE_LIMIT,
    REVOKED,
    TIME_IS_UP,
    EventStream,
    pass_through,
)
from relayd.daemon.store.state_client import StateClient
from relayd.state.contract import Admit
from relayd.wire.call import Call, Dialect, Reply, Translator
from relayd.wire.conversation import conversation
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.openai.shapes import rate_headers
from relayd.wire.peek import LARGE
from relayd.wire.refusal import Refusal
from relayd.wire.usage import Meter, Usage, usage_of_message

# A call waits this long, s, for an account that a rate limit holds: less than what a client would sleep after a 429.
SHORT_WAIT = 2.0
_LOOK = 0.25  # s; nobody knows when one of the calls that fill an account ends
_SPREAD = 0.05  # s; waiters for one account do not wake at one instant

log = logging.getLogger("relayd")


@attrs.define(eq=False, kw_only=True)
class CallContext:
    """A call on its way through its attempts.

    Args:
        only: the one account that can serve it, whatever the pool thinks of it; "" leaves the choice to the pool.
        barred: accounts that cannot serve it, for reasons that the pool does not know: these.
        creates: it makes an object, so that doing it twice is not harmless.
        free: it touches no limit and is not booked.
        amend: has the answer that goes to the client go through its hands.
    """

    exchange: Exchange
    dialect: Dialect
    plan: Plan
    draft: Draft
    client: HeaderPairs
    translator: Translator | None
    deadline: float  # on trio's clock
    affinity: str = ""  # names the conversation, scoped to the key; "" has none
    home: str | None = None  # the account where the conversation is
    admitted: Admitted | None = None
    meter: Meter | None = None  # of a stream that is on its way
    tried: list[str] = attrs.field(factory=list)
    seat: str = ""  # the attempt's name where it holds a slot of its account
    only: str = ""
    barred: Mapping[str, str] = attrs.field(factory=dict)
    creates: bool = False
    free: bool = False
    amend: Callable[[str, Response], Awaitable[Response]] | None = None


@attrs.define(eq=False, kw_only=True)
class CallServer:
    """Serves calls. Everything it needs of the outside world is handed in.

    Args:
        credential: an account's opened secret (empty where it needs none), or why it cannot be had.
        record: takes every receipt; sync, must not raise.
        wall: Unix time, seconds.
        new_id: a fresh call id.
        books: where calls are counted; without them nothing is limited or booked.
        bind: given a body, the accounts that cannot serve it for the files that it names, with reasons. May raise a
            Refusal.
        keeper: renews tokens that an upstream no longer takes; None: nobody does.
        large: where large bodies are read.
    """

    live: Live
    upstreams: Upstreams
    pool: Pool
    credential: Callable[[Account], Secret | str]
    record: Callable[[Receipt], None]
    wall: Callable[[], float]
    new_id: Callable[[], str]
    rng: random.Random
    bad_keys: BadKeys = attrs.field(factory=BadKeys)
    budget: RetryBudget = attrs.field(factory=RetryBudget)
    pins: Pins = attrs.field(factory=Pins)
    names: ModelNames = attrs.field(factory=ModelNames)
    books: StateClient | None = None
    bind: Callable[[bytes, ApiKey, Snapshot], Awaitable[Mapping[str, str]]] | None = None
    keeper: OAuthKeeper | None = None
    large: LargeBodies = attrs.field(factory=LargeBodies)
    _open: dict[str, CallContext] = attrs.field(factory=dict, init=False)

    async def serve_call(self, exchange: Exchange, dialect: Dialect) -> None:
        """Serve one call to its end."""

        async def serve(draft: Draft) -> None:
            await self._serve(exchange, dialect, draft)

        await self.with_receipt(exchange, dialect, serve)

    async def with_receipt(
        self, exchange: Exchange, dialect: Dialect, serve: Callable[[Draft], Awaitable[None]]
    ) -> None:
        """Serve one request; a Refusal is answered in the dialect. One receipt is recorded, whatever happens."""
        draft = self.draft(exchange, dialect.name)
        try:
            await serve(draft)
        except Refusal as refusal:
            await self._refuse(exchange, dialect, draft, refusal)
        except trio.Cancelled:
            draft.outcome, draft.reason = "cut", draft.reason or "the relay stopped"
            raise
        except Exception as error:
            draft.outcome, draft.status, draft.reason = "failed", draft.status or 500, type(error).__name__
            raise
        finally:
            draft.bytes_out = exchange.sent
            self.record(draft.seal(trio.current_time()))

    def identify(self, exchange: Exchange, draft: Draft) -> tuple[Snapshot, ApiKey]:
        """Who is calling, before a byte of the body is read. Raises: Refusal 401, 403, 429."""
        snapshot, headers = self.live.snapshot, exchange.head.headers
        address = client_address(exchange.peer, headers, snapshot.relay.server.trusted_proxies)
        now = self.wall()
        draft.peer, draft.revision = address, snapshot.revision
        self.bad_keys.check(address, now)
        try:
            key = authenticate(headers, snapshot, address, now)
        except Refusal as refusal:
            if refusal.status == 401:
                self.bad_keys.note(address, now)
            raise
        draft.key, draft.owner = key.id, key.owner
        draft.client = permit(headers, key, snapshot.relay.clients)
        return snapshot, key

    def draft(self, exchange: Exchange, dialect: str) -> Draft:
        """A new receipt to be written."""
        return Draft(
            call_id=self.new_id(),
            started=self.wall(),
            method=exchange.head.method,
            path=exchange.head.path,
            peer=exchange.peer,
            clock_start=exchange.clock_start,
            dialect=dialect,
        )

    async def _serve(self, exchange: Exchange, dialect: Dialect, draft: Draft) -> None:
        snapshot, key = self.identify(exchange, draft)
        allow_endpoint(Call(endpoint=dialect.endpoint), key)
        body = await exchange.body(snapshot.relay.server.max_request_body)
        draft.bytes_in = len(body)
        if len(body) >= LARGE and self.books is not None:
            await pass_in_advance(self.books, draft.call_id, dialect.endpoint, key, snapshot, self.wall)
        aliases = snapshot.relay.models
        call = await self.large.read(len(body), dialect.parse, exchange.head, body, now=draft.started, aliases=aliases)
        draft.model, draft.stream = call.model, call.stream
        plan = await self.large.read(len(call.body), resolve, call, key, snapshot)
        trial = CallContext(
            exchange=exchange,
            dialect=dialect,
            plan=plan,
            draft=draft,
            client=dialect.upstream_headers(exchange.head),
            translator=dialect.translator(call),
            deadline=exchange.clock_start + snapshot.relay.upstream.total_timeout,
            affinity=await self.large.read(len(body), self._affinity, exchange, call, key, snapshot),
        )
        if self.bind is not None:
            trial.barred = await self.bind(call.body, key, snapshot)
        await self.carry(trial, snapshot)

    async def carry(self, trial: CallContext, snapshot: Snapshot) -> None:
        """Serve a trial to its end, or until the client leaves or the time is up. Raises: Refusal."""

        async def counted() -> None:
            await self._counted(trial, snapshot)

        await self.within(trial.exchange, trial.draft, trial.deadline, counted)

    async def within(
        self, exchange: Exchange, draft: Draft, deadline: float, serve: Callable[[], Awaitable[None]]
    ) -> None:
        """Do something for a client that is still there, until `deadline` on trio's clock. Raises: Refusal."""

        def allowed(newest: Snapshot) -> bool:
            try:
                authenticate(exchange.head.headers, newest, draft.peer, self.wall())
            except Refusal:
                return False
            return True

        def revoke() -> None:
            draft.reason = REVOKED.message
            scope.cancel()

        with exchange.watch() as scope, self.live.running.of(draft.key, allowed, revoke):
            scope.deadline = deadline
            await serve()
        if exchange.gone:
            draft.outcome, draft.reason, draft.status = "left", "the client left", draft.status or 499
        elif scope.cancelled_caught:
            self._cut_short(exchange, draft, REVOKED if draft.reason == REVOKED.message else TIME_IS_UP)

    async def _counted(self, trial: CallContext, snapshot: Snapshot) -> None:
        """Deliver a call within the limits of its key, and settle it whatever comes."""
        books, plan, draft = self.books, trial.plan, trial.draft
        if books is None or trial.free:
            await self._deliver(trial)
            return
        if plan.call.endpoint == "count_tokens":
            await admit_count(books.counting, draft.call_id, plan.key)
            await self._deliver(trial)
            return
        trial.admitted = await admit(books.counting, draft.call_id, plan, snapshot, self.wall, self.names)
        self._open[draft.call_id] = trial
        try:
            await self._deliver(trial)
        except Refusal as refusal:
            draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
            raise
        finally:
            del self._open[draft.call_id]
            books.counting.settle(draft.call_id, self._record(trial))

    def _record(self, trial: CallContext) -> UsageRecord:
        """What a call is booked with, as far as is known now.

        A call that no upstream has seen gives its place back. One that was sent and of which nothing was heard (the
        client left first) is booked with its prompt, by estimate: the upstream may have read it.
        """
        draft, snapshot = trial.draft, self.live.snapshot
        if trial.meter is not None:
            draft.usage = trial.meter.usage_so_far()
        model = draft.sent_model or trial.plan.model
        draft.cost = cost(draft.usage, model, snapshot.prices)
        # The store's clock says which day it is, as it does for limits; there is none where it could not be asked.
        began = (trial.admitted.now_ms if trial.admitted is not None else 0) or round(draft.started * 1000)
        day = day_of(began, snapshot.relay.state.timezone)
        heard = draft.usage.total > 0
        name = self.names.confirmed(model, snapshot, day) if heard else self.names.of(model, snapshot)
        record = record_of(draft.seal(trio.current_time()), day, name)
        if not trial.tried:
            return attrs.evolve(record, requests=0, errors=0)
        if not draft.attempts and trial.admitted is not None:
            return attrs.evolve(trial.admitted.op.orphan, account=trial.tried[-1], errors=0, model=name, day=day)
        return record

    def open_calls(self) -> dict[str, Callable[[], UsageRecord]]:
        """The calls in flight, each with a way to find out what it has consumed up to then, for the heartbeat.

        Whoever books that will do so because this process has died, and their clients with an error.
        """

        def consumed(trial: CallContext) -> UsageRecord:
            return attrs.evolve(self._record(trial), errors=1)

        return {call_id: partial(consumed, trial) for call_id, trial in self._open.items()}

    def admission_of(self, call_id: str) -> Admit | None:
        """How a call in flight was admitted, for a store that has lost it."""
        trial = self._open.get(call_id)
        return trial.admitted.op if trial is not None and trial.admitted is not None else None

    def _affinity(self, exchange: Exchange, call: Call, key: ApiKey, snapshot: Snapshot) -> str:
        """The name of the call's conversation. Where there is but one account, nobody asks for it."""
        if not snapshot.relay.routing.affinity or len(snapshot.accounts) < 2:
            return ""
        name = call.conversation or conversation(exchange.head.headers, call.body, call.user_id)
        return affinity_id(key.id, name)

    def _cut_short(self, exchange: Exchange, draft: Draft, why: Refusal) -> None:
        if not exchange.answered:
            raise why
        draft.outcome, draft.reason = "cut", why.message
        exchange.abort()

    async def _deliver(self, trial: CallContext) -> None:
        """Try accounts until one answer is good enough, or there is nothing left to try."""
        self.budget.earn()
        await self._find_home(trial)
        while True:
            snapshot = self.live.snapshot  # permissions are asked of the newest config at each attempt
            account = await self._find_account(trial, snapshot)
            try:
                verdict = await self._attempt(trial, account, snapshot)
            finally:
                if self.books is not None:
                    self.books.seats.give_back(trial.seat)
            if verdict is None:
                return
            if verdict.backoff:
                await trio.sleep(verdict.backoff)

    async def _find_home(self, trial: CallContext) -> None:
        """Where the call's conversation is. The store is asked only about one that this process does not know."""
        keep = self.live.snapshot.relay.routing.affinity
        if trial.affinity:
            trial.home = self.pins.look(trial.affinity, self.wall(), keep)
            if trial.home is None and self.books is not None:
                trial.home = await self.books.remembered(trial.affinity, keep)

    async def _find_account(self, trial: CallContext, snapshot: Snapshot) -> Account:
        """The account of the next attempt, waited for where it is held for a moment only. Raises: Refusal."""
        if trial.tried:
            trial.plan = await self.large.read(len(trial.plan.call.body), self._plan_anew, trial, snapshot)
        patience = self.wall() + SHORT_WAIT
        while True:
            found = self._choose(trial, snapshot)
            if not isinstance(found, Unavailable):
                account = snapshot.accounts.get(found)
                if account is None:  # the only one that could serve has left the config a moment ago
                    raise Refusal(status=404, message=f"account {found} is no longer configured", should_retry=False)
                if await self._seated(trial, account):
                    trial.tried.append(found)
                    return account
            else:
                now = self.wall()
                if found.kind != "rate" or found.until > patience:
                    raise refusal_of(found, now=now)
                await trio.sleep(min(max(0.0, found.until - now), _LOOK) + self.rng.random() * _SPREAD)
            snapshot = self.live.snapshot
            trial.plan = await self.large.read(len(trial.plan.call.body), self._plan_anew, trial, snapshot)

    async def _seated(self, trial: CallContext, account: Account) -> bool:
        """Whether all processes together leave room for this attempt. Raises: Refusal 503."""
        if trial.only or self.books is None:
            return True
        ceilings = account_terms(account, self.books.counting.lease_ms)
        if not ceilings:
            return True
        trial.seat = f"{trial.draft.call_id}.{len(trial.tried)}"
        return await self.books.seats.take(trial.seat, account.id, ceilings)

    def _choose(self, trial: CallContext, snapshot: Snapshot) -> str | Unavailable:
        """The one account that can serve, or the pool's choice."""
        if trial.only:
            self.pool.adopt_if_new(snapshot, self.wall())
            return trial.only
        picked = self.pool.pick(
            snapshot,
            trial.plan.groups,
            trial.plan.model,
            now=self.wall(),
            rng=self.rng,
            affinity=trial.home,
            excluded=[*trial.tried, *trial.barred],
        )
        if not isinstance(picked, Unavailable):
            return picked.account
        return _with_bars(picked, trial.barred) if trial.barred else picked

    def _plan_anew(self, trial: CallContext, snapshot: Snapshot) -> Plan:
        """What was taken from a key while its call was tried, it gets no further attempt with. Raises: Refusal."""
        headers = trial.exchange.head.headers
        key = authenticate(headers, snapshot, trial.draft.peer, self.wall())
        permit(headers, key, snapshot.relay.clients)
        return resolve(trial.plan.call, key, snapshot)

    async def _attempt(self, trial: CallContext, account: Account, snapshot: Snapshot) -> Retry | None:
        """Try one account. None when the client has its answer, else why another try is worth while."""
        plan = trial.plan
        model = plan.model if plan.call.endpoint in ("messages", "openai") else ""  # else its limits are others
        lease = self.pool.begin(account.id, model, self.wall())
        began = trio.current_time()
        inbound: Inbound | Unreachable | NoCredential | None = None
        try:
            inbound = await self.ask(plan, account, trial.client, snapshot)
            if not isinstance(inbound, Inbound):
                return self._settle_attempt(trial, lease, inbound, None, began)
            answer, outcome = await peek_response(
                inbound, snapshot, message=plan.call.endpoint in ("messages", "openai")
            )
            trial.draft.account = account.id
            trial.draft.sent_model = account.model_map.get(plan.model, plan.model)
            verdict = self._settle_attempt(trial, lease, outcome, answer, began)
            if verdict is None:
                if trial.amend is not None:
                    answer = await trial.amend(account.id, answer)
                await self._send(trial, answer, snapshot)
            return verdict
        finally:
            if isinstance(inbound, Inbound):
                inbound.source.close()
            self.pool.end(lease, self.wall())

    async def ask(
        self, plan: Plan, account: Account, client: HeaderPairs, snapshot: Snapshot
    ) -> Inbound | Unreachable | NoCredential:
        """Send a plan's call to an account and wait for the head of the answer, whose source the caller closes.

        After a 401 for an OAuth token that can be renewed the same account is asked once more, with the new one.
        """
        secret = self.credential(account)
        if isinstance(secret, str):
            return NoCredential(reason=secret)
        inbound = await self._ask(plan, account, secret, client, snapshot)
        if not isinstance(inbound, Inbound) or inbound.status != 401 or self.keeper is None:
            return inbound
        if not self.keeper.renewable(account.id, secret):
            return inbound
        inbound.source.close()
        await self.keeper.renew(account.id, secret)
        secret = self.credential(account)
        if isinstance(secret, str):
            return NoCredential(reason=secret)
        return await self._ask(plan, account, secret, client, snapshot)

    async def _ask(
        self, plan: Plan, account: Account, secret: Secret, client: HeaderPairs, snapshot: Snapshot
    ) -> Inbound | Unreachable:
        limits = snapshot.relay.upstream
        base_url = account.base_url or limits.base_url
        outbound = await self.large.read(len(plan.call.body), prepare, plan, account, base_url, secret, client)
        return await self.upstreams.open(account, outbound, limits)

    def _settle_attempt(
        self, trial: CallContext, lease: Lease, outcome: Outcome, answer: Response | None, began: float
    ) -> Retry | None:
        """Judge an attempt, let the pool learn from it and write it down. Sync.

        Returns: None when its answer goes to the client, a Retry when another account is to be tried.
        Raises: Refusal when neither is possible.
        """
        now, clock = self.wall(), trio.current_time()
        upstream = self.live.snapshot.relay
        verdict = judge(
            outcome,
            cooldown=upstream.routing.cooldown,
            now=now,
            model=lease.model,
            attempt=len(trial.tried) - 1,
            repeatable=not trial.creates,
        )
        headers = outcome.headers if isinstance(outcome, Answered) else None
        status = outcome.status if isinstance(outcome, Answered) else 0
        if isinstance(verdict, Retry) and status in (401, 403) and trial.plan.call.endpoint in ("batches", "files"):
            # Some credentials may send messages and not keep objects; that is no reason to take their account out.
            verdict = attrs.evolve(verdict, scope="none")
        tell(self.pool.observe(lease, verdict, headers, now, self.rng))
        trial.draft.attempts.append(
            Attempt(account=lease.account, status=status, reason=verdict.reason, seconds=clock - began)
        )
        if not isinstance(verdict, Retry):
            if status == 200 and trial.affinity and sets_pin(trial.plan.call.endpoint):
                self._pin(trial.affinity, lease.account, now)
            return None
        self.pool.end(lease, now)
        left = trial.plan.attempts - len(trial.tried)
        if self._another_is_free(trial) and may_retry(
            verdict, attempts_left=left, budget=self.budget, deadline=trial.deadline, now=clock
        ):
            return verdict
        if answer is None or not verdict.relayable or answer.opening.cut:
            raise last_word(verdict)
        if verdict.kind == "auth" and (status == 401 or (status == 403 and verdict.scope == "account")):
            raise credential_rejected(lease.account, verdict)
        return None

    def _pin(self, affinity: str, account: str, now: float) -> None:
        keep = self.live.snapshot.relay.routing.affinity
        if self.pins.pin(affinity, account, now, keep) and self.books is not None:
            self.books.remember(affinity, account, keep)

    def _another_is_free(self, trial: CallContext) -> bool:
        """Whether a further attempt has anywhere to go; else the last answer is what the client should see."""
        return not trial.only and not isinstance(self._choose(trial, self.live.snapshot), Unavailable)

    async def _send(self, trial: CallContext, answer: Response, snapshot: Snapshot) -> None:
        """Hand an answer to the client. From its first byte there is no way back."""
        draft, exchange, inbound = trial.draft, trial.exchange, answer.inbound
        draft.status = inbound.status
        draft.outcome = "ok" if inbound.status < 400 else "upstream"
        draft.upstream_request_id = inbound.headers.text(b"request-id")
        draft.first_byte_at = trio.current_time()
        if answer.opening.error and trial.translator is not None:
            # Nothing has been sent: say it with a status, which clients of that dialect know how to retry.
            draft.status, draft.outcome = status_of_error(answer.opening.error), "upstream"
        headers = self._headers(trial, inbound.headers)
        if draft.status != inbound.status:
            await self._whole(trial, draft.status, answer.opening.error, headers)
        elif answer.streams:
            await self._stream(trial, answer, headers, snapshot)
        elif answer.opening.ended:
            await self._whole(trial, inbound.status, answer.opening.data, headers)
        elif trial.translator is not None:
            raise Refusal(status=502, message=f"the upstream's answer is larger than {MESSAGE_LIMIT} bytes")
        else:
            length = inbound.headers.text(b"content-length")
            exchange.start(inbound.status, headers, int(length) if length.isdigit() else None)
            idle = snapshot.relay.upstream.idle_timeout
            fault = await pass_through(exchange, inbound.source, answer.opening.data, idle)
            if fault:
                draft.outcome, draft.reason = "cut", fault

    async def _whole(self, trial: CallContext, status: int, body: bytes, headers: HeaderPairs) -> None:
        if status == 200 and trial.plan.call.endpoint in ("messages", "openai"):
            reported: Usage | None = await self.large.read(len(body), usage_of_message, body)
            trial.draft.usage = reported or trial.draft.usage
        if trial.translator is not None:
            body = await self.large.read(len(body), trial.translator.whole, status, body)
        await trial.exchange.reply(Reply(status=status, headers=headers, body=body))

    async def _stream(self, trial: CallContext, answer: Response, headers: HeaderPairs, snapshot: Snapshot) -> None:
        meter = trial.meter = Meter()
        stream = EventStream(
            exchange=trial.exchange,
            source=answer.inbound.source,
            meter=meter,
            translator=trial.translator,
            keepalive=snapshot.relay.server.sse_keepalive,
            idle=snapshot.relay.upstream.idle_timeout,
            request_id=trial.draft.upstream_request_id or trial.draft.call_id,
            deadline=trial.deadline,
            revoked=lambda: trial.draft.reason == REVOKED.message,
        )
        trial.exchange.start(answer.inbound.status, headers)
        try:
            fault = await stream.run(answer.opening.data, ended=answer.opening.ended)
            if fault is not None:
                trial.draft.outcome, trial.draft.reason = "cut", fault.message
            elif meter.failed:
                trial.draft.outcome, trial.draft.reason = "cut", "the upstream sent an error event"
        finally:
            trial.draft.usage = meter.usage_so_far()
            trial.meter = None

    def _headers(self, trial: CallContext, upstream: Headers) -> HeaderPairs:
        """The answer's headers: the upstream's end-to-end ones, and our ids."""
        pairs = answer_headers(upstream)
        own = trial.admitted.headers() if trial.admitted is not None else []
        if trial.translator is not None:
            pairs = trial.translator.head(trial.draft.status, pairs)
            own = rate_headers(own, self.wall())
        pairs += own
        call_id = trial.draft.call_id.encode("ascii")
        if not trial.draft.upstream_request_id:
            pairs.append((b"request-id", call_id))
            if trial.translator is not None:
                pairs.append((b"x-request-id", call_id))
        pairs.append((b"relayd-request-id", call_id))
        return pairs + self._cors(trial.exchange)

    def _cors(self, exchange: Exchange) -> HeaderPairs:
        allowed = self.live.snapshot.relay.server.cors_origins
        return cors_headers(exchange.head.headers.text(b"origin"), allowed) if allowed else []

    async def _refuse(self, exchange: Exchange, dialect: Dialect, draft: Draft, refusal: Refusal) -> None:
        draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
        if exchange.gone:
            draft.outcome = "left"
            return
        if exchange.answered:
            exchange.abort()
            return
        exchange.withdraw()
        reply = dialect.refuse(refusal, draft.call_id)
        call_id = draft.call_id.encode("ascii")
        extra = [(b"request-id", call_id), (b"relayd-request-id", call_id), *self._cors(exchange)]
        await exchange.reply(attrs.evolve(reply, headers=[*reply.headers, *extra]))


def tell(change: HealthChange | None) -> None:
    """Log that an account's health has turned, if it has."""
    if change is None:
        return
    if change.what == "recovered":
        log.info("account.recovered", extra={"account": change.account})
        return
    event = "account.credential" if change.what == "credential" else "account.out"
    until = rfc3339(round(change.until * 1000))
    log.warning(event, extra={"account": change.account, "reason": change.reason, "until": until})


def credential_rejected(account: str, verdict: Retry) -> Refusal:
    """In place of an upstream's 401 or 403 that denies our credential: to the client a 401 would mean its own key, and
    Claude Code would ask its user to log in."""
    return Refusal(
        status=502,
        message=f"account {account}: the upstream rejected its credential: {verdict.reason}",
        code="upstream_credential",
    )


def _with_bars(found: Unavailable, barred: Mapping[str, str]) -> Unavailable:
    """What keeps the accounts from a call, where some are kept from it by what the pool does not know."""
    holds = [
        Block(hold.account, "never", math.inf, barred[hold.account]) if hold.account in barred else hold
        for hold in found.holds
    ]
    return unavailable(holds, found.model)
