"""Git place: a repository that is pushed to, the tree that is served from it, and the hooks between the two.

Rule: a hook starts this very relayd with fixed words, by its interpreter's own path. Little is imported here, for a
pusher waits while the hooks start.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from relayd.config.source.version_link import VersionLink
from relayd.noun import noun

MARK = "made by relayd serve-git"


@noun(kw_only=True)
class GitPlace:
    """A repository and the tree that is served from it.

    Args:
        folder: where the tree lies in the repository, "" for its top.
        control: the daemon's control socket, "" for the usual places.
    """

    bare: Path
    tree: Path
    folder: str = ""
    control: str = ""
    deny_warnings: bool = False

    @property
    def versions(self) -> VersionLink:
        return VersionLink(link=self.tree)

    def hook(self, name: str) -> str:
        """The text of a hook."""
        words = [sys.executable, "-P", "-m", "relayd.cli.push_hook", name, str(self.tree), str(self.bare)]
        words += ["--folder", self.folder] if self.folder else []
        words += ["--control", self.control] if self.control else []
        words += ["--deny-warnings"] if self.deny_warnings else []
        return f"#!/bin/sh\n# {MARK}, which writes it anew: do not edit\nexec {shlex.join(words)}\n"

    def branch(self) -> str:
        """The branch that runs here. Raises: OSError."""
        return (self.bare / "HEAD").read_text(encoding="utf-8").strip().removeprefix("ref: refs/heads/")
