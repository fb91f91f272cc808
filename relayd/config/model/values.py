"""Value parsers: what the operator writes for one key, and what it means.

Rule: strict. TOML already has types, so nothing is coerced: "3" is not a number, true is not 1. Every parser takes
whatever TOML gave and returns the value or raises Bad. Places on a network are in addresses.py; which key has which
form is in snapshot.py and types.py.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import re
import zoneinfo
from fnmatch import fnmatchcase
from typing import Any

from relayd.config.alert_events import ALERT_EVENT_NAMES
from relayd.config.pattern import BadPattern, Pattern, operators
from relayd.config.problems.codes import explanations
from relayd.config.problems.leaks import redact
from relayd.config.secrets.password_hash import is_password_hash
from relayd.config.snapshot import NAME, Glob, MicroUsd, ObjectId, Seconds, Size

HIDE = object()  # as the `value` of Bad: there is a value, and it is not shown

# 2**53: the largest integer up to which a double counts exactly. JSON readers and Lua in Redis count in doubles.
LARGEST = 1 << 53


class Bad(Exception):
    """A value that means nothing.

    Args:
        code: the problem's code.
        what: what was expected, or what is wrong.
        value: the offending value, shown after "not"; HIDE or None shows nothing.
        hint: what to do about it.
    """

    def __init__(self, code: str, what: str, value: Any = None, hint: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.value = value
        self.hint = hint

    def message(self) -> str:
        """What is wrong, with the value when it may be shown."""
        if self.value is None or self.value is HIDE:
            return self.what
        return f"{self.what}, not {quote(self.value)}"


def quote(value: Any) -> str:
    """A TOML value for a message: short, on one line, and without anything that looks like a secret."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value) if value.bit_length() <= 200 else "a huge integer"
        case str():
            shown = json.dumps(redact(value[:200]), ensure_ascii=False)
            return shown if len(shown) <= 62 else f'{shown[:60]}..."'
        case list():
            return "an array"
        case dict():
            return "a table"
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
    return str(value)


def text(value: Any) -> str:
    """A string."""
    if type(value) is not str:
        raise Bad("E-TYPE", "expected a string", value)
    return str(value)


def integer(value: Any) -> int:
    """An integer, small enough to be counted exactly everywhere."""
    if type(value) is not int:
        raise Bad("E-TYPE", "expected an integer", value)
    if not -LARGEST <= value <= LARGEST:
        raise Bad("E-RANGE", "expected an integer of at most 2**53", value)
    return value


def boolean(value: Any) -> bool:
    """true or false."""
    if type(value) is not bool:
        raise Bad("E-TYPE", "expected true or false", value)
    return value


def number(value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float):
        raise Bad("E-TYPE", "expected a number", value)
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise Bad("E-RANGE", "expected a finite number", value)
    return float(value)


DURATION = (
    r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9}(?:\.[0-9]{1,3})?)s)?(?:([0-9]{1,9})ms)?"
)
_DURATION_RE = re.compile(DURATION)
_DURATION_UNITS = (86400.0, 3600.0, 60.0, 1.0, 0.001)


def seconds(value: Any) -> Seconds:
    """A duration, "90s", "1h30m", "250ms", in seconds."""
    match = _DURATION_RE.fullmatch(value) if type(value) is str and value else None
    if match is None:
        hint = f'write "{value}s" for seconds' if re.fullmatch(r"[0-9]{1,9}", str(value)[:10]) else ""
        raise Bad("E-DURATION", 'expected a duration such as "90s", "5m" or "1h30m"', value, hint)
    return Seconds(sum(float(part) * unit for part, unit in zip(match.groups(), _DURATION_UNITS, strict=True) if part))


SIZE_RE = re.compile(r"([0-9]{1,15})(B|kB|MB|GB|KiB|MiB|GiB)")
SIZE_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(value: Any) -> Size:
    """A size, "32MiB", "1GB" or a plain integer, in bytes."""
    if type(value) is int:
        return Size(integer(value))
    match = SIZE_RE.fullmatch(value) if type(value) is str else None
    if match is None:
        raise Bad("E-SIZE", 'expected a size such as "32MiB" or "1GB", or an integer of bytes', value)
    return Size(int(match[1]) * SIZE_UNITS[match[2]])


MONEY_RE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


