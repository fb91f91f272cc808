"""A trial of one account: the smallest real call, and what its answer means, in words.

Rule: the account is tried as a call would use it (same transport, proxy, headers, credential), and nothing of the
answer is shown but its error type and message.
"""

from __future__ import annotations

import json

import attrs
import trio

from relayd.config.secrets.secret import MASK, Secret
from relayd.config.snapshot import Account, ApiKey, ObjectId, Relay
from relayd.core.access.permissions import Plan
from relayd.core.balancing.failover import Unreachable
from relayd.core.outbound import prepare
from relayd.daemon.accounts.upstreams import Upstreams
from relayd.daemon.net.stream import BodySource
from relayd.daemon.net.tls import shared_context
from relayd.wire.call import Call

LONGEST = 65536  # bytes of an answer; that of count_tokens has fewer than 100
PATIENCE = 60.0  # s for the whole trial: a person is waiting

# What a status says about the account, whoever's fault it is.
MEANINGS = {
    400: "the request was refused; with another model it may work (--model)",
    401: "the credential is not accepted: wrong, expired or revoked (seal a new one: relayd account seal)",
    402: "the account has no credit or no plan that pays for this",
    403: "the credential is valid and may not do this: missing permission, disabled organization or blocked region",
    404: "the upstream does not know the path or the model (check base_url and --model)",
    429: "the account is rate limited at the moment; its credential works",
    529: "the upstream is overloaded at the moment; the credential was probably not looked at",
}


@attrs.frozen(kw_only=True)
class AccountCheck:
    """What came of it.

    Args:
        ok: whether the account can serve. A rate limit proves the credential, and is still not ok.
        status: of the upstream; 0 when no answer came.
        message: in words, for people.
        detail: the upstream's own error, or the cause of a failed connection.
    """

    ok: bool
    status: int
    message: str
    detail: str = ""
    seconds: float = 0.0


async def try_account(account: Account, credential: Secret, relay: Relay, model: str) -> AccountCheck:
    """Count the tokens of one word on `account`."""
    upstreams = Upstreams(tls=shared_context, wall=trio.current_time)
    started = trio.current_time()
    with trio.move_on_after(PATIENCE):
        try:
            found = await _ask(upstreams, account, credential, relay, model)
            return attrs.evolve(found, seconds=trio.current_time() - started)
        finally:
            upstreams.close()
    return AccountCheck(ok=False, status=0, message=f"no answer within {PATIENCE:g} s", seconds=PATIENCE)


def run_trial(account: Account, credential: Secret, relay: Relay, model: str) -> AccountCheck:
    """`try_account` on an event loop of its own."""
    return trio.run(try_account, account, credential, relay, model)


async def _ask(upstreams: Upstreams, account: Account, credential: Secret, relay: Relay, model: str) -> AccountCheck:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    call = Call(endpoint="messages", path="/v1/messages/count_tokens", model=model, body=body)
    plan = Plan(call=call, key=_NOBODY, model=model, groups=(), attempts=1)
    own = [(b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), (b"user-agent", b"relayd")]
    base_url = account.base_url or relay.upstream.base_url
    inbound = await upstreams.open(account, prepare(plan, account, base_url, credential, own), relay.upstream)
    if isinstance(inbound, Unreachable):
        return AccountCheck(
            ok=False, status=0, message=f"{base_url} cannot be reached ({inbound.kind})", detail=inbound.reason
        )
    try:
        answer = await _read(inbound.source)
    finally:
        inbound.source.close()
    found = judge(inbound.status, answer)
    # Some upstreams quote what they refuse.
    quoted = credential.reveal()
    return attrs.evolve(found, detail=found.detail.replace(quoted, MASK)) if quoted else found


async def _read(source: BodySource) -> bytes:
    answer = b""
    while len(answer) < LONGEST:
        piece = source.take()
        if piece == b"":
            break
        if piece is None:
            await source.wait()
        else:
            answer += piece
    return answer[:LONGEST]


def judge(status: int, answer: bytes) -> AccountCheck:
    """What an answer to count_tokens says about the account."""
    parsed = _parsed(answer)
    if status == 200 and isinstance(parsed.get("input_tokens"), int):
        return AccountCheck(ok=True, status=status, message="the account works")
    if status == 200:
        return AccountCheck(
            ok=False, status=status, message="an answer came, and it is not from a Claude API (check base_url)"
        )
    meaning = MEANINGS.get(status, "the upstream has a fault of its own" if status >= 500 else "an unexpected answer")
    error = parsed.get("error")
    detail = f"{error.get('type', '')}: {error.get('message', '')}" if isinstance(error, dict) else ""
    return AccountCheck(ok=False, status=status, message=meaning, detail=_shown(detail))


def _parsed(answer: bytes) -> dict[str, object]:
    try:
        found = json.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)[:500]


# `prepare` does not look at the key of a plan; a trial belongs to none.
_NOBODY = ApiKey(id=ObjectId("trial"), hashes=())
