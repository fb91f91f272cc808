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
from relayd.daemon.log_output import Output

# What must not be read in a log, wherever it came from: keys of relayd and of the API, identities, bearer tokens.
_SECRETS = re.compile(
    r"sk-relay-[0-9A-Za-z]{8,}|sk-ant-[0-9A-Za-z_-]{8,}|rlkey[12][0-9A-Za-z_.-]{8,}|rladm_[0-9A-Za-z]{8,}|rlsec[12]\.[0-9A-Za-z_.~-]{16,}"
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


def render(entry: dict[str, Any], form: str) -> bytes:
    """One line: JSON, or `time LEVEL event name=value ...` for people."""
    if form == "json":
        return msgspec.json.encode(entry, enc_hook=str) + b"\n"
    rest = dict(entry)
    traceback = rest.pop("traceback", "")
    head = f"{rest.pop('time')} {str(rest.pop('level')).upper():7} {rest.pop('event')}"
    words = " ".join(f"{name}={_word(value)}" for name, value in rest.items())
    text = f"{head} {words}".rstrip() + (f"\n{traceback}" if traceback else "")
    return text.encode("utf-8", "backslashreplace") + b"\n"


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
    if usage.total:
        entry["tokens_in"], entry["tokens_out"] = usage.input, usage.output
        entry["cache_write"] = usage.cache_write_5m + usage.cache_write_1h
        entry["cache_read"] = usage.cache_read
    if receipt.cost is not None:
        entry["cost_usd"] = f"{receipt.cost // 1_000_000}.{receipt.cost % 1_000_000:06d}"
    if receipt.unpriced:
        entry["unpriced"] = True
    if len(receipt.attempts) > 1:
        entry["attempts"] = [f"{a.account}: {a.status} {a.reason}" for a in receipt.attempts]
    entry["bytes_in"], entry["bytes_out"] = receipt.bytes_in, receipt.bytes_out
    entry["revision"] = receipt.revision
    return entry


def open_log(settings: Log, path: Path | None = None) -> tuple[Output, AccessLog]:
    """Set up the root logger and the access log.

    Args:
        path: of its file (`paths.log_file`); None for standard error.
    Raises: OSError when the file cannot be opened.
    """
    output = Output(path)
    access = AccessLog(output, settings.format)
    set_log(settings, output, access)
    logging.captureWarnings(True)
    for chatty in ("httpx2", "httpcore2", "hpack", "watchfiles"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return output, access


def set_log(settings: Log, output: Output, access: AccessLog) -> None:
    """Go by new settings. The file stays the one that was opened. Sync."""
    root = logging.getLogger()
    root.handlers[:] = [Lines(output, settings.format)]
    root.setLevel(settings.level.upper())
    access.form, access.enabled = settings.format, settings.access
