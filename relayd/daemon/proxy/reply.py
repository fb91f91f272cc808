"""Replies: what goes to the client: an upstream's answer, whole or as a stream, or a refusal.

Rule: from the first byte of an answer there is no way back. The headers that relayd adds to an answer, its ids and the
permissions for browsers, are written here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from relayd.config.snapshot import Snapshot
from relayd.core.live import Live
from relayd.core.outbound import answer_headers, retry_advice
from relayd.core.receipt import Draft
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.streaming import MESSAGE_LIMIT, EventStream, pass_through
from relayd.wire.answer import read_error
from relayd.wire.anthropic import EVENT_STREAM, JSON, error_event
from relayd.wire.call import Dialect, Reply
from relayd.wire.http import HeaderPairs, Headers, RequestHead
from relayd.wire.meter import Meter
from relayd.wire.refusal import Refusal, status_of_kind
from relayd.wire.resumed import made_by_message
from relayd.wire.usage import usage_of_message


def id_headers(call_id: str, revision: str) -> HeaderPairs:
    """The ids of an answer that no upstream gave, and the revision of the config that made it."""
    value = call_id.encode("ascii")
    return [(b"request-id", value), (b"relayd-request-id", value), (b"relayd-config", revision.encode("ascii"))]


def cors_headers(origin: str, allowed: tuple[str, ...]) -> HeaderPairs:
    """What lets a browser read an answer, when its origin may. Source: Fetch standard, CORS protocol."""
    if not origin or not allowed or (origin not in allowed and "*" not in allowed):
        return []
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    ]


def preflight(head: RequestHead, allowed: tuple[str, ...]) -> Reply:
    """The answer to `OPTIONS`: 204, with the permissions if the origin has them."""
    pairs = cors_headers(head.headers.text(b"origin"), allowed)
    if pairs:
        asked = head.headers.get(b"access-control-request-headers") or b"*"
        pairs += [
            (b"access-control-allow-methods", b"GET, POST, DELETE"),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", b"600"),
        ]
    return Reply(status=204, headers=[*pairs, (b"allow", b"GET, POST, DELETE, HEAD, OPTIONS")], body=b"")


def status_of_error(error: bytes) -> int:
    """The status that goes with an error of the API. Source: API docs, "Errors"."""
    fault = read_error(error)
    return status_of_kind(fault.type) if fault is not None else 500


@attrs.define(eq=False, kw_only=True)
class ReplyWriter:
    """Writes answers to clients.

    Args:
        large: where large answers are read.
        wall: Unix time, s.

    Attributes:
        streams: answers that are being streamed now.
    """

    live: Live
    large: LargeBodies
    wall: Callable[[], float]
    streams: int = attrs.field(default=0, init=False)

    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may read answers."""
        return self.live.snapshot.relay.server.cors_origins

    def readable(self, exchange: Exchange) -> HeaderPairs:
        """What lets a page of the listed origins read the answer."""
        allowed = self.origins()
        return cors_headers(exchange.head.headers.text(b"origin"), allowed) if allowed else []

    def ids(self, call_id: str, revision: str = "") -> HeaderPairs:
        """The ids of an answer of our own. `revision`: the config that it was served under; "" is the running one."""
        return id_headers(call_id, revision or self.live.snapshot.revision)

    def own(self, exchange: Exchange, draft: Draft, reply: Reply) -> Reply:
        """An answer of our own to a call, with its ids."""
        ids = self.ids(draft.call_id, draft.revision)
        return attrs.evolve(reply, headers=[*reply.headers, *ids, *self.readable(exchange)])

    # --- signs of life (signs_of_life.py)

    def begin_early(self, context: CallContext) -> None:
        """The head of a stream of which nothing has come yet. Sync."""
        context.early, context.draft.status = True, 200
        plain = Headers([(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache")])
        context.exchange.start(200, self._headers(context, plain))

    def _told(self, context: CallContext, refusal: Refusal) -> bytes:
        """A refusal as an event."""
        if context.translator is not None:
            return context.translator.fail(refusal)
        return error_event(refusal, context.draft.upstream_request_id or context.draft.call_id)

    async def _late_error(self, context: CallContext, error: bytes) -> None:
        """An upstream's error, for a client that has its head; in the upstream's own words, where it has any."""
        fault, status = read_error(error), context.draft.status
        if fault is not None and context.translator is None:
            line = error.replace(b"\r", b" ").replace(b"\n", b" ")
            return await self._end_with(context, b"event: error\ndata: " + line + b"\n\n")
        words = fault.message if fault is not None else f"the upstream answered with status {status}"
        await self._end_with(context, self._told(context, Refusal(status=status, message=words)))

    async def _end_with(self, context: CallContext, event: bytes) -> None:
        if context.before_last_byte is not None:
            await context.before_last_byte()
        context.exchange.push(event)
        await context.exchange.finish()

    # --- an upstream's answer

    async def send(self, context: CallContext, answer: Response, snapshot: Snapshot) -> None:
        """Hand an upstream's answer to the client. Raises: Refusal 502, before its first byte."""
        draft, inbound, body = context.draft, answer.inbound, answer.body
        draft.status = inbound.status
        draft.outcome = "ok" if inbound.status < 400 else "upstream"
        draft.upstream_request_id = inbound.headers.text(b"request-id")
        draft.first_byte_at = trio.current_time()
        if body.error:  # nothing has been sent: say it with a status, which clients know how to retry
            draft.status, draft.outcome = status_of_error(body.error), "upstream"
        if context.early and (body.error or inbound.status >= 400):
            return await self._late_error(context, body.error or body.data)
        if context.early and not answer.streams:
            raise Refusal(status=502, message="the upstream answered without a stream")
        headers = self._headers(context, inbound.headers)
        if body.error:
            headers = [pair for pair in headers if pair[0] != b"content-type"] + [JSON]
            await self._whole(context, draft.status, body.error, headers)
        elif answer.streams:
            await self._stream(context, answer, headers, snapshot)
        elif body.ended:
            await self._whole(context, inbound.status, body.data, headers)
        elif context.translator is not None:
            raise Refusal(status=502, message=f"the upstream's answer is larger than {MESSAGE_LIMIT} bytes")
        else:
            await self._pass(context, answer, headers, snapshot)

    async def _whole(self, context: CallContext, status: int, body: bytes, headers: HeaderPairs) -> None:
        if status == 200 and context.plan.call.endpoint == "messages":
            reported = await self.large.read(len(body), usage_of_message, body)
            context.draft.usage = reported or context.draft.usage
            if context.keep is not None:
                await context.keep(context.draft.account, *await self.large.read(len(body), made_by_message, body))
        if context.translator is not None:
            body = await self.large.read(len(body), context.translator.whole, status, body)
        await context.settle()
        await context.exchange.reply(Reply(status=status, headers=headers, body=body))

    async def _pass(self, context: CallContext, answer: Response, headers: HeaderPairs, snapshot: Snapshot) -> None:
        length = answer.inbound.headers.text(b"content-length")
        context.exchange.start(answer.inbound.status, headers, int(length) if length.isdigit() else None)
        idle = snapshot.relay.upstream.idle_timeout
        fault = await pass_through(context.exchange, answer.inbound.source, answer.body.data, idle)
        if fault:
            context.draft.outcome, context.draft.reason = "cut", fault

    async def _stream(self, context: CallContext, answer: Response, headers: HeaderPairs, snapshot: Snapshot) -> None:
        draft = context.draft
        meter = Meter()
        stream = context.stream = EventStream(
            exchange=context.exchange,
            source=answer.inbound.source,
            meter=meter,
            translator=context.translator,
            keepalive=snapshot.relay.server.sse_keepalive,
            idle=snapshot.relay.upstream.idle_timeout,
            request_id=draft.upstream_request_id or draft.call_id,
            deadline=context.deadline,
            revoked=lambda: draft.revoked,
            before_end=context.settle if context.keep_items or context.before_last_byte else None,
            unnamed=answer.body.unnamed,
        )
        if context.keep is not None and context.plan.call.resumed.in_thread:
            opening = Meter()
            opening.feed(answer.body.data)  # the client may go on after this answer as soon as it has its end
            await context.keep(draft.account, opening.message, "")
        if not context.early:
            context.exchange.start(answer.inbound.status, headers)
        self.streams += 1
        try:
            fault = await stream.run(answer.body.data, ended=answer.body.ended)
            if fault is not None:
                draft.outcome, draft.reason = "cut", fault.message
            elif meter.failed:
                draft.outcome, draft.reason = "cut", "the upstream sent an error event"
        finally:
            self.streams -= 1
            if not context.settled:
                draft.usage = meter.usage_so_far()
            if context.keep is not None and meter.container:
                await context.keep(draft.account, "", meter.container)

    def _headers(self, context: CallContext, upstream: Headers) -> HeaderPairs:
        """The answer's headers: the upstream's end-to-end ones, the key's limits, and our ids."""
        pairs, draft = answer_headers(upstream), context.draft
        own = context.admitted.headers() if context.admitted is not None else []
        if context.translator is not None:
            pairs = context.translator.head(draft.status, pairs)
            from relayd.wire.openai.shapes import rate_headers

            own = rate_headers(own, self.wall())
        pairs += own + context.notes + retry_advice(draft.status, upstream, self.wall())
        call_id = draft.call_id.encode("ascii")
        if not draft.upstream_request_id:
            pairs.append((b"request-id", call_id))
            if context.translator is not None:
                pairs.append((b"x-request-id", call_id))
        pairs += [(b"relayd-request-id", call_id), (b"relayd-config", draft.revision.encode("ascii"))]
        return pairs + self.readable(context.exchange)

    # --- our "no"

    async def refuse(self, exchange: Exchange, dialect: Dialect, draft: Draft, refusal: Refusal) -> None:
        """Answer a call with a refusal, where the client is still there and has not been answered."""
        draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
        if exchange.gone:
            draft.outcome = "left"
            return
        if exchange.answered:
            exchange.abort()
            return
        exchange.withdraw()
        await exchange.reply(self.own(exchange, draft, dialect.refuse(refusal, draft.call_id)))

    async def refuse_late(self, context: CallContext, refusal: Refusal) -> None:
        """Answer with a refusal a client that has been given signs of life."""
        draft = context.draft
        draft.outcome, draft.status, draft.reason = "refused", refusal.status, refusal.message
        if context.exchange.gone:
            draft.outcome = "left"
        elif context.answered():
            context.exchange.abort()
        else:
            await self._end_with(context, self._told(context, refusal))

    def cut_short(self, exchange: Exchange, draft: Draft, why: Refusal) -> None:
        """End a call that was cancelled in the middle of its answer."""
        draft.outcome, draft.reason = "cut", why.message
        exchange.abort()
