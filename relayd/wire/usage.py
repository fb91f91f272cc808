"""Usage: what a call consumed; Meter: response bytes in, token counts out.

Rule: never decode an event that cannot carry usage. The meter looks for a few event names and at nothing else, so its
cost on the per-chunk path is a few scans. No answer, however odd, raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from relayd.wire.plain_body import PlainBody, plain_bytes
from relayd.wire.usage_report import UsageReport, model_of, read_report, text_of


@attrs.frozen(kw_only=True)
class Usage:
    """Token counts by kind, as the Claude API reports them. `input` is the uncached part of the prompt only.

    The whole prompt is `input + cache_write_5m + cache_write_1h + cache_read`.
    """

    input: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output: int = 0
    thinking: int = 0  # part of output, not extra
    web_searches: int = 0
    web_fetches: int = 0
    service_tier: str = ""  # "batch", "priority": they change the price
    inference_geo: str = ""
    speed: str = ""
    model: str = ""  # that the answer says it is from; "" when it does not say
    parts: tuple[UsagePart, ...] = ()  # inferences that have a price of their own; their tokens are in the counts above
    doubts: frozenset[str] = frozenset()  # fields of which a report could not be read: the true count may be higher
    free: bool = False  # refused before any output, in a category that is not billed

    @property
    def rest(self) -> Usage:
        """What is in no part."""
        left = {name: getattr(self, name) - sum(getattr(part.usage, name) for part in self.parts) for name in _TOKENS}
        return attrs.evolve(self, parts=(), **{name: max(count, 0) for name, count in left.items()})

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    @property
    def total(self) -> int:
        """Tokens in and out, of every kind."""
        return self.prompt + self.output


@attrs.frozen(kw_only=True)
class UsagePart:
    """One inference among several behind an answer. `model` is "" for the answer's own."""

    model: str
    usage: Usage


_TOKENS = ("input", "cache_write_5m", "cache_write_1h", "cache_read", "output", "thinking")

# The categories in which a refusal before any output is billed (API docs, "Refusals and fallback", September 2026).
_BILLED_CATEGORIES = frozenset({"bio", "frontier_llm", "reasoning_extraction"})


class _Answer(msgspec.Struct):
    """A message, as far as it concerns its usage; everything else is skipped. Anything may stand anywhere."""

    type: Any = None
    model: Any = None
    usage: Any = msgspec.UNSET
    stop_reason: Any = None
    stop_details: Any = None


class _Event(msgspec.Struct):
    """An event of a stream, in the same way."""

    message: Any = None
    usage: Any = msgspec.UNSET
    delta: Any = None
    content_block: Any = None


_event = msgspec.json.Decoder(_Event)
_answer = msgspec.json.Decoder(_Answer)


def merge(known: Usage, report: UsageReport) -> Usage:
    """`known` brought up to date by a later report, `iterations` left aside.

    Counts in `message_delta` are cumulative and never shrink, and a field it leaves out (or sends as 0) keeps what
    `message_start` said: so the larger of both stands, field by field. The 5m/1h split is only in `message_start`; what
    a later total adds to it counts as five-minute writes. A doubt ends with a later report that can be read.
    """
    counts, texts = report.counts, report.texts
    write_1h = max(known.cache_write_1h, counts.get("cache_write_1h", 0))
    write_5m = max(known.cache_write_5m, counts.get("cache_write_5m", 0), counts.get("writes", 0) - write_1h)
    return Usage(
        input=max(known.input, counts.get("input", 0)),
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        cache_read=max(known.cache_read, counts.get("cache_read", 0)),
        output=max(known.output, counts.get("output", 0)),
        thinking=max(known.thinking, counts.get("thinking", 0)),
        web_searches=max(known.web_searches, counts.get("web_searches", 0)),
        web_fetches=max(known.web_fetches, counts.get("web_fetches", 0)),
        service_tier=texts.get("service_tier") or known.service_tier,
        inference_geo=texts.get("inference_geo") or known.inference_geo,
        speed=texts.get("speed") or known.speed,
        model=known.model,
        doubts=(known.doubts - counts.keys() - texts.keys()) | report.doubts,
    )


