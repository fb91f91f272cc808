"""The shell blocks of a page, run in order by a person with a home directory for each of their machines.

A block begins with ```sh ROLE: the machine, and behind it `background` (a daemon, which goes on), `refused` (it must
fail), or whatever the page's own test knows. Only what nobody can know beforehand is put in, by the test's `fill`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
from waiting import wait_until

BLOCK = re.compile(r"^```sh(?P<role>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
DOCS = Path(__file__).parents[2] / "docs"
PATIENCE = 120.0  # s
_NAMES = ("NAME", "EMAIL")


def blocks_of(page: str) -> list[tuple[str, str]]:
    """Role and text of each shell block."""
    return [(found["role"].strip(), found["text"]) for found in BLOCK.finditer(page)]


def wrapper(path: Path, words: str) -> None:
    """A command on the PATH that begins with these words."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)


@attrs.define
class Blocks:
    """Runs blocks, and remembers what they printed.

    Args:
        root: holds a home for each machine, and `bin`, which comes first on the PATH.
        fill: a block with what a person would have put in; it is given all that was printed.
    """

    root: Path
    fill: Callable[[str, str], str]
    more: dict[str, str] = attrs.field(factory=dict)
    said: list[str] = attrs.field(factory=list)
    daemons: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def home(self, role: str) -> Path:
        return self.root / role.split()[0]

    def environment(self, role: str) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RELAYD_", "GIT_"))}
        home = self.home(role)
        people = {f"GIT_{who}_{what}": f"{what}@example.com" for who in ("AUTHOR", "COMMITTER") for what in _NAMES}
        return {
            **inherited,
            **people,
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            **self.more,
        }

    def run(self, role: str, text: str, stdin: str = "") -> None:
        """One block. Raises: AssertionError when it does not end as its role says."""
        if role.endswith("background"):
            self._background(role, text)
            return
        done = subprocess.run(
            ["bash", "-e", "-c", self._filled(text)], capture_output=True, text=True, check=False, timeout=PATIENCE,
            env=self.environment(role), cwd=self.home(role), input=stdin,
        )  # fmt: skip
        said = done.stdout + done.stderr
        self.said.append(said)
        assert (done.returncode != 0) == role.endswith("refused"), (text, said)

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.terminate()
            daemon.wait(PATIENCE)

    def _filled(self, text: str) -> str:
        return self.fill(text, "\n".join(self.said))

    def _background(self, role: str, text: str) -> None:
        log = self.root / "daemon.log"
        command = ["bash", "-c", f"exec {self._filled(text)}"]
        with log.open("wb") as file:
            self.daemons.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=self.home(role),
                    env=self.environment(role),
                )
            )  # fmt: skip
        wait_until(lambda: "daemon.listening" in log.read_text() or self.daemons[-1].poll() is not None, "the daemon")
        assert self.daemons[-1].poll() is None, log.read_text()


RELAYD = f"{sys.executable} -m relayd"
