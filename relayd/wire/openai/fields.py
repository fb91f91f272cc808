"""Reading an OpenAI request body: typed access to fields, with refusals that name the field.

Rule: whatever JSON a client sends, the outcome is a value or a Refusal (400); `null` means absent, as OpenAI has it.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import msgspec

from relayd.wire.refusal import Refusal

Json = dict[str, Any]


def refuse_field(param: str, message: str, code: str = "invalid_value") -> NoReturn:
    """Raises: Refusal (400) that names the field, in OpenAI's manner."""
    raise Refusal(status=400, message=f"{param}: {message}", param=param, code=code)


def unsupported(param: str, message: str) -> NoReturn:
    """Raises: Refusal (400) for what exists at OpenAI and would be a lie to ignore."""
    refuse_field(param, message, "unsupported_parameter")


def decode_object(body: bytes) -> Json:
    """The body's JSON object. Raises: Refusal (400)."""
    try:
        fields = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise _bad_body(f"is not valid UTF-8 (byte {error.start})") from None
    except msgspec.MsgspecError as error:
        raise _bad_body(f"is not valid JSON: {error}") from None
    except RecursionError:
        raise _bad_body("is nested too deeply") from None
    if not isinstance(fields, dict):
        raise _bad_body("must be a JSON object")
    return fields


def _bad_body(what: str) -> Refusal:
    return Refusal(status=400, message=f"the request body {what}", code="invalid_json")


def an_object(value: object, param: str) -> Json:
    """`value`, which must be an object."""
    if isinstance(value, dict):
        return value
    refuse_field(param, f"expected an object, got {named(value)}", "invalid_type")


def a_list(value: object, param: str) -> list[Any]:
    """`value`, which must be an array."""
    if isinstance(value, list):
        return value
    refuse_field(param, f"expected an array, got {named(value)}", "invalid_type")


def a_text(value: object, param: str) -> str:
    """`value`, which must be a string."""
    if isinstance(value, str):
        return value
    refuse_field(param, f"expected a string, got {named(value)}", "invalid_type")


def a_name(value: object, param: str) -> str:
    """`value`, which must be a string that says something."""
    if value is None:
        refuse_field(param, "is required", "missing_required_parameter")
    text = a_text(value, param)
    if not text:
        refuse_field(param, "must not be empty")
    return text


def a_flag(fields: Json, name: str, default: bool = False) -> bool:
    """A boolean field."""
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    refuse_field(name, f"expected a boolean, got {named(value)}", "invalid_type")


def a_number(fields: Json, name: str, low: float, high: float) -> float | None:
    """A number field within bounds, inclusive."""
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        refuse_field(name, f"expected a number, got {named(value)}", "invalid_type")
    if not low <= value <= high:
        refuse_field(name, f"must be between {low:g} and {high:g}")
    return value


def a_count(fields: Json, name: str) -> int | None:
    """A whole number of at least 1; 4096.0 counts as one, since some clients have only floats."""
    value = a_number(fields, name, 1, 2**31)
    if value is None:
        return None
    if value != int(value):
        refuse_field(name, "expected a whole number", "invalid_type")
    return int(value)


def a_cap(fields: Json, name: str) -> int | None:
    """A cap of at least 1. 0 and -1 are what many clients send for none."""
    return None if fields.get(name) in (0, -1) and fields[name] is not False else a_count(fields, name)


def a_choice(value: object, param: str, allowed: tuple[str, ...]) -> str:
    """`value`, which must be one of `allowed`."""
    if isinstance(value, str) and value in allowed:
        return value
    refuse_field(param, f"expected one of {', '.join(allowed)}, got {shown(value)}")


def named(value: object) -> str:
    """The JSON type of `value`."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


def shown(value: object) -> str:
    """`value` for an error text, when it is short enough to be a word and not a prompt."""
    return repr(value) if isinstance(value, str) and len(value) <= 40 else named(value)


_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,39}")


def header_words(names: list[str]) -> tuple[str, ...]:
    """Names as `relayd-ignored` may carry them: each once, plain words only, at most 32."""
    return tuple(name for name in dict.fromkeys(names) if _WORD.fullmatch(name))[:32]