@attrs.define(eq=False, kw_only=True)
class UsageAccount:
    """What an answer has said of its usage up to now, put together.

    Theory: the top level of `usage` has the tokens of the inferences that made the answer; of a tool loop's prompts
    perhaps only the first. `iterations` lists every inference. What is not in the top level: a compaction, an advisor's
    advice (of another model), and the attempt of a model that declined before a fallback answered. So of the answer's
    own inferences the larger of top level and sum counts, and each other one comes on top.
    Source: official SDK 2.12.0 (BetaUsage.iterations, BetaFallbackMessageIterationUsage); API docs, "Advisor tool",
    "Compaction", "Refusals and fallback".
    """

    model: str = ""
    heard: bool = False  # any report
    _top: Usage = attrs.field(factory=lambda: Usage(), init=False)
    _entries: tuple[UsageReport, ...] = attrs.field(default=(), init=False)
    _refused: bool = attrs.field(default=False, init=False)
    _category: str = attrs.field(default="", init=False)
    _declined: dict[str, str] = attrs.field(factory=dict, init=False)  # model: category

    def add(self, report: UsageReport) -> None:
        """Take in a report."""
        self.heard = True
        self._top = merge(self._top, report)
        # It is cumulative. A list that has become shorter has lost something.
        if report.iterations is not None and len(report.iterations) >= len(self._entries):
            self._entries = report.iterations

    def doubt(self, *names: str) -> None:
        """A report that had these could not be read."""
        self._top = attrs.evolve(self._top, doubts=self._top.doubts | frozenset(names))

    def stopped(self, reason: object, details: object) -> None:
        """Why the answer ended, from `stop_reason` and `stop_details`."""
        self._refused = self._refused or reason == "refusal"
        self._category = text_of(details, "category") or self._category

    def handed_over(self, block: object) -> None:
        """A content block: one of type "fallback" says which model declined, and in what category."""
        if isinstance(block, dict) and block.get("type") == "fallback":
            declined = model_of(block.get("from"))
            self._declined[declined] = text_of(block.get("trigger"), "category") or "none"

    @property
    def total(self) -> Usage:
        """Everything that this answer consumed."""
        free = self._refused and not self._top.output and self._category not in _BILLED_CATEGORIES
        top = attrs.evolve(self._top, model=self.model, free=free)
        return itemised(top, self._entries, self._declined) if self._entries else top


def itemised(top: Usage, entries: Sequence[UsageReport], declined: Mapping[str, str]) -> Usage:
    """`top` with what only the entries of `iterations` say.

    Args:
        declined: the category of refusal of each model that handed over to another; a model that is not there did so
            for a reason that was not told.
    """
    plain = Usage(service_tier=top.service_tier, inference_geo=top.inference_geo, speed=top.speed, free=top.free)
    # The last inference of the model itself is the one that ended the answer: its model is the one that served.
    serving = next((entry.model for entry in reversed(entries) if entry.kind in _OWN_KINDS), "")
    own, others = [], []
    for entry in entries:
        usage = attrs.evolve(merge(plain, entry), doubts=frozenset())
        if entry.kind in _OWN_KINDS and entry.model in ("", serving):
            own.append(UsagePart(model="", usage=usage))
            continue
        category = declined.get(entry.model, "")
        waived = entry.kind in _OWN_KINDS and not usage.output and bool(category) and category not in _BILLED_CATEGORIES
        others.append(UsagePart(model=entry.model, usage=attrs.evolve(usage, free=waived)))
    sums = {
        name: max(getattr(top, name), sum(getattr(part.usage, name) for part in own))
        + sum(getattr(part.usage, name) for part in others)
        for name in _TOKENS
    }
    return attrs.evolve(top, **sums, parts=(*own, *others) if others or len(own) > 1 else ())


_OWN_KINDS = ("message", "fallback_message", "")


