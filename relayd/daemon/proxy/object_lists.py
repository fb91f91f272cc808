"""Object lists: all batches, files or skills of an owner, from every account that holds some of them.

Bounds: a list is put together anew for each page, out of the newest LISTED * PAGES objects of each such account.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from relayd.config.snapshot import Account
from relayd.core.access.ownership import Listed, PageRequest, is_shared, may_reach, page_of
from relayd.core.access.permissions import resolve
from relayd.core.balancing.failover import Retry, last_word
from relayd.daemon.accounts.upstreams import Inbound
from relayd.daemon.proxy.account_requests import AccountAnswer, AccountRequest, AccountRequests
from relayd.daemon.proxy.object_call import ObjectCall
from relayd.daemon.proxy.ownership_index import OwnershipIndex
from relayd.daemon.proxy.reply import ReplyWriter
from relayd.wire.answer import read_error
from relayd.wire.anthropic import JSON
from relayd.wire.call import Reply
from relayd.wire.objects import Unreadable, is_shared_object, read_page, with_results_url, write_page
from relayd.wire.refusal import Refusal

LISTED = 500  # objects asked of an account at once: about 350 KB of batches, well below streaming.GATHER_LIMIT
PAGES = 20

log = logging.getLogger("relayd")


@attrs.define(eq=False, kw_only=True)
class ObjectLists:
    """Answers requests for lists."""

    requests: AccountRequests
    ownership: OwnershipIndex
    replies: ReplyWriter

    async def answer(self, one: ObjectCall, window: PageRequest, accounts: Sequence[Account]) -> None:
        """Send a page of the objects on some accounts that the key may reach. Raises: Refusal."""
        found: dict[str, Listed] = {}
        for account in accounts:
            one.draft.account = account.id
            found.update((item.id, item) for item in await self._visible_on(account, one, window))
        page, more = page_of(found.values(), window)
        shown = [(item.id, with_results_url(item.raw, f"{one.results_url}/{item.id}/results")) for item in page]
        one.draft.status = 200
        reply = Reply(status=200, headers=[JSON], body=write_page(shown, more))
        await one.exchange.reply(self.replies.own(one.exchange, one.draft, reply))

    async def _visible_on(self, account: Account, one: ObjectCall, window: PageRequest) -> list[Listed]:
        """The objects on an account that the key may reach, in the account's order. Raises: Refusal.

        What comes with the API has no record, and is on every account the same.
        """
        mine: list[Listed] = []
        place = ""
        for _ in range(PAGES):
            query = "&".join(part for part in (f"limit={LISTED}", place, window.rest) if part)
            rows, place = await self._page(account, one, query)
            records = await self.ownership.records([name for name, _, _ in rows])
            for (name, created, raw), record in zip(rows, records, strict=True):
                if record is None:
                    visible = is_shared(one.asked.kind, name) and is_shared_object(raw)
                else:
                    visible = record.account == account.id and may_reach(record, one.asked.kind, one.key)
                if visible:
                    mine.append(Listed(name, created, raw))
            if not place:
                return mine
        log.warning("objects.list_cut", extra={"account": account.id, "looked_at": LISTED * PAGES})
        return mine

    async def _page(self, account: Account, one: ObjectCall, query: str) -> tuple[list[tuple[str, str, bytes]], str]:
        """One page of an account's own list, and the query part that asks for the next. Raises: Refusal."""
        plan = resolve(attrs.evolve(one.call(), query=query), one.key, one.snapshot)
        answer = await self.requests.ask(
            AccountRequest(plan=plan, account=account, client=one.client, snapshot=one.snapshot)
        )
        answer.close()
        if answer.response is None:
            raise _no_answer(account, answer)
        inbound, body = answer.response.inbound, answer.response.body
        if inbound.status != 200:
            raise _failed(account, inbound, body.data)
        try:
            if body.ended:
                return read_page(body.data)
        except Unreadable:
            pass
        why = body.cut or "the answer is not a list"
        raise Refusal(status=502, message=f"account {account.id}: {why}", code="upstream_error")


def _no_answer(account: Account, answer: AccountAnswer) -> Refusal:
    assert isinstance(answer.verdict, Retry), "nothing is delivered without a response"
    return last_word(answer.verdict, account.id)


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
