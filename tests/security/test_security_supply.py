"""Attacks by way of what is installed: S10 of docs/security.md."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = [ROOT / "deploy/requirements.lock", ROOT / "tests/requirements.lock"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.parent.name)
def test_s10_everything_that_is_installed_is_locked_by_hash(lock: Path) -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.read_text())
    pinned = [entry for entry in entries if re.match(r"[A-Za-z0-9_.\[\]-]+==", entry)]

    assert pinned
    assert [entry.splitlines()[0] for entry in pinned if "--hash=sha256:" not in entry] == []
    loose = [line for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9_.\[\]-]+\s*(>=|~=|<|@|$)", line)]
    assert loose == []


def test_s10_nothing_that_relayd_needs_runs_when_an_interpreter_starts() -> None:
    names = {match.lower() for match in re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==", LOCKS[0].read_text(), re.M)}
    found = {
        name: [str(path) for path in importlib.metadata.distribution(name).files or () if path.suffix == ".pth"]
        for name in names
        if installed(name)
    }
    assert len(found) > 5
    assert {name: files for name, files in found.items() if files} == {}
    assert list((ROOT / "relayd").rglob("*.pth")) == []


def installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
