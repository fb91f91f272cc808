"""Git tree: the files of a config tree straight from a repository's objects, as they are in one commit.

Rule: nothing is checked out, so no filter, hook or attribute of the repository is ever obeyed, and at no moment does
half of a commit lie there.
"""

from __future__ import annotations

from pathlib import Path

import attrs

from relayd.config.model.tree_digest import tree_digest
from relayd.config.source.provenance import Provenance
from relayd.config.source.pushed import Objects
from relayd.config.source.tree import Tree


@attrs.define(eq=False)
class BlobCache:
    """Contents of the last reading, by object name: a commit that changes one file costs one file."""

    blobs: dict[str, bytes] = attrs.field(factory=dict, repr=False)


def read_git_tree(repository: Path, commit: str, folder: str, cache: BlobCache) -> Tree:
    """A tree as it is in a commit. `folder`: where it lies in the repository; "" for the top. Raises: GitError."""
    objects = Objects(root=repository, folder=folder)
    found = objects.tree(commit)
    names = sorted(set(found.files.values()))
    missing = [name for name in names if name not in cache.blobs]
    known = cache.blobs | dict(zip(missing, objects.contents(missing), strict=True))
    cache.blobs = {name: known[name] for name in names}
    files = {path: known[name] for path, name in found.files.items()}
    return Tree(
        files=files,
        problems=found.problems,
        digest=tree_digest(files, found.problems),
        provenance=Provenance(commit=commit, dirty=(), source="git"),
        signature=commit,
    )
