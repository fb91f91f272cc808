"""Pushed commits: what of a commit belongs in a tree on disk, read from git's objects without a checkout.

Rule: nothing that was pushed is run, expanded or followed: no filter, no attribute, no submodule, no link. Bounded, and
whatever cannot be put on a disk as it is meant is a problem with a place. Reads the quarantine of a push, too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import attrs

from relayd.config.model.document import classify
from relayd.config.problems.problem import Problem, in_order
from relayd.config.source.git import GitError, contents_of, run_git
from relayd.config.source.scan import MAX_FILES


@attrs.frozen(kw_only=True)
class Listing:
    """The files of a tree as they are in a commit.

    Args:
        files, links: object name by POSIX path, of plain files and of symbolic links.
        problems: what is no file, and cannot be had.
    """

    commit: str
    files: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    links: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    problems: tuple[Problem, ...] = ()


@attrs.frozen(kw_only=True)
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
        return run_git(self.root, *words, objects=self.objects).decode("utf-8", "surrogateescape").strip()

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
        """What a commit has. Raises: GitError."""
        tree = f"{commit}:{self.folder}" if self.folder else commit
        if self.folder and not self._has_folder(tree):
            return Listing(commit=commit)
        return _listing(commit, run_git(self.root, "ls-tree", "-r", "-z", tree, objects=self.objects))

    def contents(self, names: Sequence[str]) -> list[bytes]:
        """The bytes of blobs. Raises: GitError."""
        return contents_of(self.root, names, objects=self.objects)

    def _has_folder(self, tree: str) -> bool:
        try:
            return self.git("cat-file", "-t", tree) == "tree"
        except GitError:
            return False


def _listing(commit: str, listed: bytes) -> Listing:
    """Source: git-ls-tree(1), "OUTPUT FORMAT"."""
    files: dict[str, str] = {}
    links: dict[str, str] = {}
    problems = []
    for line in filter(None, listed.split(b"\0")):
        head, _, raw = line.partition(b"\t")
        mode, _, name = head.split(b" ")
        path = os.fsdecode(raw)
        if not is_ours(path):
            continue
        match mode[:3]:  # 100644 and 100755 are files, 120000 links, 160000 submodules
            case b"100":
                files[path] = name.decode()
            case b"120":
                links[path] = name.decode()
            case _:
                problems.append(_submodule(path))
    if len(files) + len(links) > MAX_FILES:
        raise GitError(f"{commit[:12]}: the tree has more than {MAX_FILES:,} files")
    return Listing(commit=commit, files=files, links=links, problems=in_order(problems))


def is_ours(path: str) -> bool:
    """Whether a file, or what may stand for a directory of files, is of the tree. Parts that begin with a dot are not,
    `..` among them."""
    return path not in ("manifest.toml", "REVISION") and _kind(path) != "ignored"


def _kind(path: str) -> str:
    kind = classify(path)
    return classify(f"{path}/a.toml") if kind == "ignored" and not path.endswith(".toml") else kind


def _submodule(path: str) -> Problem:
    return Problem(
        code="E-UNREADABLE",
        file=path,
        message="this is a submodule, and relayd reads no other repository",
        hint="put its files into the tree",
    )