def money(value: Any) -> MicroUsd:
    """An amount of USD, "12.50", in millionths. A string, because a TOML float is not exact."""
    match = MONEY_RE.fullmatch(value) if type(value) is str else None
    if match is None:
        bare = type(value) in (int, float) and math.isfinite(value) and 0 <= value < 1e9
        cents = f"{value:.2f}" if type(value) is float and round(value, 2) == value else str(value)
        hint = f'put it in quotes: "{cents}"' if bare else "digits, with at most 6 after the point"
        raise Bad("E-MONEY", 'expected an amount of USD as a string such as "12.50"', value, hint)
    return MicroUsd(int(match[1]) * 1_000_000 + int((match[2] or "").ljust(6, "0")))


def moment(value: Any) -> datetime.datetime:
    """A date and time with an offset from UTC."""
    if type(value) is not datetime.datetime:
        kind = "a date and time with an offset, such as 2026-11-22T00:00:00Z"
        hint = "without quotes" if type(value) is str else ""
        raise Bad("E-TIME", f"expected {kind}", value, hint)
    if value.tzinfo is None:
        raise Bad("E-TIME", "expected an offset from UTC", value, f"write {value.isoformat()}Z for UTC")
    if not 2000 <= value.year < 9999:
        raise Bad("E-TIME", "expected a year from 2000 on", value)
    return value


_NAME_RE = re.compile(NAME)


def name(value: Any) -> ObjectId:
    """An id: of an account, a key, a group or a client rule."""
    if not _NAME_RE.fullmatch(text(value)):
        raise Bad("E-NAME", "expected a name of a-z, 0-9, _ and -, at most 63, beginning with a letter or digit", value)
    return ObjectId(value)


_GLOB_RE = re.compile(r"[!-~]{1,200}")


def glob(value: Any) -> Glob:
    """A pattern over model ids, with `*` and `?`."""
    if not _GLOB_RE.fullmatch(text(value)):
        raise Bad("E-GLOB", "expected a model id or glob of visible ASCII characters", value)
    if any(char in value for char in "[]{}!\\"):
        raise Bad("E-GLOB", "expected a glob in which only * and ? are special", value, "use a list of globs")
    if value.count("*") > 8:  # each star may cost the matcher one more factor of the name's length
        raise Bad("E-GLOB", "expected a glob with at most 8 stars", value)
    return Glob(value)


def alert_event(value: Any) -> str:
    """A glob that some event of an alert matches."""
    if not re.fullmatch(r"[a-z_.*?]{1,60}", text(value)) or not any(
        fnmatchcase(name, value) for name in ALERT_EVENT_NAMES
    ):
        close = difflib.get_close_matches(str(value), ALERT_EVENT_NAMES, 1)
        hint = f"did you mean {quote(close[0])}?" if close else "docs/alerts.md lists them"
        raise Bad("E-ALERT-EVENT", "expected an alert event or a glob that matches some", value, hint)
    return str(value)


def time_of_day(value: Any) -> str:
    """Hours and minutes, or nothing."""
    if not re.fullmatch(r"(?:(?:[01][0-9]|2[0-3]):[0-5][0-9])?", text(value)):
        raise Bad("E-TIME-OF-DAY", 'expected a time of day such as "08:30"', value)
    return str(value)


def pattern(value: Any) -> Pattern:
    """A regular expression in the syntax of RE2."""
    if not 0 < len(text(value)) <= 500:  # an empty one would fit everybody
        raise Bad("E-REGEX", "expected a regular expression of 1 to 500 characters")
    try:
        return operators(value)
    except BadPattern as error:
        raise Bad("E-REGEX", f"expected a regular expression that RE2 takes ({redact(str(error))})", value) from None


def timezone(value: Any) -> str:
    """An IANA time zone."""
    if text(value) == "UTC":
        return str(value)
    try:
        zoneinfo.ZoneInfo(value)
    except (KeyError, ValueError, OSError):
        hint = "names are as in Europe/Berlin; a system without time zone files needs the package tzdata"
        raise Bad("E-TIMEZONE", "expected an IANA time zone that this machine knows", value, hint) from None
    return str(value)


def window(value: Any) -> str:
    """The length of a limit's window: a duration, or a calendar period."""
    if text(value) in ("day", "week", "month"):
        return str(value)
    try:
        length = seconds(value)
    except Bad:
        raise Bad("E-WINDOW", 'expected a duration, "day", "week" or "month"', value) from None
    if not 1 <= length <= 31 * 86400:
        raise Bad("E-WINDOW", "expected a rolling window of 1s to 31d", value, 'for longer ones use "month"')
    return str(value)


_SHA256_RE = re.compile(r"[0-9a-fA-F]{64}")


