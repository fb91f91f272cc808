"""Outcomes: what came of one attempt, before anybody has judged it.

Rule: data only. A stream and a plain answer say the same things in the same fields.
"""

from __future__ import annotations

from typing import Literal

import attrs

from relayd.noun import noun
from relayd.wire.http import Headers

ConnectionFault = Literal["connect", "timeout", "reset", "protocol", "proxy", "node"]


@noun(kw_only=True)
class Answered:
    """An answer's head, with as much of its body as was looked at.

    Args:
        first_event: name of the first event of a stream that counts (a ping does not); "" when the stream ended before
            one; None for a plain answer.
        error_type, error_code, message: of the API's error object, in a body of any status or in an error event; ""
            where there is none.
        unfit: why a success is not an answer of the API ("an HTML page"); "" when it is one.
    """

    status: int
    headers: Headers = attrs.field(factory=Headers)
    first_event: str | None = None
    error_type: str = ""
    error_code: str = ""
    message: str = attrs.field(default="", repr=False)
    unfit: str = ""


@noun(kw_only=True)
class Unreachable:
    """No answer came.

    Args:
        kind: "connect" name look-up, connect or TLS; "timeout" and "reset" while waiting for the head; "protocol" what
            came is not HTTP; "proxy" the account's proxy refused; "node" this node has no descriptor left.
        reason: the transport's words.
        bytes_sent: whether the upstream may have read the request, and may therefore be working on it.
    """

    kind: ConnectionFault
    reason: str = ""
    bytes_sent: bool = attrs.field(
        default=attrs.Factory(lambda self: self.kind in ("timeout", "reset", "protocol"), takes_self=True)
    )


@noun(kw_only=True)
class NodeDefect:
    """Nothing was sent: this node cannot use the account (no identity opens its secret, a file or a package is
    missing). `reason` is for operators; it may name recipients, files and variables."""

    reason: str


Outcome = Answered | Unreachable | NodeDefect
