"""Own commit: of which commit of relayd's source this relayd is.

Rule: never fails; "" where nobody knows. A built package carries the name in a file (`hatch_build.py` writes it); where
relayd runs from a checkout, git's own files say it, and git is not run.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from relayd import __version__
from relayd.config.source.git_state import find_git, git_state

FILE = "commit.txt"


@cache
def own_commit() -> str:
    """The full name of the commit, with "-dirty" where it was built from something else than it."""
    return commit_at(Path(__file__).parents[2])


def commit_at(package: Path) -> str:
    """The same of a package in a directory."""
    try:
        return (package / FILE).read_text().strip()
    except OSError:
        pass
    checkout = package.parent
    return git_state(find_git(str(checkout))).commit if (checkout / ".git").exists() else ""


def version_text() -> str:
    """What `relayd --version` says."""
    commit = own_commit()
    name, _, dirty = commit.partition("-")
    shown = f" (commit {name[:12]}{', changed' if dirty else ''})" if commit else ""
    return f"relayd {__version__}{shown}"
