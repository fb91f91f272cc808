"""Upstream request of one attempt: the client's request with the account's credential in place of its key.

Rule: relayd never alters what a client says about itself. It takes away what is between the client and relayd (the key,
hop-by-hop and forwarding headers), puts the account's credential in, and asks for identity encoding so that usage can
be read. The one beta it may add is the one that the account's kind of credential needs to be accepted.
"""

from __future__ import annotations

import attrs

from relayd.config.secrets.account_kinds import ACCOUNT_KINDS, AccountKind
from relayd.config.secrets.secret import Secret
from relayd.config.snapshot import Account
from relayd.core.access.permissions import Plan
from relayd.core.balancing.headroom import retry_after
from relayd.core.quota.limit_answers import LONGEST_WAIT
from relayd.noun import noun
from relayd.wire.http import HeaderPairs, Headers, end_to_end, header_pairs
from relayd.wire.peek import replace_model

# Answers: what describes the operator's account and not the client's key, echoes of the request's credential, and what
# speaks for an origin or a hop (RFC 9110 section 7.6.3, RFC 7838, RFC 6797, the Fetch standard), which are ours here.
DROP_RESPONSE = frozenset(
    {
        b"set-cookie", b"set-cookie2", b"anthropic-organization-id", b"content-length", b"relayd-request-id",
        b"x-api-key", b"authorization", b"cookie", b"www-authenticate", b"authentication-info",
        b"via", b"alt-svc", b"alt-used", b"strict-transport-security", b"clear-site-data", b"report-to",
        b"reporting-endpoints", b"nel", b"refresh",
    }
)  # fmt: skip
_WAIT_AND_TRY = (429, 503, 529)
_DROP_PREFIXES = (b"anthropic-ratelimit-", b"anthropic-priority-", b"access-control-", b"relayd-")


@noun(kw_only=True)
class Outbound:
    """A request for an upstream. `repr` shows no header value: one of them is the credential.

    Args:
        credential: as it stands in the headers; b"" for none. An answer may echo it, and must not show it to a client.
    """

    method: str
    base_url: str
    target: str  # path and query, to stand behind base_url
    headers: HeaderPairs = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    credential: bytes = attrs.field(default=b"", repr=False)
    sent_model: str = ""


def prepare(plan: Plan, account: Account, base_url: str, credential: Secret, client: HeaderPairs) -> Outbound:
    """Make one attempt's request.

    Args:
        base_url: the account's, or the upstream's default; without a trailing slash.
        credential: the opened secret; empty for the simulator.
        client: the headers that travel on, as the dialect chose them (`Dialect.upstream_headers`).
    """
    call = plan.call
    sent = account.model_map.get(plan.model, plan.model)
    body = call.body if sent == call.model else replace_model(call.body, sent)
    pairs = [*client, (b"accept-encoding", b"identity")]
    presented = _present(ACCOUNT_KINDS[account.kind], credential, pairs)
    if account.headers:
        constant = header_pairs(account.headers.items())
        names = {name for name, _ in constant}
        pairs = [pair for pair in pairs if pair[0] not in names] + constant
    target = f"{call.path}?{call.query}" if call.query else call.path
    return Outbound(
        method=call.method,
        base_url=base_url,
        target=target,
        headers=pairs,
        body=body,
        credential=presented,
        sent_model=sent,
    )


def _present(kind: AccountKind, credential: Secret, pairs: HeaderPairs) -> bytes:
    """Put the credential in. Returns: its bytes, b"" for none."""
    presented = credential.reveal().encode("ascii") if kind.has_credential else b""
    if kind.has_credential:
        pairs.append((kind.header, kind.scheme + presented))
    if kind.beta:
        _add_beta(pairs, kind.beta)
    return presented


def _add_beta(pairs: HeaderPairs, wanted: bytes) -> None:
    """Put a beta behind the client's own, unless it is among them."""
    places = [at for at, (name, _) in enumerate(pairs) if name == b"anthropic-beta"]
    if any(beta.strip() == wanted for at in places for beta in pairs[at][1].split(b",")):
        return
    if places:
        pairs[places[-1]] = (b"anthropic-beta", pairs[places[-1]][1] + b"," + wanted)
    else:
        pairs.append((b"anthropic-beta", wanted))


def retry_advice(status: int, headers: Headers, now: float) -> HeaderPairs:
    """What an upstream's error says of another try besides `retry-after`, which the SDKs obey however long it is.

    Args:
        now: Unix time, s.
    """
    if status not in _WAIT_AND_TRY or b"x-should-retry" in headers:
        return []
    return [(b"x-should-retry", b"false")] if (retry_after(headers, now) or 0) > LONGEST_WAIT else []


def answer_headers(headers: Headers) -> HeaderPairs:
    """An upstream's end-to-end headers that are for the client: see DROP_RESPONSE."""
    return [pair for pair in end_to_end(headers, DROP_RESPONSE) if not pair[0].startswith(_DROP_PREFIXES)]
