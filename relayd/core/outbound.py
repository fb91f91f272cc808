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
from relayd.wire.http import HeaderPairs, Headers, end_to_end, header_pairs
from relayd.wire.peek import replace_model

# Answers: what describes the operator's account, not the client's key.
DROP_RESPONSE = frozenset({b"set-cookie", b"anthropic-organization-id", b"content-length", b"relayd-request-id"})
_ACCOUNT_LIMITS = (b"anthropic-ratelimit-", b"anthropic-priority-")


@attrs.frozen(kw_only=True)
class Outbound:
    """A request for an upstream. `repr` shows no header value: one of them is the credential."""

    method: str
    base_url: str
    target: str  # path and query, to stand behind base_url
    headers: HeaderPairs = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
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
    _present(ACCOUNT_KINDS[account.kind], credential, pairs)
    if account.headers:
        constant = header_pairs(account.headers.items())
        names = {name for name, _ in constant}
        pairs = [pair for pair in pairs if pair[0] not in names] + constant
    target = f"{call.path}?{call.query}" if call.query else call.path
    return Outbound(method=call.method, base_url=base_url, target=target, headers=pairs, body=body, sent_model=sent)


def _present(kind: AccountKind, credential: Secret, pairs: HeaderPairs) -> None:
    if kind.has_credential:
        pairs.append((kind.header, kind.scheme + credential.reveal().encode("ascii")))
    if kind.beta:
        _add_beta(pairs, kind.beta)


def _add_beta(pairs: HeaderPairs, wanted: bytes) -> None:
    """Put a beta behind the client's own, unless it is among them."""
    places = [at for at, (name, _) in enumerate(pairs) if name == b"anthropic-beta"]
    if any(beta.strip() == wanted for at in places for beta in pairs[at][1].split(b",")):
        return
    if places:
        pairs[places[-1]] = (b"anthropic-beta", pairs[places[-1]][1] + b"," + wanted)
    else:
        pairs.append((b"anthropic-beta", wanted))


def answer_headers(headers: Headers) -> HeaderPairs:
    """An upstream's end-to-end headers, without what describes the operator's account."""
    return [pair for pair in end_to_end(headers, DROP_RESPONSE) if not pair[0].startswith(_ACCOUNT_LIMITS)]