def usage_of_message(body: bytes) -> Usage | None:
    """The usage of a whole (not streamed) answer; None when the body does not carry one.

    A message whose usage cannot be read, or is not there, has one that is all doubt.
    """
    try:
        answer = _answer.decode(plain_bytes(body))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    account = UsageAccount(model=model_of({"model": answer.model}))
    if answer.usage is msgspec.UNSET or answer.usage is None:
        if answer.type != "message":
            return None
        account.doubt("input", "output")
        return account.total
    account.add(read_report(answer.usage))
    account.stopped(answer.stop_reason, answer.stop_details)
    if b'"fallback"' in body:
        for block in _blocks(body):
            account.handed_over(block)
    return account.total


class _Content(msgspec.Struct):
    content: Any = None


_content = msgspec.json.Decoder(_Content)


def _blocks(body: bytes) -> list[object]:
    try:
        content = _content.decode(plain_bytes(body)).content
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    return content if isinstance(content, list) else []


# An event of the two kinds that carry usage is some hundred bytes; message_start may echo a container or diagnostics.
_EVENT_LIMIT = 256 * 1024
# Bytes of a stream that are no text: message_start and the first block's start; each delta's own framing.
_HEAD_FRAME, _DELTA_FRAME = 700, 129
# The longest line start worth keeping between reads: b"event: message_start" and some white space.
_TAIL_LIMIT = 40


