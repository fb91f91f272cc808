"""Calls: one call from its head to its receipt.

    serve_call > within > accounting.deliver > attempts.deliver > replies.send

Rule: decisions are asked of `core`; here they are carried out. Each await may be cancelled (the client left, a
deadline passed, the key was revoked, the daemon stops) and leaves no connection open and exactly one receipt behind it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio

from relayd.config.snapshot import ApiKey, Snapshot
from relayd.core.access.addresses import client_address
from relayd.core.access.auth import authenticate
from relayd.core.access.body_budget import BodyBudget
from relayd.core.access.clients import permit
from relayd.core.access.ownership import unfit
from relayd.core.access.permissions import LONGEST, allow_endpoint, resolve
from relayd.core.access.throttle import BadKeys
from relayd.core.balancing.affinity import affinity_id
from relayd.core.in_flight import InFlight
from relayd.core.live import Live
from relayd.core.quota.count_estimate import estimated_count, has_no_counting
from relayd.core.receipt import NO_TRACE, Draft, Receipt, Trace
from relayd.daemon.log import current_call, tell_refused
from relayd.daemon.net.exchange import STOPPED, Exchange
from relayd.daemon.proxy.accounting import CallAccounting
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.kept_items import KeptItems
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.ownership_index import OwnershipIndex
from relayd.daemon.proxy.reply import ReplyWriter
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.streaming import REVOKED, TIME_IS_UP, BufferedBody
from relayd.wire.anthropic import JSON
from relayd.wire.call import Call, Dialect, Translator
from relayd.wire.content_coding import CODINGS, coding_of
from relayd.wire.conversation import conversation
from relayd.wire.http import Headers
from relayd.wire.peek import LARGE
from relayd.wire.refusal import Refusal

_LONGEST_STATE = 512  # characters of a `tracestate` that is passed on
_LONGEST_ID = 128  # characters of a request id that is not ours
PARTING = 1.0  # s for a last word to a client whose call the stop of the relay cancels
_MOMENT = 1.0  # s; a key that was accepted so long ago still is, under the same config


@attrs.define(eq=False, kw_only=True)
class CallServer:
    """Serves calls. Everything it needs of the outside world is handed in.

    Args:
        record: takes every receipt; sync, must not raise.
        large: where large bodies are read.
        wall: Unix time, s.
        new_id: a fresh call id.
        traced: whether receipts are to say which trace a call is part of.
    """

    live: Live
    in_flight: InFlight
    accounting: CallAccounting
    ownership: OwnershipIndex
    items: KeptItems
    replies: ReplyWriter
    record: Callable[[Receipt], None]
    bodies: BodyBudget
    large: LargeBodies
    wall: Callable[[], float]
    new_id: Callable[[], str]
    traced: bool = False
    bad_keys: BadKeys = attrs.field(factory=BadKeys)

    async def serve_call(self, exchange: Exchange, dialect: Dialect) -> None:
        """Serve one call to its end."""
        await self.with_receipt(exchange, dialect, partial(self._serve, exchange, dialect))

    async def with_receipt(
        self, exchange: Exchange, dialect: Dialect, serve: Callable[[Draft], Awaitable[None]]
    ) -> None:
        """Serve one request; a Refusal is answered in the dialect. One receipt is recorded, whatever happens."""
        draft = self.draft(exchange, dialect.name)
        current_call.set(draft.call_id)
        try:
            await serve(draft)
        except Refusal as refusal:
            await self.replies.refuse(exchange, dialect, draft, refusal.let_go())
        except trio.Cancelled:
            if not exchange.answered:
                with parting():
                    await self.replies.refuse(exchange, dialect, draft, STOPPED.let_go())
            draft.outcome, draft.reason = "cut", draft.reason or "the relay stopped"
            raise
        except Exception as error:
            draft.outcome, draft.status, draft.reason = "failed", draft.status or 500, type(error).__name__
            raise
        finally:
            self.bodies.give_back(draft.call_id)
            draft.bytes_out = exchange.sent
            self.record(draft.seal(trio.current_time()))
            current_call.set("")

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
            trace=_trace(exchange.head.headers) if self.traced else NO_TRACE,
            client_request_id=_given_id(exchange.head.headers),
        )

    def identify(self, exchange: Exchange, draft: Draft) -> tuple[Snapshot, ApiKey]:
        """Who is calling, before a byte of the body is read. Raises: Refusal 401, 403, 429."""
        snapshot, headers = self.live.snapshot, exchange.head.headers
        address = client_address(exchange.peer, headers, snapshot.relay.server.trusted_proxies)
        now = self.wall()
        draft.peer, draft.revision = address, snapshot.revision
        try:
            key = authenticate(headers, snapshot, address, now)
        except Refusal as refusal:
            answer = self.bad_keys.answer(refusal, address, now)
            if answer.status == 401:  # what is held off after that is no news
                tell_refused(address, "key", refusal.message)
            raise answer from None
        draft.key, draft.owner = key.id, key.owner
        draft.client = permit(headers, key, snapshot.relay.clients)
        return snapshot, key

    async def body(
        self, exchange: Exchange, draft: Draft, snapshot: Snapshot, key: ApiKey
    ) -> tuple[bytes, Snapshot, ApiKey]:
        """The whole body of a request, decoded, and who sends it as the newest config has it.

        The sender is asked for again, unless nothing can have changed: a body may take minutes, and a key be revoked in
        that time.

        Raises: Refusal 413, 415, 400, 408; 429, 529 where there is no room for it; what `identify` raises.
        """
        server = snapshot.relay.server
        self.bodies.check(key, server, exchange.head.content_length or 0)
        limit, took = server.max_request_body, partial(self.bodies.take, draft.call_id, key, server)
        body = await exchange.body(limit, took, codings=CODINGS)
        draft.bytes_in = len(body)
        if coding := coding_of(exchange.head.headers):
            body = await self.large.decode(coding, body, limit, took)
        if self.live.snapshot is snapshot and trio.current_time() - draft.clock_start < _MOMENT:
            return body, snapshot, key
        return body, *self.identify(exchange, draft)

    async def _serve(self, exchange: Exchange, dialect: Dialect, draft: Draft) -> None:
        snapshot, key = self.identify(exchange, draft)
        allow_endpoint(Call(endpoint=dialect.endpoint, language=dialect.language), key)
        body, snapshot, key = await self.body(exchange, draft, snapshot, key)
        if len(body) >= LARGE:
            await self.accounting.pass_in_advance(draft.call_id, dialect.endpoint, key, snapshot)
        if dialect.name == "openai-responses":
            body = await self.items.restored(body, key, snapshot)
        aliases = snapshot.relay.models
        call = await self.large.read(len(body), dialect.parse, exchange.head, body, now=draft.started, aliases=aliases)
        draft.model, draft.stream, draft.max_tokens = call.model[:LONGEST], call.stream, call.max_tokens
        context = CallContext(
            exchange=exchange,
            dialect=dialect,
            plan=await self.large.read(len(call.body), resolve, call, key, snapshot),
            draft=draft,
            client=dialect.upstream_headers(exchange.head),
            translator=dialect.translator(call),
            deadline=exchange.clock_start + snapshot.relay.upstream.total_timeout,
            affinity=await self.large.read(len(body), _affinity, exchange, call, key, snapshot),
            keep=partial(self.ownership.keep, call.resumed.in_thread, key) if call.endpoint == "messages" else None,
        )
        if context.counting:
            context.amend = partial(self._counted, context)
        if (finished := _to_keep(context.translator)) is not None:
            context.keep_items = partial(self.items.keep, finished, key, snapshot)
        files = await self.ownership.bind(call.body, key, snapshot, call.resumed.ids())
        context.barred = {**unfit(call.named.models, snapshot), **files} if call.named.models else files
        await self.carry(context, snapshot)

    async def _counted(self, context: CallContext, account: str, answer: Response) -> Response:
        """The answer to a `count_tokens`; our own estimate where the upstream has none."""
        inbound, body, call = answer.inbound, answer.body, context.plan.call
        if not body.ended or not has_no_counting(inbound.status, body.data, (call.model, context.draft.sent_model)):
            return answer
        context.notes.append((b"relayd-estimated", b"input_tokens"))
        data = await self.large.read(len(call.body), estimated_count, call.body)
        return attrs.evolve(
            answer,
            inbound=attrs.evolve(inbound, status=200, headers=Headers([JSON])),
            body=BufferedBody(data=data, ended=True),
        )

    async def carry(self, context: CallContext, snapshot: Snapshot) -> None:
        """Deliver a call, or end it when the client leaves or the time is up. Raises: Refusal."""
        deliver = partial(self.accounting.deliver, context, snapshot)
        try:
            await self.within(context.exchange, context.draft, context.deadline, deliver, context)
        except Refusal as refusal:
            if not context.early:
                raise
            await self.replies.refuse_late(context, refusal.let_go())
        except trio.Cancelled:
            if context.early:
                with parting():
                    await self.replies.refuse_late(context, STOPPED.let_go())
            raise
        finally:
            context.let_go()

    async def within(
        self,
        exchange: Exchange,
        draft: Draft,
        deadline: float,
        serve: Callable[[], Awaitable[None]],
        context: CallContext | None = None,
    ) -> None:
        """Do something for a client that is still there and whose key is accepted, until a deadline.

        Args:
            deadline: on trio's clock, s.
            context: of the call that is made for it; None where there is none.
        Raises: Refusal.
        """

        def allowed(newest: Snapshot) -> bool:
            try:
                authenticate(exchange.head.headers, newest, draft.peer, self.wall())
            except Refusal:
                return False
            return True

        def revoke() -> None:
            draft.revoked = True
            scope.cancel()

        with exchange.watch(deadline) as scope, self.in_flight.revocable(draft.key, allowed, revoke):
            await serve()
        if exchange.gone:
            if context is None or not context.served():
                draft.outcome, draft.reason, draft.status = "left", "the client left", draft.status or 499
        elif scope.cancelled_caught:
            why = REVOKED if draft.revoked else TIME_IS_UP
            if not (exchange.answered if context is None else context.answered()):
                raise why
            self.replies.cut_short(exchange, draft, why)


def parting() -> trio.CancelScope:
    """For a last word to a client whose call is cancelled: what its kernel takes at once, and a moment more."""
    return trio.CancelScope(shield=True, deadline=trio.current_time() + PARTING)


def _trace(headers: Headers) -> Trace:
    """The trace context of a request, as far as it can be one. Source: W3C Trace Context, sections 3.2 and 3.3."""
    parent, state = headers.text(b"traceparent"), headers.text(b"tracestate")
    return (parent, state if len(state) <= _LONGEST_STATE else "") if 55 <= len(parent) <= _LONGEST_STATE else NO_TRACE


def _to_keep(translator: Translator | None) -> list[tuple[str, bytes]] | None:
    """The items of an answer to a Responses client, as far as it may refer to them later."""
    if translator is None:
        return None
    from relayd.wire.openai.responses_answer import ResponsesTranslator

    return translator.finished if isinstance(translator, ResponsesTranslator) and translator.hints.store else None


def _given_id(headers: Headers) -> str:
    """The id that a proxy before us, or the client, has given the request."""
    text = headers.text(b"x-request-id") or headers.text(b"x-client-request-id")
    return text if len(text) <= _LONGEST_ID and text.isascii() and text.isprintable() else ""


def _affinity(exchange: Exchange, call: Call, key: ApiKey, snapshot: Snapshot) -> str:
    """The name of the call's conversation. Where there is but one account, nobody asks for it."""
    if not snapshot.relay.routing.affinity or len(snapshot.accounts) < 2:
        return ""
    name = conversation(exchange.head.headers, call.body, call.user_id, call.session)
    return affinity_id(key.id, name)
