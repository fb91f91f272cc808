"""Access log: one line a call, made of its Receipt.

Rule: a Receipt holds no secret; what clients and upstreams have said in it goes through `scrub` all the same.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import attrs
import msgspec

from relayd.core.receipt import Receipt
from relayd.daemon.log import render, scrub, stamp
from relayd.daemon.log_output import Output


class CallLine(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """The line of one call: its fields in their order; what is as its default says is left out.

    A Struct, which costs less than a table to make and to encode.
    """

    time: str
    level: str | msgspec.UnsetType
    event: str | msgspec.UnsetType
    id: str
    status: int
    outcome: str
    method: str
    path: str  # one of the known paths
    ms: float
    first_byte_ms: float | None = None
    dialect: str = ""
    key: str = ""
    owner: str = ""
    client: str = ""
    peer: str = ""
    account: str = ""
    model: str = ""
    sent_model: str = ""
    upstream_request_id: str = ""
    client_request_id: str = ""
    reason: str = ""
    stream: bool = False
    max_tokens: int | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cache_write: int | None = None
    cache_read: int | None = None
    # What else has a say in the cost: `relayd test --replay` adds it up again.
    cache_write_1h: int = 0
    web_searches: int = 0
    answered: str = ""
    parts: int = 0
    free: bool = False
    service_tier: str = ""
    inference_geo: str = ""
    speed: str = ""
    cost_usd: str = ""
    unpriced: bool = False
    attempts: list[str] | list[dict[str, Any]] | None = None
    bytes_in: int
    bytes_out: int
    revision: str


_ENCODER = msgspec.json.Encoder()


@attrs.define(eq=False)
class AccessLog:
    """One line a call, straight from the Receipt (stdlib logging would cost more than the line itself)."""

    output: Output
    form: str
    enabled: bool = True
    _latest: tuple[Receipt, CallLine] | None = attrs.field(default=None, init=False)

    def record(self, receipt: Receipt) -> None:
        """Write the line of one call."""
        if not self.enabled:
            return
        line = self.line_of(receipt)
        if self.form == "json":
            self.output.write(_ENCODER.encode(line) + b"\n")
        else:
            self.output.write(render(msgspec.to_builtins(line), self.form))

    def line_of(self, receipt: Receipt) -> CallLine:
        """The line of a call, made once for all who ask in the same turn. Not to be changed."""
        if self._latest is None or self._latest[0] is not receipt:
            self._latest = receipt, call_line(receipt)
        return self._latest[1]


def call_document(receipt: Receipt, line: CallLine) -> bytes:
    """The JSON of a call as it is kept: what its line says, and more of each attempt."""
    line = copy.copy(line)
    line.level = line.event = msgspec.UNSET
    line.attempts = [
        {"account": one.account, "status": one.status, "reason": scrub(one.reason), "ms": round(one.seconds * 1000, 2)}
        for one in receipt.attempts
    ]
    return _ENCODER.encode(line)


def call_line(receipt: Receipt) -> CallLine:
    """A receipt as flat fields."""
    r, usage = receipt, receipt.usage
    line = CallLine(
        time=stamp(r.started),
        level="info",
        event="call.done",
        id=r.call_id,
        status=r.status,
        outcome=r.outcome,
        method=r.method,
        path=r.path,
        ms=round(r.seconds * 1000, 2),
        dialect=r.dialect,
        key=r.key,
        owner=r.owner,
        client=r.client,
        peer=r.peer,
        account=r.account,
        model=_named(r.model),
        upstream_request_id=scrub(r.upstream_request_id) if r.upstream_request_id else "",
        client_request_id=scrub(r.client_request_id) if r.client_request_id else "",
        reason=scrub(r.reason) if r.reason else "",
        stream=r.stream,
        max_tokens=r.max_tokens,
        bytes_in=r.bytes_in,
        bytes_out=r.bytes_out,
        revision=r.revision,
    )
    if r.first_byte is not None:
        line.first_byte_ms = round(r.first_byte * 1000, 2)
    if r.sent_model != r.model:
        line.sent_model = _named(r.sent_model)
    if usage.total:
        _tell_usage(line, receipt)
    if r.cost is not None:
        line.cost_usd = f"{r.cost // 1_000_000}.{r.cost % 1_000_000:06d}"
    if r.unpriced:
        line.unpriced = True
    if len(r.attempts) > 1:
        line.attempts = [f"{a.account}: {a.status} {a.reason}" for a in r.attempts]
    return line


def _tell_usage(line: CallLine, receipt: Receipt) -> None:
    usage = receipt.usage
    line.tokens_in, line.tokens_out = usage.input, usage.output
    line.cache_write, line.cache_read = usage.cache_write_5m + usage.cache_write_1h, usage.cache_read
    line.cache_write_1h, line.web_searches = usage.cache_write_1h, usage.web_searches
    line.parts, line.free = len(usage.parts), usage.free
    if usage.model and usage.model != (receipt.sent_model or receipt.model):
        line.answered = scrub(usage.model)
    if usage.service_tier == "batch":
        line.service_tier = "batch"
    if usage.inference_geo == "us":
        line.inference_geo = "us"
    if usage.speed == "fast":
        line.speed = "fast"


@lru_cache(maxsize=1024)
def _named(model: str) -> str:
    """The name of a model as clients say it, who may say anything."""
    return scrub(model)
