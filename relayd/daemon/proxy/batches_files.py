"""Batches, files and skills: made on an account that the pool chooses, and from then on served by that account alone.

Rule: who may reach what is decided in core/access/ownership.py, and written down in ownership_index.py.

Bounds: bodies are read whole, up to `server.max_request_body` (the API takes 256 MB for a batch and 500 MB for a file).
Making an object counts as one request of its key; reading, listing, cancelling and deleting touch no limit.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import trio

from relayd.core.access.owned_paths import ObjectRequest
from relayd.core.access.ownership import (
    check_batch,
    home,
    is_shared,
    may_reach,
    not_found,
    ownership_of,
    read_window,
    shared_query,
    unfit,
)
from relayd.core.access.permissions import Plan, allow_endpoint, resolve
from relayd.core.receipt import Draft
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.call import CallServer
from relayd.daemon.proxy.context import Amend, CallContext
from relayd.daemon.proxy.object_call import ObjectCall
from relayd.daemon.proxy.object_lists import ObjectLists
from relayd.daemon.proxy.ownership_index import NOTHING_BARRED, OwnershipIndex
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.routes import MESSAGES
from relayd.wire.call import Call
from relayd.wire.objects import batch_requests, object_id, shared_only, with_results_url
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import KeptType


@attrs.define(eq=False, kw_only=True)
class BatchesAndFiles:
    """Serves batches, files and skills."""

    calls: CallServer
    ownership: OwnershipIndex
    lists: ObjectLists

    async def serve(self, exchange: Exchange, asked: ObjectRequest) -> None:
        """Serve one request to its end. One receipt is recorded."""

        async def serve(draft: Draft) -> None:
            snapshot, key = self.calls.identify(exchange, draft)
            allow_endpoint(Call(endpoint=asked.kind), key)
            one = ObjectCall(exchange=exchange, asked=asked, draft=draft, key=key, snapshot=snapshot)
            match asked.act:
                case "create":
                    await self._create(one)
                case "list":
                    await self._list(one)
                case _:
                    await self._reach(one)

        await self.calls.with_receipt(exchange, MESSAGES, serve)

    async def _create(self, one: ObjectCall) -> None:
        await self.ownership.check()  # before a large body is read
        body, one = await self._body(one)
        is_batch = one.asked.kind == "batches"
        models: tuple[str, ...] = ()
        kept: dict[str, KeptType] = {}
        if is_batch:
            requests = await self.calls.large.read(len(body), batch_requests, body)
            models = check_batch(requests, one.key, one.snapshot)
            for request in requests:
                kept.update(request.resumed.ids())
        call = one.call(body=body, model=models[0] if len(models) == 1 else "")
        one.draft.model = call.model

        async def write_down(account: str, answer: Response) -> Response:
            if 200 <= answer.inbound.status < 300:
                record = ownership_of(one.asked.kind, account, one.key)
                with trio.CancelScope(shield=True):  # the object exists: whoever left, its owner must find it
                    await self.ownership.write_down(object_id(answer.body.data), record)
            return _addressed(answer, one.results_url) if is_batch else answer

        plan = resolve(call, one.key, one.snapshot)
        files = await self.ownership.bind(body, one.key, one.snapshot, kept) if is_batch else NOTHING_BARRED
        barred = {**unfit(models, one.snapshot), **files}
        context = _context(one, plan, write_down, creates=True, barred=barred)
        await self.calls.carry(context, one.snapshot)

    async def _reach(self, one: ObjectCall) -> None:
        asked = one.asked
        record = (await self.ownership.records([asked.id]))[0]
        body, one = await self._body(one)
        only = ""
        if record is not None and may_reach(record, asked.kind, one.key):
            only = home(asked.kind, asked.id, record, one.snapshot).id
        elif record is not None or not is_shared(asked.kind, asked.id) or one.exchange.head.method != "GET":
            raise not_found(asked.kind, asked.id)
        call = one.call(body=body)

        async def amend(account: str, answer: Response) -> Response:
            if asked.act == "delete" and 200 <= answer.inbound.status < 300:
                self.ownership.forget(asked.id)
            shows = asked.kind == "batches" and asked.act in ("read", "cancel")
            return _addressed(answer, one.results_url) if shows else answer

        plan = resolve(call, one.key, one.snapshot)
        context = _context(one, plan, amend, creates=asked.makes, only=only, free=not asked.makes)
        await self.calls.carry(context, one.snapshot)

    async def _body(self, one: ObjectCall) -> tuple[bytes, ObjectCall]:
        """The body of a request, and the request as the newest config has it. Raises: Refusal."""
        body, snapshot, key = await self.calls.body(one.exchange, one.draft, one.snapshot, one.key)
        allow_endpoint(Call(endpoint=one.asked.kind), key)
        return body, attrs.evolve(one, snapshot=snapshot, key=key)

    async def _list(self, one: ObjectCall) -> None:
        window = read_window(one.exchange.head.query)
        accounts = await self.ownership.holders(one.asked.kind, one.key, one.snapshot)
        if not accounts and (query := shared_query(one.asked.kind, one.exchange.head.query)):
            await self._list_shared(one, query)
            return

        async def answer() -> None:
            await self.lists.answer(one, window, accounts)

        await self.calls.within(one.exchange, one.draft, one.deadline, answer)

    async def _list_shared(self, one: ObjectCall, query: str) -> None:
        """A list for whom has nothing of their own: what comes with the API, of an account that the pool chooses."""

        async def amend(account: str, answer: Response) -> Response:
            if answer.inbound.status != 200:
                return answer
            data = shared_only(answer.body.data) if answer.body.ended else None
            if data is None:
                message = f"account {account}: the answer is not a list"
                raise Refusal(status=502, message=message, code="upstream_error")
            return attrs.evolve(answer, body=attrs.evolve(answer.body, data=data))

        call = attrs.evolve(one.call(), query=query)
        context = _context(one, resolve(call, one.key, one.snapshot), amend, free=True)
        await self.calls.carry(context, one.snapshot)


def _context(
    one: ObjectCall,
    plan: Plan,
    amend: Amend,
    *,
    creates: bool = False,
    barred: Mapping[str, str] = NOTHING_BARRED,
    only: str = "",
    free: bool = False,
) -> CallContext:
    return CallContext(
        exchange=one.exchange,
        dialect=MESSAGES,
        plan=plan,
        draft=one.draft,
        client=one.client,
        translator=None,
        deadline=one.deadline,
        amend=amend,
        creates=creates,
        barred=barred,
        only=only,
        free=free,
    )


def _addressed(answer: Response, url: str) -> Response:
    """A batch whose results are to be had here. Their address names the upstream, and SDKs ask there with our key."""
    if answer.inbound.status != 200 or not answer.body.ended:
        return answer
    name = object_id(answer.body.data)
    if not name:
        return answer
    data = with_results_url(answer.body.data, f"{url}/{name}/results")
    return attrs.evolve(answer, body=attrs.evolve(answer.body, data=data))
