"""Logging: one JSON object (or text line) per event, made of log records and receipts.

Rule: no prompt, no credential, no API key. Call records are made from Receipts, which hold none; everything else goes
through `scrub`, so that even a traceback that quotes a header shows no secret.
"""

from __future__ import annotations

import datetime
import logging
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import msgspec

from relayd.config.snapshot import Log
from relayd.core.receipt import Receipt
from relayd.daemon.log_output import Output, Screen

# What must not be read in a log, wherever it came from: keys of relayd and of the API, identities, bearer tokens.
_SECRETS = re.compile(
    r"sk-relay-[0-9A-Za-z]{8,}|\b(?:cr_|sk-)[0-9A-Za-z_-]{20,}|sk-ant-[0-9A-Za-z_-]{8,}|rlkey[12][0-9A-Za-z_.-]{8,}|rladm_[0-9A-Za-z]{8,}|rlsec[12]\.[0-9A-Za-z_.~-]{16,}"
    r"|(?i:bearer\s+)[0-9A-Za-z._~+/=-]{12,}|(?i:sessionkey=)[^\s;,\"']+|://[^/\s:@]+:[^/\s@]+@"
)


def scrub(text: str) -> str:
    """`text` with everything that looks like a secret blotted out."""
    return _SECRETS.sub("[secret]", text)


_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _ATTRIBUTES}


def _stamp(seconds: float) -> str:
    whole = int(seconds)
    return f"{_second(whole)}.{int((seconds - whole) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(whole: int) -> str:
    return datetime.datetime.fromtimestamp(whole, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Lines(logging.Handler):
    """The handler of the root logger: records to lines."""

    def __init__(self, output: Output, form: str) -> None:
        super().__init__()
        self.output = output
        self.form = form

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.output.write(self._line(record))
        except Exception:  # a log line must never break what it reports on
            self.output.count_lost()

    def _line(self, record: logging.LogRecord) -> bytes:
        entry: dict[str, Any] = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "event": scrub(record.getMessage()),
            **{name: _clean(value) for name, value in _fields(record).items()},
        }
        if record.exc_info:
            entry["traceback"] = scrub(logging.Formatter().formatException(record.exc_info))
        return render(entry, self.form)


def _clean(value: Any) -> Any:
    """`scrub`, also within lists and tables."""
    match value:
        case str():
            return scrub(value)
        case list() | tuple():
            return [_clean(item) for item in value]
        case dict():
            return {name: _clean(item) for name, item in value.items()}
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


@attrs.define(eq=False)
class AccessLog:
    """One line a call, straight from the Receipt (stdlib logging would cost more than the line itself)."""

    output: Output
    form: str
    enabled: bool = True

    def record(self, receipt: Receipt) -> None:
        """Write the line of one call."""
        if self.enabled:
            self.output.write(render(call_fields(receipt), self.form))


@lru_cache(maxsize=1024)
def _parties(*names: str) -> dict[str, str]:
    """Who and what a call was about, as its line has it: much the same for call after call. Not to be changed."""
    found = dict(
        zip(("dialect", "key", "owner", "client", "peer", "account", "model", "sent_model"), names, strict=True)
    )
    if found["sent_model"] == found["model"]:
        found["sent_model"] = ""
    for name in ("model", "sent_model"):  # of clients, which may say anything
        found[name] = scrub(found[name])
    return {name: value for name, value in found.items() if value}


def call_fields(receipt: Receipt) -> dict[str, Any]:
    """A receipt as flat fields; what is empty is left out."""
    usage = receipt.usage
    entry: dict[str, Any] = {
        "time": _stamp(receipt.started),
        "level": "info",
        "event": "call.done",
        "id": receipt.call_id,
        "status": receipt.status,
        "outcome": receipt.outcome,
        "method": receipt.method,
        "path": receipt.path,  # one of the known paths
        "ms": round(receipt.seconds * 1000, 2),
    }
    if receipt.first_byte is not None:
        entry["first_byte_ms"] = round(receipt.first_byte * 1000, 2)
    r = receipt
    entry.update(_parties(r.dialect, r.key, r.owner, r.client, r.peer, r.account, r.model, r.sent_model))
    if receipt.upstream_request_id:
        entry["upstream_request_id"] = scrub(receipt.upstream_request_id)
    if receipt.reason:
        entry["reason"] = scrub(receipt.reason)
    if receipt.stream:
        entry["stream"] = True
    if receipt.max_tokens is not None:
        entry["max_tokens"] = receipt.max_tokens
    if usage.total:
        entry["tokens_in"], entry["tokens_out"] = usage.input, usage.output
        entry["cache_write"] = usage.cache_write_5m + usage.cache_write_1h
        entry["cache_read"] = usage.cache_read
        entry |= _priced_otherwise(receipt)
    if receipt.cost is not None:
        entry["cost_usd"] = f"{receipt.cost // 1_000_000}.{receipt.cost % 1_000_000:06d}"
    if receipt.unpriced:
        entry["unpriced"] = True
    if len(receipt.attempts) > 1:
        entry["attempts"] = [f"{a.account}: {a.status} {a.reason}" for a in receipt.attempts]
    entry["bytes_in"], entry["bytes_out"] = receipt.bytes_in, receipt.bytes_out
    entry["revision"] = receipt.revision
    return entry


def _priced_otherwise(receipt: Receipt) -> dict[str, Any]:
    """What else of a call has a say in its cost, where it is not as usual: `relayd test --replay` adds it up again."""
    usage = receipt.usage
    found: dict[str, Any] = {}
    if usage.cache_write_1h:
        found["cache_write_1h"] = usage.cache_write_1h
    if usage.web_searches:
        found["web_searches"] = usage.web_searches
    if usage.model and usage.model != (receipt.sent_model or receipt.model):
        found["answered"] = scrub(usage.model)
    if usage.parts:
        found["parts"] = len(usage.parts)
    if usage.free:
        found["free"] = True
    return found | {name: special for name, special in _SPECIAL if getattr(usage, name) == special}


_SPECIAL = (("service_tier", "batch"), ("inference_geo", "us"), ("speed", "fast"))


def open_log(settings: Log, path: Path | None = None, screen: Screen = "none") -> tuple[Output, AccessLog]:
    """Set up the root logger and the access log.

    Args:
        path: of its file (`paths.log_file`); None for standard error.
        screen: what standard error is.
    Raises: OSError when the file cannot be opened.
    """
    output = Output(path, "none" if path else screen)
    access = AccessLog(output, line_form(settings.format, output.screen))
    set_log(settings, output, access)
    logging.captureWarnings(True)
    for chatty in ("httpx2", "httpcore2", "hpack", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return output, access


def set_log(settings: Log, output: Output, access: AccessLog) -> None:
    """Go by new settings. The file stays the one that was opened. Sync."""
    root = logging.getLogger()
    form = line_form(settings.format, output.screen)
    root.handlers[:] = [Lines(output, form)]
    root.setLevel(settings.level.upper())
    access.form, access.enabled = form, settings.access
