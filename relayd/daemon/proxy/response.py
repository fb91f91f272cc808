"""Upstream responses: what an upstream says, looked into as far as must be known to judge it.

Rule: nothing of it has been sent to the client yet, so whatever is found here can still be answered by another account.
"""

from __future__ import annotations

from typing import Literal

import attrs

from relayd.config.snapshot import Snapshot
from relayd.core.balancing.outcomes import Answered, Outcome, Unreachable
from relayd.daemon.accounts.upstreams import Inbound
from relayd.daemon.proxy.streaming import GATHER_LIMIT, MESSAGE_LIMIT, BufferedBody, first_event, gather
from relayd.noun import noun
from relayd.wire.answer import read_error
from relayd.wire.anthropic import EVENT_STREAM
from relayd.wire.http import Headers

# "message": an object of JSON, gathered whole however long, so that a cut of it can be told; "object": one of JSON;
# "any": also what only passes through, such as a file.
Expected = Literal["message", "object", "any"]
# An error of the API is some hundred bytes; a larger body is not looked through for one.
ERROR_LIMIT = 64 << 10


@noun(kw_only=True)
class Response:
    """An upstream's answer, held back until it is judged. `streams`: it is an event stream."""

    inbound: Inbound
    body: BufferedBody
    streams: bool


async def peek_response(inbound: Inbound, snapshot: Snapshot, *, expected: Expected) -> tuple[Response, Outcome]:
    """As much of an answer as must be known to judge it: all of a short one, the first event of a stream."""
    limits, silence = snapshot.relay.upstream, snapshot.relay.server.sse_keepalive
    streams = inbound.status == 200 and inbound.headers.text(b"content-type").startswith(EVENT_STREAM.decode())
    if streams:
        body, first = await first_event(inbound.source, min(silence or limits.idle_timeout, limits.idle_timeout))
        answer = Response(inbound=inbound, body=body, streams=True)
        return answer, first if isinstance(first, Unreachable) else _answered(inbound, body.error, first)
    body = await gather(inbound.source, limits.idle_timeout, MESSAGE_LIMIT if expected == "message" else GATHER_LIMIT)
    if body.cut:
        return Response(inbound=inbound, body=body, streams=False), Unreachable(kind="reset", reason=body.cut)
    if inbound.status >= 300 or expected == "any":
        error = body.data if inbound.status >= 400 else b""
        return Response(inbound=inbound, body=body, streams=False), _answered(inbound, error, None)
    error = _hidden_error(body)
    body = attrs.evolve(body, error=error) if error else body
    outcome = _answered(inbound, body.error, None, why_unfit(inbound.headers, body.data))
    return Response(inbound=inbound, body=body, streams=False), outcome


def _answered(inbound: Inbound, error: bytes, first: str | None, unfit: str = "") -> Answered:
    """What an answer says. `error`: where an error of the API may be found."""
    fault = read_error(error) if error else None
    if fault is None:
        return Answered(status=inbound.status, headers=inbound.headers, first_event=first, unfit=unfit)
    return Answered(
        status=inbound.status,
        headers=inbound.headers,
        first_event=first,
        error_type=fault.type,
        error_code=fault.code or "",
        message=fault.message,
    )


def _hidden_error(body: BufferedBody) -> bytes:
    """The error that a success consists of; b"" when it is one."""
    if len(body.data) > ERROR_LIMIT or b'"error"' not in body.data:
        return b""
    return body.data if read_error(body.data) is not None else b""


def why_unfit(headers: Headers, body: bytes) -> str:
    """Why the body of a success is not an object of JSON, as far as its beginning tells; "" when it is."""
    if headers.text(b"content-encoding").lower() not in ("", "identity"):
        return ""
    match body.lstrip()[:1]:
        case b"{":
            return ""
        case b"":
            return "an empty body"
        case b"<":
            return "an HTML page"
        case _:
            return "a body that is not a JSON object"
