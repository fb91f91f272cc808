"""Peeking into a request body: the few fields of a JSON body that relayd needs, without decoding the rest.

Rule: what is read here is what the upstream will read. JSON leaves open which of two equal keys wins, so a doubled
one of those that decide something (WATCHED) is refused: a limit checked on one value must not be evaded by the other.

Theory: msgspec skims the whole document in one pass (3 ms a MB), which proves its syntax, makes no object of what it
skips, and checks the type of every watched field that it meets, the first of two equal keys as well. It keeps the last
of two. So only where a name can stand twice (its bytes are there twice, or an escape could spell it) a second pass
asks for each occurrence. There is no loop over tokens in Python: a body of 30 MB, of whatever shape, costs about as
much as decoding it (tests/bench/peek_cost.py).

A search for a few bytes costs more than that pass. So first a body is taken apart into the members of its top level:
where they and the punctuation of a usual encoder are all of it, nothing stands twice and nothing is spelt oddly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any, TypeVar

import msgspec

from relayd.noun import noun
from relayd.wire.json_escapes import NOT_JSON, may_be_escaped
from relayd.wire.named_models import NOTHING_NAMED, NamedModels, named_models
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import NOTHING_RESUMED, Resumed, resumed

Skimmed = TypeVar("Skimmed")

WATCHED = ("model", "stream", "max_tokens", "fallbacks", "tools", "messages", "container", "thread")
# A body from this size on is read in a thread; below it a hand-over costs more than the reading (about 1 ms).
LARGE = 256 << 10
_STRETCHES = 256
# Members of the top level of a body that is taken apart here; the API knows some thirty.
_MOST_MEMBERS = 64


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Fields(msgspec.Struct):
    """The top level of a body. What is not named here is skipped."""

    model: str | None = None
    stream: bool | None = None
    max_tokens: int | float | None = None
    fallbacks: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tools: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    messages: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    thread: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    container: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    metadata: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    speed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_TYPED = (
    ("model", msgspec.json.Decoder(str | None).decode),
    ("stream", msgspec.json.Decoder(bool | None).decode),
    ("max_tokens", msgspec.json.Decoder(int | float | None).decode),
)

_fields = msgspec.json.Decoder(_Fields)
_metadata = msgspec.json.Decoder(_Metadata)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


@noun(kw_only=True)
class Peeked:
    """What a body says of itself. `user_id` is `metadata.user_id` where that is text; `fast` that it names a `speed`;
    `wide` as `wide_bytes`; `named` the models besides its own; `resumed` what it takes up."""

    model: str
    stream: bool
    max_tokens: int | None
    user_id: str
    fast: bool = False
    wide: int = 0
    named: NamedModels = NOTHING_NAMED
    resumed: Resumed = NOTHING_RESUMED


def peek(body: bytes) -> Peeked:
    """Read the fields that relayd needs.

    Raises: Refusal (400) for what is not one JSON object in UTF-8, for wrong types, for doubled keys, and for named
        models and ids that cannot be read.
    """
    members = usual_members(body)
    found = None if members is None else _fields_of(members)
    if members is None or found is None:
        members, found = None, _read(_fields.decode, body)
    wide = _wide(body)
    if members is None:  # only now that every text in it is one
        given = [name for name in WATCHED if getattr(found, name) is not msgspec.UNSET]
        doubled = _read(partial(doubled_key, names=given), body)
        if doubled:
            raise _bad(f"{doubled}: the key appears twice", doubled)
    cap = found.max_tokens
    if isinstance(cap, float) and not cap.is_integer():  # neither is infinity
        raise _bad("max_tokens: expected a whole number", "max_tokens")
    return Peeked(
        model=found.model or "",
        stream=bool(found.stream),
        max_tokens=None if cap is None else int(cap),
        user_id=_user_id(found.metadata),
        fast=found.speed is not msgspec.UNSET,
        wide=wide,
        named=_named(body, found) if members is None else named_models(members),
        resumed=resumed(_given(thread=found.thread, container=found.container)),
    )


def usual_members(body: bytes) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object written as encoders do: without blanks, or with one after each comma and colon (as
    Python's json has them), each name once and in its own letters. None for any other, and for what is not valid."""
    try:
        members = _members.decode(body)
    except NOT_JSON:
        return None
    if len(members) > _MOST_MEMBERS:
        return None
    bare = 1 + 4 * len(members)  # braces, quotes, colons and commas
    for name, raw in members.items():
        bare += len(name) + memoryview(raw).nbytes
    blanks = len(body) - bare
    if not blanks:
        return members  # no shorter way of writing these: what stood twice, or with escapes, would make it longer
    if not members or blanks != 2 * len(members) - 1:
        return None
    return (
        members if body == b"{%b}" % b", ".join([b'"%b": %b' % (k.encode(), v) for k, v in members.items()]) else None
    )


