"""`relayd status --watch` on a terminal, which changes its size, and whose daemon changes its mind."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from daemon import PATIENCE, SIMULATOR, Daemon, running, write_tree
from waiting import wait_until

from relayd.cli.status_screen import BOLD, PLAIN, RED, frame

ENTERED, LEFT = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


@attrs.define(eq=False)
class Terminal:
    """A terminal with a program in it. `said`: all that it has written."""

    master: int
    process: subprocess.Popen[bytes]
    said: str = ""
    _reader: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                select.select([self.master], [], [])
                piece = os.read(self.master, 65536)
            except OSError:  # EIO: nobody is at the other end
                return
            self.said += piece.decode(errors="replace")

    def lines(self) -> list[str]:
        """The newest whole frame, without its colours."""
        frames = [text for text in self.said.split("\x1b[H") if text.endswith("\x1b[J")]
        text = frames[-1].removesuffix("\x1b[J") if frames else ""
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", text).split("\r\n")

    def shows(self, words: str) -> bool:
        return any(words in line for line in self.lines())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)  # as it would get it, were this its controlling terminal


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    accounts = {"sim": SIMULATOR, **{f"more-{number:02}": SIMULATOR for number in range(20)}}
    accounts["off"] = SIMULATOR + "enabled = false\n"
    with running(write_tree(tmp_path, accounts=accounts)) as daemon:
        yield daemon


def test_the_table_fits_follows_the_daemon_and_leaves_the_terminal_as_it_was(daemon: Daemon) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "relayd", "status", "--watch", "--config", str(daemon.tree)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        | {"TERM": "xterm"},
    )
    os.close(slave)
    terminal = Terminal(master, process)
    try:
        wait_until(lambda: terminal.shows("more-19"), "the table")
        assert terminal.said.startswith(ENTERED)
        head = next(number for number, line in enumerate(terminal.lines()) if line.startswith("ACCOUNT"))
        assert terminal.lines()[head + 1].split()[:4] == ["off", "simulator", "rests", "0"]
        terminal.resize(30, 8)
        wait_until(lambda: len(terminal.lines()) == 8, "the smaller table")
        assert max(map(len, terminal.lines())) < 30
        assert re.fullmatch(r"and \d+ lines more", terminal.lines()[-1])
        (daemon.tree / "accounts.d" / "off.toml").unlink()
        wait_until(lambda: terminal.shows("generation 2") and not terminal.shows("off "), "the new config")
        daemon.stop()
        wait_until(lambda: terminal.shows("relayd status: no daemon"), "that it ended")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        wait_until(lambda: terminal.said.endswith(LEFT), "the screen before")
    finally:
        process.kill()
        process.wait()
        terminal._reader.join(PATIENCE)
        os.close(master)


def test_wide_letters_count_twice_and_control_characters_are_not_drawn() -> None:
    text = frame([("계정-하나 \x1b[2J", RED), ("plain", PLAIN)], 9, 5, colours=False)

    assert text == "\x1b[H계정-하…\x1b[K\nplain\x1b[K\x1b[J"


def test_colours_are_left_out_where_nobody_wants_them_and_lines_that_do_not_fit_are_counted() -> None:
    lines = [(f"line {number}", BOLD) for number in range(5)]

    assert frame(lines, 20, 3, colours=True).count("\x1b[1m") == 2
    assert "and 3 lines more" in frame(lines, 20, 3, colours=False)
