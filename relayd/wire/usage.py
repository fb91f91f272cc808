"""Usage: what a call consumed, and how it is put together from what an answer says.

Rule: everything that is billed is counted, once. No answer, however odd, raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from relayd.noun import noun
from relayd.wire.json_escapes import NOT_JSON
from relayd.wire.usage_report import MOST_ITERATIONS, UsageReport, model_name, model_of, read_report, text_of


@noun(kw_only=True)
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
        if not self.parts:
            return self
        left = {name: getattr(self, name) - sum(getattr(part.usage, name) for part in self.parts) for name in _TOKENS}
        return attrs.evolve(self, parts=(), **{name: max(count, 0) for name, count in left.items()})

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt, cached or not."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read

    @property
    def total(self) -> int:
        """Tokens in and out, of every kind."""
        return self.input + self.cache_write_5m + self.cache_write_1h + self.cache_read + self.output


@noun(kw_only=True)
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


_answer = msgspec.json.Decoder(_Answer)


def merge(known: Usage, report: UsageReport, model: str = "") -> Usage:
    """`known` brought up to date by a later report of an answer from `model`, `iterations` left aside.

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
        model=model,
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
    _top: Usage = attrs.field(default=Usage(), init=False)
    _entries: tuple[UsageReport, ...] = attrs.field(default=(), init=False)
    _refused: bool = attrs.field(default=False, init=False)
    _category: str = attrs.field(default="", init=False)
    _declined: dict[str, str] = attrs.field(factory=dict, init=False)  # model: category

    def add(self, report: UsageReport) -> None:
        """Take in a report."""
        self.heard = True
        entries = report.iterations
        if entries and any(entry.kind == "fallback_message" for entry in entries):
            # What message_start had said was of the model that declined: that is an entry of its own now.
            self._top = attrs.evolve(
                self._top, input=0, cache_write_5m=0, cache_write_1h=0, cache_read=0, output=0, thinking=0
            )
        self._top = merge(self._top, report, self.model)
        # It is cumulative. A list that has become shorter has lost something.
        if entries is not None and len(entries) >= len(self._entries):
            self._entries = entries

    def doubt(self, *names: str) -> None:
        """A report that had these could not be read."""
        self._top = attrs.evolve(self._top, doubts=self._top.doubts | frozenset(names))

    def stopped(self, reason: object, details: object) -> None:
        """Why the answer ended, from `stop_reason` and `stop_details`."""
        self._refused = self._refused or reason == "refusal"
        self._category = text_of(details, "category") or self._category

    def handed_over(self, block: object) -> None:
        """A content block: one of type "fallback" says which model declined, and in what category."""
        if isinstance(block, dict) and block.get("type") == "fallback" and len(self._declined) < MOST_ITERATIONS:
            declined = model_of(block.get("from"))
            self._declined[declined] = text_of(block.get("trigger"), "category") or "none"

    @property
    def total(self) -> Usage:
        """Everything that this answer consumed."""
        free = self._refused and not self._top.output and self._category not in _BILLED_CATEGORIES
        top = self._top
        if top.model != self.model or top.free != free:
            top = attrs.evolve(top, model=self.model, free=free)
        return itemised(top, self._entries, self._declined) if self._entries else top


def itemised(top: Usage, entries: Sequence[UsageReport], declined: Mapping[str, str]) -> Usage:
    """`top` with what only the entries of `iterations` say.

    Args:
        declined: the category of refusal of each model that handed over to another; a model that is not there did so
            for a reason that was not told.
    """
    plain = Usage(service_tier=top.service_tier, inference_geo=top.inference_geo, speed=top.speed)
    # The last inference of the model itself is the one that ended the answer: its model is the one that served.
    serving = next((entry.model for entry in reversed(entries) if entry.kind in _OWN_KINDS), "")
    own, others = [], []
    for entry in entries:
        usage = attrs.evolve(merge(plain, entry), doubts=frozenset())
        if entry.kind in _OWN_KINDS and entry.model in ("", serving):
            own.append(UsagePart(model="", usage=attrs.evolve(usage, free=top.free)))
            continue
        category = declined.get(entry.model, "")
        waived = entry.kind in _OWN_KINDS and not usage.output and bool(category) and category not in _BILLED_CATEGORIES
        others.append(UsagePart(model=entry.model, usage=attrs.evolve(usage, free=waived)))
    sums = {
        name: max(getattr(top, name), sum(getattr(part.usage, name) for part in own))
        + sum(getattr(part.usage, name) for part in others)
        for name in _TOKENS
    }
    # A stream names its model before it is known which will have served.
    served = next((entry.model for entry in reversed(entries) if entry.kind == "fallback_message"), "")
    parts = (*own, *others) if others or len(own) > 1 else ()
    return attrs.evolve(top, model=served or top.model, parts=parts, **sums)


_OWN_KINDS = ("message", "fallback_message", "")


def usage_of_message(body: bytes) -> Usage | None:
    """The usage of a whole (not streamed) answer; None when the body does not carry one.

    A message whose usage cannot be read, or is not there, has one that is all doubt.
    """
    try:
        answer = _answer.decode(body)
    except NOT_JSON:
        return None
    account = UsageAccount(model=model_name(answer.model))
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
        content = _content.decode(body).content
    except NOT_JSON:
        return []
    return content if isinstance(content, list) else []