def _fields_of(members: dict[str, msgspec.Raw]) -> _Fields | None:
    """What they say, None where one is not of its type."""
    known: dict[str, Any] = {name: members[name] for name in _Fields.__struct_fields__ if name in members}
    try:
        for name, decode in _TYPED:
            if name in known:
                known[name] = decode(known[name])
    except NOT_JSON:
        return None
    return _Fields(**known)


def _given(**members: msgspec.Raw | msgspec.UnsetType) -> dict[str, msgspec.Raw]:
    """Those that the body has."""
    return {name: raw for name, raw in members.items() if not isinstance(raw, msgspec.UnsetType)}


def _named(body: bytes, found: _Fields) -> NamedModels:
    """The models besides its own. Only where the bytes of such a key can be there, the top level is read once more."""
    others = found.model is None or found.fallbacks is not msgspec.UNSET
    if others or body.count(b'model"') > 1 or may_be_escaped(body):
        return named_models(_members.decode(body))
    return NOTHING_NAMED


def wide_bytes(body: bytes) -> int:
    """How many bytes a text has more than characters. Raises: UnicodeDecodeError on what is not UTF-8."""
    return 0 if body.isascii() else len(body) - len(body.decode())


def _read(decode: Callable[[bytes], Skimmed], body: bytes) -> Skimmed:
    """What a decoder makes of the body. Raises: Refusal where it cannot; the second look may decode what the first
    one skimmed over, and find a number that is too large."""
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except msgspec.DecodeError as error:
        raise _bad(f"the request body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None
    except RecursionError:
        raise _bad("the request body is nested too deeply") from None


def _wide(body: bytes) -> int:
    """`wide_bytes`; msgspec skims over strings that it does not return, whatever bytes are in them."""
    try:
        return wide_bytes(body)
    except UnicodeDecodeError as error:
        raise _not_utf8(error) from None


def _not_utf8(error: UnicodeDecodeError) -> Refusal:
    return _bad(f"the request body is not valid UTF-8 (byte {error.start})")


def _wrong_type(text: str) -> Refusal:
    """Words for "Expected `str | null`, got `int` - at `$.model`"."""
    what, _, place = text.replace("`", "").partition(" - at $")
    what = (what[:1].lower() + what[1:]).replace(" | null", "").replace("int | float", "number")
    name = place.removeprefix(".")
    return _bad(f"{name}: {what}", name) if name else _bad(f"the request body must be a JSON object: {what}")


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(status=400, message=message, param=param)


def _user_id(raw: msgspec.Raw | msgspec.UnsetType) -> str:
    if raw is msgspec.UNSET:
        return ""
    try:
        return _metadata.decode(raw).user_id or ""
    except NOT_JSON:
        return ""  # the upstream judges its own field


class _Twice(Exception):
    """A key was met for the second time; the text is its name."""


class _Occurrence:
    """The type of a field whose every occurrence is told to a decoder's `dec_hook`. It is named as the field is."""


@cache
def _watching(*names: str) -> type[msgspec.Struct]:
    """An object in which each occurrence of these keys is told."""
    return msgspec.defstruct("_Watching", [(name, type(name, (_Occurrence,), {}), None) for name in names])


def doubled_key(body: bytes, names: Sequence[str]) -> str:
    """One of `names` that the top level has twice, in whatever spelling; "" when none is.

    Args:
        body: a valid JSON object. Where a name may be there twice, its values are decoded.
    Raises: msgspec.MsgspecError, RecursionError for such values that cannot be.
    """
    escaped = may_be_escaped(body)
    suspects = [name for name in names if escaped or body.count(b'"%b"' % name.encode()) > 1]
    if not suspects:
        return ""
    seen: set[type] = set()

    def note(kind: type, value: object) -> object:
        if kind in seen:
            raise _Twice(kind.__name__)
        seen.add(kind)
        return kind()

    try:
        msgspec.json.Decoder(_watching(*suspects), dec_hook=note).decode(body)
    except _Twice as twice:
        return str(twice)
    return ""


def replace_model(body: bytes, model: str) -> bytes:
    """`body` with another top-level `model`; every other byte as it was. `body` has passed `peek`, which found one."""
    span = _usual_span(body, "model") or text_span(body, "model")
    if span is None:
        return body
    return body[: span[0]] + msgspec.json.encode(model) + body[span[1] :]


def _usual_span(body: bytes, name: str) -> tuple[int, int] | None:
    """As `text_span`, by adding up what precedes it in a body that is written as usual; else None."""
    members = usual_members(body)
    if members is None or name not in members:
        return None
    behind_colon = len(next(iter(members)).encode()) + 4
    blank = int(body.startswith(b" ", behind_colon))  # as `usual_members` has seen, there is one everywhere or nowhere
    at = 1
    for one, raw in members.items():
        at += len(one.encode()) + 3 + blank
        end = at + memoryview(raw).nbytes
        if one == name:
            return (at, end) if body.startswith(b'"', at) else None
        at = end + 1 + blank
    return None


def text_span(body: bytes, name: str) -> tuple[int, int] | None:
    """Where the text that a top-level key has for its value starts and ends, quotes included. None when there is none.

    Every text of a key of that name, however deep, is exchanged for the number of the stretch of the body where it
    stands; a decoder that reads the top level alone then tells which stretch is the one. So on within it, until it has
    but one such key: two or three rounds for millions of them.

    Args:
        body: a valid JSON object that has the key at most once at its top level.
    """
    pattern = _member(name, plain=not may_be_escaped(body))
    start, end = 0, len(body)
    while True:
        cuts = _cuts(pattern, body, start, end)
        marked = [b'"%b":"%d"' % (name.encode(), number) for number in range(len(cuts) - 1)]
        stretches = [pattern.sub(mark, body[a:b]) for mark, (a, b) in zip(marked, pairwise(cuts), strict=True)]
        number: str | None = _reading(name).decode(b"".join((body[:start], *stretches, body[end:]))).value
        if number is None:
            return None
        start, end = cuts[int(number)], cuts[int(number) + 1]
        match = pattern.search(body, start, end)
        assert match is not None
        if pattern.search(body, match.end(), end) is None:
            return match.span(1)


def _cuts(pattern: re.Pattern[bytes], body: bytes, start: int, end: int) -> list[int]:
    """Where to cut body[start:end] into at most `_STRETCHES` pieces, each but the first at the start of a match."""
    step = (end - start) // _STRETCHES + 1
    while True:
        cuts = [start]
        while (match := pattern.search(body, cuts[-1] + step, end)) is not None:
            cuts.append(match.start())
        if len(cuts) > 1 or step == 1:
            return [*cuts, end]
        step = step // 16 + 1  # all matches stand within one step of the start


@cache
def _member(name: str, *, plain: bool) -> re.Pattern[bytes]:
    """A pattern for a key and its (text). Wherever in a valid document the search begins, the colon that it finds is
    one behind a key of that name, or of one that ends in a quote and that name; and the text is a whole one.

    Args:
        plain: the key is not written with escapes, which is looked for much faster.
    """
    letters = (letter.encode() if plain else rb"(?:%c|\\u(?i:%04x))" % (ord(letter), ord(letter)) for letter in name)
    key = b'"' + b"".join(letters) + b'"'
    return re.compile(key + rb"[ \t\r\n]*:[ \t\r\n]*" + rb'("(?:[^"\\]|\\.)*+")', re.DOTALL)


@cache
def _reading(name: str) -> msgspec.json.Decoder[Any]:
    """A decoder that reads one text of the top level, as `value`."""
    return msgspec.json.Decoder(msgspec.defstruct("_Reading", [("value", str | None, None)], rename={"value": name}))
