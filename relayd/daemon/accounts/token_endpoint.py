"""The token endpoint: one refresh, asked exactly once.

Rule: relayd's own transport and the account's proxy; no redirect is followed. A fresh connection each time: on one that
is used again the transport may send a request twice, and a refresh token must not be used twice. Nothing is raised for
what a network or a provider can do: it is a `RefreshFailed`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trio

from relayd.config.secrets.account_kinds import OAUTH_BETA
from relayd.config.secrets.binding import origin_of
from relayd.config.secrets.recipients import SealError
from relayd.config.snapshot import OAuth
from relayd.core.balancing.headroom import retry_after
from relayd.core.oauth import RefreshFailed, Tokens, read_answer, request_body
from relayd.daemon.net.client import Transport, read_at_most
from relayd.daemon.net.request import OUR_NAME, PlainRequest, target_of
from relayd.daemon.net.transport_errors import ConnectError, ConnectTimeout, ProxyError, TransportError
from relayd.wire.http import Headers

PATIENCE = 20.0  # s for the whole exchange; less than the life of the lock that is held meanwhile
CONNECT = 10.0  # s of it
LONGEST = 12 << 10  # bytes of an answer, so that its tokens can be sealed (seal.MAX_SECRET); a real one has some 1,000


async def refresh(
    oauth: OAuth, proxy: str, old: Tokens, tls: Callable[[], ssl.SSLContext], now: Callable[[], float]
) -> Tokens | RefreshFailed:
    """Ask for the next tokens. `now` gives Unix time, s. Cancellation leaves it open whether the provider rotated."""
    try:
        origin_of(oauth.token_url)  # https, or http to this machine
        transport = Transport(tls=tls(), proxy=proxy, idle_per_origin=0)
    except (SealError, ValueError, OSError):
        return RefreshFailed(reason="[oauth].token_url or the account's proxy cannot be used as it is written")
    try:
        with trio.fail_after(PATIENCE):
            status, headers, body = await _post(transport, oauth, old)
    except trio.TooSlowError:
        return RefreshFailed(reason=f"the token endpoint did not answer within {PATIENCE:g} s", unknown=True)
    except (ConnectError, ConnectTimeout, ProxyError) as error:
        return RefreshFailed(reason=f"the token endpoint cannot be reached: {error}")
    except TransportError as error:
        return RefreshFailed(reason=f"the token endpoint did not answer: {error}", unknown=True)
    return read_answer(status, body, old, now(), retry_after(headers, now()) or 0.0)


async def _post(transport: Transport, oauth: OAuth, old: Tokens) -> tuple[int, Headers, bytes]:
    headers = [
        (b"content-type", b"application/json"),
        (b"accept", b"application/json"),
        (b"accept-encoding", b"identity"),
        OUR_NAME,
        (b"anthropic-beta", OAUTH_BETA),  # the official SDK sends it on this grant
        (b"connection", b"close"),
    ]
    timeout = {"connect": CONNECT, "write": CONNECT, "read": PATIENCE}
    body = request_body(old.refresh, oauth.client_id)
    answer = await transport.ask(PlainRequest("POST", target_of(oauth.token_url), headers, body, timeout))
    return answer.status, Headers(answer.headers), await read_at_most(answer, LONGEST)
