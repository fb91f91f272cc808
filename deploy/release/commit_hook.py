"""Build hook of hatch: names in relayd/commit.txt the commit from which sdist and wheel were built.

Rule: what is not known is left out, and a build never fails for it. An sdist has the file, so a wheel that is built
from it says the same. "-dirty" stands behind the commit where the work tree had something else than it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PLACE = "relayd/commit.txt"


class CommitHook(BuildHookInterface[Any]):
    """Adds the file to what is built; an editable install runs from a checkout, whose git knows better."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        commit = commit_of(Path(self.root))
        if commit and version != "editable":
            written = Path(self.directory) / ".commit.txt"
            written.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(f"{commit}\n")
            build_data["force_include"][str(written)] = PLACE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        (Path(self.directory) / ".commit.txt").unlink(missing_ok=True)


def commit_of(root: Path) -> str:
    """The commit of a checkout, "" where there is none."""
    if not (root / ".git").exists():
        return ""
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD")
        return f"{commit}-dirty" if _git(root, "status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
