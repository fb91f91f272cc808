"""Receipts: what happened to one call, told once. Accounting, metrics and the access log all read this record.

A call is a Draft while it runs (the one mutable noun of `core`) and a frozen Receipt when it has ended.
"""

from __future__ import annotations

import attrs

from relayd.noun import noun
from relayd.wire.usage import Usage

Trace = tuple[str, str]
NO_TRACE: Trace = ("", "")


@noun(kw_only=True)
class Attempt:
    """One try on one account.

    Args:
        status: of the upstream; 0 when there was no answer.
        reason: "ok", or why it was not enough.
        at: when it was judged, in s since the request head was complete.
        blame: whom the verdict speaks against (`Scope`).
        kind: what the failure is called (`FailureKind`); "ok" where the answer was delivered.
    """

    account: str
    status: int
    reason: str
    seconds: float
    at: float = 0.0
    blame: str = "none"
    kind: str = "ok"


@noun(kw_only=True)
class Receipt:
    """The end of a call.

    Args:
        outcome: "ok"; "refused" (by us); "upstream" (its error passed on); "cut" (broken off by the upstream);
            "left" (the client went away); "failed" (our bug).
        client_request_id: the id that the client, or a proxy before us, has given the request.
        max_tokens: the client's cap on the answer; None when it gave none.
        status: as the client saw it; 499 when it left before an answer began.
        cost: micro-USD; None when nothing of it has a price.
        partly_priced: a model without a price was at work beside one that has one.
        trace: `traceparent` and `tracestate` of the request, as they came; "" where they are not wanted.
        first_byte, seconds: durations since the request head was complete; first_byte is None when none was sent.
    """

    call_id: str
    started: float  # Unix time, seconds
    method: str
    path: str
    dialect: str
    client: str  # id of the client rule that matched, or ""
    peer: str
    key: str = ""
    owner: str = ""
    account: str = ""
    model: str = ""
    sent_model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    status: int = 0
    outcome: str = "ok"
    reason: str = ""
    usage: Usage = Usage()
    cost: int | None = None
    partly_priced: bool = False
    attempts: tuple[Attempt, ...] = ()
    upstream_request_id: str = ""
    client_request_id: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte: float | None = None
    seconds: float = 0.0
    revision: str = ""
    trace: Trace = NO_TRACE

    @property
    def unpriced(self) -> bool:
        """Whether something was used that has no price: it is counted, and its cost is in no figure."""
        return _unpriced(self)


@attrs.define(kw_only=True, eq=False)
class Draft:
    """A receipt being written. Everything that serves the call may fill it in; `seal` ends it.

    Args:
        revoked: the call's key is no longer accepted, so the call was cut.
    """

    call_id: str
    started: float
    method: str
    path: str
    peer: str
    clock_start: float  # monotonic, s
    dialect: str = ""
    client: str = ""
    key: str = ""
    owner: str = ""
    account: str = ""
    model: str = ""
    sent_model: str = ""
    stream: bool = False
    max_tokens: int | None = None
    status: int = 0
    outcome: str = "ok"
    reason: str = ""
    usage: Usage = Usage()
    cost: int | None = None
    partly_priced: bool = False
    attempts: list[Attempt] = attrs.field(factory=list)
    upstream_request_id: str = ""
    client_request_id: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    first_byte_at: float | None = None
    revision: str = ""
    trace: Trace = NO_TRACE
    revoked: bool = False

    @property
    def unpriced(self) -> bool:
        """As of the receipt."""
        return _unpriced(self)

    def seal(self, clock: float) -> Receipt:
        """The receipt, at monotonic time `clock`."""
        return Receipt(
            call_id=self.call_id,
            started=self.started,
            method=self.method,
            path=self.path,
            dialect=self.dialect,
            client=self.client,
            peer=self.peer,
            key=self.key,
            owner=self.owner,
            account=self.account,
            model=self.model,
            sent_model=self.sent_model,
            stream=self.stream,
            max_tokens=self.max_tokens,
            status=self.status,
            outcome=self.outcome,
            reason=self.reason,
            usage=self.usage,
            cost=self.cost,
            partly_priced=self.partly_priced,
            attempts=tuple(self.attempts),
            upstream_request_id=self.upstream_request_id,
            client_request_id=self.client_request_id,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            first_byte=None if self.first_byte_at is None else self.first_byte_at - self.clock_start,
            seconds=clock - self.clock_start,
            revision=self.revision,
            trace=self.trace,
        )


def _unpriced(one: Receipt | Draft) -> bool:
    if one.cost is not None:
        return one.partly_priced
    return one.usage.total > 0 or one.usage.web_searches > 0
