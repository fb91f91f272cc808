"""Faults on demand: the settings that hold for one call.

Rule: the Simulator noun is the only list of settings. Each of its fields can be given for one call by a header,
`x-simulate-` and the field's name, and by an option of `relayd simulate`; both are read here, by the field's type.

Theory: a fault of the settings hits every n-th call; a fault asked for by a header hits that call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_type_hints

import attrs

from relayd.config.snapshot import Seconds, Simulator
from relayd.simulator.script import Ending, Script, Step, kind_of, whole
from relayd.wire.http import Headers
from relayd.wire.refusal import Refusal

PREFIX = b"x-simulate-"
FIELDS = attrs.fields_dict(Simulator)
TYPES = get_type_hints(Simulator)
FAULTS = ("status", "error_type", "retry_after", "drop", "cut_after", "error_after", "bad_framing")
NO_FAULT: dict[str, Any] = {name: FIELDS[name].default for name in FAULTS}

# Where the framing breaks when cut_after does not say: after message_start, content_block_start and one more event.
BAD_FRAMING_AFTER = 3

DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+)ms)?", re.ASCII)
NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
WHOLE = re.compile(r"-?\d{1,9}", re.ASCII)
KIND = re.compile(r"[a-z_]{0,64}", re.ASCII)
BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_setting(name: str, text: str) -> Any:
    """The value of the Simulator field `name`, written as `text`.

    Durations are seconds ("0.5") or of the config's form ("500ms", "1m30s").

    Raises: ValueError, with what is expected, on a text that is not such a value or is out of the field's bounds.
    """
    wanted = TYPES[name]
    if wanted is bool:
        return _read_bool(text)
    if wanted is str:
        return _read_kind(text)
    number = _read_seconds(text) if wanted is Seconds else _read_int(text)
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    if low is not None and number < low:
        raise ValueError(f"at least {low:g} is expected")
    if high is not None and number > high:
        raise ValueError(f"at most {high:g} is expected")
    return number


def _read_bool(text: str) -> bool:
    if text.lower() not in BOOLEANS:
        raise ValueError("true or false is expected")
    return BOOLEANS[text.lower()]


def _read_kind(text: str) -> str:
    if not KIND.fullmatch(text):
        raise ValueError('lower-case letters and "_" are expected')
    return text


def _read_int(text: str) -> int:
    if not WHOLE.fullmatch(text):
        raise ValueError("a whole number is expected")
    return int(text)


def _read_seconds(text: str) -> float:
    if NUMBER.fullmatch(text):
        return float(text)
    match = DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError('seconds are expected, such as "0.5", "500ms" or "1m30s"')
    hours, minutes, seconds, milliseconds = (float(group or 0) for group in match.groups())
    return math.fsum((hours * 3600, minutes * 60, seconds, milliseconds / 1000))


def settings_for(settings: Simulator, headers: Headers, call_number: int) -> Simulator:
    """What holds for this call: the settings, their faults if it is their turn, and what its headers ask for.

    Raises: Refusal (400) naming a header that has a bad value.
    """
    asked: dict[str, Any] = {}
    for header, value in headers:
        if header.startswith(PREFIX):
            name = header[len(PREFIX) :].decode("latin-1").replace("-", "_")
            asked[name] = _read_header(header, name, value)
    if settings.every > 1 and call_number % settings.every:
        settings = attrs.evolve(settings, **NO_FAULT)
    return attrs.evolve(settings, **asked) if asked else settings


def _read_header(header: bytes, name: str, value: bytes) -> Any:
    shown = header.decode("latin-1")
    if name not in FIELDS or name == "every":
        known = ", ".join("x-simulate-" + field.replace("_", "-") for field in FIELDS if field != "every")
        raise Refusal(status=400, message=f"{shown}: no such setting of the simulator (there are {known})")
    text = value.decode("latin-1")
    try:
        return read_setting(name, text)
    except ValueError as error:
        raise Refusal(status=400, message=f"{shown}: {text[:40]!r} is not usable: {error}") from None


def forced_answer(settings: Simulator) -> Refusal | None:
    """The error that `status` asks for, or None when it asks for none."""
    if settings.status < 400:
        return None
    message = "Overloaded" if settings.status == 529 else f"Simulated {settings.error_type or kind_of(settings.status)}"
    return Refusal(status=settings.status, message=message, retry_after=settings.retry_after or None)


def restyled(settings: Simulator, script: Script) -> Script:
    """`script` with a status that is neither 200 nor an error: a redirect points nowhere and has no body."""
    status = settings.status
    if status == 200 or status >= 400 or script.status != 200:
        return script
    headers = [pair for pair in script.headers if pair[0] != b"content-type"]
    if status >= 300:
        headers.append((b"location", b"https://elsewhere.invalid/v1/messages"))
    if status >= 300 or status in (204, 205):  # no content: RFC 9110 sections 15.3.5 and 15.3.6
        return whole(status, headers, b"")
    return attrs.evolve(script, status=status)


def breakage(settings: Simulator, script: Script, error: bytes) -> Script:
    """`script`, broken off where the settings say. `error` is the error event for `error_after`.

    A body that is not a stream counts as one event of two halves: any `cut_after` cuts it in the middle.
    """
    if settings.drop:
        return attrs.evolve(script, steps=(), end="drop")
    limit = settings.cut_after
    if settings.bad_framing and limit < 0:
        limit = BAD_FRAMING_AFTER
    if script.length is not None:
        return script if limit < 0 else _halved(script, settings)
    if settings.error_after >= 0 and not 0 <= limit <= settings.error_after:
        return attrs.evolve(script, steps=_then(script.steps, settings.error_after, (settings.between, error)))
    if limit >= 0:
        return attrs.evolve(script, steps=_then(script.steps, limit, None), end=_ending(settings))
    return script


def _ending(settings: Simulator) -> Ending:
    return "bad-framing" if settings.bad_framing else "cut"


def _halved(script: Script, settings: Simulator) -> Script:
    body = b"".join(piece for _, piece in script.steps)
    return attrs.evolve(script, steps=((0.0, body[: len(body) // 2]),), end=_ending(settings))


def _then(steps: Iterable[Step], count: int, last: Step | None) -> Iterator[Step]:
    """The first `count` steps and then `last`. A stream shorter than that ends with `last` as well."""
    for number, step in enumerate(steps):
        if number == count:
            break
        yield step
    if last is not None:
        yield last
