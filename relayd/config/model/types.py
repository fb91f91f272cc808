"""Types of values: for each type and `form` of snapshot.py its parser and its JSON Schema, side by side.

Rule: the schema of a value is never stricter than its parser, so that an editor marks nothing which relayd accepts.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from typing import Any, NewType

from relayd.config.model import addresses, values
from relayd.config.pattern import Pattern
from relayd.config.snapshot import NAME, Glob, MicroUsd, Network, ObjectId, Proxy, Seconds, Size, Url
from relayd.noun import noun


@noun(kw_only=True)
class Scalar:
    """A kind of value: its parser (raises Bad) and its JSON Schema."""

    parse: Callable[[Any], Any]
    schema: Mapping[str, Any]


def _string(regex: str = "", **more: Any) -> dict[str, Any]:
    return {"type": "string", **({"pattern": f"^(?:{regex})$"} if regex else {}), **more}


SCALARS: dict[Any, Scalar] = {
    str: Scalar(parse=values.text, schema=_string()),
    int: Scalar(parse=values.integer, schema={"type": "integer"}),
    bool: Scalar(parse=values.boolean, schema={"type": "boolean"}),
    float: Scalar(parse=values.number, schema={"type": "number"}),
    datetime.datetime: Scalar(parse=values.moment, schema=_string(format="date-time")),
    Seconds: Scalar(
        parse=values.seconds, schema=_string(values.DURATION.replace("(", "(?:").replace("(?:?:", "(?:"), minLength=1)
    ),
    Size: Scalar(
        parse=values.size, schema={"oneOf": [_string(values.SIZE_RE.pattern), {"type": "integer", "minimum": 0}]}
    ),
    MicroUsd: Scalar(parse=values.money, schema=_string(values.MONEY_RE.pattern)),
    ObjectId: Scalar(parse=values.name, schema=_string(NAME)),
    Glob: Scalar(parse=values.glob, schema=_string(r"[!-~]{1,200}")),
    Pattern: Scalar(parse=values.pattern, schema=_string(format="regex", maxLength=500)),
    Network: Scalar(parse=addresses.network, schema=_string(r"[0-9a-fA-F:.]+(?:/[0-9]{1,3})?")),
    Url: Scalar(parse=addresses.url, schema=_string(r"https?://[^\s?#@]+")),
    Proxy: Scalar(parse=addresses.proxy, schema=_string(r"(?:(?:https?|socks5)://[^\s]+)?")),
}

# The forms that snapshot.py names in `form`. Each is a NewType of its own, so that the converter tells them apart.
_FORMS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "address": (addresses.address, _string(r"unix:/.+|.+:[0-9]{1,5}")),
    "address-or-off": (addresses.address_or_off, _string(r"(?:unix:/.+|.+:[0-9]{1,5})?")),
    "origin": (addresses.origin, _string(r"https?://[^/?#A-Z]+")),
    "origin-or-any": (addresses.origin_or_any, _string(r"\*|https?://[^/?#A-Z]+")),
    "state-url": (addresses.state_url, _string(r"sqlite:.+|rediss?(?:\+sentinel|\+cluster)?://.+")),
    "timezone": (values.timezone, _string(r"[A-Za-z0-9_+/-]+")),
    "name": (values.name, _string(NAME)),
    "window": (values.window, _string(r"day|week|month|(?:[0-9.]+(?:ms|s|m|h|d))+")),
    "sha256": (values.sha256, _string(r"[0-9a-fA-F]{64}")),
    "hint": (values.key_hint, _string(values.HINT_RE.pattern)),
    "sealed": (values.sealed, _string(r"(?:rlsec[12]\..+)?")),
    "scrypt": (values.scrypt, _string(r"\$?scrypt\$.+")),
    "recipient": (values.recipient, _string(r"rlpub[12]\..+")),
    "host": (addresses.host_name, _string(r"[0-9a-z.-]+")),
    "header": (values.header_or_none, _string(r"[A-Za-z0-9-]*")),
    "email": (values.email_or_none, _string(r"(?:[^\s@<>]+@[^\s@<>]+)?")),
    "alert-event": (values.alert_event, _string(r"[a-z_.*?]{1,60}")),
    "time-of-day": (values.time_of_day, _string(r"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9])?")),
    "warning-code": (values.warning_code, _string(r"W-[A-Z0-9-]+")),
    "path": (values.path, _string(r"(?:/?[^/]+(?:/[^/]+)*)?")),
}
FORMS: dict[str, Any] = {form: NewType(form, str) for form in _FORMS}
SCALARS.update({FORMS[form]: Scalar(parse=parse, schema=schema) for form, (parse, schema) in _FORMS.items()})


def write(kind: Any, value: Any) -> Any:
    """A compiled value as it is written in TOML (or JSON): the inverse of the parsers, for defaults and bounds."""
    if kind is Seconds:
        return write_seconds(value)
    if kind is MicroUsd:
        whole, part = divmod(value, 1_000_000)
        return f"{whole}.{part:06}".rstrip("0").rstrip(".") if part else str(whole)
    if kind is Size:
        unit = next((unit for unit in ("GiB", "MiB", "KiB") if value and value % values.SIZE_UNITS[unit] == 0), "")
        return f"{value // values.SIZE_UNITS[unit]}{unit}" if unit else value
    return value.pattern if isinstance(value, Pattern) else value


def write_seconds(value: float) -> str:
    """A duration in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if value and value % length == 0:
            return f"{int(value // length)}{unit}"
    return f"{round(value * 1000)}ms" if value else "0s"