def sha256(value: Any) -> str:
    """64 hex digits, made lower-case. A wrong one is not shown: it might be the secret itself."""
    if not _SHA256_RE.fullmatch(text(value)):
        wrong = "other characters" if len(value) == 64 else f"{len(value)} characters"
        raise Bad("E-HASH", f"expected a SHA-256 of 64 hex digits, not {wrong}", HIDE)
    return str(value.lower())


HINT_RE = re.compile(r"(?:[!-~]{1,17})?")


def key_hint(value: Any) -> str:
    """The first characters of a key. A longer text would give the key away, so it is not shown either."""
    if not HINT_RE.fullmatch(text(value)):
        raise Bad("E-HINT", 'expected at most 17 characters such as "sk-relay-AbCd"', HIDE)
    return str(value)


_B64 = r"[A-Za-z0-9_-]"
_SEALED = rf"rlsec[12]\.{_B64}{{8}}(?:\.{_B64}{{8}}~{_B64}{{64,4000}}){{1,16}}\.{_B64}{{20,}}\.{_B64}{{6}}"
_SEALED_RE = re.compile(_SEALED)


def sealed(value: Any) -> str:
    """A sealed value, by its grammar alone; whether it fits its place is for config/secrets/seal.py. "" for none."""
    if type(value) is not str:
        raise Bad("E-TYPE", "expected a sealed value as a string", HIDE)
    if value.startswith(("rlsec1.", "rlsec2.")) and not _SEALED_RE.fullmatch(value):
        raise Bad("E-SEAL-FORMAT", "the sealed value is damaged (cut or edited?)", HIDE, "seal the secret again")
    if value and not value.startswith(("rlsec1.", "rlsec2.")):
        what = "expected a sealed value that begins with rlsec1. or rlsec2., not a secret in clear"
        raise Bad("E-PLAINTEXT-SECRET", what, HIDE, "seal it; if it was a real secret, replace it at its issuer")
    return str(value)


def scrypt(value: Any) -> str:
    """A password's hash. Anything else might be the password, so it is not shown."""
    if type(value) is not str or not is_password_hash(value):
        what = "expected a scrypt hash that begins with scrypt$"
        raise Bad("E-PLAINTEXT-SECRET", what, HIDE, "make one: relayd secret password NAME")
    return str(value)


def warning_code(value: Any) -> str:
    """The code of a warning, which there is."""
    code = text(value)
    if code.startswith("W-") and code in explanations():
        return code
    close = difflib.get_close_matches(code.upper(), [one for one in explanations() if one.startswith("W-")], 1)
    hint = "an error cannot be allowed, a note need not be" if code in explanations() else ""
    raise Bad("E-CHOICE", "expected the code of a warning", code, f"did you mean {close[0]}?" if close else hint)


_RECIPIENT_RE = re.compile(rf"rlpub[12]\.{_B64}{{40,4000}}\.{_B64}{{6}}")


def recipient(value: Any) -> str:
    """A recipient's public key."""
    if text(value).startswith("rlkey"):
        raise Bad(
            "E-PLAINTEXT-SECRET", "this is the private half of an identity", HIDE, "the public half begins with rlpub"
        )
    if not _RECIPIENT_RE.fullmatch(value):
        what = "expected a whole public key that begins with rlpub1. or rlpub2."
        raise Bad("E-RECIPIENT", what, value)
    return str(value)


def path(value: Any) -> str:
    """A node-local file with a secret: its name in the node's directories for such files, or its path; "" for none."""
    parts = text(value).removeprefix("/").split("/")
    if value and (not value.isprintable() or len(value) > 1000 or {"", ".", ".."}.intersection(parts)):
        what = "expected the name of a file, or an absolute path, without . and .."
        raise Bad("E-PATH", what, value, "a file of the node, outside the tree")
    return str(value)


_HEADER_RE = re.compile(r"[A-Za-z0-9-]{1,100}", re.ASCII)
_EMAIL_RE = re.compile(r"[^\s@<>\0]{1,100}@[^\s@<>\0]{1,200}")


def header_or_none(value: Any) -> str:
    """The name of a header, or ""."""
    name = text(value)
    if name and _HEADER_RE.fullmatch(name) is None:
        raise Bad("E-HEADER", "expected the name of a header: letters, digits and -", value)
    return name


def email_or_none(value: Any) -> str:
    """An e-mail address, or ""."""
    address = text(value)
    if address and (_EMAIL_RE.fullmatch(address) is None or not address.isprintable()):
        raise Bad("E-EMAIL", "expected an e-mail address: name@host", value)
    return address
