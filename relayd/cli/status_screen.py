"""The live table of `relayd status --watch`: what is wrong, the nodes, and each account, on a terminal.

Rule: nothing is written past the last line or column of the terminal, whatever its size; those accounts that do not
serve come first, so that what is cut off is well. The terminal is left as it was found.
Source: ECMA-48; xterm's control sequences (1049, 25); signal(7), SIGWINCH.
"""

from __future__ import annotations

import datetime
import os
import select
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from relayd.cli.control_client import DaemonRefused, NoDaemon
from relayd.cli.output import clipped, counted, number, read_moment, span, table_lines

Style = str  # parameters of SGR
PLAIN, BOLD, DIM, RED, GREEN = "", "1", "2", "31;1", "32"
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def watch(look: Callable[[], dict[str, Any]], every: float) -> int:
    """Look and draw until Ctrl-C.

    Args:
        look: asks the daemon. Raises: NoDaemon, DaemonRefused.
        every: s between two looks.
    Raises: KeyboardInterrupt.
    """
    colours = not os.environ.get("NO_COLOR")
    with _screen() as changed:
        while True:
            try:
                lines = list(drawn(look()))
            except (NoDaemon, DaemonRefused) as error:
                lines = [(f"relayd status: {error}", RED)]
            _draw(lines, colours)
            while changed(every):  # the terminal has another size: the same once more
                _draw(lines, colours)


@contextmanager
def _screen() -> Iterator[Callable[[float], bool]]:
    """The terminal's other screen. Given: waits for so many s, or until the size has changed, which it tells."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    before = signal.signal(signal.SIGWINCH, lambda number, frame: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def changed(seconds: float) -> bool:
        ready = bool(select.select([woken], [], [], seconds)[0])
        return ready and bool(os.read(woken, 4096))

    sys.stdout.write(_ENTER)
    try:
        yield changed
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGWINCH, before)
        os.close(woken)
        os.close(wake)
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def _draw(lines: list[tuple[str, Style]], colours: bool) -> None:
    columns, rows = shutil.get_terminal_size()
    sys.stdout.write(frame(lines, columns, rows, colours))
    sys.stdout.flush()


def frame(lines: list[tuple[str, Style]], columns: int, rows: int, colours: bool) -> str:
    """What draws the lines on a screen of that size. Pure.

    The last column stays empty: where a terminal waits to wrap, clearing the rest of a line takes its last letter.
    """
    if len(lines) > rows:
        lines = [*lines[: rows - 1], (f"and {counted(len(lines) - rows + 1, 'line')} more", DIM)]
    texts = [(clipped(text, columns - 1), style if colours else PLAIN) for text, style in lines]
    painted = [f"\x1b[{style}m{text}\x1b[0m" if style else text for text, style in texts]
    return "\x1b[H" + "\n".join(f"{text}\x1b[K" for text in painted) + "\x1b[J"


def drawn(status: dict[str, Any]) -> Iterator[tuple[str, Style]]:
    """A status document as lines. Pure."""
    now, running = read_moment(status["now"]), status["running"]
    well = "DRAINING" if status["draining"] else "well" if status["well"] else "NOT WELL"
    yield f"relayd {status['version']}  {status['node']}  realm {status['realm']}  {well}", BOLD
    up = span((now - read_moment(status["started"])).total_seconds())
    calls, open_ = counted(status["calls"], "call"), counted(status["connections"]["open"], "connection")
    yield f"up {up}  generation {running['generation']}  {calls} in flight  {open_}  {status['now']}", PLAIN
    yield from ((f"! {ailment}", RED) for ailment in status["ailments"])
    yield from _nodes(status, now)
    yield from _accounts(status["accounts"])


def _nodes(status: dict[str, Any], now: datetime.datetime) -> Iterator[tuple[str, Style]]:
    """Nothing for a node that is alone."""
    if len(status["nodes"]) < 2:
        return
    behind = {one["life"] for one in status["drift"]["behind"]} if status["drift"] else set()
    rows = [
        (
            node["node"] + (" (this)" if node["this"] else ""),
            "draining" if node["draining"] else "behind" if node["life"] in behind else node["result"],
            node["digest"][:12],
            node["commit"][:12],
            node["version"],
        )
        for node in status["nodes"]
    ]
    head, *lines = table_lines(("NODE", "STATE", "TREE", "COMMIT", "VERSION"), rows)
    yield "", PLAIN
    yield head, DIM
    for line, node in zip(lines, status["nodes"], strict=True):
        yield line, RED if node["life"] in behind else PLAIN


def _accounts(accounts: list[dict[str, Any]]) -> Iterator[tuple[str, Style]]:
    ordered = sorted(accounts, key=lambda row: (row["serves"], -row["in_flight"]))  # those that do not serve first
    rows = [
        (row["id"], row["kind"], "serves" if row["serves"] else "rests", number(row["in_flight"]), row["reason"])
        for row in ordered
    ]
    head, *lines = table_lines(("ACCOUNT", "KIND", "STATE", "CALLS", "WHY"), rows, figures={"CALLS"})
    yield "", PLAIN
    yield head, DIM
    for line, row in zip(lines, ordered, strict=True):
        yield line, GREEN if row["serves"] else RED
