"""relayd as it was at an older commit, for upgrades between versions that were really written. Needs the history."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def unpack(commit: str, to: Path) -> None:
    """The tree of a commit. Raises: CalledProcessError."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(to, filter="data")
