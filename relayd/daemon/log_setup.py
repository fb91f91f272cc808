"""Log setup: the root logger and the access log, as `[log]` wants them; anew at each reload."""

from __future__ import annotations

import logging
from pathlib import Path

from relayd.config.snapshot import Log
from relayd.daemon.access_log import AccessLog
from relayd.daemon.log import Lines, line_form
from relayd.daemon.log_output import Output, Screen


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
    for chatty in ("httpx2", "httpcore2", "hpack"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return output, access


def set_log(settings: Log, output: Output, access: AccessLog) -> None:
    """Go by new settings. The file stays the one that was opened. Sync."""
    root = logging.getLogger()
    form = line_form(settings.format, output.screen)
    lines = next((one for one in root.handlers if isinstance(one, Lines) and one.output is output), None)
    lines = lines or Lines(output, form)
    lines.form, lines.usual = form, _number(settings.level)
    lines.levels = {area: _number(level) for area, level in settings.levels.items()}
    root.handlers[:] = [lines]
    root.setLevel(min(lines.usual, *lines.levels.values(), logging.CRITICAL))
    access.form, access.enabled = form, settings.access


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]
