"""Peeking into a request body: the few fields of a JSON body that relayd needs, without decoding the rest.

Rule: what is read here is what the upstream will read. JSON leaves open which of two equal keys wins, so a doubled
one of those that decide something (WATCHED) is refused: a limit checked on one value must not be evaded by the other.

Theory: msgspec skims the whole document in one pass (50 us for 200 KB), which proves its syntax and finds the values
of the top level. A doubled key is one of which only the last value is found: then the bytes found do not add up to the
body. They do in compact JSON, as every SDK writes it; only what is written with white space or escaped keys is looked
through with a regular expression, and only when that finds a name twice does the exact scanner run.
"""

from __future__ import annotations

import re
from typing import Any

import attrs
import msgspec

from relayd.wire.named_models import NOTHING_NAMED, NamedModels, named_models
from relayd.wire.refusal import Refusal
from relayd.wire.resumed import NOTHING_RESUMED, Resumed, resumed

WATCHED = ("model", "stream", "max_tokens", "fallbacks", "tools", "messages", "container", "thread")
# A JSON escape that could spell a letter or "_" of a watched key: \u005f, \u006d ...
_ESCAPED_KEY = re.compile(rb"\\u00(?:5[fF]|6|7)")
_NAME = re.compile(rb'"(?:m(?:odel|ax_tokens|essages)|stream|fallbacks|t(?:ools|hread)|container)"')
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', re.DOTALL)


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_metadata = msgspec.json.Decoder(_Metadata)
_text = msgspec.json.Decoder(str | None)
_flag = msgspec.json.Decoder(bool | None)
_number = msgspec.json.Decoder(int | float | None)


@attrs.frozen(kw_only=True)
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
    found, wide = _decode(body)
    if not _adds_up(found, body) and _may_repeat(body):
        _refuse_doubled(body)
    cap: int | float | None = _read(found, "max_tokens", _number)
    if isinstance(cap, float) and not cap.is_integer():  # neither is infinity
        raise _bad("max_tokens: expected a whole number", "max_tokens")
    return Peeked(
        model=_read(found, "model", _text) or "",
        stream=bool(_read(found, "stream", _flag)),
        max_tokens=None if cap is None else int(cap),
        user_id=_user_id(found.get("metadata")),
        fast="speed" in found,
        wide=wide,
        named=named_models(found),
        resumed=resumed(found),
    )


def wide_bytes(body: bytes) -> int:
    """How many bytes a text has more than characters. Raises: UnicodeDecodeError on what is not UTF-8."""
    return 0 if body.isascii() else len(body) - len(body.decode())


def _decode(body: bytes) -> tuple[dict[str, msgspec.Raw], int]:
    try:
        return _members.decode(body), wide_bytes(body)  # msgspec skims over strings that it does not return
    except msgspec.ValidationError as error:
        what = str(error).replace("`", "")
        raise _bad(f"the request body must be a JSON object: {what[:1].lower()}{what[1:]}") from None
    except msgspec.DecodeError as error:
        raise _bad(f"the request body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise _bad(f"the request body is not valid UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise _bad("the request body is nested too deeply") from None


def _adds_up(found: dict[str, msgspec.Raw], body: bytes) -> bool:
    """Whether the members found are all there is: `{"key":value,"key":value}` and not a byte more."""
    length = 1 + len(found) * 4  # braces, commas, colons, quotes
    for name, raw in found.items():
        length += len(name) + memoryview(raw).nbytes
    return length == len(body)


def _read(found: dict[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[Any]) -> Any:
    raw = found.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise _wrong_type(name, str(error)) from None
    except msgspec.DecodeError as error:
        raise _bad(f"the request body is not valid JSON: {name}: {error}", name) from None


def _wrong_type(name: str, text: str) -> Refusal:
    # "Expected `str | null`, got `int`"
    what = text.replace("`", "").replace(" | null", "").replace("int | float", "number")
    return _bad(f"{name}: {what[:1].lower()}{what[1:]}", name)


def _bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(status=400, message=message, param=param)


def _user_id(raw: msgspec.Raw | None) -> str:
    if raw is None:
        return ""
    try:
        return _metadata.decode(raw).user_id or ""
    except (msgspec.MsgspecError, RecursionError):
        return ""  # the upstream judges its own field


def _may_repeat(body: bytes) -> bool:
    names = _NAME.findall(body)
    if len(names) > len(set(names)):
        return True
    return b"\\u00" in body and _ESCAPED_KEY.search(body) is not None


def _refuse_doubled(body: bytes) -> None:
    seen = set()
    for name, _, _ in members(body):
        if name in seen and name in WATCHED:
            raise _bad(f"{name}: the key appears twice", name)
        seen.add(name)


def members(body: bytes) -> list[tuple[str, int, int]]:
    """The top-level members of a valid JSON object: key, and where its value starts and ends in `body`."""
    found: list[tuple[str, int, int]] = []
    depth = 0
    name: str | None = None
    key: bytes = b""
    start = 0
    for match in _TOKEN.finditer(body):
        token = match[0]
        mark = token[0]
        if mark in b"{[":
            depth += 1
        elif depth == 1 and mark in b",}":
            if name is not None:
                found.append((name, start, _trimmed_end(body, match.start())))
            name = None
            depth -= mark == 0x7D
        elif mark in b"}]":
            depth -= 1
        elif depth == 1 and name is None:
            if mark == 0x3A:
                name, start = msgspec.json.decode(key, type=str), _skip_space(body, match.end())
            else:
                key = token
    return found


def _skip_space(body: bytes, at: int) -> int:
    while body[at] in b" \t\r\n":
        at += 1
    return at


def _trimmed_end(body: bytes, at: int) -> int:
    while body[at - 1] in b" \t\r\n":
        at -= 1
    return at


def replace_model(body: bytes, model: str) -> bytes:
    """`body` with another top-level `model`; every other byte as it was. `body` has passed `peek`."""
    value = msgspec.json.encode(model)
    match = _plain_model(body)
    if match is not None:
        return body[: match.start(1)] + value + body[match.end(1) :]
    for name, start, end in members(body):
        if name == "model":
            return body[:start] + value + body[end:]
    return body


_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")')


def _plain_model(body: bytes) -> Any:
    """The one `"model"` member when nothing else in the body can be taken for it."""
    return None if _may_repeat(body) else _MODEL.search(body)
