"""The simulated API: a request in, a Script out.

Rule: pure. The time, the number of the call and what the minute has seen are arguments; the same arguments give the
same bytes. Messages, token counts and models are answered; batches, files and skills are not there (404).

Theory: one table of paths; whatever goes wrong is a Refusal, and becomes an error in the API's form in one place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import attrs
import msgspec

from relayd.config.snapshot import Simulator
from relayd.noun import noun
from relayd.simulator.answer import EventBody, events, folded
from relayd.simulator.catalog import model_list, one_model, page
from relayd.simulator.faults import breakage, forced_answer, restyled, settings_for
from relayd.simulator.request import decode, parse_request
from relayd.simulator.script import (
    STREAM_TYPE,
    Script,
    Step,
    error_script,
    error_value,
    json_script,
    make_id,
    seed_of,
    timestamp,
)
from relayd.simulator.tokens import prompt_usage
from relayd.wire.http import HeaderPairs, Headers
from relayd.wire.refusal import Refusal

ORGANIZATION = b"00000000-0000-4000-8000-51b01a7ed000"
PLENTY = 4000  # requests a minute that the headers show when there is no limit
TOKENS = 400_000  # tokens a minute that the headers show
CREDENTIALS = (b"x-api-key", b"authorization", b"cookie")
MINUTE = 60.0  # s


@attrs.define(eq=False)
class MessageCount:
    """How many messages the minute has seen: all that a simulated organization remembers."""

    _minute: int = 0
    _messages: int = 0

    def count(self, now: float) -> int:
        """The number of this message within its minute, from 1."""
        minute = int(now // MINUTE)
        if minute != self._minute:
            self._minute, self._messages = minute, 0
        self._messages += 1
        return self._messages


@noun(kw_only=True)
class Question:
    """Everything an answer depends on.

    Args:
        settings: with the faults that hold for this call.
        call_number: counts the calls of one simulator, from 1.
        now: Unix time, s.
        parts: the path below /v1, split at "/".
        seed: digest of the body, of which identifiers are derived.
    """

    method: str
    parts: tuple[str, ...]
    query: str
    headers: Headers
    body: bytes = attrs.field(repr=False)
    settings: Simulator
    messages: MessageCount
    call_number: int
    now: float
    seed: bytes
    request_id: str
    common: HeaderPairs


def respond(
    method: str,
    target: str,
    headers: Headers,
    body: bytes,
    settings: Simulator,
    call_number: int,
    now: float,
    messages: MessageCount,
    routes: Routes | None = None,
) -> Script:
    """The answer to one request.

    Args:
        target: path and query, as sent.
        headers: names in lower case.
        settings: of the account; `x-simulate-` headers override them for this call.
        call_number: counts the calls of this simulator, from 1.
        now: Unix time, s.
        messages: of this simulator so far.
        routes: the paths that are answered; None means ROUTES.
    """
    path, _, query = target.partition("?")
    seed = seed_of(body)
    request_id = make_id("req", seed, path.encode("utf-8", "replace"), call_number)
    common = [(b"request-id", request_id.encode()), (b"anthropic-organization-id", ORGANIZATION)]
    try:
        settings = settings_for(settings, headers, call_number)
    except Refusal as refusal:
        return error_script(refusal, common, request_id)
    question = Question(
        method="GET" if method == "HEAD" else method,
        parts=tuple(path.split("/")[2:]) if path.startswith("/v1/") else (),
        query=query,
        headers=headers,
        body=body,
        settings=settings,
        messages=messages,
        call_number=call_number,
        now=now,
        seed=seed,
        request_id=request_id,
        common=common,
    )
    if method == "HEAD":
        return attrs.evolve(_answered(question, routes or ROUTES), steps=(), delay=settings.first_byte)
    script = restyled(settings, _answered(question, routes or ROUTES))
    error = encode_event(error_value(settings.error_type or "overloaded_error", "Overloaded", request_id))
    return attrs.evolve(breakage(settings, script, error), delay=settings.first_byte)


def _answered(question: Question, routes: Routes) -> Script:
    forced = forced_answer(question.settings)
    try:
        if forced is not None:
            raise forced
        _authenticate(question)
        try:
            return _route(question, routes)(question)
        except RecursionError:
            raise Refusal(status=400, message="The request body is nested too deeply") from None
    except Refusal as refusal:
        kind = question.settings.error_type if refusal is forced else ""
        return error_script(refusal, question.common, question.request_id, kind=kind)


def _authenticate(question: Question) -> None:
    if question.settings.require_credential and not any(name in question.headers for name in CREDENTIALS):
        raise Refusal(status=401, message="x-api-key header is required")


def _route(question: Question, routes: Routes) -> Callable[[Question], Script]:
    """What answers this method and path. Raises: Refusal (404, 405)."""
    for pattern, methods in routes:
        if len(pattern) == len(question.parts) and all(
            name in ("*", part) and part for name, part in zip(pattern, question.parts, strict=True)
        ):
            if question.method in methods:
                return methods[question.method]
            raise Refusal(status=405, message="Method Not Allowed", headers=((b"allow", ", ".join(methods).encode()),))
    raise Refusal(status=404, message="Not found (the simulator has messages, count_tokens and models)")


def _messages(question: Question) -> Script:
    """POST /v1/messages."""
    _plain_coding(question)
    number = question.messages.count(question.now)
    limits = _limit_headers(question, number)
    limit = question.settings.requests_limit
    common = [*question.common, *limits]
    if limit and number > limit:
        wait = max(1, math.ceil(MINUTE - question.now % MINUTE))
        refusal = Refusal(
            status=429, message=f"Number of requests has exceeded your limit of {limit} a minute", retry_after=wait
        )
        return error_script(refusal, common, question.request_id)
    version, betas = question.headers.get(b"anthropic-version") or b"", question.headers.joined(b"anthropic-beta")
    request = parse_request(decode(question.body), version, betas=betas or b"")
    answer = events(request, prompt_usage(request), question.seed, question.settings.words)
    if request.stream:
        steps = _streamed(answer, question.settings.between)
        return Script(status=200, headers=[STREAM_TYPE, (b"cache-control", b"no-cache"), *common], steps=steps)
    return json_script(200, folded(answer), common)


def _plain_coding(question: Question) -> None:
    coding = question.headers.text(b"content-encoding").lower()
    if coding not in ("", "identity"):
        raise Refusal(
            status=400, message=f"content-encoding: {coding[:40]!r} is not supported (send the body as it is)"
        )


def _limit_headers(question: Question, number: int) -> HeaderPairs:
    """The account's window, as the API describes it. Source: API docs, "Rate limits", response headers."""
    limit = question.settings.requests_limit
    left = max(0, limit - number) if limit else PLENTY - number % (PLENTY // 4)
    reset = timestamp((question.now // MINUTE + 1) * MINUTE).encode()
    tokens = TOKENS - 1000 * (question.call_number % 100)
    return [
        (b"anthropic-ratelimit-requests-limit", b"%d" % (limit or PLENTY)),
        (b"anthropic-ratelimit-requests-remaining", b"%d" % left),
        (b"anthropic-ratelimit-requests-reset", reset),
        (b"anthropic-ratelimit-tokens-limit", b"%d" % TOKENS),
        (b"anthropic-ratelimit-tokens-remaining", b"%d" % tokens),
        (b"anthropic-ratelimit-tokens-reset", reset),
    ]


def _streamed(answer: Iterator[EventBody], between: float) -> Iterator[Step]:
    wait = 0.0
    for event in answer:
        yield wait, encode_event(event)
        wait = between


def encode_event(event: EventBody) -> bytes:
    """One server-sent event, named by its type."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


def _count_tokens(question: Question) -> Script:
    """POST /v1/messages/count_tokens."""
    _plain_coding(question)
    version = question.headers.get(b"anthropic-version") or b""
    request = parse_request(decode(question.body), version, counting=True)
    return json_script(200, {"input_tokens": prompt_usage(request).prompt}, question.common)


# For each path below /v1, "*" for any one part: what answers which method.
Routes = tuple[tuple[tuple[str, ...], dict[str, Callable[[Question], Script]]], ...]
ROUTES: Routes = (
    (("messages",), {"POST": _messages}),
    (("messages", "count_tokens"), {"POST": _count_tokens}),
    (("models",), {"GET": lambda q: json_script(200, page(model_list(), q.query), q.common)}),
    (("models", "*"), {"GET": lambda q: json_script(200, one_model(q.parts[1]), q.common)}),
)
