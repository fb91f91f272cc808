"""Upstream responses: what an upstream says, looked into as far as must be known to judge it.

Rule: nothing of it has been sent to the client yet, so whatever is found here can still be answered by another account.
"""

from __future__ import annotations

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.balancing.failover import Answered, Outcome, Unreachable
from relayd.daemon.accounts.upstreams import Inbound
from relayd.daemon.proxy.streaming import GATHER_LIMIT, MESSAGE_LIMIT, BufferedBody, first_event, gather
from relayd.wire.answer import read_error
from relayd.wire.anthropic import EVENT_STREAM
from relayd.wire.refusal import KIND_BY_STATUS


@attrs.frozen(kw_only=True)
class Response:
    """An upstream's answer, held back until it is judged. `streams`: it is an event stream."""

    inbound: Inbound
    body: BufferedBody
    streams: bool


async def peek_response(inbound: Inbound, snapshot: Snapshot, *, message: bool) -> tuple[Response, Outcome]:
    """As much of an answer as must be known to judge it: all of a short one, the first event of a stream.

    Args:
        message: it is a message, which is gathered whole however long, so that a cut of it can be told.
    """
    limits, silence = snapshot.relay.upstream, snapshot.relay.server.sse_keepalive
    streams = inbound.status == 200 and inbound.headers.text(b"content-type").startswith(EVENT_STREAM.decode())
    if streams:
        body, first = await first_event(inbound.source, min(silence or limits.idle_timeout, limits.idle_timeout))
        answer = Response(inbound=inbound, body=body, streams=True)
        if isinstance(first, Unreachable):
            return answer, first
        return answer, Answered(status=inbound.status, headers=inbound.headers, first_event=first)
    body = await gather(inbound.source, limits.idle_timeout, MESSAGE_LIMIT if message else GATHER_LIMIT)
    answer = Response(inbound=inbound, body=body, streams=False)
    if body.cut:
        return answer, Unreachable(kind="reset", reason=body.cut)
    return answer, _answered(inbound, body)


def _answered(inbound: Inbound, body: BufferedBody) -> Answered:
    """What an answer says, with its error looked into when it is one."""
    fault = read_error(body.data) if inbound.status >= 400 else None
    if fault is None:
        return Answered(status=inbound.status, headers=inbound.headers)
    return Answered(
        status=inbound.status,
        headers=inbound.headers,
        error_type=fault.type,
        error_code=fault.code or "",
        message=fault.message,
    )


def status_of_error(event: bytes) -> int:
    """The status that goes with the data of an error event. Source: API docs, "Errors"."""
    fault = read_error(event)
    return _STATUS_BY_KIND.get(fault.type, 500) if fault is not None else 500


# 408 is what we say of a slow client; an upstream's timeout_error is a 504.
_STATUS_BY_KIND = {kind: status for status, kind in reversed(KIND_BY_STATUS.items())} | {"timeout_error": 504}
