"""The units in deploy/systemd, read as systemd reads them, as far as running what they start goes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
ANALYZE = shutil.which("systemd-analyze")
RELAYD = "/opt/relayd/bin/relayd"

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is part of systemd")


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *words], capture_output=True, text=True, timeout=60, check=False)


@attrs.frozen
class Unit:
    """A unit with its drop-ins, as far as starting it goes."""

    settings: dict[str, list[str]]

    def command(self, setting: str) -> list[str]:
        """The words of an Exec line, which runs relayd; the program is this checkout's."""
        words = _ours(self.settings[setting][-1])
        assert words[1:3] == ["-m", "relayd"]
        return words

    def command_line(self, setting: str) -> list[str]:
        """The words of an Exec line as they are."""
        return _ours(self.settings[setting][-1])

    def commands(self, setting: str, tree: Path) -> list[list[str]]:
        """The words of all Exec lines of that kind, in their order, on another tree."""
        return [_ours(line.replace("/etc/relayd/tree", str(tree))) for line in self.settings[setting]]

    def environment(self, tree: Path, state: Path) -> dict[str, str]:
        """Its Environment= lines, with the places of this test."""
        pairs = dict(word.split("=", 1) for line in self.settings["Environment"] for word in shlex.split(line))
        moved = {"/etc/relayd/tree": str(tree), "/var/lib/relayd": str(state)}
        for old, new in moved.items():
            pairs = {name: value.replace(old, new) for name, value in pairs.items()}
        return pairs


def _ours(line: str) -> list[str]:
    words = shlex.split(line.removeprefix("+").replace("$$", "$").replace("%%", "%"))
    return [sys.executable, "-m", "relayd", *words[1:]] if words[0] == RELAYD else words


def read_unit(*names: str) -> Unit:
    settings: dict[str, list[str]] = {}
    for name in names:
        for line in (UNITS / name).read_text().splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith(("#", "[")):
                settings.setdefault(key, []).append(value)
    return Unit(settings)
