"""One request to one account: what is sent, and when a token is renewed for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
from builders import api_key, call, snapshot
from fakes import NO_TLS, NOON, Reception, answering, failing, message, upstream_account
from scripted import serving

from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account
from relayd.core.access.permissions import resolve
from relayd.core.balancing.failover import Deliver, Retry
from relayd.core.balancing.outcomes import NodeDefect
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.proxy.account_requests import AccountAnswer, AccountRequest, AccountRequests

DENIED = failing(401, "authentication_error")
GOOD = answering(body=message())


@attrs.define(eq=False)
class Tokens:
    """A keeper of one token, which it renews as often as it may."""

    left: int = 1
    trouble: str = ""
    renewals: list[str] = attrs.field(factory=list)

    def credential(self, account: Account) -> Secret | str:
        return self.trouble or Secret(f"token-{len(self.renewals)}")

    def renewable(self, account: str, rejected: Secret) -> bool:
        return len(self.renewals) < self.left

    async def renew(self, account: str, rejected: Secret) -> bool:
        self.renewals.append(rejected.reveal())
        return True


@asynccontextmanager
async def asking(answers: list[bytes], tokens: Tokens) -> AsyncIterator[tuple[AccountAnswer, Reception]]:
    """Ask an account whose upstream gives these answers, one a request."""
    reception = Reception(list(answers))
    async with serving(reception) as upstream:
        upstreams = Upstreams(lambda: NO_TLS, lambda: NOON)
        requests = AccountRequests(
            upstreams=upstreams,
            credential=tokens.credential,
            keeper=tokens,  # type: ignore[arg-type]
            wall=lambda: NOON,
        )
        account = upstream_account("a", upstream.port)
        tree = snapshot(accounts=(account,))
        plan = resolve(call(), api_key(), tree)
        answer = await requests.ask(AccountRequest(plan=plan, account=account, client=[], snapshot=tree))
        try:
            yield answer, reception
        finally:
            answer.close()
            upstreams.close()


def keys_sent(reception: Reception) -> list[str]:
    return [asked.all("x-api-key")[0] for asked in reception.asked]


async def test_a_refused_token_is_renewed_and_the_same_account_asked_again() -> None:
    tokens = Tokens()
    async with asking([DENIED, GOOD], tokens) as (answer, reception):
        assert isinstance(answer.verdict, Deliver)
        assert tokens.renewals == ["token-0"]
        assert keys_sent(reception) == ["token-0", "token-1"]


async def test_a_token_is_renewed_once_and_a_second_401_blames_the_account() -> None:
    tokens = Tokens(left=9)
    async with asking([DENIED, DENIED, GOOD], tokens) as (answer, reception):
        assert isinstance(answer.verdict, Retry)
        assert (answer.verdict.scope, answer.verdict.kind, answer.verdict.renew) == ("account", "auth", False)
        assert len(reception.asked) == 2


@pytest.mark.parametrize("refused", [DENIED, failing(403, "permission_error"), failing(500)])
async def test_where_nothing_can_be_renewed_the_account_is_asked_once(refused: bytes) -> None:
    tokens = Tokens(left=0 if refused == DENIED else 9)
    async with asking([refused, GOOD], tokens) as (answer, reception):
        assert isinstance(answer.verdict, Retry)
        assert (tokens.renewals, len(reception.asked)) == ([], 1)


async def test_a_401_that_blames_the_request_is_the_clients() -> None:
    tokens = Tokens(left=9)
    async with asking([failing(401, "invalid_request_error")], tokens) as (answer, reception):
        assert isinstance(answer.verdict, Deliver)
        assert (tokens.renewals, len(reception.asked)) == ([], 1)


async def test_nothing_is_sent_without_a_credential() -> None:
    tokens = Tokens(trouble="no identity opens it")
    async with asking([GOOD], tokens) as (answer, reception):
        assert answer.outcome == NodeDefect(reason="no identity opens it")
        assert (answer.response, reception.asked) == (None, [])
