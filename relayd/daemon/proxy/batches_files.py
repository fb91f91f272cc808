"""Objects: batches and files, made on an account that the pool chooses and from then on served by that account alone.

Rule: who may reach what is decided in core/access/ownership.py. Nothing is made while the state store is away, whatever
`state.on_outage` says: an object that nobody can write down is an object that nobody could ever reach.

Bounds: bodies are read whole, up to `server.max_request_body` (the API takes 256 MB for a batch and 500 MB for a file).
Making an object counts as one request of its key; reading, listing, cancelling and deleting touch no limit. A list is
put together anew for each page, out of the newest LISTED * PAGES objects of each account that holds some of the owner.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
import trio

from relayd.config.snapshot import Account, ApiKey, Snapshot
from relayd.core.access.auth import inside
from relayd.core.access.ownership import (
    Listed,
    ObjectRequest,
    OwnershipRecord,
    PageRequest,
    available,
    bound,
    check_batch,
    deed_name,
    deed_of,
    home,
    may_reach,
    not_found,
    page_of,
    read_deed,
    read_window,
    shelves,
    unfit,
    write_deed,
)
from relayd.core.access.permissions import Plan, allow_endpoint, resolve
from relayd.core.balancing.failover import NoCredential, Unreachable
from relayd.core.receipt import Draft
from relayd.daemon.accounts.upstreams import Inbound
from relayd.daemon.net.exchange import Exchange
from relayd.daemon.proxy.call import CallContext, CallServer
from relayd.daemon.proxy.response import Response
from relayd.daemon.proxy.routes import MESSAGES, cors_headers
from relayd.daemon.proxy.streaming import gather
from relayd.daemon.store.failsafe import RETRY
from relayd.state.contract import (
    Answer,
    Gather,
    Gathered,
    GetPin,
    Op,
    Pin,
    Ping,
    Pinned,
    Publish,
    StoreUnavailable,
    Unpin,
)
from relayd.wire.answer import read_error
from relayd.wire.anthropic import JSON
from relayd.wire.call import Call, Reply
from relayd.wire.http import RequestHead
from relayd.wire.objects import (
    Unreadable,
    batch_requests,
    file_ids,
    may_name_files,
    object_id,
    read_page,
    with_results_url,
    write_page,
)
from relayd.wire.refusal import Refusal

LISTED = 500  # objects asked of an account at once: about 350 KB of batches, well below stream.GATHER_LIMIT
PAGES = 20
MOST_NAMED = 1000  # files in a body
TOGETHER = 100  # deeds looked up at once: they travel in one batch of the pump

log = logging.getLogger("relayd")

T = TypeVar("T")
Amend = Callable[[str, Response], Awaitable[Response]]


@attrs.define(eq=False, kw_only=True)
class BatchesAndFiles:
    """Serves batches and files.

    Args:
        relay: whose accounts, pool and books these are.
    """

    relay: CallServer
    _unwritten: dict[str, str] = attrs.field(factory=dict, init=False)  # deeds that the store did not take
    _asked_of: Callable[[], Snapshot | None] = attrs.field(default=lambda: None, init=False)
    _keeps: bool = attrs.field(default=False, init=False)

    async def serve(self, exchange: Exchange, asked: ObjectRequest) -> None:
        """Serve one request to its end. One receipt is recorded."""

        async def serve(draft: Draft) -> None:
            snapshot, key = self.relay.identify(exchange, draft)
            allow_endpoint(Call(endpoint=asked.kind), key)
            match asked.act:
                case "create":
                    await self._create(exchange, asked, draft, key, snapshot)
                case "list":
                    await self._list(exchange, asked, draft, key, snapshot)
                case _:
                    await self._reach(exchange, asked, draft, key, snapshot)

        await self.relay.with_receipt(exchange, MESSAGES, serve)

    async def bind(self, body: bytes, key: ApiKey, snapshot: Snapshot) -> dict[str, str]:
        """The accounts that cannot serve a body, for the files that it names; with reasons. Raises: Refusal."""
        if not self._keeps_files(snapshot) or not await self.relay.large.read(len(body), may_name_files, body):
            return {}
        names = sorted(await self.relay.large.read(len(body), file_ids, body))
        if len(names) > MOST_NAMED:
            raise Refusal(status=400, message=f"more than {MOST_NAMED} files are named")
        if not names:
            return {}
        return bound(dict(zip(names, await self._deeds(names), strict=True)), key, snapshot)

    def _keeps_files(self, snapshot: Snapshot) -> bool:
        """Whether any key may have files: else no body is searched for them, which takes 1 us a KB."""
        if self._asked_of() is not snapshot:
            self._asked_of = weakref.ref(snapshot)
            self._keeps = any("files" in key.endpoints for key in snapshot.keys.values())
        return self._keeps

    # --- making one

    async def _create(
        self, exchange: Exchange, asked: ObjectRequest, draft: Draft, key: ApiKey, snapshot: Snapshot
    ) -> None:
        await self._ask(Ping())  # before a large body is read
        body = await self._body(exchange, draft, snapshot)
        models: tuple[str, ...] = ()
        if asked.kind == "batches":
            requests = await self.relay.large.read(len(body), batch_requests, body)
            models = check_batch(requests, key, snapshot)
        call = _call(exchange, asked, body=body, model=models[0] if len(models) == 1 else "")
        draft.model = call.model
        url = results_base(exchange.head, exchange.peer, snapshot)

        async def write_down(account: str, answer: Response) -> Response:
            if 200 <= answer.inbound.status < 300:
                with trio.CancelScope(shield=True):  # the object exists: whoever left, its owner must find it
                    await self._write_down(object_id(answer.opening.data), deed_of(asked.kind, account, key))
            return _addressed(answer, url) if asked.kind == "batches" else answer

        trial = self._trial(exchange, draft, resolve(call, key, snapshot), snapshot, write_down)
        trial.creates, trial.barred = True, unfit(models, snapshot)
        if asked.kind == "batches":
            trial.barred = {**trial.barred, **await self.bind(body, key, snapshot)}
        await self.relay.carry(trial, snapshot)

    async def _write_down(self, name: str, deed: OwnershipRecord) -> None:
        if not name:
            log.warning("objects.no_id", extra={"account": deed.account, "key": deed.key, "kind": deed.kind})
            return
        text = write_deed(deed)
        try:
            known = await self._ask(Pin(name=deed_name(name), value=text, keep=True))
            if isinstance(known, Pinned) and known.value != text:
                await self._replace(name, deed, known.value)
            for topic in shelves(deed.kind, deed.key, deed.owner):
                await self._ask(Publish(topic=topic, name=deed.account, body="1"))
        except StoreIsAway:
            self._unwritten[deed_name(name)] = text
            fields = {"id": name, "account": deed.account, "key": deed.key}
            log.error("objects.not_written_down", extra=fields)  # this process still knows it, and tries again

    async def _replace(self, name: str, deed: OwnershipRecord, known: str | None) -> None:
        """An id that was known before. On the same account it means that the older object is gone; on another one, two
        objects have one id, and the older one keeps it."""
        other = read_deed(known)
        if other is not None and other.account != deed.account:
            log.error("objects.id_taken", extra={"id": name, "account": deed.account, "other": other.account})
            message = f"accounts {deed.account} and {other.account} both have an object {name}"
            raise Refusal(status=502, message=message, should_retry=False, code="id_taken")
        await self._ask(Pin(name=deed_name(name), value=write_deed(deed)))

    # --- one that exists

    async def _reach(
        self, exchange: Exchange, asked: ObjectRequest, draft: Draft, key: ApiKey, snapshot: Snapshot
    ) -> None:
        deed = (await self._deeds([asked.id]))[0]
        if deed is None or not may_reach(deed, asked.kind, key):
            raise not_found(asked)
        account = home(asked, deed, snapshot)
        call = _call(exchange, asked, body=await self._body(exchange, draft, snapshot))
        url = results_base(exchange.head, exchange.peer, snapshot)

        async def amend(account: str, answer: Response) -> Response:
            if asked.act == "delete" and 200 <= answer.inbound.status < 300:
                self._forget(asked.id)
            shows = asked.kind == "batches" and asked.act in ("read", "cancel")
            return _addressed(answer, url) if shows else answer

        trial = self._trial(exchange, draft, resolve(call, key, snapshot), snapshot, amend)
        trial.only, trial.free = account.id, True
        await self.relay.carry(trial, snapshot)

    def _forget(self, name: str) -> None:
        """Sync. Should the store be away, the deed stays, and leads to an upstream that says 404."""
        self._unwritten.pop(deed_name(name), None)
        if self.relay.books is not None:
            self.relay.books.main.submit_nowait(Unpin(name=deed_name(name)))

    # --- all of an owner

    async def _list(
        self, exchange: Exchange, asked: ObjectRequest, draft: Draft, key: ApiKey, snapshot: Snapshot
    ) -> None:
        window = read_window(exchange.head.query)
        accounts = await self._holders(asked, key, snapshot)
        url = results_base(exchange.head, exchange.peer, snapshot)

        async def gather_all() -> None:
            found: list[Listed] = []
            for account in accounts:
                draft.account = account.id
                found += await self._owned_on(account, exchange, asked, window, key, snapshot)
            page, more = page_of(found, window)
            shown = [(one.id, with_results_url(one.raw, f"{url}/{one.id}/results")) for one in page]
            draft.status = 200
            await exchange.reply(self._page_reply(exchange, draft, write_page(shown, more)))

        deadline = exchange.clock_start + snapshot.relay.upstream.total_timeout
        await self.relay.within(exchange, draft, deadline, gather_all)

    def _page_reply(self, exchange: Exchange, draft: Draft, body: bytes) -> Reply:
        call_id = draft.call_id.encode("ascii")
        origin = exchange.head.headers.text(b"origin")
        cors = cors_headers(origin, self.relay.live.snapshot.relay.server.cors_origins)
        return Reply(
            status=200, headers=[JSON, (b"request-id", call_id), (b"relayd-request-id", call_id), *cors], body=body
        )

    async def _holders(self, asked: ObjectRequest, key: ApiKey, snapshot: Snapshot) -> list[Account]:
        """The accounts that may hold objects of the key or its owner, and can be asked, by name."""
        names: set[str] = set()
        for topic in shelves(asked.kind, key.id, key.owner):
            answer = await self._ask(Gather(topic=topic))
            if isinstance(answer, Gathered):
                names.update(note.name for note in answer.notes)
        accounts = [snapshot.accounts[name] for name in sorted(names) if name in snapshot.accounts]
        return [account for account in accounts if available(account, snapshot)]

    async def _owned_on(
        self,
        account: Account,
        exchange: Exchange,
        asked: ObjectRequest,
        window: PageRequest,
        key: ApiKey,
        snapshot: Snapshot,
    ) -> list[Listed]:
        """The objects on an account that the key may reach, in the account's order. Raises: Refusal."""
        mine: list[Listed] = []
        place = ""
        for _ in range(PAGES):
            query = "&".join(part for part in (f"limit={LISTED}", place, window.rest) if part)
            call = attrs.evolve(_call(exchange, asked), query=query)
            rows, place = await self._page(account, resolve(call, key, snapshot), exchange, snapshot)
            deeds = await self._deeds([name for name, _, _ in rows])
            for (name, created, raw), deed in zip(rows, deeds, strict=True):
                if deed is not None and deed.account == account.id and may_reach(deed, asked.kind, key):
                    mine.append(Listed(name, created, raw))
            if not place:
                return mine
        log.warning("objects.list_cut", extra={"account": account.id, "looked_at": LISTED * PAGES})
        return mine

    async def _page(
        self, account: Account, plan: Plan, exchange: Exchange, snapshot: Snapshot
    ) -> tuple[list[tuple[str, str, bytes]], str]:
        client = MESSAGES.upstream_headers(exchange.head)
        inbound = await self.relay.ask(plan, account, client, snapshot)
        if not isinstance(inbound, Inbound):
            raise _no_answer(account, inbound)
        try:
            opening = await gather(inbound.source, snapshot.relay.upstream.idle_timeout)
        finally:
            inbound.source.close()
        if inbound.status != 200:
            raise _failed(account, inbound, opening.data)
        try:
            if opening.ended:
                return read_page(opening.data)
        except Unreadable:
            pass
        why = opening.cut or "what came is no list"
        raise Refusal(status=502, message=f"account {account.id}: {why}", code="upstream_error")

    # --- the store

    async def _deeds(self, names: Sequence[str]) -> list[OwnershipRecord | None]:
        """The deeds of some objects, None for those without one. Raises: StoreIsAway."""
        await self._write_again()
        found: dict[str, str | None] = {}
        for start in range(0, len(names), TOGETHER):
            async with trio.open_nursery() as nursery:
                for name in names[start : start + TOGETHER]:
                    nursery.start_soon(self._look_up, deed_name(name), found)
        if any(deed_name(name) not in found for name in names):
            raise StoreIsAway
        return [read_deed(found[deed_name(name)]) for name in names]

    async def _look_up(self, name: str, found: dict[str, str | None]) -> None:
        """Raises nothing: it runs beside others, in a nursery that would wrap what it raised."""
        if name in self._unwritten:
            found[name] = self._unwritten[name]
            return
        try:
            answer = await self._ask(GetPin(name=name))
        except StoreIsAway:
            return
        if isinstance(answer, Pinned):
            found[name] = answer.value

    async def _write_again(self) -> None:
        for name, text in list(self._unwritten.items()):
            deed = read_deed(text)
            if deed is not None:
                del self._unwritten[name]
                await self._write_down(name.removeprefix("object/"), deed)

    async def _ask(self, op: Op) -> Answer:
        """Raises: StoreIsAway."""
        if self.relay.books is None:
            raise StoreIsAway
        try:
            return await self.relay.books.main.ask(op)
        except StoreUnavailable:
            raise StoreIsAway from None

    # --- a call

    async def _body(self, exchange: Exchange, draft: Draft, snapshot: Snapshot) -> bytes:
        body = await exchange.body(snapshot.relay.server.max_request_body)
        draft.bytes_in = len(body)
        return body

    def _trial(self, exchange: Exchange, draft: Draft, plan: Plan, snapshot: Snapshot, amend: Amend) -> CallContext:
        return CallContext(
            exchange=exchange,
            dialect=MESSAGES,
            plan=plan,
            draft=draft,
            client=MESSAGES.upstream_headers(exchange.head),
            translator=None,
            deadline=exchange.clock_start + snapshot.relay.upstream.total_timeout,
            amend=amend,
        )


