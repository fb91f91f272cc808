"""Pushed commits: a repository that is pushed to, its history, and what a commit of it has.

Rule: only reads, also the quarantine of a push. Nothing that was pushed is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from relayd.config.source.git import GitError, contents_of, run_git
from relayd.config.source.git_listing import Listing, listing_of
from relayd.noun import noun


@noun(kw_only=True)
class Objects:
    """A repository to read from.

    Args:
        folder: where the tree lies in it, "" for its top.
        objects: see `run_git`.
    """

    root: Path
    folder: str = ""
    objects: Mapping[str, str] = MappingProxyType({})

    def git(self, *words: str) -> str:
        """What git prints. Raises: GitError."""
        return run_git(self.root, *words, more=self.objects).decode("utf-8", "surrogateescape").strip()

    def commit(self, revision: str) -> str:
        """The full name of a commit, "" for none."""
        try:
            return self.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        except GitError:
            return ""

    def follows(self, old: str, new: str) -> bool:
        """Whether `old` is in the history of `new`. Raises: GitError when either is not there."""
        return self.git("merge-base", old, new) == old if self.commit(old) == old else False

    def listing(self, commit: str) -> Listing:
        """What a commit has; nothing where it has no such folder. Raises: GitError."""
        return self.tree(commit) if self.has_folder(commit) else Listing(commit=commit)

    def tree(self, commit: str) -> Listing:
        """What a commit has. Raises: GitError, also where it has no such folder."""
        words = ("ls-tree", "-r", "-z", "--full-tree", "--end-of-options", self._treeish(commit))
        return listing_of(commit, run_git(self.root, *words, more=self.objects), self.contents)

    def has_folder(self, commit: str) -> bool:
        """Whether the folder is in a commit; the top always is."""
        try:
            return not self.folder or self.git("cat-file", "-t", self._treeish(commit)) == "tree"
        except GitError:
            return False

    def contents(self, names: Sequence[str]) -> list[bytes]:
        """The bytes of blobs. Raises: GitError."""
        return contents_of(self.root, names, objects=self.objects)

    def _treeish(self, commit: str) -> str:
        return f"{commit}:{self.folder}" if self.folder else commit
