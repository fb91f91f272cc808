"""Account requests: a call is sent to one account, and its answer is judged.

Rule: one request, or one more where the first one's token had to be renewed, and one more where the thinking in it was
stale; whether it had to is decided in failover.py.
Whoever asks closes the source of the response.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS, SESSION_KEY
from relayd.config.secrets.secret import MASK, Secret
from relayd.config.snapshot import Account, Snapshot, Upstream
from relayd.core.access.permissions import Plan
from relayd.core.balancing.failover import Retry, Verdict, judge, thinking_is_stale
from relayd.core.balancing.outcomes import Answered, NodeDefect, Outcome
from relayd.core.outbound import prepare
from relayd.daemon.accounts.oauth import OAuthKeeper
from relayd.daemon.accounts.upstreams import Inbound, Upstreams
from relayd.daemon.proxy.large_bodies import LargeBodies
from relayd.daemon.proxy.response import Expected, Response, peek_response
from relayd.noun import noun
from relayd.wire.call import Call
from relayd.wire.http import HeaderPairs


@noun(kw_only=True)
class AccountRequest:
    """What is asked of an account.

    Args:
        client: the headers that travel on, as the dialect chose them.
        attempt: attempts of the call before this one, from 0.
        repeatable: whether doing it twice is harmless.
        heard: signatures of what other accounts said to the same call.
        unsigned: see call.Translator; None leaves the request as the client made it.
    """

    plan: Plan
    account: Account
    client: HeaderPairs
    snapshot: Snapshot
    attempt: int = 0
    repeatable: bool = True
    heard: Collection[str] = ()
    unsigned: Callable[[bytes], bytes | None] | None = None

    @property
    def expected(self) -> Expected:
        """What a success consists of."""
        if self.plan.call.endpoint == "messages":
            return "message"
        return "object" if self.plan.call.endpoint == "count_tokens" or not self.repeatable else "any"


@noun(kw_only=True)
class AccountAnswer:
    """What came of it.

    Args:
        response: what the upstream answered; None when no answer came.
    """

    outcome: Outcome
    verdict: Verdict
    response: Response | None = None

    def close(self) -> None:
        """Be done with the response; a second time does nothing."""
        if self.response is not None:
            self.response.inbound.source.close()


@attrs.define(eq=False, kw_only=True)
class AccountRequests:
    """Sends calls to accounts.

    Args:
        credential: an account's opened secret (empty where it needs none), or why it cannot be had.
        keeper: renews tokens that an upstream no longer takes; None: nobody does.
        large: where large bodies are rewritten.
        wall: Unix time, s.
    """

    upstreams: Upstreams
    credential: Callable[[Account], Secret | str]
    keeper: OAuthKeeper | None
    large: LargeBodies
    wall: Callable[[], float]

    async def ask(self, request: AccountRequest) -> AccountAnswer:
        """Send a request, and once more without the thinking in it where that is what the upstream refuses."""
        answer = await self._ask_signed(request)
        if request.unsigned is None or not thinking_is_stale(answer.outcome):
            return answer
        call = request.plan.call
        bare = await self.large.read(len(call.body), request.unsigned, call.body)
        if bare is None:
            return answer
        answer.close()
        plan = attrs.evolve(request.plan, call=attrs.evolve(call, body=bare))
        return await self._ask_signed(attrs.evolve(request, plan=plan))

    async def _ask_signed(self, request: AccountRequest) -> AccountAnswer:
        """Send a request and judge what came of it, with a new token where the table of failover.py says so."""
        secret = self.credential(request.account)
        answer = await self._ask_with(secret, request, may_renew=True)
        if isinstance(secret, str) or not isinstance(answer.verdict, Retry) or not answer.verdict.renew:
            return answer
        answer.close()
        if self.keeper is not None:
            await self.keeper.renew(request.account.id, secret)
        return await self._ask_with(self.credential(request.account), request, may_renew=False)

    async def _ask_with(self, secret: Secret | str, request: AccountRequest, *, may_renew: bool) -> AccountAnswer:
        if isinstance(secret, str):
            return self._judged(request, NodeDefect(reason=secret))
        account, limits, call = request.account, request.snapshot.relay.upstream, request.plan.call
        base_url = account.base_url or limits.base_url
        outbound = await self.large.read(
            len(call.body), prepare, request.plan, account, base_url, secret, request.client
        )
        patience = first_byte_patience(call, limits)
        inbound = await self.upstreams.open(
            account, outbound, limits, first_byte=patience, repeatable=request.repeatable
        )
        if not isinstance(inbound, Inbound):
            return self._judged(request, inbound)
        try:
            response, outcome = await peek_response(inbound, request.snapshot, expected=request.expected)
        except BaseException:  # also a cancellation: nobody else knows of the source yet
            inbound.source.close()
            raise
        renewable = (
            may_renew and (inbound.status >= 400 or bool(response.body.error)) and self._renewable(account, secret)
        )
        return self._judged(request, without(secret, outcome), response, renewable=renewable)

    def _renewable(self, account: Account, secret: Secret) -> bool:
        return self.keeper is not None and self.keeper.renewable(account.id, secret)

    def _judged(
        self, request: AccountRequest, outcome: Outcome, response: Response | None = None, *, renewable: bool = False
    ) -> AccountAnswer:
        verdict = judge(
            outcome,
            cooldown=request.snapshot.relay.routing.cooldown,
            now=self.wall(),
            model=request.plan.limited_model,
            attempt=request.attempt,
            repeatable=request.repeatable,
            renewable=renewable,
            session_key=ACCOUNT_KINDS[request.account.kind] is SESSION_KEY,
            heard=request.heard,
        )
        return AccountAnswer(outcome=outcome, verdict=verdict, response=response)


def first_byte_patience(call: Call, limits: Upstream) -> float:
    """How long the first byte of an answer may take, s. A plain message's head comes when all of it is written."""
    plain = call.endpoint == "messages" and not call.stream
    return limits.plain_timeout if plain else limits.first_byte_timeout


def without(secret: Secret, outcome: Outcome) -> Outcome:
    """An outcome whose words do not quote our credential: they go to the log, to other nodes and to clients."""
    quoted = secret.reveal()
    if not isinstance(outcome, Answered) or not quoted or quoted not in outcome.message:
        return outcome
    return attrs.evolve(outcome, message=outcome.message.replace(quoted, MASK))
