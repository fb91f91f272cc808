"""Logging: one JSON object (or text line) per event, made of log records.

Rule: no prompt, no credential, no API key. Everything goes through `scrub`, so that even a traceback that quotes a
header shows no secret. docs/logs.md has every event and field; the line of a call is access_log.py's.
"""

from __future__ import annotations

import datetime
import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import msgspec

from relayd.daemon.log_output import Output, Screen
from relayd.daemon.log_repetition import WINDOW, Repetition

log = logging.getLogger("relayd")

# The id of the call that a task serves, for lines that are written meanwhile; "" between calls.
current_call: ContextVar[str] = ContextVar("current_call", default="")

# What must not be read in a log, wherever it came from: keys of relayd and of the API, identities, bearer tokens.
_SECRETS = re.compile(
    r"sk-relay-[0-9A-Za-z]{8,}|\b(?:cr_|sk-)[0-9A-Za-z_-]{20,}|sk-ant-[0-9A-Za-z_-]{8,}|rlkey[12][0-9A-Za-z_.-]{8,}|rladm_[0-9A-Za-z]{8,}|rlsec[12]\.[0-9A-Za-z_.~-]{16,}"
    r"|(?i:bearer\s+)[0-9A-Za-z._~+/=-]{12,}|(?i:sessionkey=)[^\s;,\"']+|://[^/\s:@]+:[^/\s@]+@"
)


def scrub(text: str) -> str:
    """`text` with everything that looks like a secret blotted out."""
    return _SECRETS.sub("[secret]", text)


def tell_refused(address: str, what: str, reason: str) -> None:
    """Somebody was not let in: a line whose form stays, for programs that count them by address (fail2ban).

    Args:
        what: "key", "token" or "sign-in".
    """
    log.warning("access.refused", extra={"from": address, "what": what, "reason": reason})


_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _ATTRIBUTES}


def stamp(seconds: float) -> str:
    """A Unix time (s) as lines have it: RFC 3339, UTC, with ms."""
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return datetime.datetime.fromtimestamp(whole, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _start_timer(seconds: float, then: Callable[[], None]) -> None:
    timer = threading.Timer(seconds, then)
    timer.daemon = True
    timer.start()


class Lines(logging.Handler):
    """The handler of the root logger: records to lines.

    Args:
        levels: numbers of levels by area, for areas that have one of their own.
        later: has something called after so many s, on any thread.
    """

    def __init__(
        self,
        output: Output,
        form: str,
        *,
        later: Callable[[float, Callable[[], None]], None] = _start_timer,
    ) -> None:
        super().__init__()
        self.output = output
        self.form = form
        self.usual = logging.NOTSET
        self.levels: Mapping[str, int] = {}
        self._repetition = Repetition()
        self._later = later

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
            if record.levelno < self.levels.get(area_of(record.name, event), self.usual):
                return
            waited = self._repetition.waiting
            if self._repetition.admit(event, record):
                self.output.write(self._line(record))
            elif not waited:
                self._later(WINDOW, self.flush)
        except Exception:  # a log line must never break what it reports on
            self.output.count_lost()

    def flush(self) -> None:
        """Say now what was left out."""
        with self.lock or threading.RLock():
            for record in self._repetition.tell():
                self.output.write(self._line(record))

    def _line(self, record: logging.LogRecord) -> bytes:
        entry: dict[str, Any] = {
            "time": stamp(record.created),
            "level": record.levelname.lower(),
            "event": scrub(record.getMessage()),
            **{name: clean(value) for name, value in _fields(record).items()},
        }
        if "call" not in entry and (call := current_call.get()):
            entry["call"] = call
        if record.exc_info:
            entry["traceback"] = scrub(logging.Formatter().formatException(record.exc_info))
        return render(entry, self.form)


def area_of(logger: str, event: str) -> str:
    """The area of an event, the word before its dot; of what other packages say, their logger's first word."""
    name = event if logger.startswith("relayd") else logger
    return name.partition(".")[0]


def clean(value: Any) -> Any:
    """`scrub`, also within lists and tables, with all that is no JSON as text."""
    match value:
        case str():
            return scrub(value)
        case list() | tuple():
            return [clean(item) for item in value]
        case dict():
            return {name: clean(item) for name, item in value.items()}
        case None | bool() | int() | float():
            return value
    return scrub(str(value))  # as the encoder would write it: a path, an exception, a noun


_COLOURS = {"debug": "2", "info": "32", "warning": "33;1", "error": "31;1", "critical": "31;1"}


def line_form(wanted: str, screen: Screen) -> str:
    """How lines are written: "json", "text" or "colour". `wanted`: [log].format."""
    if wanted == "json" or (wanted == "auto" and screen == "none"):
        return "json"
    return "colour" if screen == "colour" else "text"


def render(entry: dict[str, Any], form: str) -> bytes:
    """One line: JSON, or `time LEVEL event name=value ...` for people, maybe in colour (ECMA-48, SGR)."""
    if form == "json":
        return msgspec.json.encode(entry, enc_hook=str) + b"\n"
    rest = dict(entry)
    traceback = rest.pop("traceback", "")
    paint = _painted if form == "colour" else _plain
    level = str(rest.pop("level"))
    head = " ".join(
        (
            paint(rest.pop("time"), "2"),
            paint(f"{level.upper():7}", _COLOURS.get(level, "1")),
            paint(rest.pop("event"), "1"),
        )
    )
    words = " ".join(f"{paint(f'{name}=', '2')}{_word(value)}" for name, value in rest.items())
    text = f"{head} {words}".rstrip() + (f"\n{traceback}" if traceback else "")
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(text: str, colour: str) -> str:
    return text


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"


def _word(value: object) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return text if text and text.isprintable() and " " not in text and '"' not in text else repr(text)


def flush_log() -> None:
    """Have everything said that was kept back."""
    for handler in logging.getLogger().handlers:
        handler.flush()