@attrs.define(eq=False)
class Meter:
    """Reads usage, and how the stream ends, out of the passing bytes of an event stream.

    Theory: between two reads the meter keeps only the start of an unfinished line. Of each read it asks two questions
    with one byte search each: is there a `message_` and is there an `error`? (And of a `"fallback"`, which marks a
    content block that says why another model took over; in text its quotes would be escaped.) Only where such a word
    stands on an `event:` line does it gather that one event and decode its data. `data:` lines without an `event:`
    line are read by no SDK, so they are not read here either.
    """

    told: bool = False  # a report of the final counts was read (message_delta)
    lost: bool = False  # an event that may have carried usage could not be read
    finished: bool = False  # message_stop was read
    failed: bool = False  # an error event was read
    at_boundary: bool = True  # the last byte ended an event, so that a comment may stand here
    passed: int = 0  # bytes seen
    deltas: int = 0  # content deltas among them
    compressed: bool = False  # nothing may be put between its bytes
    _account: UsageAccount = attrs.field(factory=UsageAccount, init=False)
    _plain: PlainBody | None = None
    _gathered: bytes = b""  # the name of the event that is being gathered
    _tail: bytes = b""
    _gathering: bytearray | None = None

    @property
    def usage(self) -> Usage:
        """What was reported."""
        return self._account.total

    @property
    def seen(self) -> bool:
        """Whether any report was read."""
        return self._account.heard

    @property
    def final(self) -> bool:
        """Whether the usage is the stream's last word. If not, there are `passed` bytes and `deltas` to go by."""
        return self.finished and self.told and not self.lost

    def usage_so_far(self) -> Usage:
        """The usage, with the output of a stream without a last word estimated from the text that has passed.

        Only the final report tells the true output; until then the first one says a token or so. The estimate is
        3.5 bytes a token of what is left after each delta's own framing.
        """
        usage = self.usage
        if self.final or not self.deltas:
            return usage
        text = self.passed - _HEAD_FRAME - self.deltas * _DELTA_FRAME
        return attrs.evolve(usage, output=max(usage.output, self.deltas, int(text / 3.5)))

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the body, cut anywhere."""
        if not self.passed or self.compressed:
            data = self._unfold(data)
        self.passed += len(data)
        self.deltas += data.count(b"content_block_delta\n")
        self.at_boundary = data.endswith((b"\n\n", b"\r\n\r\n")) or self._boundary_by_pieces(data)
        if self.compressed:
            self.at_boundary = False
        if self._gathering is not None:
            self._gather(data)
            return
        if self._tail:
            data = self._tail + data
            self._tail = b""
        if b"message_" in data or b"error" in data or b"k_start" in data:
            self._look(data)
        elif data[-1:] != b"\n":
            self._keep_tail(data)

    def _unfold(self, data: bytes) -> bytes:
        """The plain bytes of a read, whose first byte tells whether the stream is compressed."""
        if not self.compressed and data[:1] != b"\x1f":
            return data
        self.compressed = True
        if self._plain is None:
            self._plain = PlainBody()
        plain = self._plain.feed(data)
        if self._plain.broken:
            self.lost = True
            self.passed += len(data)
        return plain

    def _boundary_by_pieces(self, data: bytes) -> bool:
        """The blank line may have come in two reads."""
        end = (self._gathering[-3:] if self._gathering is not None else self._tail[-3:]) + data
        return end.endswith((b"\n\n", b"\r\n\r\n")) or (data == b"\n" and not self._tail and self._gathering is None)

    def _keep_tail(self, data: bytes) -> None:
        line = data[data.rfind(b"\n") + 1 :]
        # A longer line is a data line; its rest cannot start an event, so a stand-in byte is enough.
        self._tail = line if len(line) <= _TAIL_LIMIT else b"-"

    def _look(self, data: bytes) -> None:
        at = 0
        while True:
            at = data.find(b"event:", at)
            if at < 0:
                break
            if at and data[at - 1] not in b"\r\n":
                at += 6
                continue
            end = data.find(b"\n", at)
            if end < 0:
                break
            name = data[at + 6 : end].strip()
            if name in _GATHERED:
                self._gathering, self._gathered = bytearray(), name
                self._gather(data[at:])
                return
            self.finished = self.finished or name == b"message_stop"
            self.failed = self.failed or name == b"error"
            at = end
        if data[-1:] != b"\n":
            self._keep_tail(data)

    def _gather(self, data: bytes) -> None:
        event = self._gathering
        assert event is not None
        seam = max(0, len(event) - 3)
        event += data
        end = _event_end(event, seam)
        if end is None:
            if len(event) > _EVENT_LIMIT:
                self._gathering = None
                self._tail = b"-"
                self._miss()
            return
        self._gathering = None
        self._report(bytes(event[:end]))
        rest = bytes(event[end:])
        if rest:
            self._look(rest)

    def _report(self, event: bytes) -> None:
        if self._gathered == b"content_block_start" and b'"fallback"' not in event:
            return
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        try:
            said = _event.decode(b"\n".join(lines))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._miss()
            return
        account = self._account
        match self._gathered:
            case b"message_start":
                if not isinstance(said.message, dict):
                    self._miss()
                    return
                account.model = model_of(said.message) or account.model
                self._read_usage(said.message.get("usage"))
            case b"message_delta":
                delta = said.delta if isinstance(said.delta, dict) else {}
                account.stopped(delta.get("stop_reason"), delta.get("stop_details"))
                self.told = self._read_usage(said.usage) or self.told
            case _:
                account.handed_over(said.content_block)

    def _read_usage(self, value: object) -> bool:
        """Whether it told the output."""
        if value is None or value is msgspec.UNSET:
            return False
        report = read_report(value)
        self._account.add(report)
        return "output" in report.counts

    def _miss(self) -> None:
        """The event that was gathered cannot be read: what it said of the usage is in doubt."""
        if self._gathered == b"content_block_start":
            return
        self.lost = True
        self._account.doubt(*(("input", "output") if self._gathered == b"message_start" else ("output",)))


_GATHERED = frozenset({b"message_start", b"message_delta", b"content_block_start"})


def _event_end(event: bytearray, start: int) -> int | None:
    """Where the blank line that ends the first event of `event` is over, looking from `start`."""
    unix = event.find(b"\n\n", start)
    dos = event.find(b"\r\n\r\n", start)
    if unix < 0 and dos < 0:
        return None
    if dos < 0 or 0 <= unix < dos:
        return unix + 2
    return dos + 4
