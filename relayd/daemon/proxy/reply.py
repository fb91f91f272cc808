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
from relayd.core.outbound import answer_headers
from relayd.core.receipt import Draft
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.context import CallContext
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.streaming import MESSAGE_LIMIT, EventStream, pass_through
from relayd.wire.answer import read_error
from relayd.wire.anthropic import JSON
from relayd.wire.call import Dialect, Reply
from relayd.wire.http import HeaderPairs, Headers, RequestHead
from relayd.wire.meter import Meter
from relayd.wire.openai.shapes import rate_headers
from relayd.wire.plain_body import plain_bytes
from relayd.wire.refusal import Refusal, status_of_kind
from relayd.wire.resumed import made_by_message
from relayd.wire.usage import usage_of_message


def id_headers(call_id: str) -> HeaderPairs:
    """The ids of an answer that no upstream gave."""
    value = call_id.encode("ascii")
    return [(b"request-id", value), (b"relayd-request-id", value)]


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
    """

    live: Live
    large: LargeBodies
    wall: Callable[[], float]

    def origins(self) -> tuple[str, ...]:
        """The origins whose pages may read answers."""
        return self.live.snapshot.relay.server.cors_origins

    def readable(self, exchange: Exchange) -> HeaderPairs:
        """What lets a page of the listed origins read the answer."""
        allowed = self.origins()
        return cors_headers(exchange.head.headers.text(b"origin"), allowed) if allowed else []

    def own(self, exchange: Exchange, call_id: str, reply: Reply) -> Reply:
        """An answer of our own, with its ids."""
        return attrs.evolve(reply, headers=[*reply.headers, *id_headers(call_id), *self.readable(exchange)])

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
                await context.keep(context.draft.account, *await self.large.read(len(body), _made_by, body))
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
        context.exchange.start(answer.inbound.status, headers)
        try:
            fault = await stream.run(answer.body.data, ended=answer.body.ended)
            if fault is not None:
                draft.outcome, draft.reason = "cut", fault.message
            elif meter.failed:
                draft.outcome, draft.reason = "cut", "the upstream sent an error event"
        finally:
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
            own = rate_headers(own, self.wall())
        pairs += own
        call_id = draft.call_id.encode("ascii")
        if not draft.upstream_request_id:
            pairs.append((b"request-id", call_id))
            if context.translator is not None:
                pairs.append((b"x-request-id", call_id))
        pairs.append((b"relayd-request-id", call_id))
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
        await exchange.reply(self.own(exchange, draft.call_id, dialect.refuse(refusal, draft.call_id)))

    def cut_short(self, exchange: Exchange, draft: Draft, why: Refusal) -> None:
        """End a call that was cancelled. Raises: `why`, when the client has not been answered yet."""
        if not exchange.answered:
            raise why
        draft.outcome, draft.reason = "cut", why.message
        exchange.abort()


def _made_by(body: bytes) -> tuple[str, str]:
    """The ids of a whole answer and of its container, read from its plain bytes."""
    return made_by_message(plain_bytes(body))
