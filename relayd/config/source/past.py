"""Past trees: the tree that a revision names, from git's history or from the stored generations.

Rule: sync, only reads. A revision is what git calls a commit, or what answers say in `relayd-config` and the log in
`revision`: the first digits of the digest over the files of a tree. Git's own names come first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from relayd.config.model.tree_digest import REVISION_DIGITS
from relayd.config.source import history
from relayd.config.source.git import GitError, commit_of, run_git
from relayd.config.source.git_tree import BlobCache, read_git_tree
from relayd.config.source.tree import Tree
from relayd.noun import noun

TAKEN = "refs/relayd/taken"  # in the mirror of a node that pulls: the commit that its tree comes from
FOLDER = "tree-folder"  # a file in such a mirror: where the tree lies in it
SEARCHED = 200  # commits whose trees are compared with a revision
_DIGEST = re.compile(rf"[0-9a-f]{{{REVISION_DIGITS},64}}")
LEAST_COMMIT = 7  # digits of a commit


@noun(kw_only=True)
class TreeRepository:
    """A repository with a tree in it. `tip`: the commit that is looked back from; `folder`: of the tree, "" = top."""

    repository: Path
    tip: str = "HEAD"
    folder: str = ""


@noun(kw_only=True)
class PastTree:
    """A tree as it was, and where that is known from, for people."""

    tree: Tree
    found: str

    @property
    def revision(self) -> str:
        """As answers call it."""
        return self.tree.digest[:REVISION_DIGITS]


def pulled_places(sources: Iterable[Path]) -> list[TreeRepository]:
    """The mirrors in the directories where nodes pull into, the one that was fetched last first."""
    found = []
    for directory in sources:
        try:
            mirrors = [path for path in directory.glob("*.git") if (path / FOLDER).is_file()]
            found += [((path / FOLDER).stat().st_mtime, path) for path in mirrors]
        except OSError:
            continue  # another user's
    return [
        TreeRepository(repository=path, tip=TAKEN, folder=(path / FOLDER).read_text(encoding="utf-8").strip())
        for _, path in sorted(found, reverse=True)
    ]


def find_past(word: str, places: Iterable[TreeRepository], stores: Iterable[Path]) -> PastTree | None:
    """The tree of a revision; None when nobody knows it. `stores`: directories of generations."""
    places = list(places)
    for place in places:
        try:
            commit = commit_of(place.repository, word)
            return PastTree(tree=_read(place, commit, BlobCache()), found=f"commit {commit[:12]}")
        except GitError:
            continue
    if not re.fullmatch(rf"[0-9a-f]{{{LEAST_COMMIT},64}}", word):
        return None
    return next(_by_digest(word, places, stores), None)


def _by_digest(word: str, places: Iterable[TreeRepository], stores: Iterable[Path]) -> Iterator[PastTree]:
    for directory in stores:
        for one in history.stored(directory):
            if isinstance(one, history.Generation) and (
                one.meta.commit.startswith(word) or (_DIGEST.fullmatch(word) and one.meta.digest.startswith(word))
            ):
                tree = Tree(files=one.files, digest=one.meta.digest)
                yield PastTree(tree=tree, found=f"stored generation {one.number}")
    for place in places if _DIGEST.fullmatch(word) else ():
        cache = BlobCache()
        for commit in _back_from(place):
            try:
                tree = _read(place, commit, cache)
            except GitError:
                continue
            if tree.digest.startswith(word):
                yield PastTree(tree=tree, found=f"commit {commit[:12]}")


def _back_from(place: TreeRepository) -> list[str]:
    try:
        listed = run_git(place.repository, "rev-list", f"--max-count={SEARCHED}", place.tip, "--")
    except GitError:
        return []
    return listed.decode().split()


def _read(place: TreeRepository, commit: str, cache: BlobCache) -> Tree:
    """The tree in a commit. Raises: GitError, also where there is none."""
    tree = read_git_tree(place.repository, commit, place.folder, cache)
    if "relay.toml" not in tree.files:
        raise GitError(f"{commit[:12]}: there is no relay.toml")
    return tree
