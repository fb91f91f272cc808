"""Account test: the smallest real call on one account, and what its answer means, in words.

Rule: the account is tested as a call would use it (same transport, proxy, headers, credential), and nothing of the
answer is shown but its error type and message.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import attrs
import trio

from relayd.config.secrets.secret import MASK, Secret
from relayd.config.snapshot import Account, ApiKey, ObjectId, Relay
from relayd.core.access.permissions import Plan
from relayd.core.balancing.outcomes import Unreachable
from relayd.core.outbound import Outbound, prepare
from relayd.daemon.accounts.upstreams import Upstreams, target_at, unreachable
from relayd.daemon.net.client import Transport, read_at_most
from relayd.daemon.net.request import PlainRequest
from relayd.daemon.net.tls import shared_context
from relayd.daemon.net.transport_errors import TransportError
from relayd.noun import noun
from relayd.wire.call import Call
from relayd.wire.current_models import SMALL

if TYPE_CHECKING:
    from relayd.daemon.accounts.simulator import SimulatorTransport

LONGEST = 65536  # bytes of an answer; that of count_tokens has fewer than 100
PATIENCE = 60.0  # s for the whole test: a person is waiting

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


@noun(kw_only=True)
class AccountCheck:
    """What came of an account test.

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


def model_to_test(account: Account) -> str:
    """A model that the account says it serves by name, else the default."""
    return next((model for model in account.models if "*" not in model and "?" not in model), SMALL)


async def check_account(account: Account, credential: Secret, relay: Relay, model: str) -> AccountCheck:
    """Count the tokens of one word on `account`."""
    upstreams = Upstreams(tls=shared_context, wall=trio.current_time)
    started = trio.current_time()
    try:
        with trio.move_on_after(PATIENCE):
            found = await _ask(upstreams.transport(account), account, credential, relay, model)
            return attrs.evolve(found, seconds=trio.current_time() - started)
    finally:
        upstreams.close()
    return AccountCheck(ok=False, status=0, message=f"no answer within {PATIENCE:g} s", seconds=PATIENCE)


def run_account_check(account: Account, credential: Secret, relay: Relay, model: str) -> AccountCheck:
    """`check_account` on an event loop of its own."""
    return trio.run(check_account, account, credential, relay, model)


async def _ask(
    transport: Transport | SimulatorTransport, account: Account, credential: Secret, relay: Relay, model: str
) -> AccountCheck:
    outbound = _outbound(account, credential, relay, model)
    limits = relay.upstream
    timeout = {"connect": limits.connect_timeout, "write": limits.idle_timeout, "read": limits.first_byte_timeout}
    failed = "cannot be reached"
    try:
        target = target_at(outbound.base_url, outbound.target)
        answer = await transport.ask(PlainRequest(outbound.method, target, outbound.headers, outbound.body, timeout))
        failed = "broke off its answer"
        body = await read_at_most(answer, LONGEST)
    except TransportError as error:
        fault = unreachable(error)
        what = fault.kind if isinstance(fault, Unreachable) else "this node"
        message = f"{outbound.base_url} {failed} ({what})"
        return AccountCheck(ok=False, status=0, message=message, detail=fault.reason)
    found = judge(answer.status, body)
    # Some upstreams quote what they refuse.
    quoted = credential.reveal()
    return attrs.evolve(found, detail=found.detail.replace(quoted, MASK)) if quoted else found


def _outbound(account: Account, credential: Secret, relay: Relay, model: str) -> Outbound:
    """The call, made as a client's calls are made."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    call = Call(endpoint="messages", path="/v1/messages/count_tokens", model=model, body=body)
    plan = Plan(call=call, key=_NOBODY, model=model, groups=(), attempts=1)
    own = [(b"content-type", b"application/json"), (b"anthropic-version", b"2023-06-01"), (b"user-agent", b"relayd")]
    return prepare(plan, account, account.base_url or relay.upstream.base_url, credential, own)


def judge(status: int, answer: bytes) -> AccountCheck:
    """What an answer to count_tokens says about the account."""
    parsed = _parsed(answer)
    if status == 200 and isinstance(parsed.get("input_tokens"), int):
        return AccountCheck(ok=True, status=status, message="the account works")
    if status == 200:
        return AccountCheck(
            ok=False, status=status, message="an answer came, but not from a Claude API (check base_url)"
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


# `prepare` does not look at the key of a plan; a test belongs to none.
_NOBODY = ApiKey(id=ObjectId("account-test"), hashes=())
