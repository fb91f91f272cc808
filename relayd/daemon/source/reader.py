"""Mirror reader: the tree of the commit that was taken, straight from the mirror.

Rule: sync, in a worker thread; only reads. A commit does not move while it is read, so there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs

from relayd.config.source.git import GitError, commit_of
from relayd.config.source.git_tree import BlobCache, read_git_tree
from relayd.config.source.past import TAKEN
from relayd.config.source.tree import Tree, Unstable
from relayd.daemon.source.settings import SourceSettings
from relayd.noun import noun


@noun(kw_only=True, eq=False)
class MirrorReader:
    """Reads what was taken.

    Args:
        tree: the directory from which this node's relative places count.
        wall: Unix time, s.
        why_absent: why there is none, where nothing was taken yet.
    """

    tree: Path
    settings: SourceSettings
    wall: Callable[[], float]
    why_absent: Callable[[], str]
    _cache: BlobCache = attrs.field(factory=BlobCache, init=False, repr=False)

    def read(self, thorough: bool = False) -> Tree | Unstable:
        """The tree; git's names of contents are proof enough, so that `thorough` makes no difference."""
        commit = self.sign()
        if not isinstance(commit, str):
            return Unstable(f"{self.settings.at}: {self.why_absent()}", absent=True)
        try:
            return read_git_tree(self.settings.mirror, commit, self.settings.at.folder, self._cache)
        except GitError as error:
            return Unstable(f"{self.settings.at}: commit {commit[:12]}: {error}", absent=True)

    def sign(self) -> object:
        """The commit that was taken; None for none."""
        try:
            return commit_of(self.settings.mirror, TAKEN)
        except GitError:
            return None

    def deny_file(self) -> bytes:
        """deny.toml. Raises: FileNotFoundError where there is none; OSError when the tree cannot be read."""
        tree = self.read()
        if isinstance(tree, Unstable):
            raise OSError(tree.reason)
        if "deny.toml" not in tree.files:
            raise FileNotFoundError
        return tree.files["deny.toml"]
