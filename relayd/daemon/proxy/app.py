"""Public application: what stands behind the public listener. Finds what a path means and has it served.

Rule: no decision beyond the path. Calls go to call.py; what needs no upstream is answered here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import attrs
import msgspec

from relayd.core.access.model_list import NOTHING_ASKED, Offers, find_model, usable_models
from relayd.core.access.owned_paths import ObjectRequest
from relayd.core.access.permissions import allow_endpoint
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.net.late import load
from relayd.daemon.proxy.batches_files import BatchesAndFiles
from relayd.daemon.proxy.call import CallServer
from relayd.daemon.proxy.key_usage import usage_of
from relayd.daemon.proxy.own_address import own_address
from relayd.daemon.proxy.reply import ReplyWriter, preflight
from relayd.daemon.proxy.routes import MESSAGES, LateDialect, Local, Models, OwnUsage, find, local
from relayd.daemon.proxy.signs_of_life import SignsOfLife
from relayd.daemon.store.state_client import StateClient
from relayd.wire.anthropic import JSON, ModelEntry, model_object, models_page
from relayd.wire.api_paths import speaks_openai
from relayd.wire.call import Call, Reply
from relayd.wire.refusal import Refusal

WEBSOCKET = Refusal(
    status=426,
    message="WebSockets are not spoken here: ask by HTTP, and for a stream of events",
    code="upgrade_required",
)


@attrs.define(eq=False, kw_only=True)
class PublicApp:
    """The application of the public listener.

    Args:
        state: what keys have used; None where nothing is counted.
        known_models: ids of models that exist (those with a price).
        offers: what the upstreams of accounts list.
        unready: what keeps calls from being served here; () for nothing.
        draining: whether /readyz sends load balancers elsewhere.
    """

    calls: CallServer
    objects: BatchesAndFiles
    replies: ReplyWriter
    signs: SignsOfLife
    state: StateClient | None
    known_models: Callable[[], Iterable[str]]
    offers: Callable[[], Offers] = lambda: NOTHING_ASKED
    unready: Callable[[], tuple[str, ...]] = tuple
    draining: bool = False

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        head = exchange.head
        if head.websocket:
            await exchange.reply(self._readable(exchange, self.refuse(WEBSOCKET, head.path)))
        elif head.method == "HEAD":
            await exchange.reply(self._with_ids(Reply(status=200, headers=[], body=b"")))
        elif head.method == "OPTIONS":
            await exchange.reply(self._with_ids(preflight(head, self.replies.origins())))
        else:
            await self._route(exchange)

    async def _route(self, exchange: Exchange) -> None:
        try:
            target = find(exchange.head)
        except Refusal as refusal:
            await exchange.reply(self._readable(exchange, self.refuse(refusal.let_go(), exchange.head.path)))
            return
        match target:
            case Local():
                await exchange.reply(self._with_ids(self._local(exchange, target)))
            case Models():
                await self._models(exchange, target)
            case OwnUsage():
                await self._own_usage(exchange)
            case ObjectRequest():
                await self.objects.serve(exchange, target)
            case LateDialect():
                await load(target.module)
                await self.calls.serve_call(exchange, target.loaded())
            case _:
                await self.calls.serve_call(exchange, target)

    def _local(self, exchange: Exchange, target: Local) -> Reply:
        address = own_address(exchange.head, exchange.peer, self.replies.live.snapshot)
        return local(target, draining=self.draining, unready=self.unready, address=address)

    async def _models(self, exchange: Exchange, asked: Models) -> None:
        if asked.openai:
            await load("relayd.wire.openai.shapes")
        try:
            reply = self._models_reply(exchange, asked)
        except Refusal as refusal:
            reply = self.refuse(refusal.let_go(), exchange.head.path, openai=asked.openai)
        await exchange.reply(self._readable(exchange, reply))

    async def _own_usage(self, exchange: Exchange) -> None:
        draft = self.calls.draft(exchange, "anthropic")
        try:
            snapshot, key = self.calls.identify(exchange, draft)
            body = await usage_of(key, snapshot, self.state, self.calls.wall)
            headers = [JSON, (b"cache-control", b"no-store"), *self.replies.ids(draft.call_id, draft.revision)]
            reply = Reply(status=200, headers=headers, body=body)
        except Refusal as refusal:
            reply = self.refuse(refusal.let_go(), exchange.head.path)
        await exchange.reply(self._readable(exchange, reply))

    def _models_reply(self, exchange: Exchange, asked: Models) -> Reply:
        draft = self.calls.draft(exchange, "openai" if asked.openai else "anthropic")
        snapshot, key = self.calls.identify(exchange, draft)
        allow_endpoint(Call(endpoint="models"), key)
        if asked.one:
            found = find_model(asked.one, key, snapshot, self.known_models(), self.offers())
            if found is None:
                raise Refusal(status=404, message=f"model: {ascii(asked.one[:100])[1:-1]}", param="model")
            if asked.openai:
                from relayd.wire.openai.shapes import model_object as openai_object

                body = msgspec.json.encode(openai_object(found))
            else:
                body = msgspec.json.encode(model_object(found))
        else:
            entries = usable_models(key, snapshot, self.known_models(), self.offers())
            body = self._page(entries, asked, exchange.head.query)
        return Reply(status=200, headers=[JSON, *self.replies.ids(draft.call_id, draft.revision)], body=body)

    def _page(self, entries: list[ModelEntry], asked: Models, query: str) -> bytes:
        if not asked.openai:
            return models_page(entries, query)
        from relayd.wire.openai.shapes import models_list

        return models_list(entries)

    def refuse(self, refusal: Refusal, path: str, *, openai: bool | None = None) -> Reply:
        """Words for a "no" that belongs to no call, in the dialect of the path."""
        call_id = self.calls.new_id()
        if speaks_openai(path) if openai is None else openai:
            from relayd.wire.openai.shapes import refuse

            reply = refuse(refusal, call_id)
        else:
            reply = MESSAGES.refuse(refusal, call_id)
        return attrs.evolve(reply, headers=[*reply.headers, *self.replies.ids(call_id)])

    def _with_ids(self, reply: Reply) -> Reply:
        """An answer that belongs to no call, with ids of its own."""
        return attrs.evolve(reply, headers=[*reply.headers, *self.replies.ids(self.calls.new_id())])

    def _readable(self, exchange: Exchange, reply: Reply) -> Reply:
        """An answer that pages of the listed origins may read."""
        return attrs.evolve(reply, headers=[*reply.headers, *self.replies.readable(exchange)])