class StoreIsAway(Refusal):
    """The state store cannot be asked, and what is whose is written only there."""

    def __init__(self) -> None:
        super().__init__(
            status=503,
            message="The relay cannot tell whose objects are whose right now: its state store is unavailable.",
            retry_after=RETRY,
            code="state_unavailable",
        )


def _call(exchange: Exchange, asked: ObjectRequest, *, body: bytes = b"", model: str = "") -> Call:
    head = exchange.head
    return Call(endpoint=asked.kind, method=head.method, path=asked.path, query=head.query, model=model, body=body)


def _addressed(answer: Response, url: str) -> Response:
    """A batch whose results are to be had here. Their address names the upstream, and SDKs ask there with our key."""
    if answer.inbound.status != 200 or not answer.opening.ended:
        return answer
    name = object_id(answer.opening.data)
    if not name:
        return answer
    data = with_results_url(answer.opening.data, f"{url}/{name}/results")
    return attrs.evolve(answer, opening=attrs.evolve(answer.opening, data=data))


_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")


def results_base(head: RequestHead, peer: str, snapshot: Snapshot) -> str:
    """The batches' address as the client knows it: by its Host header, and what a trusted proxy says of the scheme."""
    proto = head.headers.text(b"x-forwarded-proto").partition(",")[0].strip().lower()
    trusted = not peer or inside(peer, snapshot.relay.server.trusted_proxies)
    scheme = proto if trusted and proto in ("http", "https") else "http"
    host = head.headers.text(b"host")
    prefix = "/api" if head.path.startswith("/api/") else ""
    path = f"{prefix}/v1/messages/batches"
    return f"{scheme}://{host}{path}" if _HOST.fullmatch(host) else path


def _no_answer(account: Account, outcome: Unreachable | NoCredential) -> Refusal:
    return Refusal(status=502, message=f"account {account.id}: {outcome.reason}", code="upstream_unreachable")


def _failed(account: Account, inbound: Inbound, body: bytes) -> Refusal:
    """An account's refusal to list. What denies our credential is not the client's 401."""
    fault = read_error(body)
    said = fault.message if fault is not None and fault.message else f"status {inbound.status}"
    status = inbound.status if inbound.status >= 400 and inbound.status not in (401, 403) else 502
    seconds = inbound.headers.text(b"retry-after")
    return Refusal(
        status=status,
        message=f"account {account.id}: {said}",
        retry_after=int(seconds) if seconds.isascii() and seconds.isdigit() else None,
        code="upstream_error",
    )
